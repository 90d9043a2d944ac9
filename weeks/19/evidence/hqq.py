"""HQQ against torchao, its exact steps against minimization, and what it gains without data."""

import functools

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from shared import plots
from shared.study import Run
from week19.evidence.real_text import judge_on_text
from week19.hqq import descend, hqq, hqq_block, shrink
from week19.layer_inputs import round_block

GROUP = 64


def main(run: Run) -> None:
    """Compare with torchao, show what may rise and what cannot, judge weights and a model."""
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_torchao(run)
    check_steps(run)
    judge_weights(run)
    judge_language_model(run)


def weights(run: Run, offset: int, *, tails: float = 4.0) -> Float[Tensor, "out in"]:
    """Rows with heavy tails (Student's t), as large as weights are."""
    normal = torch.randn(64, 256, generator=run.generator(offset))
    squares = torch.randn(int(tails), 64, 256, generator=run.generator(1000 + offset)).square()
    return 0.03 * normal / squares.mean(0).sqrt()


# ---- checks


def check_torchao(run: Run) -> None:
    """Codes, scales and zero points of three bit widths."""
    from torchao.quantization import quant_primitives

    theirs = quant_primitives._choose_qparams_and_quantize_affine_hqq
    w, codes, rest = weights(run, 0), [], []
    for bits in (2, 3, 4):
        options = {"device": "cpu", "compute_dtype": torch.float32, "raw_output": True}
        q, scale, zero, _ = theirs(w, nbits=bits, group_size=GROUP, **options)
        ours = hqq(w, bits=bits, group_size=GROUP)
        codes.append((ours.codes.flatten(1), q.float()))
        rest.append((torch.stack([ours.scale, ours.zero])[..., 0], torch.stack([scale, zero])))
    equal = run.against("torchao's HQQ", why="integers, but for ties that float32 breaks")
    ours, theirs = (torch.stack(part) for part in zip(*codes, strict=True))
    equal("codes of 2, 3 and 4 bits", ours, theirs)
    ours, theirs = (torch.stack(part) for part in zip(*rest, strict=True))
    equal("scales and zero points", ours, theirs, rtol=1e-5, atol=1e-6, why="float32 rounding")


def check_steps(run: Run) -> None:
    """The shrinkage for p = 1 is a minimum; exact steps never raise the objective."""
    x = run.rng.normal(size=40)
    found = [
        minimize_scalar(lambda e, x=x: abs(e) + 2 * (x - e) ** 2, (x - 1, x), tol=1e-12).x
        for x in x.tolist()
    ]
    least = run.against("scipy.optimize.minimize_scalar", atol=1e-6, why="its tolerance at a kink")
    least("shrinkage for β = 4", shrink(torch.tensor(x), 4.0), found)
    rises, published = [], []
    for offset in range(run.budget(quick=3, default=20)):
        w = weights(run, offset).double()
        _, objective = descend(w, bits=3, group_size=GROUP, beta=40.0, steps=20)
        rises.append(max(0.0, np.diff(objective).max() / objective[0]))
        errors = [
            (w - hqq(w, bits=3, group_size=GROUP, steps=n).dequantize()).abs() for n in range(4)
        ]
        published.append(np.diff([e.mean().item() for e in errors]).max() > 0)
    proven = run.against("the theorem: none", kind="theorem", atol=1e-12, why="float64 rounding")
    proven("largest rise of the objective by exact steps", max(rises), 0.0)
    share = 100 * float(np.mean(published))
    run.metric("layers where a published step raised the error", share, "%", rtol=None)


# ---- weights and a model


def judge_weights(run: Run) -> None:
    """Mean |error|^0.7 and squared error against rounding to nearest, and both by β."""
    betas = 10.0 ** np.arange(-1, 7)
    ratio, by_beta, squared = [], [], []
    for offset in range(run.budget(quick=4, default=20)):
        w = weights(run, 100 + offset)
        start = w - hqq(w, bits=3, group_size=GROUP, steps=0).dequantize()
        found = w - hqq(w, bits=3, group_size=GROUP).dequantize()
        ratio.append(of_power(found, 0.7) / of_power(start, 0.7))
        squared.append(of_power(found, 2.0) / of_power(start, 2.0))
        tried = [hqq(w, bits=3, group_size=GROUP, beta=float(b)).dequantize() for b in betas]
        by_beta.append([of_power(w - new, 0.7) / of_power(start, 0.7) for new in tried])
    gains, seen = "HQQ lowers the mean |error|^0.7", "0.97 in a trial of normal weights"
    unit = "HQQ / nearest"
    run.claim(gains, ratio, at_most=0.99, each=True, unit=unit, seen_before=seen)
    stiff = [row[-1] for row in by_beta]
    run.falsifier("β so large that all is called sparse", stiff, breaks=gains)
    run.metric("squared error, HQQ / nearest", float(np.mean(squared)))
    with run.figure("beta", "Between which β does HQQ work? It is not relative") as axes:
        labels = {"xlabel": "β (weights of standard deviation 0.04)", "xscale": "log"}
        labels |= {"ylabel": "mean |error|^0.7, HQQ / nearest, 3 bits"}
        levels = {"rounded to nearest": 1.0}
        lines = {"HQQ": by_beta}
        plots.curves(axes, betas, lines, reference=levels, marker="o", **labels)


def of_power(error: Tensor, p: float) -> float:
    """Mean of |error|^p."""
    return error.abs().pow(p).mean().item()


def judge_language_model(run: Run) -> None:
    """Loss on WikiText-2 of a real model, 3 and 4 bits, paired by window."""
    n = run.budget(quick=(1, 4), default=(1, 12), full=(1, 64))
    methods, gains = {}, {}
    for bits in (3, 4):
        group = {"bits": bits, "group_size": run.budget(quick=32, default=GROUP)}
        methods[f"nearest, {bits} bits"] = functools.partial(round_block, **group)
        methods[f"HQQ, {bits} bits"] = functools.partial(hqq_block, **group)
        gains[f"HQQ loses less than nearest, {bits} bits"] = tuple(methods)[-2:]
    judge_on_text(run, n, methods, gains)
