r"""Do weights kept in half precision stall, and do a master copy and loss scaling save them?

Half precision loses an update $\eta g$ twice: the gradient is zero if $|g| < 2^{-25}$, and the
weight stays where it was if

$$ |\eta g| < \tfrac12 \operatorname{spacing}(w) \approx 2^{-11} |w| \ \text{to}\ 2^{-12} |w| . $$

Arms: float32; fp16 for everything; fp16 with a float32 master copy; that with a loss scale of 2¹⁰,
and with a dynamic one; the falsifier, bf16 for everything, has float32's range and fewer digits.
All at the same learning rates. What counts as reproduced stands in the front matter of README.md
and is read from there. Reduced: a language model of one hidden layer over characters, plain
gradient descent, storage emulated exactly, sums in float32.

    uv run papers/2018-mixed-precision-training/reproduce.py

Micikevicius et al., "Mixed Precision Training" (ICLR 2018), sections 3.1 and 3.2, figure 2.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from jaxtyping import Float32, Int64
from torch import Tensor

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run, cli
from week14.ngram import encode_characters
from week16.mixed_precision import (
    FP16,
    LossScaler,
    Policy,
    gradients,
    round_to,
    stored,
    train,
)

README = Path(__file__).with_name("README.md")
CONTEXT, WIDTH = 8, 64
ARMS = {
    "fp32": Policy(torch.float32),
    "fp16": Policy(torch.float16, "plain"),
    "fp16 + master": Policy(torch.float16),
    "+ scale 2¹⁰": Policy(torch.float16, "master", 2.0**10),
    "+ dynamic scale": Policy(torch.float16, "master", 2.0**16, True),
    "bf16": Policy(torch.bfloat16, "plain"),
}


def front_matter(readme: str) -> dict:
    """The YAML between the first two lines of three dashes."""
    parts = readme.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("readme must start with front matter between two lines '---', got none")
    return yaml.safe_load(parts[1])


def judge(pairs: np.ndarray, *, least: float = -math.inf, most: float = math.inf) -> str:
    """`reproduced` if every pair and so the mean lies within, `partly` if the mean alone does."""
    if np.asarray(pairs).size < 2:
        raise ValueError(f"pairs must be at least 2, got {np.asarray(pairs).size}")
    if bool(np.all(pairs >= least) and np.all(pairs <= most)):
        return "reproduced"
    return "partly" if least <= np.mean(pairs) <= most else "not reproduced"


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
    return [torch.randn(seeds, vocab, d, generator=g),
            torch.randn(seeds, CONTEXT * d, WIDTH, generator=g) * (CONTEXT * d) ** -0.5,
            torch.zeros(seeds, 1, WIDTH),
            torch.randn(seeds, WIDTH, vocab, generator=g) * WIDTH**-0.5,
            torch.zeros(seeds, 1, vocab)]  # fmt: skip


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
    run.check("rounding, NumPy", ours, bits.astype(np.float16).astype(np.float64),
              against="numpy.float16", why="exact")  # fmt: skip
    run.check("rounding, torch", ours, torch.from_numpy(bits.copy()).half().double(),
              against="torch.half", why="exact")  # fmt: skip
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
    run.check("loss scale with injected infinities", *scales, against="torch.amp.GradScaler",
              why="powers of two are exact")  # fmt: skip


def main(run: Run, *, steps: PositiveInt = 300, seeds: PositiveInt = 3) -> None:
    """Train every arm at every learning rate and judge by the front matter's rules.

    Parameters
    ----------
    steps
        Steps of each run.
    seeds
        Paired runs; 3 give a direction only.
    """
    paper = front_matter(README.read_text(encoding="utf-8"))
    rules = {rule["name"]: rule for rule in paper["rules"]}
    steps = run.budget(quick=min(steps, 40), default=steps, full=8 * steps)
    seeds = run.budget(quick=2, default=seeds, full=max(8, seeds))
    check(run)
    ids, alphabet = encode_characters(datasets.pydocs_text()[:100_000])
    tokens = torch.as_tensor(np.asarray(ids), dtype=torch.int64)
    held, tokens = tokens[-10_000:], tokens[:-10_000]
    test = next(batches(held, seeds, 1, run.seed + 99, 1000))
    rates = [float(rate) for rate in paper["learning_rates"]]
    final, swallowed, lost = {}, {}, {}
    for arm, policy in run.progress(ARMS.items(), "arms"):
        for rate in rates:
            trace = train(lm_loss, start(seeds, len(alphabet), run.seed),
                          batches(tokens, seeds, steps, run.seed), policy, lr=rate)  # fmt: skip
            with torch.no_grad():
                final[arm, rate] = lm_loss(trace.weights, test, torch.float32).numpy()
            swallowed[arm, rate] = trace.swallowed[-max(1, steps // 5) :].mean(0).numpy()
            lost[arm, rate] = lost_share(trace.weights, test, policy, float(trace.scale[-1, 0]))
    means = {arm: {rate: float(final[arm, rate].mean()) for rate in rates} for arm in ARMS}
    best, inside = best_rate(means["fp32"])
    small = float(paper["small_learning_rate"])
    gap = {(arm, rate): final[arm, rate] - final["fp32", rate] for arm in ARMS for rate in rates}
    run.metric("best learning rate of fp32", best, rtol=None)
    run.metric("noise floor: standard deviation of fp32 over seeds",
               final["fp32", best].std(ddof=1), "nats", rtol=None)  # fmt: skip
    for arm in ARMS:
        run.metric(f"{arm}, loss at its best rate", means[arm][best_rate(means[arm])[0]], "nats")
        run.metric(f"{arm}, loss at the small rate", means[arm][small], "nats")
        run.metric(f"{arm}, zeroed gradients", 100 * lost[arm, best].mean(), "%", rtol=0.3)
        run.metric(f"{arm}, swallowed updates at the best rate",
                   100 * swallowed[arm, best].mean(), "%", rtol=0.3)  # fmt: skip
    edge = "" if inside else "; fp32's best rate is at the grid's edge"
    worse = {rate: mean_interval(gap["fp16", rate]) for rate in (small, best)}
    for name, rate in (("half-precision weights stall, small rate", small),
                       ("half-precision weights stall, tuned rate", best)):  # fmt: skip
        verdict = judge(gap["fp16", rate], least=rules[name]["least"])
        run.verdict(name, verdict if inside or rate == small else "inconclusive",
                    f"fp16 minus fp32 at {rate:g}: {worse[rate]} nats, asked for at least "
                    f"{rules[name]['least']}{edge}")  # fmt: skip
    rule = rules["a master copy and scaling are enough"]
    both = np.concatenate([np.abs(gap["+ scale 2¹⁰", rate]) for rate in (small, best)])
    run.verdict(rule["name"], judge(both, most=rule["most"]),
                f"largest distance from fp32, at both rates: {both.max():.4f} nats, at most "
                f"{rule['most']} allowed")  # fmt: skip
    rule = rules["scaling saves the gradients"]
    before, after = lost["fp16 + master", best], lost["+ scale 2¹⁰", best]
    least = before / np.maximum(after, 1e-9)
    run.verdict(rule["name"], judge(np.where(before > 0, least, 0.0), least=rule["least"]),
                f"zeroed: {100 * before.mean():.2f} % without, {100 * after.mean():.3f} % with a "
                f"scale of 2¹⁰")  # fmt: skip
    run.claim("bf16 loses no gradients to underflow and swallows updates all the same",
              bool((lost["bf16", best] < paper["falsifier"]["most_zeroed"]).all()
                   and (swallowed["bf16", best] > swallowed["fp16", best]).all()),
              f"zeroed {100 * lost['bf16', best].mean():.3f} %; swallowed "
              f"{100 * swallowed['bf16', best].mean():.0f} % against fp16's "
              f"{100 * swallowed['fp16', best].mean():.0f} %", quick=False)  # fmt: skip
    _figure(run, paper, rates, gap, lost, best)


def _figure(run: Run, paper: dict, rates, gap: dict, lost: dict, best: float) -> None:
    with run.figure("arms", "Do half-precision weights stall at small steps?",
                    columns=2, size=(9.6, 4.2)) as (left, right):  # fmt: skip
        for arm, color in (("fp16", plots.ORANGE), ("bf16", plots.PINK),
                           ("+ scale 2¹⁰", plots.BLUE)):  # fmt: skip
            drawn = rates[:-1]  # at the largest every arm comes to grief, and hides the others
            pairs = np.array([gap[arm, rate] for rate in drawn])
            left.vlines(drawn, pairs.min(1), pairs.max(1), color=color, lw=4, alpha=0.3)
            label = "master\n+ scale 2¹⁰" if arm[0] == "+" else arm
            left.plot(drawn, pairs.mean(1), "o-", color=color, label=label)
        left.axhline(0, color=plots.REFERENCE, ls="--", lw=1)
        left.set(xscale="log", xlabel="learning rate", ylabel="loss above fp32's, nats")
        left.set_title("Unseen text; bars: range of seeds", fontsize=10.5, weight="normal")
        plots.label_lines(left, fontsize=9.5)
        bars = [("the paper:\nspeech, fig. 2b", paper["paper_zeroed"], plots.GRAY)]
        for arm, name, color in (("fp16 + master", "here:\nscale 1", plots.ORANGE),
                                 ("+ scale 2¹⁰", "here:\nscale 2¹⁰", plots.BLUE)):  # fmt: skip
            bars.append((name, 100 * lost[arm, best].mean(), color))
        right.bar(range(3), [b[1] for b in bars], color=[b[2] for b in bars], width=0.6)
        right.set_xticks(range(3), [b[0] for b in bars], fontsize=9)
        for i, (_, value, _) in enumerate(bars):
            right.annotate(f"{value:.2g} %", (i, value), (0, 4), textcoords="offset points",
                           ha="center", weight="bold")  # fmt: skip
        right.margins(y=0.15)
        right.grid(axis="x", visible=False)
        right.set(ylabel="weight gradients that fp16 zeroes, %")
        right.set_title("5 %: read in the text, § 3.1", fontsize=10.5, weight="normal")


if __name__ == "__main__":
    cli(main)
