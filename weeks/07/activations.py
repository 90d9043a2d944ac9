r"""Activation functions: values and slopes that stay right at ±1000, and what the slopes decide.

Without a nonlinearity $f$ between them, two layers are one: $W_2 W_1 x$. With it, every backward
pass multiplies by $f'(z)$, layer after layer. Over random weights of variance $\sigma_w^2/n$ the
mean square of a gradient shrinks or grows, from one layer of $n$ units to the one below, by

$$ \chi = \sigma_w^2 \; \mathbb{E}\left[f'(\sqrt{q}\, z)^2\right], \qquad z \sim N(0, 1), $$

where $q$ is the variance of what enters $f$. For the sigmoid with $\sigma_w = 1$ that is about
1/18, for ReLU with $\sigma_w^2 = 2$ it is 1.

>>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
array([0. , 0.5, 1. ])
>>> gradient_factors(ACTIVATIONS["ReLU"], weight_variance=2.0, depth=3).round(6)
array([1., 1., 1.])

    uv run weeks/07/activations.py

Source: X. Glorot, Y. Bengio, *Understanding the difficulty of training deep feedforward neural
networks* (2010), equations 6 and 7; K. He et al., *Delving deep into rectifiers* (2015), section
2.2; S. Schoenholz et al., *Deep information propagation* (2017), equations 3 and 7; ELU: D. Clevert
et al. (2016); GELU: D. Hendrycks, K. Gimpel (2016); SiLU: S. Elfwing et al. (2018), and with β, as
Swish: P. Ramachandran et al. (2017); SwiGLU: N. Shazeer, *GLU variants improve transformer* (2020).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import erfc

from shared.arguments import checked
from shared.require import require

# ---- values and derivatives; float32 stays float32


@checked
def sigmoid(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """1 / (1 + e⁻ˣ); only e^-|x|, which cannot overflow, is ever computed."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


