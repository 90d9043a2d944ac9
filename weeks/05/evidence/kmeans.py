"""Checks, claims and figures of kmeans."""

import warnings

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes

from shared import datasets, plots
from shared.stats import mean_interval, paired_bootstrap
from shared.study import PositiveInt, Run
from week01.pca import PCA
from week05.clustering_scores import adjusted_rand_index, silhouette
from week05.gaussian_mixture import GaussianMixture, Mixture, e_step, m_step
from week05.kmeans import KMeans, inertia, kmeans_plus_plus, lloyd_step, squared_distances

COLORS = [plots.BLUE, plots.ORANGE, plots.GREEN, plots.PINK, plots.YELLOW, plots.SKY, plots.GRAY]


def digits_in(n_dimensions: int, n: int | None = None) -> tuple[Float[np.ndarray, "n d"],
                                                               Int[np.ndarray, " n"]]:  # fmt: skip
    """Handwritten digits, their first principal components, and their labels."""
    images, labels = datasets.digits()
    X = PCA(n_dimensions).fit_transform(images.reshape(len(images), -1).astype(float))
    return X[:n], labels[:n]


def blobs(
    centers: Float[np.ndarray, "k d"], size: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]:
    """Round clusters of standard deviation 1, `size` points each."""
    labels = np.repeat(np.arange(len(centers)), size)
    return centers[labels] + rng.normal(size=(len(labels), centers.shape[1])), labels


def stretched(rng: np.random.Generator) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, " n"]]:
    """Three parallel cigars, each 3 long and 0.35 wide (standard deviations), 3 apart."""
    X, labels = blobs(np.zeros((3, 2)), 150, rng)
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    return (X * [3.0, 0.35] + np.array([[0, -3.0], [0, 0], [0, 3.0]])[labels]) @ turn, labels


# ---- checks


def check_kmeans(run: Run) -> None:
    """From the same centers the same centers, and the same scores."""
    from sklearn.cluster import KMeans as Reference
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    X, labels = digits_in(64, run.budget(quick=500, default=None))
    start = X[np.random.default_rng(run.seed).choice(len(X), 10, replace=False)]
    ours = KMeans(10, init=start, tol=0).fit(X)
    reference = Reference(10, init=start, n_init=1, tol=0, algorithm="lloyd").fit(X)
    name = "sklearn.cluster.KMeans"
    run.check("digits: centers after Lloyd", ours.cluster_centers_, reference.cluster_centers_,
              against=name, atol=1e-10, why="rounding of means of values up to 50")  # fmt: skip
    run.check("digits: labels", ours.labels_, reference.labels_, against=name, why="exact")
    run.check("digits: inertia", ours.inertia_, reference.inertia_, against=name, rtol=1e-12,
              why="rounding of a sum")  # fmt: skip
    run.check("digits: steps", ours.n_iter_, reference.n_iter_, against=name, why="exact")
    far = start.copy()
    far[3] += 1e3  # no point is nearest to it
    ours = KMeans(10, init=far, tol=0).fit(X)
    reference = Reference(10, init=far, n_init=1, tol=0, algorithm="lloyd").fit(X)
    run.check("digits: centers when one starts without points", ours.cluster_centers_,
              reference.cluster_centers_, against=name, atol=1e-10,
              why="the same point is taken, then rounding")  # fmt: skip
    run.check("inertia never rises", max(0.0, np.diff(ours.inertias_).max()), 0.0,
              against="coordinate descent", atol=1e-6, why="rounding of sums near 1e6")  # fmt: skip
    sample = slice(0, 600)
    run.check("silhouette", silhouette(X[sample], ours.labels_[sample]),
              silhouette_score(X[sample], ours.labels_[sample]), atol=1e-9,
              against="sklearn.metrics.silhouette_score",
              why="square roots of distances that cancel to 1e-12")  # fmt: skip
    run.check("adjusted Rand index", adjusted_rand_index(ours.labels_, labels),
              adjusted_rand_score(labels, ours.labels_), atol=1e-12,
              against="sklearn.metrics.adjusted_rand_score", why="rounding")  # fmt: skip


