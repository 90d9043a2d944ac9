"""What `pca.py` is measured by: scikit-learn, Eckart and Young, shuffled pixels, and JPEG."""

import io

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA as Reference

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week01.matrix_decompositions import svd_jacobi
from week01.pca import PCA


def main(run: Run, *, seeds: PositiveInt = 5) -> None:
    """Check PCA on digits against scikit-learn, look at them in 2-D, compress a photograph.

    Parameters
    ----------
    seeds
        Shufflings of the pixels in the control.
    """
    images, labels = datasets.digits()
    n = run.budget(quick=400, default=len(images))
    X, labels = images.reshape(len(images), -1)[:n], labels[:n]
    _check_against_sklearn(run, X)
    _digits_map(run, X, labels)
    _uncentered(run, X)
    _correlation_control(run, X, run.budget(quick=2, default=seeds, full=4 * seeds))
    _photograph(run, (5, 20, 80))


def _check_against_sklearn(run: Run, X: np.ndarray) -> None:
    ours, theirs = PCA(20).fit(X[:-100]), Reference(20, svd_solver="full").fit(X[:-100])
    why = "rounding; singular vectors are determined to eps / relative gap"
    equal = run.against("sklearn.decomposition.PCA", rtol=1e-11, why=why)
    for name in ("mean_", "singular_values_", "explained_variance_", "explained_variance_ratio_"):
        equal(name, getattr(ours, name), getattr(theirs, name))
    flat = {"rtol": 0.0, "atol": 1e-11}
    equal("components_, signs included", ours.components_, theirs.components_, **flat)
    unseen, flat = X[-100:], {"rtol": 0.0, "atol": 1e-10}  # pixel values up to 16
    Z = theirs.transform(unseen)
    equal("transform of unseen digits", ours.transform(unseen), Z, **flat)
    equal("inverse_transform", ours.inverse_transform(Z), theirs.inverse_transform(Z), **flat)


def _digits_map(run: Run, X: np.ndarray, labels: np.ndarray) -> None:
    pca = PCA(2).fit(X)
    Z = pca.transform(X)
    colors = [*plots.COLORS, "#000000", "#882255", "#44AA99"]
    share = 100 * pca.explained_variance_ratio_
    title = "Handwritten digits from 64 dimensions to 2: which ones separate?"
    with run.figure("digits", title, size=(8.0, 5.6)) as ax:
        for digit, color in enumerate(colors):
            mine = Z[labels == digit]
            ax.scatter(*mine.T, s=22, marker=f"${digit}$", color=color, alpha=0.55, linewidths=0)
        ax.set(xlabel=f"component 1 ({share[0]:.0f} % of the variance)")
        ax.set(ylabel=f"component 2 ({share[1]:.0f} %)", aspect="equal", adjustable="datalim")


def _correlation_control(run: Run, X: np.ndarray, seeds: int) -> None:
    """Shuffling every pixel on its own keeps all variances and removes what PCA lives on."""

    def needed(data: np.ndarray) -> int:
        return int(np.searchsorted(np.cumsum(PCA().fit(data).explained_variance_ratio_), 0.9)) + 1

    real, rngs = needed(X), [np.random.default_rng([run.seed, s]) for s in range(seeds)]
    shuffled = np.array([needed(rng.permuted(X, axis=0)) for rng in rngs])
    run.metric("components for 90 % of the variance", real)
    run.metric("components for 90 %, pixels shuffled", shuffled.mean())
    name = "90 % of the variance needs less than two thirds of the components it needs shuffled"
    run.claim(name, real / shuffled, at_most=2 / 3, note="ratio, every pixel shuffled on its own")


