"""What is measured about the pipeline: extraction, filters, splits, leaks, packing and mixing."""

import math
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week14.ngram import WittenBell
from week15.corpus import clean_lines, filter_documents, find_leaks, split_documents
from week15.deduplication import deduplicate, shingles
from week15.evidence.common import articles
from week15.evidence.corpus_pages import extraction
from week15.evidence.deduplication import all_similarities
from week15.packing import (
    PAD,
    draw_sources,
    expected_epochs,
    mixture_weights,
    pack_best_fit,
    pack_concat,
)

FRACTIONS = {"train": 0.9, "valid": 0.1}
NEAR, ORDER, BATCH = 0.8, 7, 16  # least similarity of near copies; of the n-gram; documents


def main(
    run: Run, *, data: Literal["auto", "pydocs"] = "auto", row_length: PositiveInt = 512
) -> None:
    """Take pages through the whole pipeline, check each step, and leak on purpose.

    Parameters
    ----------
    data
        Wikipedia if it has been fetched, or always Python's manual.
    row_length
        Tokens of a packed row.
    """
    documents, _ = articles(run, data)
    documents = run.budget(quick=documents[:40], default=documents)
    passages = prose(documents)
    extraction(run, passages)
    filters(run, documents)
    splits(run, passages)
    manual_leaks(run)
    leaking(run, passages)
    texts = [" ".join(p) for p in sections(passages, run.rng)]
    packing(run, texts, row_length)
    mixing(run)
    order(run, texts)


def prose(documents: Sequence[datasets.Document]) -> list[str]:
    """Different paragraphs of at least 25 words, each on one line."""
    parts = (p for d in documents for p in re.split(r"\n\n|(?<=[.!?])\n", d.text))
    return list(dict.fromkeys(" ".join(p.split()) for p in parts if len(p.split()) >= 25))


def filters(run: Run, documents: list[datasets.Document]) -> None:
    """What falls of real text, and to which rule."""
    texts = [d.text for d in documents]
    kept, removed = filter_documents(texts)
    run.say("removed: " + ", ".join(f"{rule} {len(hits)}" for rule, hits in removed.items()))
    run.metric("documents that pass the page rules", 100 * len(kept) / len(texts), "%")
    cleaned = [clean_lines(text) for text in texts]
    n_kept = sum(len(text.splitlines()) for text, _ in cleaned)
    n_gone = {rule: sum(len(gone[rule]) for _, gone in cleaned) for rule in cleaned[0][1]}
    share = 100 * n_gone["no end mark"] / (n_kept + sum(n_gone.values()))
    run.metric("lines without an end mark", share, "%")


# ---- splits and leaks


