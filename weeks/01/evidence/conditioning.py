"""What `conditioning.py` is measured by: exact fractions, and the digits each method keeps."""

import numpy as np

from shared import plots
from shared.study import PositiveInt, Run
from week01.conditioning import (
    exact_least_squares,
    exact_singular_values,
    least_squares_normal,
    least_squares_qr,
)
from week01.matrix_decompositions import EPS, least_squares, svd_jacobi, with_condition

METHODS = {
    "normal equations": least_squares_normal,
    "QR": least_squares_qr,
    "SVD": lambda A, b: least_squares(A, b, rcond=0.0),
}
COLORS = (plots.ORANGE, plots.BLUE, plots.GREEN)
KEEP = "b in the column space, κ = 1e9: QR and SVD keep 5 digits"
JACOBI = "one-sided Jacobi keeps 13 digits of every singular value"


def main(run: Run, *, n: PositiveInt = 6, seeds: PositiveInt = 5) -> None:
    """Measure least squares and small singular values against exact rational arithmetic.

    Parameters
    ----------
    n
        Unknowns of each problem.
    seeds
        Random matrices for each setting.
    """
    n = run.budget(quick=min(n, 4), default=n)
    seeds = run.budget(quick=2, default=seeds, full=4 * seeds)
    A, b = run.rng.normal(size=(4 * n, n)), run.rng.normal(size=4 * n)
    why = "κ is about 2: only rounding"
    equal = run.against("numpy.linalg.lstsq", rtol=1e-12, atol=1e-14, why=why)
    for name, solve in (METHODS | {"exact fractions": exact_least_squares}).items():
        equal(f"{name}, κ small", solve(A, b), np.linalg.lstsq(A, b)[0])
    kappas = np.logspace(0, 15, run.budget(quick=6, default=16))
    errors = least_squares_errors(run, n, seeds, kappas)
    digits_kept(run, errors, kappas)
    growth(run, errors, kappas)
    graded(run, n, 2 * seeds)


def least_squares_errors(run: Run, n: int, seeds: int, kappas: np.ndarray) -> np.ndarray:
    """Relative errors against the exact solution, (panel, seed, κ, method); and their figure."""
    panels = {"b in the column space": 0.0, "b at 45° to it": 1.0}
    errors = np.empty((2, seeds, len(kappas), len(METHODS)))
    for panel, tan_theta in enumerate(panels.values()):
        for seed in run.progress(range(seeds), f"tan θ = {tan_theta:.0f}"):
            for i, kappa in enumerate(kappas.tolist()):
                rng = np.random.default_rng([run.seed, seed, i])
                A = with_condition(4 * n, n, kappa, rng)
                U = svd_jacobi(A)[0]
                fit, noise = A @ rng.normal(size=n), rng.normal(size=4 * n)
                noise -= U @ (U.T @ noise)
                b = fit / np.linalg.norm(fit) + tan_theta * noise / np.linalg.norm(noise)
                exact = exact_least_squares(A, b)
                off = [np.linalg.norm(solve(A, b) - exact) for solve in METHODS.values()]
                errors[panel, seed, i] = np.array(off) / np.linalg.norm(exact)
    title = "How many digits does a least-squares solution lose?"
    with run.figure("least_squares", title, columns=2, size=(8.0, 4.4), sharey=True) as axes:
        for ax, name, runs in zip(axes, panels, errors, strict=True):
            for bound in (kappas * EPS, kappas**2 * EPS):
                ax.loglog(kappas, np.minimum(bound, 1), color=plots.REFERENCE, ls="--", lw=1.2)
            for method, values, color in zip(METHODS, np.moveaxis(runs, 2, 0), COLORS, strict=True):
                low, middle, high = np.quantile(values, [0.0, 0.5, 1.0], axis=0)
                ax.fill_between(kappas, low, high, color=color, alpha=0.18, linewidth=0)
                ax.plot(kappas, middle, color=color, label=method)
            ax.text(3e2, 1e-10, r"$\kappa^2\varepsilon$", color=plots.REFERENCE, ha="right")
            ax.text(2e9, 1e-6, r"$\kappa\varepsilon$", color=plots.REFERENCE, ha="right")
            ax.set_title(name, fontsize=11)
            ax.set(xlabel=r"condition number $\kappa$", ylim=(1e-17, 1e2))
        axes[0].set_ylabel("relative error of x")
        axes[1].legend(loc="lower right")
    return errors


