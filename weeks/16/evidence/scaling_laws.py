"""Checks, claims and figures of scaling_laws."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import Run
from week14.minimal_gpt import GPT, GPTConfig, evaluate, random_batch, train
from week14.ngram import encode_characters
from week16.parametric_fit import Law, Residuals, fit_law, grid_of_starts, lbfgs
from week16.scaling_laws import (
    BATCH,
    CONTEXT,
    TrainedRun,
    Valley,
    count_weights,
    isoflop_valley,
    make_config,
    peak_scale,
    power_law,
    steps_for,
    sweep,
    sweep_fixed_schedule,
    train_run,
    training_flops,
)

CHINCHILLA = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)  # Hoffmann et al., equation 10

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

# ---- checks


def check_flops(run: Run) -> None:
    """6ND plus attention is what torch counts, operation by operation."""
    from torch.utils.flop_counter import FlopCounterMode

    ours, counted = [], []
    for d_model, n_layers in ((8, 1), (32, 1), (48, 2)):
        config = make_config(d_model, 103, n_layers)
        tokens = torch.zeros(BATCH, CONTEXT, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(GPT(config)(tokens).flatten(0, 1), tokens.flatten()).backward()
        counted.append(counter.get_total_flops())
        ours.append(training_flops(config, BATCH * CONTEXT, attention=True))
        share = 1 - training_flops(config, BATCH * CONTEXT) / counted[-1]
        if n_layers == 1:
            run.metric(f"FLOPs that 6ND leaves out, width {d_model}", 100 * share, "%", rtol=0.01)
    run.check(
        "FLOPs of a training step, three models",
        np.array(ours),
        np.array(counted, dtype=float),
        against="torch.utils.flop_counter",
        why="integers: exact",
    )


def check_training(run: Run) -> None:
    """Ten steps on a schedule of seven with a floor, in torch's own parts."""
    tokens = torch.randint(31, (300,), generator=run.generator())
    ours = GPT(GPTConfig(31, 16, 2, 2, 16), run.generator(1)).double()
    theirs = copy.deepcopy(ours)
    losses = train_run(
        ours,
        tokens,
        steps=10,
        horizon=7,
        floor=0.1,
        batch=3,
        optimizer="adamw",
        lr_scale=0.5,
        generator=run.generator(2),
    )
    adamw = torch.optim.AdamW(theirs.parameters(), lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.1)
    decay = torch.optim.lr_scheduler.LambdaLR(adamw, lambda t: 1 - t / 7 if t <= 6 else 0.1)
    generator, reference = run.generator(2), []
    for _ in range(10):
        x, y = random_batch(tokens, 3, 16, generator)
        loss = F.cross_entropy(theirs(x).flatten(0, 1), y.flatten())
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        decay.step()
        reference.append(loss.item())
    run.check(
        "losses of ten steps, schedule of seven",
        np.array(losses),
        np.array(reference),
        against="torch.optim.AdamW + LambdaLR",
        rtol=1e-8,
        why="float64 rounding, amplified by ten steps",
    )


def synthetic(rng: np.random.Generator, noise: float, n: int = 240):
    """Runs of Chinchilla's own law, sizes log-uniform over the paper's range."""
    n_weights = np.exp(rng.uniform(np.log(7e7), np.log(1.6e10), n))
    n_tokens = np.exp(rng.uniform(np.log(5e9), np.log(5e11), n))
    loss = CHINCHILLA.loss(n_weights, n_tokens) * np.exp(noise * rng.normal(size=n))
    return n_weights, n_tokens, loss


