r"""Do trees that skip missing entries grow many times faster? And are few quantiles enough?

XGBoost's section 3.4 visits only the entries that are there. For each feature it tries every
threshold twice, the rows without a value going right and then left, and keeps the better:

$$ \mathrm{gain} = \frac{G_L^2}{H_L + \lambda} + \frac{G_R^2}{H_R + \lambda}
   - \frac{G^2}{H + \lambda} . $$

The naive version here is the same code on a table that stores every entry. So both do the same work
for an entry, find the same trees, and differ in how many entries there are. What counts as
reproduced stands in the front matter of README.md and is read from there.

    uv run papers/2016-xgboost/reproduce.py

Chen and Guestrin (2016), "XGBoost: A scalable tree boosting system", sections 3.2 and 3.4,
algorithm 3, figures 3 and 5.
"""

import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from jaxtyping import Float, Int

from shared import plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run, cli
from week05.gradient_boosting import GradientBoosting

README = Path(__file__).with_name("README.md")
ROUNDING = 1e-6


def front_matter(readme: str) -> dict:
    """The YAML between the first two lines of three dashes."""
    parts = readme.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("readme must start with front matter between two lines '---', got none")
    return yaml.safe_load(parts[1])


def judge(value: float, least: float, most: float) -> str:
    """`reproduced` if the value lies between its bounds."""
    if not least <= most:
        raise ValueError(f"least must not exceed most, got {least} and {most}")
    return "reproduced" if least <= value <= most else "not reproduced"


# ---- exact greedy trees on stored entries (algorithm 3)


class Columns(NamedTuple):
    """The stored entries of a table, feature by feature, each feature's by ascending value.

    feature, row and value have one number an entry; n rows in all.
    """

    feature: Int[np.ndarray, " entry"]
    row: Int[np.ndarray, " entry"]
    value: Float[np.ndarray, " entry"]
    n: int


def columns_of(X: Float[np.ndarray, "n p"], *, naive: bool = False) -> Columns:
    """Entries of X; NaN is not stored. The naive version stores it too, as 0."""
    stored = np.ones(X.shape, dtype=bool) if naive else ~np.isnan(X)
    feature, row = np.nonzero(stored.T)
    value = np.nan_to_num(X[row, feature])
    order = np.lexsort((value, feature))
    return Columns(feature[order], row[order], value[order], len(X))


class Node(NamedTuple):
    """A split (feature, threshold, where rows without a value go, its gain) or a leaf's weight."""

    feature: int
    threshold: float
    default_left: bool
    gain: float
    weight: float
    children: tuple["Node", ...]


