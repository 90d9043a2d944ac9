"""Convolution against torch, and three things that its arithmetic alone decides."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week10.convolution import (
    conv2d,
    conv2d_backward,
    conv2d_fft,
    conv2d_loops,
    input_gradient,
    receptive_field,
)
from week10.pooling import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward
from week10.transposed import conv_transpose2d, conv_transpose2d_backward

ALL = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}


def main(run: Run, *, seeds: PositiveInt = 8, channels: PositiveInt = 8) -> None:
    """Check all kinds of windows; then measure what a deep stack sees, stamps and shifts.

    Parameters
    ----------
    seeds
        Random stacks of convolutions.
    channels
        Channels of each layer in them.
    """
    run.rounding(1e-6, "float64 sums in another order")
    check_windows(run)
    check_identities(run)
    fields(run, run.budget(quick=3, default=seeds), channels)
    checkers(run)
    shifts(run)


# ---- checks


def torch_gradients(function: Callable, inputs: list, g: np.ndarray, **options) -> list:
    """Torch's output and the gradients of all inputs, in NumPy."""
    import torch

    tensors = [torch.tensor(a, requires_grad=True) for a in inputs]
    y = function(*tensors, **options)
    return [t.detach().numpy() for t in (y, *torch.autograd.grad(y, tensors, torch.tensor(g)))]


def check_windows(run: Run) -> None:
    """Outputs and all gradients, one setting of each kind; the tests draw the options."""
    from torch.nn import functional as F

    rng = np.random.default_rng(run.seed)
    x, b = rng.normal(size=(2, 4, 9, 8)), rng.normal(size=6)
    cases = [
        ("conv2d", conv2d, conv2d_backward, F.conv2d, [x, rng.normal(size=(6, 2, 3, 3)), b], ALL),
        (
            "conv_transpose2d",
            *(conv_transpose2d, conv_transpose2d_backward, F.conv_transpose2d),
            *([x, rng.normal(size=(4, 3, 3, 3)), b], ALL),
        ),
        ("max_pool2d", max_pool2d, max_pool2d_backward, F.max_pool2d, [x], {"stride": 1}),
        ("avg_pool2d", avg_pool2d, avg_pool2d_backward, F.avg_pool2d, [x], {"padding": 1}),
    ]
    equal = run.against("torch.nn.functional", atol=1e-9, why="float64 rounding")
    for name, forward, backward, theirs, inputs, options in cases:
        sizes = {"kernel_size": 3} if "pool" in name else {}
        size = tuple(sizes.values())
        y = forward(*inputs, *size, **options)
        g = rng.normal(size=y.shape)
        expected, *gradients = torch_gradients(theirs, inputs, g, **sizes, **options)
        equal(f"output, {name}", y, expected)
        found = backward(g, *inputs[:2], *size, **options)
        found = found if isinstance(found, tuple) else (found,)
        flat = [np.concatenate([a.ravel() for a in side]) for side in (found, gradients)]
        equal(f"gradients, {name}", *flat)
    inputs = cases[0][4]
    equal(
        "output, the loops of the definition",
        *(
            conv2d_loops(*inputs, **ALL),
            torch_gradients(F.conv2d, inputs, np.zeros((2, 6, 5, 8)), **ALL)[0],
        ),
    )


def check_identities(run: Run) -> None:
    """The convolution theorem; a layer and its transpose; the receptive field by the gradient."""
    from scipy.signal import correlate2d

    rng = np.random.default_rng(run.seed + 1)
    x, w = rng.normal(size=(40, 50)), rng.normal(size=(11, 8))
    name, why = "one channel by FFT", "float64 rounding"
    reference = correlate2d(x, w, mode="valid")
    run.check(name, conv2d_fft(x, w), reference, against="scipy.signal", atol=1e-9, why=why)
    x, w = rng.normal(size=(2, 4, 9, 8)), rng.normal(size=(6, 2, 3, 3))
    y = conv2d(x, w, **ALL)
    back = rng.normal(size=y.shape)
    ours = (x * conv_transpose2d(back, w, output_padding=(0, 0), **ALL)).sum()
    theorem = run.against("⟨Cx, y⟩ = ⟨x, Cᵀy⟩", kind="theorem", atol=1e-9, why=why)
    theorem("the transposed layer is the transpose", ours, (y * back).sum())
    layers = [(7, 2, 1), (3, 2, 1), (3, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2)]
    g = np.ones((1, 1, 1, 1))
    for kernel, stride, dilation in layers[::-1]:
        w = rng.uniform(1, 2, (1, 1, kernel, 1))
        rows = (g.shape[2] - 1) * stride + dilation * (kernel - 1) + 1
        g = input_gradient(g, w, (rows, 1), (stride, 1), (0, 0), (dilation, 1), 1)
    field = np.count_nonzero(g)
    kind = {"kind": "theorem", "why": "whole numbers"}
    name, formula = "pixels with a gradient, six layers", receptive_field(layers)
    run.check(name, field, formula, against="receptive field formula", **kind)


# ---- what a deep stack sees


