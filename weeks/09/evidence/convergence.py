"""Checks, claims and figures of convergence."""

import math
from functools import partial

import numpy as np

from shared import plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week09.convergence import (
    bent_gradient,
    best_parameters,
    conjugate_gradient,
    gradient_descent,
    heavy_ball,
    iteration_matrix,
    nesterov,
    noise_floor,
    polyak_average,
    sgd,
    steps_until,
    take,
    worst_function,
)

COLORS = {
    "gradient descent": plots.ORANGE,
    "heavy ball": plots.PINK,
    "nesterov": plots.BLUE,
    "conjugate gradients": plots.GREEN,
}
TITLES = {"nesterov": "Nesterov"}


def dense_hessian(rng, eigenvalues) -> np.ndarray:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    q = np.linalg.qr(rng.normal(size=(len(eigenvalues), len(eigenvalues))))[0]
    return q * eigenvalues @ q.T


def method(name: str, grad, x0, m: float, L: float):
    """The points of a method with its best parameters for curvature in [m, L]."""
    lr, momentum, _ = best_parameters(name, m, L)
    if name == "nesterov":
        return nesterov(grad, x0, lr, momentum)
    return heavy_ball(grad, x0, lr, momentum)


class Logistic:
    """Mean logistic loss of labels ±1 that no line separates, with an L2 penalty m |w|²/2."""

    def __init__(self, rng, n=120, d=6, m=0.0):
        self.X = rng.normal(size=(n, d)) * np.logspace(0, -1, d)
        flips = np.where(rng.random(n) < 0.2, -1.0, 1.0)
        self.y = np.sign(self.X @ rng.normal(size=d)) * flips
        self.m, self.d = m, d
        self.L = np.linalg.eigvalsh(self.X.T @ self.X / n)[-1] / 4 + m

    def value(self, w):
        """Loss of the weights."""
        return np.logaddexp(0, -self.y * (self.X @ w)).mean() + self.m / 2 * w @ w

    def grad(self, w):
        """Its gradient, by hand."""
        share = 1 / (1 + np.exp(self.y * (self.X @ w)))
        return -self.X.T @ (self.y * share) / len(self.y) + self.m * w

    def minimum(self):
        """Minimizer and value, by a second-order method of scipy's."""
        from scipy.optimize import minimize

        start = np.zeros(self.d)
        found = minimize(self.value, start, jac=self.grad, method="BFGS", options={"gtol": 1e-10})
        return found.x, found.fun


# ---- iterates and spectra


def check_iterates(run: Run) -> None:
    """Points of each method against powers of a matrix, scipy, and torch's optimizers."""
    import torch
    from scipy.sparse.linalg import cg

    rng = np.random.default_rng([run.seed, 1])
    eigenvalues = np.geomspace(1.0, 50.0, 5)
    hessian, x0 = dense_hessian(rng, eigenvalues), rng.normal(size=5)
    for name in ("gradient descent", "heavy ball", "nesterov"):
        lr, momentum, _ = best_parameters(name, 1.0, 50.0)
        step = iteration_matrix(hessian, lr, momentum, name == "nesterov")
        both = np.concatenate([x0, x0])
        powers = [(np.linalg.matrix_power(step, k) @ both)[:5] for k in range(41)]
        run.check(f"{name}: 40 points on a quadratic",
                  take(method(name, hessian.__matmul__, x0, 1.0, 50.0), 40), np.array(powers),
                  against="numpy.linalg.matrix_power", atol=1e-12,
                  why="float64 rounding over 40 steps")  # fmt: skip

    b, points = rng.normal(size=5), []
    cg(hessian, b, rtol=1e-14, maxiter=4, callback=lambda x: points.append(x.copy()))
    ours = take(conjugate_gradient(hessian.__matmul__, b, np.zeros(5)), 4)
    run.check("conjugate gradients: 4 points", ours[1:], np.array(points),
              against="scipy.sparse.linalg.cg", atol=1e-12, why="float64 rounding")  # fmt: skip

    problem = Logistic(rng, m=0.02)
    X, y = torch.tensor(problem.X), torch.tensor(problem.y)

    def loss_of(w):
        return torch.nn.functional.softplus(-y * (X @ w)).mean() + 0.01 * w @ w

    w = torch.tensor(rng.normal(size=6), requires_grad=True)
    loss_of(w).backward()
    run.check("gradient of the logistic loss", problem.grad(w.detach().numpy()), w.grad,
              against="torch.autograd", atol=1e-15, why="float64 rounding")  # fmt: skip
    start = w.detach().numpy().copy()
    for ahead in (False, True):
        optimizer = torch.optim.SGD([w], lr=0.5, momentum=0.9, nesterov=ahead)
        w.data, theirs = torch.tensor(start), [start]
        for _ in range(50):
            optimizer.zero_grad()
            loss_of(w).backward()
            optimizer.step()
            theirs.append(w.detach().numpy().copy())
        ours = take((nesterov if ahead else heavy_ball)(problem.grad, start, 0.5, momentum=0.9), 50)
        if ahead:  # torch keeps the point ahead of x where the next gradient is taken
            ours[1:] = ours[1:] + 0.9 * np.diff(ours, axis=0)
        run.check(f"{'Nesterov' if ahead else 'heavy ball'}: 50 points on a logistic loss", ours,
                  np.array(theirs), against=f"torch.optim.SGD(nesterov={ahead})", atol=1e-12,
                  why="float64 rounding over 50 steps")  # fmt: skip


