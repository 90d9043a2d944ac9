r"""Attention: a soft look-up, from the formula to the multi-head layer.

A query $q_i$ is compared with every key $k_j$; the softmax turns the scores into weights that are
positive and sum to one, and the output is that average of the values (eq. 1 of the paper):

$$ \mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V . $$

    uv run weeks/13/attention.py

Vaswani et al. (2017), "Attention is all you need", sections 3.2.1 and 3.2.2; grouped heads:
Ainslie et al. (2023), "GQA".
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

LOOK_UP_SYMBOLS, LOOK_UP_PAIRS = 32, 8

# ---- scaled dot-product attention


def causal_mask(
    query_len: int, key_len: int, device: torch.device | str | None = None
) -> Bool[Tensor, "query key"]:
    """Which keys each query may see when nobody sees the future; True means "may attend".

    The queries are the *last* `query_len` positions of the keys, so the same function serves a
    whole sequence (`query_len == key_len`) and one new token beside a cache (`query_len == 1`).
    """
    if not 0 <= query_len <= key_len:
        raise ValueError(f"query_len must be between 0 and key_len = {key_len}, got {query_len}")
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
    """Softmax over the keys of the scaled scores; every row sums to one, or to zero if it is empty.

    Parameters
    ----------
    q, k
        Queries and keys. `kv_head` divides `head`: with fewer key heads, query heads
        0 … head/kv_head - 1 share key head 0, and so on.
    mask
        Broadcastable to (batch, head, query, key). Boolean: True may attend. Float: added to the
        scores. To hide padding of shape (batch, key), pass `keep[:, None, None, :]`.
    is_causal
        Also apply `causal_mask`.
    scale
        Factor of the scores; $1/\\sqrt{d}$ if not given.

    Returns
    -------
    weights
        A query that may attend to nothing gets a row of zeros where a bare softmax gives NaN.
    """
    _validate(q, k, mask)
    key = _repeat_heads(k, q.shape[1])
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = scale * (q @ key.transpose(-2, -1))
    if is_causal:
        causal = causal_mask(q.shape[2], k.shape[2], device=q.device)
        scores = scores.masked_fill(~causal, -torch.inf)
    if mask is None:
        return scores.softmax(dim=-1)
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    # exp(-inf - max) is 0/0 in a row of -inf: its scores are made finite before the softmax, so
    # that the backward pass is finite too, and the row is erased after it.
    empty = (scores == -torch.inf).all(dim=-1, keepdim=True)
    return scores.masked_fill(empty, 0.0).softmax(dim=-1).masked_fill(empty, 0.0)


def scaled_dot_product_attention(
    q: Float[Tensor, "batch head query dim"],
    k: Float[Tensor, "batch kv_head key dim"],
    v: Float[Tensor, "batch kv_head key value_dim"],
    *,
    mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch head query value_dim"]:
    """Average of the values under `attention_weights`, which documents the other parameters.

    Parameters
    ----------
    dropout
        Probability of dropping a weight, applied whenever it is positive: a module passes 0 at
        evaluation. The kept weights grow by 1/(1 - dropout), so the expectation stays.
    generator
        Source of the dropout's randomness; torch's global one if not given.

    References
    ----------
    Vaswani et al. (2017), eq. 1. Differs from `F.scaled_dot_product_attention` where queries are
    fewer than keys: there `is_causal` takes the queries for the *first* positions.
    """
    if v.shape[:-1] != k.shape[:-1]:
        raise ValueError(
            f"v must have the batch, heads and length of k {tuple(k.shape[:-1])}, "
            f"got {tuple(v.shape[:-1])}"
        )
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    weights = attention_weights(q, k, mask=mask, is_causal=is_causal, scale=scale)
    if dropout > 0.0:
        uniform = torch.rand(
            weights.shape, generator=generator, device=q.device, dtype=torch.float32
        )
        weights = weights * (uniform >= dropout) / (1 - dropout)
    return weights @ _repeat_heads(v, q.shape[1])


def _repeat_heads(x: Tensor, n_heads: int) -> Tensor:
    """Give every query head its key head: a a b b, not a b a b."""
    groups = n_heads // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def _validate(q: Tensor, k: Tensor, mask: Tensor | None) -> None:
    if q.shape[-1] != k.shape[-1] or q.shape[0] != k.shape[0]:
        raise ValueError(
            f"q and k must agree in batch and dim, got {tuple(q.shape)} and {tuple(k.shape)}"
        )
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"the heads of q must be a multiple of those of k, got {q.shape[1]} and {k.shape[1]}"
        )
    if mask is not None:
        scores = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        fits = mask.ndim <= 4 and all(
            m in (1, s) for m, s in zip(mask.shape[::-1], scores[::-1], strict=False)
        )
        if not fits:
            raise ValueError(
                "mask must broadcast to (batch, head, query, key) = "
                f"{scores}, got {tuple(mask.shape)}"
            )


# ---- several heads


class MultiHeadAttention(nn.Module):
    """Attention in `n_heads` learned subspaces at once, for self- and cross-attention.

    Parameters
    ----------
    d_model
        Width of the input and of the output; every head works in d_model / n_heads dimensions.
    n_heads
        Number of query heads.
    n_kv_heads
        Number of key and value heads, a divisor of `n_heads`: fewer of them shrink the cache of
        a decoder (grouped-query attention; 1 is multi-query). As many as `n_heads` if not given.
    bias
        Whether the four projections have one.
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
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"n_heads must divide d_model = {d_model}, got {n_heads}")
        if n_kv_heads < 1 or n_heads % n_kv_heads:
            raise ValueError(f"n_kv_heads must divide n_heads = {n_heads}, got {n_kv_heads}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.head_dim, self.dropout = d_model // n_heads, dropout
        self.q_proj = nn.Linear(d_model, n_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(d_model, n_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(d_model, n_kv_heads * self.head_dim, bias=bias)
        self.out_proj = nn.Linear(n_heads * self.head_dim, d_model, bias=bias)

    def _heads(
        self, x: Float[Tensor, "batch seq width"], n_heads: int
    ) -> Float[Tensor, "batch {n_heads} seq head_dim"]:
        # view then transpose: a view straight to (batch, head, seq, dim) mixes heads with positions
        return x.view(x.shape[0], x.shape[1], n_heads, self.head_dim).transpose(1, 2)

    def _queries_keys(self, x: Tensor, context: Tensor | None, rope: Callable | None):
        if rope is not None and context is not None:
            raise ValueError("rope needs queries and keys of one sequence, got a context")
        q = self._heads(self.q_proj(x), self.n_heads)
        k = self._heads(self.k_proj(x if context is None else context), self.n_kv_heads)
        return (q, k) if rope is None else (rope(q), rope(k))

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        context: Float[Tensor, "batch key d_model"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        is_causal: bool = False,
        rope: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """Attend from `x` to `context`, or to itself without one.

        Parameters
        ----------
        mask, is_causal
            As in `attention_weights`.
        rope
            Rotation of queries and keys, (batch, head, seq, dim) to the same.
        """
        q, k = self._queries_keys(x, context, rope)
        v = self._heads(self.v_proj(x if context is None else context), self.n_kv_heads)
        heads = scaled_dot_product_attention(
            q, k, v, mask=mask, is_causal=is_causal, dropout=self.dropout if self.training else 0.0
        )
        return self.out_proj(heads.transpose(1, 2).flatten(2))

    def weights(
        self,
        x: Float[Tensor, "batch query d_model"],
        context: Float[Tensor, "batch key d_model"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        is_causal: bool = False,
        rope: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "batch head query key"]:
        """The attention maps that `forward` averages with, before dropout."""
        q, k = self._queries_keys(x, context, rope)
        return attention_weights(q, k, mask=mask, is_causal=is_causal)


# ---- what it shows


class LookUp(nn.Module):
    """One attention over a small dictionary: asked for a key, answer with its value."""

    def __init__(self, n_symbols: int, dim: int, scale: float | None):
        super().__init__()
        self.query, self.key, self.value = (nn.Embedding(n_symbols, dim) for _ in range(3))
        self.out, self.scale = nn.Linear(dim, n_symbols), scale

    def weights(
        self, asked: Int[Tensor, "batch asked"], keys: Int[Tensor, "batch pair"]
    ) -> Float[Tensor, "batch 1 asked pair"]:
        """Attention of each asked symbol over the stored keys, in one head."""
        return attention_weights(
            self.query(asked)[:, None], self.key(keys)[:, None], scale=self.scale
        )

    def forward(
        self,
        asked: Int[Tensor, "batch asked"],
        keys: Int[Tensor, "batch pair"],
        values: Int[Tensor, "batch pair"],
    ) -> Float[Tensor, "batch asked symbol"]:
        """Logits of the answers."""
        return self.out(self.weights(asked, keys)[:, 0] @ self.value(values))


def train_look_up(
    steps: int, seed: int, *, dim: int, scale: float | None = None, shuffled: bool = False
) -> tuple[LookUp, list[float], float]:
    """Train on random dictionaries; return the model, its losses and its accuracy on new ones."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = LookUp(LOOK_UP_SYMBOLS, dim, scale)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for step in range(steps + 1):
        size = (128, LOOK_UP_SYMBOLS)
        keys = torch.rand(size, generator=generator).argsort(dim=1)[:, :LOOK_UP_PAIRS]
        values = torch.randint(LOOK_UP_SYMBOLS, keys.shape, generator=generator)
        logits = model(keys[:, :1], keys, values)[:, 0]
        answers = values[:, 0]
        if step == steps:  # one more batch, never trained on
            return model, losses, (logits.argmax(dim=-1) == answers).float().mean().item()
        if shuffled:
            answers = answers[torch.randperm(len(answers), generator=generator)]
        loss = nn.functional.cross_entropy(logits, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    raise AssertionError("unreachable")


def copy_from_torch(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> MultiHeadAttention:
    """Load the packed weights of torch's layer into ours (self- or cross-attention)."""
    weights, biases = theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)
    with torch.no_grad():
        for i, layer in enumerate((ours.q_proj, ours.k_proj, ours.v_proj)):
            layer.weight.copy_(weights[i])
            layer.bias.copy_(biases[i])
    ours.out_proj.load_state_dict(theirs.out_proj.state_dict())
    return ours


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
