r"""Does the best model grow as the square root of compute? A known law and sixty small GPTs.

Hoffmann et al. train many sizes at each of several budgets C = 6ND, lay a parabola through the
final losses of each budget over ln N, and ask how its minimum moves:

$$ N_\text{opt}(C) \propto C^a . $$

Kaplan et al. (2020) had found a = 0.73; the paper finds about 0.5. First the estimator: it must
find a again where the law is known. Then the data: four budgets, five sizes, one-layer GPTs of 800
to 15,000 weights on characters, where the paper has 70 million to 16 billion. What counts as
reproduced stands in the front matter of README.md and is read from there.

    uv run papers/2022-chinchilla/reproduce.py

Hoffmann et al. (2022), "Training compute-optimal large language models", section 3, table 2.
"""

from pathlib import Path

import numpy as np
import torch
import yaml
from jaxtyping import Float, Int
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from shared import datasets, plots
from shared.stats import Interval, mean_interval
from shared.study import Run, cli
from week14.ngram import encode_characters
from week16.parametric_fit import Law, fit_law
from week16.scaling_laws import (
    BATCH,
    CONTEXT,
    count_weights,
    isoflop_valley,
    make_config,
    peak_scale,
    power_law,
    steps_for,
    sweep,
    sweep_fixed_schedule,
    training_flops,
)

README = Path(__file__).with_name("README.md")
TRUTH = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)  # the paper's equation 10

GRID = {
    4e8: (6, 8, 10, 12, 16),
    8e8: (8, 10, 12, 16, 20),
    1.6e9: (10, 12, 16, 20, 24),
    3.2e9: (12, 16, 20, 24, 32),
}
GRID_QUICK = {1e8: (6, 8, 10), 2e8: (6, 8, 10)}
GRID_FULL = {
    1e9: (8, 10, 12, 16, 20, 24, 32),
    2e9: (8, 12, 16, 20, 24, 32, 40),
    4e9: (12, 16, 20, 24, 32, 40, 48),
    8e9: (12, 16, 24, 32, 40, 48, 64),
    1.6e10: (16, 24, 32, 40, 48, 64, 80),
    3.2e10: (24, 32, 40, 48, 64, 80, 96),
}


def front_matter(readme: str) -> dict:
    """The YAML between the first two lines of three dashes."""
    parts = readme.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("readme must start with front matter between two lines '---', got none")
    return yaml.safe_load(parts[1])


def judge(interval: Interval, rule: dict, interior: bool) -> str:
    """Verdict on the exponent.

    Reproduced if every parabola's minimum is interior and the interval lies in [least, most] and
    excludes the rival; not reproduced if it lies wholly outside; otherwise inconclusive.
    """
    least, most, rival = rule["least"], rule["most"], rule["rival"]
    if least > most:
        raise ValueError(f"least must not exceed most, got {least} and {most}")
    if not interior:
        return "inconclusive"
    if interval.high < least or interval.low > most:
        return "not reproduced"
    inside = least <= interval.low and interval.high <= most
    excludes = not interval.low <= rival <= interval.high
    return "reproduced" if inside and excludes else "inconclusive"


def synthetic_runs(n: int, noise: float, rng: np.random.Generator):
    """N, D and loss of runs that follow the paper's law, with relative noise."""
    n_weights = np.exp(rng.uniform(np.log(7e7), np.log(1.6e10), n))
    n_tokens = np.exp(rng.uniform(np.log(5e9), np.log(5e11), n))
    loss = TRUTH.loss(n_weights, n_tokens) * np.exp(noise * rng.normal(size=n))
    return n_weights, n_tokens, loss


def isoflop_exponent(
    budgets: Float[np.ndarray, " budget"],
    n_weights: Float[np.ndarray, "budget size"],
    loss: Float[np.ndarray, "budget size"],
) -> tuple[float, Float[np.ndarray, " budget"], bool]:
    """a, each budget's best N, and whether all minima are interior."""
    valleys = [isoflop_valley(n, values) for n, values in zip(n_weights, loss, strict=True)]
    best = np.array([valley.n_opt for valley in valleys])
    return power_law(budgets, best)[0], best, all(valley.interior for valley in valleys)


def resample_seeds(
    loss: Float[np.ndarray, "seed budget size"], rng: np.random.Generator
) -> Float[np.ndarray, "budget size"]:
    """Mean over seeds drawn with replacement, anew in every cell: widths share no weights."""
    drawn = rng.integers(0, len(loss), loss.shape)
    return np.take_along_axis(loss, drawn, axis=0).mean(0)


