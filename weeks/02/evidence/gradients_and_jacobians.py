"""What `gradients_and_jacobians.py` is measured by: torch, paper and pencil, counted operations."""

from collections import Counter
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import rosen_hess
from torch.func import hessian as torch_hessian
from torch.func import jacfwd, jacrev

from shared import plots
from shared.stats import bootstrap_interval
from shared.study import PositiveInt, Run
from week02.finite_differences import EPS, STEPS, finite_difference
from week02.gradients_and_jacobians import (
    RULES,
    Dual,
    Number,
    cos,
    exp,
    gradient,
    hessian,
    jacobian_forward,
    jacobian_reverse,
    jvp,
    log,
    sin,
    sqrt,
    tanh,
    vjp,
)

NAMES = {
    "forward": "forward: ε/h + h, least at √ε",
    "central": "central: ε/h + h², least at ∛ε",
    "complex": "complex step: h², no rounding",
}
CHEAP = "a gradient by a tape costs less than four evaluations of f"


def main(run: Run, *, width: PositiveInt = 6, points: PositiveInt = 20) -> None:
    """Check duals and tape against torch; measure what derivatives cost in digits and operations.

    Parameters
    ----------
    width
        Inputs of the small network that is differentiated.
    points
        Random points in each measurement.
    """
    check_against_torch(run, width)
    check_closed_forms(run)
    show_step(run, run.budget(quick=min(points, 5), default=points))
    show_taylor(run, width, run.budget(quick=min(points, 3), default=points))
    show_local_maps(run)
    show_cost(run, run.budget(quick=5, default=8))


def _network(n: int, m: int, rng: np.random.Generator):
    """W2 tanh(W1 x + b) twice over: on numbers of any kind, and on a torch tensor."""
    W1, b, W2 = rng.normal(size=(5, n)), rng.normal(size=5), rng.normal(size=(m, 5))

    def ours(x):
        hidden = [
            tanh(sum((w * v for w, v in zip(row, x, strict=True)), start=c))
            for row, c in zip(W1.tolist(), b.tolist(), strict=True)
        ]
        return [sum(w * h for w, h in zip(row, hidden, strict=True)) for row in W2.tolist()]

    def theirs(x):
        return torch.from_numpy(W2) @ torch.tanh(torch.from_numpy(W1) @ x + torch.from_numpy(b))

    return ours, theirs


def _mixture(x, exp=exp, log=log, sin=sin, cos=cos, tanh=tanh, sqrt=sqrt):
    """Every primitive once or more, with shared subexpressions, a loop and a branch."""
    a = exp(sin(x[0]) * cos(x[1])) / (1.0 + x[2] ** 2)
    b = sqrt(a + log(2.0 + x[1] * x[1])) - tanh(-x[2]) ** 3
    for _ in range(3):
        a = a * b - b / (a + 3.0) if a < 2.0 else a / 2.0
    return [a, b * a, 2.0**b, 1.0 - b]


def _mixture_torch(x):
    names = ("exp", "log", "sin", "cos", "tanh", "sqrt")
    return torch.stack(_mixture(x, **{name: getattr(torch, name) for name in names}))


def check_against_torch(run: Run, width: int) -> None:
    """Jacobians and Hessians of a network and of a mixture of all primitives."""
    network, network_torch = _network(width, 3, run.rng)
    equal = run.against("torch.func", rtol=1e-12, atol=1e-12, why="float64 rounding")
    for name, ours, theirs, x in (
        ("network", network, network_torch, run.rng.normal(size=width)),
        ("mixture", _mixture, _mixture_torch, run.rng.normal(size=3)),
    ):
        at = torch.from_numpy(x)
        equal(f"{name}, dual numbers", jacobian_forward(ours, x), jacfwd(theirs)(at))
        equal(f"{name}, tape", jacobian_reverse(ours, x), jacrev(theirs)(at))
        H = torch_hessian(lambda v, f=theirs: f(v)[0])(at)
        equal(f"{name}, Hessian", hessian(lambda v, f=ours: f(v)[0], x), H)


