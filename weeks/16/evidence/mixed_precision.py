"""Checks, claims and figures of `mixed_precision.py`, which can so be read alone."""

import functools
import math

import numpy as np
import torch
from torch import nn

from shared import plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week16.choice_of_precision import choose_precision
from week16.compensated_sums import kahan_add
from week16.float_formats import BF16, E4M3FN, E5M2, FORMATS, FP16, FP32, decode, encode, round_to
from week16.loss_scaling import LossScaler
from week16.mixed_precision import Policy, gradients, mlp_loss, stored, train

BITS = {8: torch.uint8, 16: torch.int16, 32: torch.int32}
ARMS = {
    "float32": Policy(torch.float32),
    "fp16 weights": Policy(torch.float16, "plain"),
    "bf16 weights": Policy(torch.bfloat16, "plain"),
    "fp16 + master copy": Policy(torch.float16, "master", 2.0**10),
    "bf16 stochastic": Policy(torch.bfloat16, "stochastic"),
    "bf16 Kahan": Policy(torch.bfloat16, "kahan"),
}
COLORS = dict(
    zip(
        ARMS,
        (plots.REFERENCE, plots.ORANGE, plots.PINK, plots.BLUE, plots.GREEN, plots.SKY),
        strict=True,
    )
)
RATES = (0.001, 0.01, 0.1)


def _finite(x: torch.Tensor) -> torch.Tensor:
    """NaN as a number of its own, so that NaNs can be compared by place."""
    return torch.where(torch.isnan(x), 1.5e308, x.double())


def hard_values(fmt, rng: np.random.Generator, n: int) -> torch.Tensor:
    """float32 numbers around every rounding decision: halfway points and their neighbors."""
    if fmt.width <= 16:
        points = decode(torch.arange(fmt.inf_code), fmt)
        halves = ((points[1:] + points[:-1]) / 2).float()
        top = torch.tensor([fmt.max]).double()
        over = torch.cat([top + (top - points[-2]) / 2]).float()
        halves = torch.cat([halves, over])
    else:
        halves = torch.zeros(1)
    random = rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)
    near = [halves, halves.nextafter(torch.tensor(math.inf)), halves.nextafter(torch.tensor(0.0))]
    edge = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 3.4e38])
    near = torch.cat(near)
    return torch.cat([near, -near, torch.from_numpy(random.copy()), edge])


def check_formats(run: Run) -> None:
    """Decode every pattern, encode all halfway points: as torch's casts."""
    for dtype, fmt in FORMATS.items():
        if fmt is not FP32:
            codes = torch.arange(2**fmt.width)
            raw = codes.to(BITS[fmt.width]).view(dtype)
            run.check(
                f"decode all {2**fmt.width} patterns, {fmt.name}",
                _finite(decode(codes, fmt)),
                _finite(raw.float()),
                against=f"torch.{str(dtype)[6:]}",
                why="exact",
            )
        x = hard_values(fmt, run.rng, run.budget(quick=2000, default=200_000))
        cast = x.to(dtype)
        # torch 2.15 clamps what overflows e4m3fn, infinity too; older ones gave NaN
        full = {"saturate": bool(torch.isfinite(torch.tensor(1e30).to(dtype).float()))}
        full["saturate"] &= not fmt.infinities
        run.check(
            f"round hard numbers, {fmt.name}",
            _finite(round_to(x, fmt, **full)),
            _finite(cast.float()),
            against=f"torch cast to {str(dtype)[6:]}",
            why="exact, halfway points and overflow included",
        )
        there = ~torch.isnan(x) & ~torch.isnan(cast.float())
        bits = cast.view(BITS[fmt.width]).long()[there] & ((1 << fmt.width) - 1)
        run.check(
            f"bit patterns of hard numbers, {fmt.name}",
            encode(x, fmt, **full)[there],
            bits,
            against=f"torch cast to {str(dtype)[6:]}",
            why="exact",
        )
    halves = np.float16(hard_values(FP16, run.rng, 1000).numpy()[:60_000].clip(-65504, 65504))
    run.check(
        "fp16 halfway points, NumPy",
        round_to(hard_values(FP16, run.rng, 1000)[:60_000].clip(-65504, 65504), FP16),
        halves.astype(np.float64),
        against="numpy.float16",
        why="exact",
    )
    with run.figure("formats", "What can each format hold, and how finely?", size=(8.4, 4.6)) as ax:
        for fmt, color in (
            (FP32, plots.REFERENCE),
            (FP16, plots.BLUE),
            (BF16, plots.ORANGE),
            (E4M3FN, plots.GREEN),
            (E5M2, plots.PINK),
        ):
            e = np.arange(math.log2(fmt.smallest), math.floor(math.log2(fmt.max)) + 1)
            gap = np.maximum(e, fmt.min_exponent) - fmt.mantissa_bits
            ax.step(
                2.0 ** np.r_[e, e[-1] + 1],
                2.0 ** np.r_[gap - e, gap[-1] - e[-1]],
                where="post",
                color=color,
            )
            at = {"fp32": 40, "fp16": 17, "bf16": 40, "fp8 e4m3fn": 10, "fp8 e5m2": 18}[fmt.name]
            ax.text(
                2.0**at,
                2.0**-fmt.mantissa_bits * (1.15 if at == 40 else 0.8),
                fmt.name,
                color=color,
                ha="left" if at < 40 else "center",
                va="bottom",
                weight="bold",
                fontsize=10,
            )
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.set(
            xlabel="magnitude of the number",
            ylabel="gap to the next number / magnitude",
            xlim=(2.0**-80, 2.0**70),
            ylim=(2.0**-25, 4),
        )
        ax.annotate(
            "subnormals: a fixed gap,\never coarser beside the number",
            (2.0**-18.5, 2.0**-5.5),
            (2.0**-76, 2.0**-13),
            fontsize=9.5,
            color=plots.REFERENCE,
            arrowprops={"arrowstyle": "->", "color": plots.GRAY},
        )


