"""Checks, claims and figures of gradients_and_jacobians."""

from collections import Counter
from itertools import pairwise

import numpy as np
import torch

from shared import plots
from shared.study import PositiveInt, Run
from week02.gradients_and_jacobians import (
    EPS,
    Counted,
    Dual,
    cos,
    exp,
    finite_difference,
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

# ---- checks


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


def _mixture(x):
    """Every primitive once or more, with shared subexpressions, a loop and a branch."""
    a = exp(sin(x[0]) * cos(x[1])) / (1.0 + x[2] ** 2)
    b = sqrt(a + log(2.0 + x[1] * x[1])) - tanh(-x[2]) ** 3
    for _ in range(3):
        a = a * b - b / (a + 3.0) if a < 2.0 else a / 2.0
    return [a, b * a, 2.0**b, 1.0 - b]


def _mixture_torch(x):
    a = torch.exp(torch.sin(x[0]) * torch.cos(x[1])) / (1.0 + x[2] ** 2)
    b = torch.sqrt(a + torch.log(2.0 + x[1] * x[1])) - torch.tanh(-x[2]) ** 3
    for _ in range(3):
        a = a * b - b / (a + 3.0) if a < 2.0 else a / 2.0
    return torch.stack([a, b * a, 2.0**b, 1.0 - b])


def check_against_torch(run: Run, width: int) -> None:
    """Jacobians and Hessians of a network and of a mixture of all primitives."""
    from torch.func import hessian as torch_hessian
    from torch.func import jacfwd, jacrev

    network, network_torch = _network(width, 3, run.rng)
    cases = {
        "network": (network, network_torch, run.rng.normal(size=width)),
        "mixture": (_mixture, _mixture_torch, run.rng.normal(size=3)),
    }
    for name, (ours, theirs, x) in cases.items():
        at = torch.from_numpy(x)
        options = {"rtol": 1e-12, "atol": 1e-12, "why": "float64 rounding"}
        run.check(f"{name}, dual numbers", jacobian_forward(ours, x), jacfwd(theirs)(at),
                  against="torch.func.jacfwd", **options)  # fmt: skip
        run.check(f"{name}, tape", jacobian_reverse(ours, x), jacrev(theirs)(at),
                  against="torch.func.jacrev", **options)  # fmt: skip
        run.check(f"{name}, Hessian", hessian(lambda v, f=ours: f(v)[0], x),
                  torch_hessian(lambda v, f=theirs: f(v)[0])(at),
                  against="torch.func.hessian", **options)  # fmt: skip
        run.check(f"{name}, central differences", finite_difference(ours, x), jacrev(theirs)(at),
                  against="torch.func.jacrev", rtol=1e-8, atol=1e-8,
                  why="h² and ε/h at h = ∛ε: ten digits are left, two in reserve")  # fmt: skip


def check_closed_forms(run: Run) -> None:
    """Derivatives that are known on paper."""
    from scipy.optimize import rosen, rosen_der, rosen_hess

    x = run.rng.normal(size=5)

    def rosenbrock(v):
        return sum(100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2 for a, b in pairwise(v))

    options = {"rtol": 1e-11, "atol": 1e-11, "why": "float64 rounding of terms up to 1e4"}
    run.check("Rosenbrock, value", rosenbrock(x), rosen(x), against="scipy.optimize.rosen",
              **options)  # fmt: skip
    run.check("Rosenbrock, gradient", gradient(rosenbrock, x), rosen_der(x),
              against="scipy.optimize.rosen_der", **options)  # fmt: skip
    run.check("Rosenbrock, Hessian", hessian(rosenbrock, x), rosen_hess(x),
              against="scipy.optimize.rosen_hess", **options)  # fmt: skip

    def spherical(v):
        r, theta, phi = v
        return [r * sin(theta) * cos(phi), r * sin(theta) * sin(phi), r * cos(theta)]

    at = np.array([2.0, 0.7, -1.2])
    volume = np.linalg.det(jacobian_reverse(spherical, at))
    run.check("volume element of spherical coordinates", volume, 4.0 * np.sin(0.7),
              against="theory: r² sin θ", atol=1e-14, why="float64 rounding")  # fmt: skip

    def confusing(v):  # d/dx (x · d/dy (x + y)) at 1
        return v[0] * jvp(lambda w: v[0] + w[0], [1.0], [1.0])[1][0]

    nested = jvp(confusing, [1.0], [1.0])[1][0]
    inner = Dual(1.0, 1.0) + Dual(1.0, 1.0)  # both at one level: the classic mistake
    naive = (Dual(1.0, 1.0) * inner.derivative).derivative
    run.metric("nested derivative of x · d/dy (x + y)", nested)
    run.metric("the same without levels", naive)
    run.check("a derivative inside another", nested, 1.0, against="theory: d/dx x = 1",
              why="exact in integers")  # fmt: skip


# ---- digits


def show_step(run: Run, points: int) -> None:
    """Error of each scheme against its step, at random points of exp(x) sin(3x)."""
    steps = np.logspace(-16, 0, run.budget(quick=33, default=97))
    x = run.rng.uniform(0.2, 1.0, size=points)
    slope = np.exp(x) * (np.sin(3.0 * x) + 3.0 * np.cos(3.0 * x))
    errors = {}
    for scheme in ("forward", "central", "complex"):
        found = [
            [
                finite_difference(
                    lambda v: np.exp(v[0]) * np.sin(3.0 * v[0]), np.array([at]),
                    scheme=scheme, step=float(h),
                )[0, 0]
                for h in steps
            ]
            for at in x
        ]  # fmt: skip
        errors[scheme] = np.abs(np.array(found) - slope[:, None])
    dual = [Dual(v, 1.0) for v in x]
    exact = np.array([(exp(v) * sin(3.0 * v)).derivative for v in dual])
    run.check("slope of exp(x) sin 3x by dual numbers", exact, slope,
              against="theory: exp(x) (sin 3x + 3 cos 3x)", atol=2e-14,
              why="float64 rounding")  # fmt: skip

    colors = {"forward": plots.ORANGE, "central": plots.BLUE, "complex": plots.GREEN}
    theory = {"forward": EPS ** (1 / 2), "central": EPS ** (1 / 3)}
    title = "How small should the step of a finite difference be?"
    with run.figure("step", title, size=(8.0, 4.6)) as ax:
        for scheme, error in errors.items():
            low, middle, high = np.quantile(np.maximum(error, EPS / 4), [0.1, 0.5, 0.9], axis=0)
            ax.fill_between(steps, low, high, color=colors[scheme], alpha=0.16, linewidth=0)
            ax.loglog(steps, middle, color=colors[scheme])
        for scheme, h in theory.items():
            ax.axvline(h, color=colors[scheme], linestyle="--", linewidth=1.2)
        ax.text(theory["forward"] / 1.4, 3e-15, r"$\sqrt{\varepsilon}$", ha="right",
                color=colors["forward"])  # fmt: skip
        ax.text(theory["central"] * 1.4, 3e-15, r"$\sqrt[3]{\varepsilon}$",
                color=colors["central"])  # fmt: skip
        ax.text(3e-12, 1e-2, "rounding: ε/h", color=plots.REFERENCE)
        ax.text(4e-6, 6e-4, "forward: h", color=plots.ORANGE, ha="right")
        ax.text(1.5e-3, 1e-7, "central: h²", color=plots.BLUE)
        ax.text(2e-15, 4e-15, "complex: h², no rounding", color=plots.GREEN)
        ax.set(
            xlabel="step h, relative to max(1, |x|)",
            ylabel="error of the slope",
            ylim=(2e-17, 2e1),
            xlim=(1e-16, 1),
        )

    for scheme, expected in theory.items():
        middle = np.median(errors[scheme], axis=0)
        best = steps[middle.argmin()]
        run.metric(f"best step, {scheme}", best, rtol=None)
        run.metric(f"error at the best step, {scheme}", middle.min(), rtol=None)
        run.claim(
            f"{scheme} differences are best within a factor of 10 of the theory's step",
            expected / 10 < best < expected * 10,
            f"{points} points: best {best:.1e}, theory {expected:.1e}",
        )
        order = 1 if scheme == "forward" else 2
        judged = (steps > 30 * expected) & (steps < 0.03)
        fit = float(np.polyfit(np.log(steps[judged]), np.log(middle[judged]), 1)[0])
        run.metric(f"order of the truncation error, {scheme}", fit, rtol=0.1)
        run.claim(
            f"the truncation error of {scheme} differences has order {order}",
            abs(fit - order) < 0.15,
            f"slope {fit:.2f}; rule: within 0.15",
        )
    tiny = float(np.median(errors["forward"][:, 0] / np.abs(slope)))
    run.metric("relative error at h = 1e-16, forward", tiny, rtol=None)
    worst = float(errors["complex"][:, steps < 1e-9].max())
    run.metric("worst error of the complex step below 1e-9", worst, rtol=None)
    run.claim(
        "no step is too small for the complex step; forward differences end without a digit",
        worst < 1e-14 and tiny > 0.1,
        f"complex: error at most {worst:.1e} for h < 1e-9; forward at h = 1e-16: "
        f"median relative error {tiny:.1f}",
    )


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
    slopes = [
        float(np.polyfit(np.log(radii), np.log(np.median(each, axis=0)), 1)[0])
        for each in remainders
    ]
    for name, slope in zip(("gradient", "Hessian"), slopes, strict=True):
        run.metric(f"order of the remainder after the {name}", slope, rtol=0.1)
    run.claim(
        "Taylor: the remainder has order 2 after the gradient and order 3 after the Hessian",
        abs(slopes[0] - 2) < 0.1 and abs(slopes[1] - 3) < 0.2,
        f"{points} networks: slopes {slopes[0]:.2f} and {slopes[1]:.2f}; rule: within 0.1 and 0.2",
    )


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


def show_local_maps(run: Run) -> None:
    """A gradient field on its contours, and circles that a map turns into ellipses."""
    fine = np.linspace(-2.0, 2.0, 121)
    height = np.array([[_hills((x, y)) for x in fine] for y in fine])
    sparse = np.linspace(-1.8, 1.8, 13)
    places = np.array([(x, y) for x in sparse for y in sparse])
    arrows = np.array([gradient(_hills, place) for place in places])
    title = "What does a derivative look like?"
    with run.figure("local_maps", title, columns=2, size=(8.3, 4.5)) as axes:
        left, right = axes
        left.contour(fine, fine, height, levels=15, colors=plots.SKY, linewidths=1.0)
        left.quiver(*places.T, *arrows.T, color=plots.BLUE, width=0.006, scale=14, pivot="mid")
        left.set_title("the gradient of a height: across its contours", fontsize=11,
                       weight="normal")  # fmt: skip
        left.set(xlabel="x", ylabel="y", aspect="equal", xlim=(-2, 2), ylim=(-2, 2))

        for c in np.linspace(-2.0, 2.0, 17):
            for line in (np.array([fine, np.full(121, c)]), np.array([np.full(121, c), fine])):
                right.plot(*np.array(_warp(line)), color="#D0D0D0", linewidth=0.7, zorder=1)
        angle = np.linspace(0.0, 2.0 * np.pi, 61)
        circle = 0.21 * np.array([np.cos(angle), np.sin(angle)])
        for x in np.linspace(-1.5, 1.5, 5):
            for y in np.linspace(-1.5, 1.5, 5):
                place = np.array([x, y])
                true = np.array(_warp(place[:, None] + circle))
                image = np.array(_warp(place))
                linear = image[:, None] + jacobian_reverse(_warp, place) @ circle
                right.fill(*true, color=plots.BLUE, alpha=0.22, linewidth=0, zorder=2)
                right.plot(*linear, color=plots.ORANGE, linewidth=1.4, zorder=3)
        right.plot([], [], color=plots.ORANGE, label="Jacobian")
        right.fill([], [], color=plots.BLUE, alpha=0.22, label="image of a circle")
        right.set_title("the Jacobian of a map: circles to ellipses", fontsize=11, weight="normal")
        right.set(xlabel="first output", aspect="equal")
        right.set_ylabel("second output")
        right.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.14))

    ratios = []
    for place in places:
        true = np.array(_warp(place[:, None] + 1e-3 * circle / 0.21))
        x, y = true[:, :-1]
        area = 0.5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))
        polygon = 30.0 * np.sin(2.0 * np.pi / 60.0) * 1e-6  # area of the 60-gon itself
        ratios.append(area / polygon / abs(np.linalg.det(jacobian_forward(_warp, place))))
    run.check("area of a small circle's image, over |det J|", np.array(ratios),
              np.ones(len(ratios)), against="theory: change of variables", atol=1e-5,
              why="second derivatives times r² = 1e-6")  # fmt: skip


