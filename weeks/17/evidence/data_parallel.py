"""Data parallel training against DDP and one process; what a mean of means does; bytes; overlap."""

import torch

from shared import plots
from shared.study import PositiveInt, Run
from week17.collectives import wire_bytes
from week17.evidence import data_parallel_worker as work
from week17.evidence.ranks import prepare, worst
from week17.processes import launch


def main(run: Run, *, steps: PositiveInt = 20, seeds: PositiveInt = 5) -> None:
    """Train on ragged texts in groups of 1, 2, … processes, and wrongly too.

    Parameters
    ----------
    steps
        AdamW steps.
    seeds
        Models and texts for the mean of means.
    """
    most = prepare(run)
    steps, seeds = run.budget(quick=2, default=steps), run.budget(quick=2, default=max(2, seeds))
    answers = launch(work.train, most, steps, run.seed)
    check_training(run, answers, work.alone(steps, run.seed), most)
    forks = launch(work.fork, most, run.seed)
    for n in range(1, most + 1):
        name = "gradient where processes take other branches"
        one = forks[0][f"{n} one process"]
        run.check(
            f"{name}, n = {n}",
            worst(forks, f"{n} ours", one),
            one,
            atol=1e-12,
            against="torch, one process",
            why="float64 rounding",
        )
    judge_overlap(run, answers, most)
    if most > 1:
        judge_mean_of_means(run, most, steps, seeds)


def check_training(run: Run, answers, truth, most: int) -> None:
    """Losses and weights after all steps, of the process that is farthest off."""
    why = "float64 rounding, through AdamW steps"
    for n in range(1, most + 1):
        for size, cut in ((12, "one micro-batch"), (2, "accumulated")):
            for key in ("losses", "weights"):
                name, tail = f"{key}, n = {n}, {cut}", f"{n} {size}"
                ours = worst(answers, f"{tail} ours {key}", truth[key])
                run.check(name, ours, truth[key], against="torch, one process", atol=1e-10, why=why)
                theirs = worst(answers, f"{tail} torch {key}", truth[key])
                run.check(f"{name}, DDP", ours, theirs, against="torch DDP", atol=1e-10, why=why)
    sent, formula = [], []
    for answer in answers:
        for n in range(1, most + 1):
            if f"{n} 2 ours sent" in answer:
                padded = [8 * (int(b) + -int(b) % n) for b in answer[f"{n} 2 ours buckets"]]
                two = 16 + 8 * (-2 % n)  # the loss and the tokens
                formula.append(sum(wire_bytes(n, b) for b in [*padded, two]))
                sent.append(int(answer[f"{n} 2 ours sent"]))
    exact = {"against": "2 (n - 1) / n · bytes of each bucket", "kind": "theorem"}
    run.check(
        "bytes sent in a step", torch.tensor(sent), torch.tensor(formula), why="counted", **exact
    )


def judge_overlap(run: Run, answers, most: int) -> None:
    """How many buckets leave while the backward pass still runs."""
    total = len(answers[0][f"{most} 2 ours buckets"])
    early = int(answers[0][f"{most} 2 ours early"])
    name = "buckets leave before the last gradient is there"
    run.claim(
        name, early / total, at_least=0.5, deterministic=True, note=f"{early} of {total} buckets"
    )
    run.falsifier("one bucket for all", 0.0, breaks=name, note="it is full with the last gradient")


def judge_mean_of_means(run: Run, most: int, steps: int, seeds: int) -> None:
    """How far the average of the processes' mean gradients is from the gradient."""
    seeds = [run.seed * 100 + s for s in range(seeds)]
    answer = launch(work.wrongly, most, steps, seeds)[0]
    gaps = {n: [float(answer[f"{n} {s} gaps"].mean()) for s in seeds] for n in range(1, most + 1)}
    name = "averaging the processes' means is another gradient"
    note = f"{most} processes"
    rule = {"at_least": 0.05, "seen_before": "one run"}
    run.claim(name, gaps[most], unit="of the gradient", note=note, **rule)
    truths = [work.alone(steps, s)["weights"] for s in seeds]
    right = [float((answer[f"{s} right"] - t).norm()) for s, t in zip(seeds, truths, strict=True)]
    run.falsifier("sums divided once", right, breaks=name, note="distance of the weights")
    for n in range(2, most + 1):
        run.metric(f"error of a mean of means, {n} processes", sum(gaps[n]) / len(gaps[n]))
    title = "How wrong is the average of the processes' mean gradients?"
    with run.figure("mean_of_means", title) as ax:
        sizes = list(gaps)
        lines = {"mean of means\n(lengths differ)": torch.tensor([gaps[n] for n in sizes]).T}
        labels = {"xlabel": "processes", "ylabel": "error, as a share of the gradient"}
        plots.curves(
            ax,
            sizes,
            lines,
            colors=(plots.ORANGE,),
            marker="o",
            reference={"sums divided once": 0.0},
            xticks=sizes,
            **labels,
        )
