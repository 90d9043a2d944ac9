"""Experts on other processes against transformers' Mixtral layer; who gets how many rows."""

import numpy as np
import torch
import torch.nn.functional as F

from shared import plots
from shared.study import PositiveInt, Run
from week17.answers import ask
from week17.expert_parallel import first_experts
from week17.routed_runs import (
    D_FF,
    D_MODEL,
    expert_inputs,
    expert_weights,
    joined_experts,
    routed_runs,
)


def main(run: Run, *, n_experts: PositiveInt = 8) -> None:
    """Compare outputs and gradients with one process; draw how rows are spread.

    Parameters
    ----------
    n_experts
        Experts of all processes together.
    """
    worlds = run.budget(quick=(2, 3), default=(1, 2, 3, 4))
    tokens = [13, 0, 5, 9]
    cases = [
        {"seed": run.seed, "world": world, "n_experts": n_experts, "top_k": top_k}
        | {"tokens": [*tokens[: world - 1], sum(tokens[world - 1 :])]}
        | extra
        for world in worlds
        for top_k, extra in ((2, {}), (1, {"mean": 2.0, "favor": 50.0}))
    ]
    results = ask(routed_runs, max(worlds), [], cases, timeout=300)
    why = "its router takes the softmax in float32"
    library = run.against("transformers MixtralSparseMoeBlock, one process", atol=3e-5, why=why)
    tight = {"kind": "consistency", "rtol": 1e-10, "atol": 1e-10, "why": "float64 rounding"}
    equal = run.against("all experts on all tokens, one process", **tight)
    of = ("tokens", "the router", "gate_proj", "up_proj", "down_proj")
    names = ["outputs", *(f"gradient of {what}" for what in of)]
    for i, case in enumerate(cases):
        parts = [r["experts"][i] for r in results if r["experts"][i]]
        expected, chosen = transformers_layer(case)
        where = f"{case['world']} processes, top {case['top_k']}"
        rows = zip(names, joined_experts(parts), expected, every_expert(case), strict=True)
        for name, ours, theirs, dense in rows:
            library(f"{name}, {where}", ours, theirs)
            equal(f"{name}, {where}, float64", ours, dense)
        rows = rows_of(chosen, case["n_experts"], case["world"])
        exact = run.against("transformers' router", why="a count")
        exact(f"rows of each process, {where}", [p["rows"] for p in parts], rows)
    load(run, n_experts)


def transformers_layer(case: dict) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Output and gradients of the whole layer, and which experts were chosen."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=D_MODEL,
        intermediate_size=D_FF,
        num_local_experts=case["n_experts"],
        num_experts_per_tok=case["top_k"],
    )
    config._experts_implementation = "eager"
    layer = MixtralSparseMoeBlock(config).double().eval()
    router, gate, up, down = expert_weights(case)
    with torch.no_grad():
        layer.gate.weight.copy_(router)
        layer.experts.gate_up_proj.copy_(torch.cat([gate, up], 1))
        layer.experts.down_proj.copy_(down)
    x, grad = (torch.cat(parts) for parts in expert_inputs(case))
    x.requires_grad_()
    out = layer(x[None])[0]
    out.backward(grad)
    of_gate, of_up = layer.experts.gate_up_proj.grad.chunk(2, dim=1)
    grads = [layer.gate.weight.grad, of_gate, of_up, layer.experts.down_proj.grad]
    chosen = layer.gate(x.detach())[2]
    return [out.detach(), x.grad, *grads], chosen


def every_expert(case: dict) -> list[torch.Tensor]:
    """The definition: each expert on each token, with weight 0 where it was not chosen."""
    weights = [p.requires_grad_() for p in expert_weights(case)]
    router, gate, up, down = weights
    x, grad = (torch.cat(parts) for parts in expert_inputs(case))
    x.requires_grad_()
    best, chosen = (x @ router.T).topk(case["top_k"])
    mixture = torch.zeros_like(x @ router.T).scatter(1, chosen, best.softmax(-1))
    hidden = F.silu(torch.einsum("td,efd->etf", x, gate)) * torch.einsum("td,efd->etf", x, up)
    out = torch.einsum("te,etf,edf->td", mixture, hidden, down)
    out.backward(grad)
    return [out.detach(), x.grad, *(p.grad for p in weights)]


def rows_of(chosen: torch.Tensor, n_experts: int, world: int) -> list[int]:
    """Rows that each process's experts get."""
    counts = chosen.flatten().bincount(minlength=n_experts)
    first = first_experts(n_experts, world)
    return [int(counts[first[r] : first[r + 1]].sum()) for r in range(world)]


def load(run: Run, n_experts: int) -> None:
    """A router that nobody balanced makes all wait for one process."""
    spread, busiest = {"random router": [], "one favorite": []}, {}
    for favor, name in zip((0.0, 1.5), spread, strict=True):
        for seed in range(run.seed, run.seed + 8):
            case = {"seed": seed, "n_experts": n_experts, "tokens": [512]}
            case |= {"favor": favor, "mean": 1.0 if favor else 0.0}
            router, x = expert_weights(case)[0], expert_inputs(case)[0][0]
            chosen = (x @ router.T).topk(2).indices
            spread[name].append(np.sort(rows_of(chosen, n_experts, 4))[::-1] / (512 * 2 / 4))
        busiest[name] = [row[0] for row in spread[name]]
    name = "a random router gives the busiest process less than twice its share"
    run.claim(name, busiest["random router"], at_most=2, each=True, unit="equal shares")
    run.falsifier("one favorite", busiest["one favorite"], breaks=name)
    title = "How many rows does the busiest of four processes get?"
    with run.figure("load", title, size=(8.0, 3.0)) as axes:
        label = "rows of the busiest process (equal shares), 8 random routers"
        colors = (plots.BLUE, plots.ORANGE)
        plots.bars(axes, busiest, colors=colors, reference={"balanced": 1.0}, xlabel=label)
