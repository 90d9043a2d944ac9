"""Checks, claims and figures of `flash_attention.py`, apart so that it can be read alone."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from shared import plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week13.attention import causal_mask
from week19.flash_attention import (
    SlowMemory,
    flash_attention,
    online_update,
    standard_backward,
    standard_forward,
    tile_sizes,
    tiled_forward,
)

DIM = 64  # of a head, as in the paper's figure 2


def draw(generator: torch.Generator, *shapes, dtype=torch.float64) -> list[Tensor]:
    """Normal numbers."""
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def torch_attention(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False) -> Tensor:
    """torch's attention, the queries being the last positions of the keys."""
    mask = causal_mask(q.shape[2], k.shape[2]) if is_causal else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def with_gradients(attention: Callable[..., Tensor], tensors, grad: Tensor) -> list[Tensor]:
    """Output and the gradients of all tensors."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = attention(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


# ---- checks


CASES = (
    ("odd length", (2, 3, 77, 16), (2, 3, 77, 16), False),
    ("causal", (2, 3, 77, 16), (2, 3, 77, 16), True),
    ("causal after a past, grouped heads", (2, 4, 23, 16), (2, 2, 61, 16), True),
    ("fewer keys than queries", (1, 2, 61, 16), (1, 2, 5, 16), False),
)


def check_against_torch(run: Run) -> None:
    """Output and gradients of torch's kernels, in both precisions."""
    for dtype, atol in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        for name, q_shape, k_shape, is_causal in CASES:
            q, k, v, grad = draw(run.generator(), q_shape, k_shape, k_shape, q_shape, dtype=dtype)
            ours = with_gradients(
                lambda *x, c=is_causal: flash_attention(
                    *x, is_causal=c, tile=(16, 12), backward_tile=(7, 20)
                ),
                (q, k, v),
                grad,
            )
            theirs = with_gradients(
                lambda *x, c=is_causal: torch_attention(*x, is_causal=c), (q, k, v), grad
            )
            run.check(
                f"output and gradients, {name}, {str(dtype).removeprefix('torch.')}",
                torch.cat([x.flatten() for x in ours]),
                torch.cat([x.flatten() for x in theirs]),
                against="F.scaled_dot_product_attention",
                atol=atol,
                why="rounding of the dtype, sums in another order",
            )


def check_softmax(run: Run) -> None:
    """What is saved for the backward pass."""
    from scipy.special import logsumexp

    q, k, v = draw(run.generator(1), (50, 8), (61, 8), (61, 8))
    _, lse = tiled_forward(q, k, v, scale=3.0, tile=(16, 12))
    run.check("log-sum-exp", lse, logsumexp(3.0 * (q @ k.T).numpy(), axis=1),
              against="scipy.special.logsumexp", rtol=1e-12, why="float64 rounding")  # fmt: skip


