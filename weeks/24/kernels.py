r"""Kernels: what a Gaussian process believes about two values of a function, and its derivatives.

A kernel $k(x, x')$ is the covariance of $f(x)$ and $f(x')$. Sums and products of kernels are
kernels: a sum is the covariance of a sum of independent functions, a product is positive definite
by Schur's theorem. Parameters are positive and learned as logarithms $\vartheta = \ln\theta$, so
$\partial k / \partial \vartheta = \theta\, \partial k / \partial \theta$.

>>> x = np.array([[0.0], [1.0], [2.0]])
>>> print(RBF(1.0)(x, x)[0].round(3))
[1.    0.607 0.135]
>>> trend = Constant(4.0) * Linear(1.0) + Periodic(1.0, 2.0)
>>> print(trend(x, x)[0, 2], trend.theta.size, trend.gradient(x).shape)
5.0 4 (4, 3, 3)

Source: Rasmussen & Williams, *Gaussian Processes for Machine Learning* (2006), chapter 4.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float

from shared.require import require

__all__ = ["RBF", "Constant", "Kernel", "Linear", "Matern", "Periodic", "Product", "Sum"]

Inputs = Float[np.ndarray, "n d"]
Gram = Float[np.ndarray, "n n"]


def distances(X: Inputs, Z: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """Euclidean, from differences: squares that cancel would lose half of the digits."""
    return np.sqrt(np.square(X[:, None] - Z).sum(axis=-1))


class Kernel:
    """A covariance function with positive parameters; kernels can be added and multiplied."""

    @property
    def theta(self) -> Float[np.ndarray, " p"]:
        """Logarithms of the parameters."""
        raise NotImplementedError

    def with_theta(self, theta: Float[np.ndarray, " p"]) -> "Kernel":
        """The same kernel with other parameters."""
        raise NotImplementedError

    def __call__(self, X: Inputs, Z: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        """Covariances of the values at the rows of X with those at the rows of Z."""
        raise NotImplementedError

    def diagonal(self, X: Inputs) -> Float[np.ndarray, " n"]:
        """Variances at the rows of X."""
        return np.array([self(x, x)[0, 0] for x in X[:, None]])

    def gradient(self, X: Inputs) -> Float[np.ndarray, "p n n"]:
        """Derivatives of the covariances of X with itself by each entry of theta."""
        raise NotImplementedError

    def __add__(self, other: "Kernel") -> "Sum":
        return Sum(self, other)

    def __mul__(self, other: "Kernel") -> "Product":
        return Product(self, other)


@dataclass(frozen=True)
class _Leaf(Kernel):
    """A kernel whose fields are its parameters, all of them positive."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            require(value > 0, f"{field.name} must be positive", value)

    @property
    def theta(self) -> Float[np.ndarray, " p"]:
        return np.log([getattr(self, field.name) for field in fields(self)])

    def with_theta(self, theta: Float[np.ndarray, " p"]) -> "Kernel":
        return type(self)(*np.exp(theta))


