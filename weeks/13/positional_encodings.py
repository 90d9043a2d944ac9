r"""Telling attention where a token stands, and which encodings outlive the training length.

Attention sees a set, so order must be put in: added to the embeddings (sinusoidal, learned), added
to the scores (T5's relative bias, ALiBi) or turned into the queries and keys (RoPE):

$$ \langle R_m q, R_n k \rangle = \langle q, R_{n-m} k \rangle , $$

    uv run weeks/13/positional_encodings.py

Vaswani et al. (2017), section 3.5; Su et al. (2021), "RoFormer", section 3.2; Press et al. (2022),
"Train short, test long" (ALiBi), section 3; Raffel et al. (2020), "T5", section 2.1.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from week13.attention import MultiHeadAttention

SCHEMES = ("none", "learned", "sinusoidal", "RoPE", "ALiBi", "T5 bias")

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
    if length < 0 or offset < 0:
        raise ValueError(f"length and offset must be at least 0, got {length} and {offset}")
    frequencies = rope_frequencies(dim, base=base, dtype=torch.float64)
    angles = torch.arange(offset, offset + length)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


class LearnedPositions(nn.Module):
    """One trained vector a position; there is none beyond `max_len`."""

    def __init__(self, max_len: int, d_model: int):
        super().__init__()
        if max_len < 1:
            raise ValueError(f"max_len must be at least 1, got {max_len}")
        self.table = nn.Parameter(0.02 * torch.randn(max_len, d_model))

    def forward(self, length: int, offset: int = 0) -> Float[Tensor, "length d_model"]:
        """Rows offset … offset + length - 1."""
        if not 0 <= offset <= offset + length <= len(self.table):
            raise ValueError(
                f"positions must lie in [0, max_len = {len(self.table)}), "
                f"got {offset} to {offset + length - 1}"
            )
        return self.table[offset : offset + length]


# ---- turned into the queries and keys


def rope_frequencies(
    dim: int, *, base: float = 10000.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "half_dim"]:
    r"""Angle per step of each pair of dimensions, $\theta_i = b^{-2i/d}$ (radians)."""
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be even and at least 2, got {dim}")
    if base <= 0:
        raise ValueError(f"base must be positive, got {base}")
    return base ** (-torch.arange(0, dim, 2, dtype=dtype) / dim)


def apply_rope(
    x: Float[Tensor, "batch head seq dim"],
    positions: Int[Tensor, "seq"] | int = 0,
    *,
    base: float = 10000.0,
    frequencies: Float[Tensor, "half_dim"] | None = None,
    pairing: Literal["half", "interleaved"] = "half",
) -> Float[Tensor, "batch head seq dim"]:
    """Rotate each pair of dimensions by its frequency times the position.

    Parameters
    ----------
    x
        Queries or keys.
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
    if pairing not in ("half", "interleaved"):
        raise ValueError(f'pairing must be "half" or "interleaved", got {pairing!r}')
    if frequencies is None:
        frequencies = rope_frequencies(x.shape[-1], base=base)
    if 2 * len(frequencies) != x.shape[-1]:
        raise ValueError(
            f"frequencies must have dim / 2 = {x.shape[-1] / 2:g} entries, got {len(frequencies)}"
        )
    if isinstance(positions, int):
        positions = torch.arange(positions, positions + x.shape[2])
    if len(positions) != x.shape[2]:
        raise ValueError(f"positions must have seq = {x.shape[2]} entries, got {len(positions)}")
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
    r"""Slopes $2^{-8h/n}$, h = 1 … n; between powers of two, every other one of the next power's.

    References
    ----------
    Press et al. (2022), section 3, and their code for n that is not a power of two.
    """
    if n_heads < 1:
        raise ValueError(f"n_heads must be at least 1, got {n_heads}")
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
    if not 0 <= query_len <= key_len:
        raise ValueError(f"query_len must be between 0 and key_len = {key_len}, got {query_len}")
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
        Number of buckets, a multiple of 4 (of 2 if not bidirectional).
    max_distance
        From here on every distance shares the last bucket, which is all the bias knows of
        lengths that it was not trained on.

    References
    ----------
    Raffel et al. (2020), section 2.1.
    """
    unit = 4 if bidirectional else 2
    if n_buckets < unit or n_buckets % unit:
        raise ValueError(f"n_buckets must be a positive multiple of {unit}, got {n_buckets}")
    side = n_buckets // 2 if bidirectional else n_buckets
    exact = side // 2
    if max_distance <= exact:
        raise ValueError(f"max_distance must exceed {exact}, got {max_distance}")
    distance = relative_position.abs() if bidirectional else (-relative_position).clamp(min=0)
    log = (distance.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
    far = (exact + (log * (side - exact)).long()).clamp(max=side - 1)
    bucket = torch.where(distance < exact, distance, far)
    return bucket + side * (relative_position > 0) if bidirectional else bucket


class RelativePositionBias(nn.Module):
    """One learned number a bucket and head, added to the scores; shared by all layers in T5."""

    def __init__(
        self,
        n_heads: int,
        *,
        bidirectional: bool = True,
        n_buckets: int = 32,
        max_distance: int = 128,
    ):
        super().__init__()
        self.options = {
            "bidirectional": bidirectional, "n_buckets": n_buckets, "max_distance": max_distance
        }  # fmt: skip
        self.table = nn.Parameter(torch.zeros(n_buckets, n_heads))

    def forward(self, query_len: int, key_len: int) -> Float[Tensor, "head query key"]:
        """Bias of every pair; the queries are the last positions."""
        bucket = relative_position_bucket(relative_positions(query_len, key_len), **self.options)
        return self.table[bucket.to(self.table.device)].permute(2, 0, 1)


# ---- what it shows


class Block(nn.Module):
    """Pre-norm decoder block, as far as positions need one."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = MultiHeadAttention(width, n_heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(
        self,
        x: Float[Tensor, "batch seq width"],
        bias: Float[Tensor, "head seq seq"] | None,
        rope: Callable[[Tensor], Tensor] | None,
    ) -> Float[Tensor, "batch seq width"]:
        """The stream after this block; `bias` is added to the scores, `rope` turns q and k."""
        x = x + self.attention(self.norms[0](x), mask=bias, is_causal=True, rope=rope)
        return x + self.mlp(self.norms[1](x))