def check_closed_forms(run: Run) -> None:
    """Derivatives that are known on paper."""
    x = run.rng.normal(size=5)

    def rosenbrock(v):
        return sum(100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2 for a, b in pairwise(v))

    why = "float64 rounding of terms up to 1e4"
    equal = run.against("scipy.optimize.rosen_hess", rtol=1e-11, atol=1e-11, why=why)
    equal("Rosenbrock, Hessian", hessian(rosenbrock, x), rosen_hess(x))

    def spherical(v):
        r, theta, phi = v
        return [r * sin(theta) * cos(phi), r * sin(theta) * sin(phi), r * cos(theta)]

    volume = np.linalg.det(jacobian_reverse(spherical, np.array([2.0, 0.7, -1.2])))
    exact = run.against("paper and pencil", kind="theorem", atol=1e-14, why="float64 rounding")
    exact("volume element of spherical coordinates, r² sin θ", volume, 4.0 * np.sin(0.7))

    def confusing(v):  # d/dx (x · d/dy (x + y)) at 1
        return v[0] * jvp(lambda w: v[0] + w[0], [1.0], [1.0])[1][0]

    nested = jvp(confusing, [1.0], [1.0])[1][0]
    inner = Dual(1.0, 1.0) + Dual(1.0, 1.0)  # both at one level: the classic mistake
    naive = (Dual(1.0, 1.0) * inner.derivative).derivative
    run.metric("nested derivative of x · d/dy (x + y)", nested)
    run.metric("the same without levels", naive)
    exact("a derivative inside another", nested, 1.0, atol=0.0)


# ---- digits


def show_step(run: Run, points: int) -> None:
    """Error of each scheme against its step, at random points of exp(x) sin(3x)."""
    steps = np.logspace(-16, 0, run.budget(quick=33, default=97))
    x = run.rng.uniform(0.2, 1.0, size=points)
    slope = np.exp(x) * (np.sin(3.0 * x) + 3.0 * np.cos(3.0 * x))

    def error(scheme: str, h: float) -> np.ndarray:
        def f(v):
            return np.exp(v[0]) * np.sin(3.0 * v[0])

        ours = [finite_difference(f, np.array([at]), scheme=scheme, step=h)[0, 0] for at in x]
        return np.abs(np.array(ours) - slope)

    errors = {s: np.array([error(s, h) for h in steps.tolist()]).T for s in STEPS}
    _figure_step(run, steps, errors)
    for scheme, order in (("forward", 1), ("central", 2)):
        best = STEPS[scheme]
        middle = np.median(errors[scheme], axis=0)
        run.metric(f"best step, {scheme}", steps[middle.argmin()], rtol=None)
        run.metric(f"error at the best step, {scheme}", middle.min(), rtol=None)

        def decades(points, axis, scheme=scheme, best=best):
            """How far the best step of these points is from the theory's."""
            middle = np.median(errors[scheme][points.astype(int)], axis=axis)
            return np.log10(steps[middle.argmin(axis=-1)] / best)

        off = bootstrap_interval(np.arange(points), decades, rng=run.rng, n_resamples=999)
        name = f"{scheme} differences are best within a factor of 10 of the theory's step"
        # where rounding is least is a matter of the last bit, and differs between machines
        run.claim(name, off, at_least=-1, at_most=1, unit="decades off", rtol=None)
        judged = (steps > 30 * best) & (steps < 0.03)
        lines = np.log(errors[scheme][:, judged]).T
        name = f"the truncation error of {scheme} differences has order {order}"
        fits = np.polyfit(np.log(steps[judged]), lines, 1)[0]
        run.claim(name, fits, at_least=order - 0.15, at_most=order + 0.15)
    tiny = bootstrap_interval(errors["forward"][:, 0] / np.abs(slope), np.median, rng=run.rng)
    name = "at h = 1e-16 forward differences are left without a digit"
    rule = {"unit": "relative error", "note": "the median of the points", "rtol": None}
    run.claim(name, tiny, at_least=0.1, **rule)
    worst = errors["complex"][:, steps < 1e-9]
    name = "no step is too small for the complex step"
    run.claim(name, worst.max(axis=1), at_most=1e-14, each=True, rtol=0.5)
    worst = errors["forward"][:, steps < 1e-9]
    run.falsifier("forward differences", worst.max(axis=1), breaks=name)


