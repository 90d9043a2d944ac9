"""What k-means and Gaussian mixtures are measured by: scikit-learn, and the ways they fail.

Data, checks, and how many clusters there are stand in kmeans_checks.py.
"""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from threadpoolctl import threadpool_limits

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week05.clustering_scores import adjusted_rand_index
from week05.evidence.kmeans_checks import (
    blobs,
    check_kmeans,
    check_mixture,
    choosing_k,
    digits_in,
    likelihood_never_falls,
    stretched,
)
from week05.gaussian_mixture import GaussianMixture, Mixture, e_step, m_step
from week05.kmeans import KMeans, inertia, kmeans_plus_plus, lloyd_step, squared_distances

BOUND = "before any Lloyd step k-means++ is within 8 (ln k + 2) of the best on average"
DIGITS = "clusters of digits are digits, more often than not"
CHANCE = "with permuted labels agreement is chance"
NOTHING = "with every column shuffled agreement is chance"
UNITS = "standardized, k-means finds wine better than on raw units by 0.3"
COLLAPSE = "without reg_covar a component on one point shrinks to nothing"


def main(run: Run, *, seeds: PositiveInt = 10) -> None:
    """Check k-means and EM against scikit-learn, watch them work, and break both.

    Parameters
    ----------
    seeds
        Repetitions of each claim that involves chance.
    """
    seeds = run.budget(quick=2, default=seeds, full=3 * seeds)
    X, labels = digits_in(64, run.budget(quick=200, default=None))
    few, _ = digits_in(8, run.budget(quick=200, default=None))
    with threadpool_limits(1):  # on matrices so small, threads only wait for each other
        check_kmeans(run, X)
        check_mixture(run, few)
        likelihood_never_falls(run, few, seeds)
        show_iterations(run)
        show_seeding(run, run.budget(quick=4, default=3 * seeds))
        choosing_k(run, few, seeds)
        long_clusters(run, seeds)
        show_collapse(run)
        controls(run, X, labels, seeds)


# ---- where it starts


