"""What is measured about WordPiece: equality with two libraries, and what three scores prefer."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from shared import plots
from shared.study import PositiveInt, Run
from week15.bert_words import basic_words
from week15.evidence.common import Text, training_and_held_out
from week15.merges import merge
from week15.wordpiece import (
    PREFIX,
    SPECIAL,
    Score,
    WordPiece,
    alphabet_of,
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
OFTEN = 50  # the stopgap: least frequency of a pair
SETUPS: dict[str, tuple[Score, int]] = {
    "likelihood": ("likelihood", 1),
    "count": ("count", 1),
    f"ratio, pairs\nseen {OFTEN} times": ("ratio", OFTEN),
    "ratio": ("ratio", 1),
}


def main(run: Run, *, dataset: Text = "pydocs", vocab_size: PositiveInt = 2000) -> None:
    """Train by three scores, compare with Hugging Face's library, and see what each score prefers.

    Parameters
    ----------
    dataset
        Text to learn from; a fifth of it is held out.
    vocab_size
        Tokens in all.
    """
    train, held_out = training_and_held_out(run, dataset, quick=20)
    vocab_size = run.budget(quick=min(vocab_size, 600), default=vocab_size)
    words, tokenizer = count_words(train), WordPiece.train(train, vocab_size)
    run.metric("vocabulary", len(tokenizer), "tokens", rtol=0)
    run.metric("least frequency of a pair, as a stopgap", OFTEN, "times", rtol=0)

    check_training(run, tokenizer, words, train)
    check_encoding(run, tokenizer, [*held_out, *NASTY])
    check_gain(run, words)
    compare_scores(run, words, held_out, vocab_size)


def count_words(texts: list[str]) -> Counter:
    """BERT's words."""
    return Counter(word for text in texts for word in basic_words(text))


def hugging_face(texts: list[str], vocab_size: int, alphabet: list[str]):
    """The trainer of `tokenizers`; ties go by its numbers of characters, so these are named."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    reference = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    reference.normalizer = normalizers.BertNormalizer()
    reference.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    options = {"special_tokens": [*SPECIAL, *alphabet], "show_progress": False}
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, **options)
    reference.train_from_iterator(texts, trainer)
    return reference


def hugging_face_encoder(tokenizer: WordPiece):
    """`transformers.BertTokenizer` with our vocabulary."""
    from transformers import BertTokenizer

    vocab = {token: i for i, token in enumerate(tokenizer.vocab)}
    return BertTokenizer(vocab=vocab)


def check_training(run: Run, tokenizer: WordPiece, words: Counter, train: list[str]) -> None:
    """The characters and the merges that counts give are those of `tokenizers`."""
    equal = run.against("tokenizers", why="identical, ties included")
    alphabet = alphabet_of(words)
    base = len(SPECIAL) + len(alphabet)
    found = hugging_face(train, base, []).get_vocab()  # its own characters, none of them named
    index = {token: i for i, token in enumerate(tokenizer.vocab)}
    equal("characters", range(base), sorted(index.get(token, -1) for token in found))
    theirs = hugging_face(train, len(tokenizer), alphabet).get_vocab()
    merged = [theirs.get(token, -1) for token in tokenizer.vocab[base:]]
    equal("merged pieces, in order (as ids)", range(base, len(tokenizer)), merged)


def check_encoding(run: Run, tokenizer: WordPiece, texts: list[str]) -> None:
    """Words and ids of text it has not seen, unknown words and very long ones included."""
    reference = hugging_face_encoder(tokenizer)
    # tokens named in the text are special to transformers, and characters here
    texts = [text.replace("[", "[ ") for text in texts]
    ours = [i for text in texts for i in tokenizer.encode(text)]
    theirs = [i for text in texts for i in reference.encode(text, add_special_tokens=False)]
    equal = run.against("transformers.BertTokenizer", why="identical")
    equal("ids of text it has not seen", ours, theirs)


Segmented = Sequence[tuple[Sequence[str], int]]  # words as tokens, and how often each occurs


def log_likelihood(segmented: Segmented) -> float:
    """Nats of a text under the unigram model that fits it best, given each word's tokens."""
    values = np.array(list(counts_of(segmented)[0].values()), dtype=float)
    return float((values * np.log(values / values.sum())).sum())


def counts_of(segmented: Segmented) -> tuple[Counter, Counter]:
    """Of tokens and of pairs of neighbors."""
    single, pairs = Counter(), Counter()
    for tokens, n in segmented:
        for token in tokens:
            single[token] += n
        for pair in pairwise(tokens):
            pairs[pair] += n
    return single, pairs


