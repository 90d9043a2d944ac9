"""Each theorem of the idea beside what the methods do, and one function that it does not cover."""

from functools import partial

import numpy as np

from shared import plots
from shared.study import PositiveInt, Run
from week09.convergence import (
    bent_gradient,
    best_parameters,
    conjugate_gradient,
    gradient_descent,
    heavy_ball,
    nesterov,
    steps_until,
    take,
    worst_function,
)
from week09.evidence.convergence_noise import check_noise, show_noise

METHODS = ("gradient descent", "heavy ball", "nesterov")
COLORS = (plots.ORANGE, plots.PINK, plots.BLUE, plots.GREEN)


def main(run: Run, *, chains: PositiveInt = 400) -> None:
    """State each theorem, measure the rate, and draw both.

    Parameters
    ----------
    chains
        Independent runs of SGD for each setting.
    """
    check_iterates(run)
    check_decrease(run)
    two_over_L(run)
    measure_condition(run)
    show_lower_bound(run)
    show_upper_bounds(run)
    show_counter_example(run)
    check_noise(run)
    show_noise(run, run.budget(quick=min(chains, 20), default=chains, full=5 * chains))


def method(name: str, grad, x0, m: float, L: float):
    """The points of a method with its best parameters for curvature in [m, L]."""
    lr, momentum, _ = best_parameters(name, m, L)
    return (nesterov if name == "nesterov" else heavy_ball)(grad, x0, lr, momentum)


def titled(by_method: dict) -> dict:
    """The same, with a person's name as such."""
    return {name.replace("nesterov", "Nesterov"): values for name, values in by_method.items()}


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

        start, options = np.zeros(self.d), {"gtol": 1e-10}
        found = minimize(self.value, start, jac=self.grad, method="BFGS", options=options)
        return found.x, found.fun


# ---- iterates


def check_iterates(run: Run) -> None:
    """Points of each method against scipy's and torch's."""
    import torch
    from scipy.sparse.linalg import cg

    rng = np.random.default_rng([run.seed, 1])
    q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    hessian = q * np.geomspace(1.0, 50.0, 5) @ q.T
    rounding = {"atol": 1e-12, "why": "float64 rounding over all steps"}
    b, theirs = rng.normal(size=5), []
    cg(hessian, b, rtol=1e-14, maxiter=4, callback=lambda x: theirs.append(x.copy()))
    ours = take(conjugate_gradient(hessian.__matmul__, b, np.zeros(5)), 4)
    check = run.against("scipy.sparse.linalg.cg", **rounding)
    check("conjugate gradients: 4 points", ours[1:], np.array(theirs))

    problem = Logistic(rng, m=0.02)
    X, y = torch.tensor(problem.X), torch.tensor(problem.y)

    def loss_of(w):
        return torch.nn.functional.softplus(-y * (X @ w)).mean() + 0.01 * w @ w

    start = rng.normal(size=6)
    w = torch.tensor(start, requires_grad=True)
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
        check = run.against(f"torch.optim.SGD(nesterov={ahead})", **rounding)
        name = "Nesterov" if ahead else "heavy ball"
        check(f"{name}: 50 points on a logistic loss", ours, np.array(theirs))


def check_decrease(run: Run) -> None:
    """What one step of gradient descent takes off f, from the worst start."""
    ratios = []
    for kappa in (3.0, 30.0, 300.0):
        ends = np.array([1.0, kappa])
        points = take(method("gradient descent", ends.__mul__, np.ones(2), 1.0, kappa), 20)
        values = (ends * points**2).sum(1) / 2
        ratios.append(values[1:] / values[:-1] / ((kappa - 1) / (kappa + 1)) ** 2)
    check = run.against("theorem", kind="theorem", rtol=1e-12, why="float64 rounding")
    name = "gradient descent: f falls by ((κ-1)/(κ+1))² at every step"
    check(name, np.array(ratios), np.ones_like(ratios))


