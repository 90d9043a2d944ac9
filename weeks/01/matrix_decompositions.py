r"""QR, eigenvalues and SVD from scratch, by reflections and rotations.

Every matrix is a rotation, a stretch along perpendicular axes, and another rotation:

$$A = U \Sigma V^\top, \qquad U^\top U = V^\top V = I, \qquad
  \Sigma = \mathrm{diag}(\sigma_1 \ge \sigma_2 \ge \dots \ge 0).$$

QR by reflections, eigenvalues and singular values by Jacobi's rotations. All three only ever
rotate or reflect, so they never magnify a rounding error. Gram–Schmidt, which subtracts, does.

    >>> A = np.array([[3.0, 0.0], [4.0, 5.0]])
    >>> U, sigma, Vt = svd_jacobi(A)
    >>> sigma.round(4), bool(np.allclose((U * sigma) @ Vt, A))
    (array([6.7082, 2.2361]), True)
    >>> least_squares(np.array([[1.0], [1.0], [1.0]]), np.array([1.0, 2.0, 6.0]))
    array([3.])

    uv run weeks/01/matrix_decompositions.py

Source: Trefethen and Bau, *Numerical Linear Algebra* (SIAM, 1997), lectures 4, 8, 10 and 11;
Golub and Van Loan, *Matrix Computations*, 4th ed. (2013), sections 8.5 and 8.6.3.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from shared.arguments import checked
from shared.require import require
from week01.pivoted_qr import EPS, pivoted_qr

MAX_SWEEPS = 60
Columns = Float[np.ndarray, "m"] | Float[np.ndarray, "m k"]  # one right-hand side, or several


@checked
def householder_qr(
    A: Float[np.ndarray, "m n"],
) -> tuple[Float[np.ndarray, "m k"], Float[np.ndarray, "k n"]]:
    """Reduced QR factorization by reflections, k = min(m, n).

    Returns
    -------
    Q, R
        Orthonormal columns and an upper triangle with A = Q R, in the signs of `numpy.linalg.qr`.
        Q is orthonormal whatever the rank of A.

    References
    ----------
    Trefethen and Bau, algorithms 10.1 and 10.3.
    """
    R, exponent = _scaled(_matrix("A", A))
    m, n = R.shape
    k = min(m, n)
    reflectors = []
    for j in range(k):
        v = R[j:, j].copy()
        # LAPACK leaves a column alone that is already upper triangular; so do we.
        if np.any(v[1:]):
            # Adding the norm with the sign of v[0] avoids the cancellation of v[0] - |v|.
            v[0] += np.copysign(np.linalg.norm(v), v[0])
            v /= np.linalg.norm(v)
            R[j:, j:] -= 2.0 * np.outer(v, v @ R[j:, j:])
            R[j + 1 :, j] = 0.0
        else:
            v[:] = 0.0
        reflectors.append(v)
    Q = np.eye(m, k)
    for j in reversed(range(k)):  # backwards, so that each reflection touches only Q[j:, j:]
        v = reflectors[j]
        Q[j:, j:] -= 2.0 * np.outer(v, v @ Q[j:, j:])
    return Q, np.ldexp(R[:k], exponent)


@checked
def solve_triangular(R: Float[np.ndarray, "m m"], b: Columns) -> Float[np.ndarray, "m *k"]:
    """Solve R x = b by back substitution; R is an upper triangle without zeros on its diagonal."""
    R, b = _matrix("R", R), _finite("b", b)
    at = int(np.abs(np.diag(R)).argmin())
    require(R[at, at] != 0, "R must have a non-zero diagonal", f"R[{at}, {at}] = 0")
    x = np.zeros_like(b)
    for i in reversed(range(len(R))):
        x[i] = (b[i] - R[i, i + 1 :] @ x[i + 1 :]) / R[i, i]
    return x


@checked
def eigh_jacobi(
    A: Float[np.ndarray, "n n"],
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n n"]]:
    """Eigenvalues (ascending) and eigenvectors (columns) of a symmetric matrix.

    Each rotation zeroes two mirrored entries; the mass off the diagonal only ever shrinks.

    References
    ----------
    Golub and Van Loan, section 8.5; disjoint pairs are rotated at once (8.5.7).
    """
    A, exponent = _scaled(_matrix("A", A))
    n = len(A)
    skew = np.abs(A - A.T).max()  # the largest entry of A is about 1
    require(skew <= 1e-10, "A must be symmetric", f"A - Aᵀ up to {skew:.1e} of A")
    A = (A + A.T) / 2
    V = np.eye(n)
    tolerance = EPS * np.linalg.norm(A) / n
    for _ in range(MAX_SWEEPS):
        if np.abs(A - np.diag(np.diag(A))).max(initial=0.0) <= tolerance:
            break
        for p, q in _disjoint_pairs(n):
            c, s = _rotation(A[p, p], A[q, q], A[p, q])
            A[:, p], A[:, q] = c * A[:, p] - s * A[:, q], s * A[:, p] + c * A[:, q]
            V[:, p], V[:, q] = c * V[:, p] - s * V[:, q], s * V[:, p] + c * V[:, q]
            c, s = c[:, None], s[:, None]
            A[p], A[q] = c * A[p] - s * A[q], s * A[p] + c * A[q]
            A[p, q] = A[q, p] = 0.0  # exactly, not to rounding
    else:
        raise np.linalg.LinAlgError(f"A: no convergence in {MAX_SWEEPS} sweeps")
    order = np.argsort(np.diag(A), kind="stable")
    return np.ldexp(np.diag(A)[order], exponent), V[:, order]


@checked
def svd_jacobi(
    A: Float[np.ndarray, "m n"],
) -> tuple[Float[np.ndarray, "m k"], Float[np.ndarray, "k"], Float[np.ndarray, "k n"]]:
    """Thin singular value decomposition by one-sided Jacobi rotations, k = min(m, n).

    Columns of A are rotated in pairs until all are perpendicular: A V = U Σ. Their lengths are
    the singular values. AᵀA is never formed.

    Returns
    -------
    U, singular_values, Vt
        A = U @ diag(singular_values) @ Vt, singular values descending. Those below 1e-150 of the
        largest, whose squares would underflow, are set to zero.

    References
    ----------
    Golub and Van Loan, section 8.6.3; Demmel and Veselić, algorithm 4.1.
    """
    A = _matrix("A", A)
    if A.shape[0] < A.shape[1]:
        V, sigma, Ut = svd_jacobi(A.T)
        return Ut.T, sigma, V.T
    m, n = A.shape
    if m > 2 * n:  # Q keeps all lengths and angles, so the rotations may work on the small R
        Q, R = householder_qr(A)
        U, sigma, Vt = svd_jacobi(R)
        return Q @ U, sigma, Vt
    W, exponent = _scaled(A)
    V = np.eye(n)
    for _ in range(MAX_SWEEPS):
        rotated = False
        for p, q in _disjoint_pairs(n):
            x, y = W[:, p], W[:, q]
            xx, yy, xy = (np.einsum("ij,ij->j", *pair) for pair in ((x, x), (y, y), (x, y)))
            # Relative to the two columns at hand, not to the largest of all: this is what keeps
            # the small singular values of a graded matrix accurate.
            slanted = np.abs(xy) > m * EPS * np.sqrt(xx) * np.sqrt(yy)
            slanted &= np.minimum(xx, yy) > 1e-300
            if slanted.any():
                rotated = True
                c, s = _rotation(xx, yy, np.where(slanted, xy, 0.0))
                W[:, p], W[:, q] = c * x - s * y, s * x + c * y
                V[:, p], V[:, q] = c * V[:, p] - s * V[:, q], s * V[:, p] + c * V[:, q]
        if not rotated:
            break
    else:
        raise np.linalg.LinAlgError(f"A: no convergence in {MAX_SWEEPS} sweeps")
    sigma = np.linalg.norm(W, axis=0)
    order = np.argsort(-sigma, kind="stable")
    sigma, U, V = sigma[order], W[:, order], V[:, order]
    rank = int(np.sum(sigma > 1e-150 * sigma[0]))
    sigma[rank:] = 0.0
    U[:, :rank] /= sigma[:rank]
    if rank < n:  # directions that A never reaches: any orthonormal completion will do
        U[:, rank:] = 0.0
        U[:, rank:] = householder_qr(U)[0][:, rank:]
    return U, np.ldexp(sigma, exponent), V.T


@checked
def project(A: Float[np.ndarray, "m n"], b: Columns) -> Float[np.ndarray, "m *k"]:
    """Orthogonal projection of b onto the column space of A: the nearest point A x to b."""
    U, sigma, _ = svd_jacobi(A)
    U = U[:, sigma > max(A.shape) * EPS * sigma[0]]
    return U @ (U.T @ _finite("b", b))


@checked
def least_squares(
    A: Float[np.ndarray, "m n"], b: Columns, rcond: float | None = None
) -> Float[np.ndarray, "n *k"]:
    """The x of least norm among those that minimize |A x - b|.

    Parameters
    ----------
    rcond
        Singular values up to `rcond * sigma_max` count as zero, which takes the SVD. By default
        those of rounding do, up to max(m, n) times the machine precision, as in
        `numpy.linalg.lstsq`; pivoted QR shows how many, unless one comes close to that limit.
    """
    A, b, (m, n) = _matrix("A", A), _finite("b", b), A.shape
    limit = max(m, n) * EPS if rcond is None else rcond
    require(0.0 <= limit < 1.0, "rcond must be at least 0 and below 1", rcond)
    if rcond is None:
        small, exponent = _scaled(A)
        R, order = pivoted_qr(np.column_stack([small, b]), n)
        if len(R):  # A P = Q Uᵀ Zᵀ, and x lies in the span of Z: no other solution is shorter
            Z, U = householder_qr(R[:, :n].T)
            inverse = solve_triangular(U, np.eye(len(U)))
            if limit * np.linalg.norm(U) * np.linalg.norm(inverse) < 1.0:
                x = Z @ (inverse.T @ R[:, n:])
                return np.ldexp(x[np.argsort(order)], -exponent).reshape(n, *b.shape[1:])
    U, sigma, Vt = svd_jacobi(A)
    keep = sigma > limit * sigma[0]
    coordinates = (U[:, keep].T @ b).T / sigma[keep]
    return Vt[keep].T @ coordinates.T


@checked
def classical_gram_schmidt(
    A: Float[np.ndarray, "m n"],
) -> Float[np.ndarray, "m n"]:
    """Orthonormalize the columns as on paper: subtract projections, normalize. Here as the failure.

    Where columns are nearly parallel the subtraction cancels, and what is left is mostly rounding.
    """
    Q = _matrix("A", A).copy()
    for j in range(Q.shape[1]):
        Q[:, j] -= Q[:, :j] @ (Q[:, :j].T @ Q[:, j])
        Q[:, j] /= np.linalg.norm(Q[:, j])
    return Q


def with_condition(
    m: int, n: int, kappa: float, rng: np.random.Generator
) -> Float[np.ndarray, "m n"]:
    """A random matrix with singular values from 1 down to 1/kappa, equally spaced in logarithm."""
    U, _ = householder_qr(rng.normal(size=(m, n)))
    V, _ = householder_qr(rng.normal(size=(n, n)))
    return (U * np.geomspace(1.0, 1.0 / kappa, n)) @ V.T


def _rotation(
    pp: Float[np.ndarray, "k"], qq: Float[np.ndarray, "k"], pq: Float[np.ndarray, "k"]
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Cosine and sine that diagonalize [[pp, pq], [pq, qq]] (Golub and Van Loan, algorithm 8.5.1).

    The smaller of the two possible angles, at most 45°: with the other one the sweeps may cycle.
    """
    gap = (qq - pp) / 2
    root = np.hypot(gap, pq)
    t = np.copysign(1.0, gap) * pq / np.where(root == 0.0, 1.0, np.abs(gap) + root)
    c = 1.0 / np.hypot(1.0, t)
    return c, c * t


