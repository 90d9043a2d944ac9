r"""Sequential minimal optimization: the solver of `svm.py`, two variables at a time.

Changing one $\alpha_i$ alone would break $\sum_i \alpha_i y_i = 0$; two can move together, and
along that line the dual is a parabola whose top is known:

$$\delta = \frac{e_i - e_j}{K_{ii} + K_{jj} - 2 K_{ij}}, \qquad
  y_i \alpha_i \leftarrow y_i \alpha_i + \delta, \quad
  y_j \alpha_j \leftarrow y_j \alpha_j - \delta,$$

cut off where a box constraint stops it, with errors $e_i = y_i - \sum_j \alpha_j y_j K_{ij}$.

>>> X, y = np.array([[0.0], [4.0]]), np.array([-1.0, 1.0])
>>> found = smo(kernel_matrix(X, X, "linear"), y, C=10.0)
>>> print(found.alpha, found.bias)  # the margin is 4 wide: w = 1/2, ½ |w|² = 1/8
[0.125 0.125] -1.0

Source: Platt (1998); Fan, Chen & Lin (2005); Keerthi et al., "Improvements to Platt's SMO
algorithm", Neural Computation 13 (2001), for the stopping rule. Titles stand in `svm.py`.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from shared.arguments import checked
from shared.require import require

KERNELS = ("linear", "poly", "rbf")
SELECTIONS = ("maximal violating pair", "second order")


@checked
def kernel_matrix(
    A: Float[np.ndarray, "m n_features"],
    B: Float[np.ndarray, "n n_features"],
    kernel: str = "rbf",
    *,
    gamma: float | int = 1.0,
    degree: float | int = 3,
    coef0: float | int = 0.0,
) -> Float[np.ndarray, "m n"]:
    """Dot products of the rows of A and B in the kernel's feature space.

    They are ``"linear"`` x·z, ``"poly"`` (γ x·z + coef0)^degree or ``"rbf"`` exp(-γ |x - z|²), with
    γ in inverse squared units of the features.
    """
    require(kernel in KERNELS, f"kernel must be one of {', '.join(KERNELS)}", repr(kernel))
    require(0 < gamma < np.inf, "gamma must be a positive number", gamma)
    products = A @ B.T
    if kernel == "linear":
        return products
    if kernel == "poly":
        return (gamma * products + coef0) ** degree
    products *= 2.0  # in place from here on: a matrix each time takes longer than the sums
    squares = np.subtract((A**2).sum(axis=1)[:, None] + (B**2).sum(axis=1), products, out=products)
    # Rounding makes the squared distance of a point from itself a little negative.
    squares = np.maximum(squares, 0.0, out=squares)
    squares *= -gamma
    return np.exp(squares, out=squares)


class Solution(NamedTuple):
    """What `smo` found.

    Attributes
    ----------
    alpha
        The dual variables, exactly 0 or C at the bounds.
    errors
        y_i - Σ_j α_j y_j K_ij, the labels minus the outputs without bias.
    violation
        max(errors over I_up) - min(errors over I_low): 0 or less if and only if α is optimal.
    """

    alpha: Float[np.ndarray, " n"]
    errors: Float[np.ndarray, " n"]
    bias: float
    n_iter: int
    violation: float


def movable(
    alpha: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], C: float | int
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Where y_i α_i may grow (I_up) and where it may shrink (I_low); Fan et al. (2005), eq. 4."""
    below, above = alpha < C, alpha > 0
    return np.where(y > 0, below, above), np.where(y > 0, above, below)


def smo_steps(
    K: Float[np.ndarray, "n n"],
    y: Float[np.ndarray, " n"],
    C: float | int,
    *,
    tol: float | int = 1e-3,
    selection: str = "second order",
    leaps: bool = True,
) -> Iterator[tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], float]]:
    """Yield α, the errors and the violation, from α = 0 on, each step in the same arrays.

    Parameters
    ----------
    tol
        Stop once no pair violates the optimality conditions by more, in units of the output.
    selection
        How the second variable is chosen: the most violating, or the one whose step gains most.
    leaps
        Whether to `leap` where pairs crawl: after 5 n steps, and then after every n / 4.

    References
    ----------
    Fan, Chen & Lin (2005), algorithm 2 with WSS 1 and WSS 2; the closed-form step is Platt (1998),
    eqs. 16-18.
    """
    alpha, errors, signs = np.zeros(len(y)), y.astype(np.float64), y.tolist()
    # |φ(x_i) - φ(x_j)|²; it is zero for twins, whose step is then as long as the box allows.
    curvatures = np.add.outer(K.diagonal(), K.diagonal())
    curvatures -= 2 * K
    np.maximum(curvatures, 1e-12, out=curvatures)
    shut_up, shut_low = (np.where(may, 0.0, -np.inf) for may in movable(alpha, y, C))
    steps_to_leap = 5 * len(y)
    while True:
        i = int((errors + shut_up).argmax())
        gaps = errors[i] - errors + shut_low
        j = int(gaps.argmax())
        violation = float(gaps[j])
        yield alpha, errors, violation
        if violation <= tol:
            return
        if leaps and steps_to_leap == 0:
            leap(K, y, C, alpha, errors)
            shut_up, shut_low = (np.where(may, 0.0, -np.inf) for may in movable(alpha, y, C))
            steps_to_leap = 1 + len(y) // 4
            continue
        steps_to_leap -= 1
        curvature = curvatures[i]
        if selection == "second order":  # a gap below 0 gains nothing
            j = int((gaps * np.abs(gaps) / curvature).argmax())

        # Moving y_i α_i up by a step and y_j α_j down by the same keeps Σ α y = 0.
        alpha_i, alpha_j = alpha.item(i), alpha.item(j)
        room_i = C - alpha_i if signs[i] > 0 else alpha_i
        room_j = alpha_j if signs[j] > 0 else C - alpha_j
        step = min(gaps.item(j) / curvature.item(j), room_i, room_j)
        # At a bound α must equal it to the last bit: I_up and I_low depend on it.
        alpha_i = (C if signs[i] > 0 else 0.0) if step == room_i else alpha_i + signs[i] * step
        alpha_j = (0.0 if signs[j] > 0 else C) if step == room_j else alpha_j - signs[j] * step
        errors -= step * (K[i] - K[j])
        for k, now in ((i, alpha_i), (j, alpha_j)):  # as `movable` has it
            below, above = 0.0 if now < C else -np.inf, 0.0 if now > 0 else -np.inf
            shut_up[k], shut_low[k] = (below, above) if signs[k] > 0 else (above, below)
            alpha[k] = now