def check_spectra(run: Run) -> None:
    """Rates of the theorems against eigenvalues of the iteration matrix, and the edge 2/L."""
    rng = np.random.default_rng([run.seed, 2])
    theory, measured, ratios, names = [], [], [], []
    for kappa in (3.0, 30.0, 300.0):
        hessian = dense_hessian(rng, np.concatenate([[1.0, kappa], rng.uniform(1.0, kappa, 4)]))
        for name in ("gradient descent", "heavy ball", "nesterov"):
            lr, momentum, rate = best_parameters(name, 1.0, kappa)
            step = iteration_matrix(hessian, lr, momentum, name == "nesterov")
            theory.append(rate)
            measured.append(np.abs(np.linalg.eigvals(step)).max())
            names.append(name)
        ends = np.array([1.0, kappa])
        points = take(method("gradient descent", ends.__mul__, np.ones(2), 1.0, kappa), 20)
        values = (ends * points**2).sum(1) / 2
        ratios.append(values[1:] / values[:-1] / ((kappa - 1) / (kappa + 1)) ** 2)
    run.check("rates: (κ-1)/(κ+1), (√κ-1)/(√κ+1), 1 - 1/√κ", np.array(theory), np.array(measured),
              against="numpy.linalg.eigvals, random Hessians", atol=3e-7,
              why="the best momentum makes a double eigenvalue, which rounding splits by √ε ≈ 1e-8"
              " times its condition")  # fmt: skip
    run.check("gradient descent: f falls by ((κ-1)/(κ+1))² at every step", np.array(ratios),
              np.ones_like(ratios), against="theorem", rtol=1e-12,
              why="float64 rounding")  # fmt: skip
    ends = np.array([1.0, 30.0])
    sizes = {}
    for share in (1.98, 2.02):
        points = take(gradient_descent(ends.__mul__, np.ones(2), share / 30.0), 500)
        sizes[share] = np.linalg.norm(points[-1])
    run.claim(
        "a step just above 2/L diverges, one just below converges",
        bool(sizes[1.98] < 1e-3 and sizes[2.02] > 1e3),
        f"distance from 1.4 after 500 steps: {sizes[1.98]:.1e} at 1.98/L, {sizes[2.02]:.1e} at"
        " 2.02/L; rule: below 1e-3, above 1e3",
    )