def check_fit(run: Run) -> None:
    """A law that is known comes back; torch's gradient and SciPy's minimum are ours."""
    from scipy.optimize import minimize, minimize_scalar

    rng = np.random.default_rng(run.seed)
    n_points = run.budget(quick=60, default=240)
    law, _ = fit_law(*synthetic(rng, 0.0, n_points))
    run.check(
        "five parameters from runs without noise",
        np.array([law.E, law.A, law.B, law.alpha, law.beta]),
        np.array([1.69, 406.4, 410.7, 0.34, 0.28]),
        against="the law that made the runs",
        rtol=1e-4,
        why="the fit stops at a gradient of 1e-7",
    )
    data = synthetic(rng, 0.02, 30)
    residuals, one = Residuals(*data), np.ones((1, 30))
    theta = torch.tensor([0.1, 0.3, -0.4, 0.5, 0.2], dtype=torch.float64, requires_grad=True)
    x, y = (torch.from_numpy(np.log(v) - np.log(v).mean()) for v in data[:2])
    terms = torch.stack([theta[0] - theta[1] * x, theta[2] - theta[3] * y, theta[4].expand_as(x)])
    target = torch.from_numpy(np.log(data[2]))
    value = F.huber_loss(terms.logsumexp(0), target, reduction="sum", delta=1e-3) / 1e-3
    value.backward()
    ours = residuals(theta.detach().numpy()[None], one)
    run.check(
        "objective and gradient",
        np.append(*ours),
        np.append(value.item(), theta.grad.numpy()),
        against="torch.nn.functional.huber_loss, autograd",
        rtol=1e-10,
        atol=1e-10,
        why="float64 rounding",
    )
    starts = grid_of_starts()[10 :: run.budget(quick=60, default=25)]
    _, values = lbfgs(residuals, starts, np.ones((len(starts), 30)), max_iterations=500)
    scipys = [
        minimize(
            lambda t: tuple(np.squeeze(v) for v in residuals(t[None], one)),
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 500, "ftol": 1e-12},
        ).fun
        for start in starts
    ]
    run.check(
        "best objective from the same starts",
        values.min(),
        min(scipys),
        against="scipy.optimize.minimize, L-BFGS-B",
        rtol=1e-4,
        why="nearly |residual|: both stop close to a kink",
    )
    budget = 1e21
    numeric = minimize_scalar(
        lambda u: float(CHINCHILLA.loss(np.exp([u]), budget / 6 / np.exp([u]))[0]),
        bounds=(math.log(1e6), math.log(1e13)),
        method="bounded",
        options={"xatol": 1e-10},
    ).x
    run.check(
        "ln of the best N for 1e21 FLOP",
        math.log(CHINCHILLA.optimum(np.array([budget]))[0][0]),
        numeric,
        against="scipy.optimize.minimize_scalar",
        atol=1e-6,
        why="a minimum is flat: its place is known to the root of the rounding",
    )


# ---- the experiment


