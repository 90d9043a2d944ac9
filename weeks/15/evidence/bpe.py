"""What is measured about byte-level BPE: equality with two libraries, compression, and pictures."""

import json
import math
from collections import Counter
from itertools import pairwise
from typing import Literal

import numpy as np
import regex

from shared import datasets, plots
from shared.stats import mean_interval, paired_bootstrap
from shared.study import PositiveInt, Run, UserError
from week15.bpe import GPT2_PATTERN, ByteLevelBPE, printable_bytes

NASTY = [
    "",
    " ",
    "\n\n  \t x",
    "don't you'll  WE'VE",
    "naïve café, Ångström, 12³ 4½ ٣٤٥",
    "안녕하세요 👋🏽 👨‍👩‍👧 \u200b\ufeff \x00\x1f\x85\u2028",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<|endoftext|> is text unless allowed",
]


def hugging_face(texts: list[str], vocab_size: int, **options):
    """The same tokenizer trained by Hugging Face's library."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    reference = Tokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        **options,
    )
    reference.train_from_iterator(texts, trainer)
    return reference


def merges_of(reference) -> list[tuple[bytes, bytes]]:
    """The merges of a Hugging Face tokenizer, as bytes."""
    byte_of = {char: byte for byte, char in printable_bytes().items()}
    return [
        tuple(bytes(byte_of[char] for char in half) for half in merge)
        for merge in json.loads(reference.to_str())["model"]["merges"]
    ]


def tiktoken_of(tokenizer: ByteLevelBPE):
    """OpenAI's encoder with our ranks."""
    import tiktoken

    ranks = {token: i for i, token in enumerate(tokenizer.vocab)}
    return tiktoken.Encoding("ours", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})


def check_against_tokenizers(
    run: Run, tokenizer: ByteLevelBPE, train: list[str], held_out: list[str], vocab_size: int
) -> None:
    """Merges and ids are those of `tokenizers`."""
    reference = hugging_face(train, vocab_size)
    theirs = merges_of(reference)
    index = {token: i for i, token in enumerate(tokenizer.vocab)}
    run.check(
        "merges, in order (as pairs of ids)",
        np.array([(index[a], index[b]) for a, b in tokenizer.merges]),
        np.array([(index.get(a, -1), index.get(b, -1)) for a, b in theirs]),
        against="tokenizers.BpeTrainer",
        atol=0,
        why="identical, ties included",
    )
    texts = [*held_out, *NASTY]
    run.check(
        "ids of text it has not seen",
        np.array([i for text in texts for i in tokenizer.encode(text)]),
        np.array([i for text in texts for i in reference.encode(text).ids]),
        against="tokenizers.Tokenizer",
        atol=0,
        why="identical",
    )
    same_count = Counter(_pair_counts(train).values())
    tied = sum(n for n in same_count.values() if n > 1)
    run.metric("pairs of characters tied with another at the start", tied, "pairs", rtol=0.2)


def _pair_counts(texts: list[str]) -> Counter:
    words = Counter(word for text in texts for word in regex.findall(GPT2_PATTERN, text))
    pairs: Counter = Counter()
    for word, n in words.items():
        for pair in pairwise(word):
            pairs[pair] += n
    return pairs


def check_against_tiktoken(run: Run, tokenizer: ByteLevelBPE, held_out: list[str]) -> None:
    """Same ranks, same ids, though tiktoken never sees a merge: only tokens and their ranks."""
    reference = tiktoken_of(tokenizer)
    texts = [*held_out, *NASTY]
    run.check(
        "ids given the same ranks",
        np.array([i for text in texts for i in tokenizer.encode(text)]),
        np.array([i for text in texts for i in reference.encode_ordinary(text)]),
        against="tiktoken.Encoding",
        atol=0,
        why="identical",
    )
    ranks = {token: i for i, token in enumerate(tokenizer.vocab)}
    recovered = ByteLevelBPE.from_ranks(ranks)
    run.claim(
        "ranks alone determine the merges",
        recovered.merges == tokenizer.merges,
        f"{len(recovered.merges):,} merges recovered from the tokens and their order",
    )


def bytes_per_token(tokenizer: ByteLevelBPE, texts: list[str]) -> np.ndarray:
    """Of each text."""
    return np.array([len(t.encode()) / max(1, len(tokenizer.encode(t))) for t in texts])