def check_scaler(run: Run) -> None:
    """Infinities injected at fixed steps: the trajectory of the scale, and which steps count."""
    bad = {3, 4, 11, 25}
    ours, theirs, weights = [], [], []
    options = {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 4}
    scaler = LossScaler(2.0**10, **options)
    reference = torch.amp.GradScaler("cpu", init_scale=2.0**10, **options)
    for kind, store in ((scaler, ours), (reference, theirs)):
        w = nn.Parameter(torch.ones(3))
        sgd = torch.optim.SGD([w], lr=0.1)
        for step in range(32):
            sgd.zero_grad()
            loss = (w**2).sum() * (math.inf if step in bad else 1.0)
            scaled = kind.scale_loss(loss) if kind is scaler else kind.scale(loss)
            scaled.backward()
            kind.step(sgd)
            if kind is reference:
                kind.update()
            store.append(kind.scale if kind is scaler else kind.get_scale())
        weights.append(w.detach().clone())
    run.check(
        "loss scale after each of 32 steps",
        ours,
        theirs,
        against="torch.amp.GradScaler",
        why="powers of two are exact",
    )
    run.check(
        "weights after skipped steps",
        weights[0],
        weights[1],
        against="torch.amp.GradScaler + torch.optim.SGD",
        rtol=1e-6,
        why="float32 rounding",
    )


def check_autocast(run: Run) -> None:
    """One layer and its gradients, stored in bfloat16, as torch.autocast computes them."""
    generator = run.generator(5)
    layer = nn.Linear(48, 32)
    x = torch.randn(16, 48, generator=generator)
    w = layer.weight.detach().T[None].clone().requires_grad_()
    b = layer.bias.detach()[None, None].clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reference = layer(x)
    reference.float().square().sum().backward()
    ours = stored(
        torch.baddbmm(
            stored(b, torch.bfloat16), stored(x[None], torch.bfloat16), stored(w, torch.bfloat16)
        ),
        torch.bfloat16,
    )
    ours.square().sum().backward()
    for name, mine, other in (
        ("outputs", ours[0], reference.float()),
        ("weight gradients", w.grad[0].T, layer.weight.grad),
    ):
        size = other.abs().max()
        run.check(
            f"{name} of a bf16 layer / largest",
            mine / size,
            other / size,
            against="torch.autocast on CPU",
            atol=2.0**-7,
            why="a sum in another order may round to the neighbor",
        )


@functools.cache
def _pixels() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)


def digits(seeds: int, steps: int, seed: int, *, batch: int = 32, shuffle: bool = False):
    """Yield batches of scikit-learn's digits, other rows for each seed."""
    X, y = _pixels()
    generator = torch.Generator().manual_seed(seed)
    if shuffle:
        y = y[torch.randperm(len(y), generator=generator)]
    for _ in range(steps):
        i = torch.randint(len(X), (seeds, batch), generator=generator)
        yield X[i], y[i]