def read_text(dataset: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Training text, validation text and the alphabet's size.

    Validation is six blocks of 2,048 characters spread over the text, so that both are alike and
    the loss on the way may be compared with the loss at the end.
    """
    ids, alphabet = encode_characters(datasets.load_text(dataset))
    blocks = torch.from_numpy(ids[: len(ids) // 2048 * 2048]).view(-1, 2048)
    held = torch.zeros(len(blocks), dtype=torch.bool)
    held[torch.linspace(0, len(blocks) - 1, 8).long()[1:-1]] = True
    return blocks[~held].flatten(), blocks[held].flatten(), len(alphabet)


def columns(runs: Sequence[TrainedRun]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def exponent(found: dict[float, Valley]) -> float:
    """a of approach 2."""
    return power_law(np.array(list(found)), np.array([v.n_opt for v in found.values()]))[0]


def experiment(run: Run, dataset: str, grid: dict, held_out: tuple[float, int]) -> None:
    """The sweep, both fits, the prediction and the mistake."""
    training, validation, vocab_size = read_text(dataset)
    options = {"vocab_size": vocab_size, "seed": run.seed}
    total = sum(map(len, grid.values()))
    run.say(f"{dataset}: {len(training):,} characters to train on, alphabet of {vocab_size}")
    runs = [
        trained
        for trained, _ in zip(
            sweep(training, validation, grid, **options),
            run.progress(range(total), "sweep"),
            strict=True,
        )
    ]
    n_weights, n_tokens, loss = columns(runs)
    run.metric("runs", len(runs), rtol=0)
    run.metric("FLOPs of the sweep", 6 * float(n_weights @ n_tokens), "FLOP", rtol=0.01)
    control_claim(run, training, validation, vocab_size, min(r.loss for r in runs))

    # ---- approach 2
    found = valleys(runs)
    a2 = exponent(found)
    run.metric("a, IsoFLOP parabolas", a2, rtol=None)
    fewer = [r for r in runs if r.d_model > min(grid[r.budget])]
    if all(len(widths) > 3 for widths in grid.values()):
        without = exponent(valleys(fewer))
        run.metric("a, smallest size of each budget left out", without, rtol=None)
    for budget, valley in found.items():
        run.metric(f"best N at {budget / GIGA:g} GFLOP", valley.n_opt, "weights", rtol=None)
        ratio = budget / 6 / valley.n_opt**2
        run.metric(f"tokens per weight at {budget / GIGA:g} GFLOP", ratio, rtol=None)
    run.claim(
        "every budget's best size lies inside the sizes tried",
        all(v.interior and v.curvature > 0 for v in found.values()),
        ", ".join(f"{c / GIGA:g} GFLOP: {v.n_opt:,.0f} weights" for c, v in found.items()),
        quick=False,
    )

    # ---- approach 3
    n_resamples = run.budget(quick=10, default=300)
    law, resampled = fit_law(n_weights, n_tokens, loss, n_resamples=n_resamples, rng=run.rng)
    a3 = np.quantile([fit.exponent for fit in resampled], [0.025, 0.975])
    for name in ("E", "alpha", "beta", "exponent"):
        low, high = np.quantile([getattr(fit, name) for fit in resampled], [0.025, 0.975])
        run.metric(f"{name} of the fit", getattr(law, name), rtol=None)
        run.metric(f"{name} of the fit, low", low, rtol=None)
        run.metric(f"{name} of the fit, high", high, rtol=None)
    misfit = np.abs(np.log(law.loss(n_weights, n_tokens) / loss))
    run.metric("typical misfit of the law", 100 * float(np.median(misfit)), "%", rtol=None)
    run.claim(
        "a larger budget should buy both weights and tokens",
        bool(a3[0] > 0 and a3[1] < 1),
        f"a = {law.exponent:.2f}, 95% bootstrap over {len(runs)} runs [{a3[0]:.2f}, {a3[1]:.2f}], "
        f"parabolas {a2:.2f}",
        quick=False,
    )

    # ---- a larger run, predicted before it is made
    larger = predict(run, law, resampled, runs, training, validation, held_out, options)

    # ---- the mistake
    ends = {c: grid[c] for c in (min(grid), max(grid))}
    horizon = min(len(r.curve) for r in runs)
    fixed = list(
        sweep_fixed_schedule(training, validation, ends, horizon=horizon, floor=0.1, **options)
    )
    own = {(r.budget, r.d_model): r.loss for r in runs}
    paid = np.array([r.loss - own[r.budget, r.d_model] for r in fixed])
    interval = mean_interval(paid)
    found_fixed = valleys(fixed)
    a_own = exponent({c: found[c] for c in ends})
    a_fixed = exponent(found_fixed)
    run.metric("a, two budgets, own schedules", a_own, rtol=None)
    run.metric("a, two budgets, one schedule", a_fixed, rtol=None)
    run.metric("largest loss paid for one schedule", float(paid.max()), "nats/char", rtol=None)
    run.claim(
        "one short schedule for all lengths overstates the loss",
        interval.low > 0,
        f"{interval} nats/char too much with {horizon} steps for all; "
        f"a from two budgets {a_own:.2f} becomes {a_fixed:.2f}"
        + (" (a minimum at an edge)" if not all(v.interior for v in found_fixed.values()) else ""),
        quick=False,
    )
    draw_poster(run, runs, law, larger)
    draw_valleys(run, runs, found, law)
    draw_mistake(run, runs, fixed, found, found_fixed)


def control_claim(run: Run, training, validation, vocab_size: int, best: float) -> None:
    """What the best run knows, it knows from the order of the characters."""
    steps = run.budget(quick=20, default=100)
    control = GPT(make_config(16, vocab_size), run.generator())
    mixed = training[torch.randperm(len(training), generator=run.generator(2))]
    options = {"lr_scale": peak_scale(steps), "generator": run.generator(1)}
    train(control, mixed, steps=steps, batch=BATCH, optimizer="muon", **options)
    shuffled = evaluate(control, validation, window=CONTEXT)
    counts = np.bincount(training.numpy(), minlength=vocab_size) + 1
    letters = -float(np.log(counts / counts.sum())[validation.numpy()].mean())
    run.metric("loss of letter frequencies", letters, "nats/char", rtol=0.01)
    run.claim(
        "models learn, and with shuffled targets they do not",
        best < letters - 0.5 and shuffled > letters - 0.05,
        f"best run {best:.2f}, letter frequencies {letters:.2f}, shuffled {shuffled:.2f} nats/char",
        quick=False,
    )


def predict(run, law, resampled, runs, training, validation, held_out, options) -> TrainedRun:
    """Train the larger model and compare; the rules: to 5%, and closer than no law at all."""
    budget, d_model = held_out
    config = make_config(d_model, options["vocab_size"])
    steps = steps_for(budget, config)
    at = (np.array([float(count_weights(config))]), np.array([float(steps * BATCH * CONTEXT)]))
    predicted = float(law.loss(*at)[0])
    low, high = np.quantile([fit.loss(*at)[0] for fit in resampled], [0.025, 0.975])
    measured = next(sweep(training, validation, {budget: (d_model,)}, **options))
    miss, no_law = (abs(math.log(p / measured.loss)) for p in (predicted, min(columns(runs)[2])))
    run.metric("predicted loss of the larger run", predicted, "nats/char", rtol=None)
    run.metric("measured loss of the larger run", measured.loss, "nats/char", rtol=None)
    run.metric("weights of the larger run", measured.n_weights, rtol=0)
    run.metric("larger run inside the interval", float(low <= measured.loss <= high), rtol=None)
    shuffled = run.rng.permutation(columns(runs)[2])
    blind = float(fit_law(*columns(runs)[:2], shuffled)[0].loss(*at)[0])
    run.metric("prediction from shuffled losses", blind, "nats/char", rtol=None)
    blind_miss = abs(math.log(blind / measured.loss))
    run.metric("miss of the prediction", 100 * miss, "%", rtol=None)
    run.verdict(
        "the law predicts a run of three times the largest budget to 5%",
        "reproduced" if miss < 0.05 else "not reproduced",
        f"predicted {predicted:.2f} [{low:.2f}, {high:.2f}], measured {measured.loss:.2f}, off by "
        f"{100 * miss:.1f}%",
    )
    run.claim(
        "the law predicts better than no law and than a law of shuffled losses",
        miss < min(no_law, blind_miss),
        f"off by {100 * miss:.1f}%; taking the sweep's best loss {100 * no_law:.1f}%, "
        f"a law fitted to shuffled losses {100 * blind_miss:.0f}%",
        quick=False,
    )
    return measured


# ---- figures


def smooth(curve: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Means over the last quarter of the steps so far, at even steps of the logarithm."""
    curve = np.asarray(curve)
    ends = np.unique(np.geomspace(6, len(curve), 50).astype(int))
    return ends, np.array([curve[e - max(6, e // 4) : e].mean() for e in ends])


def shades(values):
    """A color for each number, dark for small ones, by its logarithm."""
    from matplotlib import cm, colormaps, colors

    low, high = math.log(min(values)), math.log(max(values))
    inks = colors.LinearSegmentedColormap.from_list(
        "sizes", colormaps["viridis"](np.linspace(0.0, 0.88, 64))
    )
    return cm.ScalarMappable(colors.LogNorm(math.exp(low), math.exp(high)), inks)


def ticks(axis, values, unit: float = 1.0, suffix: str = "") -> None:
    """Plain numbers at these places and nothing between."""
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / unit:g}{suffix}"))
    axis.set_minor_locator(NullLocator())


SIZES = (1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5)
GIGA = 1e9


def label_budget(axes, valley: Valley, budget: float, ink, text: str = "") -> None:
    """The budget's name under its parabola's minimum."""
    axes.annotate(
        text or f"{budget / GIGA:g} GFLOP",
        (valley.n_opt, valley.loss),
        (0, -17),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=ink,
        bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
    )


def parabola(axes, runs: Sequence[TrainedRun], valley: Valley, ink, marker="o", **text) -> None:
    """A budget's runs, the parabola through them, and its minimum if it lies among them."""
    n_weights, _, loss = columns(runs)
    axes.plot(n_weights, loss, marker, color=ink, **text)
    x = np.geomspace(n_weights.min(), n_weights.max(), 60)
    axes.plot(x, np.polyval(np.polyfit(np.log(n_weights), loss, 2), np.log(x)), color=ink, lw=1.6)
    if valley.interior:
        axes.plot(valley.n_opt, valley.loss, "D", color=ink, mec="black", ms=8)


def draw_poster(run: Run, runs: Sequence[TrainedRun], law: Law, larger: TrainedRun) -> None:
    """Every run's loss on its way, and the line below which no budget buys."""
    color = shades([r.n_weights for r in runs])
    title = "How low can a compute budget go? Every run on its way down"
    with run.figure("frontier", title, size=(8.0, 5.8)) as axes:
        for r in sorted([*runs, larger], key=lambda r: r.n_weights):
            ink = plots.ORANGE if r is larger else color.to_rgba(r.n_weights)
            steps, values = smooth(r.curve)
            flops = 6 * r.n_weights * steps * BATCH * CONTEXT
            axes.plot(flops, values, color=ink, lw=1.1, alpha=0.45)
            if r is not larger:
                axes.plot(flops[-1], r.loss, "o", ms=7, color=ink, mec="white", mew=0.8)
        budget = np.geomspace(0.4 * min(r.budget for r in runs), 2 * larger.budget, 100)
        best = law.loss(*law.optimum(budget))
        axes.plot(budget, best, "--", color=plots.REFERENCE, lw=2)
        axes.annotate(
            "the best split of each budget,\naccording to the law fitted\nto the round points",
            (budget[30], best[30]),
            xytext=(0.03, 0.08),
            textcoords="axes fraction",
            color=plots.REFERENCE,
            arrowprops={"arrowstyle": "-", "color": plots.REFERENCE, "shrinkB": 4},
        )
        end = 6 * larger.n_weights * larger.n_tokens
        axes.plot(end, larger.loss, "*", ms=18, color=plots.ORANGE, mec="white", zorder=5)
        axes.annotate(
            f"not in the fit:\nmeasured {larger.loss:.2f}",
            (end, larger.loss),
            xytext=(-6, 60),
            textcoords="offset points",
            ha="center",
            color=plots.ORANGE,
            arrowprops={"arrowstyle": "-", "color": plots.ORANGE, "shrinkB": 9},
        )
        lowest = 0.94 * min(larger.loss, best[-1])
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="training compute, 6 N D (GFLOP)",
            ylabel="loss (nats/character)",
            xlim=(budget[0] / 6, budget[-1]),
            ylim=(lowest, 4.0),
        )
        ticks(axes.xaxis, [c * 10**k for k in range(7, 13) for c in (1, 2, 5)], GIGA)
        ticks(axes.yaxis, (1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4))
        axes.set(xlim=(budget[0] / 6, budget[-1]), ylim=(lowest, 4.0))
        bar = axes.figure.colorbar(color, ax=axes, pad=0.02, aspect=35)
        bar.set_label("N, weights that multiply")
        ticks(bar.ax.yaxis, [s for s in SIZES if s <= max(r.n_weights for r in runs)], 1e3, "k")
        bar.outline.set_visible(False)


def draw_valleys(run: Run, runs, found: dict[float, Valley], law: Law) -> None:
    """Left: a parabola a budget. Right: where their minima go."""
    color = shades(list(found))
    title = "Twice the compute: how much more model?"
    with run.figure("isoflop", title, columns=2, size=(9.4, 4.6)) as (left, right):
        for budget, valley in found.items():
            ink = color.to_rgba(budget)
            parabola(left, [r for r in runs if r.budget == budget], valley, ink)
            label_budget(left, valley, budget, ink)
            right.plot(budget, valley.n_opt, "D", color=ink, mec="black", ms=8, zorder=3)
        budgets, best = np.array(list(found)), np.array([v.n_opt for v in found.values()])
        x = np.geomspace(budgets[0] / 1.3, budgets[-1] * 1.3, 20)
        middle = np.exp(np.log(budgets).mean()), np.exp(np.log(best).mean())
        a, _ = power_law(budgets, best)
        lines = (
            (a, plots.BLUE, "-", f"through the minima: a = {a:.2f}"),
            (0.5, plots.REFERENCE, "--", "slope of Hoffmann et al.: 0.50"),
            (0.73, plots.ORANGE, ":", "slope of Kaplan et al.: 0.73"),
        )
        for slope, ink, style, label in lines:
            y = middle[1] * (x / middle[0]) ** slope
            right.plot(x, y, style, color=ink, lw=1.8, label=label)
        fit = law.optimum(x)[0]
        label = f"law L(N, D) fitted: a = {law.exponent:.2f}"
        right.plot(x, fit, "-.", color=plots.GREEN, label=label)
        left.set(xscale="log", xlabel="N (weights)", ylabel="loss (nats/character)")
        left.set_title(
            "A parabola a budget, diamonds at the minima", fontsize=10.5, weight="normal"
        )
        low, high = left.get_ylim()
        left.set_ylim(low - 0.06 * (high - low), high)
        left.set_xlim(0.7 * min(r.n_weights for r in runs), None)
        ticks(left.xaxis, SIZES, 1e3, "k")
        right.set(
            xscale="log",
            yscale="log",
            xlabel="budget (GFLOP)",
            ylabel="best N (weights)",
            ylim=(0.5 * best.min(), 3.2 * best.max()),
        )
        right.set_title("The minima again, against the budget", fontsize=10.5, weight="normal")
        ticks(right.xaxis, budgets, GIGA)
        ticks(right.yaxis, SIZES, 1e3, "k")
        right.legend(loc="upper left", fontsize=9)


def draw_mistake(run: Run, runs, fixed, found, found_fixed) -> None:
    """Losses with a schedule for each run beside losses with one schedule for all."""
    title = "What does one learning-rate schedule for all lengths cost?"
    with run.figure("one_schedule", title, columns=2, size=(9.4, 4.2)) as panels:
        for axes, (budget, valley) in zip(panels, found_fixed.items(), strict=True):
            for some, bottom, ink, marker, label in (
                (fixed, valley, plots.ORANGE, "s", "the shortest run's schedule for all"),
                (runs, found[budget], plots.BLUE, "o", "a schedule of its own length"),
            ):
                of_budget = [r for r in some if r.budget == budget]
                parabola(axes, of_budget, bottom, ink, marker, label=label)
            axes.set(xscale="log", xlabel="N (weights)", ylabel="loss (nats/character)")
            title = f"Budget: {budget / GIGA:g} GFLOP; diamond: minimum, if inside"
            axes.set_title(title, fontsize=10.5, weight="normal")
            low, high = axes.get_ylim()
            axes.set_ylim(low, high + 0.35 * (high - low))
            axes.legend(loc="upper left")
            ticks(axes.xaxis, (*SIZES, 3e3, 3e4), 1e3, "k")


def main(run: Run, *, dataset: str = "pydocs") -> None:
    """Train twenty models at four budgets, fit the law, and predict a larger run.

    Parameters
    ----------
    dataset
        Text to learn: pydocs, tinyshakespeare, wikitext2 or wikipedia.
    """
    grid = run.budget(quick=GRID_QUICK, default=GRID, full=GRID_FULL)
    held_out = run.budget(quick=(8e8, 12), default=HELD_OUT, full=(8e11, 128))
    check_flops(run)
    check_training(run)
    check_fit(run)
    experiment(run, dataset, grid, held_out)