def bootstrap_exponents(
    budgets: Float[np.ndarray, " budget"],
    n_weights: Float[np.ndarray, "budget size"],
    loss: Float[np.ndarray, "seed budget size"],
    *,
    rng: np.random.Generator,
    n_resamples: int,
) -> Float[np.ndarray, " resample"]:
    """The exponent's bootstrap distribution over seeds."""
    return np.array(
        [
            isoflop_exponent(budgets, n_weights, resample_seeds(loss, rng))[0]
            for _ in range(n_resamples)
        ]
    )


def interval_of(estimate: float, draws: Float[np.ndarray, " resample"], n: int) -> Interval:
    """The estimate with the 95% percentile interval of its bootstrap draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(estimate, float(low), float(high), n)


def bracket(loss_of, start: float = 1.0, *, most: int = 6) -> tuple[float, bool]:
    """The best factor of a grid of powers of two that grows until the best is not at its edge."""
    grid = {factor: loss_of(factor) for factor in (start / 2, start, start * 2)}
    while len(grid) < most:
        best = min(grid, key=grid.get)
        if best == min(grid):
            grid[best / 2] = loss_of(best / 2)
        elif best == max(grid):
            grid[best * 2] = loss_of(best * 2)
        else:
            break
    best = min(grid, key=grid.get)
    return best, min(grid) < best < max(grid)


# ---- the experiment


def main(run: Run, *, dataset: str | None = None) -> None:
    """Recover a known law, then measure the exponent on text, with a schedule of its own per run.

    Parameters
    ----------
    dataset
        Text to learn; tinyshakespeare if its file is there, else pydocs.
    """
    paper = front_matter(README.read_text(encoding="utf-8"))
    rules = {rule["name"]: rule for rule in paper["rules"]}
    grid = run.budget(quick=GRID_QUICK, default=GRID, full=GRID_FULL)
    seeds = run.budget(quick=2, default=3, full=8)
    n_resamples = run.budget(quick=20, default=500, full=2000)
    check_flops(run)

    # ---- (i) a law that is known
    rule = rules["the estimator finds a known exponent"]
    points = run.budget(quick=60, default=240)
    draws = run.budget(quick=1, default=3)
    errors = {}
    for noise in (0.001, 0.01):
        fits = [fit_law(*synthetic_runs(points, noise, run.rng))[0] for _ in range(draws)]
        errors[noise] = max(abs(fit.exponent - TRUTH.exponent) for fit in fits)
        run.metric(f"largest error of a at {noise:.1%} noise", errors[noise], rtol=None)
    exact, _ = fit_law(*synthetic_runs(points, 0.0, run.rng))
    run.check(
        "exponent from runs without noise", exact.exponent, 0.28 / 0.62,
        against="the law that made them", atol=1e-6, why="the fit stops at a gradient of 1e-7",
    )  # fmt: skip
    run.verdict(
        rule["name"],
        "reproduced" if errors[0.001] <= rule["most"] else "not reproduced",
        f"largest error {errors[0.001]:.4f} in {draws} draws of {points} runs at 0.1% noise, "
        f"at most {rule['most']} allowed",
    )

    # ---- (ii) IsoFLOP on text
    name = dataset or ("tinyshakespeare" if shakespeare_is_there() else "pydocs")
    training, validation, vocab_size = read_text(name)
    budgets = np.array(list(grid))
    n_weights = np.array(
        [[count_weights(make_config(d, vocab_size, 1)) for d in grid[c]] for c in budgets], float
    )
    run.say(f"{name}: {len(training):,} characters to train on, alphabet of {vocab_size}")
    horizon = min(
        steps_for(c, make_config(d, vocab_size, 1)) for c, widths in grid.items() for d in widths
    )
    options = {"vocab_size": vocab_size, "n_layers": 1}
    arms = {"own": (sweep, {}), "short": (sweep_fixed_schedule, {"horizon": horizon, "floor": 0.1})}
    loss, edges, smallest = {}, 0, min(grid)
    for arm, (train, extra) in arms.items():
        factors = {}
        for d_model in run.progress(grid[smallest][::2], f"learning rates, {arm}"):

            def loss_of(factor, d_model=d_model, train=train, extra=extra):
                (trained,) = train(
                    training, validation, {smallest: (d_model,)}, seed=run.seed + 9999,
                    tune=lambda _, steps: factor * peak_scale(steps), **options, **extra,
                )  # fmt: skip
                return trained.loss

            factors[d_model], inside = bracket(loss_of, most=run.budget(quick=3, default=6))
            edges += not inside
        widths, logs = np.array(list(factors)), np.log(list(factors.values()))

        def tune(d_model, steps, widths=widths, logs=logs):
            return float(np.exp(np.interp(d_model, widths, logs))) * peak_scale(steps)

        arm_runs = []
        for seed in run.progress(range(seeds), f"sweep, {arm}"):
            trained = train(
                training, validation, grid, seed=run.seed + 100 * seed, tune=tune, **options,
                **extra,
            )  # fmt: skip
            cells = {(r.budget, r.d_model): r.loss for r in trained}
            arm_runs.append([[cells[c, d] for d in grid[c]] for c in grid])
        loss[arm] = np.array(arm_runs)
    run.metric("tuned learning rates at the edge of their grid", edges, rtol=None)

    rule = rules["the exponent on text"]
    a, best, interior = isoflop_exponent(budgets, n_weights, loss["own"].mean(0))
    spread = {
        arm: bootstrap_exponents(
            budgets, n_weights, values, rng=run.rng, n_resamples=n_resamples
        )
        for arm, values in loss.items()
    }  # fmt: skip
    interval = interval_of(a, spread["own"], seeds)
    run.metric("a on text", a, rtol=None)
    run.metric("a on text, low", interval.low, rtol=None)
    run.metric("a on text, high", interval.high, rtol=None)
    for budget, n in zip(budgets, best, strict=True):
        run.metric(f"best N at {budget / 1e9:g} GFLOP", n, "weights", rtol=None)
    run.metric("tokens per weight, largest budget", budgets[-1] / 6 / best[-1] ** 2, rtol=None)
    floor = float(loss["own"].std(0, ddof=1).mean())
    run.metric("SD of the loss between seeds", floor, "nats/char", rtol=None)
    run.verdict(
        rule["name"],
        judge(interval, rule, interior),
        f"a = {interval}, asked for: within {rule['least']} to {rule['most']} and without "
        f"{rule['rival']}; minima {'all' if interior else 'not all'} interior; {seeds} seeds",
    )

    # ---- the falsifier
    a_short, _, inside = isoflop_exponent(budgets, n_weights, loss["short"].mean(0))
    shift = interval_of(a_short - a, spread["short"] - spread["own"], seeds)
    run.metric("a with one short schedule", a_short, rtol=None)
    run.metric("a with one short schedule minus a", shift.mean, rtol=None)
    run.verdict(
        paper["falsifier"]["name"],
        "reproduced" if shift.low > 0 or shift.high < 0 else "inconclusive",
        f"a becomes {a_short:.2f}, shift {shift}, must exclude 0; minima of the short schedule "
        f"{'all' if inside else 'not all'} interior",
    )
    paid = mean_interval((loss["short"] - loss["own"]).mean((1, 2)))
    run.metric("loss paid for one short schedule", paid.mean, "nats/char", rtol=None)
    draw(run, paper, budgets, n_weights, loss["own"], best, interval)
    draw_shift(run, budgets, n_weights, loss, horizon)


def shakespeare_is_there() -> bool:
    """Whether the file is at hand: a default run downloads nothing."""
    return (datasets.cache_dir() / "tinyshakespeare/input.txt").exists()


def read_text(name: str) -> tuple[Int[torch.Tensor, " n"], Int[torch.Tensor, " m"], int]:
    """Training text, 8,192 characters to validate on, and the alphabet's size."""
    ids, alphabet = encode_characters(datasets.load_text(name))
    tokens = torch.from_numpy(ids)
    split = int(0.9 * len(tokens))
    return tokens[:split], tokens[split : split + 128 * CONTEXT + 1], len(alphabet)


