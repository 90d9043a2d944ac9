r"""A two-layer network in NumPy: MNIST from pixels to digits, every line of the training in sight.

A hidden layer of rectified units, then a score for each class, and the mean log loss:

$$ H = \max(0, X W_1 + b_1), \qquad Z = H W_2 + b_2, \qquad
   L = -\frac1n \sum_i \ln \mathrm{softmax}(Z_i)_{y_i} . $$

The chain rule gives $\partial L/\partial Z = (P - Y)/n$, and from it every other gradient by two
matrix products per layer. Mini-batches and momentum, $v \leftarrow \mu v + g$ and
$\theta \leftarrow \theta - \eta v$, with a rate that falls to zero on a straight line, do the rest.

>>> net = MLP(np.array([[1.0, -1.0]]), np.zeros(2), np.eye(2), np.zeros(2))
>>> X = np.log([[3.0]])  # H = (ln 3, 0): the second unit is off
>>> predict_proba(net, X).round(6)
array([[0.75, 0.25]])
>>> loss, gradients = loss_and_gradients(net, X, np.array([0]))
>>> gradients.b2.round(6), gradients.b1.round(6)
(array([-0.25,  0.25]), array([-0.25,  0.  ]))

    uv run weeks/07/numpy_mlp.py

Source: D. Rumelhart, G. Hinton and R. Williams, *Learning representations by back-propagating
errors* (Nature 323, 1986); K. He et al., *Delving Deep into Rectifiers* (2015), section 2.2, for
the initial weights; Y. LeCun et al. (1998), section III.B, for two-layer networks on MNIST.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require


@dataclass(eq=False)
class MLP:
    """The parameters of the network, or anything of their shapes: gradients, velocities.

    One example is a row, so a layer is `X @ W + b`.
    """

    W1: Float[np.ndarray, "pixels hidden"]
    b1: Float[np.ndarray, " hidden"]
    W2: Float[np.ndarray, "hidden classes"]
    b2: Float[np.ndarray, " classes"]

    def arrays(self) -> list[np.ndarray]:
        """The four arrays, in order; they are the network's own, to be changed in place."""
        return [getattr(self, field.name) for field in fields(self)]

    def copy(self) -> "MLP":
        """An independent copy."""
        return MLP(*(array.copy() for array in self.arrays()))

    def zeros(self) -> "MLP":
        """The same shapes, all zero."""
        return MLP(*(np.zeros_like(array) for array in self.arrays()))


def initialize(
    pixels: int, hidden: int, classes: int, rng: np.random.Generator, dtype: str = "float32"
) -> MLP:
    """Random weights that keep the size of the signal, zero biases.

    A rectifier lets half of the variance through, so that W1 has variance 2 / pixels; nothing comes
    after W2, which has 1 / hidden. Random because equal units would stay equal for ever.

    References
    ----------
    He et al. (2015), equation 10.
    """
    for name, value in (("pixels", pixels), ("hidden", hidden), ("classes", classes)):
        require(value >= 1, f"{name} must be at least 1", value)
    W1 = rng.normal(scale=np.sqrt(2 / pixels), size=(pixels, hidden))
    W2 = rng.normal(scale=np.sqrt(1 / hidden), size=(hidden, classes))
    return MLP(
        W1.astype(dtype), np.zeros(hidden, dtype), W2.astype(dtype), np.zeros(classes, dtype)
    )


def forward(
    net: MLP, X: Float[np.ndarray, "n pixels"]
) -> tuple[Float[np.ndarray, "n hidden"], Float[np.ndarray, "n classes"]]:
    """The hidden layer H and the scores Z."""
    p = len(net.W1)
    require(X.shape[1] == p, f"X must have {p} columns, as W1 has rows", X.shape[1])
    H = np.maximum(X @ net.W1 + net.b1, 0)
    return H, H @ net.W2 + net.b2


def log_softmax(Z: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Z minus the log of its rows' sums of exponentials, which cannot overflow."""
    Z = Z - Z.max(axis=1, keepdims=True)
    return Z - np.log(np.exp(Z).sum(axis=1, keepdims=True))


@checked
def loss_and_gradients(
    net: MLP, X: Float[np.ndarray, "n pixels"], y: Int[np.ndarray, " n"]
) -> tuple[float, MLP]:
    """Mean log loss in nats, and its gradient by each parameter, in the shape of a network."""
    n = len(X)
    require(n, "X must have at least one row, got none")
    known = 0 <= y.min() <= y.max() < len(net.b2)
    require(known, f"y must be between 0 and {len(net.b2) - 1}", y.min(), y.max())
    H, Z = forward(net, X)
    log_p = log_softmax(Z)
    loss = -float(log_p[np.arange(n), y].mean())

    dZ = np.exp(log_p)
    dZ[np.arange(n), y] -= 1
    dZ /= n  # the loss is a mean: without this the step grows with the batch
    dH = dZ @ net.W2.T
    dH[H == 0] = 0  # a unit that was off passes nothing back
    return loss, MLP(X.T @ dH, dH.sum(axis=0), H.T @ dZ, dZ.sum(axis=0))


@checked
def train(
    net: MLP,
    X: Float[np.ndarray, "n pixels"],
    y: Int[np.ndarray, " n"],
    *,
    epochs: int,
    batch_size: int = 100,
    lr: float = 0.1,
    momentum: float = 0.9,
    rng: np.random.Generator,
) -> list[float]:
    """Change `net` in place and return the loss of each mini-batch, taken before its step.

    Parameters
    ----------
    lr
        The first step size η; it falls to zero on a straight line.
    momentum
        μ, the share of the last velocity that is kept; 0 is plain gradient descent.

    Raises
    ------
    ValueError
        For a parameter out of range, or labels that are not as many as rows.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        require(value >= 1, f"{name} must be at least 1", value)
    require(lr > 0 and 0 <= momentum < 1, "lr must be > 0 and momentum in [0, 1)", lr, momentum)
    velocity, losses = net.zeros(), []
    steps = epochs * -(-len(X) // batch_size)
    for _ in range(epochs):
        order = rng.permutation(len(X))  # a new order each time, so that batches differ
        for start in range(0, len(X), batch_size):
            rows = order[start : start + batch_size]
            loss, gradients = loss_and_gradients(net, X[rows], y[rows])
            rate = lr * (1 - len(losses) / steps)
            for p, v, g in zip(net.arrays(), velocity.arrays(), gradients.arrays(), strict=True):
                v *= momentum
                v += g
                p -= rate * v
            losses.append(loss)
    return losses


@checked
def predict_proba(net: MLP, X: Float[np.ndarray, "n pixels"]) -> Float[np.ndarray, "n classes"]:
    """Probability of each class, one row per example."""
    return np.exp(log_softmax(forward(net, X)[1]))


@checked
def accuracy(net: MLP, X: Float[np.ndarray, "n pixels"], y: Int[np.ndarray, " n"]) -> float:
    """Share of the examples whose likeliest class is the right one."""
    return float(np.mean(forward(net, X)[1].argmax(axis=1) == y))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
