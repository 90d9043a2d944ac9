"""What is measured about deduplication: exact Jaccard, datasketch, the S-curve, broken hashing."""

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week15.deduplication import deduplicate, shingles
from week15.evidence.common import articles
from week15.minhash import MinHash, candidate_pairs, choose_bands, s_curve

THRESHOLD, N_HASHES, RECALL = 0.8, 128, 0.99


def main(
    run: Run, *, n_documents: PositiveInt = 2000, data: Literal["auto", "pydocs"] = "auto"
) -> None:
    """Compare with exact Jaccard and datasketch, measure the S-curve, and break the hashing.

    Parameters
    ----------
    n_documents
        Documents of the test for recall, half of them edited copies.
    data
        Passages of Wikipedia if it has been fetched, or always those of Python's manual.
    """
    documents, source = articles(run, data)
    passages = long_paragraphs(documents, "\n" if source == "Wikipedia" else "\n\n")
    estimator(run)
    recall(run, passages, run.budget(quick=min(n_documents, 120), default=n_documents))
    real_text(run, passages, source)


def long_paragraphs(documents: Iterable[datasets.Document], cut: str) -> list[str]:
    """Those of at least 15 words, in order."""
    return [part for d in documents for part in d.text.split(cut) if len(part.split()) >= 15]


def edited(words: list[str], similarity: float, tag: str, width: int = 5) -> list[str]:
    """A copy whose last words are new: m shingles each, L of them lost, so J = (m - L)/(m + L)."""
    m = len(words) - width + 1
    lost = round(m * (1 - similarity) / (1 + similarity))
    return [*words[: len(words) - lost], *(f"{tag}x{n}" for n in range(lost))]


def random_pair(rng: np.random.Generator, similarity: float, size: int = 120):
    """Two sets of numbers below 2^32 with a known similarity."""
    lost = round(size * (1 - similarity) / (1 + similarity))
    numbers = rng.choice(2**32, size + lost, replace=False).astype(np.uint64)
    return np.sort(numbers[:size]), np.sort(numbers[lost:]), (size - lost) / (size + lost)