def best_split(
    columns: Columns,
    g: Float[np.ndarray, " n"],
    h: Float[np.ndarray, " n"],
    G: float,
    H: float,
    reg_lambda: float,
    directions: tuple[str, ...],
) -> tuple[int, float, bool, float] | None:
    """Algorithm 3, all features at once: running sums over the stored entries, nothing else."""
    feature, row, value, _ = columns
    if not len(feature):
        return None
    G_run, H_run = np.cumsum(g[row]), np.cumsum(h[row])
    new = np.flatnonzero(np.r_[True, feature[1:] != feature[:-1]])  # where each feature begins
    sizes = np.diff(np.r_[new, len(feature)])
    before_G, before_H = np.r_[0.0, G_run][new], np.r_[0.0, H_run][new]
    end = new + sizes - 1
    GL, HL = G_run - np.repeat(before_G, sizes), H_run - np.repeat(before_H, sizes)
    gap = np.r_[(feature[1:] == feature[:-1]) & (value[1:] > value[:-1]), False]
    gap[end] = True  # all that is there against all that is not
    best = None
    for direction in directions:
        to_left = direction == "left"
        missing_G = np.repeat(G - GL[end], sizes) if to_left else 0.0
        missing_H = np.repeat(H - HL[end], sizes) if to_left else 0.0
        A, B = GL + missing_G, HL + missing_H
        fits = gap & (B >= 1.0) & (H - B >= 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = A**2 / (B + reg_lambda) + (G - A) ** 2 / (H - B + reg_lambda)
        gain = np.where(fits, gain - G**2 / (H + reg_lambda), -np.inf)
        i = int(gain.argmax())
        least = ROUNDING if best is None else best[3]
        slack = ROUNDING * max(1.0, least)  # among equals the first feature wins
        tied = best is not None and feature[i] < best[0] and gain[i] > least - slack
        if gain[i] > least + slack * (best is not None) or tied:
            last = i == end[np.searchsorted(end, i)]
            threshold = np.inf if last else (value[i] + value[i + 1]) / 2
            best = int(feature[i]), float(threshold), to_left, float(gain[i])
    return best


def grow(
    columns: Columns,
    g: Float[np.ndarray, " n"],
    h: Float[np.ndarray, " n"],
    *,
    depth: int,
    reg_lambda: float = 1.0,
    gamma: float = 0.0,
    directions: tuple[str, ...] = ("right", "left"),
    rows: Int[np.ndarray, " m"] | None = None,
) -> Node:
    """A tree of at most this depth; splits that gain less than gamma are taken back."""
    rows = np.arange(columns.n) if rows is None else rows
    G, H = float(g[rows].sum()), float(h[rows].sum())
    weight = -G / (H + reg_lambda)
    split = best_split(columns, g, h, G, H, reg_lambda, directions) if depth else None
    if split is None:
        return Node(-1, 0.0, False, 0.0, weight, ())
    feature, threshold, default_left, gain = split
    here = columns.feature == feature
    left = np.zeros(columns.n, dtype=bool)
    left[rows] = default_left
    left[columns.row[here]] = columns.value[here] < threshold
    children = []
    for side in (True, False):
        keep = left[columns.row] == side
        part = Columns(columns.feature[keep], columns.row[keep], columns.value[keep], columns.n)
        children.append(
            grow(part, g, h, depth=depth - 1, reg_lambda=reg_lambda, gamma=gamma,
                 directions=directions, rows=rows[left[rows] == side])
        )  # fmt: skip
    if gain < gamma and all(child.feature < 0 for child in children):
        return Node(-1, 0.0, False, 0.0, weight, ())
    return Node(feature, threshold, default_left, gain, weight, tuple(children))


def predict(node: Node, X: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
    """The leaf weight of each row."""
    if node.feature < 0:
        return np.full(len(X), node.weight)
    x = X[:, node.feature]
    left = np.where(np.isnan(x), node.default_left, x < node.threshold)
    return np.where(left, predict(node.children[0], X), predict(node.children[1], X))


def gains(node: Node) -> list[float]:
    """All gains of a tree."""
    return [] if node.feature < 0 else [node.gain, *(g for c in node.children for g in gains(c))]


def boost(X, y, *, rounds: int, depth: int = 4, learning_rate: float = 0.3, **options):
    """Trees for the logistic loss, from a margin of 0."""
    columns, margin, trees = columns_of(X), np.zeros(len(y)), []
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-margin))
        trees.append(grow(columns, p - y, np.maximum(p * (1 - p), 1e-16), depth=depth, **options))
        margin += learning_rate * predict(trees[-1], X)
    return trees


def margins(trees, X, learning_rate: float = 0.3):
    """The sum of the trees."""
    return learning_rate * sum(predict(tree, X) for tree in trees)


# ---- the experiments