def _figure_step(run: Run, steps: np.ndarray, errors: dict) -> None:
    colors = {"forward": plots.ORANGE, "central": plots.BLUE, "complex": plots.GREEN}
    with run.figure("step", "How small should the step of a finite difference be?") as ax:
        for scheme, error in errors.items():
            low, middle, high = np.quantile(np.maximum(error, EPS / 4), [0.1, 0.5, 0.9], axis=0)
            ax.fill_between(steps, low, high, color=colors[scheme], alpha=0.16, linewidth=0)
            ax.loglog(steps, middle, color=colors[scheme], label=NAMES[scheme])
        for scheme in ("forward", "central"):
            ax.axvline(STEPS[scheme], color=colors[scheme], linestyle="--", linewidth=1.2)
        ax.legend(loc="lower right")
        ax.set(xlabel="step h, relative to max(1, |x|)", ylabel="error of the slope")
        ax.set(ylim=(2e-17, 2e1), xlim=(1e-16, 1))


def show_taylor(run: Run, width: int, points: int) -> None:
    """The remainder after the gradient is of order r², after the Hessian r³."""
    radii = np.logspace(-3, -1, 9)
    remainders = np.empty((2, points, len(radii)))
    for p in range(points):
        f, _ = _network(width, 1, run.rng)
        x, u = run.rng.normal(size=(2, width))
        u /= np.linalg.norm(u)
        g, H = gradient(f, x), hessian(f, x)
        for i, r in enumerate(radii):
            change = f(list(x + r * u))[0] - f(list(x))[0] - r * g @ u
            remainders[:, p, i] = np.abs([change, change - 0.5 * r * r * u @ H @ u])
    for name, rows, order, margin in (
        ("gradient", remainders[0], 2, 0.1),
        ("Hessian", remainders[1], 3, 0.2),
    ):
        slopes = np.polyfit(np.log(radii), np.log(rows).T, 1)[0]
        name = f"Taylor: the remainder after the {name} has order {order}"
        run.claim(name, slopes, at_least=order - margin, at_most=order + margin, rtol=0.01)


# ---- pictures


def _hills(v):
    x, y = v
    return (
        1.1 * exp(-((x + 0.9) ** 2) - (y - 0.4) ** 2)
        - 0.9 * exp(-((x - 0.8) ** 2) - (y + 0.5) ** 2)
        + 0.25 * x
    )


def _warp(v):
    x, y = v
    return [x + 0.35 * sin(1.6 * y), y + 0.30 * sin(1.9 * x) + 0.12 * x * y]


def _grid(n: int, edge: float) -> np.ndarray:
    """Points of an n by n grid over [-edge, edge]², one per row."""
    axis = np.linspace(-edge, edge, n)
    return np.array([(x, y) for x in axis for y in axis])


