"""Checks, claims and figures of `activation_checkpointing.py`, apart so that it reads alone."""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveFloat, PositiveInt, Run
from week16.activation_checkpointing import (
    Block,
    SavedTensors,
    block_activations,
    block_flops,
    checkpoint,
    checkpoint_sequential,
    peak_bytes,
)

BATCH, WIDTH, HEADS = 2, 32, 4
MODES = ("none", "selective", "full")


def stack(n: int, dropout: float, recompute: str = "none", width: int = WIDTH) -> nn.Sequential:
    """n equal blocks."""
    return nn.Sequential(*(Block(width, HEADS, dropout, recompute) for _ in range(n)))


def flat_grad(model: nn.Module) -> torch.Tensor:
    """All gradients in one row."""
    return torch.cat([p.grad.flatten() for p in model.parameters()]).clone()


def gradients(model: nn.Module, x, through, seed: int) -> torch.Tensor:
    """Gradients of parameters and input when `through(x)` is the forward pass."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(seed)
    through(x).square().mean().backward()
    return torch.cat([flat_grad(model), x.grad.flatten()])


# ---- checks


def check_gradients(run: Run, dropout: float) -> None:
    """Bit for bit the gradients of the library and of plain autograd."""
    torch.manual_seed(run.seed)
    model = stack(3, dropout)
    x = torch.randn(BATCH, 10, WIDTH, generator=run.generator())
    plain = gradients(model, x, model, run.seed)

    def theirs(x):
        for block in model:
            x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        return x

    library = gradients(model, x, theirs, run.seed)
    for segment in (1, 2, 3):
        ours = gradients(
            model, x, lambda x, c=segment: checkpoint_sequential(list(model), x, c), run.seed
        )
        run.check(
            f"gradients, {segment} blocks to a segment",
            ours,
            library,
            against="torch.utils.checkpoint",
            why="the same operations in the same order: bitwise",
        )
        if segment == 1:
            run.check(
                "gradients, every block a segment, without checkpointing",
                ours,
                plain,
                against="torch autograd",
                why="the same operations in the same order: bitwise",
            )
    chosen = stack(3, dropout, "selective")
    chosen.load_state_dict(model.state_dict())
    run.check(
        "gradients, selective",
        gradients(chosen, x, chosen, run.seed),
        plain,
        against="torch autograd",
        why="the same operations in the same order: bitwise",
    )


def kept(model: nn.Module, x) -> tuple[int, int]:
    """Bytes kept after the forward pass, and the peak over both passes."""
    x = x.clone().requires_grad_()
    with SavedTensors(list(model.parameters())) as saved:
        y = model(x)
        live = saved.live
        y.sum().backward()
    if saved.live:
        raise RuntimeError(f"{saved.live} bytes outlive the backward pass")
    return live, saved.peak


def check_bytes(run: Run, seq: int) -> None:
    """Bytes kept by a block against the formula, and the paper's constants."""
    lengths = sorted({4, 8, 16, 32, 64, 128, *run.budget(quick=(), default=(256,)), seq})
    measured, theory = {mode: [] for mode in MODES}, {mode: [] for mode in MODES}
    for length in lengths:
        x = torch.randn(BATCH, length, WIDTH, generator=run.generator())
        linear, attention, statistics = block_activations(BATCH, length, WIDTH, HEADS)
        theory["none"].append(linear + attention + statistics)
        theory["selective"].append(linear + statistics)
        theory["full"].append(x.nbytes)
        for mode in MODES:
            measured[mode].append(kept(Block(WIDTH, HEADS, 0.1, mode), x)[0])
    run.check(
        f"bytes kept by a block, {len(lengths)} lengths, 3 modes",
        np.array([measured[mode] for mode in MODES]),
        np.array([theory[mode] for mode in MODES]),
        against="T d (16·4 + 2·4) + a seq T (2·4 + 4) + 16 T",
        why="bytes are integers",
    )
    # GPT-3's block, 96 heads of 128, in 2 bytes with masks of 1: the paper's own constants
    b, s, h, a = 1, 2048, 12288, 96
    linear, attention, _ = block_activations(b, s, h, a, bytes_each=2, mask_bytes=1)
    run.check(
        "activations of a GPT-3 block, statistics left out",
        linear + attention,
        s * b * h * 34 + 5 * a * s * s * b,
        against="Korthikanti et al. (2022), eq. 1",
        why="bytes are integers",
    )
    run.metric("share of a GPT-3 block's bytes that is attention", attention / (linear + attention))
    run.metric("bytes kept by a GPT-3 block", (linear + attention) / 1e9, "GB a sequence")
    per_token = {k: np.array(v) / (BATCH * np.array(lengths)) / 1024 for k, v in measured.items()}
    run.metric(
        "bytes kept, full checkpointing against none",
        per_token["none"][-1] / per_token["full"][-1],
        "times less",
        rtol=1e-6,
    )
    colors = dict(zip(MODES, (plots.ORANGE, plots.GREEN, plots.BLUE), strict=True))
    labels = {
        "none": "keep everything",
        "selective": "recompute attention",
        "full": "recompute the block",
    }
    title = "Only the attention's bytes per token grow with the length"
    with run.figure("bytes", title, size=(8.0, 4.4)) as axes:
        for mode in MODES:
            formula = np.array(theory[mode]) / (BATCH * np.array(lengths)) / 1024
            axes.plot(lengths, formula, color=colors[mode], lw=1.2, label=labels[mode])
            axes.plot(lengths, per_token[mode], "o", color=colors[mode], label="_")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(lengths, [str(n) for n in lengths])
        ticks = 2.0 ** np.arange(-3, 5)
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.text(
            0.02,
            0.95,
            "dots: counted   lines: formula",
            transform=axes.transAxes,
            va="top",
            color=plots.REFERENCE,
        )
        axes.set(xlabel="sequence length (tokens)", ylabel="kept by a block (KiB/token)")
        plots.label_lines(axes)