def check_mixture(run: Run, seeds: int) -> None:
    """The same EM path as scikit-learn's, and a likelihood that never falls."""
    from sklearn.mixture import GaussianMixture as Reference

    X, _ = digits_in(8, run.budget(quick=500, default=None))
    start = m_step(X, np.eye(10)[KMeans(10, random_state=0).fit(X).labels_])
    steps = run.budget(quick=20, default=60)
    ours = GaussianMixture(10, tol=1e-9, max_iter=steps, init=start).fit(X)
    reference = Reference(
        10, tol=1e-9, max_iter=steps, weights_init=start.weights, means_init=start.means,
        precisions_init=np.linalg.inv(start.covariances),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few steps do not converge is meant
        reference.fit(X)
    why = "rounding, through as many EM steps; means and deviations are of size 10"
    for name, atol in (("weights_", 1e-10), ("means_", 1e-8), ("covariances_", 1e-7)):
        run.check(f"digits in 8-D after {steps} EM steps: {name}", getattr(ours, name),
                  getattr(reference, name), against="sklearn.mixture.GaussianMixture", atol=atol,
                  why=why)  # fmt: skip
    run.check("digits in 8-D: log-likelihood", ours.score(X), reference.score(X), atol=1e-10,
              against="sklearn.mixture.GaussianMixture", why="rounding")  # fmt: skip
    run.check("digits in 8-D: BIC", ours.bic(X), reference.bic(X), rtol=1e-12,
              against="sklearn.mixture.GaussianMixture", why="rounding")  # fmt: skip
    run.check("digits in 8-D: responsibilities", ours.predict_proba(X), reference.predict_proba(X),
              against="sklearn.mixture.GaussianMixture", atol=1e-8, why=why)  # fmt: skip
    falls = []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, seed])
        shares = rng.dirichlet(np.ones(10), len(X))  # no k-means: far from any optimum
        model = GaussianMixture(10, tol=0, reg_covar=0, max_iter=steps, init=m_step(X, shares, 0))
        falls.append(float(np.diff(model.fit(X).lower_bounds_).min()))
    run.claim(
        "EM never lowers the likelihood",
        min(falls) > -1e-10,
        f"least change in {seeds} × {steps - 1} steps from random shares: {min(falls):.1e} nats a "
        "point",
    )


# ---- figures and claims


