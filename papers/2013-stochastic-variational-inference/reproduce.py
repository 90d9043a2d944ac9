r"""Does a topic model need whole passes over the documents, or are noisy steps from few enough?

Batch VB and stochastic VI start from the same topics and fit the same generated documents:

$$ \lambda \leftarrow (1 - \rho_t)\, \lambda + \rho_t (\eta + \tfrac N B \hat s), \qquad
   \rho_t = (t + \tau)^{-\kappa} . $$

Reduced: a thousand documents of ten topics that are known. The rules stand in the front matter of
README.md.

    uv run papers/2013-stochastic-variational-inference/reproduce.py

Hoffman, Blei, Wang & Paisley (2013), "Stochastic variational inference", section 4.
"""

from typing import NamedTuple

import numpy as np

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week24.latent_dirichlet import (
    Priors,
    generate,
    heldout,
    learning_rate,
    local_step,
    start,
    step,
)
from week24.sklearn_twins import topics_from

BATCHES, KAPPAS = (16, 64, 256), (0.5, 0.7, 0.9)
PRIORS = Priors(0.1, 0.1)
NEAR = 0.02  # nats per word: what counts as having come as far


class Corpus(NamedTuple):
    """Documents to learn from, two halves of others, and what the true topics say of the second."""

    counts: np.ndarray
    seen: np.ndarray
    hidden: np.ndarray
    ceiling: float