def two_over_L(run: Run) -> None:
    """Just below the edge it converges, just above it does not."""
    ends = np.array([1.0, 30.0])

    def distance(share: float) -> float:
        points = gradient_descent(ends.__mul__, np.ones(2), share / 30.0)
        return float(np.linalg.norm(take(points, 500)[-1]))

    options = {"deterministic": True, "note": "after 500 steps from a distance of 1.4"}
    name = "a step of 1.98/L converges: distance from the minimum"
    run.claim(name, distance(1.98), at_most=1e-3, **options)
    run.falsifier("a step of 2.02/L", distance(2.02), breaks=name)
    name = "a step of 2.02/L diverges: distance from the minimum"
    run.claim(name, distance(2.02), at_least=1e3, **options)


def measure_condition(run: Run) -> None:
    """Steps to a millionth of the first error, against the condition number."""
    accuracy, n = 1e-6, run.budget(quick=100, default=1000)
    top = run.budget(quick=2.0, default=4.0, full=5.0)
    kappas = np.logspace(1, top, run.budget(quick=3, default=7))
    nodes = (1 - np.cos(np.linspace(0, np.pi, n))) / 2  # crowded at both ends: hard for CG
    steps = {name: [] for name in (*METHODS, "conjugate gradients")}
    for kappa in kappas:
        eigenvalues, x0 = 1 + (kappa - 1) * nodes, np.ones(n)
        for name, found in steps.items():
            if name == "conjugate gradients":
                points = conjugate_gradient(eigenvalues.__mul__, np.zeros(n), x0)
            else:
                points = method(name, eigenvalues.__mul__, x0, 1.0, kappa)
            found.append(steps_until(points, lambda x: x @ x <= accuracy**2 * n, 3_000_000))
    slopes = {k: np.polyfit(np.log(kappas), np.log(v), 1)[0] for k, v in steps.items()}
    slow, *fast = slopes.values()
    name = "steps of gradient descent grow as κ: exponent"
    run.claim(name, slow, at_least=0.9, at_most=1.1, deterministic=True, quick=False)
    run.falsifier("with momentum", slopes["heavy ball"], breaks=name)
    name = "with momentum, or conjugate directions, they grow as √κ: exponents"
    note = ", ".join(f"{k} {v:.2f}" for k, v in slopes.items())
    run.claim(name, fast, at_least=0.4, at_most=0.6, each=True, quick=False, note=note)
    run.metric("exponent of κ, heavy ball", slopes["heavy ball"])
    title = "How many steps to a millionth of the error? κ of them, or √κ"
    with run.figure("condition", title, size=(8.0, 4.6)) as axes:
        for root, text in ((kappas, "κ"), (np.sqrt(kappas), "√κ")):
            theory = np.log(accuracy) / np.log((root - 1) / (root + 1))
            axes.plot(kappas, theory, "--", color=plots.REFERENCE)
            middle, label = len(kappas) // 2, f"({text} − 1)/({text} + 1) per step"
            place = (kappas[middle], theory[middle] / 1.6)
            axes.annotate(label, place, color=plots.REFERENCE)
        labels = {"xlabel": r"condition number $\kappa = L/m$", "ylabel": "steps", "marker": "o"}
        labels |= {"xscale": "log", "yscale": "log"}
        plots.curves(axes, kappas, titled(steps), colors=COLORS, **labels)


# ---- smooth convex functions