def show_iterations(run: Run) -> None:
    """Both algorithms from the same bad start, step by step."""
    rng = np.random.default_rng([run.seed, 7])
    X, _ = stretched(rng)
    X = np.concatenate([X[:300], rng.normal(size=(150, 2)) * 0.9 + [5.5, 3.0]])
    shown = (0, 1, 3, 30)
    start = X[:3] + np.array([[-1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])  # all in one cigar
    mixture = Mixture(np.full(3, 1 / 3), start.copy(), np.tile(np.eye(2) * 4.0, (3, 1, 1)))
    title = "What does a step do? k-means (above) and EM (below) from the same start"
    with run.figure("iterations", title, rows=2, columns=4, size=(8.0, 4.9)) as axes:  # fmt: skip
        centers, column = start.copy(), 0
        for step in range(max(shown) + 1):
            shares, likelihood = e_step(X, mixture)
            labels = squared_distances(X, centers).argmin(axis=1)
            if step in shown:
                top, bottom = axes[:, column]
                cost = inertia(X, centers, labels) / len(X)
                top.set_title(f"step {step}: inertia {cost:.2f}", fontsize=9.5, weight="normal")
                bottom.set_title(f"log-lik. {likelihood:.2f}", fontsize=9.5, weight="normal")
                _draw_clusters(top, X, np.eye(3)[labels], centers)
                _draw_clusters(bottom, X, shares, mixture.means, mixture.covariances)
                column += 1
            centers, mixture = lloyd_step(X, centers)[1], m_step(X, shares)
        axes[0, 0].set_ylabel("k-means")
        axes[1, 0].set_ylabel("EM, ellipses at 2 s.d.")


def _draw_clusters(
    ax: Axes,
    X: Float[np.ndarray, "n 2"],
    shares: Float[np.ndarray, "n k"],
    centers: Float[np.ndarray, "k 2"],
    covariances: Float[np.ndarray, "k 2 2"] | None = None,
) -> None:
    from matplotlib.colors import to_rgb

    palette = np.array([to_rgb(color) for color in COLORS[: len(centers)]])
    ax.scatter(*X.T, s=5, c=np.clip(shares @ palette, 0, 1), alpha=0.6, linewidths=0)
    for j, center in enumerate(centers):
        ax.plot(*center, "o", color=COLORS[j], markeredgecolor="black", markersize=7)
        if covariances is not None:
            angle = np.linspace(0, 2 * np.pi, 100)
            circle = 2 * np.stack([np.cos(angle), np.sin(angle)])
            ax.plot(*(center[:, None] + np.linalg.cholesky(covariances[j]) @ circle),
                    color=COLORS[j], linewidth=1.6)  # fmt: skip
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")


def show_seeding(run: Run, seeds: int) -> None:
    """Random starts put two centers into one cluster and leave another without; k-means++ less."""
    side = run.budget(quick=3, default=5)
    grid = np.stack(np.meshgrid(*[np.arange(side) * 8.0] * 2), axis=-1).reshape(-1, 2)
    X, _ = blobs(grid, 40, np.random.default_rng(run.seed))
    k = len(grid)
    best = KMeans(k, init=grid).fit(X).inertia_
    found = {"random points": [], "k-means++, 1 trial": [], f"k-means++, {2 + int(np.log(k))}": []}
    seeded = []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, seed])
        starts = [
            X[rng.choice(len(X), k, replace=False)],
            kmeans_plus_plus(X, k, rng),
            kmeans_plus_plus(X, k, rng, n_trials=2 + int(np.log(k))),
        ]
        seeded.append(squared_distances(X, starts[1]).min(axis=1).sum() / best)
        for values, start in zip(found.values(), starts, strict=True):
            values.append(KMeans(k, init=start).fit(X).inertia_ / best)
    random, plain, greedy = found.values()
    gain = paired_bootstrap(random, plain, rng=np.random.default_rng(run.seed))
    bound = 8 * (np.log(k) + 2)
    run.metric("inertia from random points / best", np.mean(random))
    run.metric("inertia from k-means++ / best", np.mean(plain))
    run.metric("inertia from greedy k-means++ / best", np.mean(greedy))
    run.metric("random starts that reach the best", np.mean(np.array(random) < 1.01), "share")
    run.metric("k-means++ starts that reach the best", np.mean(np.array(plain) < 1.01), "share")
    run.metric("greedy starts that reach the best", np.mean(np.array(greedy) < 1.01), "share")
    run.claim("k-means++ ends lower than random points do", gain.low > 0,
              f"inertia / best, random less k-means++: {gain}")  # fmt: skip
    run.claim(
        "before any Lloyd step k-means++ is within 8 (ln k + 2) of the best on average",
        mean_interval(seeded).high < bound,
        f"{mean_interval(seeded)} times the best inertia; Arthur & Vassilvitskii's bound is "
        f"{bound:.1f}",
    )
    worst = int(np.argmax(random))
    rng = np.random.default_rng([run.seed, worst])
    unlucky = KMeans(k, init=X[rng.choice(len(X), k, replace=False)]).fit(X)
    with run.figure("seeding", "Does it matter where k-means starts?", columns=2, size=(8.0, 4.3),
                    gridspec_kw={"width_ratios": [1, 1.25]}) as (left, right):  # fmt: skip
        left.scatter(*X.T, s=4, color=plots.GRAY, alpha=0.5, linewidths=0)
        left.plot(*unlucky.cluster_centers_.T, "X", color=plots.ORANGE, markersize=8,
                  markeredgecolor="white")  # fmt: skip
        left.set_title("where the worst random start ends", fontsize=10.5, weight="normal")
        left.set(xticks=[], yticks=[], aspect="equal")
        jitter = np.random.default_rng(0).uniform(-0.2, 0.2, seeds)
        for row, (values, color) in enumerate(
            zip(found.values(), (plots.ORANGE, plots.SKY, plots.BLUE), strict=True)
        ):
            right.plot(values, row + jitter, "o", color=color, alpha=0.55, markeredgewidth=0)
            share = np.mean(np.array(values) < 1.01)
            right.text(max(random), row - 0.34, f"{share:.0%} reach the best", ha="right",
                       color=color, fontsize=10)  # fmt: skip
        right.axvline(1, color=plots.REFERENCE, linestyle="--", linewidth=1)
        right.set_yticks(range(3), [name.replace(", ", ",\n") + " trials" * (row == 2)
                                    for row, name in enumerate(found)])  # fmt: skip
        right.set_ylim(2.35, -0.55)
        right.set_xlabel("inertia at the end / best inertia")
        right.set_title(f"{seeds} seeds each", fontsize=10.5, weight="normal")