def splits(run: Run, passages: list[str]) -> None:
    """Sizes as drawn, and nobody moves when the corpus grows."""
    texts = [f"{n} {p}" for n, p in enumerate(passages)]
    split = split_documents(texts, FRACTIONS, salt=str(run.seed))
    n, why = len(texts), "4 binomial standard deviations"
    drawn = run.against("binomial", kind="theorem", atol=4 * math.sqrt(0.09 / n), why=why)
    drawn("share of documents in validation", len(split["valid"]) / n, 0.1)
    half = texts[::2]
    before = {half[i] for i in split_documents(half, FRACTIONS, salt=str(run.seed))["valid"]}
    after = {texts[i] for i in split["valid"]} & set(half)
    name = "when documents are added, none moves between the splits"
    rule = {"at_most": 0, "deterministic": True, "unit": f"documents of {len(before)} moved"}
    run.claim(name, len(before ^ after), **rule)
    small, large = (
        set(np.random.default_rng(run.seed).permutation(t)[: len(t) // 10].tolist())
        for t in (half, texts)
    )
    run.falsifier("a shuffle by a fixed seed", len(small - large), breaks=name)


def manual_leaks(run: Run) -> None:
    """Documents that quote each other: what Jaccard overlooks."""
    texts = [d.text for d in datasets.pydocs()[: run.budget(quick=25, default=None)]]
    split = split_documents(texts, {"train": 0.8, "valid": 0.2})
    leaks = find_leaks(*([texts[i] for i in split[name]] for name in ("train", "valid")))
    found = {
        "": len(split["valid"]),
        " with a near copy in training": len(leaks.exact) + len(leaks.near),
        " mostly quoted in training": int((leaks.overlap > 0.5).sum()),
    }
    for which, n in found.items():
        run.metric(f"manual: validation topics{which}", n, "topics")


ARMS = ("rows, after packing", "documents, copies apart", "groups of near copies")


def leaking(run: Run, passages: list[str]) -> None:
    """Failure on display: three ways to hold out a tenth, and how far each flatters the model."""
    n, seeds = run.budget(quick=60, default=260), run.budget(quick=2, default=5)
    run.metric("corpora with near copies", seeds, "corpora", rtol=0)
    run.metric("order of the n-gram", ORDER, rtol=0)
    gaps: dict[str, list[float]] = {arm: [] for arm in ARMS}
    leaks: dict[str, list[int]] = {arm: [] for arm in ARMS[1:]}
    for seed in run.progress(range(run.seed, run.seed + seeds), "splits"):
        rng = np.random.default_rng(seed)
        texts, fresh = copied_corpus(rng, passages, n)
        codes, fresh_codes = encode(texts), encode(fresh)
        leader = deduplicate(texts, threshold=NEAR).leader
        similar = all_similarities([shingles(text) for text in texts])
        near = [pair for pair, s in similar.items() if s >= NEAR]
        for arm in ARMS:
            if arm == ARMS[0]:
                rows = pack_concat(codes, 256, 0).tokens
                held = rng.permutation(len(rows)) < len(rows) // 10
                train, valid = rows[~held].ravel(), list(rows[held])
            else:
                groups = leader if arm == ARMS[2] else None
                split = split_documents(texts, FRACTIONS, leader=groups, salt=str(seed))
                held = set(split["valid"])
                leaks[arm].append(len({i for i in held for p in near if i in p and set(p) - held}))
                train = np.concatenate([codes[i] for i in split["train"]])
                valid = [codes[i] for i in split["valid"]]
            model = WittenBell(ORDER, len(ALPHABET) + 1).fit(train)
            gaps[arm].append(loss(model, fresh_codes) - loss(model, valid))
    judge_leaks(run, {arm: np.array(values) for arm, values in gaps.items()}, leaks)


def judge_leaks(run: Run, gaps: dict[str, np.ndarray], leaks: dict[str, list[int]]) -> None:
    """Two rules for the losses and one for the copies; the picture."""
    for arm in ARMS:
        run.metric(f"flattery, split by {arm}", gaps[arm].mean(), "nats/char")
    rows, apart, groups = gaps.values()
    note = "loss on new text minus loss on validation"
    flatter = {"unit": "nats/char", "note": note, "quick": False}
    run.claim("splitting rows after packing leaks", rows, at_least=0.1, **flatter)
    run.falsifier("split by groups", groups, breaks="splitting rows after packing leaks")
    name, third = "splitting groups does not leak", {"at_least": -1 / 3, "at_most": 1 / 3}
    third |= {"unit": "of the flattery of rows", "seen_before": "the means, on these corpora"}
    run.claim(name, groups / rows, quick=False, **third)
    run.falsifier("documents, copies apart", apart / rows, breaks=name)
    name = "after a split by groups no held-out document has a near copy in training"
    run.claim(name, leaks[ARMS[2]], at_most=0, unit="documents per corpus")
    run.falsifier("documents one by one", leaks[ARMS[1]], breaks=name)
    title = "How much better does a model look than it is?"
    with run.figure("leak", title, size=(8.3, 3.4)) as axes:
        rows = {f"split by\n{arm}": gaps[arm] for arm in ARMS}
        labels = {"xlabel": "loss on new text minus loss on validation (nats/character)"}
        colors = (plots.ORANGE, plots.YELLOW, plots.BLUE)
        plots.bars(axes, rows, colors=colors, reference={"honest": 0}, **labels)


def copied_corpus(
    rng: np.random.Generator, passages: list[str], n: int
) -> tuple[list[str], list[str]]:
    """Passages of 150 words, every second with an edited copy; and others that have none."""
    words = [w for i in rng.permutation(len(passages))[:1500] for w in passages[i].split()]
    n = min(n, len(words) // 250)
    cut = [words[150 * i : 150 * (i + 1)] for i in range(n + n // 4)]
    cut = [cut[i] for i in rng.permutation(len(cut))]  # new text from everywhere, like the rest
    fresh, base, tails = cut[: n // 4], cut[n // 4 :], words[150 * (n + n // 4) :]
    kept = 140  # of 150 words; the tail of the copy is other, real text
    copies = [d[:kept] + tails[10 * i : 10 * (i + 1)] for i, d in enumerate(base[::2])]
    texts = [" ".join(words) for words in (*base, *copies)]
    return [texts[i] for i in rng.permutation(len(texts))], [" ".join(words) for words in fresh]


ALPHABET = "\n abcdefghijklmnopqrstuvwxyz0123456789.,;:'\"()-"


def encode(texts: list[str]) -> list[np.ndarray]:
    """Letters as numbers from 1 on; 0 is everything else, and the separator."""
    table = {char: i for i, char in enumerate(ALPHABET, 1)}
    return [np.array([table.get(c, 0) for c in text.lower()], dtype=np.int64) for text in texts]


def loss(model: WittenBell, rows: list[np.ndarray]) -> float:
    """Nats a character, over all rows."""
    values = np.concatenate([model.log_probs(row) for row in rows if len(row) >= model.order])
    return -float(values.mean())


# ---- packing


def packing(run: Run, texts: list[str], row_length: int) -> None:
    """Nothing lost, and what each way costs."""
    sizes = np.array([len(text.split()) for text in texts])
    ends = np.cumsum(sizes)  # every token has its own number, so a lost one shows
    documents = [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    separator = int(ends[-1])
    lengths = run.budget(quick=[128, 256], default=[128, 256, 512, 1024, 2048])
    lengths = sorted({*lengths, row_length})
    cut: dict[str, list[float]] = {"concatenated": [], "best fit": []}
    expected = np.append(np.arange(separator), np.full(len(documents), separator))
    equal = run.against("the documents and a separator each", kind="theorem", why="identical")
    packed = {}
    for length in lengths:
        for name, way in zip(cut, (pack_concat, pack_best_fit), strict=True):
            found = way(documents, length, separator)
            cut[name].append(100 * found.n_truncated / len(documents))
            packed[name, length] = found
    best, glued = (packed[name, row_length] for name in ("best fit", "concatenated"))
    for name, found in (("concatenated", glued), ("best fit", best)):
        equal(f"every token once, {name}", np.sort(found.tokens[found.segments != PAD]), expected)
        run.metric(f"documents cut, {name}", cut[name][lengths.index(row_length)], "%")
    run.metric("padding, best fit", 100 * best.waste, "%")
    used = np.minimum(1, (sizes + 1) / row_length)
    run.metric("padding, one document a row", 100 * (1 - used.mean()), "%")
    run.metric("length of a row", row_length, "words", rtol=0)
    run.metric("documents in a batch", BATCH, "documents", rtol=0)

    longer = int((sizes + 1 > row_length).sum())
    name = "best fit cuts only documents longer than a row"
    rule = {"at_most": 0, "deterministic": True, "unit": "documents more than those"}
    run.claim(name, best.n_truncated - longer, **rule)
    run.falsifier("concatenated", glued.n_truncated - longer, breaks=name)
    with run.figure("packing", "How many documents are cut in two?") as axes:
        must = [100 * np.mean(sizes + 1 > n) for n in lengths]
        axes.plot(lengths, must, color=plots.GRAY, lw=9, alpha=0.35, label="longer than a row")
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{n:,}" for n in lengths])
        labels = {"xlabel": "length of a row (words)", "ylabel": "documents cut (%)"}
        colors = (plots.ORANGE, plots.BLUE)
        plots.curves(axes, lengths, cut, colors=colors, marker="o", ends=False, **labels)


def sections(passages: list[str], rng: np.random.Generator) -> list[list[str]]:
    """Documents of one to many paragraphs, long-tailed as on the web."""
    found, at = [], 0
    while at < min(len(passages), 3000):
        n = 1 + int(rng.pareto(1.1) * 1.5)
        found.append(passages[at : at + min(n, 60)])
        at += min(n, 60)
    return found


# ---- mixing and order


def mixing(run: Run) -> None:
    """Weights are a softmax; sources are drawn as often as asked for, the same from anywhere."""
    from scipy.special import softmax
    from scipy.stats import chi2

    sizes = np.array([8_000_000, 900_000, 100_000, 10_000])
    n = run.budget(quick=5000, default=40_000)
    statistic, weights = [], {}
    for temperature in (1.0, 2.0, 5.0):
        weights[temperature] = mixture_weights(sizes, temperature)
        expected = n * weights[temperature]
        drawn = draw_sources(weights[temperature], run.seed, np.arange(n))
        counts = np.bincount(drawn, minlength=len(sizes))
        statistic.append(((counts - expected) ** 2 / expected).sum())
    equal = run.against("scipy.special.softmax", rtol=1e-12, why="float64 rounding")
    reference = [softmax(np.log(sizes) / temperature) for temperature in weights]
    equal("weights at 3 temperatures", list(weights.values()), reference)
    why = "the statistic may reach its 99.99 % quantile"
    drawn = run.against("χ² with 3 degrees of freedom", kind="theorem", atol=1.0, why=why)
    drawn("χ² of the sources drawn / quantile", statistic / chi2.ppf(1 - 1e-4, 3), np.zeros(3))
    epochs = expected_epochs(weights[2.0], sizes, int(sizes.sum()))
    run.metric("epochs of the smallest source, T = 2", epochs[-1], "epochs", rtol=1e-6)
    run.metric("epochs of the largest source, T = 2", epochs[0], "epochs", rtol=1e-6)


def order(run: Run, texts: list[str]) -> None:
    """What batches of alike lengths save."""
    lengths = np.array([float(len(text.split())) for text in texts])

    def padding(order: np.ndarray) -> float:
        batches = np.array_split(lengths[order], max(1, len(lengths) // BATCH))
        return 100 * (1 - lengths.sum() / sum(b.max() * len(b) for b in batches))

    by_length = padding(np.argsort(lengths, kind="stable"))
    shuffled = np.array([padding(run.rng.permutation(len(lengths))) for _ in range(5)])
    run.metric("padding of batches, by length", by_length, "%")
    run.metric("padding of batches, at random", shuffled.mean(), "%")
    name, unit = "order by length saves padding", "of the padding of a random order"
    run.claim(name, by_length / shuffled, at_most=2 / 3, unit=unit, quick=False)
    run.falsifier("another random order", shuffled[::-1] / shuffled, breaks=name)
