r"""Telling attention where a token stands, and which encodings outlive the training length.

Attention sees a set, so order must be put in: added to the embeddings (sinusoidal, learned), added
to the scores (T5's relative bias, ALiBi) or turned into the queries and keys (rotary, RoPE):

$$ \langle R_m q, R_n k \rangle = \langle q, R_{n-m} k \rangle , $$

>>> q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.manual_seed(0)).double()
>>> near = apply_rope(q, 3) @ apply_rope(k, 5).mT  # the score of two tokens, two apart
>>> far = apply_rope(q, 103) @ apply_rope(k, 105).mT
>>> bool(abs(near - far) < 1e-4)
True

    uv run weeks/13/positional_encodings.py

Vaswani et al. (2017), section 3.5; Su et al. (2021), "RoFormer", section 3.2; Press et al. (2022),
"Train short, test long" (ALiBi), section 3; Raffel et al. (2020), "T5", section 2.1.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require

# ---- added to the embeddings


def sinusoidal_encoding(
    length: int, dim: int, *, offset: int = 0, base: float = 10000.0
) -> Float[Tensor, "length dim"]:
    r"""Sines and cosines of geometrically spaced wavelengths, from $2\pi$ up to $2\pi$ `base`.

    Column 2i is $\sin(p\,b^{-2i/d})$ and column 2i + 1 its cosine, for p = offset, offset + 1, …

    References
    ----------
    Vaswani et al. (2017), section 3.5. A shift of p rotates each (sine, cosine) pair.
    """
    require(min(length, offset) >= 0, "length and offset must be at least 0", length, offset)
    frequencies = rope_frequencies(dim, base=base, dtype=torch.float64)
    angles = torch.arange(offset, offset + length)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


class LearnedPositions(nn.Module):
    """One trained vector per position; there is none beyond `context`."""

    def __init__(self, context: int, d_model: int):
        super().__init__()
        require(context >= 1, "context must be at least 1", context)
        self.table = nn.Parameter(0.02 * torch.randn(context, d_model))

    def forward(self, length: int, offset: int = 0) -> Float[Tensor, "length d_model"]:
        """Rows offset … offset + length - 1."""
        end = offset + length
        must = f"positions must lie in [0, context = {len(self.table)})"
        require(0 <= offset <= end <= len(self.table), must, f"{offset} to {end - 1}")
        return self.table[offset:end]


# ---- turned into the queries and keys


def rope_frequencies(
    dim: int, *, base: float = 10000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "half_dim"]:
    r"""Angle per step of each pair of dimensions, $\theta_i = b^{-2i/d}$ (radians)."""
    require(dim >= 2 and dim % 2 == 0, "dim must be even and at least 2", dim)
    require(base > 0, "base must be positive", base)
    return base ** (-torch.arange(0, dim, 2, dtype=dtype) / dim)


def apply_rope(
    x: Float[Tensor, "batch head seq dim"],
    positions: Int[Tensor, "seq"] | int = 0,
    *,
    base: float = 10000.0,
    frequencies: Float[Tensor, "half_dim"] | None = None,
    pairing: Literal["half", "interleaved"] = "half",
) -> Float[Tensor, "batch head seq dim"]:
    """Rotary positions: rotate each pair of dimensions by its frequency times the position.

    Parameters
    ----------
    positions
        Position of every row, or that of the first one. A cached decoder passes the number of
        tokens before this one: left at 0, every new token would claim to be the first.
    base, frequencies
        `rope_frequencies(dim, base=base)`, or others (scaled for longer contexts).
    pairing
        Which dimensions form a pair: "half" (i, i + dim/2), as in GPT-NeoX and LLaMA;
        "interleaved" (2i, 2i + 1), as in the paper. The two differ by a permutation of the
        projections' rows, so weights trained with one are garbage with the other.

    References
    ----------
    Su et al. (2021), eq. 15 and 34.
    """
    known = pairing in ("half", "interleaved")
    require(known, 'pairing must be "half" or "interleaved"', repr(pairing))
    seq, dim = x.shape[-2:]
    if frequencies is None:
        frequencies = rope_frequencies(dim, base=base)
    n = len(frequencies)
    require(2 * n == dim, f"frequencies must have dim / 2 = {dim / 2:g} entries", n)
    if isinstance(positions, int):
        positions = torch.arange(positions, positions + seq)
    n = len(positions)
    require(n == seq, f"positions must have seq = {seq} entries", n)
    # Angles stay in float32 or better: in bfloat16, position 257 would be rounded to 256.
    angles = positions.to(x.device)[:, None] * frequencies.to(x.device)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    if pairing == "half":
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


# ---- added to the scores


def alibi_slopes(n_heads: int) -> Float[Tensor, "head"]:
    r"""Slopes $2^{-8h/n}$, h = 1 … n; between powers of two, every other one of the next."""
    require(n_heads >= 1, "n_heads must be at least 1", n_heads)
    power = 2 ** math.floor(math.log2(n_heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (n_heads - power), 2)]
    return torch.tensor(slopes)


def alibi_bias(n_heads: int, query_len: int, key_len: int) -> Float[Tensor, "head query key"]:
    """Minus slope times distance, to be added to the scores; the queries are the last positions.

    It hides nothing: a decoder needs `is_causal` beside it.
    """
    distance = -relative_positions(query_len, key_len).abs()
    return alibi_slopes(n_heads)[:, None, None] * distance


def relative_positions(query_len: int, key_len: int) -> Int[Tensor, "query key"]:
    """Key position minus query position; the queries are the last `query_len` positions."""
    must = f"query_len must be between 0 and key_len = {key_len}"
    require(0 <= query_len <= key_len, must, query_len)
    return torch.arange(key_len) - torch.arange(key_len - query_len, key_len)[:, None]


def relative_position_bucket(
    relative_position: Int[Tensor, "..."],
    *,
    bidirectional: bool = True,
    n_buckets: int = 32,
    max_distance: int = 128,
) -> Int[Tensor, "..."]:
    """T5's bucket of a distance: one each up to a quarter (a half) of them, then logarithmic.

    Parameters
    ----------
    relative_position
        Key minus query position.
    bidirectional
        Whether keys to the right get half of the buckets; without it they all share bucket 0.
    n_buckets
        A multiple of 4 (of 2 if not bidirectional).
    max_distance
        From here on every distance shares the last bucket, which is all the bias knows of
        lengths that it was not trained on.

    References
    ----------
    Raffel et al. (2020), section 2.1.
    """
    unit = 4 if bidirectional else 2
    multiple = n_buckets >= unit and n_buckets % unit == 0
    require(multiple, f"n_buckets must be a positive multiple of {unit}", n_buckets)
    side = n_buckets // 2 if bidirectional else n_buckets
    exact = side // 2
    require(max_distance > exact, f"max_distance must exceed {exact}", max_distance)
    distance = relative_position.abs() if bidirectional else (-relative_position).clamp(min=0)
    log = (distance.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
    far = (exact + (log * (side - exact)).long()).clamp(max=side - 1)
    bucket = torch.where(distance < exact, distance, far)
    return bucket + side * (relative_position > 0) if bidirectional else bucket


class RelativePositionBias(nn.Module):
    """One learned number per bucket and head, added to the scores; all layers share it in T5.

    The options are those of `relative_position_bucket`.
    """

    def __init__(self, n_heads: int, *, n_buckets: int = 32, **options):
        super().__init__()
        self.options = {"n_buckets": n_buckets, **options}
        self.table = nn.Parameter(torch.zeros(n_buckets, n_heads))

    def forward(self, query_len: int, key_len: int) -> Float[Tensor, "head query key"]:
        """Bias of every pair; the queries are the last positions."""
        bucket = relative_position_bucket(relative_positions(query_len, key_len), **self.options)
        return self.table[bucket.to(self.table.device)].permute(2, 0, 1)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