def compression(run: Run, tokenizer: ByteLevelBPE, train: list[str], held_out: list[str]) -> None:
    """Bytes per token against the size of the vocabulary, and what shuffled letters give."""
    largest = run.budget(quick=len(tokenizer), default=max(8192, len(tokenizer)))
    full = tokenizer
    if largest > len(tokenizer):
        full = ByteLevelBPE.train(train, largest)
    sizes = [256 + round(2**k) for k in np.arange(4, math.log2(len(full) - 256) + 1e-9, 0.5)]
    prefixes = [ByteLevelBPE(full.merges[: size - 256]) for size in sizes]
    run.claim(
        "a smaller vocabulary is the beginning of a larger one",
        tokenizer.merges == full.merges[: len(tokenizer.merges)],
        f"the {len(tokenizer.merges):,} merges of the one are the first of the other's "
        f"{len(full.merges):,}",
    )
    curves = {"text it learned from": [], "held-out text": []}
    for prefix in run.progress(prefixes, "encoding"):
        for name, texts in (("text it learned from", train), ("held-out text", held_out)):
            total = sum(len(text.encode()) for text in texts)
            curves[name].append(total / sum(len(prefix.encode(text)) for text in texts))

    shuffled = ["".join(run.rng.permutation(list(text))) for text in train]
    shuffled_held_out = ["".join(run.rng.permutation(list(text))) for text in held_out]
    control = ByteLevelBPE.train(shuffled, len(tokenizer))
    ours = bytes_per_token(tokenizer, held_out)
    controls = bytes_per_token(control, shuffled_held_out)
    interval = mean_interval(ours)
    gain = paired_bootstrap(ours, controls, rng=run.rng)
    run.metric("bytes per token, held-out documents", interval.mean, "bytes/token", rtol=0.1)
    run.metric("bytes per token, shuffled letters", controls.mean(), "bytes/token", rtol=0.1)
    run.claim(
        "merges compress because letters come in an order",
        gain.low > 0.5,
        f"{len(held_out)} held-out documents: {interval.mean:.2f} bytes a token "
        f"[{interval.low:.2f}, {interval.high:.2f}], with shuffled letters {controls.mean():.2f}",
        quick=False,
    )
    used = Counter(i for text in held_out for i in tokenizer.encode(text))
    run.metric(
        "tokens never used on held-out text", 100 * (1 - len(used) / len(tokenizer)), "%", rtol=0.2
    )
    with run.figure("compression", "What does a larger vocabulary buy?") as axes:
        colors = {"text it learned from": plots.SKY, "held-out text": plots.BLUE}
        for name, values in curves.items():
            axes.semilogx(sizes, values, "o-", ms=4, color=colors[name], label=name, base=2)
        axes.axhline(controls.mean(), color=plots.ORANGE, ls=":", lw=1.5)
        label = f"letters shuffled, {len(tokenizer):,} tokens"
        axes.text(sizes[-1], controls.mean() + 0.06, label, color=plots.ORANGE, ha="right")
        axes.axhline(1, color=plots.REFERENCE, ls="--", lw=1)
        axes.text(sizes[-1], 1.06, "bytes", color=plots.REFERENCE, ha="right")
        axes.set(xlabel="vocabulary (tokens)", ylabel="bytes a token", ylim=(0.8, None))
        axes.set_xticks([256, 512, 1024, 2048, 4096, 8192][: sum(s >= 0 for s in sizes)])
        axes.set_xticklabels(["256", "512", "1024", "2048", "4096", "8192"])
        axes.set_xlim(256, sizes[-1] * 1.1)
        plots.label_lines(axes)


def encode_longest(tokenizer: ByteLevelBPE, word: bytes) -> list[bytes]:
    """The classic mistake: the longest token that fits, from left to right."""
    known, found = set(tokenizer.vocab), []
    while word:
        size = next(n for n in range(len(word), 0, -1) if word[:n] in known)
        found.append(word[:size])
        word = word[size:]
    return found


