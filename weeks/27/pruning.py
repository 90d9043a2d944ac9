r"""Pruning: which weights can be set to zero, and how many of them exactly.

A mask $M \in \{0, 1\}$ keeps the weights with the largest scores. **Magnitude** takes $S = |w|$,
the oldest choice and a hard one to beat. **Movement** takes what fine-tuning does to a weight,

$$ S_{ij} = -\sum_t \Big(\frac{\partial L}{\partial W_{ij}} W_{ij}\Big)_t , $$

which grows while a weight moves away from zero and falls while it moves toward it. Scores are
compared within a *scope* (the whole model, a layer, or a row: the weights of one output), or within
each $m$ neighbors of a row, of which $n$ are kept: 2:4 is the pattern that hardware multiplies
faster. A mask does not make a layer smaller: `week27.structured_pruning` takes whole heads, neurons
and layers out.

>>> w = torch.tensor([[0.5, -0.1, 0.3, 0.2], [-2.0, 1.0, 3.0, -4.0]])
>>> masks({"w": w.abs()}, 0.5, scope="layer")["w"].int().tolist()  # the whole first row goes
[[0, 0, 0, 0], [1, 1, 1, 1]]
>>> mask = n_of_m(w.abs(), 2, 4)
>>> mask.int().tolist(), zeros([mask])
([[1, 0, 1, 0], [0, 0, 1, 1]], 4)

    uv run weeks/27/pruning.py

Sources: Han et al., "Learning both weights and connections" (2015), section 3; Sanh, Wolf & Rush,
"Movement pruning" (2020), section 4; Zhu & Gupta, "To prune, or not to prune" (2017), section 3;
Mishra et al., "Accelerating sparse deep neural networks" (2021), for 2:4.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require

Scope = Literal["model", "layer", "row"]


def to_prune(sparsity: float, n: int) -> int:
    """How many of n weights a sparsity means: the nearest whole number, as torch takes it."""
    require(0 <= sparsity <= 1, "sparsity must be in [0, 1]", sparsity)
    return round(sparsity * n)


@checked
def keep_largest(scores: Float[Tensor, "*group n"], kept: int) -> Bool[Tensor, "*group n"]:
    """True for exactly `kept` entries of each group; of equal scores the first ones are kept.

    A threshold alone ("prune what is below the k-th score", or at most it) would keep or prune all
    ties of it: a layer with many zeros, or few distinct values, then has not what was asked for.

    Raises
    ------
    ValueError
        If `kept` is not between 0 and n, or a score is NaN, which has no rank.
    """
    n = scores.shape[-1]
    require(0 <= kept <= n, f"kept must be between 0 and {n}", kept)
    require(not scores.isnan().any(), "scores must be numbers", "NaN")
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    least = scores.kthvalue(n - kept + 1, dim=-1, keepdim=True).values
    above, ties = scores > least, scores == least
    room = kept - above.sum(-1, keepdim=True)
    return above | (ties & (ties.cumsum(-1) <= room))


def masks(
    scores: Mapping[str, Float[Tensor, "..."]], sparsity: float, *, scope: Scope = "layer"
) -> dict[str, Bool[Tensor, "..."]]:
    """True for the weights that stay.

    Parameters
    ----------
    scores
        By layer, in the shape of its weights; rows are outputs.
    sparsity
        Share of each group that goes, rounded to a whole number of weights.
    scope
        What a group is: all weights of the ``model``, those of a ``layer``, or of a ``row``.

    Examples
    --------
    >>> scores = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0, 4.0]])}
    >>> {name: m.tolist() for name, m in masks(scores, 0.5, scope="model").items()}
    {'a': [[False, False]], 'b': [[True, True]]}

    References
    ----------
    Han et al. (2015), section 3.
    """
    require(scope in get_args(Scope), "scope must be model, layer or row", scope)
    require(len(scores) > 0, "scores must hold a layer", "none")
    if scope == "model":
        flat = torch.cat([s.flatten() for s in scores.values()])
        found = keep_largest(flat, len(flat) - to_prune(sparsity, len(flat)))
        parts = found.split([s.numel() for s in scores.values()])
        return {k: m.view_as(s) for (k, s), m in zip(scores.items(), parts, strict=True)}
    groups = {k: s if scope == "row" else s.reshape(1, -1) for k, s in scores.items()}
    sizes = {k: g.shape[-1] for k, g in groups.items()}
    kept = {k: n - to_prune(sparsity, n) for k, n in sizes.items()}
    return {k: keep_largest(g, kept[k]).view_as(scores[k]) for k, g in groups.items()}


@checked
def n_of_m(scores: Float[Tensor, "out in"], n: int, m: int) -> Bool[Tensor, "out in"]:
    """True for the n largest of each m neighboring inputs of a row.

    Raises
    ------
    ValueError
        If m does not divide the number of inputs, or n is not between 0 and m.

    References
    ----------
    Mishra et al. (2021), section 3.
    """
    check_pattern(n, m, scores.shape[1])
    return keep_largest(scores.unflatten(1, (-1, m)), n).flatten(1)


def check_pattern(n: int, m: int, n_in: int) -> None:
    """Refuse patterns that rows of `n_in` weights cannot have."""
    require(m >= 1, "m must be at least 1", m)
    require(0 <= n <= m, f"n must be between 0 and m = {m}", n)
    require(n_in % m == 0, f"m must divide the {n_in} inputs", m)


def zeros(found: Iterable[Tensor]) -> int:
    """How many entries are zero or False: of *masks* what was pruned, exactly.

    Of weights it would count also what was zero before, or became zero by rounding.
    """
    return sum(int((x == 0).sum()) for x in found)


# ---- while training


@checked
def masked(
    w: Float[Tensor, "*shape"], scores: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The weights that stay, with a gradient for the scores of *all* weights.

    Choosing the largest has no derivative. Movement pruning takes that of the identity (straight
    through), so that ∂L/∂S = ∂L/∂(w M) · w: gradient descent on S adds up the score above, and a
    pruned weight may come back. The weights themselves get a gradient where they stay.

    References
    ----------
    Sanh et al. (2020), section 4 and appendix A.1.
    """
    return w * (mask + (scores - scores.detach()))  # the bracket is 0, and has a gradient


class ScoredLinear(nn.Module):
    """A linear layer that keeps the weights with the largest of its scores, which are learned.

    Parameters
    ----------
    linear
        The trained layer; its weights are copied. Scores start at zero.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().clone())
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone())
        self.scores = nn.Parameter(torch.zeros_like(self.weight))
        self.sparsity = 0.0

    @property
    def mask(self) -> Bool[Tensor, "out in"]:
        """What stays at the present sparsity."""
        return masks({"": self.scores.detach()}, self.sparsity)[""]

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """The layer with its pruned weights at zero."""
        return F.linear(x, masked(self.weight, self.scores, self.mask), self.bias)


def cubic_sparsity(step: int, steps: int, final: float) -> float:
    """A schedule that prunes fast while there is much to spare, and slowly at the end.

    References
    ----------
    Zhu & Gupta (2017), equation 1, from sparsity 0.
    """
    require(0 <= step <= steps and steps > 0, f"step must be between 0 and steps = {steps}", step)
    require(0 <= final <= 1, "final must be in [0, 1]", final)
    return final * (1 - (1 - step / steps) ** 3)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