def _uncentered(run: Run, X: np.ndarray) -> None:
    mean, direction = X.mean(axis=0), svd_jacobi(X)[2][0]
    best = PCA(1).fit(X).explained_variance_[0]
    cosine = abs(direction @ mean) / np.linalg.norm(mean)
    variance = (X @ direction).var(ddof=1) / best
    run.metric("cosine of the uncentered first direction with the mean", cosine)
    run.metric("variance along it, of the first component's", variance)
    rng = np.random.default_rng(run.seed)
    cloud = rng.normal(size=(300, 2)) * [1.6, 0.4] @ np.array([[0.8, -0.6], [0.6, 0.8]]) + [4, 3]
    right, wrong = PCA(1).fit(cloud), svd_jacobi(cloud)[2][0]
    wrong = wrong * np.sign(wrong[0])
    title = "Forget to center, and the first direction points at the mean"
    with run.figure("uncentered", title, size=(8.0, 4.4)) as ax:
        ax.scatter(*cloud.T, s=12, color=plots.GRAY, alpha=0.6, linewidths=0)
        for start, direction, length, color, label in (
            (cloud.mean(axis=0), right.components_[0], 3.2, plots.BLUE, "centered"),
            (np.zeros(2), wrong, 4.2, plots.ORANGE, "not centered"),
        ):
            end = start + length * direction
            ax.plot(*np.transpose([start, end]), lw=3, color=color, label=label)
        ax.plot(0, 0, "+", color=plots.REFERENCE, markersize=10, label="origin")
        ax.legend(loc="upper left")
        ax.set(xlabel="first coordinate", ylabel="second coordinate")
        ax.set_aspect("equal", adjustable="datalim")


def _relative_error(A: np.ndarray, B: np.ndarray) -> float:
    """Distance of B from A in the Frobenius norm, as a share of A's length."""
    return float(np.linalg.norm(A - B) / np.linalg.norm(A))


def _jpeg(image: np.ndarray, error: float) -> int:
    """Bytes of the smallest JPEG of a gray image with at most this relative error."""
    for quality in range(1, 96):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="jpeg", quality=quality)
        if _relative_error(image.astype(float), np.asarray(Image.open(buffer), float)) <= error:
            break
    return buffer.tell()


def _photograph(run: Run, ranks: tuple[int, ...]) -> None:
    step = run.budget(quick=6, default=2, full=1)
    photo = np.round(datasets.photographs()["china"].mean(axis=2)).astype(np.uint8)
    image = np.ascontiguousarray(photo[::step, ::step])
    m, n = image.shape
    ranks = tuple(min(rank, m) for rank in ranks)
    A = image.astype(float)
    U, sigma, Vt = svd_jacobi(A)
    tail = np.linalg.svd(A, compute_uv=False)
    optimum = [np.sqrt((tail[k:] ** 2).sum() / (tail**2).sum()) for k in ranks]
    views = [(U[:, :k] * sigma[:k]) @ Vt[:k] for k in ranks]
    errors = [_relative_error(A, view) for view in views]
    equal = run.against("numpy.linalg.svd", atol=1e-11, why="rounding of the norm (Eckart–Young)")
    equal("error of the rank-k photograph", errors, optimum)
    per_number = 2  # bytes, as float16
    stored = [per_number * k * (m + n + 1) for k in ranks]
    jpeg = _jpeg(image, errors[1])
    run.metric("bytes per number", per_number)
    run.metric("bytes of rank 20", stored[1])
    run.metric("bytes of rank 80", stored[2])
    run.metric("bytes of the raw pixels", image.size)
    run.metric("bytes of a JPEG as good as rank 20", jpeg, rtol=None)
    title = f"What survives in a photograph of {m} × {n} at rank {', '.join(map(str, ranks))}?"
    with run.figure("photograph", title, rows=2, columns=2, size=(8.0, 5.9)) as axes:
        captions = [f"original: {m * n / 1e3:.0f} kB"] + [
            f"rank {k}: {size / 1e3:.0f} kB, error {error:.1%}"
            for k, size, error in zip(ranks, stored, errors, strict=True)
        ]
        for ax, view, caption in zip(axes.flat, [A, *views], captions, strict=True):
            ax.imshow(view, cmap="gray", vmin=0, vmax=255)
            ax.set_title(caption, fontsize=11)
            ax.set_axis_off()

    # The rival keeps the same rank, but a subspace spanned by columns of the photograph itself.
    others = []
    for seed in range(run.budget(quick=5, default=50)):
        chosen = np.random.default_rng([run.seed, seed]).choice(n, ranks[1], replace=False)
        basis, _ = np.linalg.qr(A[:, chosen])
        others.append(_relative_error(A, basis @ (basis.T @ A)))
    name = f"no {ranks[1]} random columns of the photograph span it as well as its singular vectors"
    rule = {"each": True, "note": "error beyond the SVD's"}
    run.claim(name, np.array(others) - errors[1], at_least=0, **rule)
