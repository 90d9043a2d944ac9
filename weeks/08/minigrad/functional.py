"""Functions on tensors under the names of torch.nn.functional.

Most are compositions of `Tensor` operations, so their gradients need no rule of their own.

>>> cross_entropy(Tensor([[0.0, math.log(3)]]), Tensor([1]))  # -log(3/4)
tensor(0.28768212)
"""

import math

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require
from week08.minigrad.array import wrap
from week08.minigrad.operations import accumulator, apply, apply_view, wide
from week08.minigrad.tensor import Tensor
from week08.minigrad.views import check_range, scatter

Pair = int | tuple[int, int]
Generator = np.random.Generator | None

relu, tanh, sigmoid = Tensor.relu, Tensor.tanh, Tensor.sigmoid
softmax, log_softmax = Tensor.softmax, Tensor.log_softmax


@wide
def gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x times the normal distribution function at x."""
    return 0.5 * x * (1 + (x * math.sqrt(0.5)).erf())


def dropout(
    x: Float[Tensor, "*dims"], p: float = 0.5, training: bool = True, *, generator: Generator = None
) -> Float[Tensor, "*dims"]:
    """Set each number to 0 with probability p, and scale the others so that the mean stays."""
    require(0 <= p < 1, "p must be at least 0 and less than 1", p)
    if not training or p == 0:
        return x
    require(generator is not None, "generator must be given: dropout draws no hidden numbers")
    kept = (generator.random(x.shape, dtype=np.float32) >= p).astype(x.dtype)
    return x * wrap(kept / (1 - p))


# ---- losses


@wide
def mse_loss(x: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of the squared differences."""
    must = f"target must have the input's shape {x.shape}"
    require(x.shape == target.shape, must, target.shape)
    return ((x - target) ** 2).mean()


@wide
def cross_entropy(
    logits: Float[Tensor, "batch classes *rest"], target: Int[Tensor, "batch *rest"]
) -> Float[Tensor, ""]:
    """Minus the logarithm of the target class's probability under softmax(logits); the mean."""
    expected = logits.shape[:1] + logits.shape[2:]
    must = f"logits must be (batch, classes, …) and target of shape {expected}"
    require(logits.ndim > 1 and target.shape == expected, must, logits.shape, target.shape)
    check_range("target", target, logits.shape[1])
    return -logits.log_softmax(1).gather(1, target.unsqueeze(1)).mean()


# ---- layers


@checked
@wide
def linear(
    x: Float[Tensor, "*batch in_features"],
    weight: Float[Tensor, "out_features in_features"],
    bias: Float[Tensor, " out_features"] | None = None,
) -> Float[Tensor, "*batch out_features"]:
    """x Wᵀ + b."""
    out = x @ weight.T
    return out if bias is None else out + bias


@checked
def embedding(
    index: Int[Tensor, "*batch"], weight: Float[Tensor, "entries dim"]
) -> Float[Tensor, "*batch dim"]:
    """Rows of the table; a row that is read twice collects both gradients."""
    check_range("index", index, len(weight))
    return weight[index]


# ---- windows: convolution and pooling


def _pair(value: Pair, name: str, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    fits = len(pair) == 2 and min(pair) >= least
    require(fits, f"{name} must be an int or a pair, at least {least}", value)
    return pair


def _fit(x: Tensor, kernel: tuple[int, int]) -> None:
    fits = all(n >= k for n, k in zip(x.shape[2:], kernel, strict=True))
    require(fits, f"kernel_size {kernel} must fit into the padded input", x.shape[2:])


def _every(a: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int]) -> np.ndarray:
    """(batch, channels, rows, columns, *kernel): each window of the image, without copying."""
    every = np.lib.stride_tricks.sliding_window_view(a, kernel, axis=(2, 3))
    return every[:, :, :: stride[0], :: stride[1]]


def _add_up(windows: np.ndarray, out: np.ndarray, stride: tuple[int, int]) -> np.ndarray:
    """Add the windows to an image, one place of the kernel at a time: transpose of `_every`."""
    (rows, columns, *kernel), (down, across) = windows.shape[2:], stride
    for i, j in np.ndindex(*kernel):
        every = out[:, :, i : i + down * rows : down, j : j + across * columns : across]
        every += windows[..., i, j]
    return out


