r"""ResNet: blocks that add to what came in, so that a deeper network can do what a shallower did.

Two or three layers compute the change that a block makes,

$$ y = \mathrm{relu}\bigl(F(x) + s(x)\bigr), $$

and the shortcut $s$ is the identity wherever shapes allow. Where the picture shrinks and the maps
grow, option A pads with maps of zeros and option B projects. Names follow torchvision's, so that
`load_state_dict` takes its checkpoints of ResNet-18 and ResNet-50.

>>> import torch
>>> model = cifar_resnet(20)
>>> sum(p.numel() for p in model.parameters())
269722
>>> model(torch.zeros(2, 3, 32, 32)).shape
torch.Size([2, 10])
>>> Shrink(stride=2, new_maps=1)(torch.arange(16.0).view(1, 1, 4, 4)).tolist()
[[[[0.0, 2.0], [8.0, 10.0]], [[0.0, 0.0], [0.0, 0.0]]]]

    uv run weeks/10/lenet_alexnet_resnet.py

He, Zhang, Ren, Sun (2015), "Deep residual learning for image recognition", sections 3 and 4.2.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from shared.require import require

Images = Float[Tensor, "batch channels height width"]
Maps = Float[Tensor, "batch maps rows columns"]
Logits = Float[Tensor, "batch classes"]
Shortcut = Literal["A", "B", "none"]


class Shrink(nn.Module):
    """Option A: every `stride`-th pixel, further maps of zeros; without parameters."""

    def __init__(self, stride: int, new_maps: int):
        super().__init__()
        self.stride, self.new_maps = stride, new_maps

    def forward(self, x: Images) -> Maps:
        """Keep the even pixels and append the new maps."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_maps))


def _shortcut(kind: Shortcut, maps: int, outputs: int, stride: int) -> nn.Module | None:
    if kind == "none":
        return None
    if maps == outputs and stride == 1:
        return nn.Identity()
    if kind == "A":
        return Shrink(stride, outputs - maps)
    projection = nn.Conv2d(maps, outputs, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """A residual block; without its shortcut, layers of a plain network."""

    expansion = 1

    def forward(self, x: Images) -> Maps:
        """Add the branch to the shortcut, then rectify."""
        h = self.branch(x)
        return F.relu(h if self.downsample is None else h + self.downsample(x))


class BasicBlock(Block):
    """Two 3 × 3 convolutions (figure 5, left); the first one has the stride."""

    def __init__(self, maps: int, width: int, *, stride: int = 1, shortcut: Shortcut = "B"):
        super().__init__()
        self.conv1 = nn.Conv2d(maps, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(shortcut, maps, width, stride)

    def branch(self, x: Images) -> Maps:
        """What is added; the last one is not rectified."""
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


class Bottleneck(Block):
    """1 × 1, 3 × 3 and 1 × 1 convolutions (figure 5, right), four times as many maps at its ends.

    The 3 × 3 convolution has the stride, as in torchvision ("v1.5"); in the paper it is the first.
    """

    expansion = 4

    def __init__(self, maps: int, width: int, *, stride: int = 1, shortcut: Shortcut = "B"):
        super().__init__()
        self.conv1 = nn.Conv2d(maps, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(shortcut, maps, 4 * width, stride)

    def branch(self, x: Images) -> Maps:
        """What is added; the last one is not rectified."""
        h = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.bn3(self.conv3(h))


class ResNet(nn.Module):
    """A stem, stages of blocks that halve the picture and double the width, and a linear layer.

    Parameters
    ----------
    block
        `BasicBlock` or `Bottleneck`.
    depths
        Blocks of each stage.
    width
        Maps of the first stage, inside its blocks.
    stem
        ``imagenet``: 7 × 7 with stride 2, then max pooling; ``cifar``: 3 × 3.
    shortcut
        Where shapes change, ``A`` pads with zeros and ``B`` projects; ``none`` is a plain network.
    """

    def __init__(
        self,
        block: type[Block],
        depths: tuple[int, ...],
        *,
        width: int = 64,
        n_classes: int = 1000,
        channels: int = 3,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        shortcut: Shortcut = "B",
    ):
        super().__init__()
        require(shortcut in ("A", "B", "none"), "shortcut must be A, B or none", shortcut)
        require(stem in ("imagenet", "cifar"), "stem must be imagenet or cifar", stem)
        large = stem == "imagenet"
        kernel, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        self.stages, maps = [f"layer{i + 1}" for i in range(len(depths))], width
        for i, (name, depth) in enumerate(zip(self.stages, depths, strict=True)):
            blocks, inner = [], width * 2**i
            for stride in [min(i + 1, 2)] + [1] * (depth - 1):
                blocks.append(block(maps, inner, stride=stride, shortcut=shortcut))
                maps = inner * block.expansion
            self.add_module(name, nn.Sequential(*blocks))
        self.fc = nn.Linear(maps, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Images) -> Logits:
        """Logits of pictures of any size."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(x.mean(dim=(2, 3)))


def cifar_resnet(depth: int, *, width: int = 16, shortcut: Shortcut = "A", **options) -> ResNet:
    """ResNet-20, -56, … for small pictures: 6n + 2 layers (section 4.2); `ResNet`'s options."""
    fits = depth >= 8 and depth % 6 == 2
    require(fits, "depth must be 6n + 2 with n at least 1 (8, 14, 20, …)", depth)
    options = {"n_classes": 10, "stem": "cifar"} | options
    depths = ((depth - 2) // 6,) * 3
    return ResNet(BasicBlock, depths, width=width, shortcut=shortcut, **options)


def resnet18(**options) -> ResNet:
    """ResNet-18 for ImageNet, 11.69 million parameters; `ResNet`'s options."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **options)


def resnet50(**options) -> ResNet:
    """ResNet-50 for ImageNet, 25.56 million parameters; `ResNet`'s options."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **options)
