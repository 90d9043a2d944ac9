r"""Long context: four ways to read further than the training went, without new weights.

A wave of frequency $\theta$ turns $L\theta/2\pi$ times in a training context of $L$ tokens. A model
that has seen less than one turn of it meets new angles beyond $L$. To read $s$ times as far:

- **position interpolation** slows down all waves, $\theta' = \theta/s$;
- **NTK-aware** scaling raises the base, $b' = b\,s^{d/(d-2)}$: the slowest wave is slowed by $s$,
  the fastest not at all; **dynamic NTK** raises it only as far as the text at hand asks for;
- **YaRN** keeps waves of many turns, slows those of less than one by $s$, mixes in between, and
  multiplies turned queries and keys by $1/\sqrt t = 0.1 \ln s + 1$, which sharpens the softmax.

>>> rope_frequencies(4, base=100.0)
tensor([1.0000, 0.1000])
>>> rope_frequencies(4, base=100.0, scaling=Interpolation(4.0))
tensor([0.2500, 0.0250])
>>> rope_frequencies(4, base=100.0, scaling=NTK(4.0))
tensor([1.0000, 0.0250])
>>> yarn = YaRN(16.0, 4096)
>>> round(yarn.gain, 4)
1.2773

    uv run weeks/18/long_context.py

Sources: Chen et al., "Extending context window of large language models via positional
interpolation" (2023), eq. 4; Peng et al., "YaRN" (2023), sections 3.1 to 3.4; `transformers`' code
for the ramp of YaRN and for mscale.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require
from week18.llama3 import Llama
from week18.rotary import Scaling, rope_frequencies


@dataclass(frozen=True)
class Interpolation(Scaling):
    """Position interpolation: `factor` positions where there was one (Chen et al., eq. 4)."""

    factor: float

    def __post_init__(self):
        require(self.factor >= 1, "factor must be at least 1", self.factor)

    def stretch(
        self, frequencies: Float[Tensor, "half_dim"], base: float, length: int
    ) -> Float[Tensor, "half_dim"]:
        """All waves slower by the factor."""
        return frequencies / self.factor


@dataclass(frozen=True)
class NTK(Scaling):
    """A larger base, so that the slowest wave is slowed by `factor` and the fastest stays."""

    factor: float

    def __post_init__(self):
        require(self.factor >= 1, "factor must be at least 1", self.factor)

    def new_base(self, head_dim: int, base: float) -> float:
        """The base that slows the slowest of head_dim / 2 waves by the factor."""
        return raised(base, self.factor, head_dim)

    def stretch(
        self, frequencies: Float[Tensor, "half_dim"], base: float, length: int
    ) -> Float[Tensor, "half_dim"]:
        """Pair i slower by factor^(2i / (d - 2))."""
        d = 2 * len(frequencies)
        return rope_frequencies(d, base=self.new_base(d, base))


@dataclass(frozen=True)
class DynamicNTK(Scaling):
    """NTK-aware scaling that grows with the text: none within `original_context`.

    At `length` positions the factor is `factor * length / original_context - (factor - 1)`; with
    `factor` 1 that is the length in training contexts. A key is turned by the frequencies of its
    call, so a cache of turned keys does not go with it.
    """

    factor: float
    original_context: int
    by_length: ClassVar[bool] = True

    def __post_init__(self):
        require(self.factor >= 1, "factor must be at least 1", self.factor)
        context = self.original_context
        require(context >= 1, "original_context must be at least 1", context)

    def stretch(
        self, frequencies: Float[Tensor, "half_dim"], base: float, length: int
    ) -> Float[Tensor, "half_dim"]:
        """As NTK with the factor that `length` asks for."""
        contexts, d = max(length / self.original_context, 1.0), 2 * len(frequencies)
        return rope_frequencies(d, base=raised(base, self.factor * contexts - (self.factor - 1), d))


def raised(base: float, factor: float, head_dim: int) -> float:
    """The base whose slowest wave of head_dim / 2 is slower by `factor`."""
    require(head_dim > 2, "head_dim must be above 2 for a larger base to matter", head_dim)
    return base * factor ** (head_dim / (head_dim - 2))


@dataclass(frozen=True)
class YaRN(Scaling):
    """Interpolation by parts, and a softmax made sharper (Peng et al., section 3.4).

    Attributes
    ----------
    beta_fast, beta_slow
        Waves of more than `beta_fast` turns in `original_context` are kept, of less than
        `beta_slow` interpolated. Between the two the mixture is linear in the number of the pair,
        as in the published code; the paper's equation has it linear in the turns.
    attention_factor
        Replaces the gain 0.1 ln(factor) + 1.
    mscale, mscale_all_dim
        DeepSeek's variant, where both are given: the gain is (0.1 mscale ln(factor) + 1) over the
        same with `mscale_all_dim`.
    truncate
        Round the ends of the mixture outwards to whole pairs.
    """

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self):
        require(self.factor >= 1, "factor must be at least 1", self.factor)
        context, fast, slow = self.original_context, self.beta_fast, self.beta_slow
        require(context >= 1, "original_context must be at least 1", context)
        must = f"beta_slow must be positive and at most beta_fast = {fast}"
        require(0 < slow <= fast, must, slow)
        gain = self.attention_factor
        require(gain is None or gain > 0, "attention_factor must be positive", gain)

    @property
    def gain(self) -> float:
        r"""$1/\sqrt t$: both queries and keys have it, so scores grow by $1/t$."""
        if self.attention_factor is not None:
            return self.attention_factor
        grown = 0.1 * math.log(self.factor)
        if self.mscale and self.mscale_all_dim:
            return (grown * self.mscale + 1) / (grown * self.mscale_all_dim + 1)
        return grown + 1

    def pair_with_turns(self, turns: float, head_dim: int, base: float) -> float:
        """Number of the pair, counted from 0, that turns so often in the original context."""
        length = self.original_context / (2 * math.pi * turns)
        return head_dim * math.log(length) / (2 * math.log(base))

    def stretch(
        self, frequencies: Float[Tensor, "half_dim"], base: float, length: int
    ) -> Float[Tensor, "half_dim"]:
        """Fast waves kept, slow ones interpolated, a ramp over the pairs between."""
        d = 2 * len(frequencies)
        first = self.pair_with_turns(self.beta_fast, d, base)
        last = self.pair_with_turns(self.beta_slow, d, base)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, d - 1)
        last += 0.001 if first == last else 0
        slow = ((torch.arange(d // 2) - first) / (last - first)).clamp(0, 1).to(frequencies)
        return (1 - slow) * frequencies + slow * frequencies / self.factor


def with_scaling(model: Llama, scaling: Scaling | None, context: int) -> Llama:
    """The same weights with other frequencies, for `context` tokens."""
    config = dataclasses.replace(model.config, rope_scaling=scaling, context=context)
    twin = Llama(config).to(model.embed.weight)
    twin.load_state_dict(model.state_dict())
    return twin


# ---- needles in a haystack


@dataclass(frozen=True)
class Needles:
    """Rows of text with needles in it, tokens that name a key and a value; keys are asked for.

    A row of `length` tokens ends with all keys in some order, each followed by its value: whoever
    reads a key there must find its needle above to know what comes next.

    Attributes
    ----------
    first
        The first token that the text does not use. From there are numbered the needles, the
        values, then the keys.
    n_keys
        Needles per row, one for each key.
    n_values
        Values to draw from.
    """

    first: int
    n_keys: int = 4
    n_values: int = 8

    @property
    def vocab_size(self) -> int:
        """Tokens of the text, needles, values and keys."""
        return self.first + self.n_keys * self.n_values + self.n_values + self.n_keys

    @property
    def answers(self) -> slice:
        """Where in a row the values stand that are asked for."""
        return slice(-2 * self.n_keys + 1, None, 2)

    def rows(
        self, text: Int[Tensor, " m"], rows: int, length: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "row length"], Int[Tensor, "row n_keys"]]:
        """Rows, and how many tokens before its question each needle lies.

        Raises
        ------
        ValueError
            If needles and questions leave no room for text, or the text is shorter than a row.
        """
        n, body = self.n_keys, length - 2 * self.n_keys
        require(body > n, f"length must be above 3 n_keys = {3 * n}", length)
        require(len(text) >= length, f"text must hold at least length = {length}", len(text))
        starts = torch.randint(len(text) - length + 1, (rows, 1), generator=generator)
        tokens = text[starts + torch.arange(length)]
        places = torch.rand(rows, body, generator=generator).argsort(1)[:, :n]
        values = torch.randint(self.n_values, (rows, n), generator=generator)
        keys = torch.arange(n)
        tokens.scatter_(1, places, self.first + keys * self.n_values + values)
        order = torch.rand(rows, n, generator=generator).argsort(1)
        value_of = self.first + n * self.n_values + values
        asked = [self.vocab_size - n + order, value_of.gather(1, order)]
        tokens[:, body:] = torch.stack(asked, dim=2).flatten(1)
        return tokens, body + 2 * keys - places.gather(1, order)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
