"""What is measured about deduplication: exact Jaccard, datasketch, the S-curve, broken hashing."""

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week15.deduplication import (
    MERSENNE,
    MinHash,
    candidate_pairs,
    choose_bands,
    deduplicate,
    jaccard,
    multiply_mod,
    s_curve,
    shingles,
)

THRESHOLD, N_HASHES = 0.8, 128


# ---- data


def on_disk(name: str, n_files: int | None = None) -> bool:
    """Whether the (first) files of a data set need no download."""
    files = datasets.registry()[name].files[:n_files]
    return all((datasets.cache_dir() / file.path).exists() for file in files)


def paragraphs(run: Run, data: str) -> tuple[list[str], str]:
    """Paragraphs of at least 15 words in order, and where they are from."""
    if data == "auto" and on_disk("wikipedia", 4):
        texts = [document.text for document in datasets.wikipedia(run.budget(quick=1, default=4))]
        cut, source = "\n", "Wikipedia"
    else:
        texts, cut, source = [d.text for d in datasets.pydocs()], "\n\n", "Python's manual"
        if data == "auto":
            run.say("Wikipedia is not on disk (study fetch wikipedia); Python's manual instead")
    return [p for text in texts for p in text.split(cut) if len(p.split()) >= 15], source


def edited(words: list[str], similarity: float, tag: str, width: int = 5) -> list[str]:
    """A copy whose last words are new: m shingles each, L of them lost, so J = (m - L)/(m + L)."""
    m = len(words) - width + 1
    lost = round(m * (1 - similarity) / (1 + similarity))
    return [*words[: len(words) - lost], *(f"{tag}x{n}" for n in range(lost))]


def planted_corpus(run: Run, passages: Iterable[str], n: int, seed: int) -> list[str]:
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


# ---- checks


def check_arithmetic(run: Run) -> None:
    """Products and polynomials against Python's unbounded integers."""
    edge = [0, 1, 2**30, 2**31 - 1, 2**31, 2**60, MERSENNE - 2, MERSENNE - 1]
    values = edge + [int(v) for v in run.rng.integers(0, MERSENNE, 200)]
    array = np.array(values, dtype=np.uint64)
    run.check(
        "products modulo 2^61 - 1",
        multiply_mod(array[:, None], array[None, :]),
        np.array([[a * b % MERSENNE for b in values] for a in values], dtype=np.uint64),
        against="Python's integers of any length",
        atol=0,
        why="integers: identical",
    )
    hasher = MinHash(16, seed=run.seed, independence=3)
    a, b, c = ([int(v) for v in row] for row in hasher.coefficients)
    exact = [min((a[k] * x * x + b[k] * x + c[k]) % MERSENNE for x in values) for k in range(16)]
    run.check(
        "signature of 208 numbers, polynomials of degree 2",
        hasher.signature(array),
        np.array(exact, dtype=np.uint64),
        against="the definition in Python's integers",
        atol=0,
        why="integers: identical",
    )
    words = [f"w{i}" for i in range(124)]
    planned = [(120 - lost) / (120 + lost) for lost in (0, 7, 40, 119)]
    measured = [
        jaccard(shingles(" ".join(words)), shingles(" ".join(edited(words, s, "new"))))
        for s in planned
    ]
    run.check(
        "Jaccard of edited copies",
        np.array(measured),
        np.array(planned),
        against="(m - L)/(m + L), as planted",
        atol=1e-15,
        why="one division in float64",
    )


def random_pair(rng: np.random.Generator, similarity: float, size: int = 120):
    """Two sets of numbers below 2^32 with a known similarity."""
    lost = round(size * (1 - similarity) / (1 + similarity))
    numbers = rng.choice(2**32, size + lost, replace=False).astype(np.uint64)
    return np.sort(numbers[:size]), np.sort(numbers[lost:]), (size - lost) / (size + lost)


