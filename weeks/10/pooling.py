r"""Pooling: the largest or the mean of each window, with the gradients by hand.

$$ y_{i,j} = \max_{u,v}\, x_{si + du,\, sj + dv}, \qquad
   y_{i,j} = \frac{1}{|W_{ij}|} \sum_{(u,v) \in W_{ij}} x_{si + u,\, sj + v} . $$

The maximum hands its gradient to one pixel per window, the first of equals; the mean shares it out.
Where windows overlap, gradients add up.

>>> x = np.array([[[[1.0, 3.0, 2.0], [3.0, 0.0, 4.0]]]])
>>> max_pool2d(x, 2, stride=1)[0, 0], avg_pool2d(x, 2, stride=1)[0, 0]
(array([[3., 4.]]), array([[1.75, 2.25]]))
>>> max_pool2d_backward(np.ones((1, 1, 1, 2)), x, 2, stride=1)[0, 0]
array([[0., 1., 0.],
       [0., 0., 1.]])

    uv run weeks/10/convolution.py

LeCun et al. (1998), "Gradient-based learning applied to document recognition", section II.B;
Scherer, Müller, Behnke (2010), "Evaluation of pooling operations".
"""

import numpy as np
from jaxtyping import Float

from shared.arguments import checked
from shared.require import require
from week10.convolution import Images, Maps, Pair, col2im, im2col, output_size, pair


@checked
def max_pool2d(
    x: Images,
    kernel: Pair,
    *,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Maps:
    """The largest of each window; NaN where there is one.

    Parameters
    ----------
    stride
        As large as the kernel if not given.
    padding
        Pixels of -∞ on all sides, at most half the kernel.
    ceil_mode
        Also take windows that begin inside and end outside of the padded picture.
    """
    windows, *_ = _windows(x, kernel, stride, padding, dilation, ceil_mode, fill=-np.inf)
    return windows.max(axis=(2, 3))


@checked
def max_pool2d_backward(
    g: Maps,
    x: Images,
    kernel: Pair,
    *,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Images:
    """Gradient of the pictures from `g`, the one of the output."""
    windows, back = _windows(x, kernel, stride, padding, dilation, ceil_mode, fill=-np.inf)
    n, c, kh, kw, rows, columns = windows.shape
    first = windows.reshape(n, c, kh * kw, rows, columns).argmax(axis=2)
    taps = np.arange(kh * kw)[:, None, None]
    shared = np.where(taps == first[:, :, None], g[:, :, None], 0)
    return back(shared.reshape(windows.shape))


@checked
def avg_pool2d(
    x: Images,
    kernel: Pair,
    *,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Maps:
    """The mean of each window.

    Parameters
    ----------
    count_include_pad
        Whether zeros of the padding count in the mean; what only `ceil_mode` adds never does.
    """
    windows, _ = _windows(x, kernel, stride, padding, 1, ceil_mode, fill=0)
    counts = _counts(x, kernel, stride, padding, ceil_mode, count_include_pad)
    return windows.sum(axis=(2, 3)) / counts


@checked
def avg_pool2d_backward(
    g: Maps,
    x: Images,
    kernel: Pair,
    *,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Images:
    """Gradient of the pictures from `g`, the one of the output."""
    windows, back = _windows(x, kernel, stride, padding, 1, ceil_mode, fill=0)
    counts = _counts(x, kernel, stride, padding, ceil_mode, count_include_pad)
    return back(np.broadcast_to((g / counts)[:, :, None, None], windows.shape))


def _counts(x, kernel, stride, padding, ceil_mode, with_padding: bool) -> Float[np.ndarray, "r c"]:
    """How many pixels each window has a mean of."""
    there = np.ones((1, 1, *x.shape[2:]), x.dtype)
    fill = 1 if with_padding else 0
    windows, _ = _windows(there, kernel, stride, padding, 1, ceil_mode, fill=fill)
    return windows.sum(axis=(2, 3))[0, 0]


def _windows(x, kernel, stride, padding, dilation, ceil_mode: bool, *, fill: float):
    """Windows of the padded picture, and the function that puts their gradients back."""
    kernel = pair(kernel, "kernel", 1)
    stride = kernel if stride is None else pair(stride, "stride", 1)
    padding, dilation = pair(padding, "padding", 0), pair(dilation, "dilation", 1)
    half = all(2 * p <= k for p, k in zip(padding, kernel, strict=True))
    require(half, f"padding must be at most half of kernel = {kernel}", padding)
    beyond = [0, 0]  # rows and columns that only ceil_mode needs
    axes = zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    for axis, (h, k, s, p, d) in enumerate(axes):
        places = output_size(h, k, stride=s, padding=p, dilation=d)
        end = places * s + d * (k - 1) + 1 - (h + 2 * p)  # by how much one more window sticks out
        if ceil_mode and end < s and places * s < h + p:
            beyond[axis] = end
    (top, left), (low, right) = padding, beyond
    x = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)), constant_values=fill)
    height, width = x.shape[2:]
    outside = 0 if np.isfinite(fill) else fill  # never counted in a mean
    x = np.pad(x, ((0, 0), (0, 0), (0, low), (0, right)), constant_values=outside)

    def back(windows):
        whole = col2im(windows, x.shape[2:], stride, dilation)
        return whole[:, :, top : height - top, left : width - left]

    return im2col(x, kernel, stride, dilation), back
