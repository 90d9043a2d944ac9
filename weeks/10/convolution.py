r"""Convolution: one small kernel for every place of a picture, three ways, with its gradients.

With stride $s$, padding $p$ and dilation $d$ (and $x = 0$ outside the picture)

$$ y_{o,i,j} = b_o + \sum_{c,u,v} w_{o,c,u,v}\; x_{c,\, si + du - p,\, sj + dv - p}, \qquad
   h' = \left\lfloor \frac{h + 2p - d(k - 1) - 1}{s} \right\rfloor + 1 . $$

It is linear in the picture and in the kernel. So both gradients are transposes: the one for the
picture adds windows up where they overlap, and is itself a layer (`transposed.py`).

>>> x, w = np.arange(16.0).reshape(1, 1, 4, 4), np.array([[[[-1.0, 1.0]]]])
>>> conv2d(x, w, stride=(2, 1))[0, 0]  # differences along a row, of every second row
array([[1., 1., 1.],
       [1., 1., 1.]])
>>> conv2d_backward(np.ones((1, 1, 2, 3)), x, w, stride=(2, 1))[0][0, 0, 0]
array([-1.,  0.,  0.,  1.])
>>> receptive_field([(3, 1, 1), (3, 2, 1), (3, 1, 1)])
9

    uv run weeks/10/convolution.py

LeCun et al. (1989), "Backpropagation applied to handwritten zip code recognition"; Dumoulin and
Visin (2016), "A guide to convolution arithmetic for deep learning", chapters 2 and 4.
"""

import itertools

import numpy as np
from jaxtyping import Float

from shared.arguments import checked
from shared.require import require

Pair = int | tuple[int, int]
Images = Float[np.ndarray, "n channels height width"]
Kernels = Float[np.ndarray, "outputs some kernel_height kernel_width"]
Maps = Float[np.ndarray, "n outputs rows columns"]
Biases = Float[np.ndarray, " outputs"]


def pair(value: Pair, name: str, least: int) -> tuple[int, int]:
    """Numbers for height and width, from one for both or from two."""
    both = tuple(np.broadcast_to(value, 2).tolist()) if np.size(value) in (1, 2) else ()
    whole = both and all(isinstance(v, int) and v >= least for v in both)
    require(whole, f"{name} must be one or two whole numbers, at least {least}", value)
    return both


def output_size(
    size: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int:
    """How many places a kernel has along one axis."""
    reach, room = dilation * (kernel - 1) + 1, size + 2 * padding
    must = f"kernel must reach at most {room} pixels (the picture of {size} with its padding)"
    require(reach <= room, must, reach)
    return (room - reach) // stride + 1


# ---- windows


def pad(
    x: Images, padding: tuple[int, int]
) -> Float[np.ndarray, "n channels padded_height padded_width"]:
    """Zeros on all sides."""
    return np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding))) if any(padding) else x