def measure_condition(run: Run) -> None:
    """Steps to a millionth of the first error, against the condition number."""
    accuracy, n = 1e-6, run.budget(quick=200, default=1000)
    kappas = np.logspace(
        1, run.budget(quick=2.0, default=4.0, full=5.0), run.budget(quick=3, default=7)
    )
    nodes = (1 - np.cos(np.linspace(0, np.pi, n))) / 2  # crowded at both ends: hard for CG
    steps = {name: [] for name in COLORS}
    for kappa in kappas:
        eigenvalues, x0 = 1 + (kappa - 1) * nodes, np.ones(n)
        done = partial(_small, accuracy**2 * n)
        for name in COLORS:
            if name == "conjugate gradients":
                points = conjugate_gradient(eigenvalues.__mul__, np.zeros(n), x0)
            else:
                points = method(name, eigenvalues.__mul__, x0, 1.0, kappa)
            steps[name].append(steps_until(points, done, 3_000_000))
    title = "How many steps to a millionth of the error? κ of them, or √κ"
    with run.figure("condition", title, size=(8.0, 4.6)) as ax:
        fine = np.logspace(np.log10(kappas[0]), np.log10(kappas[-1]), 100)
        for name, color in COLORS.items():
            label = TITLES.get(name, name)
            ax.loglog(kappas, steps[name], "o-", color=color, lw=1.6, label=label)
        for rate in ((fine - 1) / (fine + 1), (np.sqrt(fine) - 1) / (np.sqrt(fine) + 1)):
            ax.plot(fine, math.log(accuracy) / np.log(rate), "--", color=plots.REFERENCE, lw=1.1)
        last = math.log(1 / accuracy) / 2
        ax.text(kappas[-1] / 3.5, last * kappas[-1] / 2.0, "(κ − 1)/(κ + 1) a step",
                color=plots.REFERENCE, ha="right", fontsize=10)  # fmt: skip
        ax.text(kappas[-1] / 9, last * np.sqrt(kappas[-1] / 5) / 2.2, "(√κ − 1)/(√κ + 1) a step",
                color=plots.REFERENCE, fontsize=10)  # fmt: skip
        ax.set(xlabel=r"condition number $\kappa = L/m$", ylabel="steps")
        plots.label_lines(ax)
    slopes = {k: np.polyfit(np.log(kappas), np.log(v), 1)[0] for k, v in steps.items()}
    for name, slope in slopes.items():
        run.metric(f"exponent of κ, {name}", slope, rtol=0.02)
    fast = [slopes[name] for name in COLORS if name != "gradient descent"]
    run.claim(
        "steps grow as κ without momentum and as √κ with it",
        bool(abs(slopes["gradient descent"] - 1) < 0.1 and max(abs(s - 0.5) for s in fast) < 0.1),
        ", ".join(f"{TITLES.get(k, k)} {v:.2f}" for k, v in slopes.items())
        + "; rule: within 0.1 of 1 and 1/2",
        quick=False,
    )
    hardest = -1
    run.metric("steps of gradient descent at the largest κ", steps["gradient descent"][hardest])
    run.metric("steps of heavy ball at the largest κ", steps["heavy ball"][hardest])
    run.metric("steps of conjugate gradients at the largest κ",
               steps["conjugate gradients"][hardest])  # fmt: skip


def _small(threshold: float, x: np.ndarray) -> bool:
    return float(x @ x) <= threshold


# ---- smooth convex functions


