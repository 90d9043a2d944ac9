r"""Width against depth: any function with one hidden layer, and what a second costs less.

A layer of ReLUs is a sum of ramps, and a sum of ramps is any broken line. With knots $x_0 < \dots <
x_n$ and slopes $s_i$ between them,

$$ f_n(x) = f(x_0) + \sum_{i=0}^{n-1} (s_i - s_{i-1}) \max(x - x_i, 0), \qquad s_{-1} = 0, $$

is the interpolation of $f$, exact at the knots and off by at most $\|f''\|_\infty h^2 / 8$ between
them: $n$ units, error $O(1/n^2)$. Depth does not add pieces, it multiplies them: a tent folded $k$
times has $2^k$ of them with $2k$ ReLUs, and one hidden layer needs $2^k$. With tents,
$x^2$ costs $O(\log 1/\varepsilon)$ units.

>>> net = sawtooth(3)
>>> net.n_units, count_pieces(net)
(6, 8)
>>> square(2)(np.array([0.0, 0.25, 0.5, 1.0]))  # exact at multiples of 1/4
array([0.    , 0.0625, 0.25  , 1.    ])

    uv run weeks/07/universal_approximation.py

Source: G. Cybenko, *Approximation by superpositions of a sigmoidal function* (1989), theorem 2;
K. Hornik, *Approximation capabilities of multilayer feedforward networks* (1991), theorem 1; M.
Telgarsky, *Benefits of depth in neural networks* (2016), section 2, lemma 3.10; D. Yarotsky, *Error
bounds for approximations with deep ReLU networks* (2017), proposition 2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from shared.arguments import checked
from shared.require import require


@dataclass(frozen=True, eq=False)
class ReLUNetwork:
    """x → W_L relu(… relu(W_1 x + b_1) …) + b_L, for a number x.

    Attributes
    ----------
    weights, biases
        One matrix (out, in) and one vector (out) per layer; no ReLU after the last.
    """

    weights: list[np.ndarray]
    biases: list[np.ndarray]

    @checked
    def __call__(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The network's value at every x."""
        return self.outputs(x)[0]

    def outputs(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, "out n"]:
        """What leaves the last layer, which has no ReLU."""
        h = x[None]
        for i, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = W @ (np.maximum(h, 0) if i else h) + b[:, None]
        return h

    @property
    def n_units(self) -> int:
        """ReLUs."""
        return sum(len(b) for b in self.biases[:-1])

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return sum(W.size + b.size for W, b in zip(self.weights, self.biases, strict=True))

    def linearized(self) -> "ReLUNetwork":
        """The same weights with the identity for ReLU: all layers collapse into one line."""
        slope, offset = np.ones((1, 1)), np.zeros(1)
        for W, b in zip(self.weights, self.biases, strict=True):
            slope, offset = W @ slope, W @ offset + b
        return ReLUNetwork([slope], [offset])


def interpolator(
    f: Callable[[np.ndarray], np.ndarray], n: int, low: float = 0.0, high: float = 1.0
) -> ReLUNetwork:
    """One hidden layer of n ReLUs that interpolates f at n + 1 knots equally far apart.

    Raises
    ------
    ValueError
        No unit, or an interval without length.

    References
    ----------
    The broken line's error bound: de Boor, *A Practical Guide to Splines* (1978), chapter III.
    """
    require(n >= 1, "n must be at least 1", n)
    finite = np.isfinite(low) and np.isfinite(high)
    require(finite and low < high, "low must be less than high, both finite", low, high)
    knots = np.linspace(low, high, n + 1)
    values = np.asarray(f(knots), dtype=float)
    slopes = np.diff(values) / np.diff(knots)
    bends = np.diff(slopes, prepend=0.0)  # what each ramp adds to the slope so far
    return ReLUNetwork([np.ones((n, 1)), bends[None]], [-knots[:-1], np.array([values[0]])])


