"""ZeRO's stages against one process and torch's; bytes and traffic against the formulas."""

import torch

from shared import plots
from shared.study import PositiveInt, Run
from week17.collectives import wire_bytes
from week17.evidence import zero_worker as work
from week17.evidence.ranks import prepare, worst
from week17.processes import launch
from week17.zero import formula, traffic
from week17.zero_measures import measure

STAGES = [f"stage {s}" for s in range(4)]


def main(run: Run, *, steps: PositiveInt = 10, seeds: PositiveInt = 3) -> None:
    """Train at all stages, count what each process holds and sends, and clip wrongly.

    Parameters
    ----------
    steps
        AdamW steps, clipped, with decay of the matrices only.
    seeds
        Models and texts for the wrong norm.
    """
    most = prepare(run)
    steps, seeds = run.budget(quick=2, default=steps), run.budget(quick=2, default=max(2, seeds))
    answers, truth = (
        launch(work.train, most, steps, run.seed, ("zero",)),
        work.alone(steps, run.seed),
    )
    same = run.against(
        "torch AdamW, one process", atol=1e-10, why="float64 rounding, through AdamW"
    )
    for n in range(1, most + 1):
        for arm in (*STAGES, "stage 3, accumulated"):
            for key in ("losses", "weights"):
                same(
                    f"{key}, n = {n}, {arm}",
                    worst(answers, f"{n} {arm} {key}", truth[key]),
                    truth[key],
                )
        run.check(
            f"weights, n = {n}, stage 1, torch's",
            worst(answers, f"{n} stage 1 weights", truth["weights"]),
            worst(answers, f"{n} torch's stage 1 weights", truth["weights"]),
            atol=1e-10,
            against="torch ZeroRedundancyOptimizer",
            why="float64 rounding, through AdamW",
        )
    if most > 1:
        count(run, most)
        clip_wrongly(run, most, steps, seeds)


def count(run: Run, most: int) -> None:
    """16-bit parameters and gradients, 32-bit states."""
    half = launch(measure, most, 2, run.seed, 32)
    forgot = launch(measure, most, 1, run.seed, 32, True)
    held, predicted, sent, expected = [], [], [], []
    for n in range(2, most + 1):
        for stage, arm in enumerate(STAGES):
            answer = {
                key: half[n - 1][f"{n} {arm} {key}"]
                for key in ("bytes", "sent", "parameters", "unpadded")
            }
            padded = int(answer["parameters"])
            whole_gradient = 2 * (padded - int(answer["unpadded"])) if stage < 2 else 0
            held.append(int(answer["bytes"].sum()))
            predicted.append(formula(padded, n, stage) - whole_gradient)
            sent.append(int(answer["sent"]))
            expected.append(traffic(stage) * wire_bytes(n, 2 * padded))
    exact = {"kind": "theorem", "why": "bytes are counted, and the buffers' padding too"}
    run.check(
        "bytes held per process",
        torch.tensor(held),
        torch.tensor(predicted),
        against="16Ψ … 16Ψ/N",
        **exact,
    )
    run.check(
        "bytes sent per step",
        torch.tensor(sent),
        torch.tensor(expected),
        against="1 : 1 : 1 : 1.5",
        **exact,
    )
    bits = torch.stack([half[0][f"{most} {arm} losses"] for arm in STAGES])
    run.check(
        "losses in 16 bits, all stages",
        bits[1:],
        bits[:1].expand(3, -1),
        kind="consistency",
        against="our stage 0",
        why="the same ring adds in the same order",
    )
    name, n = "stage 3 holds 16Ψ/N", most
    psi = int(half[0][f"{n} stage 0 unpadded"])
    rule = {"at_least": 0.98, "at_most": 1.02, "deterministic": True, "unit": "of the formula"}
    run.claim(name, held[-1] / formula(psi, n, 3), note=f"{n} processes, {psi} parameters", **rule)
    kept = int(forgot[0][f"{n} stage 3 bytes"].sum()) / formula(psi, n, 3)
    run.falsifier("gathered parameters are not given back", kept, breaks=name)
    draw(run, held, predicted, psi, most)


def draw(run: Run, held, predicted, psi: int, most: int) -> None:
    """The formulas as lines, what was counted as points."""
    sizes = [1, 2, 3, 4, 8, 16, 32, 64]
    colors = (plots.GRAY, plots.ORANGE, plots.GREEN, plots.BLUE)
    title = "How many bytes per parameter does each process hold?"
    with run.figure("bytes", title) as ax:
        for stage, color in enumerate(colors):
            points = [held[4 * (n - 2) + stage] / psi for n in range(2, most + 1)]
            ax.plot(range(2, most + 1), points, "o", color=color)
        names = ("stage 0", "1: states", "2: gradients", "3: parameters")
        lines = {name: [formula(1, n, s) for n in sizes] for s, name in enumerate(names)}
        labels = {"xscale": "log", "xlabel": "processes N (points: counted, lines: formulas)"}
        plots.curves(
            ax, sizes, lines, colors=colors, ylabel="bytes per parameter", ylim=(0, 17), **labels
        )
        ax.set_xticks(sizes, sizes)
        ax.set_xticks([], minor=True)


def clip_wrongly(run: Run, most: int, steps: int, seeds: int) -> None:
    """Each process clips by its own piece's norm: no error, another model."""
    seeds = [run.seed * 100 + s for s in range(seeds)]
    answer, off = launch(work.clipped, most, steps, seeds)[0], {"own": [], "whole": []}
    for seed in seeds:
        truth = work.alone(steps, seed)["weights"]
        for arm, errors in off.items():
            errors.append(float((answer[f"{seed} {arm}"] - truth).norm() / truth.norm()))
    name = "clipping by the own piece's norm gives other weights"
    note = f"{most} processes, {steps} steps"
    rule = {"at_least": 1e-3, "each": True, "seen_before": "one run"}
    run.claim(name, off["own"], unit="of the weights", note=note, rtol=0.05, **rule)
    run.falsifier("the norm of all pieces", off["whole"], breaks=name)
