"""A small GPT trained whole, and trained in parts by processes: what evidence and tests compare.

>>> run = whole_run({"seed": 0, "steps": 2})
>>> len(run["losses"]), run["grads"]["head.weight"].shape
(2, torch.Size([13, 20]))
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor.debug import CommDebugMode

from week14.minimal_gpt import GPT, GPTConfig
from week17 import mesh
from week17.tensor_parallel import TensorParallelGPT, grad_norm, sum_replicas

SIZES = {"vocab_size": 13, "context": 16, "n_layers": 2, "n_heads": 5, "d_model": 20}


def small_gpt(options: dict[str, Any]) -> GPT:
    """A GPT in float64 with weights, norms and biases that are all drawn."""
    g = torch.Generator().manual_seed(options["seed"])
    model = GPT(GPTConfig(**(SIZES | options.get("sizes", {}))), g).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return model


def batch(
    options: dict[str, Any], step: int
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Random words and the words after them; three texts of eleven words."""
    g = torch.Generator().manual_seed(1000 * options["seed"] + step)
    vocab_size = (SIZES | options.get("sizes", {}))["vocab_size"]
    words = torch.randint(vocab_size, (3, options.get("length", 11) + 1), generator=g)
    return words[:, :-1], words[:, 1:]


def make_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam."""
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return torch.optim.Adam(model.parameters(), lr=0.01)


def named(model: nn.Module, *, grads: bool = False) -> dict[str, Float[Tensor, "..."]]:
    """Copies of the parameters, or of their gradients, by name."""
    return {n: (p.grad if grads else p).detach().clone() for n, p in model.named_parameters()}


def whole_run(options: dict[str, Any]) -> dict[str, Any]:
    """One process: first logits, gradients and their norm, all losses, the weights at the end."""
    model = small_gpt(options)
    optimizer = make_optimizer(options.get("optimizer", "adam"), model)
    run: dict[str, Any] = {"losses": [], "norms": []}
    for step in range(options["steps"]):
        tokens, targets = batch(options, step)
        logits = model(tokens)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
        run["norms"].append(norm)
        if step == 0:
            run |= {"logits": logits.detach(), "grads": named(model, grads=True)}
        run["losses"].append(loss.item())
        optimizer.step()
    return run | {"weights": named(model)}


def sharded_run(group: dist.ProcessGroup | None, options: dict[str, Any]) -> dict[str, Any]:
    """The same by a group of processes: the own parts of everything, and what was sent."""
    full, cut_text = small_gpt(options), options.get("sequence_parallel", False)
    model = TensorParallelGPT(full, group, sequence_parallel=cut_text)
    optimizer, run = make_optimizer(options.get("optimizer", "adam"), model), {"losses": []}
    run["collectives"] = collectives(model, *batch(options, 0))
    for step in range(options["steps"]):
        tokens, targets = batch(options, step)
        optimizer.zero_grad()
        logits = model(tokens)
        loss = model.loss(logits, targets)
        loss.backward()
        sum_replicas(model)
        if step == 0:
            run |= {"logits": logits.detach(), "grads": named(model, grads=True)}
            run["norm"] = grad_norm(model.parameters(), group)
            run["n_parameters"] = sum(p.numel() for p in model.parameters())
        run["losses"].append(loss.item())
        optimizer.step()
    cuts = {n: getattr(p, "cut", -1) for n, p in model.named_parameters()}
    return run | {"weights": named(model), "cuts": cuts}


def collectives(
    model: TensorParallelGPT, tokens: Int[Tensor, "batch seq"], targets: Int[Tensor, "batch seq"]
) -> dict[str, dict[str, int]]:
    """How often what is sent in each part of a step, counted by torch."""
    with CommDebugMode() as forward:
        logits = model(tokens)
    with CommDebugMode() as judging:
        loss = model.loss(logits, targets)
    with CommDebugMode() as backward:
        loss.backward()
    modes = {"forward": forward, "loss": judging, "backward": backward}
    return {
        name: {str(op).split(".")[-1].rstrip("_"): n for op, n in mode.get_comm_counts().items()}
        for name, mode in modes.items()
    }


def mesh_run(rank: int, world: int, options: dict[str, Any]) -> dict[str, Any]:
    """For `launch`: the steps of a grid of data and tensor parallel processes."""
    column, row = mesh.groups(options["data"], options["tensor"])
    model = TensorParallelGPT(small_gpt(options), row)
    optimizer, losses, norms = make_optimizer("adam", model), [], []
    for step in range(options["steps"]):
        whole = batch(options, step)
        tokens, targets = (mesh.mine(x, column) for x in whole)
        losses.append(mesh.backward(model, tokens, targets, column, whole[1].numel()))
        norms.append(grad_norm(model.parameters(), row))
        optimizer.step()
    cuts = {n: getattr(p, "cut", -1) for n, p in model.named_parameters()}
    return {"losses": losses, "norms": norms, "weights": named(model), "cuts": cuts}


def sharded_runs(rank: int, world: int, cases: list[dict[str, Any]]) -> list[dict | None]:
    """For `launch`: each case by the first `case["world"]` processes; None for the others."""
    groups = {n: dist.new_group(range(n)) for n in sorted({case["world"] for case in cases})}
    return [
        sharded_run(groups[case["world"]], case) if rank < case["world"] else None for case in cases
    ]


def joined(parts: list[dict[str, Any]], what: str) -> dict[str, Float[Tensor, "..."]]:
    """Shards of all processes put together under the whole model's names; of replicas, the mean.

    Raises
    ------
    ValueError
        If replicas are not bit-equal.
    """
    whole = {}
    for name, cut in parts[0]["cuts"].items():
        pieces = [part[what][name] for part in parts]
        if cut < 0 and not all(torch.equal(pieces[0], piece) for piece in pieces):
            raise ValueError(f"replicas of {name} must be equal bit by bit")
        stem, bias = name.removesuffix("_bias"), name.endswith("_bias")
        plain = name.endswith((".weight", ".bias"))
        target = name if plain else f"{stem}.{'bias' if bias else 'weight'}"
        whole[target] = pieces[0] if cut < 0 else torch.cat(pieces, cut)
    return whole


def flat(tensors: dict[str, Float[Tensor, "..."]]) -> Float[Tensor, " n"]:
    """All numbers in one row, by name."""
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])
