"""All gradients of a model at once."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def flat_grad(model: nn.Module) -> Float[Tensor, " parameter"]:
    """The `.grad` of every parameter, in one row."""
    return torch.cat([p.grad.flatten() for p in model.parameters()]).clone()


def relative(ours: Float[Tensor, " n"], theirs: Float[Tensor, " n"]) -> float:
    """Length of the difference in units of `theirs`."""
    return ((ours - theirs).norm() / theirs.norm()).item()
