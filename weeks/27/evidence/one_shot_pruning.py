"""One-shot pruning against least squares in NumPy, on layers, a small model and SmolLM2."""

import dataclasses
import functools
import itertools

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from torch import Tensor

from shared import plots
from shared.stats import paired_bootstrap
from shared.study import Run
from week18.llama3 import Block
from week19.characters import manual, trained_model
from week19.gptq import hessian, layer_error
from week19.layer_inputs import Inputs, quantized_losses
from week19.wikitext import language_model, windows
from week27.one_shot_pruning import (
    in_order,
    magnitude,
    prune_block,
    refit,
    sparsegpt,
    surgeon,
    wanda,
)
from week27.pruning import zeros

METHODS = {"magnitude": magnitude, "Wanda": wanda, "SparseGPT": sparsegpt}
PATTERN = (2, 4)


def main(run: Run) -> None:
    """Check the algebra, count who is worse with the update, then judge by the loss of models."""
    run.rounding(0.05, "Muon multiplies in bfloat16; a sum in another order rounds another way")
    check_masks(run)
    check_algebra(run)
    count_rows(run)
    judge_layers(run)
    with threadpool_limits(1):  # products this small are slower on several threads
        judge_small_models(run)
    judge_language_model(run)


def layer(run: Run, n_in: int, n_out: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random weights, correlated inputs and their Hessian, in float64."""
    g = run.generator(offset)
    x = torch.randn(4 * n_in, n_in, generator=g, dtype=torch.double)
    mix = torch.randn(n_in, n_in, generator=g, dtype=torch.double)
    w = torch.randn(n_out, n_in, generator=g, dtype=torch.double)
    return w, x @ mix, hessian(x @ mix)


def diagonal(h: Float[Tensor, "in in"]) -> Float[Tensor, "in in"]:
    """The Hessian of inputs that do not correlate."""
    return h.diag().diag()


# ---- checks


def check_masks(run: Run) -> None:
    """Wanda's scores written out, exact counts, and what is left where inputs do not correlate."""
    w, x, h = layer(run, 32, 12, 0)
    scores = np.abs(w.numpy()) * np.linalg.norm(x.numpy(), axis=0)
    theirs = np.zeros(w.shape, dtype=bool)
    for row, order in enumerate(scores.argsort(axis=1)):
        theirs[row, order[10:]] = True
    exact = run.against("|w| ‖x‖₂ sorted by row, NumPy", why="booleans")
    exact("Wanda's mask, 10 of 32 pruned", wanda(w, h, sparsity=10 / 32).mask, theirs)
    limit = run.against("the theorem", kind="theorem", why="the same sums")
    white = torch.eye(32).double()
    limit("Wanda for white inputs is magnitude", wanda(w, white).w, magnitude(w).w)
    theirs = wanda(w, h, pattern=PATTERN).w
    ours = sparsegpt(w, diagonal(h), pattern=PATTERN, damping=0.0).w
    limit("SparseGPT for a diagonal Hessian is Wanda, 2:4", ours, theirs)
    wanted = [round(s * w.numel()) for s in (0.1, 0.37, 0.5, 0.9)]
    found = [zeros([sparsegpt(w, h, sparsity=s, block_size=7).mask]) for s in (0.1, 0.37, 0.5, 0.9)]
    limit("SparseGPT's zeros", found, wanted)


def by_least_squares(w: np.ndarray, x: np.ndarray, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """One row n:m, as written in the paper: NumPy fits the free weights, and inverts, each time."""
    size, h = len(w), x.T @ x
    q, mask = np.zeros(size), np.ones(size, dtype=bool)
    for j in range(size):
        free = np.linalg.lstsq(x[:, j:], x @ w - x[:, :j] @ q[:j], rcond=None)[0]
        if j % m == 0:
            costs = [free[k] ** 2 / np.linalg.inv(h[j + k :, j + k :])[0, 0] for k in range(m)]
            mask[j + np.argsort(costs)[: m - n]] = False
        q[j] = free[0] * mask[j]
    return q, mask


def check_algebra(run: Run) -> None:
    """All updates are least-squares solutions; NumPy finds them from the inputs themselves."""
    rows = range(run.budget(quick=3, default=10))
    ours, theirs = [], []
    for offset in rows:
        w, x, h = layer(run, 24, 1, 10 + offset)
        found = sparsegpt(w, h, pattern=PATTERN, damping=0.0)
        ours.append(torch.cat([found.w[0], found.mask[0]]).numpy())
        theirs.append(np.concatenate(by_least_squares(w[0].numpy(), x.numpy(), *PATTERN)))
    exact = run.against("numpy.linalg.lstsq before each weight", atol=1e-9, why="float64 rounding")
    exact("SparseGPT 2:4, weights and masks", np.array(ours), np.array(theirs))
    w, x, h = layer(run, 24, 5, 50)
    mask = torch.rand(w.shape, generator=run.generator(51)) < 0.5
    best = np.zeros(w.shape)
    for row, kept in enumerate(mask.numpy()):
        target = x.numpy() @ w[row].numpy()
        best[row, kept] = np.linalg.lstsq(x.numpy()[:, kept], target, rcond=None)[0]
    exact("best weights for a mask", refit(w, h, mask), best, against="numpy.linalg.lstsq")
    costs, errors, fits, found = [], [], [], []
    for row in w:
        new, left, cost = surgeon(row, h, 12)
        costs.append(cost)
        errors.append(layer_error((row - new)[None], h)[0])
        found.append(new)
        fits.append(refit(row[None], h, left[None])[0])
    theorem = {"kind": "theorem", "rtol": 1e-8, "why": "float64 rounding"}
    run.check("the surgeon's error", errors, costs, against="the sum of its costs", **theorem)
    found, fits = torch.stack(found), torch.stack(fits)
    run.check("the surgeon's weights", found, fits, against="least squares", atol=1e-9, **theorem)
    ours, again = sparsegpt(w, h, mask=mask, block_size=5, damping=0.0).w, in_order(w, h, mask)
    same = {"kind": "consistency", "atol": 1e-9, "why": "float64 rounding"}
    run.check("SparseGPT in blocks", ours, again, against="solving again for each", **same)
    ratios = []
    for offset in rows:
        w, _, h = layer(run, 8, 1, 60 + offset)
        every = [torch.tensor([i in kept for i in range(8)]) for kept in choices(8, 4)]
        best = min(layer_error(w - refit(w, h, mask[None]), h).item() for mask in every)
        ratios.append(best / float(surgeon(w[0], h, 4)[2]))
    never = "the surgeon is never better than the best of all masks"
    run.claim(never, ratios, at_most=1 + 1e-9, each=True, unit="best / surgeon's error, 8 weights")


def choices(n: int, k: int) -> list[tuple[int, ...]]:
    """All ways to keep k of n."""
    return list(itertools.combinations(range(n), k))


# ---- layers


def count_rows(run: Run) -> None:
    """How many rows lose more with SparseGPT's update than with zeros alone, of one mask."""
    sizes, layers = (2, 4, 8, 16, 32), run.budget(quick=2, default=20)
    shares, floor = [], []
    for n in sizes:
        worse = []
        for offset in range(layers):
            w, _, h = layer(run, n, 100, 1000 * n + offset)
            mask = wanda(w, h).mask
            alone, updated = (layer_error(w - v, h) for v in (w * mask, in_order(w, h, mask)))
            worse.append((updated > alone * (1 + 1e-9)).double().mean().item())
            best = layer_error(w[:9] - refit(w[:9], h, mask[:9]), h)
            floor.append((best / updated[:9].clamp(min=1e-300)).max().item())
        shares.append(100 * float(np.mean(worse)))
        run.metric(f"rows that the update makes worse, {n} inputs", shares[-1], "%", rtol=0.2)
    proven = run.against("the theorem: 0", kind="theorem", why="a count")
    proven("rows made worse, 2 inputs", shares[0], 0.0)
    below = "no update is better than least squares on the same mask"
    run.claim(below, floor, at_most=1 + 1e-6, each=True, unit="least squares / SparseGPT")


def judge_layers(run: Run) -> None:
    """Whole layers, where rows average out; and what is left to gain from white inputs."""
    n, layers = run.budget(quick=(24, 4), default=(96, 20))
    ratios = {name: [] for name in ("Wanda / magnitude", "SparseGPT / Wanda", "white")}
    for offset in range(layers):
        w, _, h = layer(run, n, 64, 5000 + offset)
        pruned = {k: method(w, h, pattern=PATTERN).w for k, method in METHODS.items()}
        lost = {k: layer_error(w - new, h).sum().item() for k, new in pruned.items()}
        ratios["Wanda / magnitude"].append(lost["Wanda"] / lost["magnitude"])
        ratios["SparseGPT / Wanda"].append(lost["SparseGPT"] / lost["Wanda"])
        white = diagonal(h)
        both = [layer_error(w - f(w, white, pattern=PATTERN).w, white) for f in (sparsegpt, wanda)]
        ratios["white"].append((both[0].sum() / both[1].sum()).item())
    gains = "layers of correlated inputs lose at most 0.8 of Wanda's by SparseGPT, 2:4"
    seen = "0.5 to 0.6 for four layers of 24 inputs"
    options = {"each": True, "unit": "SparseGPT / Wanda", "seen_before": seen}
    run.claim(gains, ratios["SparseGPT / Wanda"], at_most=0.8, **options)
    run.falsifier("inputs that do not correlate", ratios["white"], breaks=gains)
    run.metric("error of layers, Wanda / magnitude", np.mean(ratios["Wanda / magnitude"]))


# ---- models


def ways(sparsity: float = 0.5, **options) -> dict:
    """What changes a block, by method."""
    found = {"as it is": lambda block, inputs: None}
    for name, method in METHODS.items():
        pruner = functools.partial(method, sparsity=sparsity, **options)
        found[name] = functools.partial(prune_block, method=pruner)
    return found


def shuffled(block: Block, inputs: dict[str, Inputs], *, method) -> None:
    """A method that is told the inputs' sizes in the wrong order, and no correlations."""
    g = torch.Generator().manual_seed(0)
    mixed = {}
    for name, given in inputs.items():
        order = torch.randperm(len(given.h), generator=g)
        mixed[name] = dataclasses.replace(given, h=given.h.diag()[order].diag())
    prune_block(block, mixed, method)


def judge_small_models(run: Run) -> None:
    """Character models trained here: loss added by the methods, by sparsity."""
    text, steps = manual(), run.budget(quick=2, default=80)
    sparsities = run.budget(quick=(0.5,), default=(0.3, 0.5, 0.6, 0.7))
    calibration = windows(text.training, run.budget(quick=4, default=64), 64, skip=5000)
    held_out = windows(text.held_out, run.budget(quick=4, default=64), 64)
    added = {name: [] for name in METHODS}
    wrong = []
    for seed in range(run.budget(quick=2, default=3)):
        model = trained_model(text, steps, run.seed + seed)
        rows = {name: [] for name in METHODS}
        for sparsity in sparsities:
            methods = ways(sparsity)
            if sparsity == 0.5:
                pruner = functools.partial(wanda, sparsity=0.5)
                methods["shuffled"] = functools.partial(shuffled, method=pruner)
            losses = quantized_losses(model, calibration, held_out, methods)
            start = losses["as it is"].mean().item()
            for name, row in rows.items():
                row.append(losses[name].mean().item() - start)
            if sparsity == 0.5:
                wrong.append((losses["shuffled"].mean().item() - start) / rows["magnitude"][-1])
        for name, row in rows.items():
            added[name].append(row)
    half = {name: np.array(rows)[:, sparsities.index(0.5)] for name, rows in added.items()}
    options = {"quick": False, "unit": "share of what magnitude adds", "rtol": None}
    less = "on a small model Wanda adds at most 0.8 of magnitude's loss at 50 %"
    run.claim(less, half["Wanda"] / half["magnitude"], at_most=0.8, **options)
    run.falsifier("norms of other inputs", wrong, breaks=less)
    least = "on a small model SparseGPT adds less than Wanda at 50 %"
    options["unit"] = "SparseGPT / Wanda"
    run.claim(least, half["SparseGPT"] / half["Wanda"], at_most=1, **options)
    for name, values in half.items():
        run.metric(f"loss added at 50 %, small model, {name}", values.mean(), rtol=None)
    title = "What do zeros cost a small language model, with no training after?"
    with run.figure("sparsities", title) as axes:
        labels = {"xlabel": "weights at zero (%)", "ylabel": "loss added (nats/character)"}
        labels |= {"yscale": "symlog" if run.mode == "quick" else "log"}
        plots.curves(axes, 100 * np.array(sparsities), added, marker="o", **labels)


def judge_language_model(run: Run) -> None:
    """Loss on WikiText-2 of a real model, paired by window."""
    n = run.budget(quick=(2, 4), default=(8, 8), full=(20, 12))
    found = language_model(*n, context=48, quick=run.mode == "quick", seed=run.seed)
    kinds = {"50 %": ways(), "2:4": ways(pattern=PATTERN)}
    every = {f"{way}, {kind}": how for kind, part in kinds.items() for way, how in part.items()}
    del every["as it is, 2:4"]
    losses = quantized_losses(found.model, found.calibration, found.texts, every)
    losses = {k: v.numpy() for k, v in losses.items()}
    for name, values in losses.items():
        run.metric(f"perplexity, {name}", float(np.exp(values.mean())), rtol=None)
    rule = {"at_least": 0.0, "unit": "nats/token", "quick": False, "rtol": None}
    for kind in kinds:
        for worse, better in itertools.pairwise(METHODS):
            pair = (losses[f"{method}, {kind}"] for method in (worse, better))
            gain = paired_bootstrap(*pair, rng=run.rng)
            run.claim(f"on {found.name} {better} loses less than {worse}, {kind}", gain, **rule)
    run.metric("tokens judged", found.texts.numel(), rtol=0)
