r"""Backpropagation by hand: each layer pulls a gradient back, and a graph adds where paths meet.

A layer computes $y = f(x)$ and keeps what it needs to turn the gradient of the loss by its output
into those by its input and its parameters, by its transposed Jacobian:

$$ \bar x = \Big(\frac{\partial y}{\partial x}\Big)^{\!\top} \bar y, \qquad
   \bar \theta \mathrel{+}= \Big(\frac{\partial y}{\partial \theta}\Big)^{\!\top} \bar y . $$

The $+$ is half of the method: a value used twice gets the sum of what its uses send back.
No layer forms its Jacobian. All gradients here are written by hand, none by automatic
differentiation, which is week 08. The layers themselves are in `layers.py`.

>>> from week07.layers import Tanh
>>> block = residual(Tanh())  # x + tanh(x)
>>> y, cache = block.forward(np.zeros((1, 1)))
>>> block.backward(np.ones((1, 1)), cache)  # x is read twice, and tanh has slope 1 at 0
array([[2.]])

    uv run weeks/07/backprop_from_scratch.py

Source: D. Rumelhart, G. Hinton and R. Williams, *Learning Internal Representations by Error
Propagation* (1986), section "The generalized delta rule"; P. Werbos (1974); Griewank and Walther,
*Evaluating Derivatives*, 2nd ed. (2008), section 3.2.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require
from week07.layers import Add, Layer


class Graph(Layer):
    """Layers wired in order: each names the earlier values that it reads; 0 is the input.

    Parameters
    ----------
    nodes
        Pairs (layer, sources): node i computes value i from values below i, so that the list is
        in topological order by construction. The last value is the output.
    """

    def __init__(self, nodes: Sequence[tuple[Any, tuple[int, ...]]]):
        require(nodes, "nodes must hold at least one layer, got none")
        for i, (_, sources) in enumerate(nodes, 1):
            earlier = all(0 <= source < i for source in sources)
            require(earlier, f"node {i} must read values 0 to {i - 1}", sources)
        self.nodes = list(nodes)
        unique = {id(p): p for layer, _ in nodes for p in layer.parameters}
        self.parameters = tuple(unique.values())  # a shared one is one

    def forward(self, x: Any) -> tuple[Any, Any]:
        """Compute the values in order."""
        values, caches = [x], []
        for layer, sources in self.nodes:
            y, cache = layer.forward(*(values[source] for source in sources))
            values.append(y)
            caches.append(cache)
        return values[-1], caches

    def backward(self, dy: Any, caches: Any) -> Any:
        """Go back in reverse order; when a node's turn comes, all its readers have reported."""
        grads: list = [None] * len(self.nodes) + [dy]
        for i in range(len(self.nodes), 0, -1):
            layer, sources = self.nodes[i - 1]
            if grads[i] is None:
                continue  # nobody reads this value
            found = layer.backward(grads[i], caches[i - 1])
            found = found if isinstance(found, tuple) else (found,)
            for source, grad in zip(sources, found, strict=True):
                # Two readers: the sum. A new array, for `grad` may belong to another branch too.
                grads[source] = grad if grads[source] is None else grads[source] + grad
        return grads[0]


def chain(*layers: Any) -> Graph:
    """One after the other."""
    return Graph([(layer, (i,)) for i, layer in enumerate(layers)])


def residual(layer: Any) -> Graph:
    """x + layer(x): the input is read twice, so its gradient is a sum of two."""
    return Graph([(layer, (0,)), (Add(), (0, 1))])


# ---- losses


@checked
def cross_entropy(
    Z: Float[np.ndarray, "n k"], y: Int[np.ndarray, " n"]
) -> tuple[float, Float[np.ndarray, "n k"]]:
    """Mean of -ln softmax(Z)[y], and its gradient (softmax(Z) - one-hot) / n."""
    known = len(Z) and 0 <= y.min() <= y.max() < Z.shape[1]
    require(known, f"y must hold classes from 0 to {Z.shape[1] - 1}, at least one", y)
    rows = np.arange(len(Z))
    shifted = Z - Z.max(axis=1, keepdims=True)  # cancels, and keeps exp from overflowing
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    dZ = np.exp(log_p)
    dZ[rows, y] -= 1
    return -float(log_p[rows, y].mean()), dZ / len(Z)


@checked
def squared_error(
    Y: Float[np.ndarray, "*shape"], target: Float[np.ndarray, "*shape"]
) -> tuple[float, Float[np.ndarray, "*shape"]]:
    """Mean over all entries of (Y - target)², and its gradient."""
    require(Y.size, "Y must have at least one entry", Y.shape)
    return float(((Y - target) ** 2).mean()), 2 * (Y - target) / Y.size


# ---- the tool to copy


def gradient_check(
    loss: Callable[[], float],
    arrays: Sequence[tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]],
    *,
    step: float = 6e-6,
) -> float:
    """Largest error of gradients by central differences, each relative to its array's largest.

    Parameters
    ----------
    loss
        Computes the loss from the arrays as they are now.
    arrays
        Pairs of a float64 array that `loss` reads and the gradient to be tested; each entry is
        moved by ±`step` and put back.
    step
        ∛ε, where truncation (∝ step²) and rounding (∝ 1/step) balance for values of order 1.

    Returns
    -------
    error
        1e-6 or below is right; 1e-2 or above is a bug, or a kink within `step` of an input.
    """
    require(0 < step < np.inf, "step must be positive and finite", step)
    worst = 0.0
    for array, gradient in arrays:
        double = array.dtype == np.float64
        require(double, "arrays must be float64 to leave digits", array.dtype)
        must = f"a gradient must have its array's shape {array.shape}"
        require(gradient.shape == array.shape, must, gradient.shape)
        numeric = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + step
            above = loss()
            array[index] = kept - step
            numeric[index] = (above - loss()) / (2 * step)
            array[index] = kept
        size = max(np.abs(numeric).max(initial=0), np.abs(gradient).max(initial=0), 1e-12)
        worst = max(worst, float(np.abs(numeric - gradient).max(initial=0) / size))
    return worst


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
