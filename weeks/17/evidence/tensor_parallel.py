"""A GPT in parts against the whole one, against DTensor; what is sent; what goes wrong."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from shared import plots
from shared.study import PositiveInt, Run
from week17.answers import ask
from week17.sharded_runs import batch, flat, joined, named, sharded_runs, small_gpt, whole_run
from week17.tensor_parallel import ring_bytes

EVEN = {"n_heads": 4, "d_model": 16, "vocab_size": 12}  # DTensor cuts these without a remainder


def main(run: Run, *, steps: PositiveInt = 20) -> None:
    """Train on one to four processes and compare with one; count what is sent.

    Parameters
    ----------
    steps
        Steps of Adam and of SGD that are compared.
    """
    worlds = run.budget(quick=(2, 3), default=(1, 2, 3, 4))
    steps = run.budget(quick=2, default=steps)
    cases = [
        {"seed": run.seed + 1, "steps": steps, "world": world, "optimizer": optimizer}
        | {"sequence_parallel": cut_text}
        for world in worlds
        for optimizer, cut_text in (("adam", False), ("sgd", True))
    ]
    even = {"seed": run.seed + 2, "steps": 1, "world": max(worlds), "sizes": EVEN, "length": 12}
    even["sizes"] |= {"n_heads": max(worlds), "d_model": 4 * max(worlds)}
    deeper = {"seed": run.seed, "steps": 1, "world": 2, "sizes": {"n_layers": 3}}
    extra = [even, deeper, deeper | {"sequence_parallel": True}]
    results = ask(all_of_it, max(worlds), cases + extra, even, timeout=300)
    parts = [[r["cases"][i] for r in results if r["cases"][i]] for i in range(len(cases) + 3)]
    check_training(run, cases, parts)
    check_library(run, even, parts[len(cases)], [r["library"] for r in results])
    count(run, dict(zip(map(str, cases), parts, strict=False)), cases, parts[-2:])
    mistakes(run, cases, parts)


def all_of_it(rank: int, world: int, cases: list, even: dict) -> dict[str, Any]:
    """One process's part of everything, so that processes start once."""
    return {"cases": sharded_runs(rank, world, cases), "library": library_run(world, even)}


def library_run(world: int, case: dict) -> dict[str, Any]:
    """The blocks cut by torch's `parallelize_module`, with the same weights."""
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    model = small_gpt(case)
    mesh = dist.device_mesh.init_device_mesh("cpu", (world,))
    by_rows = ("out_proj", "down")
    for block in model.blocks:
        names = ("q_proj", "k_proj", "v_proj", "up", *by_rows)
        plan = {n: RowwiseParallel() if n in by_rows else ColwiseParallel() for n in names}
        parallelize_module(block, mesh, plan)
        block.n_heads //= world
    tokens, targets = batch(case, 0)
    logits = model(tokens)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    grads = named(model, grads=True)
    whole = {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in grads.items()}
    return {"logits": logits.detach(), "grads": whole}


def check_training(run: Run, cases: list[dict], parts: list[list[dict]]) -> None:
    """Logits, gradients, norms, losses and weights of each case against one process."""
    equal = run.against(
        "torch, one process", atol=1e-10, why="float64 rounding, sums in another order"
    )
    for case, some in zip(cases, parts, strict=False):
        whole = whole_run(case)
        kind = "sequence parallel, SGD" if case["sequence_parallel"] else "Adam"
        name = f"{case['world']} processes, {kind}"
        equal(f"logits, {name}", torch.cat([p["logits"] for p in some], -1), whole["logits"])
        for what in ("grads", "weights"):
            title = "gradients" if what == "grads" else f"weights after {case['steps']} steps"
            equal(f"{title}, {name}", flat(joined(some, what)), flat(whole[what]))
        equal(f"losses, {name}", [p["losses"] for p in some], [whole["losses"]] * len(some))
        norms = [p["norm"] for p in some]
        equal(f"norm of the gradient, {name}", norms, [whole["norms"][0]] * len(some))


def check_library(run: Run, case: dict, ours: list[dict], theirs: list[dict]) -> None:
    """The same weights cut by DTensor."""
    equal = run.against("parallelize_module, Colwise and Rowwise", atol=1e-10, why="float64")
    equal("logits", torch.cat([p["logits"] for p in ours], -1), theirs[0]["logits"])
    equal("gradients", flat(joined(ours, "grads")), flat(theirs[0]["grads"]))


def count(run: Run, by_case: dict, cases: list[dict], deeper: list[list[dict]]) -> None:
    """What one layer more sends, counted by torch; bytes by the formula of a ring."""
    for cut_text, three in zip((False, True), deeper, strict=True):
        case = next(c for c in cases if c["sequence_parallel"] == cut_text and c["world"] == 2)
        two = by_case[str(case)]
        more = {
            way: {
                op: n - two[0]["collectives"][way][op]
                for op, n in three[0]["collectives"][way].items()
            }
            for way in ("forward", "backward")
        }
        if not cut_text:
            sums = sum(sum(ways.values()) for ways in more.values())
            only = {op for ways in more.values() for op in ways} == {"allreduce"}
            name = "all-reduces of a layer, forward and backward"
            rule = {"at_least": 4, "at_most": 4, "deterministic": True}
            run.claim(name, sums if only else -1, **rule, seen_before="the paper says so")
        else:
            exact = run.against("two of each, each way", kind="theorem", why="a count")
            counted = [more[way][op] for way in more for op in sorted(more[way])]
            exact("gathers and reduce-scatters of a layer", counted, [2, 2, 2, 2])
    loss = by_case[str(cases[-1])][0]["collectives"]["loss"]
    run.metric("collectives of the cross-entropy", sum(loss.values()))
    hidden, tokens, width = 4096, 2048, 2
    run.metric(
        "MB that each of 8 processes sends per layer, both ways",
        4 * ring_bytes(hidden * tokens * width, 8) / 1e6,
        "MB",
    )


def mistakes(run: Run, cases: list[dict], parts: list[list[dict]]) -> None:
    """Norms in which replicas count once per process; norm weights that nobody sums."""
    found, right, drift = [], [], []
    for case, some in zip(cases, parts, strict=False):
        if case["world"] == 1:
            continue
        whole = flat(whole_run(case)["grads"]).norm()
        squares = sum(float(flat(p["grads"]).square().sum()) for p in some)
        found.append(squares**0.5 / float(whole))
        right.append(some[0]["norm"] / float(whole))
        drift.append(case["world"])
    rule = {"at_least": 1 - 1e-10, "at_most": 1 + 1e-10, "each": True, "unit": "of its length"}
    name = "the norm of a gradient in parts is that of the whole"
    run.claim(name, right, **rule)
    run.falsifier("replicas counted by each process", found, breaks=name)
    rows = {}
    for world in sorted(set(drift)):
        at = [100 * (f - 1) for f, w in zip(found, drift, strict=True) if w == world]
        rows[f"{world} processes"] = np.array(at)
    title = "How far is the gradient's norm off when every process counts its replicas?"
    with run.figure("norm", title, size=(8.0, 3.2)) as axes:
        exact = {"each replica once: exact": 0.0}
        label = "error of the norm, each process counting its own (%)"
        plots.bars(axes, rows, colors=(plots.ORANGE,), reference=exact, xlabel=label)
