"""Tiled attention against torch's kernels, its traffic against counting, and two broken updates."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week13.attention import causal_mask
from week19.flash_attention import flash_attention, online_update, tiled_forward
from week19.flash_measures import (
    DIM,
    flash_accesses,
    predicted_accesses,
    saved_and_largest,
    slope,
    standard_accesses,
    with_gradients,
    without_maximum,
    without_rescaling,
)
from week19.slow_memory import SlowMemory, tile_sizes


def main(run: Run, *, seeds: PositiveInt = 8) -> None:
    """Compare with torch's kernels, count accesses and saved numbers, and break the rescaling.

    Parameters
    ----------
    seeds
        Draws for the comparison of rounding in bfloat16.
    """
    run.rounding(0.05, "bfloat16, which processors round differently")
    check_against_torch(run)
    check_softmax(run)
    count_accesses(run)
    measure_memory(run)
    compare_rounding(run, run.budget(quick=min(seeds, 3), default=seeds))
    break_rescaling(run)
    draw_tiles(run)


def draw(generator: torch.Generator, *shapes, dtype=torch.float64) -> list[Tensor]:
    """Normal numbers."""
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def torch_attention(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False) -> Tensor:
    """torch's attention, the queries being the last positions of the keys."""
    mask = causal_mask(q.shape[2], k.shape[2]) if is_causal else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as one would write it: every step a tensor."""
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v


# ---- checks


def check_against_torch(run: Run) -> None:
    """Output and gradients of torch's kernels, in both precisions."""
    cases = {
        "odd length": ((2, 3, 77, 16), (2, 3, 77, 16), False),
        "causal": ((2, 3, 77, 16), (2, 3, 77, 16), True),
        "causal after a past, grouped heads": ((2, 4, 23, 16), (2, 2, 61, 16), True),
        "fewer keys than queries": ((1, 2, 61, 16), (1, 2, 5, 16), False),
    }
    why = "rounding of the dtype, sums in another order"
    equal = run.against("F.scaled_dot_product_attention", why=why)
    for dtype, atol in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        for name, (queries, keys, is_causal) in cases.items():
            q, k, v, grad = draw(run.generator(), queries, keys, keys, queries, dtype=dtype)

            def tiled(*x, is_causal=is_causal):
                tiles = {"tile": (16, 12), "backward_tile": (7, 20)}
                return flash_attention(*x, is_causal=is_causal, **tiles)

            def reference(*x, is_causal=is_causal):
                return torch_attention(*x, is_causal=is_causal)

            found = [with_gradients(f, (q, k, v), grad) for f in (tiled, reference)]
            ours, theirs = (torch.cat([x.flatten() for x in tensors]) for tensors in found)
            precision = str(dtype).removeprefix("torch.")
            equal(f"output and gradients, {name}, {precision}", ours, theirs, atol=atol)


def check_softmax(run: Run) -> None:
    """What is saved for the backward pass."""
    from scipy.special import logsumexp

    q, k, v = draw(run.generator(1), (50, 8), (61, 8), (61, 8))
    _, lse = tiled_forward(q, k, v, scale=3.0, tile=(16, 12))
    equal = run.against("scipy.special.logsumexp", rtol=1e-12, why="float64 rounding")
    equal("log-sum-exp", lse, logsumexp(3.0 * (q @ k.T).numpy(), axis=1))


# ---- traffic and memory


def count_accesses(run: Run) -> None:
    """Traffic against the length and against the fast memory, with the formula."""
    lengths = run.budget(quick=(256, 512), default=(256, 512, 1024, 2048))
    sizes = run.budget(quick=(12288, 24576), default=(6144, 12288, 24576, 49152))
    settings = [(n, sizes[1]) for n in lengths] + [(lengths[-1], fast) for fast in sizes]
    counted = [flash_accesses(*setting) for setting in settings]
    expected = [predicted_accesses(*setting) for setting in settings]
    formula = {"against": "2Nd(1 + ⌈N/B⌉) + N", "kind": "theorem"}
    formula["why"] = "counted one by one: equal"
    run.check("accesses, by length and by fast memory", counted, expected, **formula)
    by_length, by_size = counted[: len(lengths)], counted[len(lengths) :]
    rule = {"at_least": -1.1, "at_most": -0.9, "deterministic": True, "quick": False}
    falls, note = "traffic falls as one over the fast memory", f"exponent at N = {lengths[-1]}"
    run.claim(falls, slope(sizes, by_size), note=note, **rule)
    standard = [standard_accesses(n) for n in lengths]
    always = [standard[-1]] * len(sizes)
    run.falsifier("attention written out", slope(sizes, always), breaks=falls)
    counts, x = {}, torch.zeros(1, 1, lengths[-1], DIM)
    for is_causal in (True, False):
        memory = SlowMemory()
        flash_attention(x, x, x, is_causal=is_causal, tile=(64, 64), memory=memory)
        counts[is_causal] = memory.accesses
    run.metric("causal / full accesses", counts[True] / counts[False])
    draw_accesses(run, lengths, sizes, [standard, by_length, by_size])


