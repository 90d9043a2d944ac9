r"""The law L(N, D) = E + A/N^alpha + B/D^beta and how to fit it: Huber loss, L-BFGS, bootstrap.

Hoffmann et al.'s approach 3. The objective has flat valleys and several minima, so it is descended
from a grid of starts; here all starts, and later all bootstrap resamples, go down side by side as
rows of one array.

>>> law = Law(E=1.7, A=20.0, B=100.0, alpha=0.5, beta=0.4)
>>> n, d = (grid.ravel() for grid in np.meshgrid([1e3, 1e4, 1e5], [1e5, 1e6, 1e7]))
>>> fitted, _ = fit_law(n, d, law.loss(n, d))
>>> round(fitted.E, 2), round(fitted.alpha, 2), round(fitted.beta, 2), round(fitted.exponent, 2)
(1.7, 0.5, 0.4, 0.44)

Sources: Hoffmann et al., "Training compute-optimal large language models" (2022), section 3.3;
Nocedal & Wright, "Numerical optimization" (2006), algorithms 3.1 and 7.4.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from shared.require import require


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(
        self, n_weights: Float[np.ndarray, "*shape"], n_tokens: Float[np.ndarray, "*shape"]
    ) -> Float[np.ndarray, "*shape"]:
        """Predicted loss (nats per token)."""
        return self.E + self.A * n_weights**-self.alpha + self.B * n_tokens**-self.beta

    @property
    def exponent(self) -> float:
        """a: the best N grows as C^a, the best D as C^(1 - a)."""
        return self.beta / (self.alpha + self.beta)

    def optimum(
        self, budget: Float[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """N and D that minimize the loss subject to 6ND = budget (equation 4)."""
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        n_opt = ratio * (budget / 6) ** self.exponent
        return n_opt, budget / 6 / n_opt


class Residuals:
    """Huber loss of log residuals and its gradient, for many parameter vectors at once.

    Parameters are (a, alpha, b, beta, e) with A = exp(a), B = exp(b), E = exp(e), so that all
    terms stay positive. Logarithms of N and D are centered: the same law, but a and alpha no longer
    pull against each other along a narrow valley. Hoffmann et al. (2022), equation 3, delta = 1e-3.
    """

    def __init__(
        self,
        n_weights: Float[np.ndarray, " run"],
        n_tokens: Float[np.ndarray, " run"],
        loss: Float[np.ndarray, " run"],
        delta: float = 1e-3,
    ):
        for name, values in {"n_weights": n_weights, "n_tokens": n_tokens, "loss": loss}.items():
            fine = np.isfinite(values).all() and (values > 0).all()
            require(fine, f"{name} must be positive and finite", values.min())
        require(len(loss) >= 5, "five parameters need at least 5 runs", len(loss))
        require(delta > 0, "delta must be positive", delta)
        self.center = np.log(n_weights).mean(), np.log(n_tokens).mean()
        self.x = np.log(n_weights) - self.center[0]
        self.y = np.log(n_tokens) - self.center[1]
        self.target, self.delta = np.log(loss), delta

    def __call__(
        self, theta: Float[np.ndarray, "fit 5"], counts: Float[np.ndarray, "fit run"]
    ) -> tuple[Float[np.ndarray, " fit"], Float[np.ndarray, "fit 5"]]:
        """Objective and gradient; `counts` says how often each run is taken (bootstrap)."""
        a, alpha, b, beta, e = theta.T[:, :, None]
        terms = np.stack([a - alpha * self.x, b - beta * self.y, e + 0 * self.x])
        top = terms.max(0)
        shares = np.exp(terms - top)
        total = shares.sum(0)
        shares /= total
        residual = top + np.log(total) - self.target
        clipped = np.clip(residual, -self.delta, self.delta)  # the Huber loss's derivative
        value = clipped * (residual - clipped / 2)
        # divided by delta: far from zero it is |residual|, not something of the size of 1e-5
        pull = counts * clipped / self.delta
        of_n, of_d, of_e = pull * shares
        gradient = [of_n, -of_n * self.x, of_d, -of_d * self.y, of_e]
        return (counts * value).sum(-1) / self.delta, np.stack([g.sum(-1) for g in gradient], -1)

    def law(self, theta: Float[np.ndarray, "5"]) -> Law:
        """Undo the centering and the logarithms."""
        a, alpha, b, beta, e = map(float, theta)
        x, y = self.center
        return Law(math.exp(e), math.exp(a + alpha * x), math.exp(b + beta * y), alpha, beta)


def lbfgs(
    objective: Callable,
    x: Float[np.ndarray, "fit p"],
    data: Float[np.ndarray, "fit run"],
    *,
    memory: int = 10,
    max_iterations: int = 200,
    tolerance: float = 1e-7,
) -> tuple[Float[np.ndarray, "fit p"], Float[np.ndarray, " fit"]]:
    """Minimize many small problems side by side by limited-memory BFGS with backtracking.

    `objective(x, data)` gives values (fit,) and gradients (fit, p); `data` says what each problem
    is about, row by row. Returns where each problem ended, and its value there. Nocedal & Wright
    (2006), algorithm 7.4 (two-loop recursion) and 3.1 (backtracking).
    """
    x = x.copy()
    value, gradient = objective(x, data)
    moves = np.zeros((0, *x.shape))  # s = x' - x and y = g' - g, oldest first
    bends = np.zeros((0, *x.shape))
    active = np.arange(len(x))
    for _ in range(max_iterations):
        active = active[np.abs(gradient[active]).max(-1) > tolerance]
        if not len(active):
            break
        s, y = moves[:, active], bends[:, active]
        curvature = (s * y).sum(-1)
        # where a problem moved without gaining curvature, its pair is left out (weight 0)
        rho = np.where(curvature > 1e-12, 1 / np.maximum(curvature, 1e-12), 0.0)[..., None]
        q, alphas = gradient[active], []
        for i in reversed(range(len(s))):
            alphas.append(rho[i] * (s[i] * q).sum(-1, keepdims=True))
            q = q - alphas[-1] * y[i]
        norm = np.maximum(np.linalg.norm(q, axis=-1, keepdims=True), 1.0)
        scale = 1 / norm
        for i in range(len(s)):
            newest = curvature[i][:, None] / np.maximum((y[i] ** 2).sum(-1, keepdims=True), 1e-300)
            scale = np.where(rho[i] > 0, newest, scale)
        q = q * scale
        for i, alpha in enumerate(reversed(alphas)):
            q = q + s[i] * (alpha - rho[i] * (y[i] * q).sum(-1, keepdims=True))
        slope = -(gradient[active] * q).sum(-1)
        step, open_rows = np.ones(len(active)), np.arange(len(active))
        s_new, y_new = np.zeros_like(x), np.zeros_like(x)
        for _ in range(30):
            rows = active[open_rows]
            move = -step[open_rows, None] * q[open_rows]
            trial, slopes = objective(x[rows] + move, data[rows])
            good = trial <= value[rows] + 1e-4 * step[open_rows] * slope[open_rows]
            done = rows[good]
            s_new[done], y_new[done] = move[good], slopes[good] - gradient[done]
            x[done], value[done], gradient[done] = x[done] + move[good], trial[good], slopes[good]
            open_rows = open_rows[~good]
            if not len(open_rows):
                break
            step[open_rows] /= 2
        active = np.delete(active, open_rows)  # no descent left at machine precision
        moves = np.concatenate([moves, s_new[None]])[-memory:]
        bends = np.concatenate([bends, y_new[None]])[-memory:]
    return x, value


def grid_of_starts() -> Float[np.ndarray, "fit 5"]:
    """Starts for the centered parameters: terms of e^-2 to 1 nat, exponents 0.1 to 1.2."""
    size, power = (-1.5, 0.0), (0.1, 0.5, 1.2)
    return np.array(list(itertools.product(size, power, size, power, (-2.0, 0.3))))


def fit_law(
    n_weights: Float[np.ndarray, " run"],
    n_tokens: Float[np.ndarray, " run"],
    loss: Float[np.ndarray, " run"],
    *,
    delta: float = 1e-3,
    n_resamples: int = 0,
    rng: np.random.Generator | None = None,
) -> tuple[Law, list[Law]]:
    """The best of the fits from all starts, and `n_resamples` bootstrap fits.

    A resample draws as many runs with replacement and starts from the best fit and from two
    of the grid's corners.
    """
    residuals = Residuals(n_weights, n_tokens, loss, delta)
    starts = grid_of_starts()
    x, value = lbfgs(residuals, starts, np.ones((len(starts), len(loss))))
    best = x[np.argmin(value)]
    if not n_resamples:
        return residuals.law(best), []
    require(rng is not None, f"n_resamples = {n_resamples} needs an rng", "none")
    runs = len(loss)
    counts = rng.multinomial(runs, np.full(runs, 1 / runs), n_resamples).astype(float)
    tries = [
        lbfgs(residuals, np.tile(start, (n_resamples, 1)), counts)
        for start in (best, starts[20], starts[-21])
    ]
    winner = np.argmin([value for _, value in tries], axis=0)
    fits = np.array([x for x, _ in tries])[winner, np.arange(n_resamples)]
    return residuals.law(best), [residuals.law(theta) for theta in fits]
