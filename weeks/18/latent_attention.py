r"""Multi-head latent attention: remember one short vector per token, and let each head unfold it.

The cache holds a latent $c_t$ and one rotary key $k^R_t$ that all heads share; keys and values are
linear in the latent. With $q_h = (q^C_h, q^R_h)$ head $h$ scores token $t$ by

$$ s_t = \frac{q^C_h \cdot U_h c_t + q^R_h \cdot k^R_t}{\sqrt{d_C + d_R}}
       = \frac{(U_h^\top q^C_h,\; q^R_h) \cdot (c_t,\; k^R_t)}{\sqrt{d_C + d_R}},
   \qquad o_h = V_h \sum_t a_t c_t . $$

The left form unfolds keys and values (*explicit*). The right one moves $U_h$ into the query and
$V_h$ behind the average (*absorbed*): all heads then share one key, the cache itself, and its
first part is the value. Positions must stay out of the latent: a rotation between $U_h$ and $c_t$
could not be moved.

>>> from week18.rotary import rope_frequencies
>>> config = LatentConfig(d_model=24, n_heads=4, kv_rank=10, nope_dim=6, rope_dim=4, v_dim=5)
>>> layer = LatentAttention(config).double()
>>> x = torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(0)).double()
>>> cos, sin = turns(torch.arange(7), rope_frequencies(4, base=10_000.0).double())
>>> explicit, absorbed = (layer(x, cos, sin, form=f) for f in ("explicit", "absorbed"))
>>> torch.allclose(explicit, absorbed, atol=1e-12)
True
>>> V3.cached_numbers, 2 * V3.n_heads * 128  # per token and layer: latents, keys and values
(576, 32768)

    uv run weeks/18/latent_attention.py

Source: DeepSeek-AI, "DeepSeek-V2" (2024), section 2.1 and appendix C, eq. 37 to 47.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.require import require
from week18.llama3 import RMSNorm
from week18.rotary import rotate

Form = Literal["explicit", "absorbed"]
FORMS = ("explicit", "absorbed")
Stream = Float[Tensor, "batch seq d_model"]
Turn = Float[Tensor, "row 1 seq half_dim"]  # cosines or sines, for each row or for all
Heads = Float[Tensor, "batch head seq dim"]
Allowed = Bool[Tensor, "#batch 1 seq key"]


@dataclass(frozen=True)
class LatentConfig:
    """Sizes of one layer; Hugging Face's names are in `week18.deepseek_twin`.

    Attributes
    ----------
    kv_rank
        Size of the latent that keys and values are unfolded from.
    nope_dim, rope_dim
        Sizes of a query's two parts: content, which knows no position, and the turned one.
    v_dim
        Size of a head's value.
    q_rank
        Size of the queries' own latent; None computes them in one matrix. It saves no cache.
    """

    d_model: int
    n_heads: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    q_rank: int | None = None
    norm_eps: float = 1e-6

    def __post_init__(self):
        for name in ("d_model", "n_heads", "kv_rank", "nope_dim", "rope_dim", "v_dim"):
            size = getattr(self, name)
            require(size >= 1, f"{name} must be at least 1", size)
        none = self.q_rank is None
        require(none or self.q_rank >= 1, "q_rank must be None or at least 1", self.q_rank)
        require(self.rope_dim % 2 == 0, "rope_dim must be even", self.rope_dim)
        require(self.norm_eps >= 0, "norm_eps must be at least 0", self.norm_eps)

    @property
    def cached_numbers(self) -> int:
        """What a token leaves behind in each layer: the latent and the shared rotary key."""
        return self.kv_rank + self.rope_dim

    def operations(self, new: int, keys: int, form: Form) -> int:
        """Floating-point operations between projections and output, for `new` queries.

        Explicit attention unfolds every key once per call, whoever asks; absorbed attention works
        at the latent's width, which costs more per pair of query and key.
        """
        unfold = self.kv_rank * (self.nope_dim + self.v_dim)
        if form == "explicit":
            pair = self.nope_dim + self.rope_dim + self.v_dim
            return 2 * self.n_heads * (keys * unfold + new * keys * pair)
        pair = 2 * self.kv_rank + self.rope_dim
        return 2 * self.n_heads * (new * unfold + new * keys * pair)


V2 = LatentConfig(5120, 128, 512, 128, 64, 128, q_rank=1536)  # in each of 60 layers
V3 = LatentConfig(7168, 128, 512, 128, 64, 128, q_rank=1536)  # in each of 61 layers


def turns(
    positions: Int[Tensor, "seq"] | Int[Tensor, "batch seq"], frequencies: Float[Tensor, "half_dim"]
) -> tuple[Turn, Turn]:
    """Cosines and sines of every position's angles."""
    rows = positions.reshape(-1, 1, positions.shape[-1], 1).to(frequencies.dtype)
    angles = rows * frequencies
    return angles.cos(), angles.sin()