def check_flops(run: Run) -> None:
    """6ND with attention against torch's count."""
    from torch.utils.flop_counter import FlopCounterMode

    from week14.minimal_gpt import GPT, next_token_loss

    config = make_config(16, 65, 1)
    tokens = torch.zeros(BATCH, CONTEXT, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        next_token_loss(GPT(config)(tokens), tokens).backward()
    run.check(
        "FLOPs of a step", training_flops(config, BATCH * CONTEXT, attention=True),
        float(counter.get_total_flops()), against="torch.utils.flop_counter",
        why="integers: exact",
    )  # fmt: skip


# ---- figures


def plain_ticks(axis, values, unit: float = 1.0) -> None:
    """Whole numbers at these places and nothing between."""
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / unit:,g}"))
    axis.set_minor_locator(NullLocator())


def draw(run: Run, paper: dict, budgets, n_weights, loss, best, interval: Interval) -> None:
    """The paper's exponents, and our parabolas."""
    from matplotlib import colormaps

    title = "How fast should the model grow with compute?"
    with run.figure("exponent", title, columns=2, size=(9.4, 4.6)) as (left, right):
        rows = [
            *[(r["name"], r["a"], r["low"], r["high"], plots.GRAY) for r in paper["paper_a"]],
            ("here, parabolas", interval.mean, interval.low, interval.high, plots.BLUE),
        ]
        for i, (_, a, low, high, ink) in enumerate(rows):
            left.plot([low, high], [i, i], color=ink, lw=3, alpha=0.5)
            left.plot(a, i, "o", color=ink, ms=8)
            left.annotate(f"{a:.2f}", (a, i), (0, 9), textcoords="offset points", ha="center",
                          fontsize=9.5, color=ink)  # fmt: skip
        left.axvline(0.73, color=plots.ORANGE, ls=":", lw=1.8)
        left.annotate("Kaplan\n0.73", (0.73, -0.55), (5, 0), textcoords="offset points",
                      color=plots.ORANGE, fontsize=9.5, va="center")  # fmt: skip
        left.set_yticks(range(len(rows)), [row[0] for row in rows])
        left.set(xlabel="a in best N ∝ Cᵃ", ylim=(len(rows) - 0.5, -0.9))
        left.set_xlim(min(0.3, interval.low - 0.05), max(0.85, interval.high + 0.05))
        left.set_title("Gray: table 2, from secondary copies", fontsize=10.5, weight="normal")
        left.grid(axis="y", visible=False)
        inks = colormaps["viridis"](np.linspace(0.05, 0.8, len(budgets)))
        for budget, n, values, n_opt, ink in zip(
            budgets, n_weights, loss.transpose(1, 2, 0), best, inks, strict=True
        ):
            mean = values.mean(1)
            right.plot(np.repeat(n, values.shape[1]), values.ravel(), ".", color=ink, alpha=0.45)
            right.plot(n, mean, "o", color=ink, ms=5)
            x = np.geomspace(n.min(), n.max(), 60)
            parabola = np.polyfit(np.log(n), mean, 2)
            right.plot(x, np.polyval(parabola, np.log(x)), color=ink, lw=1.5)
            right.plot(n_opt, np.polyval(parabola, np.log(n_opt)), "D", color=ink, mec="black")
            right.annotate(f"{budget / 1e9:g} GFLOP", (n[-1], mean[-1]), (7, 0),
                           textcoords="offset points", va="center", fontsize=9,
                           color=ink)  # fmt: skip
        right.set(xscale="log", xlabel="N (weights)", ylabel="loss (nats/character)",
                  xlim=(None, 3.2 * n_weights.max()))  # fmt: skip
        plain_ticks(right.xaxis, (1e3, 2e3, 5e3, 1e4, 2e4, 5e4))
        right.set_title("Here: a point a seed, one parabola a budget", fontsize=10.5,
                        weight="normal")  # fmt: skip