@dataclass(frozen=True)
class Constant(_Leaf):
    """k = variance: an unknown level, and the factor of others."""

    variance: float = 1.0

    def __call__(self, X: Inputs, Z: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        return np.full((len(X), len(Z)), float(self.variance))

    def gradient(self, X: Inputs) -> Float[np.ndarray, "p n n"]:
        """By ln variance."""
        return self(X, X)[None]


@dataclass(frozen=True)
class Linear(_Leaf):
    """k = variance + x·x': straight lines with slopes of variance one.

    References
    ----------
    Rasmussen & Williams (2006), section 4.2.2.
    """

    variance: float = 1.0

    def __call__(self, X: Inputs, Z: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        return self.variance + X @ Z.T

    def gradient(self, X: Inputs) -> Float[np.ndarray, "p n n"]:
        """By ln variance."""
        return np.full((1, len(X), len(X)), float(self.variance))


@dataclass(frozen=True)
class RBF(_Leaf):
    """k = exp(−r² / 2ℓ²): functions with all derivatives."""

    length: float = 1.0

    def __call__(self, X: Inputs, Z: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        return np.exp(-np.square(distances(X, Z) / self.length) / 2)

    def gradient(self, X: Inputs) -> Float[np.ndarray, "p n n"]:
        """By ln length."""
        return (self(X, X) * np.square(distances(X, X) / self.length))[None]


@dataclass(frozen=True)
class Matern(_Leaf):
    """Functions with (smoothness − 1/2) derivatives; smoothness is 1/2, 3/2 or 5/2 and not learned.

    References
    ----------
    Rasmussen & Williams (2006), eq. 4.17.
    """

    length: float = 1.0
    smoothness: float = 1.5

    def __post_init__(self):
        super().__post_init__()
        known = self.smoothness in (0.5, 1.5, 2.5)
        require(known, "smoothness must be 0.5, 1.5 or 2.5", self.smoothness)

    @property
    def theta(self) -> Float[np.ndarray, " p"]:
        """ln length."""
        return np.log([self.length])

    def with_theta(self, theta: Float[np.ndarray, " p"]) -> "Kernel":
        """Another length, the same smoothness."""
        return Matern(float(np.exp(theta[0])), self.smoothness)

    def __call__(self, X: Inputs, Z: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        r = np.sqrt(2 * self.smoothness) * distances(X, Z) / self.length
        polynomial = {0.5: 1.0, 1.5: 1 + r, 2.5: 1 + r + r**2 / 3}[self.smoothness]
        return polynomial * np.exp(-r)

    def gradient(self, X: Inputs) -> Float[np.ndarray, "p n n"]:
        """By ln length."""
        r = np.sqrt(2 * self.smoothness) * distances(X, X) / self.length
        factor = {0.5: r, 1.5: r**2, 2.5: r**2 * (1 + r) / 3}[self.smoothness]
        return (factor * np.exp(-r))[None]


@dataclass(frozen=True)
class Periodic(_Leaf):
    """k = exp(−2 sin²(π r / period) / ℓ²): an RBF on a circle, in one dimension.

    References
    ----------
    Rasmussen & Williams (2006), eq. 4.31.
    """

    length: float = 1.0
    period: float = 1.0

    def __call__(self, X: Inputs, Z: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        angle = np.pi * distances(X, Z) / self.period
        return np.exp(-2 * np.square(np.sin(angle) / self.length))

    def gradient(self, X: Inputs) -> Float[np.ndarray, "p n n"]:
        """By ln length and ln period."""
        angle, K = np.pi * distances(X, X) / self.period, self(X, X)
        by_length = 4 * np.square(np.sin(angle) / self.length) * K
        by_period = 4 * angle * np.sin(angle) * np.cos(angle) / self.length**2 * K
        return np.stack([by_length, by_period])


@dataclass(frozen=True)
class _Pair(Kernel):
    """Two kernels; theta is that of the left one, then that of the right one."""

    left: Kernel
    right: Kernel

    @property
    def theta(self) -> Float[np.ndarray, " p"]:
        return np.concatenate([self.left.theta, self.right.theta])

    def with_theta(self, theta: Float[np.ndarray, " p"]) -> "Kernel":
        n = len(self.left.theta)
        return type(self)(self.left.with_theta(theta[:n]), self.right.with_theta(theta[n:]))


class Sum(_Pair):
    """The covariance of the sum of two independent functions."""

    def __call__(self, X: Inputs, Z: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        return self.left(X, Z) + self.right(X, Z)

    def gradient(self, X: Inputs) -> Float[np.ndarray, "p n n"]:
        """Those of the left kernel, then those of the right one."""
        return np.concatenate([self.left.gradient(X), self.right.gradient(X)])


class Product(_Pair):
    """Where both say that two values are alike."""

    def __call__(self, X: Inputs, Z: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
        return self.left(X, Z) * self.right(X, Z)

    def gradient(self, X: Inputs) -> Float[np.ndarray, "p n n"]:
        """By the product rule; the left kernel's first."""
        left, right = self.left(X, X), self.right(X, X)
        return np.concatenate([self.left.gradient(X) * right, self.right.gradient(X) * left])
