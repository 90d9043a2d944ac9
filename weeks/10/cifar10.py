r"""Project 2a: a small ResNet on CIFAR-10, with crop and flip, one cycle, and SGD or Muon.

By default on 15,000 of the 50,000 pictures, at half their resolution, and for little more than one
pass: what a minute allows. Training is four ideas of earlier weeks in one loop. Pictures are moved
and mirrored; the rate rises and falls once; weights, and not gains and biases, decay; and with
Muon the filters, as matrices of one row per channel, step in all directions alike,

$$ W \leftarrow W - \eta\, U V^\top, \qquad M = U S V^\top \text{ the momentum.} $$

In use a picture and its mirror image vote: the mean of both logits.

>>> x = standardize(np.full((1, 2, 2, 3), 255, np.uint8), mean=(0.5,) * 3, std=(0.25,) * 3)
>>> x.shape, x.unique().tolist()
(torch.Size([1, 3, 2, 2]), [2.0])
>>> confusion(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2).tolist()
[[1, 1], [0, 1]]

    uv run weeks/10/cifar10.py

He, Zhang, Ren, Sun (2015), section 4.2; Jordan (2024), "94% on CIFAR-10 in 3.29 seconds on a
single GPU" (airbench); Krizhevsky (2009) for the data.
"""

import contextlib
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from shared.require import require
from week09.muon import Muon
from week09.optimizers import SGD, Optimizer
from week09.schedules import one_cycle
from week10.augmentation import Images, random_crop, random_flip
from week10.resnet import Logits, cifar_resnet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the 50,000, as is usual


def standardize(
    images: UInt8[np.ndarray, "n height width 3"],
    *,
    mean: tuple[float, float, float] = MEAN,
    std: tuple[float, float, float] = STD,
) -> Float[Tensor, "n 3 height width"]:
    """Channels first, each minus its mean over its deviation; 0 is then the mean color."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (mean, std))
    return ((x - mean) / std).contiguous()


def small_resnet(depth: int = 8, width: int = 16, *, halve: bool = True) -> nn.Sequential:
    """A ResNet for 32 × 32 pictures that looks at their 2 × 2 means, a quarter of the work."""
    return nn.Sequential(nn.AvgPool2d(2 if halve else 1), cifar_resnet(depth, width=width))


# ---- optimizers


class FilterMuon:
    """Muon on convolutions: a filter bank is a matrix with one row per output channel.

    Parameters
    ----------
    params
        Weights of shape (outputs, inputs, height, width).
    """

    def __init__(self, params: list[nn.Parameter], **options):
        strange = [tuple(p.shape) for p in params if p.ndim != 4]
        require(not strange, "params must be weights of convolutions", *strange[:1])
        self.filters = params
        # views: what moves them moves the filters
        self.muon = Muon([p.detach().view(len(p), -1) for p in params], **options)

    @property
    def lr(self) -> float:
        """Step size; may be reassigned between steps."""
        return self.muon.lr

    @lr.setter
    def lr(self, value: float) -> None:
        """Set it."""
        self.muon.lr = value

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.filters:
            p.grad = None

    def step(self) -> None:
        """Move the filters that have a gradient."""
        for p, matrix in zip(self.filters, self.muon.params, strict=True):
            matrix.grad = None if p.grad is None else p.grad.reshape(matrix.shape)
        self.muon.step()


def make_optimizers(
    model: nn.Module, kind: Literal["sgd", "muon"], *, lr: float, weight_decay: float = 5e-4
) -> list[Optimizer | FilterMuon]:
    """Optimizers for weights with decay, and for gains and biases without.

    With Muon the convolutions have one of their own, of rate 0.2 lr; the rest stays with SGD.
    """
    require(kind in ("sgd", "muon"), "kind must be sgd or muon", kind)
    params = list(model.parameters())
    filters = [p for p in params if p.ndim == 4 and kind == "muon"]
    weights = [p for p in params if p.ndim > 1 and (p.ndim != 4 or kind == "sgd")]
    rest, momentum = [p for p in params if p.ndim == 1], {"momentum": 0.9, "nesterov": True}
    made = [SGD(weights, lr=lr, weight_decay=weight_decay, **momentum)] if weights else []
    made += [SGD(rest, lr=lr, **momentum)] if rest else []
    return made + ([FilterMuon(filters, lr=0.2 * lr, momentum=0.9)] if filters else [])


# ---- training and use


def train(
    model: nn.Module,
    x: Images,
    y: Int[Tensor, " n"],
    *,
    lr: float,
    steps: int,
    generator: torch.Generator,
    batch_size: int = 64,
    optimizer: Literal["sgd", "muon"] = "sgd",
    padding: int = 4,
    channels_last: bool = False,
    bf16: bool = False,
) -> Float[Tensor, " steps"]:
    """One cycle over shuffled epochs of moved and mirrored pictures; the losses of all steps.

    The weights of the last step are what counts: none are chosen on the way.

    Parameters
    ----------
    lr
        At the cycle's peak.
    padding
        Pictures move by up to this many pixels; the border has the mean color. 0 for neither
        crop nor flip.
    channels_last, bf16
        Order of memory, and precision of the products: faster on some machines.
    """
    optimizers = make_optimizers(model, optimizer, lr=lr)
    rates = [one.lr for one in optimizers]
    precision = torch.autocast(x.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
    model.train()
    order, losses = torch.empty(0, dtype=torch.long), []
    for step in range(steps):
        for one, rate in zip(optimizers, rates, strict=True):
            one.lr = rate * one_cycle(step, steps=max(steps, 4))
        while len(order) < batch_size:
            order = torch.cat([order, torch.randperm(len(x), generator=generator)])
        rows, order = order[:batch_size].to(x.device), order[batch_size:]
        batch = x[rows]
        if padding:
            batch = random_flip(random_crop(batch, generator, padding=padding), generator)
        if channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with precision:
            loss = F.cross_entropy(model(batch), y[rows])
        for one in optimizers:
            one.zero_grad()
        loss.backward()
        for one in optimizers:
            one.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@torch.no_grad()
def predict(model: nn.Module, x: Images, *, flips: bool = False, batch_size: int = 500) -> Logits:
    """Logits in use; with `flips` the mean of each picture's and its mirror image's."""
    model.eval()
    parts = [
        (model(part) + model(part.flip(3))) / 2 if flips else model(part)
        for part in x.split(batch_size)
    ]
    return torch.cat(parts)


def confusion(
    y: Int[Tensor, " n"], predicted: Int[Tensor, " n"], n_classes: int
) -> Int[Tensor, "true predicted"]:
    """How many pictures of each class (rows) were taken for each class (columns)."""
    pairs = torch.bincount(y * n_classes + predicted, minlength=n_classes**2)
    return pairs.view(n_classes, n_classes)


def worst(logits: Logits, y: Int[Tensor, " batch"], n: int) -> Int[Tensor, " most"]:
    """Rows of the `n` largest losses, the largest first."""
    return F.cross_entropy(logits, y, reduction="none").topk(min(n, len(y))).indices


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
