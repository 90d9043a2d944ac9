"""What `calculus_of_variations.py` is measured by: closed forms, scipy's laws, true times."""

import math

import numpy as np
from scipy import stats
from scipy.integrate import quad

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
    """A straight line, a catenary and a spring: the midpoint rule against closed forms."""
    x = np.linspace(0.0, 1.0, 101)
    why = "the midpoint rule's h² at h = 0.01"
    equal = run.against(
        "the Euler–Lagrange equation's solution", kind="theorem", atol=2e-5, why=why
    )
    rough = 1.0 + x + 0.1 * np.sin(9.0 * np.pi * x)
    line = minimize_path(midpoint(lambda x, y, s: sqrt(1.0 + s * s)), x, rough)
    why = "the discrete problem has the same solution: rounding"
    equal("shortest path, a straight line", line, 1.0 + x, atol=1e-12, why=why)
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
    slope, depth = np.diff(found) / np.diff(x), 0.5 * (found[1:] + found[:-1])
    beltrami = (depth * (1.0 + slope**2))[n // 4 :]  # away from the vertical start
    equal(
        "Beltrami's constant y (1 + y'²)", beltrami, np.full_like(beltrami, 2 * radius), rtol=2e-2
    )

    center = (X_END**2 + Y_END**2) / (2.0 * X_END)  # vertical at the start, as Galileo had it
    bottom = math.acos((center - X_END) / center)

    def speed(u: float) -> float:
        return 2.0 * u * math.sqrt(center / (2.0 * GRAVITY * math.sin(u * u)))

    arc_seconds = quad(speed, 0.0, math.sqrt(bottom))[0]
    angle = bottom * np.linspace(0.0, 1.0, 4001) ** 2
    arc = center * (1.0 - np.cos(angle)), center * np.sin(angle)
    equal = run.against("scipy.integrate.quad", rtol=1e-5, why="a polygon of 4000 segments")
    equal("circle arc, seconds", functional(slide_time, *arc), arc_seconds)
    line_seconds = math.sqrt(2.0 * (X_END**2 + Y_END**2) / (GRAVITY * Y_END))
    why = "exact for a straight line: rounding"
    equal = run.against("√(2 (X² + Y²)/(g Y))", kind="theorem", rtol=1e-13, why=why)
    equal("straight line, seconds", functional(slide_time, x, start), line_seconds)
    run.metric("seconds, cycloid", ours, "s")
    run.metric("seconds, circle arc", arc_seconds, "s")
    run.metric("seconds, straight line", line_seconds, "s")
    run.metric("depth of the best slide below its end", found.max() - Y_END, "m")
    rule = {"at_least": 0, "unit": "s"}
    run.claim("cycloid beats circle arc", arc_seconds - ours, deterministic=True, **rule)
    run.claim(
        "circle arc beats straight line", line_seconds - arc_seconds, deterministic=True, **rule
    )
    noise = 0.02 * found[1:-1] * run.rng.normal(size=(200, n - 2))
    slower = [functional(slide_time, x, found + np.r_[0.0, row, 0.0]) - ours for row in noise]
    run.claim("every random change of the path makes it slower", slower, each=True, **rule)

    title = "Which slide is the fastest?"
    with run.figure("brachistochrone", title, size=(8.0, 4.4)) as ax:
        fine = np.linspace(0.0, last, 400)
        ax.plot(X_END * np.array([0, 1]), [0, Y_END], color=plots.GRAY)
        ax.plot(*arc, color=plots.ORANGE)
        exact = radius * (fine - np.sin(fine)), radius * (1 - np.cos(fine))
        ax.plot(*exact, color=plots.REFERENCE, linestyle="--", linewidth=1.4)
        ax.plot(x[::2], found[::2], "o", color=plots.BLUE, markersize=4.5)
        for text, at, color in (
            (f"straight line: {line_seconds:.3f} s", (1.05, 0.27), plots.GRAY),
            (f"circle arc: {arc_seconds:.3f} s", (1.62, 1.78), plots.ORANGE),
            (f"minimized: {ours:.3f} s,\ncycloid: {best:.3f} s", (1.2, 0.86), plots.BLUE),
        ):
            ax.text(*at, text, color=color)
        ax.plot([0, X_END], [0, Y_END], "o", color=plots.REFERENCE, markersize=8)
        ax.set(xlabel="x in m", ylabel="depth y in m", aspect="equal")
        ax.set(xlim=(-0.1, 3.2), ylim=(1.95, -0.08))


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
        ax.axhline(0.0, color=plots.REFERENCE, linestyle="--", linewidth=1.2)
        ax.axhspan(ax.get_ylim()[0], 0.0, color=plots.ORANGE, alpha=0.07, linewidth=0)
        ax.text(segments[0], -0.6, "faster than possible", color=plots.REFERENCE, va="top")
        ax.set(xlabel="segments", ylabel="time against the cycloid's, %")
        ax.set_xticks(segments, [str(n) for n in segments])
        ax.minorticks_off()


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
        entropy = free_energy(densities[0], weights, np.zeros(200))
        equal(f"its entropy: {name}", entropy, float(law.entropy()))
    rivals = {
        "logistic": stats.logistic(scale=sigma * math.sqrt(3.0) / math.pi),
        "Laplace": stats.laplace(scale=sigma / math.sqrt(2.0)),
        "uniform": stats.uniform(scale=sigma * math.sqrt(12.0)),
    }
    spreads = [law.std() for law in rivals.values()]
    equal("the rivals' standard deviations", np.full(3, sigma), spreads)
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

    title = "Which density is the best?"
    with run.figure("densities", title, columns=2, size=(8.3, 4.3)) as (left, right):
        for (x, p, law), color, text, at, (low, high) in zip(
            densities.values(),
            (plots.BLUE, plots.ORANGE, plots.GREEN),
            (
                "variance 1.5²:\nGaussian",
                "mean 1, x > 0:\nexponential",
                "only −2 < x < 2:\nuniform",
            ),
            ((-5.8, 0.085), (0.75, 0.62), (2.2, 0.25)),
            ((-6, 6), (0, 6), (-2, 2)),
            strict=True,
        ):
            fine = np.linspace(low, high, 400)
            left.plot(fine, law.pdf(fine), color=plots.REFERENCE, linestyle="--", linewidth=1.2)
            left.plot(x[::3], p[::3], "o", color=color, markersize=4)
            left.text(*at, text, color=color)
        left.set(xlabel="x", ylabel="density", xlim=(-6, 7.5), ylim=(0, 1.04))
        left.set_title("largest entropy, by what is known", fontsize=11, weight="normal")

        right.plot(z, path[0], color=plots.GRAY, linewidth=1.3)
        right.plot(z, cold, color=plots.ORANGE)
        right.plot(z, path[-1], color=plots.BLUE, linewidth=2.6)
        right.plot(z, posterior.pdf(z), color=plots.REFERENCE, linestyle="--", linewidth=1.2)
        for text, at, color in (
            ("start", (0.03, 1.95), plots.GRAY),
            ("largest ELBO\n= posterior", (0.25, 3.0), plots.BLUE),
            ("entropy\n× 0.05", (0.74, 9.0), plots.ORANGE),
        ):
            right.text(*at, text, color=color)
        right.set(xlabel="z: the coin's chance of heads", xlim=(0, 1), ylim=(0, None))
        right.set_title(f"largest ELBO, {heads} heads in {tosses}", fontsize=11, weight="normal")
