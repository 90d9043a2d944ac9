"""Checks, claims and figures of conditioning."""

import numpy as np

from shared import plots
from shared.study import PositiveInt, Run
from week01.conditioning import COLORS, METHODS, exact_least_squares, exact_singular_values
from week01.matrix_decompositions import EPS, svd_jacobi, with_condition


def _errors(A: np.ndarray, b: np.ndarray) -> list[float]:
    """Relative error of each method against the exact solution of the problem as stored."""
    exact = exact_least_squares(A, b)
    scale = np.linalg.norm(exact)
    return [float(np.linalg.norm(solve(A, b) - exact) / scale) for solve in METHODS.values()]


def _least_squares_errors(run: Run, n: int, seeds: int) -> None:
    kappas = np.logspace(0, 15, run.budget(quick=6, default=16))
    panels = {"b in the column space": 0.0, "b at 45° to it": 1.0}
    errors = np.empty((2, seeds, len(kappas), len(METHODS)))
    for panel, tan_theta in enumerate(panels.values()):
        for seed in run.progress(range(seeds), f"tan θ = {tan_theta:.0f}"):
            for i, kappa in enumerate(kappas):
                rng = np.random.default_rng([run.seed, seed, i])
                A = with_condition(4 * n, n, kappa, rng)
                U = svd_jacobi(A)[0]
                fit, noise = A @ rng.normal(size=n), rng.normal(size=4 * n)
                noise -= U @ (U.T @ noise)
                b = fit / np.linalg.norm(fit) + tan_theta * noise / np.linalg.norm(noise)
                errors[panel, seed, i] = _errors(A, b)
    title = "How many digits does a least-squares solution lose?"
    with run.figure("least_squares", title, columns=2, size=(8.0, 4.4), sharey=True) as axes:
        for ax, name, runs in zip(axes, panels, errors, strict=True):
            theory = {"color": plots.REFERENCE, "linestyle": "--", "linewidth": 1.2}
            ax.loglog(kappas, np.minimum(kappas * EPS, 1), **theory)
            ax.loglog(kappas, np.minimum(kappas**2 * EPS, 1), **theory)
            for k, method in enumerate(METHODS):
                low, middle, high = np.quantile(runs[:, :, k], [0.0, 0.5, 1.0], axis=0)
                ax.fill_between(kappas, low, high, color=COLORS[method], alpha=0.18, linewidth=0)
                ax.plot(kappas, middle, color=COLORS[method], label=method)
            ax.text(3e2, 1e-10, r"$\kappa^2\varepsilon$", color=plots.REFERENCE, ha="right")
            ax.text(2e9, 1e-6, r"$\kappa\varepsilon$", color=plots.REFERENCE, ha="right")
            ax.set_title(name, fontsize=11, weight="normal")
            ax.set(xlabel=r"condition number $\kappa$", ylim=(1e-17, 1e2))
        axes[0].set_ylabel("relative error of x")
        axes[1].legend(loc="lower right")

    at = int(np.argmin(np.abs(kappas - 1e9)))
    normal, qr, svd = errors[0, :, at].T
    for name, values in (("normal equations", normal), ("QR", qr), ("SVD", svd)):
        run.metric(f"{name}, error at κ = 1e9", np.median(values), rtol=None)
    run.metric("QR, error at κ = 1e9 and 45°", np.median(errors[1, :, at, 1]), rtol=None)
    run.claim(
        "b in the column space, κ = 1e9: QR and SVD keep 5 digits, the normal equations none",
        max(qr.max(), svd.max()) < 1e-5 and normal.min() > 0.1,
        f"{seeds} matrices: QR at most {qr.max():.1e}, SVD {svd.max():.1e}, "
        f"normal equations at least {normal.min():.1e}",
    )
    slopes = []
    for panel, method, power in ((0, 1, 1), (0, 0, 2), (1, 1, 2)):
        judged = (kappas > 10) & (kappas**power * EPS < 0.1)  # between rounding and total loss
        line = np.log10(np.median(errors[panel][:, judged, method], axis=0))
        slopes.append(float(np.polyfit(np.log10(kappas[judged]), line, 1)[0]))
    for name, slope in zip(("QR", "normal equations", "QR at 45°"), slopes, strict=True):
        run.metric(f"exponent of κ, {name}", slope, rtol=0.1)
    run.claim(
        "the error grows as κ for QR, as κ² for the normal equations, and as κ² for QR too at 45°",
        bool(np.allclose(slopes, [1.0, 2.0, 2.0], atol=0.3)),
        "slopes {:.2f}, {:.2f}, {:.2f}; rule: within 0.3".format(*slopes),
        quick=False,
    )