def show_local_maps(run: Run) -> None:
    """A gradient field on its contours, and circles that a map turns into ellipses."""
    fine, places = np.linspace(-2.0, 2.0, 121), _grid(run.budget(quick=5, default=13), 1.8)
    height = np.array(_hills([fine[None, :], fine[:, None]]))
    arrows = np.array([gradient(_hills, place) for place in places])
    layout = {"columns": 2, "size": (8.3, 4.5)}
    with run.figure("local_maps", "What does a derivative look like?", **layout) as (left, right):
        left.contour(fine, fine, height, levels=15, colors=plots.SKY, linewidths=1.0)
        left.quiver(*places.T, *arrows.T, color=plots.BLUE, width=0.006, scale=14, pivot="mid")
        left.set_title("gradient: across the contours", fontsize=11)
        left.set(xlabel="x", ylabel="y", aspect="equal", xlim=(-2, 2), ylim=(-2, 2))

        for c in np.linspace(-2.0, 2.0, 17):
            for line in (np.array([fine, np.full(121, c)]), np.array([np.full(121, c), fine])):
                right.plot(*np.array(_warp(line)), color="#D0D0D0", linewidth=0.7, zorder=1)
        angle = np.linspace(0.0, 2.0 * np.pi, 61)
        circle = 0.21 * np.array([np.cos(angle), np.sin(angle)])
        for place in _grid(5, 1.5):
            true = np.array(_warp(place[:, None] + circle))
            linear = np.array(_warp(place))[:, None] + jacobian_reverse(_warp, place) @ circle
            right.fill(*true, color=plots.BLUE, alpha=0.22, linewidth=0, zorder=2)
            right.plot(*linear, color=plots.ORANGE, linewidth=1.4, zorder=3)
        right.plot([], [], color=plots.ORANGE, label="Jacobian (blue: image of a circle)")
        right.set_title("Jacobian: circles to ellipses", fontsize=11)
        right.set(xlabel="first output", ylabel="second output", aspect="equal")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14))

    ratios = []
    for place in places:
        true = np.array(_warp(place[:, None] + 1e-3 * circle / 0.21))
        x, y = true[:, :-1]
        area = 0.5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))
        polygon = 30.0 * np.sin(2.0 * np.pi / 60.0) * 1e-6  # area of the 60-gon itself
        ratios.append(area / polygon / abs(np.linalg.det(jacobian_forward(_warp, place))))
    why = "second derivatives times r² = 1e-6"
    one = run.against("change of variables", kind="theorem", atol=1e-5, why=why)
    one("area of a small circle's image, over |det J|", ratios, np.ones(len(ratios)))


# ---- operations


def _chain(v):
    """A scalar of n inputs that costs a few operations for each."""
    total = v[0] * v[0]
    for a, b in pairwise(v):
        total = total + sin(a * b) * exp(-a) + a / (2.0 + b * b)
    return total


class Counted(Number):
    """A number that tallies every operation on it, those of a derivative's arithmetic too."""

    level = 1  # below every derivative, above plain numbers

    def __init__(self, value: float, tally: Counter):
        self.value, self.tally = value, tally

    def _apply(self, name, inputs) -> "Counted":
        self.tally[name] += 1
        return Counted(RULES[name][0](*(getattr(n, "value", n) for n in inputs)), self.tally)


def _operations(of, x: np.ndarray) -> int:
    tally: Counter = Counter()
    of([Counted(v, tally) for v in x.tolist()])
    return tally.total()


def show_cost(run: Run, doublings: int) -> None:
    """Operations for a whole gradient, in units of the function's own."""

    def by_duals(v):
        return [jvp(_chain, v, [float(i == j) for i in range(len(v))]) for j in range(len(v))]

    def by_tape(v):
        return vjp(_chain, v)[1]([1.0])

    ways = {"dual numbers": by_duals, "tape": by_tape}
    sizes = 2 ** np.arange(1, doublings)
    starts = [run.rng.uniform(0.5, 1.5, size=n) for n in sizes]
    ratio = {
        name: np.array([_operations(way, x) / _operations(_chain, x) for x in starts])
        for name, way in ways.items()
    }
    tape, duals = ratio["tape"], ratio["dual numbers"]
    run.metric("operations of the tape's gradient, in f", tape[-1])
    run.metric("operations of the dual numbers' gradient, in f", duals[-1])
    run.metric("inputs in the largest count", sizes[-1])
    rule = {"each": True, "note": f"{sizes[0]} to {sizes[-1]} inputs", "unit": "evaluations"}
    run.claim(CHEAP, tape, at_most=4, **rule)
    run.falsifier("a gradient by dual numbers", duals, breaks=CHEAP)
    with run.figure("cost", "How many evaluations of f does its gradient cost?") as ax:
        labels = {"xlabel": "inputs n", "ylabel": "operations / operations of f"}
        colors = (plots.ORANGE, plots.BLUE)
        plots.curves(ax, sizes, ratio, colors=colors, marker="o", ends=False, **labels)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        plots.reference_line(ax, 8.0, "bound for the tape: 8")
