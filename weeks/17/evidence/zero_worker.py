"""What each process does for the evidence of ZeRO and FSDP, for their tests and the paper."""

import functools
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer

from week16.gradient_accumulation import in_micro_batches, pad, token_loss_sum
from week17 import fsdp
from week17.collectives import Ring
from week17.processes import Answer, subgroups
from week17.zero import Zero, train_step
from week17.zero_measures import VOCAB_SIZE, batches, share, stack, texts, weights

LR, DECAY, MAX_NORM = 0.05, 0.3, 0.1


def groups_of(model: nn.Module) -> list[dict]:
    """Only matrices decay."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]


def alone(steps: int, seed: int, max_norm: float = MAX_NORM) -> Answer:
    """The truth: one process, torch's AdamW, torch's clipping, one padded batch."""
    model, losses, norms = stack(seed), [], []
    optimizer = torch.optim.AdamW(groups_of(model), lr=LR)
    for step in range(steps):
        loss, n = token_loss_sum(model, pad(texts(step, seed)))
        optimizer.zero_grad()
        (loss / n).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), max_norm))
        optimizer.step()
        losses.append((loss / n).detach())
    return {
        "losses": torch.stack(losses),
        "weights": weights(model),
        "norms": torch.stack(norms),
    }


def zero_of(model: nn.Sequential, ring: Ring, stage: int, **options) -> Zero:
    """Each layer is a unit."""
    options = {"lr": LR, "weight_decay": DECAY} | options
    return Zero(list(model), ring, stage=stage, **options)


def gathered(zero: Zero) -> Tensor:
    """All weights, at any stage."""
    parts = []
    for unit in zero.units:
        if zero.stage == 3:
            unit.gather()
        parts += [p.detach().flatten().clone() for p in unit.parameters]
        if zero.stage == 3:
            unit.free()
    return torch.cat(parts)


def ours(group, stage: int, steps: int, seed: int, micro_batch: int = 12) -> Answer:
    """Losses, weights and bytes sent of one stage."""
    ring, model, losses = Ring(group), stack(seed), []
    zero = zero_of(model, ring, stage, state_dtype=torch.float64)
    for step in range(steps):
        part = batches(step, seed, ring, micro_batch)
        losses.append(train_step(model, zero, part, token_loss_sum, max_norm=MAX_NORM).loss)
    losses = torch.tensor(losses, dtype=torch.float64)
    return {"losses": losses, "weights": gathered(zero)}


def redundancy(group, steps: int, seed: int) -> Answer:
    """Torch's stage 1, `ZeroRedundancyOptimizer`, its gradients summed by torch."""
    rank, size, losses = dist.get_rank(group), dist.get_world_size(group), []
    model = stack(seed)
    options = {"lr": LR, "process_group": group}
    first, second = groups_of(model)
    optimizer = ZeroRedundancyOptimizer([first], torch.optim.AdamW, **options)
    optimizer.add_param_group(second)
    for step in range(steps):
        loss, n = token_loss_sum(model, pad(share(texts(step, seed), rank, size)))
        model.zero_grad()
        loss.backward()
        total = torch.stack([loss.detach(), n.double()])
        for tensor in (total, *(p.grad for p in model.parameters())):
            dist.all_reduce(tensor, group=group)
        for p in model.parameters():
            p.grad /= total[1]
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        losses.append(total[0] / total[1])
    return {"losses": torch.stack(losses), "weights": weights(model)}


