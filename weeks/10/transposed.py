r"""Transposed convolution: stamp every pixel as a kernel into a larger picture.

If a convolution is the matrix $C$, so that $y = Cx$ on flattened pictures, this layer is $C^\top$:
the picture gradient of `conv2d` as a layer of its own, and of the size that the convolution would
shrink back,

$$ h' = s(h - 1) - 2p + d(k - 1) + 1 + \text{output padding} . $$

>>> stamp = np.ones((1, 1, 3, 3))
>>> conv_transpose2d(np.ones((1, 1, 2, 2)), stamp, stride=2)[0, 0]  # stamps overlap: checkers
array([[1., 1., 2., 1., 1.],
       [1., 1., 2., 1., 1.],
       [2., 2., 4., 2., 2.],
       [1., 1., 2., 1., 1.],
       [1., 1., 2., 1., 1.]])

    uv run weeks/10/convolution.py

Dumoulin and Visin (2016), "A guide to convolution arithmetic for deep learning", chapter 4; Odena,
Dumoulin, Olah (2016), "Deconvolution and checkerboard artifacts".
"""

import numpy as np
from jaxtyping import Float

from shared.arguments import checked
from shared.require import require
from week10.convolution import (
    Biases,
    Maps,
    Pair,
    conv2d,
    input_gradient,
    kernel_gradient,
    pair,
)

Small = Float[np.ndarray, "n inputs height width"]
Stamps = Float[np.ndarray, "inputs some kernel_height kernel_width"]


@checked
def conv_transpose2d(
    x: Small,
    w: Stamps,
    b: Biases | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Maps:
    """Stamp each pixel as a kernel into a larger picture: the picture gradient of `conv2d`.

    Parameters
    ----------
    w
        Kernels as of the convolution that goes back: of `inputs` outputs.
    output_padding
        Rows and columns more at the end: with a stride, several sizes shrink to the same one.
    """
    outputs = w.shape[1] * groups
    stride, padding, dilation = _options(w, stride, padding, dilation, groups)
    more = pair(output_padding, "output_padding", 0)
    below = all(m < max(s, d) for m, s, d in zip(more, stride, dilation, strict=True))
    require(below, "output_padding must be less than stride or dilation", more)
    axes = zip(x.shape[2:], w.shape[2:], stride, padding, dilation, more, strict=True)
    size = tuple((h - 1) * s - 2 * p + d * (k - 1) + 1 + m for h, k, s, p, d, m in axes)
    require(min(size) >= 1, "padding must leave at least one pixel", size)
    require(b is None or len(b) == outputs, f"b must have {outputs} numbers", np.shape(b))
    y = input_gradient(x, w, size, stride, padding, dilation, groups)
    return y if b is None else y + b[:, None, None]


@checked
def conv_transpose2d_backward(
    g: Maps,
    x: Small,
    w: Stamps,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> tuple[Small, Stamps, Biases]:
    """Gradients of pictures, kernels and biases: convolutions of `g`."""
    options = _options(w, stride, padding, dilation, groups)
    names = ("stride", "padding", "dilation")
    dx = conv2d(g, w, **dict(zip(names, options, strict=True)), groups=groups)
    dx = dx[:, :, : x.shape[2], : x.shape[3]]
    return dx, kernel_gradient(x, g, w.shape, *options, groups), g.sum(axis=(0, 2, 3))


def _options(w, stride, padding, dilation, groups):
    require(groups >= 1 and len(w) % groups == 0, f"groups must divide {len(w)}", groups)
    return pair(stride, "stride", 1), pair(padding, "padding", 0), pair(dilation, "dilation", 1)