def show_lower_bound(run: Run) -> None:
    """The worst function in the world: between the upper bounds and the one below everybody."""
    last = run.budget(quick=20, default=160)
    ks = np.unique(np.geomspace(1, last, 14).astype(int))
    names = ("gradient descent", "nesterov", "conjugate gradients")
    gaps = {name: [] for name in names}  # each k has its own worst function, of 2k + 1 coordinates
    for k in ks:
        A, b, solution, minimum = _solved_worst_function(2 * int(k) + 1)
        for name in names:
            x = take(_without_strong_convexity(name, A, b), int(k))
            gap = ((x @ A) * x).sum(1) / 2 - x @ b - minimum
            gaps[name].append(gap[-1] / (solution @ solution))
    run.check("worst function: its minimizer", np.linalg.solve(A, b), solution,
              against="closed form 1 - i/(n+1)", atol=1e-10,
              why="condition number n² times float64 rounding")  # fmt: skip
    run.check("worst function: what conjugate gradients leave", gap,
              (1 / np.arange(1, last + 2) - 1 / (2 * last + 2)) / 8,
              against="closed form, best of the Krylov space", atol=1e-12,
              why="float64 rounding over all steps")  # fmt: skip
    run.check("Huber's function: gradient descent leaves L R²/(4k + 2) exactly",
              *_huber(range(1, 41)), against="Drori & Teboulle (2014)", rtol=1e-12,
              why="float64 rounding")  # fmt: skip
    gaps = {name: np.array(gap) for name, gap in gaps.items()}
    lower = 3 / (32 * (ks + 1) ** 2)
    least = {name: (gap / lower).min() for name, gap in gaps.items()}
    touching = gaps["conjugate gradients"][-1] / lower[-1]
    run.metric("conjugate gradients / lower bound at the last step", touching)
    run.metric("Nesterov / lower bound at the last step", gaps["nesterov"][-1] / lower[-1])
    bounds = {"gradient descent": 1 / (4 * ks + 2), "nesterov": 2 / (ks + 1) ** 2}
    within = [bool((gaps[name] <= bound * (1 + 1e-9)).all()) for name, bound in bounds.items()]
    run.claim(
        "nobody gets below 3LR²/(32(k+1)²), and conjugate gradients reach it",
        bool(min(least.values()) >= 1 and touching < 1.05),
        f"smallest gap / bound for k up to {last}: gradient descent"
        f" {least['gradient descent']:.2f}, Nesterov {least['nesterov']:.2f}, conjugate gradients"
        f" {least['conjugate gradients']:.3f}",
        quick=False,
    )

    problem = Logistic(np.random.default_rng([run.seed, 3]))
    w, minimum = problem.minimum()
    steps = run.budget(quick=60, default=1000)
    start, size = np.zeros(problem.d), w @ w * problem.L
    j = np.arange(steps + 1)
    real = {
        "gradient descent": gradient_descent(problem.grad, start, 1 / problem.L),
        "nesterov": nesterov(problem.grad, start, 1 / problem.L),
    }
    real = {
        name: np.array([problem.value(x) for x in take(points, steps)]) - minimum
        for name, points in real.items()
    }
    real_bounds = {"gradient descent": size / (4 * j + 2), "nesterov": 2 * size / (j + 1) ** 2}
    within += [bool((real[n] <= real_bounds[n] + 1e-12).all()) for n in real]
    run.claim(
        "both upper bounds hold at every step, on the worst function and on a logistic regression",
        all(within),
        f"up to {last} and {steps} steps; LR²/(4k+2) for gradient descent, 2LR²/(k+1)² for"
        " Nesterov",
    )
    found = minimum + min(real["nesterov"])
    tolerance = run.budget(quick=1e-2, default=1e-6)
    run.check("logistic regression: the minimum that Nesterov finds", found, minimum,
              against="scipy.optimize.minimize", atol=tolerance,
              why=f"the bound allows {real_bounds['nesterov'][-1]:.0e} here")  # fmt: skip

    title = "How fast can gradients go? Between theorem and theorem"
    with run.figure("smooth_convex", title, columns=2, size=(9.4, 4.4)) as axes:
        axes[0].fill_between(ks, lower, lower.min() / 4, color=plots.GRAY, alpha=0.2, lw=0)
        axes[0].plot(ks, lower, color=plots.REFERENCE, lw=1.2)
        for ax, x, curves, tops, form in (
            (axes[0], ks, gaps, bounds, "o"), (axes[1], j[1:], real, real_bounds, "-")
        ):  # fmt: skip
            for name, gap in curves.items():
                ax.plot(x, np.maximum(gap[-len(x) :], 1e-15), form, color=COLORS[name], ms=5.5,
                        label=TITLES.get(name, name))  # fmt: skip
                if name in tops:
                    ax.plot(x, tops[name][-len(x) :], "--", color=COLORS[name], lw=1.2)
            ax.set(xscale="log", yscale="log", xlabel="steps $k$")
        axes[0].set(ylim=(lower.min() / 4, 2), ylabel="$(f(x_k) - f^*)\\,/\\,(L R^2)$")
        axes[0].set_title("the worst function for $k$ steps", fontsize=11, weight="normal")
        axes[0].text(1.2, lower.min() * 1.5, "no method gets here", color=plots.REFERENCE)
        axes[0].legend(loc="upper right")
        axes[1].set(ylim=(1e-8, None), ylabel="$f(x_k) - f^*$")
        axes[1].set_title("a logistic regression", fontsize=11, weight="normal")
        axes[1].text(0.04, 0.06, "dashed: the theorems'\nupper bounds", color=plots.REFERENCE,
                     transform=axes[1].transAxes)  # fmt: skip


def _solved_worst_function(n: int):
    A, b = worst_function(n)
    return A, b, 1 - np.arange(1, n + 1) / (n + 1), (-1 + 1 / (n + 1)) / 8


def _without_strong_convexity(name: str, A, b):
    """Points of a method that knows L = 1 only, from the origin."""
    x0 = np.zeros_like(b)
    if name == "conjugate gradients":
        return conjugate_gradient(A.__matmul__, b, x0)
    return {"gradient descent": gradient_descent, "nesterov": nesterov}[name](
        lambda x: A @ x - b, x0, 1.0
    )