def digits_kept(run: Run, errors: np.ndarray, kappas: np.ndarray) -> None:
    """What is left at κ = 1e9."""
    at = int(np.argmin(np.abs(kappas - 1e9)))
    normal, qr, svd = errors[0, :, at].T
    run.metric("normal equations, error at κ = 1e9", np.median(normal), rtol=None)
    run.metric("QR, error at κ = 1e9", np.median(qr), rtol=None)
    run.metric("QR, error at κ = 1e9 and 45°", np.median(errors[1, :, at, 1]), rtol=None)
    rule = {"each": True, "unit": "digits", "rtol": None}  # rounding is the machine's own
    run.claim(KEEP, -np.log10(np.r_[qr, svd]), at_least=5, **rule)
    run.falsifier("the normal equations", -np.log10(normal), breaks=KEEP)


def growth(run: Run, errors: np.ndarray, kappas: np.ndarray) -> None:
    """Exponent of κ in the error of each matrix family, for three settings."""
    for name, values, power in (
        ("the error of QR grows as κ", errors[0, :, :, 1], 1),
        ("the error of the normal equations grows as κ²", errors[0, :, :, 0], 2),
        ("with b at 45° the error of QR grows as κ² too", errors[1, :, :, 1], 2),
    ):
        judged = (kappas > 10) & (kappas**power * EPS < 0.1)  # between rounding and total loss
        slopes = np.polyfit(np.log10(kappas[judged]), np.log10(values[:, judged]).T, 1)[0]
        bounds = {"at_least": power - 0.3, "at_most": power + 0.3}
        run.claim(name, slopes, note="exponent of κ", quick=False, rtol=0.3, **bounds)


def graded(run: Run, n: int, seeds: int) -> None:
    """Singular values of columns of wildly different lengths, as of features in other units."""
    exact, jacobi, lapack = np.empty((3, seeds, n))
    for seed in run.progress(range(seeds), "graded matrices"):
        rng = np.random.default_rng([run.seed, seed])
        A = rng.normal(size=(n, n)) * 10.0 ** -rng.permutation(np.linspace(0.0, 20.0, n))
        exact[seed] = exact_singular_values(A)
        jacobi[seed], lapack[seed] = svd_jacobi(A)[1], np.linalg.svd(A, compute_uv=False)
    errors = {
        "numpy.linalg.svd": np.maximum(np.abs(lapack / exact - 1.0), EPS / 4),
        "one-sided Jacobi": np.maximum(np.abs(jacobi / exact - 1.0), EPS / 4),
    }
    orders = np.log10(exact.max(axis=1) / exact.min(axis=1)).mean()
    run.metric("orders of magnitude between largest and smallest singular value", orders)
    theirs, ours = (error.max(axis=1) for error in errors.values())
    run.metric("worst relative error of a small singular value, Jacobi", ours.max(), rtol=None)
    name = "worst relative error of a small singular value, numpy.linalg.svd"
    run.metric(name, theirs.max(), rtol=None)
    rule = {"unit": "digits", "note": f"{seeds} matrices {n}×{n}, the worst of each"}
    run.claim(JACOBI, -np.log10(ours), at_least=13, each=True, rtol=0.1, **rule)
    name = "numpy.linalg.svd keeps less than one digit of the smallest"
    run.claim(name, -np.log10(theirs), at_most=1, quick=False, rtol=None, **rule)
    title = "How exact are the small singular values of a badly scaled matrix?"
    with run.figure("graded", title, size=(8.0, 4.2)) as ax:
        sigma = np.sort(exact.ravel())
        bound = np.maximum(EPS, EPS / sigma)
        text = r"$\varepsilon\,\sigma_1/\sigma$"
        ax.loglog(sigma, bound, "--", color=plots.REFERENCE, label=text)
        for (name, error), color, marker in zip(errors.items(), COLORS, "os", strict=False):
            ax.plot(exact.ravel(), error.ravel(), marker, color=color, alpha=0.7, label=name)
        ax.set(xlabel=r"singular value $\sigma$ (the largest is about 1)", ylabel="relative error")
        ax.legend(loc="upper right")