def show_iterations(run: Run) -> None:
    """Both algorithms from the same bad start, step by step."""
    rng = np.random.default_rng([run.seed, 7])
    X, _ = stretched(rng)
    X = np.concatenate([X[:300], rng.normal(size=(150, 2)) * 0.9 + [5.5, 3.0]])
    centers = X[:3] + np.array([[-1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])  # all in one cigar
    mixture = Mixture(np.full(3, 1 / 3), centers.copy(), np.tile(np.eye(2) * 4.0, (3, 1, 1)))
    title = "What does a step do? k-means (above) and EM (below) from the same start"
    shown, small = (0, 1, 3, 30), {"fontsize": 9.5, "weight": "normal"}
    with run.figure("iterations", title, rows=2, columns=4, size=(8.0, 4.9)) as axes:
        for step in range(shown[-1] + 1):
            shares, likelihood = e_step(X, mixture)
            labels = squared_distances(X, centers).argmin(axis=1)
            if step in shown:
                top, bottom = axes[:, shown.index(step)]
                cost = inertia(X, centers, labels)
                top.set_title(f"step {step}: inertia {cost / len(X):.2f}", **small)
                bottom.set_title(f"log-lik. {likelihood:.2f}", **small)
                draw_clusters(top, X, np.eye(3)[labels], centers)
                draw_clusters(bottom, X, shares, mixture.means, mixture.covariances)
            centers, mixture = lloyd_step(X, centers)[1], m_step(X, shares)
        axes[0, 0].set_ylabel("k-means")
        axes[1, 0].set_ylabel("EM, ellipses at 2 s.d.")


def draw_clusters(
    ax: Axes,
    X: Float[np.ndarray, "n 2"],
    shares: Float[np.ndarray, "n k"],
    centers: Float[np.ndarray, "k 2"],
    covariances: Float[np.ndarray, "k 2 2"] | None = None,
) -> None:
    """The points in the mixed colors of their clusters, centers, and ellipses at 2 s.d."""
    palette = np.array([to_rgb(color) for color in plots.COLORS[: len(centers)]])
    ax.scatter(*X.T, s=5, c=np.clip(shares @ palette, 0, 1), alpha=0.6, linewidths=0)
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = 2 * np.stack([np.cos(angle), np.sin(angle)])
    for j, (center, color) in enumerate(zip(centers, plots.COLORS, strict=False)):
        ax.plot(*center, "o", color=color, markeredgecolor="black", markersize=7)
        if covariances is not None:
            ellipse = center[:, None] + np.linalg.cholesky(covariances[j]) @ circle
            ax.plot(*ellipse, color=color, linewidth=1.6)
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")


def show_seeding(run: Run, seeds: int) -> None:
    """Random starts put two centers into one cluster and leave another without; k-means++ less."""
    side = run.budget(quick=3, default=5)
    grid = np.stack(np.meshgrid(*[np.arange(side) * 8.0] * 2), axis=-1).reshape(-1, 2)
    X, _ = blobs(grid, run.budget(quick=10, default=40), np.random.default_rng(run.seed))
    k, trials = len(grid), 2 + int(np.log(len(grid)))
    best = KMeans(k, init=grid).fit(X).inertia_
    names, seeded, ends = ("random", "k-means++", "greedy"), [], []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, seed])
        starts = [X[rng.choice(len(X), k, replace=False)], kmeans_plus_plus(X, k, rng)]
        starts.append(kmeans_plus_plus(X, k, rng, n_trials=trials))
        seeded.append(squared_distances(X, starts[1]).min(axis=1).sum() / best)
        ends.append([KMeans(k, init=start).fit(X) for start in starts])
    found = np.array([[model.inertia_ / best for model in models] for models in ends]).T
    reached = (found < 1.01).mean(axis=1)
    for name, share in zip(names, reached, strict=True):
        run.metric(f"{name} starts that reach the best", share, "share")
    name, gain = "k-means++ ends lower than random points do", found[0] - found[1]
    run.claim(name, gain, at_least=0, unit="of the best inertia", quick=False)
    bound = 8 * (np.log(k) + 2)
    note = f"Arthur & Vassilvitskii's bound is {bound:.1f}"
    run.claim(BOUND, seeded, at_most=bound, unit="times the best inertia", note=note)
    title = f"Does it matter where k-means starts? {seeds} seeds each"
    with run.figure("seeding", title, size=(8.0, 3.2)) as ax:
        rows = ("random points", "k-means++,\n1 trial", f"k-means++,\n{trials} trials")
        rows = [f"{row}:\n{share:.0%} best" for row, share in zip(rows, reached, strict=True)]
        colors, label = (plots.ORANGE, plots.SKY, plots.BLUE), "inertia at the end / best inertia"
        plots.bars(ax, dict(zip(rows, found, strict=True)), colors=colors, xlabel=label)


# ---- where it fails


def long_clusters(run: Run, seeds: int) -> None:
    """Failure on display: k-means cuts cigars across, and sees only the largest unit."""
    scores = []
    for seed in range(seeds):
        X, truth = stretched(np.random.default_rng([run.seed, 60, seed]))
        options = {"n_init": run.budget(quick=2, default=10), "random_state": seed}
        random = GaussianMixture(3, init_params="random_from_data", **options)
        models = [KMeans(3, **options), random, GaussianMixture(3, **options)]
        found = [adjusted_rand_index(truth, model.fit(X).predict(X)) for model in models]
        scores.append(found)
    kmeans, mixture, stuck = np.array(scores).T
    run.metric("cigars: adjusted Rand index, k-means", kmeans.mean(), rtol=0.1)
    run.metric("cigars: adjusted Rand index, GMM", mixture.mean())
    run.metric("cigars: adjusted Rand index, GMM started from k-means", stuck.mean(), rtol=0.2)
    fails, options = "k-means fails on long clusters", {"unit": "adjusted Rand", "quick": False}
    run.claim(fails, kmeans, at_most=0.6, **options)
    run.falsifier("a Gaussian mixture", mixture, breaks=fails)
    run.claim("a Gaussian mixture finds long clusters", mixture, at_least=0.9, **options)

    table = datasets.bundled("wine")
    wine, cultivar = table.data, table.target
    scaled = (wine - wine.mean(axis=0)) / wine.std(axis=0)
    raw, better = (
        adjusted_rand_index(cultivar, KMeans(3, n_init=20, random_state=0).fit(Z).labels_)
        for Z in (wine, scaled)
    )
    run.metric("wine: adjusted Rand index on raw units", raw)
    run.metric("wine: adjusted Rand index, standardized", better)
    unit = "gain of the adjusted Rand index"
    run.claim(UNITS, better - raw, at_least=0.3, deterministic=True, unit=unit)

    title = "Where does k-means go wrong? Where distance is not likeness"
    with run.figure("wrong_metric", title, columns=2, size=(8.0, 3.6)) as (left, right):
        one_hot = [np.eye(3)[model.predict(X)] for model in models]
        draw_clusters(left, X, one_hot[0], models[0].cluster_centers_)
        draw_clusters(right, X, one_hot[1], random.means_, random.covariances_)
        for ax, name, index in zip((left, right), ("k-means", "GMM"), found, strict=False):
            caption = f"{name}: adjusted Rand index {index:.2f}"
            ax.set_title(caption, fontsize=10.5, weight="normal")