def start(seeds: int, seed: int, hidden: int = 64) -> list[torch.Tensor]:
    """He's initialization of 64–hidden–10, a network per seed."""
    g = torch.Generator().manual_seed(1000 + seed)
    return [
        torch.randn(seeds, 64, hidden, generator=g) * (2 / 64) ** 0.5,
        torch.zeros(seeds, 1, hidden),
        torch.randn(seeds, hidden, 10, generator=g) * hidden**-0.5,
        torch.zeros(seeds, 1, 10),
    ]


def check_steps(run: Run) -> None:
    """Ten steps in float32 with a loss scale of 2¹⁰, and the same ten of plain torch."""
    begin = start(1, run.seed)
    ours = train(
        mlp_loss, begin, digits(1, 10, run.seed), Policy(torch.float32, scale=2.0**10), lr=0.1
    )
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    for p, w in zip(model.parameters(), begin, strict=True):
        p.data = (w[0].T if p.ndim == 2 else w[0, 0]).clone()
    sgd, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    for x, y in digits(1, 10, run.seed):
        loss = nn.functional.cross_entropy(model(x[0]), y[0])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    run.check(
        "losses of ten scaled steps",
        ours.loss[:, 0],
        losses,
        rtol=1e-5,
        against="torch.optim.SGD, unscaled",
        why="float32 rounding",
    )


def sums(run: Run) -> None:
    """Add 2⁻¹² to 1 thousands of times in bfloat16: nearest, stochastic, Kahan."""
    n, value = run.budget(quick=400, default=4000), torch.full((8,), 2.0**-12)
    near, random = torch.ones(8), torch.ones(8)
    kahan, carry = torch.ones(8), torch.zeros(8)
    generator = run.generator(9)
    for _ in range(n):
        near = round_to(near + value, BF16)
        random = round_to(random + value, BF16, generator=generator)
        kahan, carry = kahan_add(kahan, carry, value, BF16)
    truth = 1 + n * 2.0**-12
    run.check(
        "Kahan's sum in bf16",
        kahan + carry,
        torch.full((8,), truth),
        against="the exact sum",
        rtol=2.0**-8,
        why="half a unit of the last place of the total",
    )
    band = mean_interval(random.numpy())
    run.metric("exact sum", truth)
    run.metric("sum to nearest", near[0].item())
    run.metric("sum with stochastic rounding", band.mean)
    run.claim(
        "to nearest the sum never moves; rounding at random it does",
        bool((near == 1).all()) and band.low > 1 and abs(band.mean - truth) < 0.1 * truth,
        f"exact {truth:.3f}; nearest {near[0].item():.3f}; stochastic {band}",
    )