def show_choosing_k(run: Run, seeds: int) -> None:
    """BIC and silhouette over k, where five clusters are true and where nobody knows."""
    ks, truth = np.arange(2, 10), 5
    size = run.budget(quick=40, default=80)
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 50, seed])
        angle = 2 * np.pi * np.arange(truth) / truth
        X, _ = blobs(5.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1), size, rng)
        rows.append([_scores(X, int(k), seed) for k in ks])
    bic, score = np.array(rows).transpose(2, 0, 1)
    by_bic, by_silhouette = ks[bic.argmin(axis=1)], ks[score.argmax(axis=1)]
    run.claim(
        "BIC and silhouette find the number of clusters where they are round and apart",
        bool((by_bic == truth).mean() >= 0.9 and (by_silhouette == truth).mean() >= 0.9),
        f"true k = {truth}; BIC right {(by_bic == truth).mean():.0%}, silhouette right "
        f"{(by_silhouette == truth).mean():.0%} of {seeds} draws",
    )
    X, _ = digits_in(8, run.budget(quick=300, default=None))
    many = np.array(run.budget(quick=[2, 6], default=[2, 4, 6, 8, 10, 12, 15, 20, 25, 30]))
    real = np.array([_scores(X, int(k), 0) for k in many])
    run.metric("digits: k by BIC", many[real[:, 0].argmin()], rtol=0.3)
    run.metric("digits: k by silhouette", many[real[:, 1].argmax()], rtol=0.3)
    title = "How many clusters? Clear on five round ones, a matter of taste on digits"
    with run.figure("choosing_k", title, rows=2, columns=2, size=(8.0, 5.2), sharex="col") as axes:
        excess = (bic - bic.min(axis=1, keepdims=True)) / (truth * size)
        plots.interval_band(axes[0, 0], ks, excess, color=plots.BLUE, label="BIC")
        plots.interval_band(axes[1, 0], ks, score, color=plots.GREEN, label="silhouette")
        axes[0, 1].plot(many, (real[:, 0] - real[:, 0].min()) / len(X), "o-", color=plots.BLUE)
        axes[1, 1].plot(many, real[:, 1], "o-", color=plots.GREEN)
        for ax, true_k in zip(axes.flat, (truth, 10, truth, 10), strict=True):
            ax.axvline(true_k, color=plots.REFERENCE, linestyle="--", linewidth=1)
        axes[0, 0].set_title(f"five clusters, {seeds} draws", fontsize=10.5, weight="normal")
        axes[0, 1].set_title("digits in 8-D, ten classes", fontsize=10.5, weight="normal")
        axes[0, 0].set_ylabel("BIC above its least\n(nats a point)")
        axes[1, 0].set_ylabel("silhouette")
        axes[1, 0].set_xlabel("k")
        axes[1, 1].set_xlabel("k")


def _scores(X: Float[np.ndarray, "n d"], k: int, seed: int) -> tuple[float, float]:
    kmeans = KMeans(k, n_init=3, random_state=seed).fit(X)
    mixture = GaussianMixture(k, random_state=seed, n_init=2).fit(X)
    return mixture.bic(X), silhouette(X, kmeans.labels_)