def estimator(run: Run) -> None:
    """Bias and variance of the estimate at many similarities, ours and datasketch's."""
    from datasketch import MinHash as Theirs

    n = run.budget(quick=8, default=100)
    levels = [0.05, 0.15, 0.3, 0.45, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    bands, rows = choose_bands(N_HASHES, THRESHOLD, 0.99)
    truth, hit, spread, broken, z, theirs_z = [], [], [], [], [], []
    for level in run.progress(levels, "pairs of known similarity"):
        estimates, hits, alike = [], 0, []
        for i in range(n):
            a, b, s = random_pair(run.rng, level)
            hasher = MinHash(N_HASHES, seed=1000 * run.seed + i)
            pair = np.stack([hasher.signature(a), hasher.signature(b)])
            estimates.append(float(np.mean(pair[0] == pair[1])))
            alike.append(float(pair[0, 0] == pair[1, 0]))  # one function, 128 times over
            hits += len(candidate_pairs(pair, bands, rows))
            theirs = [Theirs(N_HASHES, seed=i + 1, hashfunc=int) for _ in range(2)]
            for signature, numbers in zip(theirs, (a, b), strict=True):
                signature.update_batch(numbers.tolist())
            theirs_z.append((theirs[0].jaccard(theirs[1]) - s) / math.sqrt(s * (1 - s) / N_HASHES))
        z += [(e - s) / math.sqrt(s * (1 - s) / N_HASHES) for e in estimates]
        truth.append(s)
        hit.append(hits)
        spread.append(np.std(estimates, ddof=1))
        broken.append(np.std(alike, ddof=1))
    total = len(z)
    run.check(
        "mean error of the estimate / its standard deviation",
        float(np.mean(z)),
        0.0,
        against="theory: unbiased",
        atol=4 / math.sqrt(total),
        why=f"4 standard errors of {total} pairs",
    )
    run.check(
        "variance of the estimate / (s(1 - s)/k)",
        float(np.mean(np.square(z))),
        1.0,
        against="theory: binomial",
        atol=4 * math.sqrt(2 / total),
        why=f"4 standard errors of {total} squares",
    )
    run.check(
        "variance of the estimate, ours less datasketch's",
        float(np.mean(np.square(z))),
        float(np.mean(np.square(theirs_z))),
        against="datasketch.MinHash",
        atol=4 * math.sqrt(4 / total),
        why="4 standard errors of a difference",
    )
    truth, hit = np.array(truth), np.array(hit)
    theory = s_curve(truth, bands, rows)
    deviation = (hit - n * theory) / np.sqrt(np.maximum(n * theory * (1 - theory), 1))
    run.check(
        "candidates at 13 similarities, in standard deviations",
        deviation,
        np.zeros(len(truth)),
        against="1 - (1 - s^r)^b",
        atol=4.5,
        why="binomial noise: 1 in 10,000 runs",
    )
    draw_s_curve(run, truth, hit, n, bands, rows)
    draw_spread(run, truth, spread, broken)


def draw_s_curve(run: Run, truth, hit, n: int, bands: int, rows: int) -> None:
    """Theory as lines, measured shares with Wilson intervals on top."""
    s = np.linspace(0, 1, 400)
    with run.figure("s_curve", "Which pairs does banding look at?") as axes:
        for b, r, color in ((64, 2, plots.SKY), (8, 16, plots.ORANGE)):
            axes.plot(s, s_curve(s, b, r), color=color, lw=1.5)
        axes.plot(s, s_curve(s, bands, rows), color=plots.BLUE)
        low, high = wilson(hit, n)
        share = hit / n
        axes.errorbar(
            truth, share, yerr=[share - low, high - share],
            fmt="o", ms=5, color=plots.BLUE, capsize=2, lw=1,
        )  # fmt: skip
        axes.axvline(THRESHOLD, color=plots.REFERENCE, ls="--", lw=1)
        axes.text(THRESHOLD - 0.008, 0.5, "threshold", rotation=90, ha="right", va="center")
        axes.text(
            0.215, 0.86, "64 × 2: finds all,\ncompares far too many", color=plots.SKY, va="top"
        )
        axes.text(0.42, 0.33, f"{bands} × {rows}\n(chosen)", color=plots.BLUE, ha="right")
        axes.text(0.985, 0.4, "8 × 16:\nmisses\nmany", color=plots.ORANGE, ha="right")
        axes.set(
            xlabel="Jaccard similarity of the pair",
            ylabel="probability of being compared",
            xlim=(0, 1),
            ylim=(0, 1.03),
        )


def wilson(hits: np.ndarray, n: int, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """95 % score interval of shares: it stays within 0 and 1."""
    share = np.asarray(hits) / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.minimum(middle - half, share), np.maximum(middle + half, share)


def draw_spread(run: Run, truth, spread, broken) -> None:
    """Standard deviation of the estimate, and of one made of 128 equal functions."""
    s = np.linspace(0, 1, 200)
    title = "128 hash functions are worth 128 only if they are independent"
    with run.figure("spread", title) as axes:
        axes.plot(s, np.sqrt(s * (1 - s) / N_HASHES), color=plots.REFERENCE, ls="--", lw=1)
        axes.plot(s, np.sqrt(s * (1 - s)), color=plots.REFERENCE, ls="--", lw=1)
        axes.plot(truth, spread, "o", color=plots.BLUE)
        axes.plot(truth, broken, "o", color=plots.ORANGE)
        axes.text(0.5, 0.075, "128 functions", color=plots.BLUE, ha="center")
        axes.text(0.5, 0.43, "the same function 128 times", color=plots.ORANGE, ha="center")
        axes.text(0.5, 0.22, "dashed: theory, √(s(1 − s)/k)", color=plots.REFERENCE, ha="center")
        axes.set(
            xlabel="Jaccard similarity s of the pair",
            ylabel="standard deviation of the estimate",
            xlim=(0, 1),
            ylim=(0, 0.55),
        )


def check_lsh(run: Run, table: np.ndarray, bands: int, rows: int) -> None:
    """The same candidates as datasketch's index, given the same signatures."""
    from datasketch import MinHash as Theirs
    from datasketch import MinHashLSH

    table = table[:400]
    index = MinHashLSH(num_perm=N_HASHES, params=(bands, rows))
    theirs = set()
    for j, row in enumerate(table):
        signature = Theirs(N_HASHES)
        signature.hashvalues = row
        theirs.update((i, j) for i in index.query(signature))
        index.insert(j, signature)
    run.check(
        "candidate pairs of 400 documents",
        candidate_pairs(table, bands, rows),
        np.array(sorted(theirs)),
        against="datasketch.MinHashLSH on our signatures",
        atol=0,
        why="identical",
    )


# ---- claims


def recall(run: Run, passages: list[str], n: int) -> None:
    """Found and missed against all pairs, over several seeds; and what broken settings do."""
    bands, rows = choose_bands(N_HASHES, THRESHOLD, 0.99)
    seeds = range(run.seed, run.seed + run.budget(quick=2, default=3))
    settings = {"chosen": (bands, rows), "one row a band": (N_HASHES, 1), "too many rows": (8, 16)}
    found = {name: [] for name in (*settings, "one function")}
    compared = {name: [] for name in found}
    truth, right = 0, []
    for seed in run.progress(seeds, "all pairs"):
        corpus = planted_corpus(run, passages, n, seed)
        sets = [shingles(text) for text in corpus]
        exact = all_similarities(sets)
        near = {pair for pair, s in exact.items() if s >= THRESHOLD}
        truth += len(near)
        hasher = MinHash(N_HASHES, seed=seed)
        table = np.stack([hasher.signature(s) for s in sets])
        if seed == run.seed:
            check_lsh(run, table, bands, rows)
            report = deduplicate(corpus, threshold=THRESHOLD, seed=seed)
            measured = [exact[i, j] for i, j, _ in report.pairs]
            wrong = sum(s < THRESHOLD for s in measured)
            run.check(
                "similarity of the pairs that were removed",
                np.array([s for _, _, s in report.pairs]),
                np.array(measured),
                against="exact Jaccard by a sparse matrix product",
                atol=1e-15,
                why="one division in float64",
            )
        for name in found:
            b, r = settings.get(name, (bands, rows))
            signatures = np.repeat(table[:, :1], N_HASHES, 1) if name == "one function" else table
            pairs = set(map(tuple, candidate_pairs(signatures, b, r).tolist()))
            found[name].append(len(near & pairs) / len(near))
            compared[name].append(len(pairs))
        right.append(found["chosen"][-1])
    n_pairs = len(corpus) * (len(corpus) - 1) // 2
    interval = mean_interval(right) if len(set(right)) > 1 else f"{right[0]:.4f} in each"
    run.metric("recall", 100 * np.mean(right), "%", rtol=0.01)
    run.metric("pairs compared", np.mean(compared["chosen"]), "pairs", rtol=None)
    run.metric("share of all pairs compared", 100 * np.mean(compared["chosen"]) / n_pairs, "%",
               rtol=None)  # fmt: skip
    run.metric("pairs compared, one row a band", np.mean(compared["one row a band"]), rtol=None)
    run.metric("recall, the same function 128 times", 100 * np.mean(found["one function"]), "%",
               rtol=None)  # fmt: skip
    run.metric("recall, 8 bands of 16 rows", 100 * np.mean(found["too many rows"]), "%", rtol=None)
    run.claim(
        "recall is at least 0.99, and nothing below the threshold is removed",
        np.mean(right) >= 0.99 and wrong == 0,
        f"{len(seeds)} corpora of {len(corpus):,} documents, {truth:,} near-duplicate pairs, most "
        f"of them at {THRESHOLD} to 0.83: recall {interval}; {wrong} wrong pairs",
    )
    run.claim(
        "hash functions that are not independent lose recall (falsifier)",
        max(found["one function"]) < 0.95,
        "the same function 128 times: recall "
        + ", ".join(f"{value:.3f}" for value in found["one function"]),
    )
    run.claim(
        "too many rows a band miss what is there (falsifier)",
        max(found["too many rows"]) < 0.6,
        f"8 bands of 16 rows: recall {np.mean(found['too many rows']):.3f}; "
        f"theory at the threshold: {s_curve(np.array([THRESHOLD]), 8, 16)[0]:.3f}",
    )


def no_false_exact(run: Run, passages: list[str]) -> None:
    """Copies in other case or spacing are; one letter more, or a digest's collision, is none."""
    base = list(dict.fromkeys(passages))[: run.budget(quick=60, default=300)]
    base = [f"{n} {text}" for n, text in enumerate(base)]
    corpus = [*base, *(t.upper().replace(" ", "\t ") for t in base), *(t + "q" for t in base)]
    copies = list(range(len(base), 2 * len(base)))
    whole = deduplicate(corpus, threshold=0.999)
    poor = deduplicate(corpus, threshold=0.999, digest=lambda text: bytes([len(text) % 7]))
    trusting = deduplicate(
        corpus, threshold=0.999, digest=lambda text: bytes([len(text) % 7]), verify=False
    )
    false = len(set(trusting.exact) - set(copies))
    run.claim(
        "no false exact duplicate, even if the digest collides",
        whole.exact == copies and poor.exact == copies and false > 0,
        f"{len(copies)} planted copies: {len(whole.exact)} found with SHA-256, {len(poor.exact)} "
        f"with a digest of seven values; without comparing bytes that digest removes {false} "
        "different texts",
    )


def real_text(run: Run, passages: list[str], source: str) -> None:
    """What is there that nobody planted."""
    docs = [p for d in datasets.pydocs() for p in d.text.split("\n\n") if len(p.split()) >= 15]
    for name, texts in {"Python's manual": docs, source: passages}.items():
        report = deduplicate(texts, threshold=THRESHOLD)
        removed = len(texts) - len(report.kept)
        place = "the manual" if name == "Python's manual" else name
        run.metric(f"paragraphs of {place} removed", 100 * removed / len(texts), "%", rtol=None)
        run.say(f"{name}, paragraphs: {report}; {report.n_candidates} pairs compared")
        for gone, kept, s in report.examples[:2]:
            run.say(f"  {s:.2f}  {gone[:64]!r} ~ {kept[:64]!r}")


def show(run: Run, n: int, data: str) -> None:
    """Everything, in the order of the note."""
    passages, source = paragraphs(run, data)
    check_arithmetic(run)
    estimator(run)
    recall(run, passages, n)
    no_false_exact(run, passages)
    real_text(run, passages, source)


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
    show(run, run.budget(quick=min(n_documents, 300), default=n_documents), data)
