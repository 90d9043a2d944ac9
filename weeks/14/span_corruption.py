r"""Objectives as data: what an encoder–decoder is asked when nobody has labeled anything.

An objective makes a source and a target of a text. T5 cuts spans out and leaves a numbered
*sentinel* at each cut; the target says what stood there. Of $n$ tokens $m = \rho n$ are cut in
$s = m / \mu$ spans (both rounded), and each side ends with EOS, so that

$$ |\text{source}| = n - m + s + 1, \qquad |\text{target}| = m + s + 1 . $$

BART leaves the same mark at each cut, of any length, and wants the whole text back. The others ask
for the end of the text, for its order, or for single tokens.

>>> tokens, cut = np.array([5, 6, 7, 8, 9, 4]), np.array([0, 0, 1, 1, 0, 1], bool)
>>> source, target = span_corruption(tokens, cut, vocab_size=20)
>>> source.tolist(), target.tolist()  # 19 and 18 are sentinels, 1 ends a side
([5, 6, 19, 9, 18, 1], [19, 7, 8, 18, 4, 1])
>>> restore(source, target, vocab_size=20).tolist()
[5, 6, 7, 8, 9, 4]
>>> raw_length(512), source_and_target_length(568)
(568, (512, 114))

The models that learn from them begin with `uv run weeks/14/t5.py`.

Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer"
(2020), section 3.3, and its published `preprocessors.py`; Lewis et al., "BART" (2020), section 2.2.
"""

from collections.abc import Callable
from itertools import count

import numpy as np
from jaxtyping import Bool, Int

from shared.arguments import checked
from shared.require import require

PAD, EOS = 0, 1  # as in T5; 0 also begins what a decoder reads

Tokens = Int[np.ndarray, " _"]  # sides are of any length
Sides = tuple[Tokens, Tokens]


# ---- T5's spans


def noise_counts(n: int, density: float = 0.15, mean_span: float = 3.0) -> tuple[int, int]:
    """How many of n tokens are cut out, and in how many spans; at least one, and never all."""
    require(n >= 2, "n must be at least 2", n)
    require(0 < density < 1, "density must be in (0, 1)", density)
    require(mean_span >= 1, "mean_span must be at least 1", mean_span)
    noise = min(max(round(n * density), 1), n - 1)
    return noise, min(max(round(noise / mean_span), 1), n - noise)


def source_and_target_length(n: int, **options: float) -> tuple[int, int]:
    """Tokens of both sides made of n; the options are those of `noise_counts`."""
    noise, spans = noise_counts(n, **options)
    return n - noise + spans + 1, noise + spans + 1


def raw_length(source_length: int, **options: float) -> int:
    """Most tokens that fit into a source of this length, so that no place in a batch is wasted."""
    require(source_length >= 3, "source_length must be at least 3", source_length)
    return next(
        n for n in count(2) if source_and_target_length(n + 1, **options)[0] > source_length
    )


