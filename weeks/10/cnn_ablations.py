r"""What four habits are worth in one small network: normalize, start well, rectify, augment.

A network of six convolutions, trained on MNIST at half its resolution with one part changed at a
time. Batch normalization sees a channel's pixels in all pictures of a batch as $m$ samples,

$$ y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta, \qquad
   \sigma^2 = \frac1m \sum_i (x_i - \mu)^2, $$

and remembers $\frac{m}{m-1}\sigma^2$ for use. He's weights have variance $2/n$ for $n$ inputs,
because a rectifier lets half of the mean square pass.

>>> norm = BatchNorm2d(1)
>>> norm(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1)).flatten().detach()
tensor([-1.3416, -0.4472,  0.4472,  1.3416])
>>> norm.running_var  # 0.9 + 0.1 · 5/3: unbiased, although 5/4 was divided by
tensor([1.0667])

    uv run weeks/10/cnn_ablations.py

Ioffe & Szegedy (2015), algorithms 1 and 2; He et al. (2015), "Delving deep into rectifiers",
equation 10; Glorot & Bengio (2010), equation 12.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from shared.require import require
from week09.optimizers import SGD
from week09.schedules import one_cycle

Images = Float[Tensor, "batch channels height width"]
Augment = Callable[[Tensor, torch.Generator], Tensor]


class BatchNorm2d(nn.Module):
    """Normalize each channel over batch, rows and columns; in use, by remembered statistics.

    Parameters
    ----------
    momentum
        Weight of the newest batch in what is remembered.
    """

    def __init__(self, channels: int, *, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        require(0 < momentum <= 1, "momentum must lie in (0, 1]", momentum)
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = (nn.Parameter(f(channels)) for f in (torch.ones, torch.zeros))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Images) -> Images:
        """The same shape; in training the statistics are the batch's, and gradients reach them."""
        mean, var = self.running_mean, self.running_var
        if self.training:
            m = x.numel() // x.shape[1]
            require(m > 1, "x must have more than 1 value per channel in training", m)
            var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * m / (m - 1), self.momentum)
        gain = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * gain
        return x * gain[:, None, None] + shift[:, None, None]


# ---- what is changed


class Recipe(NamedTuple):
    """One network: is it normalized, how does it start, what bends its lines."""

    norm: bool = True
    init: Literal["he", "glorot", "small"] = "he"
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"


ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


def weight_std(init: str, fan_in: int, fan_out: int) -> float:
    """Standard deviation of the first weights; "small" is 0.01, as in AlexNet.

    Parameters
    ----------
    fan_in, fan_out
        Kernel pixels times channels read, and written.
    """
    stds = {"he": math.sqrt(2 / fan_in), "glorot": math.sqrt(2 / (fan_in + fan_out)), "small": 0.01}
    require(init in stds, f"init must be one of {', '.join(stds)}", init)
    return stds[init]


class SmallCNN(nn.Module):
    """Six 3 × 3 convolutions of 8 to 32 channels, the mean over pixels, and a linear layer.

    The second and the fourth convolution have stride 2. With normalization they have no bias, which
    the mean would take away again.
    """

    def __init__(self, recipe: Recipe, *, n_classes: int = 10, generator: torch.Generator):
        super().__init__()
        known = recipe.activation in ACTIVATIONS
        require(known, f"activation must be one of {', '.join(ACTIVATIONS)}", recipe.activation)
        self.activation, self.convs, self.norms = ACTIVATIONS[recipe.activation], [], []
        channels = 1
        for width, stride in ((8, 1), (8, 2), (16, 1), (16, 2), (32, 1), (32, 1)):
            conv = nn.Conv2d(channels, width, 3, stride, padding=1, bias=not recipe.norm)
            std = weight_std(recipe.init, 9 * channels, 9 * width)
            nn.init.normal_(conv.weight, std=std, generator=generator)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            self.convs.append(conv)
            self.norms.append(BatchNorm2d(width) if recipe.norm else nn.Identity())
            channels = width
        self.convs, self.norms = nn.ModuleList(self.convs), nn.ModuleList(self.norms)
        self.fc = nn.Linear(channels, n_classes)
        nn.init.normal_(self.fc.weight, std=channels**-0.5, generator=generator)
        nn.init.zeros_(self.fc.bias)

    def features(self, x: Images) -> Float[Tensor, "batch 32"]:
        """What the last layer sees."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.activation(norm(conv(x)))
        return x.mean(dim=(2, 3))

    def forward(self, x: Images) -> Float[Tensor, "batch classes"]:
        """Logits of gray pictures of any size."""
        return self.fc(self.features(x))


# ---- training


def train(
    model: nn.Module,
    x: Float[Tensor, "n channels height width"],
    y: Int[Tensor, " n"],
    *,
    lr: float,
    steps: int,
    generator: torch.Generator,
    batch_size: int = 64,
    augment: Augment | None = None,
) -> Float[Tensor, " steps"]:
    """SGD with momentum 0.9 on random batches, one cycle of the learning rate; the losses.

    Parameters
    ----------
    lr
        At the cycle's peak.
    augment
        Called with each batch and the generator.
    """
    optimizer, losses = SGD(model.parameters(), lr=lr, momentum=0.9), []
    model.train()
    for step in range(steps):
        optimizer.lr = lr * one_cycle(step, steps=max(steps, 4))
        rows = torch.randint(len(x), (batch_size,), generator=generator)
        batch = x[rows] if augment is None else augment(x[rows], generator)
        loss = F.cross_entropy(model(batch), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@torch.no_grad()
def accuracy(
    model: nn.Module, x: Float[Tensor, "n channels height width"], y: Int[Tensor, " n"]
) -> float:
    """Percent right, with the statistics of training."""
    right = model.eval()(x).argmax(dim=1) == y
    return 100 * right.double().mean().item()


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
