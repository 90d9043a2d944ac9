r"""Conditioning: how many digits a least-squares solution loses, and to which method.

With $\kappa = \sigma_1 / \sigma_n$, a relative error $\varepsilon$ in the data may move the
solution of $\min_x \|Ax - b\|$ by about

$$\frac{\|\Delta x\|}{\|x\|}
  \lesssim \varepsilon \left(\kappa + \frac{\kappa^2 \tan\theta}{\eta}\right), \qquad
  1 \le \eta = \frac{\|A\| \|x\|}{\|Ax\|} \le \kappa,$$

where $\theta$ is the angle between $b$ and the column space. QR and the SVD do no worse than this.
The normal equations $A^\top A x = A^\top b$ pay $\kappa^2$ even at $\theta = 0$, because forming
$A^\top A$ squares the singular values. Errors here are measured against the exact solution,
computed in fractions: the normal equations are right, only their rounding is not.

    >>> A = np.array([[1.0, 1.0], [1e-9, 0.0], [0.0, 1e-9]])
    >>> b = np.array([3.0, 1e-9, 2e-9])
    >>> [solve(A, b).round(4).tolist() for solve in (exact_least_squares, least_squares_qr)]
    [[1.0, 2.0], [1.0, 2.0]]

    uv run weeks/01/conditioning.py

Source: Trefethen and Bau, *Numerical Linear Algebra* (SIAM, 1997), theorem 18.1 and lecture 19;
Demmel and Veselić, "Jacobi's method is more accurate than QR" (SIAM J. Matrix Anal. Appl., 1992).
"""

from fractions import Fraction

import numpy as np
from jaxtyping import Float

from shared.arguments import checked
from week01.matrix_decompositions import EPS, householder_qr, solve_triangular


@checked
def least_squares_qr(
    A: Float[np.ndarray, "m n"], b: Float[np.ndarray, "m"]
) -> Float[np.ndarray, "n"]:
    """Least squares by QR, R x = Qᵀb, for A of full column rank."""
    Q, R = householder_qr(A)
    return solve_triangular(R, Q.T @ b)


@checked
def least_squares_normal(
    A: Float[np.ndarray, "m n"], b: Float[np.ndarray, "m"]
) -> Float[np.ndarray, "n"]:
    """Least squares by the normal equations AᵀA x = Aᵀb: correct on paper, here as the failure."""
    return least_squares_qr(A.T @ A, A.T @ b)


@checked
def exact_least_squares(
    A: Float[np.ndarray, "m n"], b: Float[np.ndarray, "m"]
) -> Float[np.ndarray, "n"]:
    """The normal equations in exact fractions: there is nothing wrong with them but rounding."""
    rows = [[Fraction(x) for x in row] for row in np.column_stack([A, b]).tolist()]
    n = A.shape[1]
    G = [[sum(r[i] * r[j] for r in rows) for j in range(n + 1)] for i in range(n)]
    for i in range(n):
        G[i] = [x / G[i][i] for x in G[i]]
        for j in set(range(n)) - {i}:
            G[j] = [y - G[j][i] * x for x, y in zip(G[i], G[j], strict=True)]
    return np.array([float(row[n]) for row in G])


@checked
def exact_singular_values(A: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n"]:
    """Singular values to the last digit, by bisection on an exact count (Sylvester's inertia).

    As many eigenvalues of AᵀA lie below x² as LDLᵀ of AᵀA - x²I has negative pivots.
    """
    F = [[Fraction(x) for x in row] for row in A.tolist()]
    n = len(F)
    gram = [[sum(r[i] * r[j] for r in F) for j in range(n)] for i in range(n)]

    def count_below(x: float) -> int:
        M = [[gram[i][j] - (Fraction(x) ** 2 if i == j else 0) for j in range(n)] for i in range(n)]
        for i in range(n):
            for j in range(i + 1, n):
                factor = M[j][i] / M[i][i]
                M[j] = [y - factor * x for x, y in zip(M[i], M[j], strict=True)]
        return sum(M[i][i] < 0 for i in range(n))

    found = []
    for k in range(n):
        low, high = 1e-300, 2.0 * float(np.linalg.norm(A))
        while high / low > 1.0 + 2.0 * EPS:
            middle = float(np.sqrt(low) * np.sqrt(high))
            low, high = (low, middle) if count_below(middle) > k else (middle, high)
        found.append(high)
    return np.array(found[::-1])


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