def show_lower_bound(run: Run) -> None:
    """The worst function in the world: between the upper bounds and the one below everybody."""
    last = run.budget(quick=20, default=160)
    ks = np.unique(np.geomspace(1, last, 14).astype(int))
    gaps = {name: [] for name in ("gradient descent", "nesterov", "conjugate gradients")}
    for k in ks:  # each k has its own worst function, of 2k + 1 coordinates
        n = 2 * int(k) + 1
        A, b = worst_function(n)
        solution, minimum = 1 - np.arange(1, n + 1) / (n + 1), (-1 + 1 / (n + 1)) / 8
        paths = descents(lambda x, A=A, b=b: A @ x - b, np.zeros(n), 1.0)
        paths["conjugate gradients"] = conjugate_gradient(A.__matmul__, b, np.zeros(n))
        for name, points in paths.items():
            x = take(points, int(k))
            gap = ((x @ A) * x).sum(1) / 2 - x @ b - minimum
            gaps[name].append(gap[-1] / (solution @ solution))
    best, why = (1 / np.arange(1, last + 2) - 1 / (2 * last + 2)) / 8, "float64 rounding"
    check = run.against("best of the Krylov space", kind="theorem", atol=1e-12, why=why)
    check("worst function: what conjugate gradients leave", gap, best)
    check = run.against("Drori & Teboulle (2014)", kind="theorem", rtol=1e-12, why=why)
    name = "Huber's function: gradient descent leaves L R²/(4k + 2) exactly"
    check(name, *huber_gaps(np.arange(1, 41)))

    lower = 3 / (32 * (ks + 1) ** 2)
    ratios = {name: np.array(gap) / lower for name, gap in gaps.items()}
    least = {name: ratio.min() for name, ratio in ratios.items()}
    note = ", ".join(f"{name} {ratio:.3f}" for name, ratio in least.items())
    name = "nobody gets below 3LR²/(32(k+1)²): smallest gap / bound"
    note = f"for k up to {last}: {note}"
    run.claim(name, list(least.values()), at_least=1, each=True, note=note)
    touching = ratios["conjugate gradients"][-1]
    name = "conjugate gradients / lower bound at the last step"
    run.claim(name, touching, at_most=1.05, deterministic=True, quick=False)
    run.falsifier("Nesterov there", ratios["nesterov"][-1], breaks=name)
    bounds = upper_bounds(ks)
    name = "upper bounds on the worst function: largest gap / bound"
    largest = [(gaps[name] / bound).max() for name, bound in bounds.items()]
    run.claim(name, largest, at_most=1 + 1e-9, each=True, note="gradient descent, Nesterov")
    title = "How low can gradients go on the worst function for k steps?"
    with run.figure("smooth_convex", title) as axes:
        axes.fill_between(ks, lower, lower.min() / 4, color=plots.GRAY, alpha=0.2, lw=0)
        for bound, color in zip(bounds.values(), (plots.ORANGE, plots.BLUE), strict=True):
            axes.plot(ks, bound, "--", color=color)
        axes.text(1.2, lower.min() * 1.5, "no method gets here", color=plots.REFERENCE)
        labels = {"xlabel": "steps $k$ (dashed: the theorems' upper bounds)", "marker": "o"}
        labels |= {"ylabel": "$(f(x_k) - f^*) / (L R^2)$", "xscale": "log", "yscale": "log"}
        colors = (plots.ORANGE, plots.BLUE, plots.GREEN)
        plots.curves(axes, ks, titled(gaps), colors=colors, **labels)


def show_upper_bounds(run: Run) -> None:
    """The same bounds on a logistic regression, at every step."""
    problem = Logistic(np.random.default_rng([run.seed, 3]))
    w, minimum = problem.minimum()
    steps = run.budget(quick=60, default=1000)
    bounds = upper_bounds(np.arange(steps + 1))
    paths = descents(problem.grad, np.zeros(problem.d), 1 / problem.L)
    losses = {k: np.array([problem.value(x) for x in take(p, steps)]) for k, p in paths.items()}
    size = w @ w * problem.L
    largest = [((losses[k] - minimum) / (bounds[k] * size)).max() for k in bounds]
    name = "upper bounds on a logistic regression: largest gap / bound"
    run.claim(name, largest, at_most=1 + 1e-9, each=True, note="gradient descent, Nesterov")
    found, allowed = min(losses["nesterov"]), run.budget(quick=1e-2, default=1e-6)
    why = f"the bound allows {bounds['nesterov'][-1] * size:.0e} here"
    check = run.against("scipy.optimize.minimize", atol=allowed, why=why)
    check("logistic regression: the minimum that Nesterov finds", found, minimum)