def show_collapse(run: Run) -> None:
    """Failure on display: without regularization the likelihood has no top, only a hole."""
    rng = np.random.default_rng([run.seed, 70])
    X = np.append(blobs(np.array([[-3.0, 0.0], [3.0, 0.0]]), 60, rng)[0], [[0.0, 6.0]], axis=0)
    # One component starts on the outlier, as wide as the space around it.
    means, wide = np.stack([X[:-1].mean(axis=0), X[-1]]), np.cov(X.T)
    start = Mixture(np.array([0.9, 0.1]), means, np.stack([wide, 4.0 * np.eye(2)]))
    free, held = (deviations(X, start, reg_covar) for reg_covar in (0.0, 1e-2))
    note, fixed = f"singular after {len(free)} steps of EM", {"deterministic": True, "rtol": None}
    run.claim(COLLAPSE, min(free), at_most=1e-6, unit="smallest s.d.", note=note, **fixed)
    run.falsifier("reg_covar = 0.01", min(held), breaks=COLLAPSE)
    title = "Why does a Gaussian mixture need a floor under its variances?"
    with run.figure("collapse", title, size=(8.0, 3.9)) as ax:
        lines = {"reg_covar\n= 0.01": held, "reg_covar = 0,\nthen singular": free}
        x = {name: np.arange(len(line)) for name, line in lines.items()}
        labels = {"yscale": "log", "xlabel": "EM step", "ylabel": "smallest s.d. of the component"}
        plots.curves(ax, x, lines, colors=(plots.BLUE, plots.ORANGE), **labels)


def deviations(X: Float[np.ndarray, "n d"], mixture: Mixture, reg_covar: float) -> list[float]:
    """Smallest standard deviation of the second component before each of 15 EM steps."""
    found = []
    for _ in range(15):
        try:
            shares, _ = e_step(X, mixture)
        except ValueError:  # singular
            break
        found.append(float(np.sqrt(np.linalg.eigvalsh(mixture.covariances[1])[0])))
        mixture = m_step(X, shares, reg_covar)
    return found


def controls(run: Run, X, labels, seeds: int) -> None:
    """Clusters of digits agree with digits; not with dealt labels, nor without structure."""
    found, permuted, shuffled = [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 80, seed])
        clusters = KMeans(10, random_state=seed).fit(X).labels_
        found.append(adjusted_rand_index(labels, clusters))
        permuted.append(adjusted_rand_index(rng.permutation(labels), clusters))
        noise = KMeans(10, random_state=seed).fit(rng.permuted(X, axis=0)).labels_
        shuffled.append(adjusted_rand_index(labels, noise))
    options = {"unit": "adjusted Rand", "quick": False}
    run.claim(DIGITS, found, at_least=0.5, **options)
    run.falsifier("clusters where every column is shuffled", shuffled, breaks=DIGITS)
    seen = "that a 95 % interval over ten seeds held 0"
    for name, values, known in ((CHANCE, permuted, seen), (NOTHING, shuffled, "")):
        rule = {"at_least": -0.02, "at_most": 0.02, "seen_before": known}
        run.claim(name, values, **rule, **options)
        run.falsifier(f"digits as they are: {name}", found, breaks=name)
