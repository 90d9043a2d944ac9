r"""Kimi K2's QK-clip: attention scores that cannot run away, whatever the optimizer does.

A score is a product, $q \cdot k = (W_q u)\cdot(W_k u)/\sqrt d$, so weights that grow together make
it grow twice. Muon moves every direction of a matrix equally far, and in large runs some heads'
scores explode. **MuonClip** is Muon and, after each step, one look per head at the largest score
$S_h$ that the step's batch had: where it is above $\tau$, the weights are scaled back,

$$\gamma_h = \frac{\tau}{\max(S_h, \tau)}, \qquad
  W_q^h \leftarrow \sqrt{\gamma_h}\, W_q^h, \quad W_k^h \leftarrow \sqrt{\gamma_h}\, W_k^h ,$$

so that on the same input the largest score is $\tau$. A key that several heads share cannot be
scaled for one of them: the query then takes all of $\gamma_h$. So it is with grouped heads, and
with the rotary part of multi-head latent attention.

>>> clip_factors(torch.tensor([150.0, -3.0, 100.0]), tau=100.0)
tensor([0.6667, 1.0000, 1.0000])
>>> q = k = torch.tensor([[[[3.0, 0.0], [0.0, 5.0]]]])
>>> largest_logits(q, k)  # 5 · 5 / √2
tensor([17.6777])

    uv run weeks/18/kimi_k2.py

Source: Kimi Team, "Kimi K2: open agentic intelligence" (2025), section 2.1 and algorithm 1. The
optimizer is `week09.muon`'s, the training loop `week18.training`'s.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require
from week18.llama3 import Block, Llama
from week18.rotary import rotate


@torch.no_grad()
def largest_logits(
    q: Float[Tensor, "batch head seq dim"],
    k: Float[Tensor, "batch kv_head seq dim"],
    *,
    scale: float | None = None,
) -> Float[Tensor, " head"]:
    """Largest score of each query head before the softmax, over the batch and all pairs in sight.

    `scale` is 1/√dim where none is given; scores of later keys, which the mask hides, do not count.
    """
    n_heads, n, dim = q.shape[1:]
    n_kv = k.shape[1]
    require(n_heads % n_kv == 0, f"n_kv_heads must divide n_heads = {n_heads}", n_kv)
    grouped = q.unflatten(1, (n_kv, -1))  # heads of one group share a key
    scores = grouped @ k[:, :, None].mT * (1 / math.sqrt(dim) if scale is None else scale)
    later = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(later, -torch.inf).amax((0, 3, 4)).flatten()


def clip_factors(largest: Float[Tensor, "*head"], tau: float) -> Float[Tensor, "*head"]:
    """How much each head's scores must shrink for none to be above `tau`: 1 for most.

    The maximum stands in the denominator, so a negative or zero score does no harm.
    """
    require(tau > 0, "tau must be positive", tau)
    require(largest.isfinite().all(), "largest must be finite scores", largest.tolist())
    return tau / largest.clamp(min=tau)


@torch.no_grad()
def clip_heads(
    q_weight: Float[Tensor, "q_rows d_model"],
    k_weight: Float[Tensor, "k_rows d_model"],
    factors: Float[Tensor, " head"],
    *,
    head_dim: int,
) -> None:
    """Scale the scores of each head by its factor, in place; rotary turns do not matter to it.

    With a key for each query head both weights take the square root. With fewer keys the query
    takes all, since a group's other heads would feel a change of their key.
    """
    q, k = q_weight.unflatten(0, (-1, head_dim)), k_weight.unflatten(0, (-1, head_dim))
    must = f"factors must be one for each of {len(q)} heads"
    require(len(factors) == len(q), must, len(factors))
    factors = factors.to(q)[:, None, None]
    if len(q) == len(k):
        q *= factors.sqrt()
        k *= factors.sqrt()
    else:
        q *= factors


@torch.no_grad()
def clip_latent(
    q_weight: Float[Tensor, "q_rows q_in"],
    kv_weight: Float[Tensor, "kv_rows latent"],
    factors: Float[Tensor, " head"],
    *,
    nope_dim: int,
) -> None:
    """The same for multi-head latent attention, in place (Kimi K2, algorithm 1).

    Parameters
    ----------
    q_weight
        Makes the queries: of each head `nope_dim` rows of content, then the rotary ones.
    kv_weight
        Makes keys and values out of the latent: of each head `nope_dim` rows of the key's content,
        then the value. The rotary key, which all heads share, is made elsewhere and stays.
    factors
        One per head.
    """
    n_heads = len(factors)
    for name, weight in (("q_weight", q_weight), ("kv_weight", kv_weight)):
        must = (
            f"{name} must have a multiple of {n_heads} rows, more than nope_dim = {nope_dim} each"
        )
        rows = len(weight)
        require(rows % n_heads == 0 and rows // n_heads > nope_dim, must, rows)
    factors = factors.to(q_weight)[:, None, None]
    q, kv = q_weight.unflatten(0, (n_heads, -1)), kv_weight.unflatten(0, (n_heads, -1))
    q[:, :nope_dim] *= factors.sqrt()
    q[:, nope_dim:] *= factors  # the shared rotary key takes no part
    kv[:, :nope_dim] *= factors.sqrt()  # the value's rows stay


class QKClip:
    """Watches the scores of a model in training and clips its heads after each optimizer step.

    Parameters
    ----------
    model
        Its blocks are watched from now on, except in `eval()`.
    tau
        Largest score allowed; None only watches.

    Attributes
    ----------
    history
        Largest score of each layer and head in the batches of each step, before it was clipped.
    """

    def __init__(self, model: Llama, tau: float | None):
        require(tau is None or tau > 0, "tau must be positive or None", tau)
        self.model, self.tau = model, tau
        self.largest: dict[int, Float[Tensor, " head"]] = {}
        self.history: list[Float[Tensor, "layer head"]] = []
        self.hooks = [block.register_forward_pre_hook(self.look) for block in model.blocks]

    @torch.no_grad()
    def look(self, block: Block, args: tuple) -> None:
        """Compute the scores that `block` is about to; the largest of several batches counts."""
        if not block.training:
            return
        x, cos, sin = args[:3]
        u = block.attention_norm(x)
        q, k = (
            rotate(project(u).unflatten(-1, (-1, block.head_dim)).transpose(1, 2), cos, sin)
            for project in (block.q_proj, block.k_proj)
        )
        found = largest_logits(q, k)
        before = self.largest.get(block.layer, found)
        self.largest[block.layer] = torch.maximum(before, found)

    def step(self) -> None:
        """Clip; to be called after the optimizer's step, with the scores from before it."""
        require(self.largest, "model must have computed scores before step is called", "none")
        self.history.append(torch.stack([self.largest[b.layer] for b in self.model.blocks]))
        if self.tau is not None:
            for block, largest in zip(self.model.blocks, self.history[-1], strict=True):
                factors = clip_factors(largest, self.tau)
                weights = block.q_proj.weight, block.k_proj.weight
                clip_heads(*weights, factors, head_dim=block.head_dim)
        self.largest = {}

    def close(self) -> None:
        """Watch no longer."""
        for hook in self.hooks:
            hook.remove()


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
