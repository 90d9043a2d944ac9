"""What is measured about WordPiece: equality with two libraries, and what three scores prefer."""

from collections import Counter
from itertools import pairwise
from typing import Literal

import numpy as np

from shared import datasets, plots
from shared.stats import mean_interval, paired_bootstrap
from shared.study import PositiveInt, Run, UserError
from week15.wordpiece import (
    PREFIX,
    SPECIAL,
    Score,
    WordPiece,
    basic_words,
    learn_pieces,
    pair_scores,
    spell,
)

NASTY = [
    "",
    " \t\n\x00\ufffd\u200b",
    "don't e-mail me: $5.00+tax = £7",
    "Ångström, naïve café, ﬁne ΣΊΣΥΦΟΣ İstanbul",
    "中文字符and日本語 안녕하세요",
    "👋🏽 👨‍👩‍👧 x\u2028y\u3000z",
    "a" * 100 + " " + "a" * 101 + " qqqq\u1e9e",
    "[UNK] ##ing [CLS]",
]


def hugging_face(texts: list[str], vocab_size: int, alphabet: list[str], **options):
    """The trainer of `tokenizers` on the same words.

    It numbers continuing characters in the order of a hash table and breaks ties by these numbers;
    naming them as special tokens first gives both sides one order.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    reference = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    reference.normalizer = normalizers.BertNormalizer()
    reference.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL, *alphabet], show_progress=False, **options
    )
    reference.train_from_iterator(texts, trainer)
    return reference


def hugging_face_encoder(tokenizer: WordPiece):
    """`transformers.BertTokenizer` with our vocabulary."""
    from transformers import BertTokenizer

    return BertTokenizer(
        vocab={token: i for i, token in enumerate(tokenizer.vocab)},
        do_lower_case=tokenizer.lowercase,
        strip_accents=tokenizer.strip_accents,
    )


def alphabet_of(tokenizer: WordPiece) -> list[str]:
    """The characters of a trained tokenizer, first and continuing."""
    rest = tokenizer.vocab[len(SPECIAL) :]
    return [token for token in rest if len(token.removeprefix(PREFIX)) == 1]


def check_training(run: Run, tokenizer: WordPiece, train: list[str]) -> None:
    """The vocabulary that counts give is that of `tokenizers`."""
    reference = hugging_face(train, len(tokenizer), alphabet_of(tokenizer))
    theirs = reference.get_vocab()
    run.check(
        "vocabulary by counts (ids of our tokens)",
        np.arange(len(tokenizer)),
        np.array([theirs.get(token, -1) for token in tokenizer.vocab]),
        against="tokenizers.WordPieceTrainer",
        atol=0,
        why="identical, ties included",
    )


def check_encoding(run: Run, tokenizer: WordPiece, texts: list[str]) -> None:
    """Words and ids of text it has not seen, unknown words and very long ones included."""
    reference = hugging_face_encoder(tokenizer)
    # tokens named in the text are special to transformers, and characters here
    texts = [text.replace("[", "[ ") for text in texts]
    theirs = [reference.encode(text, add_special_tokens=False) for text in texts]
    run.check(
        "ids of text it has not seen",
        np.array([i for text in texts for i in tokenizer.encode(text)]),
        np.array([i for ids in theirs for i in ids]),
        against="transformers.BertTokenizer",
        atol=0,
        why="identical",
    )
    unknown = np.mean([i == 1 for ids in theirs for i in ids])
    run.metric("unknown tokens in held-out text", 100 * unknown, "%", rtol=0.5)


def word_counts(texts: list[str]) -> Counter:
    """Of BERT's words."""
    return Counter(word for text in texts for word in basic_words(text))


def log_likelihood(segmented: list[tuple[list[str], int]]) -> float:
    """Nats of a text under the unigram model that fits it best, given each word's tokens."""
    counts: Counter = Counter()
    for tokens, n in segmented:
        for token in tokens:
            counts[token] += n
    values = np.array(list(counts.values()), dtype=float)
    return float((values * np.log(values / values.sum())).sum())


def merge(tokens: list[str], a: str, b: str) -> list[str]:
    """Replace each `a b`, from left to right."""
    out: list[str] = []
    for token in tokens:
        if out and out[-1] == a and token == b:
            out[-1] = a + b.removeprefix(PREFIX)
        else:
            out.append(token)
    return out


def check_gain(run: Run, train: list[str]) -> None:
    """The gain formula against two likelihoods, before and after a merge that is really made."""
    segmented = [(spell(word), n) for word, n in word_counts(train).items()]
    single, pairs = Counter(), Counter()
    for tokens, n in segmented:
        for token in tokens:
            single[token] += n
        for pair in pairwise(tokens):
            pairs[pair] += n
    # in a run such as aaa pairs overlap, and a count is not a number of merges
    overlapping = {
        a for tokens, _ in segmented for (a, b), (_, c) in pairwise(pairwise(tokens)) if a == b == c
    }
    chosen = [pair for pair, _ in pairs.most_common() if not set(pair) <= overlapping][::40][:20]
    ours = pair_scores(
        np.array([pairs[pair] for pair in chosen]),
        np.array([single[a] for a, _ in chosen]),
        np.array([single[b] for _, b in chosen]),
        np.array([a == b for a, b in chosen]),
        single.total(),
        "likelihood",
    )
    before = log_likelihood(segmented)
    gains = [
        log_likelihood([(merge(tokens, a, b), n) for tokens, n in segmented]) - before
        for a, b in chosen
    ]
    run.check(
        "rise of the log-likelihood by a merge (nats)",
        ours,
        np.array(gains),
        against="the likelihood of the merged text",
        atol=1e-6,
        why="differences of sums of about 1e6 nats in float64",
    )


