"""What is measured about Unigram: enumeration, two libraries, EM's steps, and three tokenizers."""

import io
import math
from collections import Counter

import numpy as np

from shared import plots
from shared.study import PositiveInt, Run
from week15.bert_words import basic_words
from week15.bpe import ByteLevelBPE
from week15.evidence.common import Text, boxes, note_beside, training_and_held_out
from week15.lattice import Lattice
from week15.unigram import SPACE, Unigram, m_step, seed_pieces, space_words
from week15.wordpiece import WordPiece

NASTY = [
    "",
    " \n\t ",
    "naïve café 안녕하세요 👋🏽 x",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "€uro 中中中a中 \x00",
]


def main(run: Run, *, dataset: Text = "pydocs", vocab_size: PositiveInt = 2000) -> None:
    """Train a unigram tokenizer, compare it with two libraries and with BPE and WordPiece.

    Parameters
    ----------
    dataset
        Text to learn from; a fifth of it is held out.
    vocab_size
        Tokens in all.
    """
    train, held_out = training_and_held_out(run, dataset, quick=7)
    vocab_size = run.budget(quick=min(vocab_size, 600), default=vocab_size)
    model, words = Unigram.train(train, vocab_size), count_words(train)
    run.metric("vocabulary", len(model), "tokens", rtol=0)

    check_enumeration(run)
    theirs = check_libraries(run, model, count_words(train), held_out)
    training(run, model, theirs, words)
    soft_and_hard(run, words, vocab_size)
    longest_match(run, model, held_out)
    compare_tokenizers(run, train, held_out)
    draw_segmentations(run, model)


def count_words(texts: list[str]) -> Counter:
    """With the mark of the space."""
    return Counter(word for text in texts for word in space_words(text))