def widths(
    dilations: list[int], channels: int, rng: np.random.Generator | None
) -> tuple[list[float], Float[np.ndarray, "rows columns"]]:
    """Spread of one output's squared gradient over the input, after each further 3 × 3 layer.

    Without a generator all kernels are means of the window, and the gradient itself is taken.
    """
    g, found = np.zeros((1, channels, 1, 1)), []
    g[0, 0] = 1
    for d in dilations:
        shape = (channels, channels, 3, 3)
        w = rng.normal(size=shape) if rng else np.ones(shape) / (9 * channels)
        size = (g.shape[2] + 2 * d, g.shape[3] + 2 * d)
        g = input_gradient(g, w / np.sqrt(channels), size, (1, 1), (0, 0), (d, d), 1)
        share = (g**2 if rng else g).sum(axis=(0, 1))
        share /= share.sum()
        g /= np.abs(g).max()
        place = np.arange(size[0]) - size[0] // 2
        found.append(float(np.sqrt(share.sum(axis=1) @ place**2)))
    return found, share


def fields(run: Run, seeds: int, channels: int) -> None:
    """The field grows with the depth, what it really sees with the root of the depth."""
    depth = run.budget(quick=12, default=32)
    plain, doubling = [1] * depth, [2**i for i in range(run.budget(quick=4, default=6))]
    layers = np.arange(1, depth + 1)
    theory = np.sqrt(2 * layers / 3)  # a tap at -1, 0 or 1 has variance 2/3; variances add up
    exact = run.against("√(2n/3)", kind="theorem", rtol=1e-9, why="float64 rounding")
    exact("spread of averaging layers", widths(plain, 2, None)[0], theory)
    found, slopes, shares = {"3 × 3": [], "dilated 1, 2, 4, …": []}, {}, []
    for name, dilations in zip(found, (plain, doubling), strict=True):
        for seed in range(seeds):
            rng = np.random.default_rng([run.seed, seed])
            spread, share = widths(dilations, channels, rng)
            found[name].append(spread)
            if dilations is plain:
                edge = len(share) // 4
                shares.append(100 * share[edge:-edge, edge:-edge].sum())
        at = np.log(np.arange(1, len(dilations) + 1))
        slopes[name] = [np.polyfit(at, np.log(row), 1)[0] for row in found[name]]
    rule = "what is seen grows with the root of the depth"
    run.claim(rule, slopes["3 × 3"], at_least=0.4, at_most=0.6, unit="power of the depth")
    run.falsifier("dilations that double", slopes["dilated 1, 2, 4, …"], breaks=rule)
    run.metric("field of the whole stack", receptive_field([(3, 1, 1)] * depth), "pixels")
    run.metric("spread of the whole stack", np.mean([row[-1] for row in found["3 × 3"]]), "pixels")
    run.metric("in the middle half of the field", np.mean(shares), "% of the squared gradient")
    with run.figure("field", "How much of its receptive field does a unit use?") as ax:
        x = {name: np.arange(1, len(rows[0]) + 1) for name, rows in found.items()}
        style = {"color": plots.REFERENCE, "lw": 1, "ls": "--"}
        ax.plot(layers, theory, label="√(2n/3)", **style)
        ax.plot(layers, layers, label="half the field of 3 × 3", **style)
        labels = {"xlabel": "3 × 3 layers n", "ylabel": "spread of the gradient (pixels)"}
        plots.curves(ax, x, found, xscale="log", yscale="log", **labels)


# ---- stamps and shifts


def checkers(run: Run) -> None:
    """How often a transposed convolution writes to each pixel."""
    maps = {}
    for k in (3, 4):
        stamped = conv_transpose2d(np.ones((1, 1, 8, 8)), np.ones((1, 1, k, k)), stride=2)[0, 0]
        maps[k] = stamped[k - 1 : 1 - k, k - 1 : 1 - k]
    rule = "stamps of 4 × 4 with stride 2 cover evenly"
    ratios = {k: stamped.max() / stamped.min() for k, stamped in maps.items()}
    kind = {"unit": "most to least", "deterministic": True}
    run.claim(rule, ratios[4], at_most=1, **kind)
    run.falsifier("stamps of 3 × 3", ratios[3], breaks=rule)
    title = "Why do decoders paint checkers? Stamps per pixel, stride 2"
    with run.figure("checkers", title, columns=2, size=(8.0, 3.6)) as axes:
        for ax, (k, stamped) in zip(axes, maps.items(), strict=True):
            plots.heat_map(ax, stamped, label="stamps", limits=(0, 4), xlabel="column")
            ticks = range(0, len(stamped), 4)
            ax.set(title=f"kernel {k} × {k}", ylabel="row", aspect="equal")
            ax.set(xticks=ticks, yticks=ticks)


def shifts(run: Run) -> None:
    """Move a photograph by one pixel: a convolution's output moves along, if its stride is 1."""
    photo = datasets.photographs()["china"].mean(axis=2)[None, None]
    edges = np.array([[[[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]]])  # Sobel's
    moved, changes = photo[..., 1:], {}
    for stride in (1, 2):
        before, after = (conv2d(p, edges, stride=stride) for p in (photo, moved))
        columns = min(before.shape[3], after.shape[3]) - 1
        there = [before[..., s : s + columns] for s in (0, 1)]  # the output moved by 0 or 1
        off = [np.linalg.norm(after[..., :columns] - y) / np.linalg.norm(y) for y in there]
        changes[stride] = 100 * min(off)
    rule, kind = "the output moves with the picture", {"unit": "% changed", "deterministic": True}
    run.claim(rule, changes[1], at_most=1e-9, rtol=None, **kind)
    run.falsifier("stride 2", changes[2], breaks=rule, note="the better of both places")
    run.metric("changed by one pixel at stride 2", changes[2], "% of the response")
