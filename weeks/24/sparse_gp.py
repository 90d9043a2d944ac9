r"""Sparse Gaussian processes: a few inducing values stand for all the data, by a variational bound.

The values $u = f(Z)$ at $m$ chosen points get a free distribution $q(u) = N(\mu, S)$; given $u$,
the rest of $f$ keeps its prior. With $P = K_{ZZ}^{-1} K_{ZX}$, whose columns are $p_i$, this gives

$$\ln p(y) \ge \sum_i \Big( \ln N(y_i;\, p_i^\top \mu,\, \sigma^2)
  - \frac{k_{ii} - p_i^\top K_{ZZ}\, p_i + p_i^\top S\, p_i}{2 \sigma^2} \Big)
  - \mathrm{KL}(q(u) \,\|\, p(u)) ,$$

a sum over data that a batch estimates (SVGP). The best $q$ is known, and with it the bound is
$\ln N(y; 0, Q + \sigma^2 I) - \mathrm{tr}(K - Q) / 2\sigma^2$ with $Q = K_{XZ} K_{ZZ}^{-1} K_{ZX}$,
the *collapsed* one (VFE). The Gaussian's natural parameters $S^{-1}$ and $S^{-1}\mu$ are sums over
data plus the prior's, so a natural-gradient step is an average, as it is for topics in
`latent_dirichlet.py`.

>>> X = np.linspace(0, 6, 40)[:, None]
>>> Z, y = X[::8], np.sin(X[:, 0])
>>> model = SparseGP(RBF(1.0), 0.01, Z)
>>> model.step(X, y, n_data=40, rho=1.0)
>>> print(np.isclose(model.bound(X, y, n_data=40), collapsed_bound(RBF(1.0), 0.01, X, y, Z)))
True

Source: Titsias, "Variational learning of inducing variables" (2009); Hensman, Fusi & Lawrence,
"Gaussian processes for big data" (2013), section 3.
"""

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_solve, solve_triangular

from shared.arguments import checked
from shared.require import require
from week24.gaussian_process import Prediction, factor
from week24.kernels import RBF, Inputs, Kernel

__all__ = ["RBF", "SparseGP", "collapsed_bound"]

JITTER = 1e-10  # of the prior variance: inducing values are dense where functions are smooth


def _factor(kernel: Kernel, Z: Inputs) -> Float[np.ndarray, "m m"]:
    """Cholesky factor of the inducing values' prior covariance."""
    return factor(kernel(Z, Z) + JITTER * kernel.diagonal(Z).max() * np.eye(len(Z)))


@checked
def collapsed_bound(
    kernel: Kernel,
    noise: float,
    X: Inputs,
    y: Float[np.ndarray, " n"],
    Z: Float[np.ndarray, "m d"],
) -> float:
    """The bound with the best q(u), in nats, in time n m² and without any n × n matrix.

    With A = L⁻¹ K_ZX / σ, the determinant is that of B = I + A Aᵀ (Sylvester), the inverse
    Woodbury's.

    References
    ----------
    Titsias (2009), eq. 9.
    """
    A = solve_triangular(_factor(kernel, Z), kernel(Z, X), lower=True) / np.sqrt(noise)
    LB = factor(np.eye(len(Z)) + A @ A.T)
    c = solve_triangular(LB, A @ y, lower=True) / np.sqrt(noise)
    n, log_det = len(y), 2 * np.log(LB.diagonal()).sum()
    value = n * np.log(2 * np.pi * noise) + log_det + (y @ y) / noise - c @ c
    left_out = kernel.diagonal(X).sum() / noise - np.square(A).sum()
    return float(-0.5 * (value + left_out))


class SparseGP:
    """q(u) at inducing points Z, by natural-gradient steps; it starts at the prior.

    Attributes
    ----------
    precision, linear
        Natural parameters of q(u): S⁻¹ and S⁻¹ μ.
    """

    def __init__(self, kernel: Kernel, noise: float, Z: Inputs):
        require(noise > 0, "noise must be positive", noise)
        self.kernel, self.noise, self.Z = kernel, noise, Z
        self.L = _factor(kernel, Z)
        self.prior_precision = cho_solve((self.L, True), np.eye(len(Z)))
        self.precision, self.linear = self.prior_precision.copy(), np.zeros(len(Z))

    def moments(self) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m m"]]:
        """Mean and covariance of q(u)."""
        S = cho_solve((factor(self.precision), True), np.eye(len(self.Z)))
        return S @ self.linear, S

    def projection(self, X: Inputs) -> Float[np.ndarray, "m n"]:
        """P: E[f(X) | u] = Pᵀ u."""
        return cho_solve((self.L, True), self.kernel(self.Z, X))

    def step(self, X: Inputs, y: Float[np.ndarray, " n"], *, n_data: int, rho: float) -> None:
        """A part ρ of the way to the best q(u) if all data were like this batch."""
        P, scale = self.projection(X), n_data / len(y) / self.noise
        precision = self.prior_precision + scale * P @ P.T
        self.precision = (1 - rho) * self.precision + rho * precision
        self.linear = (1 - rho) * self.linear + rho * scale * P @ y

    def predict(self, X: Inputs, *, noisy: bool = False) -> Prediction:
        """Mean and variance of f at new points, or of what would be observed there if `noisy`."""
        mean, S = self.moments()
        P = self.projection(X)
        left = self.kernel.diagonal(X) - (P * self.kernel(self.Z, X)).sum(axis=0)
        variance = left + (P * (S @ P)).sum(axis=0)
        return Prediction(P.T @ mean, variance + (self.noise if noisy else 0.0))

    def kl(self) -> float:
        """KL(q(u) ‖ p(u)), in nats."""
        mean, S = self.moments()
        squares = mean @ self.prior_precision @ mean + (self.prior_precision * S).sum()
        log_dets = np.linalg.slogdet(self.precision)[1] + 2 * np.log(self.L.diagonal()).sum()
        return float((squares - len(mean) + log_dets) / 2)

    def bound(self, X: Inputs, y: Float[np.ndarray, " n"], *, n_data: int) -> float:
        """On ln p of all `n_data` values, estimated from these: the sum is scaled, the KL is not.

        References
        ----------
        Hensman et al. (2013), eq. 4.
        """
        found = self.predict(X)
        expected = np.log(2 * np.pi * self.noise) + np.square(y - found.mean) / self.noise
        data = -0.5 * (expected + found.variance / self.noise).sum()
        return float(n_data / len(y) * data - self.kl())
