"""What `calculus_of_variations.py` is measured by: closed forms, scipy's laws, true times."""

import math

import numpy as np
from scipy import stats

from shared import plots
from shared.study import PositiveInt, Run
from week02.calculus_of_variations import (
    GRAVITY,
    cycloid,
    free_energy,
    functional,
    graded,
    maximize_free_energy,
    midpoint,
    minimize_path,
    quadrature,
    slide_time,
)
from week02.gradients_and_jacobians import sqrt

X_END, Y_END = 3.0, 1.0  # meters; far to the side, so that the best slide dips below its end
HONEST = "true times of polygons never beat the cycloid"


def main(run: Run, *, points: PositiveInt = 81, seeds: PositiveInt = 5) -> None:
    """Find the best curve and the best densities, and compare them with their closed forms.

    Parameters
    ----------
    points
        Points of the slide.
    seeds
        Random starts of the densities.
    """
    check_smooth_problems(run)
    show_brachistochrone(run, run.budget(quick=41, default=max(points, 41)))
    show_convergence(run, run.budget(quick=3, default=5))
    densities = largest_entropy(run, seeds)
    largest_elbo(run, densities)


def check_smooth_problems(run: Run) -> None:
    """A catenary and a spring: the midpoint rule against closed forms."""
    x = np.linspace(0.0, 1.0, 101)
    why = "the midpoint rule's h² at h = 0.01"
    source = "the Euler–Lagrange equation's solution"
    equal = run.against(source, kind="theorem", atol=2e-5, why=why)
    ends = np.linspace(1.0, math.cosh(1.0), 101)
    film = minimize_path(midpoint(lambda x, y, s: y * sqrt(1.0 + s * s)), x, ends)
    equal("soap film, cosh x", film, np.cosh(x))
    spring = minimize_path(midpoint(lambda x, y, s: 0.5 * (s * s + y * y)), x, x.copy())
    equal("L = (y'² + y²)/2, sinh x / sinh 1", spring, np.sinh(x) / math.sinh(1.0))


def _cycloid_depth(x: np.ndarray) -> np.ndarray:
    """Depth of the cycloid at each x, by bisection in its angle."""
    radius, last = cycloid(X_END, Y_END)
    low, high = np.zeros_like(x), np.full_like(x, last)
    for _ in range(80):
        t = 0.5 * (low + high)
        small = radius * (t - np.sin(t)) < x
        low, high = np.where(small, t, low), np.where(small, high, t)
    return radius * (1.0 - np.cos(t))


def show_brachistochrone(run: Run, n: int) -> None:
    """The fastest slide found, beside the cycloid, a circle arc and the straight line."""
    radius, last = cycloid(X_END, Y_END)
    x = graded(X_END, n)
    start = Y_END * x / X_END
    found = minimize_path(slide_time, x, start)
    ours, best = functional(slide_time, x, found), last * math.sqrt(radius / GRAVITY)
    why = "a polygon of n segments: 1/n², at n = 41, the quick size"
    equal = run.against("the cycloid", kind="theorem", why=why)
    equal("fastest slide, depth", found, _cycloid_depth(x), atol=5e-3)
    equal("fastest slide, seconds", ours, best, rtol=2e-3)
    center = (X_END**2 + Y_END**2) / (2.0 * X_END)  # vertical at the start, as Galileo had it
    bottom = math.acos((center - X_END) / center)

    angle = bottom * np.linspace(0.0, 1.0, 4001) ** 2
    arc = center * (1.0 - np.cos(angle)), center * np.sin(angle)
    arc_seconds, line_seconds = functional(slide_time, *arc), functional(slide_time, x, start)
    run.metric("seconds, cycloid", ours, "s")
    run.metric("seconds, circle arc", arc_seconds, "s")
    run.metric("seconds, straight line", line_seconds, "s")
    run.metric("depth of the best slide below its end", found.max() - Y_END, "m")
    rule = {"at_least": 0, "unit": "s"}
    run.claim("cycloid beats circle arc", arc_seconds - ours, deterministic=True, **rule)
    noise = 0.02 * found[1:-1] * run.rng.normal(size=(200, n - 2))
    slower = [functional(slide_time, x, found + np.r_[0.0, row, 0.0]) - ours for row in noise]
    run.claim("every random change of the path makes it slower", slower, each=True, **rule)

    fine = np.linspace(0.0, last, 400)
    cycloid_ = radius * (fine - np.sin(fine)), radius * (1 - np.cos(fine))
    with run.figure("brachistochrone", "Which slide is the fastest?", size=(8.0, 4.4)) as ax:
        for curve, style, color, text in (
            (([0, X_END], [0, Y_END]), "-", plots.GRAY, f"straight line: {line_seconds:.3f} s"),
            (arc, "-", plots.ORANGE, f"circle arc: {arc_seconds:.3f} s"),
            (cycloid_, "--", plots.REFERENCE, f"cycloid: {best:.3f} s"),
            ((x[::2], found[::2]), "o", plots.BLUE, f"minimized: {ours:.3f} s"),
        ):
            ax.plot(*curve, style, color=color, label=text)
        ax.legend(loc="upper right")
        ax.set(xlabel="x in m", ylabel="depth y in m", aspect="equal", ylim=(1.95, -0.08))


