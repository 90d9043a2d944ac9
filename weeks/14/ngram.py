r"""Character n-grams with Witten–Bell smoothing: the baseline that a language model must beat.

Count how often each character followed each context of up to $n-1$ characters. A context seen
$c(h)$ times with $t(h)$ different continuations trusts its own counts with weight
$c(h) / (c(h) + t(h))$ and leaves the rest to the context one character shorter:

$$p(x \mid h) = \frac{c(h x) + t(h)\, p(x \mid h')}{c(h) + t(h)}, \qquad
  p(x \mid \text{nothing}) = \frac{c(x) + t\,/\,V}{c + t}.$$

>>> tokens, alphabet = encode_characters("abab")
>>> model = WittenBell(order=2, vocab_size=2).fit(tokens)
>>> np.exp(model.log_probs(np.array([0, 1]))).round(4)  # b after a: 2 times, 1 kind; p(b) = 1/2
array([0.8333])
>>> exact_probability("abab", "a", "b", alphabet)
Fraction(5, 6)

    uv run weeks/14/ngram.py

Source: Witten & Bell, "The zero-frequency problem", IEEE Trans. Information Theory 37 (1991),
method C; interpolated as in Chen & Goodman (1998), section 2.5.
"""

import math
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from shared.arguments import checked
from shared.require import require


class WittenBell:
    """Interpolated Witten–Bell n-gram model over tokens 0 .. vocab_size - 1.

    A model of order n sees n - 1 tokens of context. Contexts become integers exactly (base
    `vocab_size`), so counting is two sorts per order.
    """

    def __init__(self, order: int, vocab_size: int):
        require(order >= 1, "order must be at least 1", order)
        require(vocab_size >= 1, "vocab_size must be at least 1", vocab_size)
        size = f"order = {order} and vocab_size = {vocab_size}"
        require(order * math.log2(max(vocab_size, 2)) < 63, "n-grams must fit in 63-bit keys", size)
        self.order, self.vocab_size = order, vocab_size

    @checked
    def fit(self, tokens: Integer[np.ndarray, " n"]) -> "WittenBell":
        """Count every n-gram of orders 1 to `order` in `tokens`."""
        all_grams, all_contexts = [], []
        for k in range(1, self.order + 1):
            grams, counts = np.unique(self._keys(tokens, k), return_counts=True)
            contexts, starts = np.unique(grams // self.vocab_size, return_index=True)
            totals = np.add.reduceat(counts, starts)
            kinds = np.diff(np.append(starts, len(grams)))
            all_grams.append((grams, counts))
            all_contexts.append((contexts, totals, kinds))
        self._grams, self._contexts = all_grams, all_contexts  # a failed fit changes nothing
        return self

    @checked
    def log_probs(self, tokens: Integer[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
        """Log-probability (nats) of each token after the first `order - 1`, given those before."""
        require(hasattr(self, "_grams"), "WittenBell must be fitted before use: call fit first")
        p = np.full(max(len(tokens) - self.order + 1, 0), 1.0 / self.vocab_size)
        for k, (grams, contexts) in enumerate(zip(self._grams, self._contexts, strict=True), 1):
            keys = self._keys(tokens, k)[self.order - k :]  # align every order on the same targets
            count = _lookup(grams[0], grams[1], keys)
            total = _lookup(contexts[0], contexts[1], keys // self.vocab_size)
            kinds = _lookup(contexts[0], contexts[2], keys // self.vocab_size)
            seen = np.maximum(total + kinds, 1)
            p = np.where(total > 0, (count + kinds * p) / seen, p)
        return np.log(p)

    @checked
    def seen(self, tokens: Integer[np.ndarray, " n"]) -> Bool[np.ndarray, " m"]:
        """Whether each n-gram of `tokens` was counted: those that were not need the smoothing."""
        require(hasattr(self, "_grams"), "WittenBell must be fitted before use: call fit first")
        return np.isin(self._keys(tokens, self.order), self._grams[-1][0])

    def _keys(self, tokens: Integer[np.ndarray, " n"], k: int) -> Int[np.ndarray, " m"]:
        n, most = len(tokens), self.vocab_size - 1
        require(n >= self.order, f"tokens must hold at least order = {self.order}", n)
        low, high = tokens.min(), tokens.max()
        require(low >= 0 and high <= most, f"tokens must lie in 0..{most}", f"{low}..{high}")
        tokens = tokens.astype(np.int64, copy=False)  # with uint64, keys would become floats
        keys = np.zeros(len(tokens) - k + 1, dtype=np.int64)
        for i in range(k):
            keys = keys * self.vocab_size + tokens[i : len(tokens) - k + 1 + i]
        return keys


def _lookup(table: np.ndarray, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Values of `keys` in a sorted table, 0 where a key is absent."""
    at = np.searchsorted(table, keys).clip(max=len(table) - 1)
    return np.where(table[at] == keys, values[at], 0)


def bits_per_character(nats: float) -> float:
    """Convert nats to bits."""
    return nats / math.log(2)


def encode_characters(text: str) -> tuple[Int[np.ndarray, " n"], str]:
    """Tokens of `text` and its sorted alphabet; token i is character i of the alphabet."""
    require(text, "text must hold at least one character", "none")
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    alphabet, tokens = np.unique(codes, return_inverse=True)
    return tokens.astype(np.int64), "".join(map(chr, alphabet))


def exact_probability(text: str, context: str, char: str, alphabet: str) -> Fraction:
    """p(char | context) by reading the definition aloud, in exact arithmetic: the reference."""
    shorter = (
        exact_probability(text, context[1:], char, alphabet)
        if context
        else Fraction(1, len(alphabet))
    )
    ends = range(len(context), len(text))
    following = [text[i] for i in ends if text[i - len(context) : i] == context]
    kinds = len(set(following))
    if not following:
        return shorter
    return (following.count(char) + kinds * shorter) / (len(following) + kinds)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
