r"""Do ZeRO's stages hold and send what the formulas say, and train as stage 0 does?

With 2 bytes for each of $\Psi$ parameters, 2 for its gradient and 12 for Adam's states,

$$ 16\,\Psi, \quad 4\,\Psi + \frac{12\,\Psi}N, \quad 2\,\Psi + \frac{14\,\Psi}N, \quad
   \frac{16\,\Psi}N $$

bytes stay on each of N processes. Held bytes are counted on the tensors' storages, sent bytes on
the messages. The rules stand in the front matter of README.md.

    uv run papers/2019-zero/reproduce.py

Rajbhandari, Rasley, Ruwase and He (2020), "ZeRO", figure 1, sections 5 and 7.
"""

import numpy as np

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week17.collectives import wire_bytes
from week17.processes import Answer, launch
from week17.zero import formula
from week17.zero_measures import measure

STAGES, WIDTH = range(4), 48


def ratios(answers: list[Answer], what: str, stages: tuple[int, ...]) -> np.ndarray:
    """Bytes held or sent over the formula, for these stages and all numbers of processes."""
    found = []
    for n in range(2, len(answers) + 1):
        for stage in stages:
            rank = answers[n - 1]  # the last process of the group
            psi = int(rank[f"{n} stage {stage} unpadded"])
            if what == "bytes":
                found.append(int(rank[f"{n} stage {stage} bytes"].sum()) / formula(psi, n, stage))
            else:
                found.append(int(rank[f"{n} stage {stage} sent"]) / wire_bytes(n, 2 * psi))
    return np.array(found)


def loss_gap(answers: list[Answer]) -> float:
    """Largest difference from stage 0, over steps, stages and numbers of processes."""
    gaps = []
    for n in range(2, len(answers) + 1):
        zero = answers[0][f"{n} stage 0 losses"]
        gaps += [float((answers[0][f"{n} stage {s} losses"] - zero).abs().max()) for s in (1, 2, 3)]
    return max(gaps)


def main(run: Run, *, steps: PositiveInt = 6, seeds: PositiveInt = 3) -> None:
    """Train a small stack at all stages in 2 to 4 processes, and judge by the front matter.

    Parameters
    ----------
    steps
        Adam steps in mixed precision.
    seeds
        Models and texts.
    """
    paper, steps = papers.load(__file__), run.budget(quick=2, default=steps)
    draws = range(run.budget(quick=2, default=max(2, seeds), full=max(8, seeds)))
    runs = [launch(measure, 4, steps, run.seed * 1000 + s, WIDTH) for s in draws]
    forgot = launch(measure, 4, 1, run.seed * 1000, WIDTH, True)
    rule = "bytes are the formula's"
    paper.judge(run, rule, ratios(runs[0], "bytes", tuple(STAGES)), unit="of the formula")
    kept = ratios(forgot, "bytes", (3,))
    run.falsifier("gathered parameters are not given back", kept, breaks=rule)
    paper.judge(run, "losses are those of stage 0", [loss_gap(answers) for answers in runs])
    sent = ratios(runs[0], "sent", (1, 2))
    paper.judge(run, "stages 1 and 2 send what an all-reduce sends", sent, unit="times")
    rule = "stage 3 sends half as much again"
    paper.judge(run, rule, ratios(runs[0], "sent", (3,)), unit="times")
    run.falsifier("parameters are gathered once", sent, breaks=rule, note="stages 1 and 2")
    check_sent(run, runs[0])
    figure = np.array(paper.matter["paper_gigabytes"])
    ours = np.array([formula(7.5e9, 64, stage) / 1e9 for stage in STAGES])
    paper.judge(run, "the figure's gigabytes", float(np.abs(ours / figure - 1).max()))
    draw(run, runs[0], figure)


def check_sent(run: Run, answers: list[Answer]) -> None:
    """To the byte, the padding of the buffers counted."""
    sent, expected = [], []
    for n in range(2, 5):
        for stage in STAGES:
            answer = answers[0]
            padded = int(answer[f"{n} stage {stage} parameters"])
            sent.append(int(answer[f"{n} stage {stage} sent"]))
            expected.append((1.5 if stage == 3 else 1.0) * wire_bytes(n, 2 * padded))
    exact = {"against": "1 : 1 : 1 : 1.5", "kind": "theorem", "why": "bytes are counted"}
    run.check("bytes sent, with padding", np.array(sent), np.array(expected), **exact)


def draw(run: Run, answers: list[Answer], figure: np.ndarray) -> None:
    """The paper's gigabytes, and ours in bytes per parameter beside the formulas."""
    names = ("stage 0", "1: states", "2: gradients", "3: parameters")
    psi, n = int(answers[0]["4 stage 0 unpadded"]), 4
    held = [int(answers[0][f"{n} stage {s} bytes"].sum()) / psi for s in STAGES]
    colors = (plots.GRAY, plots.ORANGE, plots.GREEN, plots.BLUE)
    sides = (
        (figure, "GB per device: the paper, 7.5 billion parameters, 64 devices"),
        (held, f"bytes per parameter: counted here, {psi:,} parameters, {n} processes"),
    )
    title = "What does each process keep of Adam's 16 bytes per parameter?"
    with run.figure("bytes", title, columns=2, size=(11.5, 3.4)) as axes:
        for ax, (values, label) in zip(axes, sides, strict=True):
            plots.bars(ax, dict(zip(names, values, strict=True)), colors=colors)
            ax.set_xlabel(label, fontsize=9)
        for row, stage in enumerate(STAGES):
            at = [formula(1, n, stage)] * 2
            axes[1].plot(at, [row - 0.4, row + 0.4], "--", color=plots.REFERENCE, lw=1.5)


if __name__ == "__main__":
    cli(main)
