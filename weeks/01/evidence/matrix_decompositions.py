"""What `matrix_decompositions.py` is measured by: LAPACK, identities, and a failure."""

import numpy as np

from shared import plots
from shared.study import PositiveInt, Run
from week01.matrix_decompositions import (
    EPS,
    classical_gram_schmidt,
    eigh_jacobi,
    householder_qr,
    least_squares,
    project,
    svd_jacobi,
    with_condition,
)

HOUSEHOLDER = "Householder stays orthogonal to 14 digits at every κ"


def main(run: Run, *, seeds: PositiveInt = 10) -> None:
    """Check the decompositions against LAPACK, draw the SVD, watch Gram–Schmidt fail.

    Parameters
    ----------
    seeds
        Random matrices for each condition number.
    """
    _check_decompositions(run)
    _unit_circle(run)
    _orthogonality(run, run.budget(quick=2, default=seeds, full=4 * seeds))


def _check_decompositions(run: Run) -> None:
    """Everything against LAPACK, on easy and on nasty matrices, relative to each one's norm."""
    rng, normal = run.rng, run.rng.normal
    i = np.arange(12)
    matrices = {
        "tall": normal(size=(40, 12)),
        "wide": normal(size=(12, 40)),
        "square": normal(size=(30, 30)),
        "rank 3": normal(size=(20, 3)) @ normal(size=(3, 10)),
        "Hilbert": 1.0 / (i[:, None] + i + 1.0),
        "κ = 1e12": with_condition(25, 10, 1e12, rng),
        "huge": 1e250 * normal(size=(6, 6)),
        "one by one": np.array([[-3.0]]),
    }
    ours, theirs = {}, {}

    def put(what: str, mine: np.ndarray, reference: np.ndarray, scale: float) -> None:
        ours.setdefault(what, []).append((mine / scale).ravel())
        theirs.setdefault(what, []).append((reference / scale).ravel())

    for A in matrices.values():
        b, norm = normal(size=len(A)), np.linalg.norm(A / np.abs(A).max()) * np.abs(A).max()
        (Q, R), (U, sigma, Vt) = householder_qr(A), svd_jacobi(A)
        put("R of QR", R, np.linalg.qr(A)[1], norm)
        put("Q R = A", Q @ R, A, norm)
        put("QᵀQ = I", Q.T @ Q, np.eye(Q.shape[1]), 1.0)
        put("singular values", sigma, np.linalg.svd(A, compute_uv=False), norm)
        put("U Σ Vᵀ = A", (U * sigma) @ Vt, A, norm)
        put("UᵀU = VᵀV = I", np.stack([U.T @ U, Vt @ Vt.T]), np.stack([np.eye(len(sigma))] * 2), 1)
        S = (A / norm) @ (A.T / norm) - 0.1 * np.eye(len(A))  # indefinite
        w, V = eigh_jacobi(S)
        put("eigenvalues", w, np.linalg.eigvalsh(S), 1.0)
        put("V Λ Vᵀ = S", (V * w) @ V.T, S, 1.0)
        if np.linalg.cond(A) < 1e3 or np.linalg.matrix_rank(A) == 3:
            put("solution x", least_squares(A, b), np.linalg.lstsq(A, b)[0], 1.0 / norm)
            put("projection", project(A, b), A @ (np.linalg.pinv(A) @ b), 1.0)
    why = "both are backward stable: a modest multiple of n·eps of the norm (Weyl)"
    for what in ours:
        mine, reference = np.concatenate(ours[what]), np.concatenate(theirs[what])
        equation = "=" in what
        against, kind = ("identity", "theorem") if equation else ("numpy.linalg", "library")
        run.check(what, mine, reference, against=against, kind=kind, atol=1e-10, why=why)
    run.say(f"{len(matrices)} matrices: {', '.join(matrices)}")