def _huber(steps) -> tuple[np.ndarray, np.ndarray]:
    """Gradient descent's gap after N steps on the Huber function made for N, and the theorem's."""
    gaps = []
    for n in steps:
        knee = 1 / (2 * n + 1)
        grad = partial(np.clip, a_min=-knee, a_max=knee)
        x = abs(take(gradient_descent(grad, np.ones(1), 1.0), n)[-1, 0])
        gaps.append(x * knee - knee**2 / 2 if x > knee else x**2 / 2)
    return np.array(gaps), 1 / (4 * np.array(steps) + 2)


# ---- failure on display


def show_counter_example(run: Run) -> None:
    """Heavy ball, perfectly tuned, on a strongly convex function: it cycles for ever."""
    steps, start = 90, np.array([3.3])
    paths = {
        name: take(method(name, bent_gradient, start, 1.0, 25.0), steps)[:, 0]
        for name in ("gradient descent", "heavy ball", "nesterov")
    }
    cycle = np.array([792.0, -2208.0, 2592.0]) / 1225
    run.check("the cycle of heavy ball", np.sort(paths["heavy ball"][-3:]), np.sort(cycle),
              against="Lessard, Recht & Packard (2016)", atol=1e-9,
              why="a contraction towards the cycle, and float64 rounding")  # fmt: skip
    control = abs(
        take(method("heavy ball", np.array([25.0]).__mul__, start, 1.0, 25.0), steps)[-1, 0]
    )
    others = max(abs(paths[name][-1]) for name in ("gradient descent", "nesterov"))
    nearest = np.abs(paths["heavy ball"][-30:]).min()
    run.claim(
        "heavy ball cycles on a strongly convex function where the others converge",
        bool(nearest > 0.5 and others < 1e-3 and control < 1e-6),
        f"|x| in its last 30 steps never below {nearest:.2f}; gradient descent and Nesterov below"
        f" {others:.0e}; control, the same heavy ball on 25 x²/2: {control:.0e}",
    )
    title = "Perfectly tuned momentum, strongly convex function, no convergence"
    with run.figure(
        "counter_example", title, columns=2, size=(9.2, 4.0), width_ratios=(1, 1.25)
    ) as axes:
        x = np.linspace(-2.7, 3.6, 400)
        axes[0].plot(x, _bent_value(x), color=plots.REFERENCE, lw=1.6)
        order = paths["heavy ball"][-4:]
        axes[0].plot(order, _bent_value(order), "-", color=COLORS["heavy ball"], lw=1.2, alpha=0.7)
        axes[0].plot(order, _bent_value(order), "o", color=COLORS["heavy ball"], ms=8)
        axes[0].plot(0, 0, "*", color=plots.GREEN, ms=13)
        axes[0].annotate("minimum", (0, 0), (0, -14), textcoords="offset points", ha="center",
                         va="top", color=plots.GREEN, fontsize=10)  # fmt: skip
        axes[0].set(xlabel="$x$", ylabel="$f(x)$", ylim=(-14, 95))
        axes[0].set_title("curvature 25, then 1, then 25", fontsize=11, weight="normal")
        for name, path in paths.items():
            shown = np.maximum(np.abs(path), 1e-9)  # an exact zero has no place on this axis
            axes[1].semilogy(shown, color=COLORS[name], lw=1.8)
        axes[1].set(xlabel="step", ylabel="$|x_k|$", ylim=(1e-5, 40))
        axes[1].set_title("distance from the minimum", fontsize=11, weight="normal")
        for x, y, name, text in (
            (4, 1e-4, "nesterov", "Nesterov: exactly 0 from step 2 on"),
            (30, 5e-3, "gradient descent", "gradient descent"),
            (66, 8.0, "heavy ball", "heavy ball"),
        ):
            axes[1].text(x, y, text, color=COLORS[name])


def _bent_value(x: np.ndarray) -> np.ndarray:
    return np.where(
        x < 1, 12.5 * x**2, np.where(x < 2, x**2 / 2 + 24 * x - 12, 12.5 * x**2 - 24 * x + 36)
    )


# ---- noise


