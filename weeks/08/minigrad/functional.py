"""Functions on tensors under the names of torch.nn.functional.

Most are compositions of `Tensor` operations, so their gradients need no rule of their own.

>>> cross_entropy(Tensor([[0.0, math.log(3)]]), Tensor([1]))  # -log(3/4)
tensor(0.28768212)
"""

import math

import numpy as np
from jaxtyping import Float, Int

from week08.minigrad.array import wrap
from week08.minigrad.operations import apply, apply_view
from week08.minigrad.tensor import Tensor
from week08.minigrad.views import scatter

Pair = int | tuple[int, int]
Generator = np.random.Generator | None

relu, tanh, sigmoid = Tensor.relu, Tensor.tanh, Tensor.sigmoid
softmax, log_softmax = Tensor.softmax, Tensor.log_softmax


def gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x times the normal distribution function at x."""
    return 0.5 * x * (1 + (x * math.sqrt(0.5)).erf())


def dropout(
    x: Float[Tensor, "*dims"], p: float = 0.5, training: bool = True, *, generator: Generator = None
) -> Float[Tensor, "*dims"]:
    """Set each number to 0 with probability p, and scale the others so that the mean stays."""
    if not 0 <= p < 1:
        raise ValueError(f"p must be at least 0 and less than 1, got {p}")
    if not training or p == 0:
        return x
    if generator is None:
        raise ValueError("generator must be given: dropout draws no hidden random numbers")
    kept = (generator.random(x.shape, dtype=np.float32) >= p).astype(x.dtype)
    return x * wrap(kept / (1 - p))


# ---- losses


def mse_loss(x: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of the squared differences."""
    if x.shape != target.shape:
        raise ValueError(f"target must have the input's shape {x.shape}, got {target.shape}")
    return ((x - target) ** 2).mean()


def cross_entropy(
    logits: Float[Tensor, "batch classes *rest"], target: Int[Tensor, "batch *rest"]
) -> Float[Tensor, ""]:
    """Minus the logarithm of the target class's probability under softmax(logits); the mean."""
    classes, expected = logits.shape[1], logits.shape[:1] + logits.shape[2:]
    if target.shape != expected:
        raise ValueError(f"target must have shape {expected}, got {target.shape}")
    if target.numel() and not 0 <= target.data.min() <= target.data.max() < classes:
        raise IndexError(f"target must be in [0, {classes}), got {target.tolist()}")
    return -logits.log_softmax(1).gather(1, target.unsqueeze(1)).mean()


# ---- layers


def linear(
    x: Float[Tensor, "*batch in_features"],
    weight: Float[Tensor, "out_features in_features"],
    bias: Float[Tensor, " out_features"] | None = None,
) -> Float[Tensor, "*batch out_features"]:
    """x Wᵀ + b."""
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x must have {weight.shape[1]} features, got shape {x.shape}")
    out = x @ weight.T
    return out if bias is None else out + bias


def embedding(
    index: Int[Tensor, "*batch"], weight: Float[Tensor, "entries dim"]
) -> Float[Tensor, "*batch dim"]:
    """Rows of the table; a row that is read twice collects both gradients."""
    return weight[index]


# ---- windows: convolution and pooling


def _pair(value: Pair, name: str, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(f"{name} must be an int or a pair, at least {least}, got {value}")
    return pair


def _windows(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """(batch, channels, rows, columns, *kernel): each window of the image, without copying."""
    shape, (down, across) = x.shape, stride
    if any(n < k for n, k in zip(shape[2:], kernel, strict=True)):
        raise ValueError(f"kernel_size {kernel} must fit into the padded input of size {shape[2:]}")

    def forward(a):
        every = np.lib.stride_tricks.sliding_window_view(a, kernel, axis=(2, 3))
        return every[:, :, ::down, ::across]

    return apply_view("Windows", forward, x, lambda g: _add_windows(g, shape, stride))


def _add_windows(windows: Tensor, shape: tuple[int, ...], stride: tuple[int, int]) -> Tensor:
    """An image of the windows, added up where they overlap: the transpose of `_windows`."""
    rows, columns, *kernel = windows.shape[2:]
    down, across = stride

    def forward(a):
        out = np.zeros(shape, a.dtype)
        for i, j in np.ndindex(*kernel):
            every = out[:, :, i : i + down * rows : down, j : j + across * columns : across]
            every += a[..., i, j]
        return out

    rule = (lambda g: _windows(g, tuple(kernel), stride),)
    return apply("AddWindows", forward, (windows,), rule)


def conv2d(
    x: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "out_channels channels kernel_height kernel_width"],
    bias: Float[Tensor, " out_channels"] | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
) -> Float[Tensor, "batch out_channels new_height new_width"]:
    """Slide kernels over an image: a dot product of each kernel with each window."""
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"x must have {weight.shape[1]} channels, got shape {x.shape}")
    (n, c, height, width), (top, left) = x.shape, _pair(padding, "padding", 0)
    if top or left:
        inside = (..., slice(top, top + height), slice(left, left + width))
        x = scatter(x, inside, (n, c, height + 2 * top, width + 2 * left))
    windows = _windows(x, weight.shape[2:], _pair(stride, "stride", 1)).permute(0, 2, 3, 1, 4, 5)
    rows, columns = windows.shape[1:3]
    # Each window a row (im2col): one matrix product does it all.
    flat = windows.reshape(n * rows * columns, math.prod(weight.shape[1:]))
    out = linear(flat, weight.flatten(1), bias)
    return out.reshape(n, rows, columns, weight.shape[0]).permute(0, 3, 1, 2)


def max_pool2d(
    x: Float[Tensor, "batch channels height width"], kernel_size: Pair, stride: Pair | None = None
) -> Float[Tensor, "batch channels new_height new_width"]:
    """The largest of each window; the first of equals gets the gradient."""
    kernel = _pair(kernel_size, "kernel_size", 1)
    stride = kernel if stride is None else _pair(stride, "stride", 1)
    return _windows(x, kernel, stride).flatten(4).max(4).values