def compare_scores(run: Run, train: list[str], held_out: list[str], vocab_size: int) -> None:
    """What counts, the ratio and the exact likelihood make of the same words."""
    words = word_counts(train)
    first = sorted({char for word in words for char in word})
    alphabet = first + sorted({token for word in words for token in spell(word)[1:]})
    base = len(SPECIAL) + len(alphabet)
    sizes = np.unique(np.linspace(base, vocab_size, run.budget(quick=4, default=13)).astype(int))
    characters = sum(len(word) * n for word, n in words.items())
    setups: dict[str, tuple[Score, int, str]] = {
        "likelihood": ("likelihood", 1, plots.GREEN),
        "count": ("count", 1, plots.BLUE),
        "ratio, pairs seen 50 times": ("ratio", 50, plots.YELLOW),
        "ratio": ("ratio", 1, plots.ORANGE),
    }
    bits, lengths, early = {}, {}, {}
    for name, (score, at_least, _) in setups.items():
        made = learn_pieces(words, alphabet, vocab_size - base, score=score, min_frequency=at_least)
        curve = []
        for size in sizes:
            encoder = WordPiece([*SPECIAL, *alphabet, *made[: size - base]])
            cut = [(list(map(str, encoder.encode_word(word))), n) for word, n in words.items()]
            curve.append(-log_likelihood(cut) / characters / np.log(2))
        bits[name] = np.array(curve)
        lengths[name] = np.array(
            [
                sum(len(w) for w in encoder.words(text)) / max(1, len(encoder.encode(text)))
                for text in held_out
            ]
        )
        texts_with = [sum(n for word, n in words.items() if _spells(word, t)) for t in made[:50]]
        early[name] = float(np.median(texts_with))
        run.say(f"first merges by {name}: {' '.join(made[:12])}")
    for name in ("likelihood", "count", "ratio"):
        run.metric(f"bits per character by {name}", bits[name][-1], "bits", rtol=0.05)
        run.metric(f"characters per token by {name}", lengths[name].mean(), "", rtol=0.05)
    run.metric("occurrences of an early merge, count", early["count"], "", rtol=0.3)
    run.metric("occurrences of an early merge, ratio", early["ratio"], "", rtol=0.5)
    gain = paired_bootstrap(lengths["count"], lengths["ratio"], rng=run.rng)
    shown = {name: mean_interval(values) for name, values in lengths.items()}
    run.claim(
        "the ratio without a least frequency merges what is rare",
        early["ratio"] < 0.1 * early["count"] and gain.low > 0,
        f"the first 50 merges occur {early['ratio']:.0f} times in the median by ratio, "
        f"{early['count']:.0f} by count; characters a token on {len(held_out)} held-out documents: "
        f"{shown['ratio'].mean:.2f} against {shown['count'].mean:.2f}, "
        f"difference [{gain.low:.2f}, {gain.high:.2f}]",
        quick=False,
    )
    run.claim(
        "the ratio is not the likelihood",
        bits["likelihood"][-1] < bits["ratio"][-1],
        f"bits a character of the training text at {vocab_size:,} tokens: "
        + ", ".join(f"{name} {values[-1]:.3f}" for name, values in bits.items()),
        quick=False,
    )
    with run.figure("scores", "Which score makes the text likely?", size=(8.0, 4.2)) as axes:
        for name, (_, _, color) in setups.items():
            axes.plot(sizes, bits[name], color=color, label=name.replace(", pairs", ",\npairs"))
        axes.axhline(bits["count"][0], color=plots.REFERENCE, ls="--", lw=1)
        axes.text(sizes[-1], bits["count"][0] + 0.02, "characters alone", color=plots.REFERENCE,
                  ha="right", va="bottom")  # fmt: skip
        axes.set(xlabel="vocabulary (tokens)", ylabel="bits a character, training text")
        axes.set_ylim(None, bits["count"][0] + 0.2)
        plots.label_lines(axes)


def _spells(word: str, token: str) -> bool:
    if token.startswith(PREFIX):
        return token.removeprefix(PREFIX) in word[1:]
    return word.startswith(token)


def main(
    run: Run,
    *,
    dataset: Literal["pydocs", "tinyshakespeare"] = "pydocs",
    vocab_size: PositiveInt = 2000,
) -> None:
    """Train by three scores, compare with Hugging Face's library, and see what each score prefers.

    Parameters
    ----------
    dataset
        Text to learn from; a fifth of it is held out.
    vocab_size
        Tokens in all, at least 500.
    """
    if vocab_size < 500:
        raise UserError(f"vocab_size must be at least 500, got {vocab_size}")
    if dataset == "pydocs":
        documents = [document.text for document in datasets.pydocs()]
    else:
        documents = datasets.tinyshakespeare().split("\n\n")
    documents = run.budget(quick=documents[:20], default=documents)
    vocab_size = run.budget(quick=min(vocab_size, 600), default=vocab_size)
    held_out, train = documents[::5], [d for i, d in enumerate(documents) if i % 5]

    tokenizer = WordPiece.train(train, vocab_size)
    check_training(run, tokenizer, train)
    check_encoding(run, tokenizer, [*held_out, *NASTY])
    check_gain(run, train)
    compare_scores(run, train, held_out, vocab_size)
