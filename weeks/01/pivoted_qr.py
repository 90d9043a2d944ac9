r"""QR with pivoting: the longest column first, until nothing but rounding is left.

Of the columns that remain, each step reflects the one farthest from the span of those before it.
So the diagonal of R falls, and its length is the rank:

$$A P = Q \begin{pmatrix} R_{11} & R_{12} \\ 0 & 0 \end{pmatrix}.$$

    >>> R, order = pivoted_qr(np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 3.0]]), 3)
    >>> abs(R).round(3).tolist(), order.tolist()  # rank 2: the first column is half the second
    ([[4.472, 0.0, 2.236], [0.0, 3.0, 0.0]], [1, 2, 0])

Source: Businger and Golub, "Linear least squares solutions by Householder transformations"
(Numerische Mathematik 7, 1965); Golub and Van Loan, *Matrix Computations*, 4th ed. (2013), 5.4.2.
"""

import numpy as np
from jaxtyping import Float, Int

EPS = float(np.finfo(np.float64).eps)


def pivoted_qr(
    A: Float[np.ndarray, "m n"], n_pivots: int
) -> tuple[Float[np.ndarray, "rank n"], Int[np.ndarray, " n_pivots"]]:
    """R, and which of the first `n_pivots` columns became which; columns beyond are only reflected.

    No step rewrites the matrix: A stays what it was, and what the reflections took off is V @ W.
    Four products of a matrix and a vector are all that a step costs.
    """
    A, order = A.copy(), np.arange(n_pivots)
    (m, n), most = A.shape, min(len(A), n_pivots)
    V, W, R = np.zeros((m, most)), np.zeros((most, n)), np.zeros((most, n))
    left = fresh = (A[:, :n_pivots] ** 2).sum(axis=0)  # squared lengths below the rows of R
    smallest = (max(m, n_pivots) * EPS) ** 2 * left.max()
    for j in range(most):
        if left[j:].max() < 1e-6 * fresh[j:].max():  # too much was subtracted: measure again
            below = A[j:, :n_pivots] - V[j:, :j] @ W[:j, :n_pivots]
            left = fresh = (below**2).sum(axis=0)
        if left[j:].sum() <= smallest:
            return R[:j], order
        pivot = j + int(left[j:].argmax())
        for columns in (A.T, W.T, R.T, left, order):
            columns[[j, pivot]] = columns[[pivot, j]]
        v = A[j:, j] - V[j:, :j] @ W[:j, j]
        v[0] += np.copysign(np.sqrt(v @ v), v[0])
        v /= np.sqrt(v @ v)
        V[j:, j] = v
        W[j, j:] = 2.0 * (v @ A[j:, j:] - (v @ V[j:, :j]) @ W[:j, j:])
        R[j, j:] = A[j, j:] - V[j, : j + 1] @ W[: j + 1, j:]
        left = left - R[j, :n_pivots] ** 2
    return R, order