def check_gain(run: Run, words: Counter) -> None:
    """The gain formula against two likelihoods, before and after a merge that is really made."""
    segmented = [(spell(word), n) for word, n in words.items()]
    single, pairs = counts_of(segmented)
    # in a run such as aaa pairs overlap, and a count is not a number of merges
    overlapping = {
        a for tokens, _ in segmented for (a, b), (_, c) in pairwise(pairwise(tokens)) if a == b == c
    }
    chosen = [pair for pair, _ in pairs.most_common() if not set(pair) <= overlapping][::40][:20]
    n_pair = np.array([pairs[pair] for pair in chosen])
    n_left, n_right = (np.array([single[pair[side]] for pair in chosen]) for side in (0, 1))
    twins = np.array([a == b for a, b in chosen])
    gains = pair_scores(n_pair, n_left, n_right, twins, single.total(), "likelihood")
    before, made = log_likelihood(segmented), []
    for a, b in chosen:
        after = [(merge(word, (a, b), a + b.removeprefix(PREFIX)), n) for word, n in segmented]
        made.append(log_likelihood(after) - before)
    why = "differences of sums of about 1e6 nats in float64"
    exact = run.against("the likelihood of the merged text", kind="theorem", atol=1e-6, why=why)
    exact("rise of the log-likelihood by a merge (nats)", gains, made)


def bits_of_documents(encoder: WordPiece, words: Counter, held_out: list[str]) -> np.ndarray:
    """Bits per character of each held-out text, by token counts of the training text plus one."""
    counts = np.ones(len(encoder))
    for word, n in words.items():
        np.add.at(counts, encoder.encode_word(word), n)
    bits, found = -np.log2(counts / counts.sum()), []
    for text in held_out:
        ids = [i for word in encoder.words(text) for i in encoder.encode_word(word)]
        found.append(bits[ids].sum() / sum(map(len, encoder.words(text))))
    return np.array(found)


def compare_scores(run: Run, words: Counter, held_out: list[str], vocab_size: int) -> None:
    """What counts, the ratio and the exact likelihood make of the same words."""
    alphabet = alphabet_of(words)
    base, characters = len(SPECIAL) + len(alphabet), sum(len(w) * n for w, n in words.items())
    sizes = np.linspace(base, vocab_size, run.budget(quick=3, default=13)).astype(int)
    learned, bits = {}, {}
    for name, (score, least) in SETUPS.items():
        made = learn_pieces(words, alphabet, vocab_size - base, score=score, min_frequency=least)
        learned[name], bits[name] = [*SPECIAL, *alphabet, *made], []
        for size in sizes:
            encoder = WordPiece(learned[name][:size])
            cut = [(list(map(str, encoder.encode_word(word))), n) for word, n in words.items()]
            bits[name].append(-log_likelihood(cut) / characters / np.log(2))
        label = name.replace("\n", " ")
        run.say(f"first merges by {label}: {' '.join(made[:12])}")
        run.metric(f"bits per character by {label}", bits[name][-1], "bits")

    by_count, by_ratio = (
        float(np.median([occurrences(token, words) for token in learned[name][base : base + 50]]))
        for name in ("count", "ratio")
    )
    rare = {"at_most": 0.1 * by_count, "deterministic": True, "note": "of the first 50 merges"}
    name = "the ratio without a least frequency merges what is rare"
    run.claim(name, by_ratio, unit="occurrences in the median", quick=False, **rare)
    run.falsifier("plain counts", by_count, breaks=name)
    _, _, stopgap, ratio = SETUPS
    run.metric("vocabulary at which the stopgap runs out", len(learned[stopgap]), "tokens", rtol=0)
    name = "the ratio is not the likelihood"
    note = "more than by the exact gain at as many tokens, by held-out document"
    seen = "the order of the scores on the training text"
    gap = {"at_least": 0.0, "unit": "bits per character", "note": note, "seen_before": seen}
    for claim, setup in ((name, ratio), (f"{name}, with a least frequency", stopgap)):
        by_gain = learned["likelihood"][: len(learned[setup])]
        pair = [bits_of_documents(WordPiece(v), words, held_out) for v in (learned[setup], by_gain)]
        run.claim(claim, pair[0] - pair[1], quick=False, **gap)
    draw_scores(run, sizes, bits)


def occurrences(token: str, words: Counter) -> int:
    """Of a token in the words, wherever it may stand."""
    if not token.startswith(PREFIX):
        return sum(n for word, n in words.items() if word.startswith(token))
    return sum(n for word, n in words.items() if token.removeprefix(PREFIX) in word[1:])


def draw_scores(run: Run, sizes: np.ndarray, bits: dict[str, list[float]]) -> None:
    """Bits per character while the vocabulary grows."""
    alone = bits["count"][0]
    with run.figure("scores", "Which score makes the text likely?", size=(8.0, 4.2)) as axes:
        labels = {"xlabel": "vocabulary (tokens)", "ylabel": "bits per character, training text"}
        options = {"reference": {"characters alone": alone}, "ylim": (None, alone + 0.2)}
        colors = (plots.GREEN, plots.BLUE, plots.YELLOW, plots.ORANGE)
        plots.curves(axes, sizes, bits, colors=colors, **options, **labels)
