r"""Does a small net learn more from a large one's softened answers than from the labels?

$$ L = T^2\, \mathrm{KL}(\mathrm{softmax}(v/T) \,\|\, \mathrm{softmax}(z/T)) $$

Reduced: 8×8 digits, students of two layers of 12 units, a teacher of two of 256 (the paper: MNIST,
800 and 1200). The rules stand in the front matter of README.md.

    uv run papers/2015-distillation/reproduce.py

Hinton, Vinyals and Dean (2015), "Distilling the knowledge in a neural network", sections 2 and 3.
"""

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from shared import papers, plots
from shared.stats import Interval
from shared.study import PositiveInt, Run, cli
from week27.digit_students import (
    Copies,
    Split,
    mixed_answers,
    new_net,
    new_teacher,
    right,
    split,
    train,
)
from week27.distillation import smoothing_loss, soft_loss

UNSEEN = 3


LEARNED_FROM = ("labels", "smoothed", "soft", "mixed")


def students(
    data: Split, teacher: nn.Module, matter: dict, seed: int, steps: int
) -> tuple[Copies, nn.Module]:
    """Small nets of the same first weights: by what they learn from; and without threes."""
    v, t = teacher(data.x), matter["temperature"]
    mixed = mixed_answers(v, torch.Generator().manual_seed(seed))
    g = torch.Generator().manual_seed(2000 + seed)
    without_threes = new_net(matter["width"], g)
    taught = Copies(without_threes, len(LEARNED_FROM))

    def loss(z: Tensor, i: Tensor) -> Tensor:
        hard = F.cross_entropy(z[0], data.y[i])
        hard = hard + smoothing_loss(z[1], data.y[i], smoothing=matter["smoothing"])
        soft = [soft_loss(z[k], target[i], temperature=t) for k, target in ((2, v), (3, mixed))]
        return hard + sum(soft)

    train(taught, data, loss, steps=steps, generator=g)
    seen = data.y != UNSEEN
    part, v_part = data._replace(x=data.x[seen], y=data.y[seen]), v[seen]
    soft = lambda z, i: soft_loss(z, v_part[i], temperature=t)  # noqa: E731
    train(without_threes, part, soft, steps=steps, generator=g)
    return taught, without_threes


@torch.no_grad()
def unseen_right(net: nn.Module, data: Split) -> tuple[float, float]:
    """Shares of unseen threes that are right: as it is, and with one bias raised.

    The bias that gives the fewest errors on one half of the rows is judged on the other.
    """
    logits, y = net(data.x_test), data.y_test
    half = len(y) // 2
    raised = torch.arange(0, 20, 0.25)
    shifted = logits[:half, None].expand(-1, len(raised), -1).clone()
    shifted[..., UNSEEN] += raised
    best = raised[(shifted.argmax(-1) == y[:half, None]).double().mean(0).argmax()]
    logits, y = logits[half:].clone(), y[half:]
    before = (logits.argmax(1) == y)[y == UNSEEN].double().mean()
    logits[:, UNSEEN] += best
    after = (logits.argmax(1) == y)[y == UNSEEN].double().mean()
    return 100 * before.item(), 100 * after.item()