def im2col(
    x: Images, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Float[np.ndarray, "n channels kernel_height kernel_width rows columns"]:
    """Every window of a picture: for each tap of the kernel, what it sees at all places."""
    sizes = zip(x.shape[2:], kernel, stride, dilation, strict=True)
    places = [output_size(h, k, stride=s, dilation=d) for h, k, s, d in sizes]
    windows = np.empty((*x.shape[:2], *kernel, *places), x.dtype)
    for tap, seen in _taps(kernel, places, stride, dilation):
        windows[:, :, *tap] = x[:, :, *seen]
    return windows


def col2im(
    windows: Float[np.ndarray, "n channels kernel_height kernel_width rows columns"],
    size: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> Images:
    """The picture of this size that has each window added where it was: the transpose of im2col."""
    x = np.zeros((*windows.shape[:2], *size), windows.dtype)
    for tap, seen in _taps(windows.shape[2:4], windows.shape[4:], stride, dilation):
        x[:, :, *seen] += windows[:, :, *tap]
    return x


def _taps(kernel, places, stride, dilation):
    """Each tap of a kernel, and the pixels that it meets at all places."""
    for tap in itertools.product(*map(range, kernel)):
        axes = zip(tap, places, stride, dilation, strict=True)
        yield tap, tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, n, s, d in axes)


# ---- convolution


def _options(x, w, stride, padding, dilation, groups):
    require(groups >= 1 and len(w) % groups == 0, f"groups must divide {len(w)}", groups)
    must = f"w must have channels / groups = {x.shape[1]} / {groups} channels"
    require(w.shape[1] * groups == x.shape[1], must, w.shape[1])
    return pair(stride, "stride", 1), pair(padding, "padding", 0), pair(dilation, "dilation", 1)


@checked
def conv2d_loops(
    x: Images,
    w: Kernels,
    b: Biases | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Maps:
    """The definition, number by number; options as of `conv2d`."""
    (s, t), (p, q), (d, e) = _options(x, w, stride, padding, dilation, groups)
    (n, _, height, width), (outputs, some, kh, kw) = x.shape, w.shape
    rows = output_size(height, kh, stride=s, padding=p, dilation=d)
    columns = output_size(width, kw, stride=t, padding=q, dilation=e)
    y = np.zeros((n, outputs, rows, columns), np.result_type(x, w))
    for m, o, i, j in np.ndindex(y.shape):
        first = o // (outputs // groups) * some  # the first channel of the output's group
        for c, u, v in np.ndindex(some, kh, kw):
            row, column = s * i + d * u - p, t * j + e * v - q
            if 0 <= row < height and 0 <= column < width:
                y[m, o, i, j] += w[o, c, u, v] * x[m, first + c, row, column]
        y[m, o, i, j] += 0 if b is None else b[o]
    return y


@checked
def conv2d(
    x: Images,
    w: Kernels,
    b: Biases | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Maps:
    """Slide kernels over pictures: copy the windows side by side, then one matrix product.

    Parameters
    ----------
    w
        Kernels, each for channels / groups channels. They are not flipped (a mathematician says
        cross-correlation).
    stride, padding, dilation
        For height and width: one number or two. Padding is zeros on all sides.
    groups
        Outputs and channels are split into so many parts that do not see each other.
    """
    stride, padding, dilation = _options(x, w, stride, padding, dilation, groups)
    windows = im2col(pad(x, padding), w.shape[2:], stride, dilation)
    columns = windows.reshape(len(x), groups, -1, windows.shape[4] * windows.shape[5])
    y = (w.reshape(groups, len(w) // groups, -1) @ columns).reshape(
        len(x), len(w), *windows.shape[4:]
    )
    return y if b is None else y + b[:, None, None]


@checked
def conv2d_fft(
    x: Float[np.ndarray, "height width"], w: Float[np.ndarray, "kernel_height kernel_width"]
) -> Float[np.ndarray, "rows columns"]:
    """One channel by the convolution theorem: a product of spectra, whatever the kernel's size.

    Where the kernel fits into the picture, the circular result has not wrapped around.
    """
    rows, columns = (output_size(h, k) for h, k in zip(x.shape, w.shape, strict=True))
    spectrum = np.fft.rfft2(x) * np.fft.rfft2(w, x.shape).conj()
    return np.fft.irfft2(spectrum, x.shape)[:rows, :columns]


# ---- gradients


def input_gradient(
    g: Maps,
    w: Kernels,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Images:
    """Add each number of g, times its kernel, to a picture of this size: conv2d, transposed."""
    n, outputs, rows, columns = g.shape
    kernels = w.reshape(groups, outputs // groups, -1).swapaxes(1, 2)
    windows = kernels @ g.reshape(n, groups, -1, rows * columns)
    windows = windows.reshape(n, groups * w.shape[1], *w.shape[2:], rows, columns)
    padded = tuple(h + 2 * p for h, p in zip(size, padding, strict=True))
    (top, left), whole = padding, col2im(windows, padded, stride, dilation)
    return whole[:, :, top : top + size[0], left : left + size[1]]


def kernel_gradient(
    g: Maps,
    x: Images,
    shape: tuple[int, int, int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Kernels:
    """What each tap saw, times what each output wanted, for kernels of this shape."""
    n, outputs, rows, columns = g.shape
    windows = im2col(pad(x, padding), shape[2:], stride, dilation)
    windows = windows[..., :rows, :columns]  # output padding may leave room for more places
    wanted = g.reshape(n, groups, outputs // groups, rows * columns)
    seen = windows.reshape(n, groups, -1, rows * columns)
    return (wanted @ seen.swapaxes(2, 3)).sum(axis=0).reshape(shape)


@checked
def conv2d_backward(
    g: Maps,
    x: Images,
    w: Kernels,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> tuple[Images, Kernels, Biases]:
    """Gradients of the pictures, kernels and biases from `g`, the one of the output."""
    options = _options(x, w, stride, padding, dilation, groups)
    dx = input_gradient(g, w, x.shape[2:], *options, groups)
    return dx, kernel_gradient(g, x, w.shape, *options, groups), g.sum(axis=(0, 2, 3))


# ---- receptive field


def receptive_field(layers: list[tuple[int, int, int]]) -> int:
    """How many input pixels, along one axis, an output of these layers can see.

    Each layer, (kernel, stride, dilation), widens the field by what lies between its outer taps,
    in steps of all strides before it.
    """
    size, step = 1, 1
    for kernel, stride, dilation in layers:
        size += (kernel - 1) * dilation * step
        step *= stride
    return size


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