def corpus(seed: int, n: int, k: int, v: int) -> Corpus:
    """Generated documents, a fifth more of them held out and cut in two at random."""
    rng = np.random.default_rng(seed)
    counts, topics = generate(n + n // 5, k, v, rng, length=80, priors=PRIORS)
    other = counts[n:]
    seen = rng.binomial(other.astype(int), 0.5).astype(float)
    true = 1e6 * topics + 1e-3  # Dirichlets that leave no doubt
    ceiling = heldout(seen, other - seen, true, PRIORS.alpha)
    return Corpus(counts[:n], seen, other - seen, ceiling)


class Path(NamedTuple):
    """Passes over the documents, and the held-out value after each of them."""

    passes: np.ndarray
    values: np.ndarray


def batch_vb(data: Corpus, lam: np.ndarray, passes: int) -> Path:
    """Whole passes: each updates all documents, then the topics."""
    values = []
    for _ in range(passes):
        lam = step(lam, data.counts, len(data.counts), 1.0, PRIORS)
        values.append(heldout(data.seen, data.hidden, lam, PRIORS.alpha))
    return Path(np.arange(1, passes + 1.0), np.array(values))


def stochastic(
    data: Corpus, lam: np.ndarray, passes: int, batch_size: int, kappa: float, tau: float, seed: int
) -> Path:
    """Batches in a new order in each pass; looked at four times a pass, or after each batch."""
    rng, n = np.random.default_rng(seed), len(data.counts)
    found, done, t, due = [], 0, 0, 0
    for _ in range(passes):
        order = rng.permutation(n)
        for i in range(0, n, batch_size):
            batch = data.counts[order[i : i + batch_size]]
            t, done = t + 1, done + len(batch)
            lam = step(lam, batch, n, learning_rate(t, tau, kappa), PRIORS)
            if done >= due + n / 4 or done == passes * n:
                due = done
                value = heldout(data.seen, data.hidden, lam, PRIORS.alpha)
                found.append((done / n, value))
    return Path(*np.array(found).T)


def passes_until(path: Path, level: float) -> float:
    """Passes until a path first reaches a level; twice its length if it never does."""
    there = path.values >= level
    return float(path.passes[there.argmax()]) if there.any() else 2 * float(path.passes[-1])


def main(run: Run, *, seeds: PositiveInt = 3, documents: PositiveInt = 1000) -> None:
    """Fit both ways, all cells of the grid, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Corpora, each with topics of its own.
    documents
        To learn from.
    """
    paper = papers.load(__file__)
    run.rounding(0.02, "sums in another order, over some hundred updates")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    size = (documents, 10, 150)
    n, k, v = run.budget(quick=(200, 3, 30), default=size, full=(4 * documents, 10, 150))
    whole, judged, others = run.budget(quick=(10, 3, 3), default=(40, 12, 4), full=(100, 20, 20))
    cell, tau = (paper.matter["batch_size"], paper.matter["kappa"]), paper.matter["tau"]
    cells = [(b, kappa) for b in BATCHES for kappa in KAPPAS] if run.mode != "quick" else [cell]
    found: dict = {name: [] for name in ["batch VB", "no decay", "ceiling", *cells]}
    for seed in run.progress(range(run.seed, run.seed + seeds), "corpora"):
        data = corpus(seed, n, k, v)
        lam = start(k, v, np.random.default_rng(1000 + seed))
        found["batch VB"].append(batch_vb(data, lam, whole))
        found["ceiling"].append(data.ceiling)
        for b, kappa in cells:
            few = judged if (b, kappa) == cell else others
            path = stochastic(data, lam, few, b, kappa, tau, seed)
            found[b, kappa].append(path)
        found["no decay"].append(stochastic(data, lam, judged, cell[0], 0.0, tau, seed))
    judge(run, paper, found, cell)
    draw(run, found, cell)


def judge(run: Run, paper: papers.Paper, found: dict, cell: tuple[int, float]) -> None:
    """Passes and ends of the judged cell beside batch VB's."""
    whole = found["batch VB"]
    late = {"quick": False, "rtol": None}

    def share(paths: list[Path]) -> list[float]:
        levels = [path.values[-1] - NEAR for path in whole]
        pairs = zip(paths, whole, levels, strict=True)
        return [passes_until(a, level) / passes_until(b, level) for a, b, level in pairs]

    def ahead(paths: list[Path]) -> list[float]:
        return [a.values[-1] - b.values[-1] for a, b in zip(paths, whole, strict=True)]

    first, second = paper.rules
    paper.judge(run, first, share(found[cell]), **late)
    paper.judge(run, second, ahead(found[cell]), **late)
    run.falsifier("no decay", ahead(found["no decay"]), breaks=second)
    for key in [key for key in found if isinstance(key, tuple)]:
        name = f"batches of {key[0]}, kappa {key[1]}"
        run.metric(f"share of the passes, {name}", np.mean(share(found[key])), rtol=None)
        run.metric(f"ahead at the end, {name}", np.mean(ahead(found[key])), "nats", rtol=None)
    early = [p.values[(p.passes >= 1).argmax()] for p in found[cell]]
    gain = np.mean([a - p.values[0] for a, p in zip(early, whole, strict=True)])
    run.metric("ahead after one pass, the judged cell", gain, "nats", rtol=None)
    gap = np.mean([c - p.values[-1] for c, p in zip(found["ceiling"], whole, strict=True)])
    run.metric("true topics ahead of batch VB", gap, "nats", rtol=None)
    near = [passes_until(path, path.values[-1] - NEAR) for path in whole]
    run.metric("passes of batch VB until near its end", np.mean(near), rtol=None)


def draw(run: Run, found: dict, cell: tuple[int, float]) -> None:
    """Held-out value by documents seen, the first corpus."""
    title = "What is a pass over the documents worth?"
    with run.figure("passes", title) as axes:
        for key in [key for key in found if isinstance(key, tuple) and key != cell]:
            axes.plot(*found[key][0], color=plots.GRAY, lw=1, alpha=0.7, label="_")
        lines = {"batch VB": found["batch VB"][0], "no decay": found["no decay"][0]}
        lines[f"batches of {cell[0]}, κ = {cell[1]}"] = found[cell][0]
        x = {name: path.passes for name, path in lines.items()}
        y = {name: path.values for name, path in lines.items()}
        labels = {"xlabel": "passes over the documents", "ylabel": "held-out nats per word"}
        reference = {"true topics": found["ceiling"][0]}
        options = {"reference": reference, "ends": False, "xscale": "log"}
        plots.curves(axes, x, y, **options, **labels)


def check(run: Run) -> None:
    """One pass in batches and one as a whole beside scikit-learn; ρ = 1 with all documents."""
    priors, same_updates = Priors(0.5, 0.3), {"tol": 0.0, "most": 30}
    counts, _ = generate(30, 3, 20, run.rng, length=30, priors=priors)
    lam = start(3, 20, run.rng)
    options = {"doc_topic_prior": 0.5, "topic_word_prior": 0.3, "max_iter": 1}
    why = "their digamma is a series with an error of some 1e-9"
    same = run.against("sklearn's LatentDirichletAllocation", rtol=1e-6, why=why)
    theirs = topics_from(lam, updates=30, learning_method="batch", **options).fit(counts)
    whole = step(lam, counts, 30, 1.0, priors, **same_updates)
    same("topics, batch", whole, theirs.components_)
    options |= {"learning_decay": 0.7, "learning_offset": 1.0, "batch_size": 10}
    theirs = topics_from(lam, updates=30, learning_method="online", **options).fit(counts)
    ours = lam
    for t in range(3):
        rho = learning_rate(t + 1, 1.0, 0.7)
        ours = step(ours, counts[10 * t : 10 * t + 10], 30, rho, priors, **same_updates)
    same("topics, online", ours, theirs.components_)
    batch = priors.eta + local_step(counts, lam, priors.alpha, **same_updates)[1]
    exact = {"kind": "consistency", "why": "the same sums"}
    run.check("ρ = 1 with all documents", whole, batch, against="batch VB", **exact)


if __name__ == "__main__":
    cli(main)