def show_wrong_metric(run: Run, seeds: int) -> None:
    """Failure on display: k-means cuts cigars across, and sees only the largest unit."""
    from sklearn.datasets import load_wine

    scores = []
    for seed in range(seeds):
        X, truth = stretched(np.random.default_rng([run.seed, 60, seed]))
        options = {"n_init": 10, "random_state": seed}
        kmeans, inherited = KMeans(3, **options).fit(X), GaussianMixture(3, **options).fit(X)
        mixture = GaussianMixture(3, init_params="random_from_data", **options).fit(X)
        models = (kmeans, mixture, inherited)
        scores.append([adjusted_rand_index(truth, model.predict(X)) for model in models])
    by_kmeans, by_mixture, stuck = (mean_interval(column) for column in np.array(scores).T)
    run.metric("cigars: adjusted Rand index, k-means", by_kmeans.mean, rtol=0.1)
    run.metric("cigars: adjusted Rand index, GMM", by_mixture.mean)
    run.metric("cigars: adjusted Rand index, GMM started from k-means", stuck.mean, rtol=0.2)
    run.claim("k-means fails on long clusters, a Gaussian mixture does not",
              by_kmeans.high < 0.6 < 0.9 < by_mixture.low,
              f"adjusted Rand index: k-means {by_kmeans}, GMM {by_mixture}; GMM started from "
              f"k-means {stuck}")  # fmt: skip
    wine, cultivar = load_wine(return_X_y=True)
    scaled = (wine - wine.mean(axis=0)) / wine.std(axis=0)
    raw_score, scaled_score = (
        adjusted_rand_index(cultivar, KMeans(3, n_init=20, random_state=0).fit(Z).labels_)
        for Z in (wine, scaled)
    )
    run.metric("wine: adjusted Rand index on raw units", raw_score)
    run.metric("wine: adjusted Rand index, standardized", scaled_score)
    run.claim("k-means on raw units finds the largest unit, not the wine",
              raw_score + 0.3 < scaled_score,
              f"adjusted Rand index with the cultivars: raw {raw_score:.2f}, standardized "
              f"{scaled_score:.2f}")  # fmt: skip
    with run.figure("wrong_metric", "Where does k-means go wrong? Where distance is not likeness",
                    columns=3, size=(8.0, 3.6)) as axes:  # fmt: skip
        onehot = [np.eye(3)[model.predict(X)] for model in (kmeans, mixture)]
        _draw_clusters(axes[0], X, onehot[0], kmeans.cluster_centers_)
        _draw_clusters(axes[1], X, onehot[1], mixture.means_, mixture.covariances_)
        pair = wine[:, [9, 12]]  # color intensity and proline
        labels = KMeans(3, n_init=20, random_state=0).fit(wine).labels_
        for j, color in enumerate(COLORS[:3]):
            for marker, variety in zip("os^", range(3), strict=True):
                chosen = (labels == j) & (cultivar == variety)
                axes[2].scatter(*pair[chosen].T, s=16, marker=marker, color=color, alpha=0.65,
                                linewidths=0)  # fmt: skip
        axes[2].set(xlabel="color intensity", ylabel="proline (mg/l)")
        captions = (f"cigars, k-means: ARI {scores[-1][0]:.2f}",
                    f"cigars, GMM: ARI {scores[-1][1]:.2f}",
                    f"wine, raw: ARI {raw_score:.2f}\n(marker: cultivar)")  # fmt: skip
        for ax, caption in zip(axes, captions, strict=True):
            ax.set_title(caption, fontsize=10.5, weight="normal")