# ---- operations


def _chain(v):
    """A scalar of n inputs that costs a few operations for each."""
    total = v[0] * v[0]
    for a, b in pairwise(v):
        total = total + sin(a * b) * exp(-a) + a / (2.0 + b * b)
    return total


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

    def by_differences(v):
        base = _chain(v)
        moved = ([x + 1e-8 if i == j else x for i, x in enumerate(v)] for j in range(len(v)))
        return [(_chain(w) - base) / 1e-8 for w in moved]

    ways = {"dual numbers": by_duals, "differences": by_differences, "tape": by_tape}
    sizes = 2 ** np.arange(1, doublings)
    ratio = {name: [] for name in ways}
    for n in sizes:
        x = run.rng.uniform(0.5, 1.5, size=n)
        for name, way in ways.items():
            ratio[name].append(_operations(way, x) / _operations(_chain, x))
    colors = dict(zip(ways, (plots.GREEN, plots.ORANGE, plots.BLUE), strict=True))
    title = "How many evaluations of f does its gradient cost?"
    with run.figure("cost", title, size=(8.0, 4.2)) as ax:
        for name, values in ratio.items():
            ax.loglog(sizes, values, "o-", color=colors[name], label=name, base=2)
        ax.axhline(8.0, color=plots.REFERENCE, linestyle="--", linewidth=1.2)
        ax.text(sizes[-1], 8.7, "bound for the tape: 8", color=plots.REFERENCE, ha="right")
        ax.set(xlabel="inputs n", ylabel="operations / operations of f", xticks=sizes)
        ax.set_xticklabels([str(n) for n in sizes])
        ticks = [2, 4, 8, 16, 32, 64, 128, 256]
        ax.set_yticks(ticks, [str(t) for t in ticks])
        plots.label_lines(ax)
    tape, duals = ratio["tape"], ratio["dual numbers"]
    run.metric("operations of the tape's gradient, in f", tape[-1])
    run.metric("operations of the dual numbers' gradient, in f", duals[-1])
    run.metric("inputs in the largest count", sizes[-1])
    growth = float(np.polyfit(np.log(sizes[-4:]), np.log(duals[-4:]), 1)[0])
    run.metric("growth of dual numbers' cost, exponent of n", growth)
    run.claim(
        "a gradient by a tape costs less than four evaluations of f, whatever the number of inputs",
        max(tape) < 4.0 and growth > 0.9,
        f"n = {sizes[0]} to {sizes[-1]}: tape {min(tape):.2f} to {max(tape):.2f}; "
        f"dual numbers grow as n^{growth:.2f}",
    )


def main(run: Run, *, width: PositiveInt = 6, points: PositiveInt = 20) -> None:
    """Check the three ways against torch, and measure what each costs in digits and operations.

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
