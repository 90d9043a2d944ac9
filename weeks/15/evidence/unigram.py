"""What is measured about Unigram: enumeration, two libraries, EM's steps, and three tokenizers."""

import io
import json
import math
from collections import Counter
from typing import Literal

import numpy as np

from shared import datasets, plots
from shared.stats import mean_interval, paired_bootstrap
from shared.study import PositiveInt, Run, UserError
from week15.bert_words import basic_words
from week15.bpe import ByteLevelBPE
from week15.unigram import SPACE, Lattice, Unigram, m_step, seed_pieces, space_words
from week15.wordpiece import WordPiece

NASTY = [
    "",
    " \n\t ",
    "naïve café 안녕하세요 👋🏽 x",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "€uro 中中中a中 \x00",
]


def segmentations(word: str, pieces: set[str]) -> list[list[str]]:
    """All ways to cut a word into pieces, by trying every one of the 2^(n-1) sets of cuts."""
    found = []
    for cuts in range(2 ** (len(word) - 1)):
        ends = [i for i in range(1, len(word)) if cuts >> (i - 1) & 1] + [len(word)]
        parts = [word[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        if pieces.issuperset(parts):
            found.append(parts)
    return found


def check_lattice(run: Run) -> None:
    """Forward-backward, n best and samples against the list of all segmentations."""
    words = {"abababa": 3.0, "banana": 1.0, "abcabcab": 2.0, "nanab": 5.0, "a": 1.0}
    substrings = {w[i:j] for w in words for i in range(len(w)) for j in range(i + 1, len(w) + 1)}
    chosen = run.rng.random(len(substrings)) < 0.6
    pieces = [p for p, take in zip(sorted(substrings), chosen, strict=True) if take or len(p) == 1]
    log_p = np.log(run.rng.dirichlet(np.ones(len(pieces))))
    score = dict(zip(pieces, log_p, strict=True))
    all_of = {
        word: [(sum(score[p] for p in parts), parts) for parts in segmentations(word, set(pieces))]
        for word in words
    }
    expected, likelihood = Counter(), []
    for word, n in words.items():
        total = math.log(sum(math.exp(value) for value, _ in all_of[word]))
        likelihood.append(total)
        for value, parts in all_of[word]:
            for piece in parts:
                expected[piece] += n * math.exp(value - total)
    ours, counts = Lattice(list(words), pieces).expected_counts(log_p, np.array([*words.values()]))
    ways = sum(map(len, all_of.values()))
    exact = {"against": f"all {ways} segmentations", "why": "float64 rounding"}
    run.check("log-likelihood of words", ours, np.array(likelihood), rtol=1e-12, **exact)
    run.check(
        "expected counts of pieces",
        counts,
        np.array([expected[piece] for piece in pieces]),
        atol=1e-12,
        **exact,
    )
    model = Unigram(pieces, log_p)
    run.check(
        "scores of the 20 best segmentations",
        np.array([value for value, _ in model.n_best("abcabcab", 20)]),
        np.array(sorted((value for value, _ in all_of["abcabcab"]), reverse=True)[:20]),
        rtol=1e-12,
        **exact,
    )
    alpha, n_draws = 0.5, run.budget(quick=1000, default=5000)
    drawn = Counter(tuple(model.sample("banana", run.rng, alpha=alpha)) for _ in range(n_draws))
    weights = np.array([math.exp(alpha * value) for value, _ in all_of["banana"]])
    run.check(
        "shares of sampled segmentations",
        np.array([drawn[tuple(parts)] / n_draws for _, parts in all_of["banana"]]),
        weights / weights.sum(),
        against="P(s)^α over all segmentations",
        atol=4.5 * 0.5 / math.sqrt(n_draws),
        why="4.5 standard errors of the largest share possible",
    )


def hugging_face(model: Unigram):
    """The model of `tokenizers` with our pieces and scores."""
    from tokenizers import Tokenizer, models

    reference = Tokenizer(models.Unigram([("<unk>", 0.0), *model.scores.items()], unk_id=0))
    reference.pre_tokenizer = _pre_tokenizer()
    return reference


def _pre_tokenizer():
    from tokenizers import pre_tokenizers

    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always")
    return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])


def check_viterbi(run: Run, model: Unigram, texts: list[str]) -> None:
    """Ids for the same pieces and scores."""
    reference = hugging_face(model)
    run.check(
        "ids given the same pieces and scores",
        np.array([i for text in texts for i in model.encode(text)]),
        np.array([i for text in texts for i in reference.encode(text).ids]),
        against="tokenizers.models.Unigram",
        atol=0,
        why="identical",
    )