def check_flops(run: Run, seq: int) -> None:
    """Operations by torch's counter against the formula."""
    x = torch.randn(BATCH, seq, WIDTH, generator=run.generator(), requires_grad=True)
    matrices, products = block_flops(BATCH, seq, WIDTH)
    forward = matrices + products
    counted = []
    for mode in MODES:
        model = Block(WIDTH, HEADS, 0.1, mode)
        with FlopCounterMode(display=False) as counter:
            model(x).sum().backward()
        counted.append(counter.get_total_flops())
    run.check(
        "operations of a block, forward and backward, 3 modes",
        np.array(counted),
        np.array([3 * forward, 3 * forward + products, 4 * forward]),
        against="3 F, 3 F + attention, 4 F",
        why="operations are integers",
    )
    run.metric("operations, full against none", counted[2] / counted[0], "times", rtol=1e-6)
    run.metric("operations, selective against none", counted[1] / counted[0], "times", rtol=1e-6)
    matrices, products = block_flops(1, 2048, 12288)
    selective = products / (3 * (matrices + products))
    run.metric("extra operations of a GPT-3 block, selective", 100 * selective, "%", rtol=1e-6)


# ---- how long a segment should be


def chain(n: int) -> nn.Sequential:
    """Layers that keep two tensors each: the input, for GELU, and its output, for the matrix."""
    return nn.Sequential(*(nn.Sequential(nn.GELU(), nn.Linear(WIDTH, WIDTH)) for _ in range(n)))