def _windows(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    shape = x.shape

    def rule(g):
        def forward(a):
            out = _add_up(a, np.zeros(shape, accumulator(a.dtype)), stride)
            return out.astype(a.dtype, copy=False)

        return apply("AddUp", forward, (g,), (lambda h: _windows(h, kernel, stride),))

    return apply_view("Windows", lambda a: _every(a, kernel, stride), x, rule)


def _columns(every: np.ndarray) -> np.ndarray:
    """(batch, channels · kernel, places): each window a column (im2col)."""
    n, c, rows, columns, *kernel = every.shape
    return every.transpose(0, 1, 4, 5, 2, 3).reshape(n, c * math.prod(kernel), rows * columns)


def _flat(g: np.ndarray) -> np.ndarray:
    return g.reshape(*g.shape[:2], math.prod(g.shape[2:]))


def _parts(every: np.ndarray) -> list[slice]:
    """The images in parts whose windows, copied, stay in a megabyte or two of cache."""
    size = max(2**18 // max(math.prod(every.shape[1:]), 1), 1)
    return [slice(i, i + size) for i in range(0, len(every), size)]


@checked
@wide
def conv2d(
    x: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "out_channels channels kernel_height kernel_width"],
    bias: Float[Tensor, " out_channels"] | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
) -> Float[Tensor, "batch out_channels new_height new_width"]:
    """Slide kernels over an image: a dot product of each kernel with each window."""
    (n, c, height, width), (top, left) = x.shape, _pair(padding, "padding", 0)
    if top or left:
        inside = (..., slice(top, top + height), slice(left, left + width))
        x = scatter(x, inside, (n, c, height + 2 * top, width + 2 * left))
    _fit(x, weight.shape[2:])
    one = x.dtype == weight.dtype
    require(one, "x and weight must have one dtype", x.dtype, weight.dtype, error=RuntimeError)
    out = _correlate(x, weight, _pair(stride, "stride", 1))
    return out if bias is None else out + bias.reshape(-1, 1, 1)


# With y = conv(x, w), the number ⟨g, y⟩ is linear in each of x, w and g. Its derivatives by them
# are the three functions below, so that each is differentiated by the other two.


def _correlate(x: Tensor, w: Tensor, stride: tuple[int, int]) -> Tensor:
    shape, kernel = x.shape, w.shape[2:]

    def forward(x, w):
        every, flat = _every(x, kernel, stride), w.reshape(len(w), -1)
        n, _, rows, columns = every.shape[:4]
        out = np.empty((n, len(w), rows * columns), w.dtype)
        for some in _parts(every):
            np.matmul(flat, _columns(every[some]), out=out[some])
        return out.reshape(n, len(w), rows, columns)

    to_x = lambda g, w: _spread(g, w, shape, stride), w
    return apply("Conv2d", forward, (x, w), to_x, (lambda g, x: _kernels(x, g, kernel, stride), x))


def _kernels(x: Tensor, g: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    shape = x.shape

    def forward(x, g):
        every, flat = _every(x, kernel, stride), _flat(g)
        shares = [(flat[i] @ _columns(every[i]).mT).sum(0) for i in _parts(every) or [slice(0)]]
        return sum(shares, np.zeros((), g.dtype)).reshape(g.shape[1], shape[1], *kernel)

    to_x = lambda h, g: _spread(g, h, shape, stride), g
    return apply("Kernels", forward, (x, g), to_x, (lambda h, x: _correlate(x, h, stride), x))


def _spread(g: Tensor, w: Tensor, shape: tuple[int, ...], stride: tuple[int, int]) -> Tensor:
    kernel = w.shape[2:]

    def forward(g, w):
        flat, kernels = _flat(g), w.reshape(len(w), -1).T
        out = np.zeros(shape, g.dtype)
        for some in _parts(_every(out, kernel, stride)):
            windows = (kernels @ flat[some]).reshape(-1, *w.shape[1:], *g.shape[2:])
            _add_up(windows.transpose(0, 1, 4, 5, 2, 3), out[some], stride)
        return out

    to_g = lambda h, w: _correlate(h, w, stride), w
    return apply("Spread", forward, (g, w), to_g, (lambda h, g: _kernels(h, g, kernel, stride), g))


@checked
def max_pool2d(
    x: Float[Tensor, "batch channels height width"], kernel_size: Pair, stride: Pair | None = None
) -> Float[Tensor, "batch channels new_height new_width"]:
    """The largest of each window; the first of equals gets the gradient."""
    kernel = _pair(kernel_size, "kernel_size", 1)
    stride = kernel if stride is None else _pair(stride, "stride", 1)
    _fit(x, kernel)
    return _windows(x, kernel, stride).flatten(4).max(4).values