def draw_shift(run: Run, budgets, n_weights, loss, horizon: int) -> None:
    """Where the minima go with the two ways to schedule; those at an edge are hollow."""
    (a, best, _), (a_short, best_short, _) = (
        isoflop_exponent(budgets, n_weights, loss[arm].mean(0)) for arm in ("own", "short")
    )
    inner, inner_short = (
        [isoflop_valley(*cell).interior for cell in zip(n_weights, loss[arm].mean(0), strict=True)]
        for arm in ("own", "short")
    )
    with run.figure(
        "falsifier", "Does the exponent depend on how the learning rate is scheduled?",
        size=(7.8, 4.2),
    ) as axes:  # fmt: skip
        for n, inside, slope, ink, marker, label in (
            (best, inner, a, plots.BLUE, "D", f"each run its own: a = {a:.2f}"),
            (
                best_short,
                inner_short,
                a_short,
                plots.ORANGE,
                "s",
                f"{horizon} steps for all: a = {a_short:.2f}",
            ),
        ):
            x = np.geomspace(budgets[0] / 1.2, budgets[-1] * 1.2, 10)
            middle = np.exp(np.log(budgets).mean()), np.exp(np.log(n).mean())
            axes.plot(x, middle[1] * (x / middle[0]) ** slope, color=ink, lw=1.6)
            axes.plot(budgets, n, marker, color=ink, ms=8, label=label)
            edge = ~np.array(inside)
            axes.plot(budgets[edge], n[edge], marker, color=ink, mfc="white", ms=8)
        axes.set(xscale="log", yscale="log", xlabel="budget (GFLOP)", ylabel="best N (weights)")
        plain_ticks(axes.xaxis, budgets, 1e9)
        plain_ticks(axes.yaxis, (1e3, 2e3, 3e3, 5e3, 1e4, 2e4, 5e4))
        axes.plot(
            [], [], "s", color=plots.GRAY, mfc="white", label="hollow: at the edge of the sizes"
        )
        axes.legend(loc="lower right")


if __name__ == "__main__":
    cli(main)