def check_noise(run: Run) -> None:
    """The noise floor against a Lyapunov equation; 1/k steps against the sample mean."""
    from scipy.linalg import solve_discrete_lyapunov

    rng = np.random.default_rng([run.seed, 4])
    eigenvalues, sigma = np.array([0.1, 0.5, 1.0, 4.0]), 0.7
    hessian = dense_hessian(rng, eigenvalues)
    ours, theirs = [], []
    for momentum in (0.0, 0.5, 0.9):
        for lr in (0.4, 0.1, 0.01):
            step = iteration_matrix(hessian, lr, momentum)
            kicks = np.zeros_like(step)
            kicks[:4, :4] = lr**2 * sigma**2 * np.eye(4)
            stationary = solve_discrete_lyapunov(step, kicks)[:4, :4]
            vectors = np.linalg.eigh(hessian)[1]
            theirs.append(np.diag(vectors.T @ stationary @ vectors))
            ours.append(noise_floor(eigenvalues, lr, sigma, momentum))
    run.check("noise floor, with and without momentum", np.array(ours), np.array(theirs),
              against="scipy.linalg.solve_discrete_lyapunov", rtol=1e-7,
              why="the equation's condition number, 1/(1 - ρ²) ≈ 1e3, times rounding")  # fmt: skip
    k, noise = np.arange(1, 101), np.random.default_rng(run.seed).normal(size=(100, 1))
    ours = sgd(lambda x: 2.0 * x, np.array([5.0]), 1 / (2.0 * k), 1.0,
               np.random.default_rng(run.seed))  # fmt: skip
    run.check("SGD with steps 1/(λk): the running mean of what it saw", ours[1:, 0],
              np.cumsum(-noise[:, 0] / 2.0) / k, against="closed form", atol=1e-13,
              why="float64 rounding")  # fmt: skip


