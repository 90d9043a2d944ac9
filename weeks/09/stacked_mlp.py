r"""Many small networks trained at once, each with its own ingredients of `regularization.py`.

Every tensor has a leading `run` axis: a seed, a setting, a learning rate. One `bmm` serves them all
and nothing passes between them, so that an ablation with hundreds of trainings is one training.

$$ h^{(r)}_{l+1} = \mathrm{ReLU}\bigl(h^{(r)}_l W^{(r)}_l + b^{(r)}_l\bigr), \; r = 1, \dots, R $$

>>> model = StackedMLP((4, 8, 3), seeds=[0, 1])
>>> x, y = torch.ones(2, 5, 4), torch.zeros(2, 5, dtype=torch.int64)
>>> model.forward(x).shape
torch.Size([2, 5, 3])
>>> settings = Settings.of([{"lr": 0.1}, {"lr": 0.1, "dropout": 0.5}])  # one for each run
>>> states = [{} for _ in model.parameters()]
>>> train_step(model, x, y, settings, states, torch.Generator().manual_seed(0)).shape
torch.Size([2])

    uv run weeks/09/regularization.py

Source: He et al., "Delving deep into rectifiers" (2015), for the first weights.
"""

import copy
import itertools
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require
from week09.regularization import (
    BatchNorm,
    adam_step,
    clip_by_norm,
    dropout,
    layer_norm,
    max_norm,
    smooth_labels,
)


@dataclass(frozen=True)
class Settings:
    """Strength of each ingredient in each run, (run,); the defaults switch it off."""

    lr: Float[Tensor, " run"]
    l2: Float[Tensor, " run"]
    decay: Float[Tensor, " run"]
    dropout: Float[Tensor, " run"]
    smoothing: Float[Tensor, " run"]
    clip: Float[Tensor, " run"]
    max_norm: Float[Tensor, " run"]

    @classmethod
    def of(cls, rows: list[dict[str, float]]) -> "Settings":
        """One dictionary for each run; what it does not name is off."""
        off = {"clip": float("inf"), "max_norm": float("inf")}
        names = [field.name for field in fields(cls)]
        for row in rows:
            unknown = sorted(set(row) - set(names))
            require(not unknown, f"rows must name only {names}", unknown)
        columns = [[float(row.get(n, off.get(n, 0.0))) for row in rows] for n in names]
        return cls(*map(torch.tensor, columns))


class StackedMLP:
    """As many ReLU networks as there are runs, multiplied side by side (`bmm`).

    Parameters
    ----------
    sizes
        Widths from the input to the classes.
    seeds
        (run,) seed of each run's first weights: equal seeds start equal.
    norm
        What stands between a hidden layer's product and its ReLU: ``none``, ``batch`` or ``layer``.
    """

    def __init__(self, sizes: tuple[int, ...], seeds: list[int], norm: str = "none"):
        known = norm in ("none", "batch", "layer")
        require(known, "norm must be none, batch or layer", repr(norm))
        require(len(sizes) > 1, "sizes must hold at least 2 widths", sizes)
        self.norm, runs = norm, len(seeds)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights, self.biases, self.norms = [], [], []
        for fan_in, fan_out in itertools.pairwise(sizes):
            drawn = [torch.randn(fan_in, fan_out, generator=g) for g in generators]
            weight = torch.stack(drawn) * (2 / fan_in) ** 0.5  # He et al. (2015)
            self.weights.append(weight.requires_grad_())
            self.biases.append(torch.zeros(runs, 1, fan_out, requires_grad=True))
        if norm != "none":  # layer norm uses the gain and the bias only
            self.norms = [BatchNorm(runs, width) for width in sizes[1:-1]]

    def parameters(self) -> list[Tensor]:
        """Weights first, then what is never decayed: biases, gains and shifts."""
        return self.weights + self.biases + [t for n in self.norms for t in (n.gain, n.bias)]

    def pick(self, runs: list[int]) -> "StackedMLP":
        """A copy of some of the runs; what is trained further leaves it alone."""
        chosen = copy.copy(self)
        chosen.weights = [w.detach()[runs].clone().requires_grad_() for w in self.weights]
        chosen.biases = [b.detach()[runs].clone().requires_grad_() for b in self.biases]
        chosen.norms = [copy.copy(norm) for norm in self.norms]
        for norm in chosen.norms:
            for name in ("gain", "bias", "running_mean", "running_var"):
                value = getattr(norm, name)
                kept = value.detach()[runs].clone().requires_grad_(value.requires_grad)
                setattr(norm, name, kept)
        return chosen

    def forward(
        self,
        x: Float[Tensor, "run batch features"],
        *,
        training: bool = False,
        update: bool = True,
        p: Float[Tensor, " run"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "run batch classes"]:
        """Logits; with `training` batch statistics, and hidden units dropped with probability p."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if i == len(self.weights) - 1:
                return x
            if self.norm == "batch":
                x = self.norms[i](x, training=training, update=update)
            elif self.norm == "layer":
                x = layer_norm(x, self.norms[i].gain, self.norms[i].bias)
            x = x.relu()
            if training and p is not None and p.any():
                x = dropout(x, p, generator)


def train_step(
    model: StackedMLP,
    x: Float[Tensor, "run batch features"],
    y: Int[Tensor, "run batch"],
    settings: Settings,
    states: list[dict],
    generator: torch.Generator,
) -> Float[Tensor, " run"]:
    """One step of every run with all its ingredients; the losses before it."""
    logits = model.forward(x, training=True, p=settings.dropout, generator=generator)
    target = smooth_labels(y, logits.shape[-1], settings.smoothing)
    losses = -(target * logits.log_softmax(-1)).sum(-1).mean(1)
    params = model.parameters()
    # the runs share no parameter, so the gradient of the sum is each run's own gradient
    grads = list(torch.autograd.grad(losses.sum(), params))
    if settings.clip.isfinite().any():
        grads = clip_by_norm(grads, settings.clip)
    nothing = torch.zeros_like(settings.lr)
    for i, (param, grad, state) in enumerate(zip(params, grads, states, strict=True)):
        is_weight = i < len(model.weights)
        l2, decay = (settings.l2, settings.decay) if is_weight else (nothing, nothing)
        adam_step(param, grad, state, lr=settings.lr, l2=l2, decay=decay)
    if settings.max_norm.isfinite().any():
        with torch.no_grad():
            for weight in model.weights[:-1]:
                weight.copy_(max_norm(weight, settings.max_norm))
    return losses.detach()
