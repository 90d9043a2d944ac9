"""A grid of two by two processes against one process."""

import numpy as np
import torch.distributed as dist
import torch.nn.functional as F

from shared import plots
from shared.study import PositiveInt, Run
from week17.answers import ask
from week17.mesh import grid
from week17.sharded_runs import batch, flat, joined, mesh_run, small_gpt, whole_run


def main(run: Run, *, steps: PositiveInt = 20) -> None:
    """Train on a grid and on one process; compare losses, norms and weights.

    Parameters
    ----------
    steps
        Steps of Adam.
    """
    case = {
        "seed": run.seed + 4,
        "data": 2,
        "tensor": 2,
        "steps": run.budget(quick=3, default=steps),
    }
    results, whole = ask(grid_and_mesh, 4, case, timeout=300), whole_run(case)
    equal = run.against("torch, one process", atol=1e-10, why="float64 rounding")
    for row in grid(2, 2):
        parts = [results[rank] for rank in row]
        name = f"processes {row[0]} and {row[1]}"
        equal(f"losses, {name}", parts[0]["losses"], whole["losses"])
        equal(f"norms of the gradient, {name}", parts[0]["norms"], whole["norms"])
        equal(f"weights at the end, {name}", flat(joined(parts, "weights")), flat(whole["weights"]))
    theirs = run.against("torch's DeviceMesh, data before tensor", why="a list of ranks")
    theirs("who is where", np.array(grid(2, 2)), results[0]["mesh"])
    weigh(run, case, whole)


def grid_and_mesh(rank: int, world: int, case: dict) -> dict:
    """The run of this process, and torch's arrangement of the same grid."""
    mesh = dist.device_mesh.init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    return mesh_run(rank, world, case) | {"mesh": mesh.mesh.clone()}


def weigh(run: Run, case: dict, whole: dict) -> None:
    """Unequal columns: weighed by their tokens they give the batch's mean, else another."""
    tokens, targets = batch(case, 0)
    model, parts = small_gpt(case), []
    for some, goal in zip(tokens.tensor_split(2), targets.tensor_split(2), strict=True):
        parts.append(F.cross_entropy(model(some).flatten(0, 1), goal.flatten()).item())
    weighed, mean = (2 * parts[0] + parts[1]) / 3, sum(parts) / 2
    batch_loss = whole["losses"][0]
    name = "weighed by their tokens, columns give the batch's loss"
    rule = {"at_least": -1e-12, "at_most": 1e-12, "deterministic": True, "unit": "nats per token"}
    run.claim(name, weighed - batch_loss, **rule)
    run.falsifier("mean of the columns' means", mean - batch_loss, breaks=name)
    rows = {"column of two texts": parts[0], "column of one text": parts[1]}
    rows |= {"mean of the two means": mean, "weighed by tokens": weighed}
    off = {name: 1000 * (value - batch_loss) for name, value in rows.items()}
    title = "A column of two texts and one of one: which mean is the batch's?"
    with run.figure("mean", title, size=(8.0, 3.2)) as ax:
        colors = (plots.GRAY, plots.GRAY, plots.ORANGE, plots.BLUE)
        words = "loss minus that of one process (thousandths of a nat per token)"
        plots.bars(ax, off, colors=colors, reference={"one process": 0.0}, xlabel=words)