def sharded(group, steps: int, seed: int, micro_batch: int, keep_gathered: bool = False) -> Answer:
    """FSDP2: losses, weights, and whether the schedule is the expected one."""
    rank, size, losses = dist.get_rank(group), dist.get_world_size(group), []
    model = stack(seed)
    fsdp.shard(model, list(model)[1:-1], group, keep_gathered=keep_gathered)
    optimizer = fsdp.optimizer_of(model, lr=LR, weight_decay=DECAY)
    step_of = functools.partial(fsdp.train_step, group=group, max_norm=MAX_NORM)
    for step in range(steps):
        part = in_micro_batches(share(texts(step, seed), rank, size), micro_batch)
        losses.append(step_of(model, optimizer, part, token_loss_sum).loss)
    events, n_bytes = schedule(model)
    return {
        "losses": torch.tensor(losses, dtype=torch.float64),
        "weights": fsdp.full_weights(model),
        "schedule": torch.tensor([ord(e) for e in events]),
        "sent": torch.tensor(n_bytes),
    }


def schedule(model: nn.Module) -> tuple[list[str], int]:
    """What one forward and one backward pass of an FSDP2 model call."""
    with fsdp.Schedule() as log:
        out = model(torch.arange(VOCAB_SIZE)).sum()
        log.mark("|")
        out.backward()
    return log.events, log.n_bytes


def our_schedule(group, seed: int) -> tuple[list[str], int, int]:
    """The same of our stage 3, with the most parameters that were there at a time."""
    ring, model, events, most = Ring(group), stack(seed), [], [0]
    zero = zero_of(model, ring, 3, state_dtype=torch.float64)

    def noted(name, method):
        def call(*args):
            events.append(name)
            out = method(*args)
            most[0] = max(most[0], zero.memory()["parameters"])
            return out

        return call

    for name, method in (("G", "all_gather"), ("S", "reduce_scatter")):
        setattr(ring, method, noted(name, getattr(ring, method)))
    sent = ring.sent
    out = model(torch.arange(VOCAB_SIZE)).sum()
    events.append("|")
    out.backward()
    return events, ring.sent - sent, most[0]


def train(steps: int, seed: int, arms: tuple[str, ...] = ("zero", "fsdp")) -> Answer:
    """All stages, torch's stage 1 and torch's FSDP2 in groups of 1, 2, … processes."""
    out: Answer = {}
    for n, group in subgroups().items():
        if group is None:
            continue
        found = {}
        if "zero" in arms:
            for stage in range(4):
                found[f"stage {stage}"] = ours(group, stage, steps, seed)
            found["stage 3, accumulated"] = ours(group, 3, steps, seed, micro_batch=1)
            found["torch's stage 1"] = redundancy(group, steps, seed)
        if "fsdp" in arms:
            found["fsdp"] = sharded(group, steps, seed, micro_batch=12)
            found["fsdp, accumulated"] = sharded(group, steps, seed, micro_batch=1)
            found["fsdp, kept"] = sharded(group, steps, seed, 12, keep_gathered=True)
            found["ours"] = ours(group, 3, steps, seed)
            if n > 1:
                events, sent, most = our_schedule(group, seed)
                found["ours"] |= {
                    "schedule": torch.tensor([ord(e) for e in events]),
                    "sent": torch.tensor(sent),
                    "most": torch.tensor(most),
                }
        for arm, answer in found.items():
            out |= {f"{n} {arm} {key}": value for key, value in answer.items()}
    return out


def clipped(steps: int, seeds: list[int]) -> Answer:
    """Weights where each process clips by the norm of its own piece, and where by the whole."""
    out: Answer = {}
    for seed in seeds:
        for arm in ("own", "whole"):
            ring, model = Ring(), stack(seed)
            zero, all_reduce = zero_of(model, ring, 1, state_dtype=torch.float64), ring.all_reduce
            for step in range(steps):
                (batch,) = batches(step, seed, ring, 12)
                loss, tokens = token_loss_sum(model, batch)
                loss.backward()
                tokens = all_reduce(tokens)
                with mock.patch.object(
                    ring, "all_reduce", (lambda x: x) if arm == "own" else all_reduce
                ):
                    zero.step(float(tokens), max_norm=MAX_NORM)
            out[f"{seed} {arm}"] = gathered(zero)
    return out
