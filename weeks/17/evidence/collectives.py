"""Our collectives against torch's; bytes against the formula; latency and bandwidth measured."""

import numpy as np
import torch

from shared import plots
from shared.study import PositiveInt, Run, UserError
from week17.collectives import AlphaBeta, wire_bytes
from week17.evidence import collectives_worker as work
from week17.evidence.ranks import prepare
from week17.processes import launch, under_torchrun

MOVES = ("all_gather", "broadcast", "all_to_all")


def main(run: Run, *, repeats: PositiveInt = 20) -> None:
    """Compare with torch's collectives, count bytes, and fit the cost model.

    Parameters
    ----------
    repeats
        Measurements per message size, of which the least counts.
    """
    most = prepare(run)
    lengths = run.budget(quick=(1, 7), default=(1, 7, 12, 1001))
    answers = launch(work.compare, most, lengths)
    names = [key.removeprefix("sent ") for key in answers[0] if key.startswith("sent ")]
    names.sort(key=lambda x: [*map(int, x.split()[:2]), x])  # files of tensors have no order
    check_results(run, answers, names)
    bytes_against_formula(run, answers, names)
    if not under_torchrun():
        show_deadlock(run)
        time_messages(run, most, run.budget(quick=2, default=repeats))


def stacked(answers, arm: str, names: list[str]) -> torch.Tensor:
    """All processes' results of these comparisons in one row."""
    return torch.cat(
        [a[f"{arm} {x}"].flatten() for x in names for a in answers if f"{arm} {x}" in a]
    )


def check_results(run: Run, answers, names: list[str]) -> None:
    """What moves numbers is equal; what adds floats is equal in the ring's order."""
    floats = [x for x in names if x.endswith("float64")]
    whole = [x for x in names if x.endswith("int64")]
    same = run.against("torch.distributed", why="nothing is rounded")
    for move in MOVES:
        ours, theirs = (stacked(answers, f"{move} {arm}", names) for arm in ("ours", "torch"))
        same(move, ours, theirs)
    near = run.against("torch.distributed", atol=4e-15, why="four numbers, added in another order")
    for add, theirs in (
        ("all_reduce", "all_reduce"),
        ("tree", "all_reduce"),
        ("reduce_scatter",) * 2,
    ):
        pairs = [
            (stacked(answers, f"{add} ours", k), stacked(answers, f"{theirs} torch", k))
            for k in (whole, floats)
        ]
        same(f"{add}, whole numbers", *pairs[0])
        near(f"{add}, float64", *pairs[1])
    pair = [x for x in floats if x.startswith("2 ")]
    if pair:
        same(
            "all_reduce of two, float64, bit for bit",
            stacked(answers, "all_reduce ours", pair),
            stacked(answers, "all_reduce torch", pair),
        )
    order = {
        "against": "sum from neighbor to neighbor",
        "kind": "theorem",
        "why": "the same order of additions",
    }
    run.check(
        "all_reduce, bit for bit in the ring's order",
        stacked(answers, "all_reduce ours", floats),
        stacked(answers, "all_reduce order", floats),
        **order,
    )


def bytes_against_formula(run: Run, answers, names: list[str]) -> None:
    """Counted on every send; a vector is padded so that n divides it."""
    sent, formula = [], []
    for name in names:
        n, length = map(int, name.split()[:2])
        for answer in answers:
            if f"sent {name}" in answer:
                sent.append(int(answer[f"sent {name}"]))
                formula.append(wire_bytes(n, 8 * (length + -length % n)))
    exact = {"against": "2 (n - 1) / n · bytes", "kind": "theorem", "why": "bytes are counted"}
    run.check("bytes sent by each process", np.array(sent), np.array(formula), **exact)
    n = len(answers)
    name, rule = "a ring sends less than two vectors", {"at_most": 2.0, "deterministic": True}
    run.claim(
        name,
        sent[-1] / (formula[-1] * n / (2 * (n - 1))),
        unit="vectors",
        note=f"{n} processes",
        **rule,
    )
    if n > 3:
        run.falsifier("everybody sends to everybody", n - 1, breaks=name)


def show_deadlock(run: Run) -> None:
    """Three processes in a circle that all send before they receive: a failure on display."""
    answered = []
    for worker in (work.send_and_receive, work.send_first):
        try:
            answered.append(len(launch(worker, 3, 1000, timeout=6.0)))
        except UserError as error:
            run.say(f"{worker.__name__}: {error}")
            answered.append(0)
    name = "in a circle of 3 all answer"
    run.claim(name, answered[0], at_least=3, deterministic=True, unit="processes")
    run.falsifier("all send first and receive then", answered[1], breaks=name)


def time_messages(run: Run, n: int, repeats: int) -> None:
    """The line through every other size, judged on the sizes between."""
    sizes = run.budget(quick=[2**k for k in range(10, 16)], default=[2**k for k in range(10, 22)])
    answer = launch(work.clock, n, tuple(sizes), repeats)[0]
    m, models = np.array(sizes), {}
    for name, rounds, share in (
        ("ring", 2 * (n - 1), 1 / n),
        ("tree", 2 * int(np.ceil(np.log2(n))), 1.0),
    ):
        t = answer[name].numpy()
        # Of the model's time: rounds · (alpha + beta · share · m).
        fitted = AlphaBeta.fit(m[::2] * share, t[::2] / rounds)
        models[name] = rounds * (fitted.alpha + fitted.beta * share * m), fitted
        errors = np.abs(np.log2(models[name][0][1::2] / t[1::2]))
        run.claim(
            f"a line predicts the {name}'s time",
            errors,
            at_most=0.5,
            rtol=None,
            quick=False,
            unit="doublings off",
            note="message sizes left out of the fit",
        )
        run.metric(f"{name}: latency per message", fitted.alpha * 1e6, "µs", rtol=None)
        if fitted.beta:
            run.metric(f"{name}: bandwidth", 1e-9 / fitted.beta, "GB/s", rtol=None)
    one = models["ring"][1]
    if one.beta:
        run.metric("crossover by the ring's own line", one.crossover(n) / 1e3, "kB", rtol=None)
    faster = answer["ring"].numpy() < answer["tree"].numpy()
    run.metric("sizes at which the ring was faster", faster.sum(), "of all", rtol=None)
    title = f"What does an all-reduce cost among {n} processes of one machine?"
    with run.figure("cost", title) as ax:
        for name, color in (("ring", plots.BLUE), ("tree", plots.ORANGE)):
            ax.plot(m[::2], answer[name][::2] * 1e3, "o", color=color)
            ax.plot(m[1::2], answer[name][1::2] * 1e3, "o", color=color, mfc="white")
        lines = {f"{name}: fitted line": models[name][0] * 1e3 for name in models}
        labels = {
            "xscale": "log",
            "yscale": "log",
            "xlabel": "bytes (open circles were not fitted)",
        }
        plots.curves(
            ax, m, lines, colors=(plots.BLUE, plots.ORANGE), ylabel="milliseconds", **labels
        )
