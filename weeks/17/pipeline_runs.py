"""A small GPT in stages, run by our schedules and by torch's; and a pipeline that keeps time.

>>> layers = small_layers(0)
>>> [len(part) for part in split(layers, 3)]
[3, 2, 2]
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from week14.minimal_gpt import GPT, GPTConfig
from week17.pipeline_parallel import run_pipeline, schedule

D_MODEL, VOCAB_SIZE, LENGTH = 12, 11, 9


def small_layers(seed: int) -> nn.Sequential:
    """A GPT as a list of layers: embedding, four blocks, norm, head."""
    g = torch.Generator().manual_seed(seed)
    model = GPT(GPTConfig(VOCAB_SIZE, 16, n_layers=4, n_heads=3, d_model=D_MODEL), g).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return nn.Sequential(model.embed, *model.blocks, model.norm, model.head)


def split(layers: nn.Sequential, n_stages: int) -> list[nn.Sequential]:
    """Consecutive layers; stages differ by at most one."""
    sizes = [len(layers) // n_stages + (i < len(layers) % n_stages) for i in range(n_stages)]
    ends = [sum(sizes[: i + 1]) for i in range(n_stages)]
    return [layers[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def words(seed: int, n_rows: int) -> tuple[Int[Tensor, "row seq"], Int[Tensor, "row seq"]]:
    """Random words, and the words after them."""
    g = torch.Generator().manual_seed(seed + 1)
    drawn = torch.randint(VOCAB_SIZE, (n_rows, LENGTH + 1), generator=g)
    return drawn[:, :-1], drawn[:, 1:]


def named_grads(layers: nn.Module) -> dict[str, Float[Tensor, "..."]]:
    """Copies of all gradients, by name."""
    return {name: p.grad.clone() for name, p in layers.named_parameters() if p.grad is not None}


def whole_step(case: dict[str, Any]) -> dict[str, Any]:
    """One process, the whole batch at once."""
    layers, (tokens, targets) = small_layers(case["seed"]), words(case["seed"], case["n_rows"])
    loss = F.cross_entropy(layers(tokens).flatten(0, 1), targets.flatten())
    loss.backward()
    return {"loss": loss.item(), "grads": named_grads(layers)}


def accumulated_step(case: dict[str, Any]) -> dict[str, Any]:
    """One process, a micro-batch at a time."""
    layers, (tokens, targets) = small_layers(case["seed"]), words(case["seed"], case["n_rows"])
    total = 0.0
    cut = (x.tensor_split(case["n_micro"]) for x in (tokens, targets))
    for some, goals in zip(*cut, strict=True):
        logits = layers(some).flatten(0, 1)
        loss = F.cross_entropy(logits, goals.flatten(), reduction="sum") / targets.numel()
        loss.backward()
        total += loss.item()
    return {"loss": total, "grads": named_grads(layers)}


def pipeline_step(case: dict[str, Any], group: dist.ProcessGroup) -> dict[str, Any]:
    """This process's part of a step by one of our schedules."""
    rank, n = dist.get_rank(group), dist.get_world_size(group)
    n_micro, n_pieces = case["n_micro"], case.get("n_pieces", 1)
    layers, (tokens, targets) = small_layers(case["seed"]), words(case["seed"], case["n_rows"])
    inputs, goals = tokens.tensor_split(n_micro), targets.tensor_split(n_micro)
    pieces = split(layers, n * n_pieces)[rank::n]

    def loss(logits: Tensor, micro: int) -> Tensor:
        logits, goal = logits.flatten(0, 1), goals[micro].flatten()
        return F.cross_entropy(logits, goal, reduction="sum") / targets.numel()

    tasks = schedule(case["name"], n, n_micro, n_pieces)[rank]
    shape = [(*x.shape, D_MODEL) for x in inputs]
    total, most = run_pipeline(pieces, tasks, inputs, loss, shape.__getitem__, group=group)
    return {"loss": total, "most": most, "grads": named_grads(layers)}