def train_losses(attention: Callable[..., Tensor], seed: int, steps: int = 10) -> list[float]:
    """Losses of one causal attention layer that learns to copy the token before."""
    g = torch.Generator().manual_seed(seed)
    w = (0.3 * torch.randn(4, 16, 16, generator=g, dtype=torch.float64)).requires_grad_()
    x = torch.randn(4, 33, 16, generator=g, dtype=torch.float64)
    target = x.roll(1, dims=1)
    optimizer, losses = torch.optim.Adam([w], lr=1e-2), []
    for _ in range(steps):
        q, k, v = ((x @ w[i])[:, None] for i in range(3))
        loss = F.mse_loss(attention(q, k, v)[:, 0] @ w[3], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def check_first_steps(run: Run) -> None:
    """Ten steps of Adam through our backward pass and through torch's."""
    run.check(
        "losses of the first ten steps of Adam",
        np.array(train_losses(lambda *x: flash_attention(*x, is_causal=True, tile=(8, 8)), 2)),
        np.array(train_losses(lambda *x: torch_attention(*x, is_causal=True), 2)),
        against="F.scaled_dot_product_attention",
        rtol=1e-10,
        why="float64 rounding, amplified by ten steps",
    )


# ---- traffic


def flash_accesses(n: int, fast: int, *, backward: bool = False) -> int:
    """Numbers that one head of tiled attention moves, counted while it runs."""
    memory, x = SlowMemory(), torch.zeros(1, 1, n, DIM, requires_grad=backward)
    tiles = {"tile": tile_sizes(fast, DIM), "backward_tile": tile_sizes(fast, DIM, backward=True)}
    out = flash_attention(x, x, x, memory=memory, **tiles)
    if backward:
        out.backward(torch.zeros_like(out))
    return memory.accesses


def standard_accesses(n: int, *, backward: bool = False) -> int:
    """Numbers that one head of attention moves if every matrix is written down."""
    memory, x = SlowMemory(), torch.zeros(n, DIM)
    _, p = standard_forward(x, x, x, memory)
    if backward:
        standard_backward(x, x, x, p, x, memory)
    return memory.accesses


def predicted_accesses(n: int, fast: int) -> int:
    """Read q, write the output and L once; read k and v once for each tile of queries."""
    tiles = -(-n // tile_sizes(fast, DIM)[0])
    return 2 * n * DIM + n + 2 * n * DIM * tiles


def slope(x, y) -> float:
    """Of log y in log x, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def count_accesses(run: Run) -> None:
    """Traffic against the length and against the fast memory, with the formula."""
    lengths = run.budget(quick=(256, 512), default=(256, 512, 1024, 2048))
    sizes = run.budget(quick=(12288, 24576), default=(6144, 12288, 24576, 49152))
    by_length = [flash_accesses(n, sizes[1]) for n in lengths]
    by_size = [flash_accesses(lengths[-1], fast) for fast in sizes]
    standard = [standard_accesses(n) for n in lengths]
    run.check("accesses, by length and by fast memory", np.array(by_length + by_size),
              np.array([predicted_accesses(n, sizes[1]) for n in lengths]
                       + [predicted_accesses(lengths[-1], fast) for fast in sizes]),
              against="2Nd(1 + ⌈N/B⌉) + N", why="counted one by one: equal")  # fmt: skip
    in_m, in_n = slope(sizes, by_size), slope(lengths, standard)
    run.metric("slope of accesses in fast memory", in_m)
    run.metric("slope of standard accesses in length", in_n)
    run.claim("traffic falls as one over the fast memory", abs(in_m + 1) <= 0.1,
              f"log-log slope {in_m:.2f} at N = {lengths[-1]}, asked for: -1 ± 0.1",
              quick=False)  # fmt: skip
    n, large = lengths[-1], 51200
    for name, backward in (("forward", False), ("forward and backward", True)):
        ratio = standard_accesses(n, backward=backward) / flash_accesses(
            n, large, backward=backward
        )
        run.metric(f"standard / flash, {name}, longest", ratio, "×")
    causal = SlowMemory()
    x = torch.zeros(1, 1, n, DIM)
    flash_attention(x, x, x, is_causal=True, tile=(64, 64), memory=causal)
    whole = SlowMemory()
    flash_attention(x, x, x, tile=(64, 64), memory=whole)
    run.metric("causal / full accesses", causal.accesses / whole.accesses)
    with run.figure("accesses", "How much has to pass through slow memory?", columns=2,
                    size=(9.6, 4.3)) as (left, right):  # fmt: skip
        for values, color, marker in (
            (standard, plots.ORANGE, "s"),
            (by_length, plots.BLUE, "o"),
        ):
            left.plot(lengths, np.array(values) / 1e6, marker, color=color, ms=7)
        for y, text, color in (
            (0.93, "standard: writes N² scores", plots.ORANGE),
            (0.86, f"tiled, M = {sizes[1] // 1024}k numbers", plots.BLUE),
            (0.79, "inputs and output once: 4Nd", plots.GRAY),
        ):
            left.text(0.03, y, text, color=color, fontsize=10, transform=left.transAxes)
        x = np.geomspace(lengths[0], lengths[-1], 60)
        rows = tile_sizes(sizes[1], DIM)[0]
        theory = (2 * x * DIM * (1 + x / rows) + x) / 1e6
        left.plot(x, theory, color=plots.REFERENCE, lw=1.2, ls="--")
        left.plot(x, (4 * x**2 + 4 * x * DIM) / 1e6, color=plots.REFERENCE, lw=1.2, ls="--")
        left.plot(x, 4 * x * DIM / 1e6, color=plots.GRAY, lw=1.2, ls=":")
        left.set(xscale="log", yscale="log", xlabel="tokens N", ylabel="numbers moved, millions",
                 ylim=(0.04, 60))  # fmt: skip
        left.set_xticks(lengths, lengths)
        left.set_xticks([], minor=True)
        left.set_title("one head of 64, forward", fontsize=10.5, weight="normal")
        right.plot(sizes, np.array(by_size) / 1e6, "o", color=plots.BLUE, ms=7)
        x = np.geomspace(sizes[0], sizes[-1], 60)
        fit = by_size[0] * sizes[0] / x / 1e6
        right.plot(x, fit, color=plots.REFERENCE, lw=1.2, ls="--")
        right.annotate("∝ 1/M", (x[34], fit[34]), (8, 6), textcoords="offset points", fontsize=10)
        right.axhline(standard[-1] / 1e6, color=plots.ORANGE, lw=1.5)
        right.annotate("standard", (x[-1], standard[-1] / 1e6), (0, 5), ha="right",
                       textcoords="offset points", color=plots.ORANGE, fontsize=10)  # fmt: skip
        right.set(xscale="log", yscale="log", xlabel="fast memory M, thousands of numbers",
                  ylabel="numbers moved, millions")  # fmt: skip
        right.set_xticks(sizes, [f"{fast // 1024}" for fast in sizes])
        right.set_xticks([], minor=True)
        right.set_yticks([2, 4, 8, 16], ["2", "4", "8", "16"])
        right.set_yticks([], minor=True)
        right.set_title(f"N = {lengths[-1]}", fontsize=10.5, weight="normal")


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers any operation returned."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and look at what came out."""
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.numel())
        return out


def saved_and_largest(attention: Callable[..., Tensor], n: int, seed: int = 0) -> tuple[int, int]:
    """Numbers kept for the backward pass (a tensor once), and the largest tensor of both passes."""
    saved = {}

    def pack(x: Tensor) -> Tensor:
        saved[x.data_ptr()] = x.numel()
        return x

    q, k, v = (
        x.requires_grad_() for x in draw(torch.Generator().manual_seed(seed), *[(1, 1, n, 16)] * 3)
    )
    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attention(q, k, v).sum().backward()
    return sum(saved.values()), largest.numbers


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as one would write it: every step a tensor."""
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v


def measure_memory(run: Run) -> None:
    """No tensor of N × N, neither saved nor made."""
    lengths = (128, 256, 512, 1024)
    ours = np.array([saved_and_largest(flash_attention, n) for n in lengths])
    naive = np.array([saved_and_largest(written_out, n) for n in lengths])
    for name, counts in (("tiled", ours), ("written out", naive)):
        run.metric(f"slope of saved numbers in length, {name}", slope(lengths, counts[:, 0]))
    run.metric("saved, written out / tiled, 1024 tokens", naive[-1, 0] / ours[-1, 0], "×")
    in_n, largest = slope(lengths, ours[:, 0]), slope(lengths, ours[:, 1])
    bad = slope(lengths, naive[:, 1])
    run.claim(
        "extra memory is linear in the length",
        max(in_n, largest) <= 1.05 and bad >= 1.95,
        f"log-log slope of the saved numbers {in_n:.2f}, of the largest tensor {largest:.2f}; "
        f"of the largest tensor of attention written out {bad:.2f}",
    )


# ---- rounding


def rounding_errors(seed: int, n: int) -> tuple[float, float]:
    """Root mean square error in bfloat16 against float64: tiled, and written out."""
    tensors = draw(torch.Generator().manual_seed(seed), *[(1, 2, n, DIM)] * 3, dtype=torch.bfloat16)
    exact = written_out(*(t.double() for t in tensors))
    size = exact.square().mean().sqrt()
    return tuple(
        float((f(*tensors).double() - exact).square().mean().sqrt() / size)
        for f in (flash_attention, written_out)
    )


def compare_rounding(run: Run, seeds: int) -> None:
    """Scores that never leave fast memory are never rounded to 16 bits."""
    lengths = run.budget(quick=(64, 256), default=(64, 256, 1024))
    errors = np.array(
        [[rounding_errors(run.seed * 1000 + s, n) for n in lengths] for s in range(seeds)]
    )
    ours, naive = errors[..., 0], errors[..., 1]
    ratio = mean_interval(naive[:, -1] / ours[:, -1])
    run.metric("bfloat16 error written out / tiled", ratio.mean, "×", rtol=0.1)
    run.claim("tiled is more exact in bfloat16", ratio.low > 1,
              f"error written out over error tiled at N = {lengths[-1]}: {ratio}, {seeds} seeds, "
              "against float64")  # fmt: skip
    # The floor: an exact result still has to be rounded.
    x = torch.randn(100_000, generator=run.generator(7), dtype=torch.float64)
    floor = float((x.bfloat16().double() - x).square().mean().sqrt() / x.square().mean().sqrt())
    run.metric("bfloat16 error tiled / rounding alone", ours[:, -1].mean() / floor, "×", rtol=0.05)
    with run.figure("rounding", "In bfloat16, the tiled sum is the more exact one",
                    size=(8.0, 4.2)) as ax:  # fmt: skip
        plots.interval_band(ax, lengths, 100 * naive, color=plots.ORANGE, label="written out")
        plots.interval_band(ax, lengths, 100 * ours, color=plots.BLUE, label="tiled")
        ax.axhline(100 * floor, color=plots.REFERENCE, lw=1.2, ls="--")
        ax.annotate("rounding the result, and nothing else", (lengths[0], 100 * floor), (0, -15),
                    textcoords="offset points", fontsize=10, color=plots.REFERENCE)  # fmt: skip
        ax.set(xscale="log", xlabel="keys N", ylabel="error / size of the output, %")
        ax.set_ylim(0)
        ax.set_xticks(lengths, lengths)
        ax.set_xticks([], minor=True)
        plots.label_lines(ax)


# ---- failure on display


def without_maximum(m, total, mixed, scores, values):
    """Broken: exponents of the bare scores."""
    p = torch.exp(scores)
    return torch.zeros_like(m), total + p.sum(dim=-1), mixed + p @ values


def without_rescaling(m, total, mixed, scores, values):
    """Broken: a new maximum, but the old sums stay relative to the old one."""
    new_m, *_ = online_update(m, total, mixed, scores, values)
    p = torch.exp(scores - new_m[..., None])
    return new_m, total + p.sum(dim=-1), mixed + p @ values


UPDATES = {
    "running maximum, rescaled": online_update,
    "no maximum": without_maximum,
    "maximum, sums not rescaled": without_rescaling,
}


def error_of(update: Callable, size: float, seed: int = 0) -> float:
    """Largest relative error in float32 with scores of this size; infinite if not a number."""
    q, k, v = draw(torch.Generator().manual_seed(seed), (64, 16), (256, 16), (256, 16))
    scores = q @ k.T
    q = q * size / scores.abs().max()
    exact = (q @ k.T).softmax(dim=1) @ v
    out, _ = tiled_forward(*(t.float() for t in (q, k, v)), scale=1.0, tile=(16, 16), update=update)
    error = float((out.double() - exact).abs().max() / exact.abs().max())
    return error if np.isfinite(error) else float("inf")


def break_rescaling(run: Run) -> None:
    """Two broken updates: one overflows, the other is quietly wrong."""
    sizes = np.geomspace(1, 1000, 25)
    errors = {name: np.array([error_of(f, s) for s in sizes]) for name, f in UPDATES.items()}
    ours, bare, stale = errors.values()
    run.metric("largest error, rescaled", ours.max(), rtol=None)
    run.metric("error without rescaling, scores up to 1000", stale[-1], rtol=0.1)
    overflow = float(sizes[np.isinf(bare)].min())
    run.metric("scores at which the bare exponent overflows", overflow)
    run.claim(
        "without the running maximum it overflows, without the rescaling it is wrong",
        bool(ours.max() < 1e-4 and np.isinf(bare[-1]) and (stale > 1e-3).all()),
        f"largest error {ours.max():.0e} with scores up to 1000; without the maximum not a number "
        f"from {overflow:.0f} on; without rescaling at least {stale.min():.0%} off",
    )
    with run.figure("failure", "Without the maximum it overflows; without rescaling it is wrong",
                    size=(8.4, 4.4)) as ax:  # fmt: skip
        for values, color in zip(
            errors.values(), (plots.BLUE, plots.ORANGE, plots.PINK), strict=True
        ):
            ax.plot(sizes, np.where(np.isinf(values), np.nan, values), color=color)
            end = np.flatnonzero(np.isfinite(values))[-1]
            if np.isinf(values).any():
                ax.plot(sizes[end], values[end], "X", color=color, ms=10)
        ax.axvline(np.log(np.finfo(np.float32).max), color=plots.REFERENCE, lw=1.2, ls="--")
        ax.annotate("largest exponent of float32, 88.7", (88.7, 3e-3), (6, 0), va="center",
                    textcoords="offset points", fontsize=10, color=plots.REFERENCE)  # fmt: skip
        for text, x, y, color in (
            ("running maximum, sums rescaled", 1.1, 2.2e-6, plots.BLUE),
            ("no maximum: fine, then not a number", 1.1, 1.3e-8, plots.ORANGE),
            ("maximum, but sums not rescaled", 1.1, 2.5, plots.PINK),
        ):
            ax.text(x, y, text, color=color, fontsize=10)
        ax.set(xscale="log", yscale="log", xlabel="largest score",
               ylabel="largest error / largest output", ylim=(5e-9, 10))  # fmt: skip


# ---- the picture of the tiles


def draw_tiles(run: Run) -> None:
    """Which tiles are visited, in which order, and what stays in fast memory."""
    from matplotlib.patches import Rectangle

    n, rows, cols = 8, 2, 1
    with run.figure("tiles", "A tile of queries stays; keys and values pass by", columns=2,
                    size=(9.4, 4.7)) as axes:  # fmt: skip
        for ax, causal in zip(axes, (False, True), strict=True):
            step = 0
            for i in range(0, n, rows):
                for j in range(0, n, cols):
                    skipped = causal and j > i + rows - 1
                    cut = causal and not skipped and j + cols - 1 > i
                    color = "#F3F3F3" if skipped else plots.SKY if cut else plots.BLUE
                    tile = Rectangle((j, i), cols, rows, facecolor=color, edgecolor="white", lw=2,
                                     alpha=1.0 if skipped or i == 2 else 0.35)  # fmt: skip
                    ax.add_patch(tile)
                    if not skipped:
                        step += 1
                        ax.text(j + cols / 2, i + rows / 2, step, ha="center", va="center",
                                color="white" if i == 2 and not cut else "#333333",
                                fontsize=10)  # fmt: skip
            ax.add_patch(Rectangle((-1.5, 2), 0.9, rows, facecolor=plots.ORANGE))
            ax.text(-1.75, 3, "q, a, m, ℓ", ha="right", va="center", fontsize=10,
                    color=plots.ORANGE)  # fmt: skip
            last = 4 if causal else n
            for j in range(n):
                color = plots.GREEN if j < last else "#E3E3E3"
                ax.add_patch(Rectangle((j + 0.06, -1.5), 0.88, 0.9, facecolor=color))
            ax.text(4, -2.1, "k and v, one tile after the other", ha="center", va="center",
                    fontsize=10, color=plots.GREEN)  # fmt: skip
            ax.set(xlim=(-4.6, 8.2), ylim=(8.2, -2.7), aspect="equal")
            ax.axis("off")
            ax.set_title("causal: tiles of the future are never loaded" if causal
                         else "all keys: numbers give the order", fontsize=10.5,
                         weight="normal")  # fmt: skip


def main(run: Run, *, seeds: PositiveInt = 8) -> None:
    """Compare with torch's kernels, count accesses and saved bytes, and break the rescaling.

    Parameters
    ----------
    seeds
        Draws for the comparison of rounding in bfloat16.
    """
    check_against_torch(run)
    check_softmax(run)
    check_first_steps(run)
    count_accesses(run)
    measure_memory(run)
    compare_rounding(run, run.budget(quick=min(seeds, 3), default=seeds))
    break_rescaling(run)
    draw_tiles(run)