class CharacterModel(nn.Module):
    """Two-layer character model with one of `SCHEMES`; all else is equal, down to the seeds."""

    def __init__(self, n_symbols: int, scheme: str, max_len: int, *, width: int = 64):
        super().__init__()
        self.scheme, self.width, self.n_heads = scheme, width, 4
        self.embedding, self.out = nn.Embedding(n_symbols, width), nn.Linear(width, n_symbols)
        self.blocks = nn.ModuleList(Block(width, self.n_heads) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        if scheme == "learned":
            self.positions = LearnedPositions(max_len, width)
        elif scheme == "T5 bias":
            self.positions = RelativePositionBias(self.n_heads, bidirectional=False)

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq symbol"]:
        """Logits of the next character."""
        n, x, bias = tokens.shape[1], self.embedding(tokens), None
        if self.scheme == "learned":
            x = x + self.positions(n)
        elif self.scheme == "sinusoidal":
            x = x + sinusoidal_encoding(n, self.width)
        elif self.scheme == "ALiBi":
            bias = alibi_bias(self.n_heads, n, n)
        elif self.scheme == "T5 bias":
            bias = self.positions(n, n)
        for block in self.blocks:
            x = block(x, bias, apply_rope if self.scheme == "RoPE" else None)
        return self.out(self.norm(x))


def bits_by_position(
    scheme: str, text: Int[Tensor, "n"], *, length: int, steps: int, seed: int
) -> Float[Tensor, "long"]:
    """Train on windows of `length`; bits per character at each position of windows 4 times as long.

    The last tenth of `text` is held out for that. Position t is predicted from t + 1 characters.
    """
    train, held_out = text.tensor_split([9 * len(text) // 10])
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = CharacterModel(int(text.max()) + 1, scheme, 4 * length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.1)
    for _ in range(steps):
        starts = torch.randint(len(train) - length, (16, 1), generator=generator)
        window = train[starts + torch.arange(length + 1)]
        loss = nn.functional.cross_entropy(model(window[:, :-1]).transpose(1, 2), window[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    windows = held_out[: (len(held_out) - 1) // (4 * length) * 4 * length + 1]
    windows = windows.unfold(0, 4 * length + 1, 4 * length)[:200]
    with torch.no_grad():
        nats = nn.functional.cross_entropy(
            model(windows[:, :-1]).transpose(1, 2), windows[:, 1:], reduction="none"
        )
    return nats.mean(dim=0) / math.log(2)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
