"""FSDP2 against one process and our stage 3: losses, weights, and what is sent when."""

import torch

from shared import plots
from shared.study import PositiveInt, Run
from week17.evidence import zero_worker as work
from week17.evidence.ranks import prepare, worst
from week17.fsdp import expected_schedule, peak_parameters
from week17.processes import launch
from week17.zero_measures import stack

ARMS = ("fsdp", "fsdp, accumulated", "fsdp, kept")
COLORS = {"G": plots.BLUE, "S": plots.ORANGE}


def main(run: Run, *, steps: PositiveInt = 20) -> None:
    """Train a stack of blocks with FSDP2 and with our stage 3, and record both schedules.

    Parameters
    ----------
    steps
        AdamW steps, clipped, with decay of the matrices only.
    """
    most, steps = prepare(run), run.budget(quick=2, default=steps)
    answers, truth = (
        launch(work.train, most, steps, run.seed, ("fsdp",)),
        work.alone(steps, run.seed),
    )
    same = run.against(
        "torch AdamW, one process", atol=1e-10, why="float64 rounding, through AdamW"
    )
    for n in range(1, most + 1):
        for arm in ARMS:
            for key in ("losses", "weights"):
                same(
                    f"{key}, n = {n}, {arm}",
                    worst(answers, f"{n} {arm} {key}", truth[key]),
                    truth[key],
                )
        run.check(
            f"weights, n = {n}, ours",
            worst(answers, f"{n} ours weights", truth["weights"]),
            worst(answers, f"{n} fsdp weights", truth["weights"]),
            atol=1e-10,
            against="torch FSDP2",
            why="float64 rounding, through AdamW",
        )
    if most > 1:
        compare_schedules(run, answers, most)


def compare_schedules(run: Run, answers, n: int) -> None:
    """Which collectives are called in which order, and what they move."""
    depth = len(stack(run.seed)) - 2
    exact = {"why": "an order is equal or not"}
    found = {}
    for arm, kept in (("fsdp", False), ("fsdp, kept", True)):
        found[arm] = answers[0][f"{n} {arm} schedule"]
        expected = torch.tensor([ord(e) for e in expected_schedule(depth, keep_gathered=kept)])
        run.check(
            f"schedule of {arm}",
            found[arm],
            expected,
            against="the formula",
            kind="theorem",
            **exact,
        )
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in stack(run.seed)]
    peak = torch.tensor(8 * peak_parameters(sizes, n))
    run.check(
        "most bytes of parameters at a time, ours",
        answers[0][f"{n} ours most"],
        peak,
        kind="theorem",
        against="shards and the largest unit",
        why="bytes are counted",
    )
    sent = {arm: int(answers[0][f"{n} {arm} sent"]) for arm in ("fsdp", "fsdp, kept", "ours")}
    name = "forgetting the blocks costs a second gather"
    run.claim(
        name,
        sent["fsdp"] / sent["fsdp, kept"],
        at_least=1.2,
        at_most=1.5,
        deterministic=True,
        unit="times the bytes",
        note=f"{n} processes; embedding and output stay whole",
        seen_before="one run",
    )
    run.falsifier("blocks are kept whole", 1.0, breaks=name)
    run.metric("bytes sent, ours / FSDP2", sent["ours"] / sent["fsdp"])
    ours = answers[0][f"{n} ours schedule"]
    rows = {"FSDP2": found["fsdp"], "FSDP2, blocks kept": found["fsdp, kept"], "our stage 3": ours}
    title = "What is gathered (G) and reduce-scattered (S), and in which order?"
    with run.figure("schedule", title, size=(8.6, 3.0)) as ax:
        for y, events in enumerate(rows.values()):
            letters = "".join(map(chr, events.tolist())).split("|")
            for start, part in zip((0, 6), letters, strict=True):
                for x, letter in enumerate(part, start):
                    box = {"boxstyle": "round", "fc": COLORS[letter], "ec": "none"}
                    ax.text(
                        x,
                        y,
                        letter,
                        color="white",
                        ha="center",
                        va="center",
                        weight="bold",
                        bbox=box,
                    )
        ax.axvline(5.25, color=plots.REFERENCE, linestyle="--", lw=1)
        ax.set(
            xlim=(-0.7, 16),
            ylim=(2.6, -0.6),
            xlabel="order of the calls; left of the line forward, right backward",
        )
        ax.set_yticks(range(len(rows)), list(rows))
        ax.set_xticks([])
        ax.grid(False)
