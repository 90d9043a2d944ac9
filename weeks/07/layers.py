r"""Layers and their backward passes: each pulls a gradient back by its transposed Jacobian.

With $\bar y$ the gradient of the loss by a layer's output $y = f(x)$,

$$ \bar x = \Big(\frac{\partial y}{\partial x}\Big)^{\!\top} \bar y, \qquad
   \bar \theta \mathrel{+}= \Big(\frac{\partial y}{\partial \theta}\Big)^{\!\top} \bar y . $$

No layer forms its Jacobian. `backprop_from_scratch.py` wires layers into graphs.

>>> layer = Linear(np.array([[2.0], [3.0]]), np.zeros(1))
>>> y, cache = layer.forward(np.array([[1.0, -1.0]]))
>>> layer.backward(np.array([[10.0]]), cache)  # 10 Wᵀ
array([[20., 30.]])
>>> layer.W.grad.T  # 10 x
array([[ 10., -10.]])

Source: D. Rumelhart, G. Hinton and R. Williams, *Learning Internal Representations by Error
Propagation* (1986), section "The generalized delta rule".
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require


class Parameter:
    """An array that is learned, and the gradient that has arrived for it so far."""

    def __init__(self, value: Float[np.ndarray, "*shape"]):
        self.value = value
        self.grad = np.zeros_like(value)


class Layer:
    """`forward` returns the output and a cache; `backward` takes both gradient and cache.

    The cache belongs to one use of the layer, so that a layer may be used many times in a network.
    `backward` returns the gradient of the input and *adds* those of the parameters to `grad`.
    """

    parameters: tuple[Parameter, ...] = ()


def _check_gradient(dy: np.ndarray, shape: tuple[int, ...]) -> None:
    """NumPy would repeat a gradient of another shape until it fits."""
    require(dy.shape == shape, f"dy must have the output's shape {shape}", dy.shape)


class Linear(Layer):
    """y = x W + b on the last axis."""

    @checked
    def __init__(self, W: Float[np.ndarray, "d k"], b: Float[np.ndarray, " k"]):
        self.W, self.b = Parameter(W), Parameter(b)
        self.parameters = (self.W, self.b)

    @checked
    def forward(
        self, x: Float[np.ndarray, "*batch d"]
    ) -> tuple[Float[np.ndarray, "*batch k"], Any]:
        """Keep x: the gradient of W needs it."""
        d = len(self.W.value)
        require(x.shape[-1] == d, f"x must have {d} features", x.shape[-1])
        return x @ self.W.value + self.b.value, x

    def backward(self, dy: Float[np.ndarray, "*batch k"], x: Any) -> Float[np.ndarray, "*batch d"]:
        """Outer products of what came in and what came back, summed over the batch."""
        _check_gradient(dy, (*x.shape[:-1], len(self.b.value)))
        rows, d_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        self.W.grad += rows.T @ d_rows
        self.b.grad += d_rows.sum(axis=0)
        return dy @ self.W.value.T


class Sigmoid(Layer):
    """1 / (1 + e^-x); its derivative needs only its output."""

    def forward(self, x: Float[np.ndarray, "*shape"]) -> tuple[Float[np.ndarray, "*shape"], Any]:
        """Without overflow: e^-|x| only."""
        e = np.exp(-np.abs(x))
        y = np.where(x >= 0, 1, e) / (1 + e)
        return y, (y, e / (1 + e) ** 2)  # 1 - y would lose its digits where y is near 1

    def backward(self, dy: Float[np.ndarray, "*shape"], cache: Any) -> Float[np.ndarray, "*shape"]:
        """y (1 - y)."""
        _check_gradient(dy, cache[1].shape)
        return dy * cache[1]


class Tanh(Layer):
    """The hyperbolic tangent."""

    def forward(self, x: Float[np.ndarray, "*shape"]) -> tuple[Float[np.ndarray, "*shape"], Any]:
        """Keep y."""
        y = np.tanh(x)
        return y, y

    def backward(self, dy: Float[np.ndarray, "*shape"], y: Any) -> Float[np.ndarray, "*shape"]:
        """1 - y²."""
        _check_gradient(dy, y.shape)
        return dy * (1 - y * y)


class ReLU(Layer):
    """max(0, x); at the kink we take the derivative 0, as everyone does."""

    def forward(self, x: Float[np.ndarray, "*shape"]) -> tuple[Float[np.ndarray, "*shape"], Any]:
        """Keep which were on."""
        return np.maximum(x, 0), ~(x <= 0)  # NaN is on, as in torch

    def backward(self, dy: Float[np.ndarray, "*shape"], on: Any) -> Float[np.ndarray, "*shape"]:
        """Pass what belongs to units that were on."""
        _check_gradient(dy, on.shape)
        return np.where(on, dy, 0)  # selected: infinity times 0 would be NaN


class LayerNorm(Layer):
    """Mean 0 and variance 1 over the last axis, then gain and bias."""

    @checked
    def __init__(
        self, gain: Float[np.ndarray, " d"], bias: Float[np.ndarray, " d"], eps: float = 1e-5
    ):
        self.gain, self.bias, self.eps = Parameter(gain), Parameter(bias), eps
        self.parameters = (self.gain, self.bias)

    @checked
    def forward(
        self, x: Float[np.ndarray, "*batch d"]
    ) -> tuple[Float[np.ndarray, "*batch d"], Any]:
        """Keep the normalized rows and their scale."""
        d = len(self.gain.value)
        require(x.shape[-1] == d, f"x must have {d} features", x.shape[-1])
        centered = x - x.mean(axis=-1, keepdims=True)
        scale = 1 / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + self.eps)
        return centered * scale * self.gain.value + self.bias.value, (centered * scale, scale)

    def backward(
        self, dy: Float[np.ndarray, "*batch d"], cache: Any
    ) -> Float[np.ndarray, "*batch d"]:
        """Mean and variance depend on x too: two parts are taken out (week 02 derives them)."""
        x_hat, scale = cache
        _check_gradient(dy, x_hat.shape)
        batch = tuple(range(dy.ndim - 1))
        self.gain.grad += (dy * x_hat).sum(axis=batch)
        self.bias.grad += dy.sum(axis=batch)
        d_hat = dy * self.gain.value
        mean = d_hat.mean(axis=-1, keepdims=True)
        return scale * (d_hat - mean - x_hat * (d_hat * x_hat).mean(axis=-1, keepdims=True))


class Embedding(Layer):
    """Row i of a table for index i: a linear layer on one-hot rows that are never made."""

    def __init__(self, table: Float[np.ndarray, "vocab d"]):
        self.table = Parameter(table)
        self.parameters = (self.table,)

    @checked
    def forward(self, ids: Int[np.ndarray, "*batch"]) -> tuple[Float[np.ndarray, "*batch d"], Any]:
        """Keep the indices."""
        last = len(self.table.value) - 1
        known = not ids.size or 0 <= ids.min() <= ids.max() <= last
        require(known, f"ids must be between 0 and {last}", ids)
        return self.table.value[ids], ids

    def backward(self, dy: Float[np.ndarray, "*batch d"], ids: Any) -> None:
        """Add each row where it came from; there is no gradient by an index."""
        _check_gradient(dy, (*ids.shape, self.table.value.shape[1]))
        # grad[ids] += dy would keep only one of several rows with the same index
        np.add.at(self.table.grad, ids, dy)


class Conv1d(Layer):
    """y[n, o, t] = b[o] + Σ_c Σ_s W[o, c, s] x[n, c, t + s]: one kernel at all places."""

    @checked
    def __init__(self, W: Float[np.ndarray, "out channels size"], b: Float[np.ndarray, " out"]):
        self.W, self.b = Parameter(W), Parameter(b)
        self.parameters = (self.W, self.b)

    @checked
    def forward(
        self, x: Float[np.ndarray, "n channels time"]
    ) -> tuple[Float[np.ndarray, "n out steps"], Any]:
        """Look through a sliding window; no padding, so the output is shorter."""
        channels, size = self.W.value.shape[1:]
        must = f"x must have {channels} channels and be at least as long as the kernel, {size}"
        require(x.shape[1] == channels and x.shape[2] >= size, must, *x.shape[1:])
        windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=2)
        y = np.einsum("ncts,ocs->not", windows, self.W.value) + self.b.value[:, None]
        return y, (windows, x.shape)

    def backward(
        self, dy: Float[np.ndarray, "n out steps"], cache: Any
    ) -> Float[np.ndarray, "n channels time"]:
        """A weight was used at every place, and an input in every window: both collect sums."""
        windows, shape = cache
        _check_gradient(dy, (len(windows), len(self.b.value), windows.shape[2]))
        self.W.grad += np.einsum("ncts,not->ocs", windows, dy)
        self.b.grad += dy.sum(axis=(0, 2))
        dx, steps = np.zeros(shape, dy.dtype), dy.shape[2]
        for s in range(self.W.value.shape[2]):
            dx[:, :, s : s + steps] += np.einsum("not,oc->nct", dy, self.W.value[:, :, s])
        return dx


class Add(Layer):
    """x + y: the gradient goes to both, whole."""

    def forward(
        self, x: Float[np.ndarray, "*shape"], y: Float[np.ndarray, "*shape"]
    ) -> tuple[Float[np.ndarray, "*shape"], Any]:
        """Nothing need be kept."""
        require(x.shape == y.shape, "x and y must have one shape", x.shape, y.shape)
        return x + y, None

    def backward(
        self, dz: Float[np.ndarray, "*shape"], _: Any
    ) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
        """The same to each."""
        return dz, dz


class Multiply(Layer):
    """x ⊙ y: each gets the gradient times the other."""

    def forward(
        self, x: Float[np.ndarray, "*shape"], y: Float[np.ndarray, "*shape"]
    ) -> tuple[Float[np.ndarray, "*shape"], Any]:
        """Keep both."""
        require(x.shape == y.shape, "x and y must have one shape", x.shape, y.shape)
        return x * y, (x, y)

    def backward(
        self, dz: Float[np.ndarray, "*shape"], cache: Any
    ) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
        """Crosswise."""
        _check_gradient(dz, cache[0].shape)
        return dz * cache[1], dz * cache[0]