def _graded(run: Run, n: int, seeds: int) -> None:
    exact, jacobi, lapack = np.empty((3, seeds, n))
    for seed in run.progress(range(seeds), "graded matrices"):
        rng = np.random.default_rng([run.seed, seed])
        # Columns of wildly different lengths, as of features in different units, in any order.
        A = rng.normal(size=(n, n)) * 10.0 ** -rng.permutation(np.linspace(0.0, 20.0, n))
        exact[seed] = exact_singular_values(A)
        jacobi[seed], lapack[seed] = svd_jacobi(A)[1], np.linalg.svd(A, compute_uv=False)
    run.check(
        "small singular values, relative", jacobi / exact, np.ones_like(exact),
        against="bisection in exact fractions", atol=1e-13,
        why="n·eps times the condition number of A with its columns scaled to length 1",
    )  # fmt: skip
    errors = {
        "numpy.linalg.svd": np.abs(lapack / exact - 1.0),
        "one-sided Jacobi": np.abs(jacobi / exact - 1.0),
    }
    title = "How exact are the small singular values of a badly scaled matrix?"
    with run.figure("graded", title, size=(8.0, 4.2)) as ax:
        sigma = np.sort(exact.ravel())
        ax.loglog(sigma, np.maximum(EPS, EPS / sigma), color=plots.REFERENCE, linestyle="--",
                  linewidth=1.2)  # fmt: skip
        ax.text(3e-9, 1e-5, r"$\varepsilon\,\sigma_1/\sigma$", color=plots.REFERENCE)
        for (name, error), color, marker in zip(
            errors.items(), (plots.ORANGE, plots.BLUE), "os", strict=True
        ):
            ax.plot(exact.ravel(), np.maximum(error.ravel(), EPS / 4), marker, color=color,
                    alpha=0.7, label=name)  # fmt: skip
        ax.set(xlabel=r"singular value $\sigma$ (the largest is about 1)", ylabel="relative error")
        ax.legend(loc="upper right")
    worst = {name: error.max() for name, error in errors.items()}
    run.metric("worst relative error of a small singular value, Jacobi", worst["one-sided Jacobi"],
               rtol=None)  # fmt: skip
    run.metric("worst relative error of a small singular value, LAPACK", worst["numpy.linalg.svd"],
               rtol=None)  # fmt: skip
    run.claim(
        "one-sided Jacobi: 13 digits of every singular value; LAPACK: none of the smallest",
        worst["one-sided Jacobi"] < 1e-13 and worst["numpy.linalg.svd"] > 0.1,
        f"{seeds} matrices {n}×{n}, worst relative error: Jacobi {worst['one-sided Jacobi']:.1e}, "
        f"LAPACK {worst['numpy.linalg.svd']:.1e}",
        quick=False,
    )


def main(run: Run, *, n: PositiveInt = 6, seeds: PositiveInt = 5) -> None:
    """Measure least squares and small singular values against exact rational arithmetic.

    Parameters
    ----------
    n
        Unknowns of each problem.
    seeds
        Random matrices for each setting.
    """
    seeds = run.budget(quick=2, default=seeds, full=4 * seeds)
    A, b = run.rng.normal(size=(4 * n, n)), run.rng.normal(size=4 * n)
    for name, solve in METHODS.items():
        run.check(f"{name}, κ small", solve(A, b), np.linalg.lstsq(A, b)[0],
                  against="numpy.linalg.lstsq", rtol=1e-12, atol=1e-14,
                  why="κ is about 2: only rounding")  # fmt: skip
    run.check("exact fractions, κ small", exact_least_squares(A, b), np.linalg.lstsq(A, b)[0],
              against="numpy.linalg.lstsq", rtol=1e-12, atol=1e-14,
              why="rounding of the library, ours has none")  # fmt: skip
    _least_squares_errors(run, n, seeds)
    _graded(run, n, 2 * seeds)