def show_noise(run: Run, chains: int) -> None:
    """Floors, decreasing steps and averages, each beside its closed form."""
    chains = run.budget(quick=min(chains, 60), default=chains, full=5 * chains)
    steps = run.budget(quick=1500, default=5000)
    rng = np.random.default_rng([run.seed, 5])
    eigenvalues, start = np.array([0.1, 1.0]), np.full((chains, 2), 3.0)
    grad = eigenvalues.__mul__

    def gap(points):  # f - f*, (points, chains)
        return (eigenvalues * points**2).sum(-1) / 2

    floors = {}
    lrs = np.geomspace(0.02, 0.8, run.budget(quick=3, default=6))
    for momentum in (0.0, 0.9):
        for lr in lrs:
            wait = min(steps // 2, int(40 * (1 - momentum) / (lr * 0.1)))
            origin = np.sqrt(noise_floor(eigenvalues, lr, 1.0, momentum)) * rng.normal(
                size=(chains, 2)
            )
            points = sgd(grad, origin, np.full(steps, lr), 1.0, rng, momentum)
            floors[momentum, lr] = mean_interval(gap(points[wait:]).mean(0), level=0.999)
    theory = {
        key: (eigenvalues * noise_floor(eigenvalues, key[1], 1.0, key[0])).sum() / 2
        for key in floors
    }
    inside = [i.low <= theory[key] <= i.high for key, i in floors.items()]
    worst = max(abs(i.mean / theory[key] - 1) for key, i in floors.items())
    run.claim(
        "the noise floor of SGD is the closed form's, at every step size and momentum",
        all(inside),
        f"{len(floors)} settings, {chains} chains of {steps} steps each: theory within every 99.9%"
        f" interval; largest difference {100 * worst:.1f}%",
    )
    silent = sgd(grad, start, np.full(steps, lrs[0]), 0.0, rng)
    rest = gap(silent)[-1].max()
    run.claim(
        "without noise there is no floor",
        bool(rest < 0.05 * theory[0.0, lrs[0]]),
        f"f - f* after {steps} steps of {lrs[0]:g}: {rest:.0e}, against a floor of"
        f" {theory[0.0, lrs[0]]:.0e} with noise",
        quick=False,
    )

    k = np.arange(1, steps + 1)
    large, small = np.full(steps, 0.5), np.full(steps, 0.05)
    decreasing = 1 / (0.1 * (k + 10))
    large_points = sgd(grad, start, large, 1.0, rng)
    curves = {
        "step 0.5": (gap(large_points), plots.ORANGE),
        "step 0.05": (gap(sgd(grad, start, small, 1.0, rng)), plots.YELLOW),
        "step 10/(k + 10)": (gap(sgd(grad, start, decreasing, 1.0, rng)), plots.BLUE),
        "average, step 0.5": (gap(polyak_average(large_points)), plots.GREEN),
    }
    variance, expected = np.full(2, 9.0), []  # E x², exactly, while the step sizes fall
    for lr in decreasing:
        variance = (1 - lr * eigenvalues) ** 2 * variance + lr**2
        expected.append((eigenvalues * variance).sum() / 2)
    efficient = (1 / eigenvalues).sum() / 2  # tr(H⁻¹Σ)/2
    mean = mean_interval(curves["step 10/(k + 10)"][0][-1], level=0.999)
    run.claim("steps of 1/k: E f falls as the recursion says, to O(1/k)",
              bool(mean.low <= expected[-1] <= mean.high and expected[-1] * steps < 3 * efficient),
              f"k (f - f*) at k = {steps}: theory {expected[-1] * steps:.2f}, measured"
              f" {mean.mean * steps:.2f}, 99.9% interval [{mean.low * steps:.2f},"
              f" {mean.high * steps:.2f}]", quick=False)  # fmt: skip
    averaged = curves["average, step 0.5"][0][-1] * steps / efficient
    averaged = mean_interval(averaged, level=0.999)
    run.metric("k (f - f*) of the average / tr(H⁻¹Σ)/2", averaged.mean, rtol=0.3)
    run.claim("Polyak's average of a large constant step reaches tr(H⁻¹Σ)/(2k)",
              bool(averaged.low <= 1.05 and averaged.high >= 0.95 and averaged.mean < 1.3),
              f"measured / theory {averaged}, 99.9% interval", quick=False)  # fmt: skip

    title = "Noise sets a floor; smaller steps lower it, averaging removes it"
    with run.figure("noise_floor", title, columns=2, size=(9.4, 4.4)) as axes:
        shown = np.unique(np.geomspace(1, steps, 160).astype(int))
        for name, (values, color) in curves.items():
            mean = values.mean(1)[shown]
            spread = 1.96 * values.std(1, ddof=1)[shown] / math.sqrt(chains)
            axes[0].fill_between(
                shown, np.maximum(mean - spread, 1e-9), mean + spread, color=color, alpha=0.2, lw=0
            )
            axes[0].loglog(shown, mean, color=color, lw=1.6, label=name)
        for lr in (0.5, 0.05):
            floor = (eigenvalues * noise_floor(eigenvalues, lr, 1.0)).sum() / 2
            axes[0].axhline(floor, color=plots.REFERENCE, ls="--", lw=1)
        late = k > 30
        axes[0].plot(k[late], np.array(expected)[late], ":", color=plots.REFERENCE, lw=1.4)
        axes[0].plot(k[late], efficient / k[late], "--", color=plots.REFERENCE, lw=1)
        axes[0].set(xlabel="step", ylabel=f"$E f(x_k) - f^*$, mean of {chains} chains")
        axes[0].legend(loc="lower left", fontsize=9.5)
        axes[0].set_title("dashed: closed forms", fontsize=11, weight="normal")
        fine = np.geomspace(lrs[0], lrs[-1], 100)
        for momentum, color in ((0.0, plots.BLUE), (0.9, plots.PINK)):
            line = [
                (eigenvalues * noise_floor(eigenvalues, lr, 1.0, momentum)).sum() / 2 for lr in fine
            ]
            axes[1].loglog(fine, line, "--", color=plots.REFERENCE, lw=1.1)
            means = np.array([floors[momentum, lr].mean for lr in lrs])
            ends = np.array([[floors[momentum, lr].low, floors[momentum, lr].high] for lr in lrs])
            axes[1].errorbar(lrs, means, abs(ends.T - means), fmt="o", color=color, ms=6)
            middle = len(lrs) // 2
            axes[1].text(lrs[middle], means[middle] * 1.6, f"momentum {momentum:g}", color=color,
                         ha="right")  # fmt: skip
        axes[1].minorticks_off()
        axes[1].set_xticks(
            [0.02, 0.05, 0.1, 0.2, 0.5, 1.0], ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]
        )
        axes[1].set(xlabel="step size", ylabel="floor of $E f - f^*$")
        axes[1].set_title("dots: measured, dashed: theory", fontsize=11, weight="normal")


def main(run: Run, *, chains: PositiveInt = 400) -> None:
    """State each theorem, measure the rate, and draw both.

    Parameters
    ----------
    chains
        Independent runs of SGD for each setting.
    """
    run.say(__doc__.split("    uv run")[0])
    check_iterates(run)
    check_spectra(run)
    measure_condition(run)
    show_lower_bound(run)
    show_counter_example(run)
    check_noise(run)
    show_noise(run, chains)