@checked
def tent(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """2x up to 1/2, 2 - 2x from there: [0, 1] is folded in the middle."""
    return 1 - np.abs(2 * x - 1)


def sawtooth(k: int) -> ReLUNetwork:
    """The tent applied k times, as k hidden layers of 2 ReLUs: 2^k pieces of slope ±2^k on [0, 1].

    References
    ----------
    Telgarsky (2016), section 2: tent(x) = 2 relu(x) - 4 relu(x - 1/2) for x in [0, 1].
    """
    require(k >= 1, "k must be at least 1", k)
    first, out = np.ones((2, 1)), np.array([[2.0, -4.0]])
    shift = np.array([0.0, -0.5])
    # Between two tents the output row of one and the input column of the next are one matrix.
    weights = [first, *[first @ out] * (k - 1), out]
    return ReLUNetwork(weights, [*[shift] * k, np.zeros(1)])


def square(m: int) -> ReLUNetwork:
    r"""x² on [0, 1] up to 4^-(m+1): $x - \sum_{s=1}^m \mathrm{tent}^{(s)}(x) / 4^s$.

    m hidden layers of 3 ReLUs; the third carries what is summed so far.

    References
    ----------
    Yarotsky (2017), proposition 2, where the sum is read off all layers; here it is passed on.
    """
    require(m >= 1, "m must be at least 1", m)
    weights = [np.array([[1.0], [1.0], [1.0]])]
    biases = [np.array([0.0, -0.5, 0.0])]
    for s in range(1, m + 1):
        tooth = np.array([2.0, -4.0, 0.0])
        rest = np.array([0.0, 0.0, 1.0]) - tooth / 4.0**s  # ≥ x² ≥ 0: the ReLU leaves it alone
        if s == m:
            weights.append(rest[None])
            biases.append(np.zeros(1))
        else:
            weights.append(np.stack([tooth, tooth, rest]))
            biases.append(np.array([0.0, -0.5, 0.0]))
    return ReLUNetwork(weights, biases)


def count_pieces(network: ReLUNetwork, low: float = 0.0, high: float = 1.0) -> int:
    """Intervals of [low, high] on which the network is a line, with the bends found exactly.

    Layer by layer: between two known bends every unit is a line, and can cross 0 once.
    """
    require(low < high, "low must be less than high", low, high)
    knots = np.array([low, high], dtype=float)
    for depth in range(1, len(network.weights)):
        before = ReLUNetwork(network.weights[:depth], network.biases[:depth])
        z = before.outputs(knots)  # (unit, knot), before the ReLU
        left, right = z[:, :-1], z[:, 1:]
        crossing = left * right < 0
        share = left[crossing] / (left[crossing] - right[crossing])
        where = np.broadcast_to(knots[:-1], left.shape)[crossing]
        width = np.broadcast_to(np.diff(knots), left.shape)[crossing]
        knots = np.unique(np.concatenate([knots, where + share * width]))
        knots = knots[np.r_[True, np.diff(knots) > 1e-12 * (high - low)]]
    slopes = np.diff(network(knots)) / np.diff(knots)
    return 1 + int(np.sum(np.abs(np.diff(slopes)) > 1e-6 * (1 + np.abs(slopes[1:]))))


def shape_of(n_hidden: int, n_parameters: int) -> list[int]:
    """Widths of a network 1 → w → … → w → 1 with about this many parameters.

    Raises
    ------
    ValueError
        If even width 1 has more.
    """

    def size(w: int) -> int:
        return 2 * w + (n_hidden - 1) * (w * w + w) + w + 1

    must = "n_hidden must be at least 1 and n_parameters enough for width 1"
    require(n_hidden >= 1 and size(1) <= n_parameters, must, n_hidden, n_parameters)
    w = 1
    while abs(size(w + 1) - n_parameters) <= abs(size(w) - n_parameters):
        w += 1
    return [1, *[w] * n_hidden, 1]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