def enumerated(word: str, score: dict[str, float]) -> list[tuple[float, list[str]]]:
    """All segmentations with their scores, by trying every one of the 2^(n-1) sets of cuts."""
    found = []
    for cuts in range(2 ** (len(word) - 1)):
        ends = [i for i in range(1, len(word)) if cuts >> (i - 1) & 1] + [len(word)]
        parts = [word[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        if score.keys() >= set(parts):
            found.append((sum(score[piece] for piece in parts), parts))
    return found


def summed(
    words: dict[str, float], score: dict[str, float]
) -> tuple[list[float], dict[str, float]]:
    """Log-likelihoods of the words and expected counts of the pieces, term by term."""
    likelihood, counts = [], dict.fromkeys(score, 0.0)
    for word, n in words.items():
        ways = enumerated(word, score)
        likelihood.append(math.log(sum(math.exp(value) for value, _ in ways)))
        for value, parts in ways:
            for piece in parts:
                counts[piece] += n * math.exp(value - likelihood[-1])
    return likelihood, counts


def check_enumeration(run: Run) -> None:
    """Forward-backward against the list of all segmentations."""
    words = {"abababa": 3.0, "banana": 1.0, "abcabcab": 2.0, "nanab": 5.0, "a": 1.0}
    substrings = {w[i:j] for w in words for i in range(len(w)) for j in range(i + 1, len(w) + 1)}
    chosen = run.rng.random(len(substrings)) < 0.6
    pieces = [p for p, take in zip(sorted(substrings), chosen, strict=True) if take or len(p) == 1]
    log_p = np.log(run.rng.dirichlet(np.ones(len(pieces))))
    frequency = np.array([*words.values()])
    likelihood, counts = Lattice(list(words), pieces).expected_counts(log_p, frequency)
    by_list, counts_by_list = summed(words, dict(zip(pieces, log_p, strict=True)))
    equal = run.against("all segmentations", kind="theorem", atol=1e-12, why="float64 rounding")
    equal("log-likelihood of words", likelihood, by_list, rtol=1e-12, atol=0.0)
    equal("expected counts of pieces", counts, [*counts_by_list.values()])


def hugging_face(model: Unigram):
    """The model of `tokenizers` with our pieces and scores."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    reference = Tokenizer(models.Unigram([("<unk>", 0.0), *model.scores.items()], unk_id=0))
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always")
    cuts = [pre_tokenizers.WhitespaceSplit(), metaspace]
    reference.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    return reference


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


def check_libraries(run: Run, model: Unigram, words: Counter, held_out: list[str]) -> Unigram:
    """Ids and scores with their pieces and ours; gives what SentencePiece has learned."""
    reference, texts = hugging_face(model), [*held_out, *NASTY]
    equal = run.against("tokenizers", why="identical")
    ours = [i for text in texts for i in model.encode(text)]
    theirs = [i for text in texts for i in reference.encode(text).ids]
    equal("ids given the same pieces and scores", ours, theirs)

    processor = sentencepiece_of(words, len(model))
    learned = scores_of(processor)
    words = [w for w in count_words(held_out) if all(char in learned.scores for char in w)]
    cut = [processor.encode(w.removeprefix(SPACE), out_type=str) for w in words]
    theirs = [sum(learned.scores[piece] for piece in pieces) for pieces in cut]
    why = "it adds in float32; ties may be cut otherwise, at the same score"
    equal = run.against("sentencepiece, its own model", atol=1e-4, why=why)
    equal("scores of the best segmentations", [learned.viterbi(w)[0] for w in words], theirs)
    return learned


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


def most_frequent(words: Counter, n_pieces: int) -> Unigram:
    """Without the pruning: the substrings that cover most text, as many as asked for."""
    letters = len({char for word in words for char in word})
    seeds = seed_pieces(words, n_pieces - letters)
    return Unigram(list(seeds), m_step(np.array(list(seeds.values()), dtype=float)))


def training(run: Run, model: Unigram, learned: Unigram, words: Counter) -> None:
    """The likelihood that our vocabulary gives the text, against SentencePiece's vocabulary."""
    ours = -log_likelihood(model, words)
    naive = -log_likelihood(most_frequent(words, len(model.scores)), words, em_steps=3)
    run.metric("nats per word", ours, "nats")
    theirs = -log_likelihood(learned, words, em_steps=3)
    run.metric("nats per word, sentencepiece refitted", theirs, "nats")
    claim = "training reaches the likelihood of sentencepiece"
    rule = {"at_most": 1.01, "deterministic": True, "unit": "of its nats per word, refitted"}
    run.claim(claim, ours / theirs, **rule)
    run.falsifier("most frequent substrings", naive / theirs, breaks=claim)


def hard_counts(model: Unigram, words: Counter) -> np.ndarray:
    """Uses of the pieces in the best segmentations alone."""
    counts = dict.fromkeys(model.scores, 0.0)
    for word, n in words.items():
        for piece in model.viterbi(word)[1]:
            counts[piece] += n
    return np.array(list(counts.values()))


def soft_and_hard(run: Run, words: Counter, vocab_size: int) -> None:
    """EM never loses likelihood; counting only the best segmentation settles for less."""
    frequency = np.array(list(words.values()), dtype=float)
    seeds = seed_pieces(words, 2 * vocab_size)
    pieces, start = list(seeds), m_step(np.array(list(seeds.values()), dtype=float))
    lattice = Lattice(list(words), pieces)
    steps, curves = run.budget(quick=4, default=25), {}
    for name in ("EM", "hard EM"):
        log_p, curves[name] = start, []
        for _ in range(steps + 1):
            each, counts = lattice.expected_counts(log_p, frequency)
            curves[name].append(float(each @ frequency / frequency.sum()))
            if name == "hard EM":
                counts = hard_counts(Unigram(pieces, log_p), words)
            log_p = m_step(counts)
    rises, gap = np.diff(curves["EM"]), curves["EM"][-1] - curves["hard EM"][-1]
    rule = {"unit": "nats per word", "deterministic": True}
    note = f"the smallest change of {steps} steps"
    run.claim("EM never lowers the likelihood", rises.min(), at_least=-1e-9, note=note, **rule)
    note = f"after {steps} steps"
    run.claim("hard EM settles for less", gap, at_least=0.01, quick=False, note=note, **rule)


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

    def loss(word: str) -> float:
        return model.viterbi(word)[0] - sum(model.scores[piece] for piece in greedy(model, word))

    lost = [
        np.mean([loss(w) for w in space_words(text) if model.scores.keys() >= set(w)])
        for text in held_out
    ]
    less = {"at_least": 0.01, "unit": "nats per word", "note": "by held-out document"}
    run.claim("longest match gives away likelihood", lost, quick=False, **less)


def compare_tokenizers(run: Run, train: list[str], held_out: list[str]) -> None:
    """Characters per token on the same words: BERT's, case kept, one space between them."""
    train, held_out = (
        [" ".join(basic_words(text, lowercase=False)) for text in texts]
        for texts in (train, held_out)
    )
    n_characters = np.array([len("".join(text.split())) for text in held_out])
    sizes = run.budget(quick=[600], default=[600, 1200, 2400])
    trainers = {
        "BPE": lambda size: ByteLevelBPE.train(train, size, pattern=r" ?\S+"),
        "WordPiece": lambda size: WordPiece.train(train, size, lowercase=False),
        "Unigram": lambda size: Unigram.train(train, size),
    }
    found = {
        name: [
            n_characters / [len(tokenizer.encode(text)) for text in held_out]
            for tokenizer in map(make, sizes)
        ]
        for name, make in trainers.items()
    }
    run.metric("largest vocabulary compared", sizes[-1], "tokens", rtol=0)
    for name in ("WordPiece", "Unigram"):
        more = 100 * (found[name][-1] / found["BPE"][-1] - 1)
        note = f"more characters per token than BPE, by held-out document, {sizes[-1]:,} tokens"
        rule = {"at_least": -10, "at_most": 10, "unit": "%", "note": note}
        run.claim(f"{name} and BPE compress alike", more, quick=False, **rule)
    title = "At equal vocabulary, which packs most text into a token?"
    rows = {
        f"{size:,} tokens, {name}": values[k]
        for k, size in enumerate(sizes)
        for name, values in found.items()
    }
    with run.figure("compression", title, size=(8.0, 4.6)) as axes:
        colors = (plots.BLUE, plots.YELLOW, plots.GREEN)
        plots.bars(axes, rows, colors=colors, xlabel="characters per token, held-out documents")


def draw_segmentations(run: Run, model: Unigram) -> None:
    """The likeliest ways to cut one word, and how often each is drawn."""
    word, scores = SPACE + "internationalization", np.array([*model.scores.values()])
    lattice, best = Lattice([word], list(model.scores)), model.n_best(word, 6)
    with run.figure("segmentations", "How does one word fall apart?", size=(8.3, 3.2)) as axes:
        for row, (_, pieces) in enumerate(best):
            boxes(axes, row, [(p.replace(SPACE, "·"), len(p)) for p in pieces], [plots.SKY])
        for alpha, x in ((1.0, len(word) + 3.2), (0.2, len(word) + 7.2)):
            total = lattice.forward(alpha * scores)[-1]
            note_beside(axes, x, -0.85, f"α = {alpha:g}", ha="right", color=plots.REFERENCE)
            for row, (score, _) in enumerate(best):
                share = f"{100 * math.exp(alpha * score - total):.1f} %"
                note_beside(axes, x, row, share, ha="right")
        note_beside(axes, 0.1, -0.85, "segmentation", color=plots.REFERENCE)
        axes.set(xlim=(-0.3, len(word) + 8), ylim=(len(best) - 0.4, -1.2))
        axes.axis("off")
