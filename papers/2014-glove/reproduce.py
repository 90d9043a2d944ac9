r"""Are pairs better weighted by a power of 3/4 of their count, and do differences give ratios?

GloVe minimizes $\sum f(X_{ij}) (w_i^\top \tilde w_j + b_i + \tilde b_j - \log X_{ij})^2$ with
$f(x) = \min(1, (x / x_{\max})^\alpha)$. The paper found $\alpha = 3/4$ modestly better than 1.

Reduced: a part of WikiText-2 instead of 6 billion tokens, $x_{\max}$ at the 99th percentile of the
counts, and twins instead of analogies: words are split by a coin into two that keep the same
company, and each should be the other's neighbor. Each arm chooses its rate on another part of
WikiText-2 and another seed. The rules stand in the front matter of README.md.

    uv run papers/2014-glove/reproduce.py

Pennington, Socher and Manning (2014), "GloVe: Global Vectors for Word Representation", section 3.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.linalg import svds

from shared import papers, plots
from shared.datasets import wikitext2
from shared.study import PositiveInt, Run, cli
from week12.glove import GloVe, cooccurrence
from week12.word2vec import read
from week12.word_tests import draw_bands, reciprocal_ranks, split_twins

WINDOW = 5


class Table(NamedTuple):
    """Counts to fit, entries held out of them, and the pairs of twins."""

    counts: sparse.csr_array
    held: sparse.coo_array
    first: Int[np.ndarray, " pair"]
    second: Int[np.ndarray, " pair"]


def table_of(text: str, edges: list[int], n: int, seed: int) -> Table:
    """Count a text with split words; a tenth of the entries of at least 2 is held out."""
    lines = [[w for w in line.lower().split() if w != "<unk>"] for line in text.split("\n")]
    corpus = read([line for line in lines if line])
    generator = torch.Generator().manual_seed(40_000 + seed)
    chosen = torch.cat(draw_bands(corpus.counts, edges, n, generator))
    corpus, second = split_twins(corpus, chosen, generator)
    x = cooccurrence(corpus.tokens, corpus.sentence, len(corpus.words), window=WINDOW).tocoo()
    out = (np.random.default_rng(seed).random(x.nnz) < 0.1) & (x.data >= 2)

    def part(of: np.ndarray) -> sparse.coo_array:
        return sparse.coo_array((x.data[of], [place[of] for place in x.coords]), shape=x.shape)

    return Table(part(~out).tocsr(), part(out), chosen.numpy(), second.numpy())


def mixed(table: Table, seed: int) -> Table:
    """The same pairs, in the table and held out, with counts exchanged among those of each."""
    rng = np.random.default_rng(seed)
    counts = table.counts.copy()
    counts.data = rng.permutation(counts.data)
    return table._replace(counts=counts)


def mrr(vectors: Float[np.ndarray, "vocab dim"], table: Table) -> float:
    """Mean reciprocal rank of the twins, both ways."""
    if not np.isfinite(vectors).all():  # a rate too high
        return 0.0
    ways = (table.first, table.second), (table.second, table.first)
    return float(np.mean([reciprocal_ranks(vectors, *way) for way in ways]))


def ratios(
    model: GloVe, held: sparse.coo_array
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Log-ratios of held-out counts with one context, by the vectors and by the counts."""
    row, column = held.coords
    order = np.argsort(column, kind="stable")
    i, j = order[:-1], order[1:]  # neighbors in this order share a context, or are left out
    same = column[i] == column[j]
    i, j = i[same], j[same]
    w, c = model.words.numpy(), model.contexts.numpy()
    k = column[i]
    product = ((w[row[i], :-1] - w[row[j], :-1]) * c[k, :-1]).sum(axis=1)
    fitted = product + w[row[i], -1] - w[row[j], -1]
    return fitted, np.log(held.data[i]) - np.log(held.data[j])


def train(
    table: Table, alpha: float, lr: float, matter: dict, dim: int, epochs: int, seed: int
) -> GloVe:
    """Fit the table; alpha = 0 weighs all pairs alike."""
    generator = torch.Generator().manual_seed(seed)
    model = GloVe(table.counts.shape[0], dim, lr=lr, generator=generator)
    x_max = float(np.percentile(table.counts.data, matter["percentile"]))
    options = {"epochs": epochs, "x_max": x_max, "alpha": alpha, "generator": generator}
    model.fit(table.counts, **options)
    return model


def tune(table: Table, matter: dict, dim: int, epochs: int) -> dict[float, float]:
    """The best rate of each power by the twins of the tuning text."""
    best = {}
    for alpha in [0.0, *matter["alphas"]]:
        scores = {}
        for lr in matter["lrs"]:
            model = train(table, alpha, lr, matter, dim, epochs, 7000)
            scores[lr] = mrr(model.vectors.numpy(), table)
        best[alpha] = max(scores, key=scores.get)
    return best