def share_closed(wrong: dict[str, np.ndarray], rng: np.random.Generator) -> Interval:
    """Share of the gap between labels and teacher, all splits together; interval by resampling."""
    n = len(wrong["labels"])

    def share(i: np.ndarray) -> float:
        labels, soft, teacher = (wrong[k][i].sum() for k in ("labels", "soft", "teacher"))
        return float((labels - soft) / (labels - teacher))

    drawn = [share(rng.integers(n, size=n)) for _ in range(2000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(share(np.arange(n)), float(low), float(high), n)


def main(run: Run, *, seeds: PositiveInt = 5) -> None:
    """Teach students, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Splits of the digits, each with a teacher of its own.
    """
    from scipy.stats import binomtest

    paper = papers.load(__file__)
    matter = paper.matter
    run.rounding(0.05, "float32 sums in another order, over some hundred steps")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=(20, 30), default=(800, matter["steps"]))
    correct: dict[str, list] = {}
    threes, significant = [], 0
    with threadpool_limits(1):  # products this small are slower on several threads
        for seed in run.progress(range(run.seed, run.seed + seeds), "splits"):
            data = split(50 + seed, matter["rows"])  # apart from the splits of week 27
            teacher = new_teacher(data, seed, steps=steps[0])
            taught, without_threes = students(data, teacher, matter, seed, steps[1])
            correct.setdefault("teacher", []).append(right(teacher, data).numpy())
            for name, row in zip(LEARNED_FROM, right(taught, data).numpy(), strict=True):
                correct.setdefault(name, []).append(row)
            threes.append(unseen_right(without_threes, data))
            a, b = correct["soft"][-1], correct["labels"][-1]
            gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
            significant += binomtest(gained, max(1, gained + lost)).pvalue < 0.05
    wrong = {name: np.array([(~row).sum() for row in rows]) for name, rows in correct.items()}
    percent = {name: 100 * counts / len(data.y_test) for name, counts in wrong.items()}
    late = {"quick": False, "rtol": None}
    paper.judge(run, "soft targets close a third of the gap", share_closed(wrong, run.rng), **late)
    gain = percent["smoothed"] - percent["soft"]
    paper.judge(run, "they beat smoothed labels", gain, **late)
    spoiled = percent["smoothed"] - percent["mixed"]
    run.falsifier("wrong answers mixed", spoiled, breaks="they beat smoothed labels")
    as_it_is, raised = zip(*threes, strict=True)
    paper.judge(run, "a class that it has not seen", raised, **late)
    run.metric("unseen threes right, as it is", np.mean(as_it_is), "%", rtol=None)
    for name in ("teacher", "labels", "smoothed", "soft", "mixed"):
        run.metric(f"errors: {name}", percent[name].mean(), "%", rtol=None)
    run.metric("splits with p below 0.05", significant, rtol=None)
    run.metric("splits", seeds, rtol=0)
    title = "How many errors do soft targets save a small net?"
    with run.figure("errors", title, columns=2, size=(9.6, 3.8)) as (left, theirs):
        plots.bars(left, matter["paper_errors"], xlabel="test errors of 10,000, MNIST\n(the paper)")
        names = {"labels alone": "labels", "smoothed labels": "smoothed", "soft, mixed": "mixed"}
        names |= {f"soft targets, T = {matter['temperature']:g}": "soft", "the teacher": "teacher"}
        shown = {text: percent[name] for text, name in names.items()}
        plots.bars(theirs, shown, xlabel=f"test errors (%), 8×8 digits, {seeds} splits")


def check(run: Run) -> None:
    """The loss by torch, and its gradient's limit."""
    z, v = (torch.randn(6, 10, generator=run.generator(i), dtype=torch.double) for i in range(2))
    z.requires_grad_()
    ours = soft_loss(z, v, temperature=20.0)
    log_q, p = (z / 20).log_softmax(-1), (v / 20).softmax(-1)
    theirs = 400 * F.kl_div(log_q, p, reduction="batchmean")
    why = {"against": "torch's kl_div", "rtol": 1e-9, "why": "float64 rounding"}
    run.check("soft loss at T = 20", ours, theirs, **why)
    (grad,) = torch.autograd.grad(soft_loss(z, v, temperature=1000.0), z)
    z, v = (x.detach() - x.detach().mean(-1, keepdim=True) for x in (z, v))
    why = {"kind": "theorem", "against": "(z - v) / N per row", "why": "terms of order 1/T"}
    run.check("gradient at T = 1000", grad, (z - v) / 60, atol=1e-3 / 6, **why)


if __name__ == "__main__":
    cli(main)
