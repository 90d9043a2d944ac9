r"""How long do the stages of a pipeline wait, and are gradients still those of the batch?

K stages, M micro-batches, all forward and then all backward:

$$ \text{bubble} = \frac{K-1}{M+K-1} . $$

Processes send real messages over gloo. Each message carries the time at which it was sent, so that
waiting is measured in the order of messages and not in the seconds of a shared machine. The rules
stand in the front matter of README.md.

    uv run papers/2018-gpipe/reproduce.py

Huang, Cheng, Bapna, Firat, Chen, Chen, Lee, Ngiam, Le, Wu and Chen (2018), "GPipe", section 2.3.
"""

import numpy as np

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week17.answers import ask
from week17.pipeline_parallel import bubble, schedule
from week17.pipeline_runs import clocked_bubble, merged, pipeline_steps, whole_step

RULE = "the bubble is (K - 1) / (M + K - 1)"


def formula(k: int, m: int) -> float:
    """Idle share of K equal stages."""
    return (k - 1) / (m + k - 1)


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Run pipelines of clocks and of a small GPT; judge by the front matter.

    Parameters
    ----------
    seeds
        Draws of weights and texts.
    """
    paper = papers.load(__file__)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=8)
    clocks = [
        {"world": k, "name": "gpipe", "n_micro": k * groups, "forward": forward[:k]}
        for forward in ([1.0, 1.0, 1.0], [1.0, 1.5, 1.0])
        for k in (2, 3)
        for groups in run.budget(quick=(1, 4), default=(1, 2, 3, 4))
    ]
    cases = [
        {"seed": run.seed + s, "name": "gpipe", "world": k, "n_micro": m, "n_rows": n}
        | {"library": s == 0 and k == 3 and n == m}
        for s in range(seeds)
        for k, m, n in ((2, 2, 3), (2, 8, 11), (3, 6, 6))
    ]
    results = ask(pipeline_steps, 3, cases, clocks, timeout=300)

    # ---- waiting
    waits = [
        clocked_bubble([r["clocks"][i] for r in results if r["clocks"][i]])
        for i in range(len(clocks))
    ]
    expected = [formula(case["world"], case["n_micro"]) for case in clocks]
    off, half = np.subtract(waits, expected), len(clocks) // 2
    paper.judge(run, RULE, off[:half], rtol=None)
    run.falsifier("a stage that takes half as long again", off[half:], breaks=RULE)
    ours = [
        bubble(schedule("gpipe", case["world"], case["n_micro"]), case["forward"])
        for case in clocks
    ]
    same = {"kind": "consistency", "atol": 1e-12, "why": "float64 rounding"}
    run.against("our simulation", **same)("idle shares, equal stages and not", waits, ours)
    at_4k = [bubble(schedule("gpipe", k, 4 * k)) for k in (2, 4, 8)]
    paper.judge(run, "negligible when M is 4K", at_4k)
    for k, share in zip((2, 4, 8), at_4k, strict=True):
        run.metric(f"bubble at M = 4K, K = {k}", share)

    # ---- gradients
    errors, their = [], run.against("torch ScheduleGPipe", atol=1e-10, why="float64 rounding")
    equal = run.against("torch, one process", atol=1e-10, why="float64 rounding")
    theirs = [merged(list(parts)) for parts in zip(*(r["theirs"] for r in results), strict=True)]
    for i, case in enumerate(cases):
        ours = merged([r["ours"][i] for r in results if r["ours"][i]])
        whole = merged([whole_step(case)])
        errors.append(float((ours - whole).abs().max()))
        if case["seed"] == run.seed:
            equal(f"gradients, K = {case['world']}, M = {case['n_micro']}", ours, whole)
        if case["library"]:
            their("gradients by its schedule", ours, theirs[0])
    paper.judge(run, "gradients are those of the whole batch", errors, rtol=None)
    _draw(run, clocks, waits)


def _draw(run: Run, clocks: list[dict], waits: list[float]) -> None:
    """The formula, and what processes waited."""
    title = "How much of the time does a pipeline of K stages wait?"
    with run.figure("bubble", title, size=(8.4, 4.4)) as ax:
        groups = np.linspace(1, 8, 60)
        lines = {f"K = {k}": 100 * (k - 1) / (k * groups + k - 1) for k in (2, 3, 4, 8)}
        labels = {"xlabel": "micro-batches per stage, M / K", "ylim": (0, 55)}
        labels["ylabel"] = "share of time idle (%)"
        plots.curves(ax, groups, lines, **labels)
        dots = []
        for name, color, filled in (("equal", plots.REFERENCE, True), ("unequal", "white", False)):
            some = [
                (case["n_micro"] / case["world"], 100 * wait)
                for case, wait in zip(clocks, waits, strict=True)
                if (len(set(case["forward"])) == 1) == filled
            ]
            text = f"processes with {name} stages"
            style = {"color": color, "mec": plots.REFERENCE, "label": text}
            dots += ax.plot(*zip(*some, strict=True), "o", **style)
        ax.axvline(4, color=plots.REFERENCE, linestyle=":", linewidth=1)
        ax.legend(handles=dots, loc="upper right")


if __name__ == "__main__":
    cli(main)
