r"""Attention: a soft look-up, from the formula to the multi-head layer.

A query $q_i$ is compared with every key $k_j$; the softmax turns the scores into weights that are
positive and sum to one, and the output is that average of the values (eq. 1 of the paper):

$$ \mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V . $$

>>> q, k, v = (torch.tensor(x).view(1, 1, -1, 1) for x in ([1.0], [math.log(3), 0.0], [4.0, 8.0]))
>>> attention_weights(q, k).flatten()  # softmax of (ln 3, 0)
tensor([0.7500, 0.2500])
>>> scaled_dot_product_attention(q, k, v).item()
5.0

    uv run weeks/13/attention.py

Vaswani et al. (2017), "Attention is all you need", sections 3.2.1 and 3.2.2; grouped heads:
Ainslie et al. (2023), "GQA".
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared.require import require

# ---- scaled dot-product attention


def causal_mask(
    query_len: int, key_len: int, device: torch.device | str | None = None
) -> Bool[Tensor, "query key"]:
    """Which keys each query may see when nobody sees the future; True means "may attend".

    The queries are the *last* `query_len` positions of the keys, so the same function serves a
    whole sequence (`query_len == key_len`) and one new token beside a cache (`query_len == 1`).
    """
    must = f"query_len must be between 0 and key_len = {key_len}"
    require(0 <= query_len <= key_len, must, query_len)
    query = torch.arange(key_len - query_len, key_len, device=device)
    return torch.arange(key_len, device=device) <= query[:, None]


def attention_weights(
    q: Float[Tensor, "batch head query dim"],
    k: Float[Tensor, "batch kv_head key dim"],
    *,
    mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "batch head query key"]:
    """Softmax over the keys of the scaled scores; zeros where a query may attend to nothing.

    Parameters
    ----------
    q, k
        `kv_head` divides `head`: with fewer key heads, query heads 0 … head/kv_head - 1 share
        key head 0, and so on.
    mask
        Broadcastable to (batch, head, query, key). Boolean: True may attend. Float: added to the
        scores. To hide padding of shape (batch, key), pass `keep[:, None, None, :]`.
    is_causal
        Also apply `causal_mask`.
    scale
        Factor of the scores; $1/\\sqrt{d}$ if not given.
    """
    _validate(q, k, mask)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = scale * (q @ _repeat_heads(k, q.shape[1]).transpose(-2, -1))
    if is_causal:
        scores = scores.masked_fill(~causal_mask(*scores.shape[2:], q.device), -torch.inf)
    if mask is None:
        return scores.softmax(dim=-1)
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    # In a row of -inf, -inf minus the maximum is NaN: its scores are made finite before the
    # softmax, so that the backward pass is finite too, and the row is erased after it.
    empty = (scores == -torch.inf).all(dim=-1, keepdim=True)
    return scores.masked_fill(empty, 0.0).softmax(dim=-1).masked_fill(empty, 0.0)


def scaled_dot_product_attention(
    q: Float[Tensor, "batch head query dim"],
    k: Float[Tensor, "batch kv_head key dim"],
    v: Float[Tensor, "batch kv_head key value_dim"],
    *,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    **options,
) -> Float[Tensor, "batch head query value_dim"]:
    """Average of the values under `attention_weights`, which takes the further options (eq. 1).

    Parameters
    ----------
    dropout
        Probability of dropping a weight: a module passes 0 at evaluation.

    Notes
    -----
    Differs from `F.scaled_dot_product_attention` where queries are fewer than keys: there
    `is_causal` takes the queries for the *first* positions.
    """
    require(0.0 <= dropout < 1.0, "dropout must be in [0, 1)", dropout)
    shape = tuple(k.shape[:-1])
    must = f"v must have the batch, heads and length of k {shape}"
    require(v.shape[:-1] == k.shape[:-1], must, tuple(v.shape[:-1]))
    weights = attention_weights(q, k, **options)
    if dropout > 0.0:
        uniform = torch.rand(weights.shape, generator=generator, device=q.device)
        weights = weights * (uniform >= dropout) / (1 - dropout)
    return weights @ _repeat_heads(v, q.shape[1])


def _repeat_heads(x: Tensor, n_heads: int) -> Tensor:
    """Give every query head its key head: a a b b, not a b a b."""
    groups = n_heads // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def _validate(q: Tensor, k: Tensor, mask: Tensor | None) -> None:
    same = q.shape[-1] == k.shape[-1] and q.shape[0] == k.shape[0]
    require(same, "q and k must agree in batch and dim", tuple(q.shape), tuple(k.shape))
    heads, kv_heads = q.shape[1], k.shape[1]
    must = "the heads of q must be a multiple of those of k"
    require(kv_heads and heads % kv_heads == 0, must, heads, kv_heads)
    if mask is not None:
        dtype = getattr(mask, "dtype", "")
        known = isinstance(mask, Tensor) and (dtype == torch.bool or mask.is_floating_point())
        must = "mask must be a tensor of booleans, or of floats to add"
        require(known, must, f"{type(mask).__name__} {dtype}")
        scores = (q.shape[0], heads, q.shape[2], k.shape[2])
        sides = zip(mask.shape[::-1], scores[::-1], strict=False)
        fits = mask.ndim <= 4 and all(m in (1, s) for m, s in sides)
        must = f"mask must broadcast to (batch, head, query, key) = {scores}"
        require(fits, must, tuple(mask.shape))


# ---- several heads


class MultiHeadAttention(nn.Module):
    """Attention in `n_heads` learned subspaces at once, for self- and cross-attention.

    Parameters
    ----------
    d_model
        Width of the input and of the output; every head works in d_model / n_heads dimensions.
    n_kv_heads
        Number of key and value heads, a divisor of `n_heads`: fewer of them shrink the cache of
        a decoder (grouped-query attention; 1 is multi-query). As many as `n_heads` if not given.
    dropout
        Dropout of the attention weights, in training only.

    References
    ----------
    Vaswani et al. (2017), section 3.2.2; Ainslie et al. (2023), section 2.2.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        divides = n_heads >= 1 and d_model % n_heads == 0
        require(divides, f"n_heads must divide d_model = {d_model}", n_heads)
        divides = n_kv_heads >= 1 and n_heads % n_kv_heads == 0
        require(divides, f"n_kv_heads must divide n_heads = {n_heads}", n_kv_heads)
        require(0.0 <= dropout < 1.0, "dropout must be in [0, 1)", dropout)
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.head_dim, self.dropout = d_model // n_heads, dropout
        self.q_proj = nn.Linear(d_model, n_heads * self.head_dim)
        self.k_proj = nn.Linear(d_model, n_kv_heads * self.head_dim)
        self.v_proj = nn.Linear(d_model, n_kv_heads * self.head_dim)
        self.out_proj = nn.Linear(n_heads * self.head_dim, d_model)

    def _heads(
        self, x: Float[Tensor, "batch seq width"], n_heads: int
    ) -> Float[Tensor, "batch {n_heads} seq head_dim"]:
        # view then transpose: a view straight to (batch, head, seq, dim) mixes heads with positions
        return x.view(x.shape[0], x.shape[1], n_heads, self.head_dim).transpose(1, 2)

    def _queries_keys(self, x: Tensor, memory: Tensor | None, rope: Callable | None):
        must = "rope needs queries and keys of one sequence"
        require(rope is None or memory is None, must, "a memory")
        q = self._heads(self.q_proj(x), self.n_heads)
        k = self._heads(self.k_proj(x if memory is None else memory), self.n_kv_heads)
        return (q, k) if rope is None else (rope(q), rope(k))

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        memory: Float[Tensor, "batch key d_model"] | None = None,
        *,
        rope: Callable[[Tensor], Tensor] | None = None,
        **options,
    ) -> Float[Tensor, "batch query d_model"]:
        """Attend from `x` to `memory`, or to itself without one.

        Parameters
        ----------
        rope
            Rotation of queries and keys, (batch, head, seq, dim) to the same.
        options
            `mask` and `is_causal`, as in `attention_weights`.
        """
        q, k = self._queries_keys(x, memory, rope)
        v = self._heads(self.v_proj(x if memory is None else memory), self.n_kv_heads)
        options["dropout"] = self.dropout if self.training else 0.0
        heads = scaled_dot_product_attention(q, k, v, **options)
        return self.out_proj(heads.transpose(1, 2).flatten(2))

    def weights(
        self,
        x: Float[Tensor, "batch query d_model"],
        memory: Float[Tensor, "batch key d_model"] | None = None,
        *,
        rope: Callable[[Tensor], Tensor] | None = None,
        **options,
    ) -> Float[Tensor, "batch head query key"]:
        """The attention maps that `forward` averages with, before dropout."""
        return attention_weights(*self._queries_keys(x, memory, rope), **options)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