def draw_accesses(run: Run, lengths, sizes, counts: list[list[int]]) -> None:
    """Counts as points, formulas as lines."""
    standard, by_length, by_size = (np.array(numbers) / 1e6 for numbers in counts)
    rows, n, m = tile_sizes(sizes[1], DIM)[0], np.array(lengths), np.array(sizes)
    title = "How much has to pass through slow memory? One head of 64, forward"
    with run.figure("accesses", title, columns=2, size=(9.6, 4.3)) as (left, right):
        lines = {
            "standard: 4N² + 4Nd": (4 * n**2 + 4 * n * DIM) / 1e6,
            f"tiled, M = {sizes[1] // 1024}k numbers": (2 * n * DIM * (1 + n / rows) + n) / 1e6,
            "inputs and output once: 4Nd": 4 * n * DIM / 1e6,
        }
        colors, scales = (plots.ORANGE, plots.BLUE, plots.GRAY), {"xscale": "log", "yscale": "log"}
        labels = scales | {"xlabel": "tokens N", "ylabel": "numbers moved, millions"}
        plots.curves(left, n, lines, colors=colors, ends=False, **labels)
        left.plot(n, standard, "s", color=plots.ORANGE)
        left.plot(n, by_length, "o", color=plots.BLUE)
        labels = scales | {"xlabel": "fast memory M, thousands of numbers"}
        fall = {"∝ 1/M": by_size[0] * m[0] / m}
        level = {f"standard, N = {lengths[-1]}": standard[-1]}
        options = {"colors": (plots.REFERENCE,), "reference": level, "ends": False}
        plots.curves(right, m / 1024, fall, **options, **labels)
        right.plot(m / 1024, by_size, "o", color=plots.BLUE)
        for axes, ticks in ((left, n), (right, m // 1024)):
            axes.minorticks_off()
            axes.set_xticks(ticks, ticks)
        right.set_yticks([2, 4, 8, 16], ["2", "4", "8", "16"])


def measure_memory(run: Run) -> None:
    """No tensor of N × N, neither saved nor made."""
    lengths = (128, 256, 512, 1024)
    found = {
        name: np.array([saved_and_largest(attention, n) for n in lengths])
        for name, attention in (("tiled", flash_attention), ("written out", written_out))
    }
    saved = {name: slope(lengths, counts[:, 0]) for name, counts in found.items()}
    largest = {name: slope(lengths, counts[:, 1]) for name, counts in found.items()}
    steepest = {name: max(saved[name], largest[name]) for name in found}
    ratio = found["written out"][-1, 0] / found["tiled"][-1, 0]
    run.metric("saved, written out / tiled, 1024 tokens", ratio, "×")
    name, note = "extra memory is linear in the length", "the steeper exponent of saved and largest"
    run.claim(name, steepest["tiled"], at_most=1.05, deterministic=True, note=note)
    run.falsifier("attention written out, memory", steepest["written out"], breaks=name)


# ---- rounding


def rounding_errors(seed: int, n: int) -> tuple[float, float]:
    """Root mean square error in bfloat16 against float64: tiled, and written out."""
    tensors = draw(torch.Generator().manual_seed(seed), *[(1, 2, n, DIM)] * 3, dtype=torch.bfloat16)
    exact = written_out(*(t.double() for t in tensors))
    errors = (f(*tensors).double() - exact for f in (flash_attention, written_out))
    return tuple(float(e.square().mean().sqrt() / exact.square().mean().sqrt()) for e in errors)


def compare_rounding(run: Run, seeds: int) -> None:
    """Scores that never leave fast memory are never rounded to 16 bits."""
    lengths = run.budget(quick=(64, 256), default=(64, 256, 1024))
    each = [[rounding_errors(run.seed * 1000 + s, n) for n in lengths] for s in range(seeds)]
    ours, naive = np.moveaxis(np.array(each), -1, 0)
    ratio, note = naive[:, -1] / ours[:, -1], f"error written out / tiled, N = {lengths[-1]}"
    run.claim("tiled is more exact in bfloat16", ratio, at_least=1, unit="times", note=note)
    # The floor: an exact result still has to be rounded.
    x = torch.randn(100_000, generator=run.generator(7), dtype=torch.float64)
    floor = float((x.bfloat16().double() - x).square().mean().sqrt() / x.square().mean().sqrt())
    run.metric("bfloat16 error tiled / rounding alone", ours[:, -1].mean() / floor, "×", rtol=0.05)
    lines = {"written out": 100 * naive, "tiled": 100 * ours}
    labels = {"xscale": "log", "xlabel": "keys N", "ylabel": "error / size of the output, %"}
    title = "In bfloat16, the tiled sum is the more exact one"
    with run.figure("rounding", title, size=(8.0, 4.2)) as axes:
        axes.set_ylim(0, 1.1 * lines["written out"].max())
        levels = {"rounding the result, and nothing else": 100 * floor}
        colors = (plots.ORANGE, plots.BLUE)
        plots.curves(axes, lengths, lines, colors=colors, reference=levels, **labels)
        axes.set_xticks(lengths, lengths)
        axes.minorticks_off()


# ---- failure on display


def error_of(update: Callable, size: float, seed: int = 0) -> float:
    """Largest relative error in float32 with scores of this size; infinite if not a number."""
    q, k, v = draw(torch.Generator().manual_seed(seed), (64, 16), (256, 16), (256, 16))
    q = q * size / (q @ k.T).abs().max()
    exact = (q @ k.T).softmax(dim=1) @ v
    out, _ = tiled_forward(*(t.float() for t in (q, k, v)), scale=1.0, tile=(16, 16), update=update)
    error = float((out.double() - exact).abs().max() / exact.abs().max())
    return error if np.isfinite(error) else float("inf")


def break_rescaling(run: Run) -> None:
    """Two broken updates: one overflows, the other is quietly wrong."""
    sizes = np.geomspace(1, 1000, 25)
    updates = {"running maximum, rescaled": online_update}
    updates |= {"no maximum": without_maximum, "maximum, not rescaled": without_rescaling}
    errors = {name: np.array([error_of(f, s) for s in sizes]) for name, f in updates.items()}
    ours, bare, stale = errors.values()
    run.metric("error without rescaling, scores up to 1000", stale[-1], rtol=0.1)
    rule, note = "the running softmax is exact, however large the scores", "scores of 1 to 1000"
    run.claim(rule, ours, at_most=1e-4, each=True, note=note, rtol=None)
    capped, note = np.minimum(bare, 1e9), "1e9 stands for no number at all"
    run.falsifier("no maximum", capped, breaks=rule, note=note)
    run.falsifier("maximum, sums not rescaled", stale, breaks=rule)
    title = "Without the maximum it overflows; without rescaling it is wrong"
    with run.figure("failure", title, size=(8.4, 4.4)) as axes:
        finite = {name: np.where(np.isinf(v), np.nan, v) for name, v in errors.items()}
        colors = (plots.BLUE, plots.ORANGE, plots.PINK)
        axes.axvline(np.log(np.finfo(np.float32).max), color=plots.REFERENCE, lw=1, ls="--")
        axes.set(xscale="log", yscale="log", ylim=(5e-9, 10))
        labels = {"xlabel": "largest score", "ylabel": "largest error / largest output"}
        plots.curves(axes, sizes, finite, colors=colors, **labels)


# ---- the picture of the tiles


def draw_tiles(run: Run) -> None:
    """Which tiles are visited, and in which order."""
    titles = ("all keys", "causal: the future is never loaded")
    title, size = "A tile of queries stays; keys and values pass by", (9.4, 3.4)
    with run.figure("tiles", title, columns=2, size=size) as panels:
        for axes, is_causal, name in zip(panels, (False, True), titles, strict=True):
            seen = [(i, j) for i in range(4) for j in range(8) if not is_causal or j < 2 * i + 2]
            order = np.full((4, 8), np.nan)
            for step, (i, j) in enumerate(seen, 1):
                order[i, j] = step
                axes.text(j, i, step, ha="center", va="center")
            axes.imshow(order, cmap="Blues", aspect="auto", alpha=0.6, vmin=-8)
            axes.grid(False)
            axes.set(xlabel="tile of keys", ylabel="tile of queries", yticks=range(4))
            axes.set_title(name, fontsize=11, weight="normal")
