"""Logits, gradients and first steps of a model beside those of its twin in transformers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from shared.study import Run
from week25.vision_twins import matched

Forward = Callable[[nn.Module], tuple[Tensor, Tensor]]  # logits and loss


def side_by_side(
    run: Run, name: str, ours: nn.Module, theirs: nn.Module, our_way: Forward, their_way: Forward
) -> None:
    """Check logits, loss, gradients, and the losses of three steps by Adam."""
    equal = run.against(f"transformers' {name}", atol=1e-5, why="float32 rounding")
    (logits, loss), (their_logits, their_loss) = our_way(ours), their_way(theirs)
    equal(f"logits of {name}", logits, their_logits, rtol=1e-5)
    equal(f"loss of {name}", loss, their_loss, rtol=1e-5)
    loss.backward()
    their_loss.backward()
    slopes = gradients(ours, theirs)
    equal(f"gradients of {name} / largest", *slopes, atol=1e-4, why="float32, batch and layers")
    losses = []
    for model, way in ((ours, our_way), (theirs, their_way)):
        # A large eps: keys' biases have no gradient but rounding, and Adam would enlarge it.
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-3)
        losses.append([])
        for _ in range(3):
            optimizer.zero_grad()
            loss = way(model)[1]
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
        losses[-1].append(way(model)[1].item())
    equal(f"losses of {name} over three steps of Adam", *losses, rtol=1e-4)


def gradients(ours: nn.Module, theirs: nn.Module) -> tuple[Tensor, Tensor]:
    """All of them in their order, divided by the largest of theirs."""
    pairs = matched(ours, theirs)
    mine = torch.cat([p.grad.flatten() for parts, _ in pairs for p in parts])
    other = torch.cat([p.grad.flatten() for _, p in pairs])
    return mine / other.abs().max(), other / other.abs().max()