def show_convergence(run: Run, doublings: int) -> None:
    """Error of the minimal time for a careful and a careless way to discretize."""
    radius, last = cycloid(X_END, Y_END)
    best = last * math.sqrt(radius / GRAVITY)

    def lagrangian(x, y, slope):
        return sqrt((1.0 + slope * slope) / (2.0 * GRAVITY * y))

    def even(end, n):
        return np.linspace(0.0, end, n)

    segments = 10 * 2 ** np.arange(doublings)
    excess, orders = {}, {}
    for name, segment, grid in (
        ("exact segments, graded", slide_time, graded),
        ("exact segments, even", slide_time, even),
        ("midpoint rule, even", midpoint(lagrangian), even),
    ):
        grids = [grid(X_END, n + 1) for n in segments.tolist()]
        slides = [minimize_path(segment, x, Y_END * x / X_END) for x in grids]
        times = [functional(segment, x, y) for x, y in zip(grids, slides, strict=True)]
        excess[name] = 100 * (np.array(times) / best - 1.0)
        orders[name] = -np.polyfit(np.log(segments), np.log(np.abs(excess[name])), 1)[0]
    graded_, even_, rule_ = excess.values()
    run.metric("excess of the least time, midpoint rule, even", rule_[-1], "%")
    run.metric("excess of the least time, exact segments, graded", graded_[-1], "%")
    run.metric("order of convergence, midpoint rule, even", orders["midpoint rule, even"])
    run.metric("order of convergence, exact segments, graded", orders["exact segments, graded"])
    note = f"{segments[0]} to {segments[-1]} segments, excess over the cycloid's time"
    rule = {"each": True, "unit": "%", "note": note}
    run.claim(HONEST, np.r_[graded_, even_], at_least=0, **rule)
    run.falsifier("the midpoint rule", rule_, breaks=HONEST)
    run.claim("the midpoint rule's times are impossible", rule_, at_most=0, **rule)
    title = "From which side does the least time approach the true one?"
    with run.figure("convergence", title, size=(8.0, 4.2)) as ax:
        colors = (plots.BLUE, plots.GREEN, plots.ORANGE)
        plots.curves(ax, segments, excess, colors=colors, marker="o", xscale="log", ends=False)
        plots.reference_line(ax, 0.0, "below: faster than possible")
        ax.set(xlabel="segments", ylabel="time against the cycloid's, %")


def largest_entropy(run: Run, seeds: int) -> dict[str, tuple]:
    """Maximum entropy under three sets of constraints; points, density and law of each."""
    sigma, found = 1.5, {}
    why = "tails cut off at 1e-13 and Newton's last step"
    equal = run.against("scipy.stats", atol=1e-9, why=why)
    for name, ends, powers, targets, law in (
        ("Gaussian", (-9 * sigma, 9 * sigma), (0, 1, 2), (1, 0, sigma**2), stats.norm(scale=sigma)),
        ("exponential", (0.0, 30.0), (0, 1), (1, 1), stats.expon()),
        ("uniform", (-2.0, 2.0), (0,), (1,), stats.uniform(-2, 4)),
    ):
        x, weights = quadrature(*ends, 200)
        moments, targets = np.array([x**k for k in powers]), np.array(targets, dtype=float)
        problem = (weights, np.zeros(200), moments, targets)
        starts = run.rng.uniform(0.02, 1.0, size=(seeds, 200))
        densities = np.array([maximize_free_energy(*problem, start=s)[-1] for s in starts])
        found[name] = x, densities[0], law
        expected = np.tile(law.pdf(x), (seeds, 1))
        equal(f"density of largest entropy: {name}", densities, expected)
    rivals = {
        "logistic": stats.logistic(scale=sigma * math.sqrt(3.0) / math.pi),
        "Laplace": stats.laplace(scale=sigma / math.sqrt(2.0)),
        "uniform": stats.uniform(scale=sigma * math.sqrt(12.0)),
    }
    lead = [stats.norm(scale=sigma).entropy() - law.entropy() for law in rivals.values()]
    name = "no rival of the same variance has the Gaussian's entropy"
    run.claim(name, lead, at_least=0, each=True, unit="nats", note=f"ahead of {', '.join(rivals)}")
    return found


