"""What is measured about byte-level BPE: equality with two libraries, compression, and pictures."""

import math
from collections import Counter
from collections.abc import Collection
from itertools import pairwise

import numpy as np
import regex

from shared import plots
from shared.study import PositiveInt, Run
from week15.bpe import GPT2_PATTERN, ByteLevelBPE
from week15.evidence.common import BOX_COLORS, Text, boxes, note_beside, training_and_held_out
from week15.libraries import hugging_face, merges_of

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
SENTENCE = "The optional else clause is executed, but naïve tokenization of 2048 isn't."


def main(run: Run, *, dataset: Text = "pydocs", vocab_size: PositiveInt = 4096) -> None:
    """Train a tokenizer, compare it with two production ones, and see what it makes of text.

    Parameters
    ----------
    dataset
        Text to learn from; a fifth of it is held out.
    vocab_size
        Ids in all.
    """
    train, held_out = training_and_held_out(run, dataset, quick=30)
    vocab_size = run.budget(quick=min(vocab_size, 600), default=vocab_size)
    larger = ByteLevelBPE.train(train, 2 * vocab_size)
    tokenizer = ByteLevelBPE.train(train, vocab_size)
    run.metric("vocabulary", len(tokenizer), "tokens", rtol=0)

    check_against_libraries(run, tokenizer, train, held_out)
    theorems(run, tokenizer, larger)
    order_of_letters(run, tokenizer, train, held_out)
    longest_match(run, tokenizer, held_out)
    draw_compression(run, larger, train, held_out)
    draw_tokens(run, tokenizer)


def tiktoken_of(tokenizer: ByteLevelBPE):
    """OpenAI's encoder with our ranks: it never sees a merge, only tokens and their order."""
    import tiktoken

    ranks = {token: i for i, token in enumerate(tokenizer.vocab)}
    return tiktoken.Encoding("ours", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})


def check_against_libraries(
    run: Run, tokenizer: ByteLevelBPE, train: list[str], held_out: list[str]
) -> None:
    """Merges and ids are theirs."""
    theirs, ranked = hugging_face(train, len(tokenizer)), tiktoken_of(tokenizer)
    index = {token: i for i, token in enumerate(tokenizer.vocab)}
    equal = run.against("tokenizers", why="identical, ties included")
    ours = [(index[a], index[b]) for a, b in tokenizer.merges]
    expected = [(index.get(a, -1), index.get(b, -1)) for a, b in merges_of(theirs)]
    equal("merges, in order (as pairs of ids)", ours, expected)

    texts = [*held_out, *NASTY]
    ids = [i for text in texts for i in tokenizer.encode(text)]
    equal("ids of text it has not seen", ids, [i for t in texts for i in theirs.encode(t).ids])
    equal = run.against("tiktoken", why="identical")
    equal("ids given the same ranks", ids, [i for t in texts for i in ranked.encode_ordinary(t)])

    pairs: Counter = Counter()
    for word, n in count_words(train).items():
        for pair in pairwise(word):
            pairs[pair] += n
    tied = sum(n for n in Counter(pairs.values()).values() if n > 1)
    run.metric("pairs of characters tied with another at the start", tied, "pairs", rtol=0.2)


def count_words(texts: list[str]) -> Counter:
    """The words of the pattern."""
    return Counter(word for text in texts for word in regex.findall(GPT2_PATTERN, text))


def theorems(run: Run, tokenizer: ByteLevelBPE, larger: ByteLevelBPE) -> None:
    """Ranks are enough, and a shorter training is the beginning of a longer one."""
    merges, rule = tokenizer.merges, {"at_most": 0, "deterministic": True}
    recovered = ByteLevelBPE.from_ranks({token: i for i, token in enumerate(tokenizer.vocab)})
    unit = f"of {len(merges):,} merges differ"
    wrong = sum(a != b for a, b in zip(recovered.merges, merges, strict=True))
    run.claim("ranks alone determine the merges", wrong, unit=unit, **rule)
    known = set(tokenizer.vocab)
    greedy = sum(longest_first(a + b, known - {a + b}) != [a, b] for a, b in merges)
    run.falsifier("halves by longest match", greedy, breaks="ranks alone determine the merges")
    wrong = sum(a != b for a, b in zip(merges, larger.merges, strict=False))
    run.claim("a smaller vocabulary begins a larger one", wrong, unit=unit, **rule)


def bytes_per_token(tokenizer: ByteLevelBPE, texts: list[str]) -> np.ndarray:
    """Of each text."""
    return np.array([len(t.encode()) / max(1, len(tokenizer.encode(t))) for t in texts])


