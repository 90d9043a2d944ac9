r"""Do weights kept in half precision stall, and do a master copy and loss scaling save them?

Half precision loses an update $\eta g$ twice: the gradient is zero if $|g| < 2^{-25}$, and the
weight stays where it was if

$$ |\eta g| < \tfrac12 \operatorname{spacing}(w) \approx 2^{-11} |w| \ \text{to}\ 2^{-12} |w| . $$

Arms: float32; fp16 for everything; fp16 with a float32 master copy; that with a loss scale of 2¹⁰,
and with a dynamic one; the falsifier, bf16 for everything, has float32's range and fewer digits.
All at the same learning rates. The rules stand in the front matter of README.md. Reduced: a
language model of one hidden layer over characters, plain gradient descent, storage emulated
exactly, sums in float32.

    uv run papers/2018-mixed-precision-training/reproduce.py

Micikevicius et al., "Mixed Precision Training" (ICLR 2018), sections 3.1 and 3.2, figure 2.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from torch import Tensor

from shared import datasets, papers, plots
from shared.study import PositiveInt, Run, cli
from week14.ngram import encode_characters
from week16.float_formats import FP16, round_to
from week16.loss_scaling import LossScaler
from week16.mixed_precision import Policy, gradients, stored, train

CONTEXT, WIDTH = 8, 64
ARMS = {
    "fp32": Policy(torch.float32),
    "fp16": Policy(torch.float16, "plain"),
    "fp16 + master": Policy(torch.float16),
    "+ scale 2¹⁰": Policy(torch.float16, "master", 2.0**10),
    "+ dynamic scale": Policy(torch.float16, "master", 2.0**16, True),
    "bf16": Policy(torch.bfloat16, "plain"),
}


def best_rate(losses: dict[float, float]) -> tuple[float, bool]:
    """The rate of the lowest loss, and whether it lies inside the grid."""
    rates = sorted(losses)
    best = min(rates, key=lambda rate: (not math.isfinite(losses[rate]), losses[rate]))
    return best, best not in (rates[0], rates[-1])


def lm_loss(
    weights: list[Float32[Tensor, "seed _ _"]],
    batch: tuple[Int64[Tensor, "seed batch context"], Int64[Tensor, "seed batch"]],
    dtype: torch.dtype,
) -> Float32[Tensor, " seed"]:
    """Surprise in nats of the next character: embeddings, one hidden layer with tanh, softmax."""
    table, w1, b1, w2, b2 = weights
    tokens, y = batch
    seeds, n, _ = tokens.shape
    x = table[torch.arange(seeds)[:, None, None], tokens].reshape(seeds, n, -1)
    h = stored(torch.baddbmm(b1, stored(x, dtype), w1), dtype)
    h = stored(torch.baddbmm(b2, stored(h.tanh(), dtype), w2), dtype)
    return F.cross_entropy(h.transpose(1, 2), y, reduction="none").mean(dim=1)


def start(seeds: int, vocab: int, seed: int) -> list[Float32[Tensor, "seed _ _"]]:
    """Normal weights over the root of the fan-in; biases zero."""
    g = torch.Generator().manual_seed(seed)
    d = 12
    return [
        torch.randn(seeds, vocab, d, generator=g),
        torch.randn(seeds, CONTEXT * d, WIDTH, generator=g) * (CONTEXT * d) ** -0.5,
        torch.zeros(seeds, 1, WIDTH),
        torch.randn(seeds, WIDTH, vocab, generator=g) * WIDTH**-0.5,
        torch.zeros(seeds, 1, vocab),
    ]


def batches(tokens: Int64[Tensor, " n"], seeds: int, steps: int, seed: int, size: int = 32):
    """Random windows, the same for every arm, others for each seed."""
    g = torch.Generator().manual_seed(seed)
    windows = tokens.unfold(0, CONTEXT + 1, 1)
    for _ in range(steps):
        rows = windows[torch.randint(len(windows), (seeds, size), generator=g)]
        yield rows[..., :-1], rows[..., -1]


def lost_share(weights, batch, policy: Policy, scale: float) -> np.ndarray:
    """Of the gradients that are not zero in float32, the share that is zero in storage; by seed."""
    one = torch.ones(len(weights[0]), dtype=torch.float64)
    _, exact = gradients(lm_loss, weights, batch, torch.float32, one)
    _, got = gradients(lm_loss, weights, batch, policy.dtype, one * scale)
    lost = sum(((a != 0) & (b == 0)).flatten(1).sum(1) for a, b in zip(exact, got, strict=True))
    return (lost / sum((a != 0).flatten(1).sum(1) for a in exact)).numpy()


def check(run: Run) -> None:
    """Rounding against NumPy and torch; the loss scale against GradScaler."""
    bits = run.rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    bits = bits[np.isfinite(bits) & (np.abs(bits) < 65000)]
    ours = round_to(torch.from_numpy(bits.copy()), FP16)
    numpy_half, torch_half = bits.astype(np.float16), torch.from_numpy(bits.copy()).half()
    exact = {"why": "exact"}
    run.check("rounding, NumPy", ours, numpy_half.astype(float), against="numpy.float16", **exact)
    run.check("rounding, torch", ours, torch_half.double(), against="torch.half", **exact)
    scaler, theirs = LossScaler(growth_interval=3), torch.amp.GradScaler("cpu", growth_interval=3)
    scales = ([], [])
    for step in range(20):
        w = torch.nn.Parameter(torch.ones(1))
        sgd = torch.optim.SGD([w], lr=0.1)
        theirs.scale(w.sum() * (math.inf if step in (2, 9, 10) else 1)).backward()
        theirs.step(sgd)
        theirs.update()
        scaler.update(step in (2, 9, 10))
        scales[0].append(scaler.scale)
        scales[1].append(theirs.get_scale())
    name, against = "loss scale with injected infinities", "torch.amp.GradScaler"
    run.check(name, *scales, against=against, why="powers of two are exact")


def main(run: Run, *, steps: PositiveInt = 300, seeds: PositiveInt = 5) -> None:
    """Train every arm at every learning rate and judge by the front matter's rules.

    Parameters
    ----------
    steps
        Steps of each run.
    seeds
        Paired runs.
    """
    paper = papers.load(__file__)
    steps = run.budget(quick=min(steps, 10), default=steps, full=8 * steps)
    seeds = run.budget(quick=2, default=seeds, full=max(8, seeds))
    check(run)
    ids, alphabet = encode_characters(datasets.pydocs_text()[:100_000])
    tokens = torch.as_tensor(np.asarray(ids), dtype=torch.int64)
    held, tokens = tokens[-10_000:], tokens[:-10_000]
    test = next(batches(held, seeds, 1, run.seed + 99, 1000))
    rates = [float(rate) for rate in paper.matter["learning_rates"]]
    final, swallowed, lost = {}, {}, {}
    for arm, policy in run.progress(ARMS.items(), "arms"):
        for rate in rates:
            begin = start(seeds, len(alphabet), run.seed)
            stream = batches(tokens, seeds, steps, run.seed)
            trace = train(lm_loss, begin, stream, policy, lr=rate)
            with torch.no_grad():
                final[arm, rate] = lm_loss(trace.weights, test, torch.float32).numpy()
            swallowed[arm, rate] = trace.swallowed[-max(1, steps // 5) :].mean(0).numpy()
            lost[arm, rate] = lost_share(trace.weights, test, policy, float(trace.scale[-1, 0]))
    best, inside = best_rate({rate: float(final["fp32", rate].mean()) for rate in rates})
    small = float(paper.matter["small_learning_rate"])
    gap = {(arm, rate): final[arm, rate] - final["fp32", rate] for arm in ARMS for rate in rates}
    late = {"quick": False, "note": f"rate {best:g}{'' if inside else ', the edge of the grid'}"}
    paper.judge(run, "half-precision weights stall, small rate", gap["fp16", small], quick=False)
    paper.judge(run, "half-precision weights stall, tuned rate", gap["fp16", best], **late)
    apart = np.maximum(*(np.abs(gap["+ scale 2¹⁰", rate]) for rate in (small, best)))
    paper.judge(run, "a master copy and scaling are enough", apart, quick=False)
    saved = 100 * (lost["fp16 + master", best] - lost["+ scale 2¹⁰", best])
    note = f"{100 * lost['+ scale 2¹⁰', best].mean():.3f} % left with the scale"
    paper.judge(run, "scaling saves the gradients", saved, quick=False, note=note)
    # the falsifier: bf16 has float32's range, and so its gradients, but fewer digits
    percent = {"unit": "%", "quick": False}
    zeroed = 100 * lost["bf16", best]
    more = 100 * (swallowed["bf16", best] - swallowed["fp16", best])
    run.claim("bf16 zeroes no gradients", zeroed, at_most=0.1, **percent)
    run.claim("bf16 swallows more updates than fp16", more, at_least=0, **percent)
    _figure(run, paper, rates, gap, lost, best)


def _figure(run: Run, paper: papers.Paper, rates, gap: dict, lost: dict, best: float) -> None:
    title, layout = "Do half-precision weights stall at small steps?", {"columns": 2}
    with run.figure("arms", title, size=(9.6, 4.2), **layout) as (left, right):
        drawn = rates[:-1]  # at the largest every arm comes to grief, and hides the others
        names = {"fp16": "fp16", "bf16": "bf16", "+ scale 2¹⁰": "master\n+ scale 2¹⁰"}
        lines = {n: np.array([gap[arm, rate] for rate in drawn]).T for arm, n in names.items()}
        colors = (plots.ORANGE, plots.PINK, plots.BLUE)
        labels = {"xscale": "log", "xlabel": "learning rate"}
        labels["ylabel"] = "loss above fp32's on unseen text, nats\n(mean, range of seeds)"
        plots.curves(left, drawn, lines, colors=colors, marker="o", **labels)
        rows = {"the paper:\nspeech, fig. 2b": paper.matter["paper_zeroed"]}
        for name, arm in (("1", "fp16 + master"), ("2¹⁰", "+ scale 2¹⁰")):
            share = 100 * lost[arm, best]
            rows[f"here:\nscale {name},\n{share.mean():.2g} %"] = share
        inks = (plots.GRAY, plots.ORANGE, plots.BLUE)
        plots.bars(right, rows, colors=inks, xlabel="weight gradients that fp16 zeroes, %")


if __name__ == "__main__":
    cli(main)
