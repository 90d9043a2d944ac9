r"""What ZeRO's stages hold and send, counted: a small stack of layers on ragged texts.

16-bit parameters and gradients and 32-bit states, as in the paper; on a CPU the 16 bits save memory
and no time. `measure` is a worker for `launch`; the paper's reproduction and week 17's evidence
share it.

>>> model = stack(0, width=4, depth=1)
>>> sum(p.numel() for p in model.parameters())  # 7 · 4, 4 · 4 + 4, 4 · 7 + 7
83
>>> [len(t) for t in texts(0, 0)][-3:]  # the last process has the longest
[17, 15, 16]

Source: S. Rajbhandari et al., *ZeRO* (2020), sections 3.1 and 7.
"""

from unittest import mock

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from week16.gradient_accumulation import in_micro_batches, token_loss_sum
from week17.collectives import Ring
from week17.processes import Answer, subgroups
from week17.zero import Unit, Zero

VOCAB_SIZE = 7


def stack(
    seed: int, width: int = 11, depth: int = 3, dtype: torch.dtype = torch.float64
) -> nn.Sequential:
    """Blocks of odd sizes, and an embedding and an output layer that are units of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        blocks = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)]
        first, last = nn.Embedding(VOCAB_SIZE, width), nn.Linear(width, VOCAB_SIZE)
        return nn.Sequential(first, *blocks, last).to(dtype)


def texts(step: int, seed: int, n: int = 12) -> list[Int[Tensor, "token"]]:
    """Ragged sequences, those of one process longer than those of another."""
    g = torch.Generator().manual_seed(1000 * seed + step)
    lengths = torch.randint(2, 6, (n,), generator=g) + torch.arange(n) // 3 * 4
    return [torch.randint(VOCAB_SIZE, (int(m),), generator=g) for m in lengths]


def share(sequences: list, rank: int, size: int) -> list:
    """The rank's part of the batch: neighbors, and not always equally many."""
    edges = [len(sequences) * r // size for r in range(size + 1)]
    return sequences[edges[rank] : edges[rank + 1]]


def weights(model: nn.Module) -> Float[Tensor, "n"]:
    """All parameters in one row."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def batches(step: int, seed: int, ring: Ring, micro_batch: int) -> list:
    """This process's share of the step's texts."""
    return in_micro_batches(share(texts(step, seed), ring.rank, ring.size), micro_batch)


def measure(steps: int, seed: int, width: int, forget: bool = False) -> Answer:
    """All stages with 16-bit parameters and gradients and 32-bit states: losses, bytes, traffic.

    With `forget` gathered parameters are not given back.
    """
    out: Answer = {}
    free = (lambda *_: None) if forget else Unit.free
    for n, group in subgroups().items():
        if group is None or n == 1:
            continue
        for stage in (3,) if forget else range(4):
            with mock.patch.object(Unit, "free", free):
                ring, model = Ring(group), stack(seed, width, dtype=torch.float16)
                zero = Zero(list(model), ring, stage=stage, lr=3e-3, weight_decay=0.0)
                found = _measure(model, zero, steps, seed)
            out |= {f"{n} stage {stage} {key}": value for key, value in found.items()}
    return out


def _measure(model: nn.Sequential, zero: Zero, steps: int, seed: int) -> Answer:
    """Losses; bytes after the backward pass, when all gradients are there; bytes sent."""
    losses, ring = [], zero.ring
    for step in range(steps):
        part = batches(step, seed, ring, 12)
        tokens = ring.all_reduce(sum((b.targets >= 0).sum() for b in part))
        before, total = ring.sent, 0.0
        for batch in part:
            loss, _ = token_loss_sum(model, batch)
            loss.backward()
            total = total + loss.detach().double()
        kept = zero.memory()
        of_backward = ring.sent - before
        before, unclipped = ring.sent, zero.step(float(tokens))
        # the norm's one number is not the method's traffic
        extra = 0 if zero.stage == 0 else 2 * (ring.size - 1) * 8
        sent = of_backward + ring.sent - before - extra
        losses.append(ring.all_reduce(total) / tokens)
    return {
        "losses": torch.stack(losses),
        "bytes": torch.tensor(list(kept.values())),
        "sent": torch.tensor(sent),
        "norm": torch.tensor(unclipped),
        "parameters": torch.tensor(sum(len(u.flat) for u in zero.units)),
        "unpadded": torch.tensor(sum(p.numel() for p in model.parameters())),
    }