def _disjoint_pairs(n: int) -> Iterator[tuple[Int[np.ndarray, "k"], Int[np.ndarray, "k"]]]:
    """Every pair of 0..n-1 once, in rounds of disjoint pairs, as a tournament seats its players."""
    seats = np.arange(n + n % 2)
    half = len(seats) // 2
    for _ in range(len(seats) - 1):
        p, q = seats[:half], seats[: half - 1 : -1]
        plays = np.maximum(p, q) < n  # with odd n, whoever meets seat n sits out
        yield p[plays], q[plays]
        seats = np.concatenate([seats[:1], np.roll(seats[1:], 1)])


def _scaled(A: Float[np.ndarray, "m n"]) -> tuple[Float[np.ndarray, "m n"], int]:
    """A copy with its largest entry in [0.5, 1), and the exact power of two taken out."""
    exponent = int(np.frexp(np.abs(A).max())[1])
    return np.ldexp(A, -exponent), exponent


def _matrix(name: str, A: ArrayLike) -> Float[np.ndarray, "m n"]:
    A = _finite(name, A)
    matrix = A.ndim == 2 and A.size > 0
    require(matrix, f"{name} must be a matrix with at least one entry", f"shape {A.shape}")
    return A


def _finite(name: str, A: ArrayLike) -> Float[np.ndarray, "..."]:
    A = np.asarray(A, dtype=np.float64)
    bad = int((~np.isfinite(A)).sum())
    require(bad == 0, f"{name} must be finite", f"{bad} NaN or inf")
    return A


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
