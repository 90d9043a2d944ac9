r"""Does the best model grow as the square root of compute? A known law and sixty small GPTs.

Hoffmann et al. train many sizes at each of several budgets C = 6ND, lay a parabola through the
final losses of each budget over ln N, and ask how its minimum moves:

$$ N_\text{opt}(C) \propto C^a . $$

Kaplan et al. (2020) had found a = 0.73; the paper finds about 0.5. First the estimators: they must
find a again where the law is known. Then the data: four budgets, five sizes, one-layer GPTs of 800
to 15,000 weights on characters, where the paper has 70 million to 16 billion. The rules stand in
the front matter of README.md.

    uv run papers/2022-chinchilla/reproduce.py

Hoffmann et al. (2022), "Training compute-optimal large language models", section 3, table 2.
"""

import numpy as np
import torch
from jaxtyping import Float, Int

from shared import datasets, papers, plots
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

TRUTH = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)  # the paper's equation 10

GRID = {
    4e8: (6, 8, 10, 12, 16),
    8e8: (8, 10, 12, 16, 20),
    1.6e9: (10, 12, 16, 20, 24),
    3.2e9: (12, 16, 20, 24, 32),
}
GRID_QUICK = {2e7: (6, 8, 10), 4e7: (6, 8, 10)}
GRID_FULL = {
    1e9: (8, 10, 12, 16, 20, 24, 32),
    2e9: (8, 12, 16, 20, 24, 32, 40),
    4e9: (12, 16, 20, 24, 32, 40, 48),
    8e9: (12, 16, 24, 32, 40, 48, 64),
    1.6e10: (16, 24, 32, 40, 48, 64, 80),
    3.2e10: (24, 32, 40, 48, 64, 80, 96),
}


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


def synthetic_valleys(noise: float, rng: np.random.Generator):
    """Budgets, sizes and losses of the paper's law, laid out as the runs on text are."""
    budgets = 1e21 * np.array([1.0, 2.0, 4.0, 8.0])
    scale = (TRUTH.alpha * TRUTH.A / (TRUTH.beta * TRUTH.B)) ** (1 / (TRUTH.alpha + TRUTH.beta))
    best = scale * (budgets / 6) ** TRUTH.exponent
    n = best[:, None] * np.geomspace(1 / 3, 3, 5)
    loss = TRUTH.loss(n, budgets[:, None] / 6 / n)
    return budgets, n, loss * np.exp(noise * rng.normal(size=loss.shape))


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
    paper = papers.load(__file__)
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_flops(run)
    known_laws(run, paper)
    grid = run.budget(quick=GRID_QUICK, default=GRID, full=GRID_FULL)
    seeds = run.budget(quick=2, default=5, full=8)
    name = dataset or ("tinyshakespeare" if shakespeare_is_there() else "pydocs")
    run.chose(dataset=name)
    training, validation, vocab_size = read_text(name)
    budgets = np.array(list(grid))
    sizes = [[count_weights(make_config(d, vocab_size, 1)) for d in grid[c]] for c in budgets]
    n_weights = np.array(sizes, float)
    run.say(f"{name}: {len(training):,} characters to train on, alphabet of {vocab_size}")
    horizon = min(
        steps_for(c, make_config(d, vocab_size, 1)) for c, widths in grid.items() for d in widths
    )
    arms = {"own": (sweep, {}), "short": (sweep_fixed_schedule, {"horizon": horizon, "floor": 0.1})}
    loss, edges, smallest = {}, 0, min(grid)
    for arm, (train, extra) in arms.items():
        options, factors = {"vocab_size": vocab_size, "n_layers": 1, **extra}, {}
        for d_model in run.progress(grid[smallest][::2], f"learning rates, {arm}"):

            def loss_of(factor, d_model=d_model, train=train, options=options):
                cell, trial = {smallest: (d_model,)}, {"seed": run.seed + 9999, **options}
                rate = {"tune": lambda _, steps: factor * peak_scale(steps)}
                (trained,) = train(training, validation, cell, **rate, **trial)
                return trained.loss

            factors[d_model], inside = bracket(loss_of, most=run.budget(quick=3, default=6))
            edges += not inside
        widths, logs = np.array(list(factors)), np.log(list(factors.values()))

        def tune(d_model, steps, widths=widths, logs=logs):
            return float(np.exp(np.interp(d_model, widths, logs))) * peak_scale(steps)

        arm_runs = []
        for seed in run.progress(range(seeds), f"sweep, {arm}"):
            once = {"seed": run.seed + 100 * seed, "tune": tune, **options}
            trained = train(training, validation, grid, **once)
            cells = {(r.budget, r.d_model): r.loss for r in trained}
            arm_runs.append([[cells[c, d] for d in grid[c]] for c in grid])
        loss[arm] = np.array(arm_runs)

    own, short = (
        np.array([isoflop_exponent(budgets, n_weights, values)[0] for values in loss[arm]])
        for arm in ("own", "short")
    )
    _, best, interior = isoflop_exponent(budgets, n_weights, loss["own"].mean(0))
    run.metric("tokens per weight, largest budget", budgets[-1] / 6 / best[-1] ** 2, rtol=None)
    floor = float(loss["own"].std(0, ddof=1).mean())
    run.metric("SD of the loss between seeds", floor, "nats/char", rtol=None)
    # slopes of a few steps are noise at the quick size: never compared
    late, inner = {"quick": False, "rtol": None}, "all" if interior else "not all"
    paper.judge(run, "the exponent on text", own, note=f"minima {inner} interior", **late)
    paper.judge(run, "not the older exponent", own, **late)
    shift = "with one short schedule for all lengths, the exponent falls"
    note = f"a becomes {short.mean():.2f}; {edges} tuned rates at the edge of their grids"
    paper.judge(run, shift, short - own, note=note, **late)
    paid = (loss["short"] - loss["own"]).mean((1, 2))
    run.claim("one short schedule costs", paid, at_least=0, unit="nats/char", quick=False)
    draw(run, paper, budgets, n_weights, loss["own"], best, mean_interval(own))


