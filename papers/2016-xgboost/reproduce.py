r"""Do trees that skip missing entries grow many times faster? And are few quantiles enough?

XGBoost's section 3.4 visits only the entries that are there. For each feature it tries every
threshold twice, the rows without a value going right and then left, and keeps the better:

$$ \mathrm{gain} = \frac{G_L^2}{H_L + \lambda} + \frac{G_R^2}{H_R + \lambda}
   - \frac{G^2}{H + \lambda} . $$

The naive version here is the same code on a table that stores every entry. Both find the same trees
and differ in how many entries there are. The rules stand in the front matter of README.md.

    uv run papers/2016-xgboost/reproduce.py

Chen and Guestrin (2016), "XGBoost: A scalable tree boosting system", sections 3.2 and 3.4,
algorithm 3, figures 3 and 5.
"""

import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from shared import datasets, papers, plots
from shared.study import PositiveInt, Run, cli
from week05.gradient_boosting import GradientBoosting

ROUNDING = 1e-6


# ---- exact greedy trees on stored entries (algorithm 3)


class Columns(NamedTuple):
    """The stored entries of a table of n rows, feature by feature, each by ascending value."""

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
    stored = columns.feature == feature
    left = np.zeros(columns.n, dtype=bool)
    left[rows] = default_left
    left[columns.row[stored]] = columns.value[stored] < threshold
    children, options = [], {"reg_lambda": reg_lambda, "gamma": gamma, "directions": directions}
    for side in (True, False):
        keep = left[columns.row] == side
        part = Columns(columns.feature[keep], columns.row[keep], columns.value[keep], columns.n)
        here = rows[left[rows] == side]
        children.append(grow(part, g, h, depth=depth - 1, rows=here, **options))
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