def depth(run: Run, layers: int) -> None:
    """Peak against the length of a segment, for simple layers and for blocks."""
    seq = 16
    x = torch.randn(BATCH, seq, WIDTH, generator=run.generator())
    block_bytes = sum(block_activations(BATCH, seq, WIDTH, HEADS))
    segments = sorted({c for c in (1, 2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 48, 64) if c <= layers})
    kinds = {
        "simple layers": (chain, 2 * x.nbytes),
        "transformer blocks": (lambda n: stack(n, 0.1), block_bytes),
    }
    found = {}
    for name, (make, inner) in kinds.items():
        model = make(layers)
        peaks = []
        for c in segments:
            run_once = _Segmented(model, c)
            peaks.append(kept(run_once, x)[1])
        run.check(
            f"peak of {layers} {name}, {len(segments)} segment lengths",
            np.array(peaks),
            np.array([peak_bytes(layers, c, x.nbytes, inner) for c in segments]),
            against="(⌈L/c⌉ - 1) B + c A",
            why="bytes are integers",
        )
        unchecked = kept(model, x)[0]
        best = segments[int(np.argmin(peaks))]
        optimum = math.sqrt(layers * x.nbytes / inner)
        found[name] = np.array(peaks), unchecked, best, optimum, inner
        run.metric(f"{name}: peak without checkpointing", unchecked / min(peaks), "times the best")
        run.metric(f"{name}: best segment", best, "layers", rtol=0)
        run.metric(f"{name}: √(L B / A)", optimum, "layers")
        run.metric(f"{name}: A / B", inner / x.nbytes, "")
    smaller = _best_peak(max(1, layers // 4), x, chain)
    ratio = _best_peak(layers, x, chain) / smaller
    run.claim(
        "four times the depth needs about twice the memory, not four times",
        bool(1.7 < ratio < 2.3) if layers >= 16 else True,
        f"best peak of {layers} simple layers is {ratio:.2f} times that of {layers // 4}",
    )
    peaks, _, best, optimum, inner = found["transformer blocks"]
    simple = found["simple layers"]
    rule = min(segments, key=lambda c: abs(c - math.sqrt(layers)))
    waste = peaks[segments.index(rule)] / peaks.min()
    run.claim(
        "the best segment is √(L B / A) layers; √L of them wastes memory on blocks",
        layers < 16
        or bool(waste > 2 and 2 / 3 < best / optimum < 1.5 and 2 / 3 < simple[2] / simple[3] < 1.5),
        f"blocks keep {inner / x.nbytes:.0f} times their input: best {best}, theory {optimum:.1f}; "
        f"with {rule} the peak is {waste:.1f} times the best. Simple layers: best {simple[2]}, "
        f"theory {simple[3]:.1f}",
    )
    title = "How long should a segment be? As long as one layer is simple"
    with run.figure("segments", title, 1, 2, size=(9.0, 4.2)) as axes:
        for panel, (name, values) in zip(axes, found.items(), strict=True):
            peaks, unchecked, best, optimum, inner = values
            c = np.arange(1, layers + 1)
            kib = 1 / 1024
            curve = [peak_bytes(layers, int(i), x.nbytes, inner) * kib for i in c]
            panel.plot(c, curve, color=plots.REFERENCE, lw=1)
            panel.plot(segments, peaks * kib, "o", color=plots.BLUE)
            panel.axhline(unchecked * kib, color=plots.ORANGE, lw=1.5)
            panel.text(
                1, unchecked * kib * 0.93, "no checkpoints", color=plots.ORANGE, va="top", ha="left"
            )
            panel.plot([best], [min(peaks) * kib], "o", ms=12, mfc="none", color=plots.GREEN)
            panel.annotate(
                f"best: {best}",
                (best, min(peaks) * kib),
                xytext=(14, -3),
                textcoords="offset points",
                color=plots.GREEN,
                va="top",
            )
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            ticks = [2**i for i in range(int(math.log2(layers)) + 1)]
            panel.set_xticks(ticks, [str(t) for t in ticks])
            panel.minorticks_off()
            low, high = min(peaks) * kib, unchecked * kib
            marks = [
                t
                for t in (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
                if 0.7 * low < t < 1.4 * high
            ]
            panel.set_yticks(marks, [f"{t:,}" for t in marks])
            panel.set_ylim(0.6 * low, 1.5 * high)
            panel.set_title(
                f"{layers} {name}: √(LB/A) = {optimum:.1f}", fontsize=11, weight="normal"
            )
            panel.set_xlabel("layers to a segment")
        axes[0].set_ylabel("peak of kept activations (KiB)")
        axes[1].text(
            0.97,
            0.06,
            "dots: counted\nline: formula",
            transform=axes[1].transAxes,
            ha="right",
            color=plots.REFERENCE,
        )


class _Segmented(nn.Module):
    def __init__(self, layers: nn.Sequential, segment: int):
        super().__init__()
        self.layers, self.segment = layers, segment

    def forward(self, x):
        return checkpoint_sequential(list(self.layers), x, self.segment)


def _best_peak(layers: int, x, make) -> int:
    model = make(layers)
    return min(kept(_Segmented(model, c), x)[1] for c in range(1, min(layers, 12) + 1))


# ---- failure on display: the second call draws other masks


class Rows(nn.Module):
    """Digits read as eight tokens, the rows: two blocks, a mean, a linear layer."""

    def __init__(self, dropout: float, call):
        super().__init__()
        self.embed = nn.Linear(8, WIDTH)
        self.position = nn.Parameter(0.1 * torch.randn(8, WIDTH))
        self.blocks = stack(2, dropout)
        self.head = nn.Linear(WIDTH, 10)
        self.call = call

    def forward(self, x):
        """Logits."""
        x = self.embed(x) + self.position
        for block in self.blocks:
            x = self.call(block, x)
        return self.head(x.mean(dim=1))


CALLS = {
    "plain": lambda block, x: block(x),
    "checkpoint": checkpoint,
    "forgotten": lambda block, x: checkpoint(block, x, restore_rng=False),
}


def train_digits(call, x, y, *, seed: int, steps: int, dropout: float) -> list[float]:
    """Losses of AdamW steps on batches of 32 digits."""
    torch.manual_seed(seed)
    model = Rows(dropout, call)
    adam = torch.optim.AdamW(model.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(x), (32,), generator=order)
        loss = F.cross_entropy(model(x[rows]), y[rows])
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses


def forget_the_rng(run: Run, dropout: float) -> None:
    """Gradient errors and training with and without the random state."""
    digits = datasets.digits()
    x = torch.from_numpy(digits.images / 16).float()
    y = torch.from_numpy(digits.labels).long()
    seeds = range(run.seed, run.seed + run.budget(quick=2, default=5))
    rates = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
    errors = {name: [] for name in ("checkpoint", "forgotten")}
    for seed in seeds:
        for name, rows in errors.items():
            row = []
            for p in rates:
                torch.manual_seed(seed)
                model = Rows(p, CALLS["plain"])
                got = []
                for call in (CALLS[name], CALLS["plain"]):
                    other = copy.deepcopy(model)
                    other.call = call
                    torch.manual_seed(seed)
                    F.cross_entropy(other(x[:64]), y[:64]).backward()
                    got.append(flat_grad(other))
                row.append(((got[0] - got[1]).norm() / got[1].norm()).item())
            rows.append(row)
    errors = {name: 100 * np.array(rows) for name, rows in errors.items()}
    at = rates.index(0.1)
    wrong = errors["forgotten"][:, at]
    run.metric("gradient error, RNG forgotten, dropout 0.1", wrong.mean(), "%", rtol=0.2)
    run.claim(
        "without the RNG's state dropout makes every gradient wrong, and nothing complains",
        bool(
            errors["checkpoint"].max() == 0
            and wrong.min() > 5
            and errors["forgotten"][:, 0].max() == 0
        ),
        f"relative error {mean_interval(wrong)} % at dropout 0.1, 0 at dropout 0; with the state "
        f"restored {errors['checkpoint'].max():.0f} at every rate",
    )

    steps, strong = run.budget(quick=15, default=100), 0.3
    curves = {
        name: [train_digits(call, x, y, seed=s, steps=steps, dropout=strong) for s in seeds]
        for name, call in CALLS.items()
    }
    first = train_digits(CALLS["checkpoint"], x, y, seed=run.seed, steps=10, dropout=dropout)
    run.check(
        "losses of the first 10 AdamW steps",
        np.array(first),
        np.array(train_digits(CALLS["plain"], x, y, seed=run.seed, steps=10, dropout=dropout)),
        against="torch autograd",
        why="bitwise the same gradients",
    )
    permuted = y[torch.randperm(len(y), generator=run.generator())]
    control = [
        train_digits(CALLS["checkpoint"], x, permuted, seed=s, steps=steps, dropout=strong)
        for s in seeds
    ]
    last = {k: np.array(v)[:, -steps // 5 :].mean(1) for k, v in curves.items()}
    chance = np.array(control)[:, -steps // 5 :].mean(1)
    run.claim(
        "checkpointed training learns digits, on permuted labels it does not",
        bool(last["checkpoint"].max() < 1.0 and chance.min() > 2.1),
        f"loss of the last fifth {mean_interval(last['checkpoint'])}, permuted labels "
        f"{mean_interval(chance)}, guessing {math.log(10):.2f} nats",
        quick=False,
    )
    cost = last["forgotten"] - last["plain"]
    run.metric("loss that a forgotten RNG costs", cost.mean(), "nats", rtol=None)
    run.say(f"a forgotten RNG costs {mean_interval(cost)} nats of training loss at dropout 0.3")
    title = "Masks drawn anew in the second call: wrong gradients, a loss that still falls"
    with run.figure("forgotten_rng", title, 1, 2, size=(9.0, 4.2)) as axes:
        colors = {"checkpoint": plots.BLUE, "forgotten": plots.ORANGE}
        for name, color in colors.items():
            plots.interval_band(axes[0], rates, errors[name], color=color, label="")
        axes[0].text(0.5, 4, "state restored: 0, bit for bit", color=plots.BLUE, ha="right")
        high = errors["forgotten"].max()
        axes[0].text(0.02, 0.93, "state forgotten", transform=axes[0].transAxes, color=plots.ORANGE)
        axes[0].set(
            xlabel="dropout",
            ylabel="error of the gradient (% of its length)",
            ylim=(-0.03 * high, 1.12 * high),
        )
        window = max(1, steps // 15)
        at = np.arange(window, steps + 1, window)
        for name, color in colors.items():
            smooth = np.array(curves[name])[:, : len(at) * window]
            smooth = smooth.reshape(len(smooth), -1, window).mean(2)
            plots.interval_band(axes[1], at, smooth, color=color, label="")
        axes[1].axhline(math.log(10), color=plots.REFERENCE, lw=1, ls="--")
        axes[1].text(steps, math.log(10) + 0.03, "guessing: ln 10", ha="right")
        axes[1].text(0.55, 0.56, "state forgotten", transform=axes[1].transAxes, color=plots.ORANGE)
        axes[1].text(
            0.04,
            0.1,
            "state restored =\nno checkpoints",
            transform=axes[1].transAxes,
            color=plots.BLUE,
        )
        axes[1].set(
            xlabel="steps", ylabel=f"training loss at dropout {strong} (nats)", ylim=(0, 2.6)
        )


def main(
    run: Run, *, layers: PositiveInt = 64, seq: PositiveInt = 48, dropout: PositiveFloat = 0.1
) -> None:
    """Check the gradients bit by bit, then count the bytes and operations against the formulas.

    Parameters
    ----------
    layers
        Depth of the stacks whose peak is measured.
    seq
        Tokens in a sequence.
    dropout
        Probability of dropping, in the checks and the training runs.
    """
    check_gradients(run, dropout)
    check_bytes(run, seq)
    check_flops(run, seq)
    depth(run, layers)
    forget_the_rng(run, dropout)