def _unit_circle(run: Run) -> None:
    A = np.array([[1.2, 0.9], [0.1, 1.1]])
    U, sigma, Vt = svd_jacobi(A)
    if np.linalg.det(Vt) < 0:  # flip one pair of vectors, so that both maps are pure rotations
        U, Vt = U * [1, -1], Vt * [[1], [-1]]
    turn = np.linspace(0.0, 2.0 * np.pi, 200)
    circle = np.array([np.cos(turn), np.sin(turn)])
    steps = [
        ("unit circle", np.eye(2), ("$v_1$", "$v_2$")),
        (r"$V^\top$ rotates", Vt, ("$e_1$", "$e_2$")),
        (r"$\Sigma$ stretches", sigma[:, None] * Vt, (r"$\sigma_1 e_1$", r"$\sigma_2 e_2$")),
        (r"$U$ rotates", (U * sigma) @ Vt, (r"$\sigma_1 u_1$", r"$\sigma_2 u_2$")),
    ]
    title = "What does a matrix do to the unit circle? It rotates, stretches, rotates"
    layout = {"columns": 4, "size": (8.0, 2.7), "sharex": True, "sharey": True}
    with run.figure("unit_circle", title, **layout) as axes:
        for ax, (name, M, labels) in zip(axes, steps, strict=True):
            ax.plot(*circle, color=plots.GRAY, linewidth=1.0, linestyle="--")
            ax.plot(*(M @ circle), color=plots.REFERENCE, linewidth=1.5)
            for v, color, label in zip(Vt, (plots.BLUE, plots.ORANGE), labels, strict=True):
                tip = M @ v
                arrow = {"arrowstyle": "-|>", "color": color, "lw": 2, "shrinkA": 0, "shrinkB": 0}
                ax.annotate("", tip, (0, 0), arrowprops=arrow)
                away = 1.0 + 0.6 / np.linalg.norm(tip)
                ax.text(*(away * tip), label, color=color, ha="center", va="center")
            ax.set_title(name, fontsize=11)
            ax.set(aspect="equal", xlim=(-2.75, 2.75), ylim=(-2.2, 2.2))
            ax.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])


def _orthogonality(run: Run, seeds: int) -> None:
    kappas = np.logspace(0, 15, 16)

    def loss(method, kappa: float, seed: int) -> float:
        Q = method(with_condition(40, 12, kappa, np.random.default_rng(run.seed + seed)))
        return float(np.linalg.norm(Q.T @ Q - np.eye(12), 2))

    methods = {
        "Gram–Schmidt": classical_gram_schmidt,
        "Householder": lambda A: householder_qr(A)[0],
    }
    losses = {
        name: np.array([[loss(method, k, s) for k in kappas] for s in range(seeds)])
        for name, method in methods.items()
    }
    title = "Do the columns of Q stay perpendicular?"
    with run.figure("orthogonality", title, size=(8.0, 4.2)) as ax:
        theory = {"color": plots.REFERENCE, "linestyle": "--", "linewidth": 1.2}
        bound = np.minimum(kappas**2 * EPS, 1.0)
        ax.loglog(kappas, bound, label=r"$\kappa^2\varepsilon$", **theory)
        ax.loglog(kappas, np.full(16, EPS), label=r"$\varepsilon$", **theory)
        for (name, values), color in zip(losses.items(), (plots.ORANGE, plots.BLUE), strict=True):
            plots.interval_band(ax, kappas, values, color=color, label=name)
        ax.set(xlabel=r"condition number $\kappa(A)$", ylabel=r"$\Vert Q^\top Q - I\Vert_2$")
        ax.set_ylim(1e-17, 1e2)
        plots.label_lines(ax)
    at = int(np.argmin(np.abs(kappas - 1e9)))
    kept = {name: -np.log10(values) for name, values in losses.items()}
    rule = {"unit": "digits", "note": f"{seeds} matrices for each κ", "rtol": None}
    worst = kept["Householder"].min(axis=1)
    run.claim(HOUSEHOLDER, worst, at_least=14, each=True, **rule)
    lost = kept["Gram–Schmidt"][:, at]
    run.falsifier("Gram–Schmidt at κ = 1e9", lost, breaks=HOUSEHOLDER)