def known_laws(run: Run, paper: papers.Paper) -> None:
    """Both estimators where the exponent is known: the fit of the law, and the parabolas."""
    points, draws = run.budget(quick=40, default=240), run.budget(quick=2, default=5)
    errors = {}
    for noise in (0.001, 0.01):
        fits = [fit_law(*synthetic_runs(points, noise, run.rng))[0] for _ in range(draws)]
        errors[noise] = np.array([abs(fit.exponent - TRUTH.exponent) for fit in fits])
    exact, _ = fit_law(*synthetic_runs(points, 0.0, run.rng))
    law = {"against": "the law that made them", "kind": "theorem", "atol": 1e-6}
    why, truth = "the fit stops at a gradient of 1e-7", TRUTH.beta / (TRUTH.alpha + TRUTH.beta)
    run.check("exponent from runs without noise", exact.exponent, truth, why=why, **law)
    note = f"at 1 % noise up to {errors[0.01].max():.3f}"
    paper.judge(run, "the fit finds a known exponent", errors[0.001], note=note, rtol=0.5)
    found = [isoflop_exponent(*synthetic_valleys(0.005, run.rng))[0] for _ in range(4 * draws)]
    spread = f"0.5 % noise; SD of one draw {np.std(found, ddof=1):.2f}"
    rule, off = "parabolas find a known exponent", np.array(found) - TRUTH.exponent
    paper.judge(run, rule, off, note=spread, quick=False)


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
    ours = training_flops(config, BATCH * CONTEXT, attention=True)
    counted = {"against": "torch.utils.flop_counter", "why": "integers: exact"}
    run.check("FLOPs of a step", ours, float(counter.get_total_flops()), **counted)


def draw(run: Run, paper: papers.Paper, budgets, n_weights, loss, best, found: Interval) -> None:
    """The paper's exponents, and our parabolas."""
    from matplotlib import colormaps

    title = "How fast should the model grow with compute?"
    with run.figure("exponent", title, columns=2, size=(9.4, 4.6)) as (left, right):
        rows = [(r["name"], r["a"], r["low"], r["high"]) for r in paper.matter["paper_a"]]
        rows.append(("here, parabolas", found.mean, found.low, found.high))
        for i, (_, a, low, high) in enumerate(rows):
            ink = plots.BLUE if i == len(rows) - 1 else plots.GRAY
            left.plot([low, high], [i, i], color=ink, lw=3, alpha=0.5)
            left.plot(a, i, "o", color=ink, ms=8)
            left.text(a, i - 0.15, f"{a:.2f}", ha="center", fontsize=9.5, color=ink)
        left.axvline(0.73, color=plots.ORANGE, ls=":", lw=1.8)
        left.text(0.735, -0.55, "Kaplan\n0.73", color=plots.ORANGE, fontsize=9.5, va="center")
        left.set_yticks(range(len(rows)), [row[0] for row in rows])
        left.set(xlabel="a in best N ∝ Cᵃ", ylim=(len(rows) - 0.5, -0.9))
        left.set_xlim(min(0.3, found.low - 0.05), max(0.85, found.high + 0.05))
        left.set_title("Gray: table 2, from copies", fontsize=10.5, weight="normal")
        left.grid(axis="y", visible=False)
        inks = colormaps["viridis"](np.linspace(0.05, 0.8, len(budgets)))
        cells = zip(budgets, n_weights, loss.transpose(1, 2, 0), best, inks, strict=True)
        for budget, n, values, n_opt, ink in cells:
            parabola = np.polyfit(np.log(n), values.mean(1), 2)
            x = np.geomspace(n.min(), n.max(), 60)
            right.plot(np.repeat(n, values.shape[1]), values.ravel(), ".", color=ink, alpha=0.45)
            right.plot(n, values.mean(1), "o", color=ink, ms=5)
            right.plot(x, np.polyval(parabola, np.log(x)), color=ink, lw=1.5)
            right.plot(n_opt, np.polyval(parabola, np.log(n_opt)), "D", color=ink, mec="black")
            place = (1.1 * n[-1], values.mean(1)[-1])
            right.text(*place, f"{budget / 1e9:g} GFLOP", va="center", fontsize=9, color=ink)
        right.set(xscale="log", xlabel="N (weights)", ylabel="loss (nats/character)")
        right.set_xlim(None, 3.2 * n_weights.max())
        ticks = [1000, 2000, 5000, 10_000, 20_000, 50_000]
        right.set_xticks(ticks, [f"{n:,}" for n in ticks])
        right.minorticks_off()
        right.set_title("Here: points are seeds", fontsize=10.5, weight="normal")


if __name__ == "__main__":
    cli(main)
