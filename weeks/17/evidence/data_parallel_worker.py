"""What each process does for the evidence of data parallelism, and for its tests."""

import contextlib

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from week16.gradient_accumulation import in_micro_batches, pad, token_loss_sum
from week17.collectives import Ring
from week17.data_parallel import DataParallel, train_step
from week17.processes import Answer, subgroups
from week17.zero_measures import VOCAB_SIZE, share, texts, weights

LR = 0.05


def small_lm(seed: int) -> nn.Sequential:
    """A model of the next token that sees one token: odd sizes, 188 parameters, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = (nn.Embedding(VOCAB_SIZE, 5), nn.Linear(5, 11), nn.Tanh(), nn.Linear(11, 7))
        return nn.Sequential(*layers).double()


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all arms."""
    return torch.optim.AdamW(model.parameters(), lr=LR)


def alone(steps: int, seed: int) -> Answer:
    """The truth: one process, one padded batch, torch's mean over all its tokens."""
    model, losses = small_lm(seed), []
    optimizer = adam(model)
    for step in range(steps):
        loss, n = token_loss_sum(model, pad(texts(step, seed)))
        optimizer.zero_grad()
        (loss / n).backward()
        optimizer.step()
        losses.append((loss / n).detach())
    return {"losses": torch.stack(losses), "weights": weights(model)}


def ours(group, steps: int, seed: int, micro_batch: int) -> Answer:
    """`train_step` in a group; only the first process has the model that counts."""
    ring, losses = Ring(group), []
    model = small_lm(seed + 77 * ring.rank)  # all others are overwritten
    parallel = DataParallel(model, ring, most_bytes=450)
    optimizer = adam(model)
    for step in range(steps):
        part = share(texts(step, seed), ring.rank, ring.size)
        before = ring.sent
        losses.append(
            train_step(
                parallel, optimizer, in_micro_batches(part, micro_batch), token_loss_sum
            ).loss
        )
        sent = ring.sent - before
    return {
        "losses": torch.tensor(losses, dtype=torch.float64),
        "weights": weights(model),
        "sent": torch.tensor(sent),
        "early": torch.tensor(parallel.early),
        "buckets": torch.tensor([sum(p.numel() for p in b) for b in parallel.buckets]),
    }


def theirs(group, steps: int, seed: int, micro_batch: int) -> Answer:
    """Torch's DDP. It averages over processes, so that each loss is scaled by their number."""
    rank, size, losses = dist.get_rank(group), dist.get_world_size(group), []
    model = small_lm(seed)
    ddp = DistributedDataParallel(model, process_group=group, bucket_cap_mb=0.0003)
    optimizer = adam(model)
    for step in range(steps):
        batches = in_micro_batches(share(texts(step, seed), rank, size), micro_batch)
        tokens = sum((b.targets >= 0).sum() for b in batches).double()
        dist.all_reduce(tokens, group=group)
        optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with contextlib.nullcontext() if last else ddp.no_sync():
                loss, _ = token_loss_sum(ddp, batch)
                (loss * size / tokens).backward()
            total += loss.detach()
        dist.all_reduce(total, group=group)
        optimizer.step()
        losses.append(total / tokens)
    return {"losses": torch.stack(losses), "weights": weights(model)}


def mean_of_means(group, steps: int, seed: int) -> Answer:
    """The mistake: each process divides by its own tokens, and gradients are averaged."""
    ring, model = Ring(group), small_lm(seed)
    optimizer, gaps = adam(model), []
    for step in range(steps):
        batch = pad(share(texts(step, seed), ring.rank, ring.size))
        loss, n = token_loss_sum(model, batch)
        grads = torch.autograd.grad(loss, list(model.parameters()))
        total = torch.cat([g.flatten() for g in grads])
        wrong, right = ring.all_reduce(torch.stack([total / n / ring.size, total]))
        right = right / ring.all_reduce(n)
        gaps.append((wrong - right).norm() / right.norm())
        for p, g in zip(
            model.parameters(), wrong.split([p.numel() for p in model.parameters()]), strict=True
        ):
            p.grad = g.view_as(p)
        optimizer.step()
    return {"gaps": torch.stack(gaps), "weights": weights(model)}


def wrongly(steps: int, seeds: list[int]) -> Answer:
    """The mistake for several seeds in all groups, and the right way in the largest."""
    out: Answer = {}
    for n, group in subgroups().items():
        if group is not None:
            for seed in seeds:
                found = mean_of_means(group, steps, seed)
                out |= {f"{n} {seed} {key}": value for key, value in found.items()}
    for seed in seeds:
        out[f"{seed} right"] = ours(None, steps, seed, 12)["weights"]
    return out


def train(steps: int, seed: int, micro_batches: tuple[int, ...] = (12, 2)) -> Answer:
    """All arms in groups of 1, 2, … processes."""
    out: Answer = {}
    for n, group in subgroups().items():
        if group is None:
            continue
        for micro_batch in micro_batches:
            arms = {"ours": ours, "torch": theirs}
            for arm, function in arms.items():
                found = function(group, steps, seed, micro_batch)
                out |= {f"{n} {micro_batch} {arm} {key}": value for key, value in found.items()}
    return out


class Fork(nn.Module):
    """Uses one of two branches, so that gradients come in another order, and some not at all."""

    def __init__(self, seed: int):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.a, self.b, self.c = (nn.Linear(3, 3).double() for _ in range(3))

    def forward(self, x: Tensor, branch: int) -> Tensor:
        """Branch 0 visits a and then b, branch 1 b and then a, branch 2 only c."""
        paths = ((self.a, self.b), (self.b, self.a), (self.c,))
        return nn.Sequential(*paths[branch])(x)


def fork_loss(model: Fork, batch: tuple[Tensor, int]):
    """Sum of squares over a branch."""
    x, branch = batch
    return model(x, branch).square().sum(), len(x)


def fork(seed: int) -> Answer:
    """Gradients where each process goes another way, and process 2 has nothing to do."""
    out: Answer = {}
    for n, group in subgroups().items():
        if group is None:
            continue
        ring, model = Ring(group), Fork(seed)
        x = torch.randn(n + 2, 3, generator=torch.Generator().manual_seed(seed)).double()
        parallel = DataParallel(model, ring, most_bytes=1)
        plan = [[(x[:1], 0)], [(x[1:2], 1), (x[2:3], 1)], [], [(x[3:4], 2)]]
        plan = plan[:n]
        frozen = torch.optim.SGD(model.parameters(), lr=0.0)
        train_step(parallel, frozen, plan[ring.rank], fork_loss)
        whole = Fork(seed)
        batches = [batch for part in plan for batch in part]
        total = sum(fork_loss(whole, batch)[0] for batch in batches)
        (total / len(batches)).backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in whole.parameters()]
        out[f"{n} ours"] = torch.cat([p.grad.flatten() for p in model.parameters()])
        out[f"{n} one process"] = torch.cat([g.flatten() for g in grads])
    return out