def order_of_letters(
    run: Run, tokenizer: ByteLevelBPE, train: list[str], held_out: list[str]
) -> None:
    """What the same training makes of letters without their order."""

    def shuffled(texts: list[str]) -> list[str]:
        return ["".join(run.rng.permutation(list(text))) for text in texts]

    control = ByteLevelBPE.train(shuffled(train), len(tokenizer))
    ours = bytes_per_token(tokenizer, held_out)
    without, again = (bytes_per_token(control, shuffled(held_out)) for _ in range(2))
    run.metric("bytes per token, held-out documents", ours.mean(), "bytes/token")
    run.metric("bytes per token, shuffled letters", without.mean(), "bytes/token")
    name = "merges compress because letters come in an order"
    note = "more than with each document's letters shuffled, by held-out document"
    gain = {"at_least": 0.5, "unit": "bytes/token", "note": note}
    run.claim(name, ours - without, quick=False, **gain)
    run.falsifier("the letters shuffled on both sides", again - without, breaks=name)
    used = {i for text in held_out for i in tokenizer.encode(text)}
    run.metric("tokens never used on held-out text", 100 * (1 - len(used) / len(tokenizer)), "%")


def longest_first(word: bytes, known: Collection[bytes]) -> list[bytes]:
    """The classic mistake: the longest token that fits, from left to right."""
    found = []
    while word:
        size = next(n for n in range(len(word), 0, -1) if word[:n] in known)
        found.append(word[:size])
        word = word[size:]
    return found


def longest_match(run: Run, tokenizer: ByteLevelBPE, held_out: list[str]) -> None:
    """Failure on display: the same vocabulary, but matched greedily instead of merged."""
    words, known, different = count_words(held_out), set(tokenizer.vocab), {}
    for word in filter(str.strip, words):
        ours = [tokenizer.vocab[i] for i in tokenizer.encode_bytes(word.encode())]
        greedy = longest_first(word.encode(), known)
        if ours != greedy:
            different[word] = " not ".join(b"|".join(x).decode().strip() for x in (ours, greedy))
    note = max(different.items(), key=lambda pair: words[pair[0]])[1] if different else ""
    share = {"unit": "% of different words", "at_least": 1, "deterministic": True, "note": note}
    name = "longest match is another tokenizer"
    run.claim(name, 100 * len(different) / len(words), quick=False, **share)


def draw_compression(run: Run, larger: ByteLevelBPE, train: list[str], held_out: list[str]) -> None:
    """Bytes per token against the size of the vocabulary; one training gives all sizes."""
    sizes = [256 + round(2**k) for k in np.arange(4, math.log2(len(larger) - 256) + 1e-9, 0.5)]
    curves = {}
    for name, part in (("text it learned from", train), ("held-out text", held_out)):
        n_bytes = sum(len(text.encode()) for text in part)
        smaller = (ByteLevelBPE(larger.merges[: size - 256]) for size in sizes)
        curves[name] = [n_bytes / sum(len(s.encode(text)) for text in part) for s in smaller]
    level = next(m["value"] for m in run.metrics if m["name"].endswith("shuffled letters"))
    curves[f"shuffled letters,\n{len(larger) // 2:,} tokens"] = np.full(len(sizes), level)
    curves["single bytes"] = np.ones(len(sizes))
    with run.figure("compression", "What does a larger vocabulary buy?") as axes:
        axes.set_xscale("log", base=2)
        ticks = [2**k for k in range(8, 14) if 2**k <= sizes[-1]]
        axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
        labels = {"xlabel": "vocabulary (tokens)", "ylabel": "bytes per token", "ylim": (0.8, None)}
        colors = (plots.SKY, plots.BLUE, plots.ORANGE, plots.REFERENCE)
        plots.curves(axes, sizes, curves, colors=colors, **labels)


def draw_tokens(run: Run, tokenizer: ByteLevelBPE) -> None:
    """One sentence through vocabularies of growing size."""
    sizes = [256, *(s for s in (512, 1024, 2048) if s < len(tokenizer)), len(tokenizer)]
    with run.figure("tokens", "One sentence, ever larger vocabularies", size=(8.3, 3.2)) as axes:
        for row, size in enumerate(sizes):
            prefix = ByteLevelBPE(tokenizer.merges[: size - 256])
            pieces = []
            for token in map(prefix.vocab.__getitem__, prefix.encode(SENTENCE)):
                text = token.decode("utf-8", "replace")
                whole = "\ufffd" not in text
                shown = text.replace(" ", "·") if whole else "▯" * len(token)
                pieces.append((shown, len(shown)))
            end = boxes(axes, row, pieces, BOX_COLORS)
            note_beside(axes, end + 0.8, row, f"{len(pieces)} tokens")
            note_beside(axes, -0.8, row, f"{size:,}", ha="right")
        note_beside(axes, -0.8, -0.75, "vocabulary", ha="right", color=plots.REFERENCE)
        axes.set(xlim=(-7, len(SENTENCE) + 12), ylim=(len(sizes) - 0.4, -0.9))
        axes.axis("off")