def sentencepiece_of(words: Counter, vocab_size: int):
    """SentencePiece, trained on the same words."""
    import sentencepiece

    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(word.removeprefix(SPACE) for word in words.elements()),
        model_writer=stream,
        vocab_size=vocab_size,
        model_type="unigram",
        character_coverage=1.0,
        normalization_rule_name="identity",
        split_by_unicode_script=False,  # else no piece mixes letters with other signs
        split_by_number=False,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=stream.getvalue())


def scores_of(processor) -> Unigram:
    """Our model with the pieces and scores that SentencePiece has learned."""
    ids = [i for i in range(len(processor)) if not processor.is_unknown(i)]
    scores = np.array([processor.get_score(i) for i in ids])
    return Unigram([processor.id_to_piece(i) for i in ids], scores)


def check_sentencepiece(
    run: Run, train: list[str], held_out: list[str], vocab_size: int
) -> Unigram:
    """Its own model in our hands: segmentations as good as those that it finds itself."""
    processor = sentencepiece_of(count_words(train), vocab_size)
    model = scores_of(processor)
    known = set(model.scores)
    words = [w for w in count_words(held_out) if known.issuperset(w)]
    theirs = [
        sum(model.scores[piece] for piece in processor.encode(w.removeprefix(SPACE), out_type=str))
        for w in words
    ]
    run.check(
        "scores of the best segmentations",
        np.array([model.viterbi(word)[0] for word in words]),
        np.array(theirs),
        against="sentencepiece, its own model",
        atol=1e-4,
        why="it adds in float32; ties may be cut otherwise, at the same score",
    )
    return model


def count_words(texts: list[str]) -> Counter:
    """With the mark of the space."""
    return Counter(word for text in texts for word in space_words(text))


def log_likelihood(model: Unigram, words: Counter, *, em_steps: int = 0) -> float:
    """Nats per word, of all segmentations together, with scores normalized or refitted."""
    log_p = np.array(list(model.scores.values()))
    log_p = log_p - np.logaddexp.reduce(log_p)
    frequency = np.array(list(words.values()), dtype=float)
    lattice = Lattice(list(words), list(model.scores))
    for _ in range(em_steps):
        log_p = m_step(lattice.expected_counts(log_p, frequency)[1])
    each, _ = lattice.expected_counts(log_p, frequency)
    return float(each @ frequency / frequency.sum())