def leap(
    K: Float[np.ndarray, "n n"],
    y: Float[np.ndarray, " n"],
    C: float | int,
    alpha: Float[np.ndarray, " n"],
    errors: Float[np.ndarray, " n"],
) -> None:
    """Move all free α at once to where they would be optimal, in place; bounds stop them.

    In a long valley of the dual two-variable steps take forever. With the others held at their
    bounds the top is the solution of linear equations, K u + b = errors with Σ u = 0, u = y δα.
    Whatever reaches a bound on the way stays there, and the rest goes on: n variables in all.

    References
    ----------
    Nocedal and Wright, *Numerical Optimization* (2nd edition, 2006), section 16.5.
    """
    moved = 0
    while True:
        free = np.flatnonzero((alpha > 0) & (alpha < C))
        m, moved = len(free), moved + len(free)
        if m < 2 or moved > len(y):
            return
        Q, e = K[np.ix_(free, free)], errors[free] - errors[free].mean()
        bordered = np.ones((m + 1, m + 1))
        bordered[m, m] = 0.0
        bordered[:m, :m] = Q + 1e-12 * (Q.trace() / m or 1.0) * np.eye(m)  # twins have room to move
        u = np.linalg.solve(bordered, np.append(e, 0.0))[:m]
        u -= u.mean()
        slope, curvature = e @ u, u @ Q @ u
        if slope <= 0:  # rounding: it is there
            return
        delta = y[free] * u
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(delta > 0, C - alpha[free], alpha[free]) / np.abs(delta)
        first = int(np.nanargmin(room))
        step = min(slope / curvature if curvature > 0 else np.inf, room[first])
        alpha[free] = np.clip(alpha[free] + step * delta, 0.0, C)
        errors -= K[:, free] @ (step * u)
        if step < room[first]:
            return
        alpha[free[first]] = C if delta[first] > 0 else 0.0


@checked
def smo(
    K: Float[np.ndarray, "n n"],
    y: Float[np.ndarray, " n"],
    C: float | int,
    *,
    tol: float | int = 1e-3,
    max_iter: int = 1_000_000,
    selection: str = "second order",
    leaps: bool = True,
) -> Solution:
    """Solve the dual of the soft-margin support vector machine, two variables at a time.

    Parameters
    ----------
    y
        Labels -1 and +1, both present.
    max_iter
        Steps after which to stop regardless, with a warning.
    """
    require(np.isfinite(K).all(), "K must be finite")
    both = set(np.unique(y)) == {-1.0, 1.0}
    require(both, "y must hold the labels -1 and 1, both of them", np.unique(y))
    for name, value in (("C", C), ("tol", tol), ("max_iter", max_iter)):
        require(0 < value < np.inf, f"{name} must be a positive number", value)
    require(selection in SELECTIONS, f"selection must be one of {SELECTIONS}", repr(selection))
    steps = smo_steps(K, y, C, tol=tol, selection=selection, leaps=leaps)
    for n_iter, (alpha, errors, violation) in enumerate(steps):  # noqa: B007
        if n_iter >= max_iter:
            break
    if violation > tol:
        warnings.warn(
            f"smo stopped at max_iter = {max_iter} with violation {violation:.2g} > tol = {tol}",
            stacklevel=3,
        )
    return Solution(alpha, errors, bias_of(alpha, errors, y, C), n_iter, violation)


@checked
def bias_of(
    alpha: Float[np.ndarray, " n"],
    errors: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    C: float | int,
) -> float:
    """The b for which free support vectors lie on the margin, y_i (f(x_i) + b) = 1."""
    free = (alpha > 0) & (alpha < C)
    if free.any():
        return float(errors[free].mean())
    up, low = movable(alpha, y, C)  # any b between the two is optimal
    return float(errors[up].max() + errors[low].min()) / 2


@checked
def objectives(
    alpha: Float[np.ndarray, " n"],
    errors: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    C: float | int,
) -> tuple[float, float]:
    """Primal ½|w|² + C Σ max(0, 1 - y f) and dual objective; they meet at the optimum only."""
    squared_norm = (alpha * y) @ (y - errors)
    slack = np.maximum(0.0, y * (errors - bias_of(alpha, errors, y, C)))
    return float(squared_norm / 2 + C * slack.sum()), float(alpha.sum() - squared_norm / 2)