def absent(n: int, seed: int, *, at_random: bool = False):
    """Values are missing mostly where the label is 1: to be absent says something. Or at random."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.5).astype(float)
    X = rng.normal(size=(n, 5))
    X += 0.7 * y[:, None]
    # Large values and missing ones belong together, so that absence should go right.
    share = 0.16 if at_random else np.where(y[:, None] == 1, 0.3, 0.02)
    X[rng.random((n, 5)) < share] = np.nan
    return X, y


class Timing(NamedTuple):
    """Seconds of one tree after sorting, by repeat; entries visited at the root; the tree."""

    seconds: Float[np.ndarray, " repeat"]
    entries: int
    tree: Node


def measure(X, y, repeats: int, naive: bool) -> Timing:
    """Time one tree of depth 3, after one to warm up."""
    columns = columns_of(X, naive=naive)
    g, h, seconds = 0.5 - y, np.full(len(y), 0.25), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        tree = grow(columns, g, h, depth=3)
        seconds.append(time.perf_counter() - start)
    return Timing(np.array(seconds[1:]), len(columns.row), tree)


def auc(y, score) -> float:
    """The area under the ROC curve."""
    from scipy.stats import rankdata

    ones = y == 1
    ranks = rankdata(score)[ones].sum() - ones.sum() * (ones.sum() + 1) / 2
    return float(ranks / (ones.sum() * (~ones).sum()))


DENSITIES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)


def main(run: Run, *, rows: PositiveInt = 10_000, seeds: PositiveInt = 5) -> None:
    """Time both versions against the density, and judge by the front matter's rules.

    Parameters
    ----------
    rows
        Rows of the sparse table, with 100 features.
    seeds
        Tables for the accuracy comparisons.
    """
    paper = papers.load(__file__)
    rows = run.budget(quick=min(rows, 500), default=rows, full=4 * rows)
    seeds = run.budget(quick=min(seeds, 2), default=seeds, full=2 * seeds)
    _check_against_xgboost(run, run.budget(quick=3, default=10))
    _speed(run, paper, rows)
    _quantiles(run, paper, seeds)
    _directions(run, paper, seeds)


def _speed(run: Run, paper: papers.Paper, rows: int) -> None:
    repeats, pairs, same = run.budget(quick=2, default=5), [], []
    for density in run.progress(DENSITIES, "density"):
        X, y = sparse_table(rows, 100, density, run.seed)
        pairs.append([measure(X, y, repeats, naive) for naive in (True, False)])
        trees = [timing.tree for timing in pairs[-1]]
        same.append(np.abs(predict(trees[0], np.nan_to_num(X)) - predict(trees[1], X)).max())
    why = {"kind": "consistency", "atol": 1e-9, "why": "sums in another order"}
    name, against = "naive and aware grow the same trees", "each other: the partition is the same"
    run.check(name, same, np.zeros(len(same)), against=against, **why)
    quotients = [naive.seconds / aware.seconds for naive, aware in pairs]
    ratios = dict(zip(DENSITIES, quotients, strict=True))
    timed = {"quick": False, "rtol": None}
    for density in (0.5, 0.02):
        ratio = np.median(ratios[density])
        run.metric(f"naive / aware at {density:.0%} density", ratio, "×", rtol=None)
        run.metric(f"per entry, naive / aware at {density:.0%}", ratio * density, "×", rtol=None)
    paper.judge(run, "sparsity-aware is faster", ratios[0.02], **timed)
    run.falsifier("a table without gaps", ratios[1.0], breaks="sparsity-aware is faster")
    entries = np.array([aware.entries for _, aware in pairs])
    seconds = np.array([aware.seconds for _, aware in pairs])
    slopes = np.polyfit(np.log(entries), np.log(seconds), 1)[0]  # one per repeat
    paper.judge(run, "cost is linear in the entries", slopes, **timed)
    _figure(run, paper, np.median(ratios[0.02]), entries, pairs)


def _quantiles(run: Run, paper: papers.Paper, seeds: int) -> None:
    n, bins, scores = run.budget(quick=300, default=4000), (4, 8, 20, 64), {}
    for count in (*bins, None):
        found = [_auc_of_bins(n, count, [run.seed, 3, s]) for s in range(seeds)]
        scores[str(count or "every value")] = np.array(found)
    run.metric("AUC of a bin per value", scores["every value"].mean())
    for count in (4, 20):
        run.metric(f"AUC with {count} bins", scores[str(count)].mean())
    lost = scores["every value"] - scores["20"]
    paper.judge(run, "few quantiles are enough", lost, quick=False)
    with run.figure("quantiles", "How many quantiles are as good as every value?") as ax:
        labels = {"xlabel": "AUC on unseen rows (dots: tables)", "xlim": (0.7, 1.0)}
        plots.bars(ax, scores, ylabel="bins per feature, proposed once", **labels)


def _directions(run: Run, paper: papers.Paper, seeds: int) -> None:
    """What it is worth to learn where absent rows go."""
    n, gaps = run.budget(quick=300, default=2000), {}
    for at_random in (False, True):
        scores = []
        for s in range(seeds):
            X, y = absent(n, run.seed * 1000 + s, at_random=at_random)
            X_new, y_new = absent(2000, run.seed * 1000 + 500 + s, at_random=at_random)
            for directions in (("right", "left"), ("left",)):
                trees = boost(X, y, rounds=5, depth=2, directions=directions)
                scores.append(auc(y_new, margins(trees, X_new)))
        learned, fixed = np.array(scores).reshape(seeds, 2).T
        gaps[at_random] = learned - fixed
    paper.judge(run, "learned directions help", gaps[False], quick=False)
    run.falsifier("values missing at random", gaps[True], breaks="learned directions help")


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

    table = datasets.bundled("breast_cancer")
    X, y = table.data.astype(np.float32).astype(np.float64)[::2], table.target[::2]
    X[np.random.default_rng(run.seed).random(X.shape) < 0.3] = np.nan
    common = {"objective": "binary:logistic", "tree_method": "exact", "max_depth": 3}
    common |= {"base_score": 0.5, "nthread": 1}
    check = run.against("xgboost, tree_method=exact", atol=1e-4, why="float32 in xgboost")
    for name, options, theirs in (
        ("λ = 1", {}, {}),
        ("λ = 3, γ = 1", {"reg_lambda": 3.0, "gamma": 1.0}, {"lambda": 3.0, "gamma": 1.0}),
    ):
        booster = xgb.train(common | theirs, xgb.DMatrix(X, y), rounds)
        trees = boost(X, y.astype(float), rounds=rounds, depth=3, **options)
        reference = booster.predict(xgb.DMatrix(X), output_margin=True)
        check(f"margins, {name}", margins(trees, X), reference)
        frame = booster.trees_to_dataframe()
        first = frame[(frame.Tree == 0) & (frame.Feature != "Leaf")].Gain.to_numpy()
        found, tight = np.sort(gains(trees[0])), {"atol": 1e-5, "rtol": 1e-5}
        check(f"gains of the first tree, {name}", found, np.sort(first), **tight)


def _figure(run: Run, paper: papers.Paper, ratio: float, entries, pairs) -> None:
    title = "How much time does it save to visit only what is there?"
    with run.figure("speed", title, columns=2, size=(9.4, 4.2)) as (left, right):
        rows = {"the paper:\nAllstate-10K": paper.matter["paper_speedup"]}
        rows["here:\ngenerated, 2 %"] = ratio
        asked = {"asked for": paper.rules["sparsity-aware is faster"]["at_least"]}
        labels = {"reference": asked, "xlabel": "naive time / sparsity-aware time"}
        plots.bars(left, rows, colors=(plots.GRAY, plots.BLUE), **labels)
        lines = {
            name: 1e3 * np.array([pair[i].seconds for pair in pairs]).T
            for i, name in enumerate(("naive", "aware"))
        }
        lines["∝ entries"] = lines["aware"].mean(0)[0] * entries / entries[0]
        labels = {"xscale": "log", "yscale": "log", "xlabel": "entries that are there"}
        labels["ylabel"] = "one tree of depth 3, ms\n(mean, range of repeats)"
        inks = (plots.ORANGE, plots.BLUE, plots.GRAY)
        plots.curves(right, entries, lines, colors=inks, ends=False, **labels)


if __name__ == "__main__":
    cli(main)
