"""Twenty runs, the law fitted to them, a larger run predicted, and one schedule for all."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import colormaps

from shared import datasets, plots
from shared.stats import Interval
from shared.study import Run
from week14.minimal_gpt import GPT, evaluate, train
from week14.ngram import encode_characters
from week16.evidence.scaling_laws_checks import check_fit, check_flops, check_training
from week16.parametric_fit import Law, fit_law
from week16.scaling_laws import (
    BATCH,
    CONTEXT,
    TrainedRun,
    Valley,
    isoflop_valley,
    make_config,
    peak_scale,
    power_law,
    sweep,
    sweep_fixed_schedule,
)

# Widths around each budget's best, found on a coarser trial with another validation text.
GRID = {
    1e9: (6, 8, 12, 16, 24),
    2.5e9: (8, 12, 16, 20, 24),
    6.3e9: (12, 16, 20, 24, 32),
    1.6e10: (20, 24, 32, 40, 48),
}
HELD_OUT = (5e10, 32)  # three times the largest budget, near where the best width should be
GRID_QUICK = {2e8: (6, 8, 12), 4e8: (6, 8, 12)}
GRID_FULL = {
    3e9: (8, 12, 16, 24, 32),
    1.2e10: (12, 16, 24, 32, 48),
    4.8e10: (16, 24, 32, 48, 64),
    1.9e11: (32, 48, 64, 96, 128),
}
NATS, GIGA = "nats/char", 1e9


def main(run: Run, *, dataset: str = "pydocs") -> None:
    """Train twenty models at four budgets, fit the law, and predict a larger run.

    Parameters
    ----------
    dataset
        Text to learn: pydocs, tinyshakespeare, wikitext2 or wikipedia.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_flops(run)
    check_training(run)
    check_fit(run)
    grid = run.budget(quick=GRID_QUICK, default=GRID, full=GRID_FULL)
    text = Text(dataset)
    options = {"vocab_size": text.vocab_size, "seed": run.seed}
    trained = sweep(text.training, text.validation, grid, **options)
    cells = run.progress(range(sum(map(len, grid.values()))), "sweep")
    runs = [next(trained) for _ in cells]
    learns(run, text, runs)
    law = fit(run, runs, grid)
    larger = predict(run, law, runs, text, options)
    draw_poster(run, runs, law, larger)
    one_schedule(run, runs, text, grid, options)