def largest_elbo(run: Run, densities: dict[str, tuple]) -> None:
    """The ELBO of a coin: its best density is the posterior, its best value the evidence."""
    heads, tosses = 7, 10
    z, weights = quadrature(0.0, 1.0, 200)
    joint = stats.beta(2, 2).logpdf(z) + stats.binom.logpmf(heads, tosses, z)
    posterior = stats.beta(2 + heads, 2 + tosses - heads)
    evidence = float(stats.betabinom(tosses, 2, 2).logpmf(heads))
    problem = (weights, joint, np.ones((1, 200)), np.ones(1))
    start = 1.2 + np.sin(14.0 * z)
    start /= weights @ start
    path = maximize_free_energy(*problem, start=start)
    equal = run.against("scipy.stats", atol=1e-9, why="rounding, and Newton's last step")
    equal("density of the largest ELBO: the posterior Beta(9, 5)", path[-1], posterior.pdf(z))
    equal("largest ELBO: ln p(x)", free_energy(path[-1], weights, joint), evidence, atol=1e-12)
    random = np.exp(run.rng.normal(size=(100, 5)) @ np.cos(np.outer(np.arange(1, 6), np.pi * z)))
    random /= (random @ weights)[:, None]
    gaps = np.array([evidence - free_energy(q, weights, joint) for q in random])
    kl = (random * (np.log(random) - posterior.logpdf(z))) @ weights
    equal("ln p(x) - ELBO: KL(q‖posterior)", gaps, kl, kind="theorem", atol=1e-10)
    note = "100 random q"
    run.claim("no density has an ELBO above ln p(x)", gaps, at_least=0, each=True, note=note)
    cold = maximize_free_energy(*problem, start=start, temperature=0.05)[-1]

    def spread(q: np.ndarray) -> float:
        mean = weights @ (q * z)
        return math.sqrt(weights @ (q * (z - mean) ** 2))

    name = "with a twentieth of the entropy term, q is far too sure"
    ratio = spread(cold) / spread(path[-1])
    run.claim(name, ratio, at_most=0.3, deterministic=True, unit="of the posterior's spread")

    with run.figure("densities", "Which density is the best?", columns=2, size=(8.3, 4.3)) as axes:
        known = ("variance 1.5²: Gaussian", "mean 1, x > 0: exponential", "−2 < x < 2: uniform")
        for (x, p, law), color, text in zip(densities.values(), plots.COLORS, known, strict=False):
            axes[0].plot(x, law.pdf(x), color=plots.REFERENCE, linestyle="--", linewidth=1.2)
            axes[0].plot(x[::3], p[::3], "o", color=color, markersize=4, label=text)
        axes[0].set(xlabel="x", ylabel="density", xlim=(-6, 7.5), ylim=(0, 1.4))
        axes[0].set_title("largest entropy, by what is known", fontsize=11, weight="normal")
        axes[1].plot(z, path[0], color=plots.GRAY, label="start")
        axes[1].plot(z, cold, color=plots.ORANGE, label="entropy × 0.05")
        axes[1].plot(z, path[-1], color=plots.BLUE, label="largest ELBO")
        axes[1].plot(z, posterior.pdf(z), "--", color=plots.REFERENCE, label="posterior")
        axes[1].set(xlabel="z: the coin's chance of heads", xlim=(0, 1), ylim=(0, None))
        axes[1].set_title(f"{heads} heads in {tosses}", fontsize=11, weight="normal")
        for ax in axes:
            ax.legend(fontsize=9)