@checked
def d_sigmoid(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """σ(1 - σ), without the difference: 1 - σ would be 0 from x = 37 on."""
    e = np.exp(-np.abs(x))
    return e / (1 + e) ** 2


@checked
def tanh(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """2σ(2x) - 1, by NumPy, which is exact near 0 where this difference is not."""
    return np.tanh(x)


@checked
def d_tanh(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """1 - tanh², without the difference."""
    return 4 * d_sigmoid(2 * x)


@checked
def relu(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """max(x, 0)."""
    return np.maximum(x, 0)


@checked
def d_relu(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """1 above 0; at 0, where any slope in [0, 1] would do, 0 as in torch."""
    return 1 - (x <= 0).astype(x.dtype)  # of NaN 1, as in torch


@checked
def leaky_relu(x: Float[np.ndarray, "*shape"], slope: float = 0.01) -> Float[np.ndarray, "*shape"]:
    """X above 0, slope · x below: a unit that is off still learns."""
    return np.where(x > 0, x, slope * x)


@checked
def d_leaky_relu(
    x: Float[np.ndarray, "*shape"], slope: float = 0.01
) -> Float[np.ndarray, "*shape"]:
    """1 above 0, else the slope."""
    return np.where(x > 0, 1, slope).astype(x.dtype)


@checked
def elu(x: Float[np.ndarray, "*shape"], alpha: float = 1.0) -> Float[np.ndarray, "*shape"]:
    """X above 0, α(eˣ - 1) below."""
    # expm1, not exp - 1, which keeps no digit of x = -1e-17; the minimum: `where` computes both
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


@checked
def d_elu(x: Float[np.ndarray, "*shape"], alpha: float = 1.0) -> Float[np.ndarray, "*shape"]:
    """1 above 0, αeˣ below."""
    return np.where(x <= 0, alpha * np.exp(np.minimum(x, 0)), 1)


@checked
def softplus(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Log(1 + eˣ), a smooth ReLU."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@checked
def gelu(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """X Φ(x), Φ the normal distribution function; erfc keeps the digits of its left tail."""
    return 0.5 * x * erfc(-x / x.dtype.type(np.sqrt(2)))


@checked
def d_gelu(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Φ(x) + x φ(x)."""
    root = x.dtype.type(np.sqrt(2))
    density = np.exp(-0.5 * x * x) / x.dtype.type(np.sqrt(2 * np.pi))
    return 0.5 * erfc(-x / root) + x * density


@checked
def gelu_tanh(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """GELU with Φ(x) ≈ σ(2u), u = √(2/π) (x + 0.044715 x³): GPT-2's, up to 5e-4 away."""
    return x * sigmoid(2 * _inner(x))


@checked
def d_gelu_tanh(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """σ(2u) + x σ'(2u) 2u'."""
    u = _inner(x)
    slope = x.dtype.type(np.sqrt(2 / np.pi)) * (1 + x.dtype.type(3 * 0.044715) * x * x)
    return sigmoid(2 * u) + 2 * x * d_sigmoid(2 * u) * slope


def _inner(x: np.ndarray) -> np.ndarray:
    return x.dtype.type(np.sqrt(2 / np.pi)) * (x + x.dtype.type(0.044715) * x * x * x)


@checked
def silu(x: Float[np.ndarray, "*shape"], beta: float = 1.0) -> Float[np.ndarray, "*shape"]:
    """X σ(βx): SiLU with β = 1, Swish in general; β = 0 is linear, β → ∞ is ReLU."""
    return x * sigmoid(beta * x)


@checked
def d_silu(x: Float[np.ndarray, "*shape"], beta: float = 1.0) -> Float[np.ndarray, "*shape"]:
    """σ(βx) + βx σ'(βx): negative left of -1.278/β, since Swish falls before it rises."""
    return sigmoid(beta * x) + beta * x * d_sigmoid(beta * x)


class Activation(NamedTuple):
    """A function of one number, and its derivative, both elementwise."""

    value: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]


ACTIVATIONS = {
    "sigmoid": Activation(sigmoid, d_sigmoid),
    "tanh": Activation(tanh, d_tanh),
    "ReLU": Activation(relu, d_relu),
    "leaky ReLU": Activation(leaky_relu, d_leaky_relu),
    "ELU": Activation(elu, d_elu),
    "softplus": Activation(softplus, sigmoid),
    "GELU": Activation(gelu, d_gelu),
    "GELU (tanh)": Activation(gelu_tanh, d_gelu_tanh),
    "SiLU": Activation(silu, d_silu),
}


class SwiGLU:
    """A layer whose gate is SiLU: y = (silu(x G) ⊙ x U) D, without biases.

    Parameters
    ----------
    gate, up, down
        G, U and D. A transformer of width d takes hidden = 8d/3: three matrices then cost what two
        with hidden = 4d would.

    References
    ----------
    Shazeer (2020), equation 6.
    """

    @checked
    def __init__(
        self,
        gate: Float[np.ndarray, "d hidden"],
        up: Float[np.ndarray, "d hidden"],
        down: Float[np.ndarray, "hidden d_out"],
    ):
        self.gate, self.up, self.down = gate, up, down

    def forward(self, x: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch d_out"]:
        """The layer's output."""
        return (silu(x @ self.gate) * (x @ self.up)) @ self.down

    def backward(
        self, x: Float[np.ndarray, "*batch d"], dy: Float[np.ndarray, "*batch d_out"]
    ) -> tuple[Float[np.ndarray, "*batch d"], dict[str, np.ndarray]]:
        """Gradients of ⟨dy, forward(x)⟩ in x and in each matrix, by name."""
        a, b = x @ self.gate, x @ self.up
        dh = dy @ self.down.T
        da, db = gated_backward(a, b, dh)
        rows, da_rows, db_rows, dy_rows = (v.reshape(-1, v.shape[-1]) for v in (x, da, db, dy))
        hidden = (silu(a) * b).reshape(-1, a.shape[-1])
        gradients = {"gate": rows.T @ da_rows, "up": rows.T @ db_rows, "down": hidden.T @ dy_rows}
        return da @ self.gate.T + db @ self.up.T, gradients


@checked
def gated_backward(
    a: Float[np.ndarray, "*shape"], b: Float[np.ndarray, "*shape"], dy: Float[np.ndarray, "*shape"]
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Gradients of ⟨dy, silu(a) ⊙ b⟩ in a and b: each side's passes through the other's value."""
    return dy * b * d_silu(a), dy * silu(a)


# ---- what random layers do to a signal and to its gradient


def gaussian_mean_square(
    f: Callable[[np.ndarray], np.ndarray], variance: float = 1.0, nodes: int = 4001
) -> float:
    """E[f(√variance z)²] for z ~ N(0, 1), by the midpoint rule out to ±10.

    Gauss–Hermite would be exact for polynomials, but derivatives here have jumps.
    """
    require(0 <= variance < np.inf, "variance must be finite and at least 0", variance)
    require(nodes >= 2, "nodes must be at least 2", nodes)
    edges = np.linspace(-10, 10, nodes)
    z = (edges[1:] + edges[:-1]) / 2
    density = np.exp(-0.5 * z * z)
    return float(np.sum(f(np.sqrt(variance) * z) ** 2 * density) / density.sum())


def preserving_variance(f: Callable[[np.ndarray], np.ndarray]) -> float:
    """σ_w² with which unit variance before f is unit variance before the next f: 2 for ReLU.

    References
    ----------
    He et al. (2015), equation 10, for any f.
    """
    return 1.0 / gaussian_mean_square(f)


def gradient_factors(
    activation: Activation, weight_variance: float, depth: int, q: float = 1.0
) -> Float[np.ndarray, " depth"]:
    """χ of each layer from the first, when its inputs' variance starts at q and nobody tunes it.

    Parameters
    ----------
    weight_variance
        σ_w²: fan-in times the variance of a weight; biases are 0.

    References
    ----------
    Schoenholz et al. (2017), equations 3 (for q) and 7 (for χ).
    """
    require(depth >= 1, "depth must be at least 1", depth)
    factors = []
    for _ in range(depth):
        factors.append(weight_variance * gaussian_mean_square(activation.slope, q))
        q = weight_variance * gaussian_mean_square(activation.value, q)
    return np.array(factors)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
