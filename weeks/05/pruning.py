r"""Pruning a tree by cost and complexity: what gains least per leaf goes first.

A large tree $T$ is cut back to the subtree that minimizes $R(T) + \alpha |T|$, where $R$ is the
impurity of its leaves, weighted, and $|T|$ their number. The branch $T_t$ below node $t$ pays up to

$$ \alpha(t) = \frac{R(t) - R(T_t)}{|T_t| - 1} , $$

so cutting the node of least $\alpha(t)$, the weakest link, again and again passes through the best
subtree of every $\alpha$.

>>> import numpy as np
>>> from week05.decision_tree import DecisionTreeRegressor
>>> X, y = np.arange(4.0)[:, None], np.array([1.0, 2.0, 7.0, 8.0])
>>> alphas, impurities, _ = pruning_path(DecisionTreeRegressor().fit(X, y).tree_)
>>> print(alphas, impurities)
[0.    0.125 0.125 9.   ] [0.    0.125 0.25  9.25 ]

Source: L. Breiman, J. Friedman, R. Olshen and C. Stone, *Classification and Regression Trees*
(1984), section 3.3; Hastie, Tibshirani and Friedman, *The Elements of Statistical Learning* (2nd
edition, 2009), equation 9.16.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Nodes(NamedTuple):
    """A tree as arrays over its nodes, parents before children; feature -1 marks a leaf."""

    feature: Int[np.ndarray, " node"]
    threshold: Float[np.ndarray, " node"]
    left: Int[np.ndarray, " node"]
    right: Int[np.ndarray, " node"]
    value: Float[np.ndarray, "node k"]  # label shares, or the mean
    impurity: Float[np.ndarray, " node"]
    weight: Float[np.ndarray, " node"]
    n_samples: Int[np.ndarray, " node"]


def pruning_path(
    nodes: Nodes,
) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, " step"], Int[np.ndarray, " node"]]:
    """Cut the weakest link until only the root is left.

    Returns
    -------
    alphas, impurities
        Of each subtree in turn, the full tree first: the α from which on it is optimal, and R.
    step
        The step at which each node stops being split; 0 for leaves.
    """
    R = nodes.weight * nodes.impurity / nodes.weight[0]
    inner, step = nodes.feature >= 0, np.zeros(len(R), dtype=int)
    alphas, impurities = [0.0], [float(R[~inner].sum())]
    branch, leaves, parent = R.copy(), np.ones(len(R)), np.full(len(R), -1)
    for t in np.flatnonzero(inner)[::-1]:  # children come after parents
        children = [nodes.left[t], nodes.right[t]]
        branch[t], leaves[t], parent[children] = branch[children].sum(), leaves[children].sum(), t
    while inner[0]:
        alpha = np.where(inner, (R - branch) / np.maximum(leaves - 1, 1), np.inf)
        weakest = int(alpha.argmin())
        # alphas ascend in exact arithmetic; rounding must not undo that
        alphas.append(max(float(alpha[weakest]), alphas[-1]))
        gone = [weakest]
        for t in gone:
            if inner[t]:
                inner[t], step[t] = False, len(alphas) - 1
                gone += [nodes.left[t], nodes.right[t]]
        lost, fewer = R[weakest] - branch[weakest], leaves[weakest] - 1
        impurities.append(float(impurities[-1] + lost))
        while weakest >= 0:  # the branches that held it are a little smaller and worse
            branch[weakest] += lost
            leaves[weakest] -= fewer
            weakest = parent[weakest]
    return np.array(alphas), np.array(impurities), step


def pruned(nodes: Nodes, ccp_alpha: float) -> Nodes:
    """The smallest subtree with the least R(T) + α |T|."""
    alphas, _, step = pruning_path(nodes)
    steps = int((alphas <= ccp_alpha).sum()) - 1
    inner = (nodes.feature >= 0) & (step > steps)
    keep = [0]
    for t in keep:
        keep += [nodes.left[t], nodes.right[t]] if inner[t] else []
    keep = np.sort(keep)
    new = np.full(len(inner), -1)
    new[keep] = np.arange(len(keep))
    nodes = Nodes(*(column[keep] for column in nodes))
    inner = inner[keep]
    return nodes._replace(
        feature=np.where(inner, nodes.feature, -1),
        left=np.where(inner, new[nodes.left], -1),
        right=np.where(inner, new[nodes.right], -1),
    )