def longest_match(run: Run, tokenizer: ByteLevelBPE, held_out: list[str]) -> None:
    """Failure on display: the same vocabulary, but matched greedily instead of merged."""
    words = Counter(w for text in held_out for w in regex.findall(GPT2_PATTERN, text))
    different = {}
    for word in words:
        ours = [tokenizer.vocab[i] for i in tokenizer.encode_bytes(word.encode())]
        greedy = encode_longest(tokenizer, word.encode())
        if ours != greedy:
            different[word] = (ours, greedy)
    share = 100 * len(different) / len(words)
    run.metric("different words cut differently by longest match", share, "%", rtol=0.3)
    text_share = 100 * sum(words[word] for word in different) / words.total()
    run.metric("words of the text cut differently by longest match", text_share, "%", rtol=0.3)
    commonest = sorted(
        (word for word in different if word.strip()), key=lambda word: (-words[word], word)
    )[:3]
    shown = "; ".join(
        f"{word.strip()!r}: merges {_joined(different[word][0])}, longest first "
        f"{_joined(different[word][1])}"
        for word in commonest
    )
    run.say(f"Same vocabulary, other ids, if tokens are matched longest first: {shown}")
    run.claim(
        "longest match is another tokenizer",
        share > 1,
        f"{share:.1f}% of different words, {text_share:.1f}% of the text's; {shown}",
        quick=False,
    )


def _joined(tokens: list[bytes]) -> str:
    return "|".join(token.decode("utf-8", "replace").strip() for token in tokens)


SENTENCE = "The optional else clause is executed, but naïve tokenization of 2048 isn't."


def draw_tokens(run: Run, tokenizer: ByteLevelBPE) -> None:
    """One sentence through vocabularies of growing size."""
    sizes = [256, *(s for s in (512, 1024, 2048) if s < len(tokenizer)), len(tokenizer)]
    with run.figure("tokens", "One sentence, ever larger vocabularies", size=(8.3, 3.2)) as axes:
        colors = (plots.SKY, plots.YELLOW, plots.GREEN, plots.PINK, plots.ORANGE)
        for row, size in enumerate(sizes):
            prefix = ByteLevelBPE(tokenizer.merges[: size - 256])
            ids, x = prefix.encode(SENTENCE), 0.0
            for n, i in enumerate(ids):
                token = prefix.vocab[i]
                text = token.decode("utf-8", "replace")
                width = len(token) if "\ufffd" in text else len(text)
                axes.add_patch(_box(x, row, width - 0.06, colors[n % len(colors)]))
                axes.text(
                    x + width / 2 - 0.03, row, text.replace(" ", "·").replace("\ufffd", "▯"),
                    ha="center", va="center", fontsize=7.5, family="monospace",
                )  # fmt: skip
                x += width
            axes.text(x + 0.8, row, f"{len(ids)} tokens", va="center", fontsize=8.5)
            axes.text(-0.8, row, f"{size:,}", va="center", ha="right", fontsize=8.5)
        axes.set(xlim=(-7, len(SENTENCE) + 12), ylim=(len(sizes) - 0.4, -0.9))
        axes.text(-0.8, -0.75, "vocabulary", ha="right", va="center", color=plots.REFERENCE)
        axes.axis("off")


def _box(x: float, row: int, width: float, color: str):
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(
        (x + 0.1, row - 0.3), width - 0.2, 0.6,
        boxstyle="round,pad=0,rounding_size=0.15", fc=color, ec="none", alpha=0.45,
    )  # fmt: skip


def main(
    run: Run,
    *,
    dataset: Literal["pydocs", "tinyshakespeare"] = "pydocs",
    vocab_size: PositiveInt = 4096,
) -> None:
    """Train a tokenizer, compare it with two production ones, and see what it makes of text.

    Parameters
    ----------
    dataset
        Text to learn from; a fifth of it is held out.
    vocab_size
        Ids in all, at least 257.
    """
    if vocab_size < 257:
        raise UserError(f"vocab_size must be at least 257, got {vocab_size}")
    if dataset == "pydocs":
        documents = [document.text for document in datasets.pydocs()]
    else:
        documents = datasets.tinyshakespeare().split("\n\n")
    documents = run.budget(quick=documents[:30], default=documents)
    held_out, train = documents[::5], [d for i, d in enumerate(documents) if i % 5]
    vocab_size = run.budget(quick=min(vocab_size, 600), default=vocab_size)
    tokenizer = ByteLevelBPE.train(train, vocab_size)

    check_against_tokenizers(run, tokenizer, train, held_out, vocab_size)
    check_against_tiktoken(run, tokenizer, held_out)
    compression(run, tokenizer, train, held_out)
    longest_match(run, tokenizer, held_out)
    draw_tokens(run, tokenizer)