def check_training(run: Run, model: Unigram, sentencepiece: Unigram, train: list[str]) -> None:
    """The likelihood that our vocabulary gives the text, against two libraries' vocabularies."""
    from tokenizers import Tokenizer, models, trainers

    reference = Tokenizer(models.Unigram())
    reference.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.UnigramTrainer(
        vocab_size=len(model), unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    reference.train_from_iterator(train, trainer)
    learned = dict(json.loads(reference.to_str())["model"]["vocab"][1:])
    theirs = Unigram(list(learned), np.array(list(learned.values())))
    words = count_words(train)
    ours = -log_likelihood(model, words)
    others = {"sentencepiece": sentencepiece, "tokenizers": theirs}
    refitted = {name: -log_likelihood(other, words, em_steps=3) for name, other in others.items()}
    run.metric("nats per word", ours, "nats", rtol=0.05)
    for name, other in others.items():
        value = -log_likelihood(other, words)
        run.metric(f"nats per word, {name}", value, "nats", rtol=0.05)
        run.metric(f"nats per word, {name} refitted", refitted[name], "nats", rtol=0.05)
    run.claim(
        "training reaches the likelihood of two libraries' trainers",
        all(ours < 1.01 * value for value in refitted.values()),
        f"{ours:.2f} nats a word at {len(model):,} tokens; with theirs, refitted by EM without "
        "their prior: " + ", ".join(f"{name} {value:.2f}" for name, value in refitted.items()),
    )


def hard_counts(model: Unigram, words: Counter) -> np.ndarray:
    """Uses of the pieces in the best segmentations alone."""
    counts = dict.fromkeys(model.scores, 0.0)
    for word, n in words.items():
        for piece in model.viterbi(word)[1]:
            counts[piece] += n
    return np.array(list(counts.values()))


def soft_and_hard(run: Run, train: list[str], vocab_size: int) -> None:
    """EM never loses likelihood; counting only the best segmentation settles for less."""
    words = count_words(train)
    frequency = np.array(list(words.values()), dtype=float)
    seeds = seed_pieces(words, 2 * vocab_size)
    pieces, start = list(seeds), m_step(np.array(list(seeds.values()), dtype=float))
    lattice = Lattice(list(words), pieces)
    steps = run.budget(quick=6, default=25)
    curves: dict[str, list[float]] = {"EM": [], "hard EM": []}
    used = {}
    for name, curve in curves.items():
        log_p = start
        for _ in range(steps + 1):
            each, counts = lattice.expected_counts(log_p, frequency)
            curve.append(float(each @ frequency / frequency.sum()))
            if name == "hard EM":
                counts = hard_counts(Unigram(pieces, log_p), words)
            log_p = m_step(counts)
        used[name] = int((counts > 0.5).sum())
    rises = np.diff(curves["EM"])
    run.claim(
        "EM raises the likelihood at every step",
        bool((rises > -1e-9).all() and rises[0] > 0.01),
        f"{steps} steps from {curves['EM'][0]:.3f} to {curves['EM'][-1]:.3f} nats a word, the "
        f"smallest change {rises.min():+.1e}",
    )
    gap = curves["EM"][-1] - curves["hard EM"][-1]
    run.metric("nats per word that hard EM loses", gap, "nats", rtol=0.2)
    for name, n in used.items():
        run.metric(f"pieces in use after {name}", n, "pieces", rtol=0.1)
    run.claim(
        "hard EM settles for less",
        gap > 0.01,
        f"{gap:.3f} nats a word below EM after {steps} steps; {used['hard EM']:,} of "
        f"{len(pieces):,} pieces in use, EM {used['EM']:,}",
        quick=False,
    )
    title = "What is lost by counting the best segmentation only?"
    with run.figure("em", title, size=(8.0, 4.0)) as axes:
        for (name, curve), color in zip(curves.items(), (plots.BLUE, plots.ORANGE), strict=True):
            below = curves["EM"][-1] - np.array(curve[:-1])
            axes.semilogy(range(steps), below, "o-", ms=3.5, color=color, label=name)
        axes.set(xlabel="step", ylabel="nats a word below EM's last step")
        plots.label_lines(axes)


def greedy(model: Unigram, word: str) -> list[str]:
    """The classic short cut: the longest piece that fits, from left to right."""
    pieces = []
    while word:
        size = next((n for n in range(len(word), 0, -1) if word[:n] in model.scores), 1)
        pieces.append(word[:size])
        word = word[size:]
    return pieces


def longest_match(run: Run, model: Unigram, held_out: list[str]) -> None:
    """Failure on display: the same pieces, matched greedily."""
    words = Counter(
        {w: n for w, n in count_words(held_out).items() if all(c in model.scores for c in w)}
    )
    lost, changed, shown = 0.0, 0, []
    for word, n in sorted(words.items(), key=lambda item: (-item[1], item[0])):
        best, ours = model.viterbi(word)
        parts = greedy(model, word)
        score = sum(model.scores[piece] for piece in parts)
        lost += n * (best - score)
        if parts != ours:
            changed += 1
            shown.append(f"{'|'.join(parts)} for {'|'.join(ours)}")
    share = 100 * changed / len(words)
    run.metric("different words cut differently by longest match", share, "%", rtol=0.2)
    run.metric("nats per word that longest match loses", lost / words.total(), "nats", rtol=0.3)
    run.claim(
        "longest match gives away likelihood",
        share > 1 and lost / words.total() > 0.01,
        f"{share:.1f}% of {len(words):,} different held-out words cut otherwise, "
        f"{lost / words.total():.3f} nats a word lost; {'; '.join(shown[:3])}",
        quick=False,
    )


def compare_tokenizers(run: Run, train: list[str], held_out: list[str]) -> None:
    """Characters per token on the same words: BERT's, case kept, one space between them."""

    def prepare(texts: list[str]) -> list[str]:
        return [" ".join(basic_words(text, lowercase=False)) for text in texts]

    train, held_out = prepare(train), prepare(held_out)
    n_characters = np.array([len("".join(text.split())) for text in held_out])
    sizes = run.budget(quick=[600], default=[600, 1200, 2400])
    trainers = {
        "BPE": lambda size: ByteLevelBPE.train(train, size, pattern=r" ?\S+"),
        "WordPiece": lambda size: WordPiece.train(train, size, lowercase=False),
        "Unigram": lambda size: Unigram.train(train, size),
    }
    found = {
        name: [
            n_characters / np.array([len(tokenizer.encode(text)) for text in held_out])
            for tokenizer in map(make, sizes)
        ]
        for name, make in trainers.items()
    }
    for name, values in found.items():
        run.metric(
            f"characters per token, {sizes[-1]:,} tokens, {name}", values[-1].mean(), "", rtol=0.05
        )
    gaps = {
        name: paired_bootstrap(found["BPE"][-1], found[name][-1], rng=run.rng)
        for name in ("WordPiece", "Unigram")
    }
    largest = max(max(abs(gap.low), abs(gap.high)) for gap in gaps.values())
    run.claim(
        "the three compress alike",
        largest < 0.1 * found["BPE"][-1].mean(),
        f"{len(held_out)} held-out documents, {sizes[-1]:,} tokens: BPE "
        f"{found['BPE'][-1].mean():.2f} characters a token; more than "
        + ", ".join(
            f"{name} by {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
            for name, gap in gaps.items()
        ),
        quick=False,
    )
    title = "At equal vocabulary, which packs most text into a token?"
    with run.figure("compression", title, size=(8.0, 4.2)) as axes:
        colors = (plots.BLUE, plots.YELLOW, plots.GREEN)
        for k, ((name, values), color) in enumerate(zip(found.items(), colors, strict=True)):
            x = np.arange(len(sizes)) + 0.27 * (k - 1)
            marks = [mean_interval(each) for each in values]
            means = np.array([mark.mean for mark in marks])
            half = means - np.array([mark.low for mark in marks])
            axes.errorbar(x, means, half, fmt="o", ms=6, lw=2, capsize=3, color=color)
            axes.text(x[0], values[0].max() + 0.06, name, color=color, ha="center")
            for at, each in zip(x, values, strict=True):
                axes.plot(np.full(len(each), at - 0.06), each, "_", color=color, alpha=0.3, ms=6)
        axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
        axes.set(
            xlabel="vocabulary (tokens)",
            ylabel="characters a token, held-out documents",
            xlim=(-0.5, len(sizes) - 0.5),
        )


def draw_segmentations(run: Run, model: Unigram) -> None:
    """The likeliest ways to cut one word, and how often each is drawn."""
    word = SPACE + "internationalization"
    best = model.n_best(word, 6)
    total = Lattice([word], list(model.scores)).forward(np.array([*model.scores.values()]))[-1]
    with run.figure("segmentations", "How does one word fall apart?", size=(8.3, 3.2)) as axes:
        for row, (score, pieces) in enumerate(best):
            x = 0.0
            for piece in pieces:
                axes.add_patch(_box(x, row, len(piece)))
                axes.text(x + len(piece) / 2, row, piece.replace(SPACE, "·"), ha="center",
                          va="center", fontsize=9, family="monospace")  # fmt: skip
                x += len(piece)
            for column, alpha in enumerate((1.0, 0.2)):
                norm = total if alpha == 1 else _tempered(model, word, alpha)
                share = f"{100 * math.exp(alpha * score - norm):.1f} %"
                axes.text(x + 3.2 + 4 * column, row, share, ha="right", va="center")
        for column, alpha in enumerate(("1", "0.2")):
            axes.text(len(word) + 3.2 + 4 * column, -0.85, f"α = {alpha}", ha="right",
                      va="center", color=plots.REFERENCE)  # fmt: skip
        axes.text(0.1, -0.85, "segmentation", va="center", color=plots.REFERENCE)
        axes.set(xlim=(-0.3, len(word) + 8), ylim=(len(best) - 0.4, -1.2))
        axes.axis("off")


def _tempered(model: Unigram, word: str, alpha: float) -> float:
    scores = alpha * np.array([*model.scores.values()])
    return float(Lattice([word], list(model.scores)).forward(scores)[-1])


def _box(x: float, row: int, width: float):
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(
        (x + 0.15, row - 0.3), width - 0.3, 0.6,
        boxstyle="round,pad=0,rounding_size=0.15", fc=plots.SKY, ec="none", alpha=0.4,
    )  # fmt: skip


def main(
    run: Run,
    *,
    dataset: Literal["pydocs", "tinyshakespeare"] = "pydocs",
    vocab_size: PositiveInt = 2000,
) -> None:
    """Train a unigram tokenizer, compare it with two libraries and with BPE and WordPiece.

    Parameters
    ----------
    dataset
        Text to learn from; a fifth of it is held out.
    vocab_size
        Tokens in all, at least 600.
    """
    if vocab_size < 600:
        raise UserError(f"vocab_size must be at least 600, got {vocab_size}")
    if dataset == "pydocs":
        documents = [document.text for document in datasets.pydocs()]
    else:
        documents = datasets.tinyshakespeare().split("\n\n")
    documents = run.budget(quick=documents[:12], default=documents)
    vocab_size = run.budget(quick=min(vocab_size, 600), default=vocab_size)
    held_out, train = documents[::5], [d for i, d in enumerate(documents) if i % 5]

    model = Unigram.train(train, vocab_size)
    check_lattice(run)
    check_viterbi(run, model, [*held_out, *NASTY])
    theirs = check_sentencepiece(run, train, held_out, vocab_size)
    check_training(run, model, theirs, train)
    soft_and_hard(run, train, vocab_size)
    longest_match(run, model, held_out)
    compare_tokenizers(run, train, held_out)
    draw_segmentations(run, model)