def random_segments(n: int, k: int, rng: np.random.Generator) -> Int[np.ndarray, " k"]:
    """Lengths of k segments that make n, none empty; all C(n-1, k-1) ways are equally likely."""
    require(1 <= k <= n, f"k must be between 1 and n = {n}", k)
    cuts = np.sort(rng.choice(n - 1, k - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=n)


def noise_mask(n: int, rng: np.random.Generator, **options: float) -> Bool[np.ndarray, " n"]:
    """What is cut out: spans take turns, a kept one first and therefore one of noise last.

    Raffel et al.'s program: the first token is never cut, and the last one always.
    """
    noise, spans = noise_counts(n, **options)
    sizes = [random_segments(size, spans, rng) for size in (n - noise, noise)]
    return np.repeat(np.arange(2 * spans) % 2 == 1, np.stack(sizes, axis=1).ravel())


@checked
def span_corruption(
    tokens: Int[np.ndarray, " n"], mask: Bool[np.ndarray, " n"], *, vocab_size: int
) -> Sides:
    """Source and target when the runs of `mask` are cut; sentinel k is vocab_size - 1 - k."""
    require(len(mask) and not mask[0], "mask must begin with a token that is kept", mask[:1])
    most = vocab_size - 1 - (np.diff(mask * 1) == 1).sum()
    fits = tokens.min() > EOS and tokens.max() < most
    must = f"tokens must be between {EOS + 1} and {most - 1}, below the sentinels"
    require(fits, must, tokens.min(), tokens.max())

    def squeeze(away: Bool[np.ndarray, " n"]) -> Tokens:
        first = away & ~np.concatenate([[False], away[:-1]])  # of each run
        marked = np.where(first, vocab_size - np.cumsum(first), tokens)
        return np.append(marked[first | ~away], EOS)

    source, target = squeeze(mask), squeeze(~mask)
    return source, target


@checked
def restore(
    source: Int[np.ndarray, " n"], target: Int[np.ndarray, " m"], *, vocab_size: int
) -> Tokens:
    """Put what follows each sentinel of the target into its place in the source.

    A sentinel that the target does not name stands for nothing: a model's target may be wrong.
    """
    seen = {*source.tolist(), *target.tolist()}
    lowest = next(token for token in count(vocab_size - 1, -1) if token not in seen) + 1
    spans: dict[int, list[int]] = {}
    span: list[int] = []
    for token in _until_eos(target):
        if token >= lowest:
            span = spans.setdefault(token, [])
        else:
            span.append(token)
    pieces = [spans.get(t, []) if t >= lowest else [t] for t in _until_eos(source)]
    return np.array([token for piece in pieces for token in piece], dtype=np.int64)


def _until_eos(tokens: Tokens) -> list[int]:
    found = tokens.tolist()
    return found[: found.index(EOS)] if EOS in found else found


# ---- objectives: (tokens, rng, vocab_size) to source and target


def corrupt_spans(
    tokens: Tokens, rng: np.random.Generator, vocab_size: int, **options: float
) -> Sides:
    """T5: what was cut out, span by span. Options: `density` and `mean_span`."""
    mask = noise_mask(len(tokens), rng, **options)
    return span_corruption(tokens, mask, vocab_size=vocab_size)


def infill(
    tokens: Tokens,
    rng: np.random.Generator,
    vocab_size: int,
    *,
    share: float = 0.3,
    rate: float = 3.0,
) -> Sides:
    """BART: the whole text, from one where spans of Poisson length became one mark each.

    A span of length 0 inserts a mark, so the source does not tell how much is missing.
    """
    require(0 < share <= 1, "share must be in (0, 1]", share)
    require(rate > 0, "rate must be positive", rate)
    n, noise, spans = len(tokens), round(share * len(tokens)), []
    while (left := noise - sum(spans)) > 0:
        spans.append(min(int(rng.poisson(rate)), left))
    places = n - noise + len(spans)  # of kept tokens and of marks
    marks = rng.permutation(places) < len(spans)
    sizes = np.ones(places, dtype=np.int64)
    sizes[marks] = rng.permutation(spans)
    starts = np.minimum(np.cumsum(sizes) - sizes, n - 1)
    return np.append(np.where(marks, vocab_size - 1, tokens[starts]), EOS), np.append(tokens, EOS)


def mask_tokens(
    tokens: Tokens, rng: np.random.Generator, vocab_size: int, *, density: float = 0.15
) -> Sides:
    """BERT's noise, asked of a decoder: the whole text, from one with single tokens replaced.

    Nine tenths of them by a mark, the others by a random token.
    """
    require(0 < density < 1, "density must be in (0, 1)", density)
    marks, u = rng.random((2, len(tokens)))
    other = rng.integers(EOS + 1, vocab_size - 1, len(tokens))
    noise = np.where(u < 0.9, vocab_size - 1, other)
    return np.append(np.where(marks < density, noise, tokens), EOS), np.append(tokens, EOS)


def prefix(tokens: Tokens, rng: np.random.Generator, vocab_size: int) -> Sides:
    """Prefix language model: the rest of the text, cut at a random place."""
    require(len(tokens) >= 2, "tokens must be at least 2", len(tokens))
    cut = int(rng.integers(1, len(tokens)))
    return np.append(tokens[:cut], EOS), np.append(tokens[cut:], EOS)


def deshuffle(tokens: Tokens, rng: np.random.Generator, vocab_size: int) -> Sides:
    """The text, from its tokens in random order."""
    return np.append(rng.permutation(tokens), EOS), np.append(tokens, EOS)


OBJECTIVES: dict[str, Callable[..., Sides]] = {
    "span corruption": corrupt_spans,
    "text infilling": infill,
    "masked tokens": mask_tokens,
    "prefix": prefix,
    "deshuffling": deshuffle,
}
