"""Three schedules: when each stage works, how long it idles, what it remembers; and real runs."""

import numpy as np

from shared import plots
from shared.study import PositiveInt, Run
from week17.answers import ask
from week17.pipeline_parallel import bubble, peak_inputs, schedule, simulate
from week17.pipeline_runs import accumulated_step, merged, pipeline_steps, whole_step

TITLES = {"gpipe": "GPipe", "1f1b": "1F1B", "interleaved": "interleaved, two pieces each"}


def main(run: Run, *, micro_batches: PositiveInt = 8) -> None:
    """Compare schedules by formula, by simulation, and by running them on processes.

    Parameters
    ----------
    micro_batches
        Of the schedules that are drawn; a multiple of 4.
    """
    check_formulas(run)
    check_gradients(run)
    memory(run)
    draw_schedules(run, micro_batches)
    draw_bubbles(run)


def check_formulas(run: Run) -> None:
    """Simulated idle time against the two formulas, for many sizes."""
    sizes = [(k, k * groups) for k in range(1, 9) for groups in (1, 2, 3, 4, 8)]
    law = {"kind": "theorem", "atol": 1e-12, "why": "float64 rounding"}
    equal = run.against("(K - 1) / (vM + K - 1)", **law)
    for name, v in (("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("interleaved", 3)):
        simulated = [bubble(schedule(name, k, m, v)) for k, m in sizes]
        formula = [(k - 1) / (v * m + k - 1) for k, m in sizes]
        equal(f"bubble, {name}, {v} pieces per process", simulated, formula)
    kept = [[peak_inputs(own) for own in schedule("1f1b", k, m)] for k, m in sizes]
    formula = [[min(m, k - p) for p in range(k)] for k, m in sizes]
    exact = run.against("min(M, K - p) for process p", kind="theorem", why="a count")
    exact("micro-batches kept by 1F1B", np.concatenate(kept), np.concatenate(formula))


def check_gradients(run: Run) -> None:
    """Our schedules and torch's on two and three processes, against one process."""
    cases = [
        {"seed": run.seed, "name": name, "world": world, "n_micro": m, "n_pieces": v, "n_rows": n}
        | {"library": n % m == 0 and world == 3}
        for name, v in (("gpipe", 1), ("1f1b", 1), ("interleaved", 2))
        for world, m, n in ((2, 4, 7), (3, 6, 6))
    ]
    results = ask(pipeline_steps, 3, cases, timeout=300)
    tight = {"atol": 1e-10, "why": "float64 rounding"}
    whole = run.against("torch, the whole batch in one process", **tight)
    accumulated = run.against("gradient accumulation", kind="consistency", **tight)
    library = run.against("torch.distributed.pipelining", **tight)
    their = 0
    for i, case in enumerate(cases):
        parts = [r["ours"][i] for r in results if r["ours"][i]]
        ours, name = merged(parts), f"{case['name']}, {case['world']} processes"
        reference = whole_step(case)
        whole(f"gradients, {name}", ours, merged([reference]))
        whole(f"loss, {name}", sum(p["loss"] for p in parts), reference["loss"])
        accumulated(f"the same in micro-batches, {name}", ours, merged([accumulated_step(case)]))
        if case["library"]:
            theirs = merged([r["theirs"][their] for r in results])
            library(f"gradients by its schedule, {name}", ours, theirs)
            their += 1
    control = merged([whole_step(cases[0] | {"seed": run.seed + 9})])
    run.metric("length of the gradient", float(merged([whole_step(cases[0])]).norm()))
    run.metric("distance to another batch's", float((control - merged(parts)).norm()))


def memory(run: Run) -> None:
    """1F1B remembers as many micro-batches as there are stages, GPipe all."""
    most = {
        name: [max(peak_inputs(own) for own in schedule(name, 4, m)) for m in (8, 16, 32, 64)]
        for name in ("gpipe", "1f1b")
    }
    name = "1F1B keeps no more than one micro-batch per stage"
    rule = {"at_most": 4, "each": True, "unit": "micro-batches, 4 stages, M from 8 to 64"}
    run.claim(name, most["1f1b"], **rule)
    run.falsifier("GPipe", most["gpipe"], breaks=name)
    slow = [bubble(schedule("1f1b", 4, 16), [1.0, 1.0, x, 1.0]) for x in (1.0, 1.25, 1.5, 2.0)]
    formula, name = 3 / 19, "the formula of the bubble holds for equal stages"
    run.claim(name, slow[0] - formula, at_least=-1e-12, at_most=1e-12, deterministic=True)
    run.falsifier("one stage takes twice as long", slow[-1] - formula, breaks=name)
    run.metric("bubble when one of four stages takes twice as long", slow[-1])
    for v in (1, 2, 4):
        name = "1f1b" if v == 1 else "interleaved"
        run.metric(
            f"bubble, 4 processes, 8 micro-batches, {v} pieces", bubble(schedule(name, 4, 8, v))
        )
    kept = [peak_inputs(own) / 2 for own in schedule("interleaved", 4, 8, 2)]
    run.metric("interleaved keeps, in whole micro-batches", max(kept))


def draw_schedules(run: Run, n_micro: int) -> None:
    """Which stage does what when."""
    title = "Which process works on which micro-batch when?"
    with run.figure("schedules", title, 3, 1, size=(10.0, 6.4), sharex=True) as axes:
        for ax, (name, text) in zip(axes, TITLES.items(), strict=True):
            v = 2 if name == "interleaved" else 1
            tasks = schedule(name, 4, n_micro, v)
            for done in simulate(tasks):
                task = done.task
                color = plots.ORANGE if task.backward else plots.BLUE
                box = {"left": done.start, "width": done.end - done.start, "height": 0.86}
                alpha = 0.5 if task.piece else 0.95
                ax.barh(done.process, color=color, edgecolor="white", alpha=alpha, **box)
                ink = "black" if task.piece else "white"
                middle, number = (done.start + done.end) / 2, str(task.micro + 1)
                style = {"ha": "center", "va": "center", "fontsize": 7, "color": ink}
                ax.text(middle, done.process, number, **style)
            idle = f"{100 * bubble(tasks):.0f} % idle"
            keeps = max(peak_inputs(own) for own in tasks) / v
            ax.set_title(f"{text}: {idle}, keeps {keeps:g} micro-batches", loc="left", fontsize=10)
            ax.set_yticks(range(4), [f"process {p}" for p in range(4)])
            ax.invert_yaxis()
            ax.grid(False)
        words = "time (forward passes of one stage); blue: forward, orange: backward"
        axes[-1].set_xlabel(f"{words}; pale: second piece")


def draw_bubbles(run: Run) -> None:
    """Idle time against the number of micro-batches."""
    micro = np.array([4, 8, 16, 32, 64])
    lines = {
        "1F1B and GPipe": [bubble(schedule("1f1b", 4, int(m))) for m in micro],
        "interleaved, 2 pieces": [bubble(schedule("interleaved", 4, int(m), 2)) for m in micro],
        "interleaved, 4 pieces": [bubble(schedule("interleaved", 4, int(m), 4)) for m in micro],
        "one stage twice as slow": [
            bubble(schedule("1f1b", 4, int(m)), [1.0, 1.0, 2.0, 1.0]) for m in micro
        ],
    }
    title = "How much of the time do four processes wait?"
    with run.figure("bubble", title, size=(8.4, 4.4)) as ax:
        fine = np.geomspace(4, 64, 50)
        ax.plot(fine, 300 / (fine + 3), "--", color=plots.REFERENCE, lw=1.2, zorder=4)
        labels = {"xlabel": "micro-batches M (dashed: (K - 1) / (M + K - 1))"}
        labels |= {"ylabel": "share of time idle (%)", "ylim": (0, 55)}
        ax.set_xscale("log", base=2)
        percent = {name: 100 * np.array(values) for name, values in lines.items()}
        plots.curves(ax, micro, percent, marker="o", **labels)
        ax.set_xticks(micro, map(str, micro))