def turn_neighbors(x: Heads, cos: Turn, sin: Turn) -> Heads:
    """Turn the pairs (2i, 2i + 1), as DeepSeek's weights want; even ones come out first.

    Queries and keys come out in the same order, so no score notices it.
    """
    return rotate(torch.cat([x[..., 0::2], x[..., 1::2]], dim=-1), cos, sin)


# ---- the cache


class LatentCache:
    """Latents and rotary keys of a batch, in memory that is set aside once.

    No gradient flows through a cache.
    """

    def __init__(
        self,
        config: LatentConfig,
        *,
        n_layers: int,
        batch: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        shape = (n_layers, batch, max_length)
        for name, size in zip(("n_layers", "batch", "max_length"), shape, strict=True):
            require(size >= 1, f"{name} must be at least 1", size)
        self.length, self.max_length = 0, max_length
        self._latents = torch.zeros(*shape, config.cached_numbers, dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes set aside."""
        return self._latents.numel() * self._latents.element_size()

    def update(
        self, layer: int, latents: Float[Tensor, "batch new width"]
    ) -> Float[Tensor, "batch key width"]:
        """Write what new tokens leave behind; return a view of that of all tokens so far."""
        end, rows = self.length + latents.shape[1], self._latents.shape[1]
        require(end <= self.max_length, f"cache holds at most max_length = {self.max_length}", end)
        require(len(latents) == rows, f"latents must have batch = {rows} rows", len(latents))
        self._latents[layer, :, self.length : end] = latents.detach()
        return self._latents[layer, :, :end]

    def advance(self, n: int) -> None:
        """Every layer has stored its n new tokens."""
        self.length += n

    def crop(self, length: int) -> None:
        """Forget all tokens after the first `length`."""
        fits = 0 <= length <= self.length
        require(fits, f"length must be between 0 and {self.length}", length)
        self.length = length


# ---- the layer


class LatentAttention(nn.Module):
    """Attention whose keys and values are unfolded from a latent (DeepSeek-V2, appendix C)."""

    def __init__(self, config: LatentConfig, layer: int = 0):
        super().__init__()
        c = self.config = config
        self.layer, queries = layer, c.n_heads * (c.nope_dim + c.rope_dim)
        if c.q_rank is None:
            self.q_proj = nn.Linear(c.d_model, queries, bias=False)
        else:
            self.q_down = nn.Linear(c.d_model, c.q_rank, bias=False)
            self.q_norm = RMSNorm(c.q_rank, c.norm_eps)
            self.q_up = nn.Linear(c.q_rank, queries, bias=False)
        self.kv_down = nn.Linear(c.d_model, c.cached_numbers, bias=False)
        self.kv_norm = RMSNorm(c.kv_rank, c.norm_eps)
        self.kv_up = nn.Linear(c.kv_rank, c.n_heads * (c.nope_dim + c.v_dim), bias=False)
        self.out_proj = nn.Linear(c.n_heads * c.v_dim, c.d_model, bias=False)

    def forward(
        self,
        x: Stream,
        cos: Turn,
        sin: Turn,
        cache: LatentCache | None = None,
        allowed: Allowed | None = None,
        *,
        form: Form | None = None,
    ) -> Stream:
        """What attention adds to the stream; without `allowed` all keys must be new, or one query.

        Parameters
        ----------
        form
            The same numbers either way; None takes the form with fewer operations.
        """
        latents = self.remembered(x, cos, sin)
        if cache is not None:
            latents = cache.update(self.layer, latents)
        content, turned = self.queries(x, cos, sin)
        if form is None:
            cost = {f: self.config.operations(x.shape[1], latents.shape[1], f) for f in FORMS}
            form = min(cost, key=cost.get)
        require(form in FORMS, f"form must be one of {', '.join(FORMS)}", repr(form))
        attend = self.explicit if form == "explicit" else self.absorbed
        heads = attend(content, turned, latents, allowed)
        return self.out_proj(heads.transpose(1, 2).flatten(2))

    def queries(
        self, x: Stream, cos: Turn, sin: Turn
    ) -> tuple[Float[Tensor, "batch head seq nope"], Float[Tensor, "batch head seq rope"]]:
        """The content part and the turned part of each head's query."""
        c = self.config
        flat = self.q_proj(x) if c.q_rank is None else self.q_up(self.q_norm(self.q_down(x)))
        heads = flat.unflatten(-1, (c.n_heads, -1)).transpose(1, 2)
        content, turned = heads.split([c.nope_dim, c.rope_dim], dim=-1)
        return content, turn_neighbors(turned, cos, sin)

    def remembered(self, x: Stream, cos: Turn, sin: Turn) -> Float[Tensor, "batch seq width"]:
        """What the cache holds: the normalized latent beside the turned key, which has no norm."""
        latent, key = self.kv_down(x).split([self.config.kv_rank, self.config.rope_dim], dim=-1)
        key = turn_neighbors(key[:, None], cos, sin)[:, 0]
        return torch.cat([self.kv_norm(latent), key], dim=-1)

    def explicit(
        self,
        content: Float[Tensor, "batch head seq nope"],
        turned: Float[Tensor, "batch head seq rope"],
        latents: Float[Tensor, "batch key width"],
        allowed: Allowed | None,
    ) -> Float[Tensor, "batch head seq v_dim"]:
        """Unfold keys and values of every head, then attend as usual."""
        c = self.config
        latent, shared = latents.split([c.kv_rank, c.rope_dim], dim=-1)
        unfolded = self.kv_up(latent).unflatten(-1, (c.n_heads, -1)).transpose(1, 2)
        k, v = unfolded.split([c.nope_dim, c.v_dim], dim=-1)
        k = torch.cat([k, shared[:, None].expand(-1, c.n_heads, -1, -1)], dim=-1)
        return self._attend(torch.cat([content, turned], dim=-1), k, v, allowed)

    def absorbed(
        self,
        content: Float[Tensor, "batch head seq nope"],
        turned: Float[Tensor, "batch head seq rope"],
        latents: Float[Tensor, "batch key width"],
        allowed: Allowed | None,
    ) -> Float[Tensor, "batch head seq v_dim"]:
        """Ask in the latent's own terms: one key for all heads, and its first part is the value."""
        c = self.config
        unfold = self.kv_up.weight.unflatten(0, (c.n_heads, -1))
        up_k, up_v = unfold.split([c.nope_dim, c.v_dim], dim=1)  # (head, dim, kv_rank) each
        q = torch.cat([content @ up_k, turned], dim=-1)
        k = latents[:, None].expand(-1, c.n_heads, -1, -1)
        return self._attend(q, k, k[..., : c.kv_rank], allowed) @ up_v.mT

    def _attend(self, q, k, v, allowed) -> Tensor:
        scale = (self.config.nope_dim + self.config.rope_dim) ** -0.5  # in both forms
        causal = allowed is None and q.shape[2] > 1
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=causal, scale=scale
        )


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
