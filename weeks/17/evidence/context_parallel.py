"""Ring attention against torch's attention in one process; who waits for whom in a causal ring."""

import numpy as np

from shared import plots
from shared.study import PositiveInt, Run
from week17.answers import ask
from week17.context_parallel import pairs, positions
from week17.routed_runs import in_order, routed_runs, whole_attention


def main(run: Run, *, length: PositiveInt = 29) -> None:
    """Compare outputs and gradients; count each process's work at each step of the ring.

    Parameters
    ----------
    length
        Tokens of the text that is attended to.
    """
    worlds = run.budget(quick=(2, 3), default=(1, 2, 3, 4))
    cases = [
        {"seed": run.seed, "world": world, "length": length, "layout": layout, "scale": scale}
        for world in worlds
        for layout in ("contiguous", "zigzag")
        for scale in (1.0, 300.0)
    ]
    results = ask(routed_runs, max(worlds), cases, [], timeout=300)
    tight = {"atol": 1e-10, "why": "float64 rounding"}
    equal = run.against("F.scaled_dot_product_attention, one process", **tight)
    for i, case in enumerate(cases):
        ours = in_order([r["rings"][i] for r in results if r["rings"][i]])
        size = "scores of some hundreds" if case["scale"] > 1 else "scores near 1"
        where = f"{case['world']} processes, {case['layout']}, {size}"
        names = ("output", "gradient of q", "gradient of k", "gradient of v")
        for name, mine, theirs in zip(names, ours, whole_attention(case), strict=True):
            equal(f"{name}, {where}", mine, theirs, rtol=1e-10)
    balance(run)


def time_of(world: int, layout: str, n_tokens: int = 4096) -> float:
    """Pairs on the way of the slowest process at each step, over an equal share of all pairs."""
    work = pairs(positions(n_tokens, world, layout))
    return float(work.amax(1).sum() / (work.sum() / world))


def balance(run: Run) -> None:
    """How long a causal ring takes, if each step ends when its slowest process ends."""
    worlds = [2, 4, 8, 16]
    times = {layout: [time_of(n, layout) for n in worlds] for layout in ("contiguous", "zigzag")}
    name = "a zigzag wastes less than one percent of a causal ring's time"
    rule = {"at_most": 1.01, "each": True, "unit": "times an equal share"}
    run.claim(name, times["zigzag"], **rule, seen_before="the formula, by hand")
    run.falsifier("pieces in the order of the text", times["contiguous"], breaks=name)
    size = np.array(worlds)
    block = 4096 / size
    slowest = (size - 1) * block**2 + block * (block + 1) / 2
    formula = slowest / (4096 * 4097 / 2 / size)
    law = run.against(
        "(n - 1) b² + b (b + 1) / 2 over T (T + 1) / 2n",
        kind="theorem",
        rtol=1e-6,
        why="float32 division",
    )
    law("time of a ring in order", times["contiguous"], formula)
    run.metric("time of a ring of 8 in order, in equal shares", times["contiguous"][2])
    title = "Which process works at which step of a causal ring of four?"
    with run.figure("balance", title, 1, 2, size=(9.6, 3.8)) as axes:
        texts = {"contiguous": "pieces in order", "zigzag": "zigzag: one early, one late"}
        for ax, (layout, text) in zip(axes, texts.items(), strict=True):
            work = pairs(positions(64, 4, layout)).numpy()
            labels = {"xlabel": "process", "ylabel": "step of the ring", "title": text}
            names = [str(i) for i in range(4)]
            each = {"rows": names, "columns": names, "limits": (0, 256)}
            plots.heat_map(ax, work, label="pairs of query and key", **each, **labels)
            for (step, process), n in np.ndenumerate(work):
                ink = "white" if n > 150 else "black"
                ax.text(process, step, str(n), ha="center", va="center", color=ink, fontsize=9)