def training(run: Run, *, steps: int, seeds: int) -> None:
    """Every arm at its rates, paired by seed; shares of lost updates and gradients; figures."""
    batch = next(digits(1, 1, run.seed + 7, batch=1500))
    full = tuple(torch.cat([t] * seeds) for t in batch)
    final, traces = {}, {}
    for rate in run.progress(RATES, "learning rates"):
        for arm, policy in ARMS.items():
            if arm in ("bf16 stochastic", "bf16 Kahan") and rate != 0.01:
                continue
            trace = train(
                mlp_loss,
                start(seeds, run.seed),
                digits(seeds, steps, run.seed),
                policy,
                lr=rate,
                generator=run.generator(3),
            )
            traces[arm, rate] = trace
            final[arm, rate] = mlp_loss(trace.weights, full, torch.float32).detach().numpy()
    excess = {
        key: mean_interval(final[key] - final["float32", key[1]])
        for key in final
        if key[0] != "float32"
    }
    for (arm, rate), band in excess.items():
        run.metric(f"excess loss, {arm}, lr {rate}", band.mean, "nats", rtol=None)
    for arm in ("fp16 weights", "bf16 weights", "fp16 + master copy"):
        for rate in RATES:
            lost = traces[arm, rate].swallowed[-steps // 5 :].mean()
            run.metric(f"swallowed updates, {arm}, lr {rate}", 100 * lost, "%", rtol=0.1)
    for arm in ("float32", "fp16 weights", "bf16 weights"):
        run.metric(f"final loss, {arm}, lr 0.01", final[arm, 0.01].mean(), "nats", rtol=0.05)
    run.claim(
        "16-bit weights stall at small steps, a master copy does not",
        bool(
            excess["fp16 weights", 0.001].low > 0.02
            and excess["bf16 weights", 0.01].low > 0.1
            and abs(excess["fp16 + master copy", 0.001].mean) < 0.01
        ),
        f"loss above float32's: fp16 at 0.001 {excess['fp16 weights', 0.001]}, bf16 at 0.01 "
        f"{excess['bf16 weights', 0.01]}, fp16 with a master copy at 0.001 "
        f"{excess['fp16 + master copy', 0.001]}",
        quick=False,
    )
    run.claim(
        "stochastic rounding and Kahan's sum replace the master copy",
        all(abs(excess[arm, 0.01].mean) < 0.02 for arm in ("bf16 stochastic", "bf16 Kahan")),
        f"loss above float32's at lr 0.01: stochastic {excess['bf16 stochastic', 0.01]}, "
        f"Kahan {excess['bf16 Kahan', 0.01]}",
        quick=False,
    )
    shuffled = train(
        mlp_loss,
        start(seeds, run.seed),
        digits(seeds, steps, run.seed, shuffle=True),
        ARMS["fp16 + master copy"],
        lr=0.1,
    )
    learned, control = (
        t.loss[-steps // 10 :].mean(0).numpy()
        for t in (traces["fp16 + master copy", 0.1], shuffled)
    )
    run.claim(
        "it trains, and on shuffled labels it does not",
        bool((learned < 0.7).all() and (control > 2.0).all()),
        f"loss {mean_interval(learned)}; shuffled {mean_interval(control)}, guessing "
        f"{math.log(10):.2f}",
        quick=False,
    )
    _scale_too_large(run, steps, seeds)
    _exponents(run, steps, seeds, full)
    _figures(run, traces, excess, steps)


def _scale_too_large(run: Run, steps: int, seeds: int) -> None:
    steps = min(steps, 200)
    for_all = {}
    for name, moves in (("static", False), ("dynamic", True)):
        policy = Policy(torch.float16, "master", 2.0**30, moves)
        for_all[name] = train(
            mlp_loss, start(seeds, run.seed), digits(seeds, steps, run.seed), policy, lr=0.1
        )
    static, dynamic = (for_all[k].skipped.float().mean(0).numpy() for k in ("static", "dynamic"))
    run.metric("steps skipped at a static scale of 2^30", 100 * static.mean(), "%")
    run.metric("steps until the dynamic scale fits", dynamic.mean() * steps, rtol=0.2)
    run.claim(
        "a static scale that overflows never trains, a dynamic one finds its way",
        bool((static == 1).all() and (dynamic < 0.5).all()),
        f"skipped of {steps} steps from a scale of 2^30: static {100 * static.mean():.0f} %, "
        f"dynamic {100 * dynamic.mean():.0f} %",
    )


def _exponents(run: Run, steps: int, seeds: int, full) -> None:
    """Gradients of a well-trained network: which would fp16 lose, and with a loss scale?"""
    trace = train(
        mlp_loss,
        start(seeds, run.seed),
        digits(seeds, steps, run.seed),
        Policy(torch.float32),
        lr=1.0,
    )
    one = torch.ones(seeds, dtype=torch.float64)
    _, exact = gradients(mlp_loss, trace.weights, full, torch.float32, one)
    shares = {}
    for name, dtype, scale in (
        ("fp16", torch.float16, 1.0),
        ("fp16, scaled", torch.float16, 2**14),
        ("bf16", torch.bfloat16, 1.0),
    ):
        _, got = gradients(mlp_loss, trace.weights, full, dtype, scale * one)
        lost = sum(((a != 0) & (b == 0)).flatten(1).sum(1) for a, b in zip(exact, got, strict=True))
        shares[name] = (lost / sum((a != 0).flatten(1).sum(1) for a in exact)).numpy()
        run.metric(f"gradients lost, {name}", 100 * shares[name].mean(), "%", rtol=0.3)
    run.claim(
        "a loss scale of 2^14 saves nine in ten of the gradients that fp16 loses",
        bool((shares["fp16"] > 10 * shares["fp16, scaled"]).all()),
        f"lost: fp16 {100 * shares['fp16'].mean():.1f} %, scaled "
        f"{100 * shares['fp16, scaled'].mean():.2f} %, bf16 "
        f"{100 * shares['bf16'].mean():.2f} %, in each of {seeds} seeds",
        quick=False,
    )
    values = torch.cat([g.flatten() for g in exact]).abs()
    e = np.floor(np.log2(values[values > 0].numpy()))
    with run.figure(
        "exponents", "Where do the gradients lie, and what can fp16 hold?", size=(8.0, 4.2)
    ) as ax:
        bins = np.arange(-45, 18) - 0.5
        for shift, color, alpha in ((0, plots.ORANGE, 0.75), (14, plots.BLUE, 0.55)):
            ax.hist(
                e + shift, bins, weights=np.full(len(e), 100 / len(e)), color=color, alpha=alpha
            )
        top = ax.get_ylim()[1] * 1.32
        ax.set(
            ylim=(0, top),
            xlim=(-40, 17),
            ylabel="share of gradient values, %",
            xlabel="exponent of the gradient (power of two)",
        )
        ax.axvspan(-40, -25, color=plots.GRAY, alpha=0.18, lw=0)
        ax.axvline(-14, color=plots.REFERENCE, ls="--", lw=1)
        ax.axvline(15, color=plots.REFERENCE, ls="--", lw=1)
        for x, words in ((-39.5, "fp16: zero"), (-24.6, "subnormal"), (-13.6, "normal")):
            ax.text(x, top * 0.93, words, fontsize=10, color=plots.REFERENCE)
        mode = float(np.median(e))
        ax.text(mode - 5, top * 0.80, "as they are", color=plots.ORANGE, weight="bold", ha="center")
        ax.text(mode + 18, top * 0.80, "loss × 2¹⁴", color=plots.BLUE, weight="bold", ha="center")


def _figures(run: Run, traces: dict, excess: dict, steps: int) -> None:
    with run.figure(
        "training", "16-bit weights stall: small steps are swallowed", columns=2, size=(9.6, 4.3)
    ) as (left, right):
        width = max(1, steps // 40)
        for arm in (
            "fp16 + master copy",
            "bf16 stochastic",
            "bf16 Kahan",
            "bf16 weights",
            "float32",
        ):
            loss = traces[arm, 0.01].loss.numpy()
            n = len(loss) // width
            loss = loss[: n * width].reshape(n, width, -1).mean(1).T
            left.fill_between(
                (np.arange(n) + 0.5) * width,
                loss.min(0),
                loss.max(0),
                alpha=0.12,
                color=COLORS[arm],
                lw=0,
            )
            left.plot(
                (np.arange(n) + 0.5) * width,
                loss.mean(0),
                color=COLORS[arm],
                label=arm,
                ls="--" if arm == "float32" else "-",
            )
        left.set(xlabel="step", ylabel="training loss, nats", ylim=(0, None))
        left.set_title("Learning rate 0.01", fontsize=10.5, weight="normal")
        plots.label_lines(left, fontsize=9)
        for arm in ("fp16 weights", "bf16 weights", "fp16 + master copy"):
            bands = [excess[arm, rate] for rate in RATES]
            right.errorbar(
                RATES,
                [b.mean for b in bands],
                [b.high - b.mean for b in bands],
                color=COLORS[arm],
                marker="o",
                capsize=3,
            )
            right.plot(RATES, [b.mean for b in bands], color=COLORS[arm], label=arm)
        right.axhline(0, color=plots.REFERENCE, ls="--", lw=1)
        right.set(xscale="log", xlabel="learning rate", ylabel="final loss above float32's, nats")
        right.set_title("Final loss, 95 % intervals", fontsize=10.5, weight="normal")
        plots.label_lines(right, fontsize=9)


def main(run: Run, *, steps: PositiveInt = 600, seeds: PositiveInt = 3) -> None:
    """Check the formats bit by bit, then train a small network with each way of storing.

    Parameters
    ----------
    steps
        Training steps of each network.
    seeds
        Networks trained side by side.
    """
    check_formats(run)
    check_scaler(run)
    check_autocast(run)
    check_steps(run)
    sums(run)
    training(
        run,
        steps=run.budget(quick=min(steps, 60), default=steps),
        seeds=run.budget(quick=min(seeds, 2), default=seeds),
    )
    choice = choose_precision(torch.device("cpu"))
    run.say(f"precision that the probe chooses here: {choice.reason}")