class Text:
    """Characters to train and to validate on.

    Validation is six blocks of 2,048 spread over the text, so that both are alike and the loss on
    the way may be compared with the loss at the end.
    """

    def __init__(self, dataset: str):
        ids, alphabet = encode_characters(datasets.load_text(dataset))
        blocks = torch.from_numpy(ids[: len(ids) // 2048 * 2048]).view(-1, 2048)
        held = torch.zeros(len(blocks), dtype=torch.bool)
        held[torch.linspace(0, len(blocks) - 1, 8).long()[1:-1]] = True
        self.training, self.validation = blocks[~held].flatten(), blocks[held].flatten()
        self.vocab_size = len(alphabet)


def columns(runs: Sequence[TrainedRun]) -> tuple[Float[np.ndarray, " run"], ...]:
    """N, D and loss of the runs as arrays of floats."""
    fields = ("n_weights", "n_tokens", "loss")
    return tuple(np.array([getattr(r, f) for r in runs], dtype=float) for f in fields)


def valleys(runs: Sequence[TrainedRun]) -> dict[float, Valley]:
    """The parabola of every budget."""
    found = {}
    for budget in sorted({r.budget for r in runs}):
        n_weights, _, loss = columns([r for r in runs if r.budget == budget])
        found[budget] = isoflop_valley(n_weights, loss)
    return found


def exponent(found: Mapping[float, Valley]) -> float:
    """a of approach 2."""
    return power_law(np.array(list(found)), np.array([v.n_opt for v in found.values()]))[0]


def learns(run: Run, text: Text, runs: Sequence[TrainedRun]) -> None:
    """What the runs know, they know from the order of the characters."""
    counts = np.bincount(text.training.numpy(), minlength=text.vocab_size) + 1
    letters = -float(np.log(counts / counts.sum())[text.validation.numpy()].mean())
    steps, shuffled = run.budget(quick=5, default=100), []
    for seed in range(run.budget(quick=2, default=3)):
        control = GPT(make_config(16, text.vocab_size), run.generator(10 * seed))
        order = torch.randperm(len(text.training), generator=run.generator(10 * seed + 2))
        options = {"lr_scale": peak_scale(steps), "generator": run.generator(10 * seed + 1)}
        options |= {"steps": steps, "batch": BATCH, "optimizer": "muon"}
        train(control, text.training[order], **options)
        shuffled.append(letters - evaluate(control, text.validation, window=CONTEXT))
    name, unit = "the runs learn the order of characters", f"{NATS} below letter frequencies"
    run.claim(name, letters - columns(runs)[2], at_least=0.5, unit=unit, quick=False)
    run.falsifier("shuffled text", shuffled, breaks=name)


# ---- the two fits


def fit(run: Run, runs: Sequence[TrainedRun], grid: Mapping) -> tuple[Law, list[Law]]:
    """Parabolas of each budget, and the law with its bootstrap."""
    n_weights, n_tokens, loss = columns(runs)
    run.metric("runs", len(runs), rtol=0)
    run.metric("FLOPs of the sweep", 6 * float(n_weights @ n_tokens), "FLOP", rtol=0.01)
    found, largest = valleys(runs), max(grid)
    run.metric("a, IsoFLOP parabolas", exponent(found), rtol=None)
    if all(len(widths) > 3 for widths in grid.values()):
        fewer = [r for r in runs if r.d_model > min(grid[r.budget])]
        without = exponent(valleys(fewer))
        run.metric("a, smallest size of each budget left out", without, rtol=None)
    ratio = largest / 6 / found[largest].n_opt ** 2
    run.metric("tokens per weight at the largest budget", ratio, rtol=None)
    inside = [float(v.interior and v.curvature > 0) for v in found.values()]
    rule = {"at_least": 1, "each": True, "note": "1: inside", "quick": False}
    run.claim("every budget's best size lies inside the sizes tried", inside, rtol=None, **rule)

    n = run.budget(quick=10, default=300)
    law, resampled = fit_law(n_weights, n_tokens, loss, n_resamples=n, rng=run.rng)
    low, high = np.quantile([fit.exponent for fit in resampled], [0.025, 0.975])
    floor = np.quantile([fit.E for fit in resampled], [0.025, 0.975])
    run.metric("E of the fit, low", floor[0], rtol=None)
    run.metric("E of the fit, high", floor[1], rtol=None)
    interval = Interval(law.exponent, float(low), float(high), len(runs))
    rule = {"at_least": 0, "at_most": 1, "note": "a; 95 % by bootstrap over the runs"}
    name = "a larger budget should buy both weights and tokens"
    run.claim(name, interval, quick=False, rtol=None, **rule)

    title = "Twice the compute: how much more model?"
    with run.figure("isoflop", title, columns=2, size=(10.0, 4.4)) as (left, right):
        parabolas(left, runs, found, [f"{c / GIGA:g} GFLOP" for c in found])
        budgets, best = np.array(list(found)), np.array([v.n_opt for v in found.values()])
        right.plot(budgets, best, "D", color=plots.REFERENCE, ms=8)
        middle, at = np.exp(np.log(best).mean()), budgets / np.exp(np.log(budgets).mean())
        slopes = {"through the minima": exponent(found), "Hoffmann et al.": 0.5}
        slopes["Kaplan et al."] = 0.73
        lines = {f"{name}: a = {a:.2f}": middle * at**a for name, a in slopes.items()}
        lines[f"law L(N, D) fitted: a = {law.exponent:.2f}"] = law.optimum(budgets)[0]
        labels = {"xlabel": "budget (FLOP)", "ylabel": "best N (weights)"}
        plots.curves(right, budgets, lines, xscale="log", yscale="log", ends=False, **labels)
        for line in right.get_lines()[2:4]:
            line.set_linestyle("--")
        right.legend()
    return law, resampled


def predict(
    run: Run, fitted: tuple[Law, list[Law]], runs: Sequence[TrainedRun], text: Text, options: dict
) -> TrainedRun:
    """Train the larger model from several seeds, and compare with what was predicted before."""
    law, resampled = fitted
    budget, width = run.budget(quick=(8e8, 12), default=HELD_OUT, full=(8e11, 128))
    larger, held = [], {budget: (width,)}
    for seed in range(run.seed, run.seed + run.budget(quick=1, default=4)):
        larger += sweep(text.training, text.validation, held, **options | {"seed": seed})
    n_weights, n_tokens, measured = columns(larger)

    def miss(predicted: float) -> Float[np.ndarray, " seed"]:
        return 100 * np.log(predicted / measured)

    at = n_weights[:1], n_tokens[:1]
    predicted, *others = (float(f.loss(*at)[0]) for f in (law, *resampled))
    low, high = np.quantile(others, [0.025, 0.975])
    n, d, loss = columns(runs)
    blind = float(fit_law(n, d, run.rng.permutation(loss))[0].loss(*at)[0])
    note = f"predicted {predicted:.2f} [{low:.2f}, {high:.2f}], measured {measured.mean():.2f}"
    name, late = "the law predicts a run of three times the largest budget to 5%", {"quick": False}
    late |= {"rtol": None, "seen_before": "off by 5.8 % in one run"}
    rule = {"at_least": -5, "at_most": 5, "unit": "% too much"}
    run.claim(name, miss(predicted), note=note, **rule, **late)
    run.falsifier("a law of shuffled losses", miss(blind), breaks=name)
    run.falsifier("no law: the sweep's best loss", miss(loss.min()), breaks=name)
    name, unit = "the law predicts better than no law", "of the miss without one"
    near, none, shuffled = (np.abs(miss(p)) for p in (predicted, loss.min(), blind))
    run.claim(name, near / none, at_most=1, unit=unit, **late)
    run.falsifier("shuffled losses", shuffled / none, breaks=name)
    return larger[0]


# ---- the mistake


def one_schedule(
    run: Run, runs: Sequence[TrainedRun], text: Text, grid: Mapping, options: dict
) -> None:
    """The smallest and the largest budget again, with the shortest run's schedule for all."""
    ends, horizon = {c: grid[c] for c in (min(grid), max(grid))}, min(len(r.curve) for r in runs)
    options = options | {"horizon": horizon, "floor": 0.1}
    fixed = list(sweep_fixed_schedule(text.training, text.validation, ends, **options))
    own = {(r.budget, r.d_model): r.loss for r in runs}
    paid = [r.loss - own[r.budget, r.d_model] for r in fixed]
    wrong, right = valleys(fixed), {c: v for c, v in valleys(runs).items() if c in ends}
    note = f"{horizon} steps for all; a from two budgets {exponent(right):.2f} becomes "
    note += f"{exponent(wrong):.2f}"
    note += "" if all(v.interior for v in wrong.values()) else " (a minimum at an edge)"
    name, rule = "one short schedule for all lengths overstates the loss", {"at_least": 0}
    run.claim(name, paid, unit=f"{NATS} too much", note=note, quick=False, **rule)
    inside = [float(v.interior) for v in wrong.values()]
    name = "every budget's best size lies inside the sizes tried"
    run.falsifier("one short schedule for all", inside, breaks=name)
    title = "What does one learning-rate schedule for all lengths cost?"
    with run.figure("one_schedule", title, columns=2, size=(10.0, 4.2)) as panels:
        arms = {"the shortest run's for all": (fixed, wrong, plots.ORANGE)}
        arms["its own length"] = (runs, right, plots.BLUE)
        for axes, budget in zip(panels, ends, strict=True):
            for label, (some, found, color) in arms.items():
                parabolas(axes, some, {budget: found[budget]}, [label], [color])
            axes.set_title(f"{budget / GIGA:g} GFLOP; diamond: minimum, if inside", fontsize=11)


# ---- figures


def parabolas(
    axes,
    runs: Sequence[TrainedRun],
    found: Mapping[float, Valley],
    labels: Sequence[str],
    colors: Sequence[str] = plots.COLORS,
) -> None:
    """The runs of each budget, the parabola through them, and its minimum if it lies inside."""
    for (budget, valley), label, color in zip(found.items(), labels, colors, strict=False):
        n_weights, _, loss = columns([r for r in runs if r.budget == budget])
        axes.plot(n_weights, loss, "o", color=color, label=label)
        x = np.geomspace(n_weights.min(), n_weights.max(), 60)
        axes.plot(x, np.polyval(np.polyfit(np.log(n_weights), loss, 2), np.log(x)), color=color)
        if valley.interior:
            axes.plot(valley.n_opt, valley.loss, "D", color=color, mec="black", ms=9)
    axes.set(xscale="log", xlabel="N (weights)", ylabel="loss (nats/character)")
    axes.legend()


def draw_poster(
    run: Run, runs: Sequence[TrainedRun], fitted: tuple[Law, list[Law]], larger: TrainedRun
) -> None:
    """Every run's loss on its way, and the line below which no budget buys."""
    every = sorted([*runs, larger], key=lambda r: r.n_weights)
    flops, curves = {}, {}
    for i, r in enumerate(every):  # means over the last quarter of the steps so far
        ends = np.unique(np.geomspace(6, len(r.curve), 50).astype(int))
        curves[f"_{i}"] = [np.mean(r.curve[e - max(6, e // 4) : e]) for e in ends]
        flops[f"_{i}"] = 6 * r.n_weights * ends * BATCH * CONTEXT
    shades = colormaps["viridis"](np.linspace(0, 0.88, len(every)))
    inks = [plots.ORANGE if r is larger else ink for r, ink in zip(every, shades, strict=True)]
    budget = np.geomspace(0.4 * min(r.budget for r in runs), 2 * larger.budget, 100)
    title = "How low can a compute budget go? Every run on its way down"
    with run.figure("frontier", title, size=(8.5, 5.4)) as axes:
        plots.curves(axes, flops, curves, colors=inks)
        for line in axes.get_lines():
            line.set(linewidth=1.1, alpha=0.5)
        law = "best split of each budget, by the law fitted to the round points"
        best = fitted[0].loss(*fitted[0].optimum(budget))
        axes.plot(budget, best, "--", color=plots.REFERENCE, lw=2, label=law)
        for r, ink in zip(every, inks, strict=True):
            mark = {"marker": "*", "ms": 18, "label": "not in the fit"} if r is larger else {}
            mark = {"marker": "o", "color": ink, "mec": "white", "ls": ""} | mark
            axes.plot(6 * r.n_weights * r.n_tokens, r.loss, **mark)
        labels = {"xlabel": "training compute, 6 N D (FLOP); small models dark, large ones light"}
        labels |= {"xscale": "log", "ylabel": "loss (nats/character)"}
        axes.set(xlim=(budget[0] / 6, budget[-1]), ylim=(1.5, 4.0), **labels)
        axes.legend()
