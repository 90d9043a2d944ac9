r"""Rotary positions with a table of angles, and how LLaMA 3.1 stretches them.

A pair of dimensions of a query or key at position $m$ is turned by the angle $m \theta$, so that
scores depend on distances only. Pair $i$ of $d/2$ has the frequency $\theta_i = b^{-2i/d}$.

>>> frequencies = rope_frequencies(4, base=100.0)
>>> frequencies  # radians per position
tensor([1.0000, 0.1000])
>>> angles = torch.arange(3)[:, None] * frequencies
>>> cos, sin = (f(angles)[None, None] for f in (torch.cos, torch.sin))
>>> rotate(torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(1, 1, 3, 4), cos, sin)[0, 0, 2]
tensor([-0.4161,  0.9801,  0.9093,  0.1987])

Su et al., "RoFormer" (2021), eq. 15 and 34; the stretching is in LLaMA 3.1's published code, other
ways to stretch are in `week18.long_context`.
`week13.positional_encodings` has the same without a table; the models that use it begin with
`uv run weeks/18/llama3.py`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require


class Scaling:
    """A way to stretch the frequencies to contexts longer than the first training's.

    Attributes
    ----------
    gain
        What the turned queries and keys are multiplied by; scores grow by its square.
    by_length
        Whether the frequencies depend on the number of positions in sight.
    """

    gain: float = 1.0
    by_length: ClassVar[bool] = False

    def stretch(
        self, frequencies: Float[Tensor, "half_dim"], base: float, length: int
    ) -> Float[Tensor, "half_dim"]:
        """The frequencies to use instead, where `length` positions are in sight."""
        raise NotImplementedError


@dataclass(frozen=True)
class RopeScaling(Scaling):
    """How LLaMA 3.1 stretches its rotary frequencies to contexts longer than it was trained on.

    Attributes
    ----------
    factor
        Waves longer than `original_context / low_freq_factor` become this much longer.
    low_freq_factor, high_freq_factor
        Waves shorter than `original_context / high_freq_factor` stay; between the two the
        frequencies are interpolated.
    original_context
        The context of the first training.
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    def __post_init__(self):
        low, high, context = self.low_freq_factor, self.high_freq_factor, self.original_context
        require(self.factor >= 1, "factor must be at least 1", self.factor)
        must = f"low_freq_factor must be positive and below high_freq_factor = {high}"
        require(0 < low < high, must, low)
        require(context >= 1, "original_context must be at least 1", context)

    def stretch(
        self, frequencies: Float[Tensor, "half_dim"], base: float, length: int
    ) -> Float[Tensor, "half_dim"]:
        """Keep fast waves, slow down those without a whole turn in the training context.

        A wave that has turned many times tells near positions apart and stays as it is; one that
        has not turned once is slowed by `factor`, so that no angle of the longer context is new to
        the model.
        """
        turns = self.original_context * frequencies / (2 * math.pi)
        keep = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        keep = keep.clamp(0, 1)  # 1: fast, kept; 0: slow, stretched
        return keep * frequencies + (1 - keep) * frequencies / self.factor


def rope_frequencies(
    head_dim: int, *, base: float = 500_000.0, scaling: Scaling | None = None, length: int = 1
) -> Float[Tensor, "half_dim"]:
    r"""Radians per position for each pair of dimensions, $b^{-2i/d}$, stretched if asked."""
    even = head_dim >= 2 and head_dim % 2 == 0
    require(even, "head_dim must be even and at least 2", head_dim)
    frequencies = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    return frequencies if scaling is None else scaling.stretch(frequencies, base, length)


def rotate(
    x: Float[Tensor, "batch head seq dim"],
    cos: Float[Tensor, "row 1 seq half_dim"],
    sin: Float[Tensor, "row 1 seq half_dim"],
) -> Float[Tensor, "batch head seq dim"]:
    """Turn dimensions (i, i + dim/2) by their angles."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
