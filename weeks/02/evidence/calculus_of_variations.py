"""Checks, claims and figures of calculus_of_variations."""

import math

import numpy as np

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


# ---- curves


def check_smooth_problems(run: Run) -> None:
    """A straight line, a catenary and a spring: the midpoint rule against closed forms."""
    x = np.linspace(0.0, 1.0, 101)
    rough = 1.0 + x + 0.1 * np.sin(9.0 * np.pi * x)
    line = minimize_path(midpoint(lambda x, y, s: sqrt(1.0 + s * s)), x, rough)
    run.check("shortest path", line, 1.0 + x, against="theory: a straight line", atol=1e-12,
              why="the discrete problem has the same solution: rounding")  # fmt: skip
    ends = np.linspace(1.0, math.cosh(1.0), 101)
    film = minimize_path(midpoint(lambda x, y, s: y * sqrt(1.0 + s * s)), x, ends)
    run.check("soap film", film, np.cosh(x), against="theory: cosh x", atol=2e-5,
              why="the midpoint rule's h² at h = 0.01")  # fmt: skip
    spring = minimize_path(midpoint(lambda x, y, s: 0.5 * (s * s + y * y)), x, x.copy())
    run.check("L = (y'² + y²)/2", spring, np.sinh(x) / math.sinh(1.0),
              against="theory: sinh x / sinh 1", atol=2e-5,
              why="the midpoint rule's h² at h = 0.01")  # fmt: skip


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
    from scipy.integrate import quad

    radius, last = cycloid(X_END, Y_END)
    x = graded(X_END, n)
    start = Y_END * x / X_END
    found = minimize_path(slide_time, x, start)
    best = last * math.sqrt(radius / GRAVITY)
    run.check("fastest slide, depth", found, _cycloid_depth(x), against="theory: cycloid",
              atol=5e-3, why="a polygon of n segments: 1/n², in meters")  # fmt: skip
    ours = functional(slide_time, x, found)
    run.check("fastest slide, seconds", ours, best, against="theory: θ √(R/g)", rtol=2e-3,
              why="1/n² at n = 41, the quick size")  # fmt: skip
    slope = np.diff(found) / np.diff(x)
    depth = 0.5 * (found[1:] + found[:-1])
    inner = slice(n // 4, None)
    run.check("Beltrami's constant y (1 + y'²)", (depth * (1.0 + slope**2))[inner],
              np.full(n - 1, 2.0 * radius)[inner], against="theory: 2R", rtol=2e-2,
              why="chords for slopes: 1/n², away from the vertical start")  # fmt: skip

    center = (X_END**2 + Y_END**2) / (2.0 * X_END)  # vertical at the start, as Galileo had it
    bottom = math.acos((center - X_END) / center)
    arc_seconds = quad(
        lambda u: 2.0 * u * math.sqrt(center / (2.0 * GRAVITY * math.sin(u * u))),
        0.0, math.sqrt(bottom),
    )[0]  # fmt: skip
    angle = bottom * np.linspace(0.0, 1.0, 4001) ** 2
    arc = center * (1.0 - np.cos(angle)), center * np.sin(angle)
    run.check("circle arc, seconds", functional(slide_time, *arc), arc_seconds,
              against="scipy.integrate.quad", rtol=1e-5,
              why="a polygon of 4000 segments")  # fmt: skip
    line_seconds = math.sqrt(2.0 * (X_END**2 + Y_END**2) / (GRAVITY * Y_END))
    run.check("straight line, seconds", functional(slide_time, x, start), line_seconds,
              against="theory: √(2 (X² + Y²)/(g Y))", rtol=1e-13,
              why="exact for a straight line: rounding")  # fmt: skip
    seconds = {"cycloid": ours, "circle arc": arc_seconds, "straight line": line_seconds}
    for name, value in seconds.items():
        run.metric(f"seconds, {name}", value, "s")
    run.metric("depth of the best slide below its end", found.max() - Y_END, "m")
    run.claim(
        "cycloid beats circle arc beats straight line",
        ours < arc_seconds < line_seconds,
        f"{ours:.4f} s, {arc_seconds:.4f} s, {line_seconds:.4f} s",
    )
    wiggles = [
        found + np.r_[0.0, 0.02 * found[1:-1] * run.rng.normal(size=n - 2), 0.0] for _ in range(200)
    ]
    slower = [functional(slide_time, x, y) - ours for y in wiggles]
    run.claim("every random change of the path makes it slower", min(slower) > 0.0,
              f"200 paths: {min(slower):.1e} s to {max(slower):.1e} s slower")  # fmt: skip

    title = "Which slide is the fastest?"
    with run.figure("brachistochrone", title, size=(8.0, 4.4)) as ax:
        fine = np.linspace(0.0, last, 400)
        ax.plot(X_END * np.array([0, 1]), [0, Y_END], color=plots.GRAY)
        ax.plot(*arc, color=plots.ORANGE)
        ax.plot(radius * (fine - np.sin(fine)), radius * (1 - np.cos(fine)),
                color=plots.REFERENCE, linestyle="--", linewidth=1.4)  # fmt: skip
        ax.plot(x[::2], found[::2], "o", color=plots.BLUE, markersize=4.5)
        for text, at, color in (
            (f"straight line: {line_seconds:.3f} s", (1.05, 0.27), plots.GRAY),
            (f"circle arc: {arc_seconds:.3f} s", (1.62, 1.78), plots.ORANGE),
            (f"minimized: {ours:.3f} s,\ncycloid: {best:.3f} s", (1.2, 0.86), plots.BLUE),
        ):
            ax.text(*at, text, color=color)
        ax.plot([0, X_END], [0, Y_END], "o", color=plots.REFERENCE, markersize=8)
        ax.set(xlabel="x in m", ylabel="depth y in m", aspect="equal", xlim=(-0.1, 3.2),
               ylim=(1.95, -0.08))  # fmt: skip


def show_convergence(run: Run, doublings: int) -> None:
    """Error of the minimal time for a careful and a careless way to discretize."""
    radius, last = cycloid(X_END, Y_END)
    best = last * math.sqrt(radius / GRAVITY)

    def lagrangian(x, y, slope):
        return sqrt((1.0 + slope * slope) / (2.0 * GRAVITY * y))

    ways = {
        "exact segments, graded": (slide_time, graded),
        "exact segments, even": (slide_time, lambda end, n: np.linspace(0.0, end, n)),
        "midpoint rule, even": (midpoint(lagrangian), lambda end, n: np.linspace(0.0, end, n)),
    }
    segments = 10 * 2 ** np.arange(doublings)
    times = {
        name: np.array(
            [
                functional(segment, x, minimize_path(segment, x, Y_END * x / X_END))
                for x in (grid(X_END, int(n) + 1) for n in segments)
            ]
        )
        for name, (segment, grid) in ways.items()
    }
    colors = dict(zip(ways, (plots.BLUE, plots.GREEN, plots.ORANGE), strict=True))
    title = "From which side does the least time approach the true one?"
    with run.figure("convergence", title, size=(8.0, 4.2)) as ax:
        for name, values in times.items():
            ax.semilogx(segments, 100.0 * (values / best - 1.0), "o-", color=colors[name],
                        label=name)  # fmt: skip
        ax.axhline(0.0, color=plots.REFERENCE, linestyle="--", linewidth=1.2)
        ax.axhspan(ax.get_ylim()[0], 0.0, color=plots.ORANGE, alpha=0.07, linewidth=0)
        ax.text(segments[0], -0.6, "faster than possible", color=plots.REFERENCE, va="top")
        ax.set(xlabel="segments", ylabel="time against the cycloid's, %", xticks=segments)
        ax.set_xticklabels([str(n) for n in segments])
        ax.minorticks_off()
        plots.label_lines(ax)
    for name, values in times.items():
        run.metric(f"excess of the least time, {name}", 100.0 * (values[-1] / best - 1.0), "%",
                   rtol=0.1)  # fmt: skip
        error = np.abs(values / best - 1.0)
        run.metric(f"order of convergence, {name}",
                   -np.polyfit(np.log(segments), np.log(error), 1)[0], rtol=0.1)  # fmt: skip
    honest = min((times[n] - best).min() for n in ways if "exact" in n)
    cheat = (times["midpoint rule, even"] - best).max()
    run.claim(
        "true times of polygons never beat the cycloid; the midpoint rule's always do",
        honest > 0.0 > cheat,
        f"{segments[0]} to {segments[-1]} segments: at least {honest:.1e} s above, "
        f"at least {-cheat:.1e} s below",
    )


# ---- densities


def show_densities(run: Run, seeds: int) -> None:
    """Maximum entropy under three sets of constraints, and the ELBO of a coin."""
    from scipy import stats

    sigma = 1.5
    problems = {
        "Gaussian": (
            (-9 * sigma, 9 * sigma), lambda x: np.array([x**0, x, x**2]),
            np.array([1.0, 0.0, sigma**2]), stats.norm(scale=sigma),
        ),
        "exponential": (
            (0.0, 30.0), lambda x: np.array([x**0, x]), np.array([1.0, 1.0]), stats.expon(),
        ),
        "uniform": ((-2.0, 2.0), lambda x: np.array([x**0]), np.array([1.0]), stats.uniform(-2, 4)),
    }  # fmt: skip
    found = {}
    for name, ((low, high), moments, targets, law) in problems.items():
        x, weights = quadrature(low, high, 200)
        nothing = np.zeros_like(x)
        ends = [
            maximize_free_energy(weights, nothing, moments(x), targets,
                                 start=run.rng.uniform(0.02, 1.0, size=200))[-1]
            for _ in range(seeds)
        ]  # fmt: skip
        found[name] = x, ends[0]
        run.check(f"largest entropy: {name}", np.array(ends), np.tile(law.pdf(x), (seeds, 1)),
                  against=f"scipy.stats.{law.dist.name}", atol=1e-9,
                  why="tails cut off at 1e-13 and Newton's last step")  # fmt: skip
        run.check(f"its entropy: {name}", free_energy(ends[0], weights, nothing),
                  float(law.entropy()), against=f"scipy.stats.{law.dist.name}", atol=1e-9,
                  why="tails cut off at 1e-13")  # fmt: skip
    rivals = {
        "Gaussian": stats.norm(scale=sigma),
        "logistic": stats.logistic(scale=sigma * math.sqrt(3.0) / math.pi),
        "Laplace": stats.laplace(scale=sigma / math.sqrt(2.0)),
        "uniform": stats.uniform(scale=sigma * math.sqrt(12.0)),
    }
    entropies = {name: float(law.entropy()) for name, law in rivals.items()}
    run.claim(
        "no rival of the same variance has the Gaussian's entropy",
        max(entropies, key=entropies.get) == "Gaussian"
        and all(math.isclose(law.std(), sigma) for law in rivals.values()),
        ", ".join(f"{name} {value:.3f}" for name, value in entropies.items()) + " nats",
    )

    heads, tosses = 7, 10
    z, weights = quadrature(0.0, 1.0, 200)
    joint = stats.beta(2, 2).logpdf(z) + stats.binom.logpmf(heads, tosses, z)
    posterior = stats.beta(2 + heads, 2 + tosses - heads)
    evidence = float(stats.betabinom(tosses, 2, 2).logpmf(heads))
    one, unit = np.ones((1, 200)), np.ones(1)
    start = 1.2 + np.sin(14.0 * z)
    start /= weights @ start
    path = maximize_free_energy(weights, joint, one, unit, start=start)
    run.check("density of the largest ELBO", path[-1], posterior.pdf(z),
              against="theory: the posterior Beta(9, 5)", atol=1e-9,
              why="rounding, and Newton's last step")  # fmt: skip
    run.check("largest ELBO", free_energy(path[-1], weights, joint), evidence,
              against="scipy.stats.betabinom: ln p(x)", atol=1e-12,
              why="float64 rounding")  # fmt: skip
    random = np.exp(run.rng.normal(size=(100, 5)) @ np.cos(np.outer(np.arange(1, 6), np.pi * z)))
    random /= (random @ weights)[:, None]
    gaps = np.array([evidence - free_energy(q, weights, joint) for q in random])
    kl = (random * (np.log(random) - posterior.logpdf(z))) @ weights
    run.check("ln p(x) - ELBO", gaps, kl, against="theory: KL(q‖posterior)", atol=1e-10,
              why="float64 rounding of 100 random q")  # fmt: skip
    run.claim("no density has an ELBO above ln p(x)", gaps.min() > 0.0,
              f"100 random q: {gaps.min():.3f} to {gaps.max():.3f} nats below")  # fmt: skip
    cold = maximize_free_energy(weights, joint, one, unit, start=start, temperature=0.05)[-1]

    def spread(q: np.ndarray) -> float:
        mean = weights @ (q * z)
        return math.sqrt(weights @ (q * (z - mean) ** 2))

    ratio = spread(cold) / spread(path[-1])
    run.metric("spread without most of the entropy, over the posterior's", ratio)
    run.claim(
        "with a twentieth of the entropy term, q is far too sure",
        ratio < 0.3,
        f"standard deviation {spread(cold):.3f} against {spread(path[-1]):.3f}",
    )

    title = "Which density is the best?"
    with run.figure("densities", title, columns=2, size=(8.3, 4.3)) as (left, right):
        colors = (plots.BLUE, plots.ORANGE, plots.GREEN)
        constraints = ("variance 1.5²:\nGaussian", "mean 1, x > 0:\nexponential",
                       "only −2 < x < 2:\nuniform")  # fmt: skip
        places = ((-5.8, 0.085), (0.75, 0.62), (2.2, 0.25))
        for (name, (x, p)), color, text, at in zip(
            found.items(), colors, constraints, places, strict=True
        ):
            law = problems[name][3]
            low = -2.0 if name == "uniform" else (0.0 if name == "exponential" else -6.0)
            fine = np.linspace(low, 2.0 if name == "uniform" else 6.0, 400)
            left.plot(fine, law.pdf(fine), color=plots.REFERENCE, linestyle="--", linewidth=1.2)
            shown = slice(None, None, 3)
            left.plot(x[shown], p[shown], "o", color=color, markersize=4)
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
    show_densities(run, seeds)