def sparse_table(n: int, p: int, density: float, seed: int):
    """One-hot-like: an entry is there (1) with this probability, and some features matter."""
    rng = np.random.default_rng(seed)
    X = np.where(rng.random((n, p)) < density, 1.0, np.nan)
    signal = np.nan_to_num(X[:, : p // 2]) @ rng.normal(size=p // 2)
    signal = signal / max(signal.std(), 1e-9) + 0.5 * rng.normal(size=n)
    return X, (signal > np.median(signal)).astype(float)


def not_at_random(n: int, seed: int):
    """Values are missing where the label is 1, rarely otherwise: to be absent says something."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.5).astype(float)
    X = rng.normal(size=(n, 5))
    X += 0.7 * y[:, None]
    # Large values and missing ones belong together, so that absence should go right.
    X[rng.random((n, 5)) < np.where(y[:, None] == 1, 0.3, 0.02)] = np.nan
    return X, y


def measure(X, y, repeats: int, naive: bool) -> tuple[float, int, Node]:
    """Median seconds of one tree after sorting, the entries visited at the root, and the tree."""
    columns = columns_of(X, naive=naive)
    g, h, seconds = 0.5 - y, np.full(len(y), 0.25), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        tree = grow(columns, g, h, depth=3)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), len(columns.row), tree


def auc(y, score) -> float:
    """The area under the ROC curve."""
    from scipy.stats import rankdata

    ones = y == 1
    ranks = rankdata(score)[ones].sum() - ones.sum() * (ones.sum() + 1) / 2
    return float(ranks / (ones.sum() * (~ones).sum()))


def main(run: Run, *, rows: PositiveInt = 10_000, seeds: PositiveInt = 5) -> None:
    """Time both versions against the density, and judge by the front matter's margins.

    Parameters
    ----------
    rows
        Rows of the sparse table, with 100 features.
    seeds
        Tables for the accuracy comparisons.
    """
    paper = front_matter(README.read_text(encoding="utf-8"))
    rules = {rule["name"]: rule for rule in paper["rules"]}
    rows = run.budget(quick=min(rows, 1000), default=rows, full=4 * rows)
    seeds = run.budget(quick=min(seeds, 3), default=seeds, full=2 * seeds)
    repeats = run.budget(quick=1, default=5)
    _check_against_xgboost(run, run.budget(quick=3, default=10))

    # ---- speed
    densities, times = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01), []
    for density in run.progress(densities, "density"):
        X, y = sparse_table(rows, 100, density, run.seed)
        naive, _, tree = measure(X, y, repeats, naive=True)
        aware, entries, other = measure(X, y, repeats, naive=False)
        same = np.abs(predict(tree, np.nan_to_num(X)) - predict(other, X)).max()
        times.append((naive, aware, entries, same))
    naive, aware, entries, same = np.array(times).T
    run.check("naive and aware grow the same trees", same, np.zeros(len(same)),
              against="each other: the partition is the same", atol=1e-9,
              why="sums in another order")  # fmt: skip
    slope = float(np.polyfit(np.log(entries), np.log(aware), 1)[0])
    ratio = float(naive[4] / aware[4])
    for density, quotient in zip(densities, naive / aware, strict=True):
        run.metric(f"naive / aware at {density:.0%} density", quotient, "×", rtol=None)
    run.metric("log-log slope of time in entries", slope, rtol=None)
    rule = rules["sparsity-aware is faster"]
    run.verdict(rule["name"], judge(ratio, rule["least"], np.inf),
                f"{ratio:.0f} times at 2 % density, asked for: {rule['least']}")  # fmt: skip
    rule = rules["cost is linear in the entries"]
    run.verdict(rule["name"], judge(slope, rule["least"], rule["most"]),
                f"slope {slope:.2f}, asked for: {rule['least']} to {rule['most']}")  # fmt: skip

    # ---- approximate splits
    rule = rules["few quantiles are enough"]
    n = run.budget(quick=400, default=4000)
    bins, scores = (4, 8, 20, 64), {}
    for count in (*bins, None):
        scores[count] = np.array([_auc_of_bins(n, count, [run.seed, 3, s]) for s in range(seeds)])
    loss = mean_interval(scores[None] - scores[rule["bins"]])
    run.metric("AUC of every value a bin", scores[None].mean(), rtol=0.02)
    for count in bins:
        run.metric(f"AUC with {count} bins", scores[count].mean(), rtol=0.02)
    run.verdict(rule["name"], judge(loss.high, -np.inf, rule["most"]),
                f"AUC lost with {rule['bins']} bins: {loss}, at most {rule['most']} allowed, "
                "interval included")  # fmt: skip

    # ---- the falsifier: directions fixed
    learned, fixed = [], []
    for s in range(seeds):
        X, y = not_at_random(run.budget(quick=400, default=2000), run.seed * 1000 + s)
        X_new, y_new = not_at_random(2000, run.seed * 1000 + 500 + s)
        for store, directions in ((learned, ("right", "left")), (fixed, ("left",))):
            trees = boost(X, y, rounds=5, depth=2, directions=directions)
            store.append(auc(y_new, margins(trees, X_new)))
    gap = mean_interval(np.array(learned) - np.array(fixed))
    run.metric("AUC, default directions learned", np.mean(learned), rtol=0.02)
    run.metric("AUC, always left", np.mean(fixed), rtol=0.02)
    run.claim("with the default direction fixed, accuracy falls",
              bool(gap.low > paper["falsifier"]["margin"]),
              f"AUC learned minus always left: {gap}, values missing not at random",
              quick=False)  # fmt: skip
    _figure(run, paper, densities, naive, aware, entries)
    _figure_bins(run, bins, scores)


def _auc_of_bins(n: int, bins: int | None, seed: list[int]) -> float:
    """Ten normal features; the label says whether their squares sum to more than the median."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(2 * n, 10))
    y = ((X**2).sum(axis=1) > 9.34).astype(int)
    model = GradientBoosting("logistic", n_estimators=30, max_depth=4, max_bins=bins or n)
    model.fit(X[:n], y[:n])
    return auc(y[n:], model.decision_function(X[n:])[:, 0])


def _check_against_xgboost(run: Run, rounds: int) -> None:
    import xgboost as xgb
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    X = X.astype(np.float32).astype(np.float64)
    X[np.random.default_rng(run.seed).random(X.shape) < 0.3] = np.nan
    for name, options, theirs in (
        ("λ = 1", {}, {}),
        ("λ = 3, γ = 1", {"reg_lambda": 3.0, "gamma": 1.0}, {"lambda": 3.0, "gamma": 1.0}),
    ):
        settings = {"objective": "binary:logistic", "tree_method": "exact", "max_depth": 3,
                    "base_score": 0.5, "nthread": 1, **theirs}  # fmt: skip
        booster = xgb.train(settings, xgb.DMatrix(X[::2], y[::2]), rounds)
        trees = boost(X[::2], y[::2].astype(float), rounds=rounds, depth=3, **options)
        run.check(f"margins, {name}", margins(trees, X[::2]),
                  booster.predict(xgb.DMatrix(X[::2]), output_margin=True),
                  against="xgboost, tree_method=exact", atol=1e-4,
                  why="float32 leaves in xgboost")  # fmt: skip
        frame = booster.trees_to_dataframe()
        first = frame[(frame.Tree == 0) & (frame.Feature != "Leaf")]
        run.check(f"gains of the first tree, {name}", np.sort(gains(trees[0])),
                  np.sort(first.Gain.to_numpy()), against="xgboost's dump", atol=1e-5, rtol=1e-5,
                  why="float32 gains in xgboost")  # fmt: skip


def _figure(run: Run, paper: dict, densities, naive, aware, entries) -> None:
    with run.figure("speed", "How much time does it save to visit only what is there?", columns=2,
                    size=(9.4, 4.2)) as (left, right):  # fmt: skip
        left.bar([0, 1], [paper["paper_speedup"], naive[4] / aware[4]], width=0.55,
                 color=[plots.GRAY, plots.BLUE])  # fmt: skip
        left.set_xticks([0, 1], ["the paper:\nAllstate-10K", "here:\ngenerated, 2 %"])
        for x, value in enumerate((paper["paper_speedup"], naive[4] / aware[4])):
            left.annotate(f"{value:.0f}×", (x, value), (0, 4), textcoords="offset points",
                          ha="center", weight="bold")  # fmt: skip
        rule = next(r for r in paper["rules"] if r["name"] == "sparsity-aware is faster")
        left.axhline(rule["least"], color=plots.REFERENCE, ls="--", lw=1)
        left.margins(y=0.12)
        left.text(0.5, rule["least"] + 0.8, "asked for", ha="center", fontsize=9)
        left.set(ylabel="naive time / sparsity-aware time")
        left.set_title("50×: read in a copy of the text, § 3.4", fontsize=10.5, weight="normal")
        left.grid(axis="x", visible=False)
        right.plot(entries, 1e3 * naive, "s-", color=plots.ORANGE, label="naive")
        right.plot(entries, 1e3 * aware, "o-", color=plots.BLUE, label="aware")
        line = 1e3 * aware[0] * np.array(entries) / entries[0]
        right.plot(entries, line, ":", color=plots.REFERENCE, lw=1.2, label="∝ entries")
        right.set(xscale="log", yscale="log", xlabel="entries that are there",
                  ylabel="one tree of depth 3, ms")  # fmt: skip
        right.set_title("Here: 100 features, density 50 % to 1 %", fontsize=10.5, weight="normal")
        right.legend(loc="lower right")


def _figure_bins(run: Run, bins, scores: dict) -> None:
    with run.figure("quantiles", "How many quantiles are as good as every value?",
                    size=(7.6, 3.8)) as ax:  # fmt: skip
        for count, color in zip((*bins, None), (*[plots.BLUE] * 4, plots.REFERENCE), strict=True):
            x = bins.index(count) if count else len(bins)
            interval = mean_interval(scores[count])
            ax.errorbar(x, interval.mean, interval.high - interval.mean, fmt="o", color=color,
                        capsize=4, ms=7)  # fmt: skip
        ax.axhline(scores[None].mean(), color=plots.REFERENCE, ls="--", lw=1)
        ax.set_xticks(range(len(bins) + 1), [*map(str, bins), "every value"])
        ax.set(xlabel="bins a feature, proposed once (global)", ylabel="AUC on unseen rows")


if __name__ == "__main__":
    cli(main)
