r"""LeNet-5, AlexNet and ResNet: three networks of the same layer, and what they cost.

A convolution of $c$ to $c'$ maps with a $k \times k$ kernel has $c'(c k^2 + 1)$ parameters and, on
an output of $h \times w$ pixels, $h w\, c' c k^2$ multiply-adds: most parameters stand where
pictures are small, most of the work where they are large. The residual blocks are in `resnet.py`.
Names follow torchvision's, so that `load_state_dict` takes its checkpoints.

>>> {name: p.numel() for name, p in LeNet5().c3.named_parameters()}  # 60 kernels of 25, 16 biases
{'kernels': 1500, 'bias': 16}
>>> sum(p.numel() for p in cifar_resnet(20).parameters())
269722
>>> multiply_adds(cifar_resnet(20), (3, 32, 32))
40551040

    uv run weeks/10/lenet_alexnet_resnet.py

LeCun, Bottou, Bengio, Haffner (1998), "Gradient-based learning applied to document recognition",
section II.B; Krizhevsky (2014), "One weird trick for parallelizing convolutional neural networks";
He, Zhang, Ren, Sun (2015), "Deep residual learning for image recognition".
"""

from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from shared.require import require
from week10.resnet import Images, Logits, Maps, ResNet, cifar_resnet, resnet18, resnet50

__all__ = [
    "AlexNet",
    "LeNet5",
    "ResNet",
    "cifar_resnet",
    "multiply_adds",
    "resnet18",
    "resnet50",
]

# ---- LeNet-5


def squash(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """LeNet's activation 1.7159 tanh(2x/3), which leaves ±1 where they are (appendix A)."""
    return 1.7159 * torch.tanh(2 / 3 * x)


class Subsampling(nn.Module):
    """Average 2 × 2 pixels, then scale and shift each map by two learned numbers."""

    def __init__(self, maps: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(maps, 1, 1))
        self.bias = nn.Parameter(torch.zeros(maps, 1, 1))

    def forward(self, x: Images) -> Maps:
        """Halve height and width."""
        return self.gain * F.avg_pool2d(x, 2) + self.bias


class PartialConv(nn.Module):
    """A convolution whose output maps see some of the input maps: one kernel per connection.

    Parameters
    ----------
    sees
        For each output map the input maps that it sees.
    """

    def __init__(self, sees: tuple[tuple[int, ...], ...], inputs: int, kernel_size: int):
        super().__init__()
        pairs = [(out, seen) for out, some in enumerate(sees) for seen in some]
        self.shape = (len(sees), inputs, kernel_size, kernel_size)
        self.kernels = nn.Parameter(torch.empty(len(pairs), kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(len(sees)))
        self.register_buffer("connected", torch.tensor(pairs).T, persistent=False)
        fan_in = kernel_size**2 * len(pairs) / len(sees)
        nn.init.uniform_(self.kernels, -(fan_in**-0.5), fan_in**-0.5)  # as nn.Conv2d begins

    @property
    def weight(self) -> Float[Tensor, "out_maps maps kernel_height kernel_width"]:
        """The kernels in a dense weight, zeros where nothing is connected."""
        return self.kernels.new_zeros(self.shape).index_put(tuple(self.connected), self.kernels)

    def forward(self, x: Images) -> Maps:
        """Convolve without padding."""
        return F.conv2d(x, self.weight, self.bias)


C3_SEES = (  # table I of the paper
    *(tuple((first + i) % 6 for i in range(3)) for first in range(6)),
    *(tuple((first + i) % 6 for i in range(4)) for first in range(6)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5)),
)


class LeNet5(nn.Module):
    """LeNet-5 as printed: learned subsampling, and a third layer that is not fully connected.

    Up to layer F6 it has the paper's 60,000 parameters. A linear layer stands in for the paper's
    output, distances to fixed pictures of the characters that are not learned.
    """

    def __init__(self, n_classes: int = 10, *, channels: int = 1):
        super().__init__()
        self.c1, self.s2 = nn.Conv2d(channels, 6, 5), Subsampling(6)
        self.c3, self.s4 = PartialConv(C3_SEES, 6, 5), Subsampling(16)
        self.c5, self.f6 = nn.Conv2d(16, 120, 5), nn.Linear(120, 84)
        self.output = nn.Linear(84, n_classes)

    def forward(self, x: Images) -> Logits:
        """Logits of pictures of 32 × 32 pixels."""
        must = "x must be pictures of 32 × 32 pixels (28 × 28 ones padded by 2)"
        require(x.shape[2:] == (32, 32), must, tuple(x.shape))
        for layer in (self.c1, self.s2, self.c3, self.s4, self.c5):
            x = squash(layer(x))
        return self.output(squash(self.f6(x.flatten(1))))


# ---- AlexNet


class AlexNet(nn.Module):
    """AlexNet on one device, as in "One weird trick" and torchvision: 61.1 million parameters.

    The network of 2012 had 96 and 256 maps in its first layers, in two halves on two GPUs, and
    normalized the responses of neighboring maps.
    """

    def __init__(self, n_classes: int = 1000, *, dropout: float = 0.5):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            *(nn.Dropout(dropout), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
            *(nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU()),
            nn.Linear(4096, n_classes),
        )

    def forward(self, x: Images) -> Logits:
        """Logits of color pictures of at least 63 × 63 pixels; 224 × 224 are usual."""
        must = "x must be color pictures of at least 63 × 63 pixels"
        require(x.shape[1] == 3 and min(x.shape[2:]) >= 63, must, tuple(x.shape))
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


# ---- cost


def multiply_adds(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of a model's convolutions and matrices on one picture.

    Counted by the formula at the sizes that layers really have; nothing is computed (the pass runs
    on torch's device of shapes alone).

    Parameters
    ----------
    shape
        Channels, height and width of the picture.
    """
    counts, training = [], model.training

    def count(layer: nn.Module, _, output: Tensor) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    counted = (nn.Conv2d, nn.Linear, PartialConv)
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, counted)]
    weights = chain(model.named_parameters(), model.named_buffers())
    try:
        shapes = {name: tensor.to("meta") for name, tensor in weights}
        torch.func.functional_call(model.eval(), shapes, (torch.empty(1, *shape, device="meta"),))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return sum(counts)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