def show_collapse(run: Run) -> None:
    """Failure on display: without regularization the likelihood has no top, only a hole."""
    rng = np.random.default_rng([run.seed, 70])
    X = np.append(blobs(np.array([[-3.0, 0.0], [3.0, 0.0]]), 60, rng)[0], [[0.0, 6.0]], axis=0)
    # One component starts on the outlier, as wide as the space around it.
    start = Mixture(np.array([0.9, 0.1]), np.stack([X[:-1].mean(axis=0), X[-1]]),
                    np.stack([np.cov(X.T), 4.0 * np.eye(2)]))  # fmt: skip
    paths = {}
    for reg_covar in (0.0, 1e-2):
        mixture, path = start, []
        for _ in range(15):
            try:
                shares, likelihood = e_step(X, mixture)
            except ValueError as error:
                run.say(f"without regularization, step {len(path)}: {error}")
                break
            deviation = np.sqrt(np.linalg.eigvalsh(mixture.covariances[1])[0])
            path.append((likelihood, deviation))
            mixture = m_step(X, shares, reg_covar)
        paths[reg_covar] = np.array(path)
    free, held = paths[0.0], paths[1e-2]
    fitted = GaussianMixture(2, random_state=0).fit(X).lower_bound_
    smallest = float(free[:, 1].min())
    run.metric("smallest standard deviation before the collapse", smallest, rtol=None)
    run.metric("steps until the covariance is singular", len(free))
    run.claim(
        "without reg_covar a component on one point shrinks until its covariance is singular",
        bool(len(free) < 15 and smallest < 1e-6 and len(held) == 15 and held[-1, 1] > 0.0999),
        f"singular after {len(free)} steps; with reg_covar = 0.01 the standard deviation is "
        f"{held[-1, 1]:.2f} after 15",
    )
    # Shrinking on purpose shows where EM was heading: ln N(μ; μ, s² I) = -ln 2π s² has no bound.
    widths = np.logspace(0, -30, 60)
    heights = []
    for width in widths:
        covariances = np.stack([np.cov(X.T), width**2 * np.eye(2)])
        heights.append(e_step(X, start._replace(covariances=covariances))[1])
    with run.figure("collapse", "Why does a Gaussian mixture need a floor under its variances?",
                    columns=2, size=(8.0, 3.9)) as (left, right):  # fmt: skip
        left.semilogx(widths, heights, color=plots.ORANGE)
        left.axhline(fitted, color=plots.BLUE, linestyle="--", linewidth=1.4)
        left.text(1.0, fitted + 0.03, "the sensible fit", color=plots.BLUE, ha="right")
        left.set(xlabel="s.d. of a component on one point", ylabel="log-likelihood (nats a point)")
        left.set_title("the likelihood has no maximum", fontsize=10.5, weight="normal")
        right.semilogy(held[:, 1], color=plots.BLUE)
        right.semilogy(free[:, 1], "o-", color=plots.ORANGE)
        right.text(len(held) * 0.35, held[-1, 1] * 1.7, "reg_covar = 0.01", color=plots.BLUE)
        right.annotate("reg_covar = 0: then\nit is singular", (len(free) - 1, free[-1, 1]), (14, 4),
                       textcoords="offset points", color=plots.ORANGE)  # fmt: skip
        right.set(
            xticks=range(0, 15, 2), xlabel="EM step", ylabel="smallest s.d. of that component"
        )
        right.set_title("and EM falls into the hole", fontsize=10.5, weight="normal")


def controls(run: Run, seeds: int) -> None:
    """Clusters of digits agree with digits; not with dealt labels, nor without structure."""
    X, labels = digits_in(64, run.budget(quick=400, default=None))
    found, permuted, shuffled = [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 80, seed])
        clusters = KMeans(10, random_state=seed).fit(X).labels_
        found.append(adjusted_rand_index(labels, clusters))
        permuted.append(adjusted_rand_index(rng.permutation(labels), clusters))
        noise = KMeans(10, random_state=seed).fit(rng.permuted(X, axis=0)).labels_
        shuffled.append(adjusted_rand_index(labels, noise))
    real, dealt, without = (mean_interval(values) for values in (found, permuted, shuffled))
    run.metric("digits: adjusted Rand index of k-means with the classes", real.mean, rtol=0.1)
    run.claim("clusters of digits are digits, more often than not", real.low > 0.5,
              f"adjusted Rand index {real}")  # fmt: skip
    run.claim(
        "control: with permuted labels, and with every column shuffled, agreement is chance",
        dealt.low < 0 < dealt.high and abs(without.mean) < 0.02,
        f"adjusted Rand index, permuted labels {dealt}, shuffled columns {without}",
    )


def main(run: Run, *, seeds: PositiveInt = 10) -> None:
    """Check k-means and EM against scikit-learn, watch them work, and break both.

    Parameters
    ----------
    seeds
        Repetitions of each claim that involves chance.
    """
    seeds = run.budget(quick=3, default=seeds, full=3 * seeds)
    check_kmeans(run)
    check_mixture(run, seeds)
    show_iterations(run)
    show_seeding(run, 3 * seeds)
    show_choosing_k(run, seeds)
    show_wrong_metric(run, seeds)
    show_collapse(run)
    controls(run, seeds)