def library_step(case: dict[str, Any]) -> dict[str, Any]:
    """This process's part of a step by torch.distributed.pipelining, on all processes."""
    from torch.distributed import pipelining

    rank, n, n_pieces = dist.get_rank(), dist.get_world_size(), case.get("n_pieces", 1)
    layers, (tokens, targets) = small_layers(case["seed"]), words(case["seed"], case["n_rows"])
    cut, device = split(layers, n * n_pieces), torch.device("cpu")
    stages = [
        pipelining.PipelineStage(cut[i], i, n * n_pieces, device)
        for i in range(rank, n * n_pieces, n)
    ]
    kinds = {
        "gpipe": pipelining.ScheduleGPipe,
        "1f1b": pipelining.Schedule1F1B,
        "interleaved": pipelining.ScheduleInterleaved1F1B,
    }

    def loss(logits: Tensor, goal: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), goal.flatten())

    of = stages if case["name"] == "interleaved" else stages[0]
    runner = kinds[case["name"]](of, case["n_micro"], loss_fn=loss)
    given = {"target": targets} if rank == n - 1 else {}
    runner.step(*((tokens,) if rank == 0 else ()), **given)
    return {"grads": named_grads(layers)}


def pipeline_steps(
    rank: int, world: int, cases: list[dict[str, Any]], clocks: list[dict[str, Any]] = ()
) -> dict[str, list]:
    """For `launch`: each case by the first `case["world"]` processes, and pipelines of clocks."""
    groups = {n: dist.new_group(range(n)) for n in range(1, world + 1)}

    def each(work, some: list[dict[str, Any]]) -> list:
        return [
            work(case, groups[case["world"]]) if rank < case["world"] else None for case in some
        ]

    theirs = [library_step(case) for case in cases if case.get("library")]
    return {
        "ours": each(pipeline_step, cases),
        "theirs": theirs,
        "clocks": each(clocked_step, clocks),
    }


def merged(parts: list[dict[str, Any]]) -> Float[Tensor, " n"]:
    """Gradients of all processes in one row, by name: no two have the same."""
    whole = {name: grad for part in parts for name, grad in part["grads"].items()}
    return torch.cat([whole[name].flatten() for name in sorted(whole)])


# ---- time without a clock


class _Tick(torch.autograd.Function):
    """The first number of what is handed on says when it was ready, either way."""

    @staticmethod
    def forward(ctx, x, stage):
        ctx.stage = stage
        return stage.spend(x, stage.forward_time)

    @staticmethod
    def backward(ctx, grad):
        return ctx.stage.spend(grad, ctx.stage.backward_time), None


class TimedStage(nn.Module):
    """A stage that computes nothing and knows what time it is.

    Each message carries the time at which it was sent, and a process's time is the later of its
    own and the message's. So the order of real messages decides, and the speed of the machine does
    not.
    """

    def __init__(self, forward_time: float, backward_time: float):
        super().__init__()
        self.forward_time, self.backward_time, self.now = forward_time, backward_time, 0.0

    def spend(self, x: Float[Tensor, "1"], time: float) -> Float[Tensor, "1"]:
        """Wait for what came, work, and give the time."""
        self.now = max(self.now, x.item()) + time
        return torch.full_like(x, self.now)

    def forward(self, x: Float[Tensor, "1"]) -> Float[Tensor, "1"]:
        """The time at which a micro-batch leaves."""
        return _Tick.apply(x, self)


def clocked_step(case: dict[str, Any], group: dist.ProcessGroup) -> dict[str, float]:
    """When this process is done, and how long it worked."""
    rank, n, n_micro = dist.get_rank(group), dist.get_world_size(group), case["n_micro"]
    forward = case["forward"][rank]
    stage = TimedStage(forward, 2 * forward)
    inputs = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(n_micro)]
    tasks = schedule(case["name"], n, n_micro)[rank]
    run_pipeline([stage], tasks, inputs, lambda y, m: 0 * y.sum(), lambda m: (1,), group=group)
    return {"end": stage.now, "work": 3 * forward * n_micro}


def clocked_bubble(parts: list[dict[str, float]]) -> float:
    """Share of the time in which processes had nothing to do."""
    end = max(part["end"] for part in parts)
    return 1 - sum(part["work"] for part in parts) / (len(parts) * end)