def estimator(run: Run) -> None:
    """Bias and variance of the estimate at many similarities."""
    n = run.budget(quick=5, default=100)
    levels = [0.05, 0.15, 0.3, 0.45, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    bands, rows = choose_bands(N_HASHES, THRESHOLD, RECALL)
    shape = (len(levels), n)
    ours, alike, hit = (np.zeros(shape) for _ in range(3))
    truth = np.zeros((len(levels), 1))
    for place in run.progress(list(np.ndindex(shape)), "pairs of known similarity"):
        *sets, truth[place[0]] = random_pair(run.rng, levels[place[0]])
        hasher = MinHash(N_HASHES, seed=1000 * run.seed + place[1])
        pair = np.stack([hasher.signature(numbers) for numbers in sets])
        ours[place] = np.mean(pair[0] == pair[1])
        alike[place] = pair[0, 0] == pair[1, 0]  # one function, 128 times over
        hit[place] = len(candidate_pairs(pair, bands, rows))
    spread = np.sqrt(truth * (1 - truth) / N_HASHES)
    z, total = (ours - truth) / spread, ours.size
    noise = run.against("binomial with s", kind="theorem", why=f"4 standard errors of {total}")
    noise("error of the estimate in standard deviations", z.mean(), 0.0, atol=4 / total**0.5)
    name = "variance of the estimate / (s(1 - s)/k)"
    noise(name, np.mean(z**2), 1.0, atol=4 * math.sqrt(2 / total))
    s, hits = truth[:, 0], hit.sum(axis=1)
    theory = s_curve(s, bands, rows)
    deviation = (hits - n * theory) / np.sqrt(np.maximum(n * theory * (1 - theory), 1))
    why = "binomial noise: 1 in 10,000 runs"
    curve = run.against("1 - (1 - s^r)^b", kind="theorem", atol=4.5, why=why)
    curve("candidates at 13 similarities, in standard deviations", deviation, np.zeros(len(s)))
    draw_s_curve(run, s, hits, n, (bands, rows))
    draw_spread(run, s, ours.std(axis=1, ddof=1), alike.std(axis=1, ddof=1))


def check_lsh(run: Run, table: np.ndarray, bands: int, rows: int) -> None:
    """The same candidates as datasketch's index, given the same signatures."""
    from datasketch import MinHash as Theirs
    from datasketch import MinHashLSH

    table = table[:400]
    index, theirs = MinHashLSH(num_perm=N_HASHES, params=(bands, rows)), set()
    for j, row in enumerate(table):
        signature = Theirs(N_HASHES)
        signature.hashvalues = row
        theirs.update((i, j) for i in index.query(signature))
        index.insert(j, signature)
    equal = run.against("datasketch", why="the same signatures: identical")
    equal("candidate pairs", candidate_pairs(table, bands, rows), sorted(theirs))


def all_similarities(sets: list[np.ndarray]) -> dict[tuple[int, int], float]:
    """Jaccard of all pairs that share anything, from one sparse product: the reference."""
    from scipy.sparse import csr_matrix, triu

    indptr = np.cumsum([0, *map(len, sets)])
    _, columns = np.unique(np.concatenate(sets), return_inverse=True)
    incidence = csr_matrix((np.ones(len(columns)), columns, indptr))
    shared = triu(incidence @ incidence.T, k=1).tocoo()
    size = np.diff(indptr)
    union = size[shared.row] + size[shared.col] - shared.data
    pairs = zip(shared.row.tolist(), shared.col.tolist(), strict=True)
    return dict(zip(pairs, (shared.data / union).tolist(), strict=True))


# ---- claims


def planted_corpus(passages: Iterable[str], n: int, seed: int) -> list[str]:
    """Half passages of 120 words, half edited copies: most of them right at the threshold."""
    words = [word for passage in passages for word in passage.split()]
    rng = np.random.default_rng(seed)
    starts = np.arange(0, len(words) - 120, 120)
    starts = rng.permutation(starts)[: n // 2]
    corpus = []
    for i, start in enumerate(starts):
        original = words[start : start + 120]
        level = rng.uniform(THRESHOLD, 0.83) if i % 2 else rng.uniform(0.2, 1)
        corpus += [" ".join(original), " ".join(edited(original, level, f"e{seed}q{i}"))]
    return [corpus[i] for i in rng.permutation(len(corpus))]


def recall(run: Run, passages: list[str], n: int) -> None:
    """Found and missed against all pairs, over several seeds; and what broken settings do."""
    bands, rows = choose_bands(N_HASHES, THRESHOLD, RECALL)
    settings = {"chosen": (bands, rows), "one function": (bands, rows), "too many rows": (8, 16)}
    found, compared = {name: [] for name in settings}, []
    seeds = range(run.seed, run.seed + run.budget(quick=3, default=5))
    for seed in run.progress(seeds, "all pairs"):
        corpus = planted_corpus(passages, n, seed)
        sets = [shingles(text) for text in corpus]
        exact = all_similarities(sets)
        near = {pair for pair, s in exact.items() if s >= THRESHOLD}
        hasher = MinHash(N_HASHES, seed=seed)
        table = np.stack([hasher.signature(s) for s in sets])
        same = np.repeat(table[:, :1], N_HASHES, 1)
        for name, (b, r) in settings.items():
            pairs = candidate_pairs(same if name == "one function" else table, b, r)
            found[name].append(100 * len(near & set(map(tuple, pairs.tolist()))) / len(near))
            if name == "chosen":
                compared.append(100 * len(pairs) / math.comb(len(corpus), 2))
        if seed == run.seed:
            check_lsh(run, table, bands, rows)
            nothing_wrong(run, corpus, exact, seed)
    run.metric("share of all pairs compared", np.mean(compared), "%")
    name = "recall"
    note = f"per corpus of {len(corpus):,} documents, most pairs just above {THRESHOLD}"
    run.claim(name, found["chosen"], at_least=100 * RECALL, unit="%", note=note)
    run.falsifier("the same function 128 times", found["one function"], breaks=name)
    run.falsifier("8 bands of 16 rows", found["too many rows"], breaks=name)


def nothing_wrong(run: Run, corpus: list[str], exact: dict, seed: int) -> None:
    """Whether what is removed is above the threshold, with and without exact similarities."""
    removed = deduplicate(corpus, threshold=THRESHOLD, seed=seed)
    trusting = deduplicate(corpus, threshold=THRESHOLD, seed=seed, verify=False)
    true = [[exact.get((i, j), 0.0) for i, j, _ in report.pairs] for report in (removed, trusting)]
    why = "one division in float64"
    equal = run.against("exact Jaccard by a sparse matrix product", atol=1e-15, why=why)
    equal("similarity of the pairs that were removed", [s for _, _, s in removed.pairs], true[0])
    name = "nothing below the threshold is removed"
    least = {"deterministic": True, "unit": "is the least similarity of a removed pair"}
    run.claim(name, min(true[0]), at_least=THRESHOLD, **least)
    run.falsifier("signatures believed", min(true[1]), breaks=name)


def real_text(run: Run, passages: list[str], source: str) -> None:
    """What is there that nobody planted."""
    manual = long_paragraphs(datasets.pydocs(), "\n\n")
    for place, texts in {"Python's manual": manual, source: passages}.items():
        texts = run.budget(quick=texts[:200], default=texts)
        report = deduplicate(texts, threshold=THRESHOLD)
        share = 100 * (1 - len(report.kept) / len(texts))
        run.metric(f"paragraphs of {place} removed", share, "%")
        run.say(f"{place}, paragraphs: {report}; {report.n_candidates} pairs compared")


# ---- figures


def draw_s_curve(run: Run, truth, hits, n: int, chosen: tuple[int, int]) -> None:
    """Theory as lines, measured shares with two standard errors as points."""
    s, share = np.linspace(0, 1, 400), hits / n
    error = 2 * np.sqrt(share * (1 - share) / n)
    lines = {f"{b} × {r}": s_curve(s, b, r) for b, r in ((64, 2), chosen, (8, 16))}
    with run.figure("s_curve", "Which pairs does banding look at?") as axes:
        labels = {"xlabel": "Jaccard similarity", "ylabel": "probability of being compared"}
        colors = (plots.SKY, plots.BLUE, plots.ORANGE)
        plots.curves(axes, s, lines, colors=colors, ends=False, **labels)
        axes.errorbar(truth, share, error, fmt="o", ms=5, color=plots.BLUE)
        axes.axvline(THRESHOLD, color=plots.REFERENCE, ls="--", lw=1)
        axes.legend(title="bands × rows (dashed: threshold)", loc=(0.18, 0.7))


def draw_spread(run: Run, truth, spread, broken) -> None:
    """Standard deviation of the estimate, and of one made of 128 equal functions."""
    s = np.linspace(0, 1, 200)
    title = "128 hash functions are worth 128 only if they are independent"
    with run.figure("spread", title) as axes:
        theory = {f"√(s(1 − s)/{k})": np.sqrt(s * (1 - s) / k) for k in (1, N_HASHES)}
        labels = {"xlabel": "Jaccard similarity s", "ylabel": "standard deviation of the estimate"}
        plots.curves(axes, s, theory, colors=(plots.REFERENCE,), ends=False, **labels)
        axes.plot(truth, broken, "o", color=plots.ORANGE, label="the same function 128 times")
        axes.plot(truth, spread, "o", color=plots.BLUE, label="128 functions")
        axes.legend()