def descents(grad, x0, lr: float) -> dict:
    """Points of the two methods that know L only."""
    return {
        "gradient descent": gradient_descent(grad, x0, lr),
        "nesterov": nesterov(grad, x0, lr),
    }


def upper_bounds(k: np.ndarray) -> dict[str, np.ndarray]:
    """Of (f - f*) / (L R²) after k steps."""
    return {"gradient descent": 1 / (4 * k + 2), "nesterov": 2 / (k + 1) ** 2}


def huber_gaps(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient descent's gap after n steps on the Huber function made for n, and the theorem's."""
    gaps = []
    for n in steps.tolist():
        knee = 1 / (2 * n + 1)
        grad = partial(np.clip, a_min=-knee, a_max=knee)
        x = abs(take(gradient_descent(grad, np.ones(1), 1.0), n)[-1, 0])
        gaps.append(x * knee - knee**2 / 2 if x > knee else x**2 / 2)
    return np.array(gaps), 1 / (4 * steps + 2)


# ---- failure on display


def show_counter_example(run: Run) -> None:
    """Heavy ball, perfectly tuned, on a strongly convex function: it cycles for ever."""
    steps, start = 90, np.array([3.3])

    def distances(name: str, grad) -> np.ndarray:
        return take(method(name, grad, start, 1.0, 25.0), steps)[:, 0]

    paths = {name: distances(name, bent_gradient) for name in METHODS}
    why = "a contraction towards the cycle, and float64 rounding"
    check = run.against("Lessard, Recht & Packard (2016)", kind="theorem", atol=1e-9, why=why)
    cycle = np.array([-2208.0, 792.0, 2592.0]) / 1225
    check("the cycle of heavy ball", np.sort(paths["heavy ball"][-3:]), cycle)
    name = "heavy ball cycles on a strongly convex function: least |x| in its last 30 steps"
    run.claim(name, np.abs(paths["heavy ball"][-30:]).min(), at_least=0.5, deterministic=True)
    others = max(abs(paths[name][-1]) for name in ("gradient descent", "nesterov"))
    run.falsifier("gradient descent and Nesterov", others, breaks=name)
    on_parabola = abs(distances("heavy ball", lambda x: 25 * x)[-1])
    run.falsifier("heavy ball on a parabola of curvature 25", on_parabola, breaks=name)
    name = "gradient descent and Nesterov converge there: largest |x| at the end"
    run.claim(name, others, at_most=1e-3, deterministic=True)
    name = "the same heavy ball converges on a parabola: |x| at the end"
    run.claim(name, on_parabola, at_most=1e-6, deterministic=True)
    title = "Perfectly tuned momentum, strongly convex function, no convergence"
    with run.figure("counter_example", title, columns=2, size=(9.4, 4.0)) as (left, right):
        x = np.linspace(-2.7, 3.6, 400)
        order = paths["heavy ball"][-4:]
        left.plot(x, bent_value(x), color=plots.REFERENCE)
        left.plot(order, bent_value(order), "o-", color=plots.PINK, lw=1.2, ms=8)
        left.plot(0, 0, "*", color=plots.GREEN, ms=13)
        left.set(xlabel="$x$ (curvature 25, then 1, then 25)", ylabel="$f(x)$", ylim=(-14, 95))
        shown = {name: np.maximum(np.abs(path), 1e-6) for name, path in paths.items()}
        labels = {"xlabel": "step", "ylabel": "$|x_k|$, at least $10^{-6}$", "yscale": "log"}
        plots.curves(
            right, np.arange(steps + 1), titled(shown), colors=COLORS, ends=False, **labels
        )


def bent_value(x: np.ndarray) -> np.ndarray:
    """The function whose gradient is `bent_gradient`."""
    outer = np.where(x < 2, x**2 / 2 + 24 * x - 12, 12.5 * x**2 - 24 * x + 36)
    return np.where(x < 1, 12.5 * x**2, outer)