def main(run: Run, *, seeds: PositiveInt = 4, dim: PositiveInt = 50) -> None:
    """Fit with four weightings, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Seeds of the verdict; rates are chosen with another.
    dim
        Length of the vectors.
    """
    paper = papers.load(__file__)
    matter = paper.matter
    check(run)
    epochs, n = run.budget(quick=1, default=5, full=15), run.budget(quick=20, default=100)
    size = run.budget(quick=60_000, default=700_000, full=2_000_000)
    seeds = run.budget(quick=1, default=seeds, full=max(seeds, 8))
    matter["lrs"] = run.budget(quick=matter["lrs"][1:3], default=matter["lrs"])
    tuning = table_of(wikitext2("valid")[: size // 2], matter["edges"], n, 7000)
    rates = tune(tuning, matter, dim, epochs)
    edge = sum(lr in (matter["lrs"][0], matter["lrs"][-1]) for lr in rates.values())
    note = ", ".join(f"{lr} at alpha = {alpha:g}" for alpha, lr in rates.items())
    once = {"deterministic": True, "quick": False, "note": note}
    run.claim("best rates on the grid's edge", edge, at_most=0, **once)

    text, scores = wikitext2("test")[:size], {alpha: [] for alpha in rates}
    right, wrong, bound = [], [], []
    for seed in range(run.seed, run.seed + seeds):
        table = table_of(text, matter["edges"], n, seed)
        for alpha, lr in rates.items():
            model = train(table, alpha, lr, matter, dim, epochs, seed)
            scores[alpha].append(mrr(model.vectors.numpy(), table))
            if alpha == 0.75:
                fitted = ratios(model, table.held)
                right.append(np.corrcoef(*fitted)[0, 1])
        shuffled = train(mixed(table, seed), 0.75, rates[0.75], matter, dim, epochs, seed)
        wrong.append(np.corrcoef(*ratios(shuffled, table.held))[0, 1])
        logs = table.counts.astype(np.float64)
        logs.data = np.log(logs.data)
        left, size_of, _ = svds(logs, k=dim, random_state=seed)
        bound.append(mrr(left * size_of**0.5, table))
    judge(run, paper, {a: np.array(s) for a, s in scores.items()}, np.array(right), np.array(wrong))
    run.metric("SVD of the log-counts: MRR", np.mean(bound), "MRR", rtol=0.3)
    run.metric("held-out ratios", len(fitted[0]), "ratios")
    draw(run, matter, scores, fitted)


def judge(run: Run, paper, scores: dict, right: np.ndarray, wrong: np.ndarray) -> None:
    """All verdicts; one number per seed."""
    late = {"quick": False, "rtol": None}
    for alpha, values in scores.items():
        run.metric(f"MRR at alpha = {alpha:g}", values.mean(), "MRR", rtol=0.3)
    paper.judge(run, "weights are better than none", scores[0.75] - scores[0.0], **late)
    paper.judge(run, "3/4 is better than 1", scores[0.75] - scores[1.0], **late)
    ratio = "differences give ratios"
    paper.judge(run, ratio, right, **late)
    run.falsifier("counts exchanged among the pairs", wrong, breaks=ratio)
    run.claim("exchanged counts cost the ratios", right - wrong, at_least=0.5, **late)


def check(run: Run) -> None:
    """With all weights one and full rank, every count is fitted: the loss goes to 0."""
    rng = np.random.default_rng(run.seed)
    n = 6
    counts = sparse.csr_array(rng.integers(1, 50, (n, n)).astype(float))
    generator = run.generator()
    model = GloVe(n, n, lr=0.5, start=0.01, generator=generator)
    model.fit(counts, epochs=400, x_max=1.0, alpha=0.0, generator=generator)
    w, c = model.words.numpy(), model.contexts.numpy()
    fitted = w[:, :-1] @ c[:, :-1].T + w[:, -1:] + c[:, -1]
    why = {"kind": "theorem", "why": "AdaGrad has nearly come to rest", "atol": 0.05}
    logs = np.log(counts.toarray())
    run.check("full rank: fitted log-counts", fitted, logs, against="all log-counts", **why)


def draw(run: Run, matter: dict, scores: dict, fitted: tuple) -> None:
    """The paper's ratios on the left, our twins and held-out ratios beside them."""
    title = "Do powers of the count help, and do differences give ratios?"
    widths = {"width_ratios": [1, 1.1, 1.1]}
    with run.figure("weights", title, columns=3, size=(11.5, 4.0), **widths) as axes:
        label = "P(k | ice) / P(k | steam)\n(the paper, from memory)"
        plots.bars(
            axes[0], matter["paper_ratios"], colors=(plots.GRAY,), xlabel=label, xscale="log"
        )
        names = {0.0: "all alike", 0.5: "α = 1/2", 0.75: "α = 3/4", 1.0: "α = 1"}
        values = {names[alpha]: rows for alpha, rows in scores.items()}
        inks = (plots.ORANGE, plots.SKY, plots.BLUE, plots.SKY)
        plots.bars(axes[1], values, colors=inks, xlabel="MRR of the twin")
        some = np.random.default_rng(0).permutation(len(fitted[0]))[:1500]
        ends = [min(x.min() for x in fitted), max(x.max() for x in fitted)]
        axes[2].plot(ends, ends, "--", color=plots.REFERENCE, lw=1)
        axes[2].plot(fitted[1][some], fitted[0][some], ".", ms=2, color=plots.BLUE)
        axes[2].set(xlabel="log-ratio of held-out counts", ylabel="by the vectors")


if __name__ == "__main__":
    cli(main)
