r"""Does leaving out frequent words make word2vec faster and rare words better?

A token of a word with frequency $f$ is kept with probability $\min(1, \sqrt{t/f} + t/f)$ before
windows are cut. What is dropped costs nothing, and what stays sees farther: the windows of rare
words reach over the gaps.

Reduced: a part of WikiText-2 instead of a billion words, and no analogies but **twins**. Words of
three bands of frequency are split by a coin, token by token, into two words that keep the same
company; good vectors make each the neighbor of the other. Both arms choose their rate, and the
subsampled one its threshold, on another part of WikiText-2 and other seeds. The rules stand in the
front matter of README.md.

    uv run papers/2013-word2vec/reproduce.py

Mikolov, Sutskever, Chen, Corrado and Dean (2013), arXiv:1310.4546, sections 1 and 2.3; Levy and
Goldberg (2014), "Neural Word Embedding as Implicit Matrix Factorization".
"""

import time
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr

from shared import papers, plots
from shared.datasets import wikitext2
from shared.study import PositiveInt, Run, cli
from week12.glove import cooccurrence
from week12.word2vec import Corpus, Word2Vec, noise_distribution, read
from week12.word_tests import draw_bands, reciprocal_ranks, split_twins

BANDS = ("rare", "middle", "frequent")


class Twins(NamedTuple):
    """A text with split words: its lines, both words of each pair and the band of each pair."""

    corpus: Corpus
    first: Int[np.ndarray, " pair"]
    second: Int[np.ndarray, " pair"]
    band: Int[np.ndarray, " pair"]


def twins_of(text: str, edges: list[int], n: int, seed: int) -> Twins:
    """Split n words of each band of the text's lower-cased words, punctuation included."""
    lines = [[w for w in line.lower().split() if w != "<unk>"] for line in text.split("\n")]
    corpus = read([line for line in lines if line])
    generator = torch.Generator().manual_seed(40_000 + seed)
    bands = draw_bands(corpus.counts, edges, n, generator)
    chosen = torch.cat(bands)
    split, second = split_twins(corpus, chosen, generator)
    band = np.repeat(np.arange(len(bands)), [len(b) for b in bands])
    both = (split.counts[chosen].minimum(split.counts[second]) > 0).numpy()  # a coin may fall so
    return Twins(split, chosen.numpy()[both], second.numpy()[both], band[both])


def mrr(vectors: Float[np.ndarray, "vocab dim"], twins: Twins) -> Float[np.ndarray, " band"]:
    """Mean reciprocal rank of the twins of each band, both ways."""
    if not np.isfinite(vectors).all():  # a rate too high
        return np.zeros(len(BANDS))
    both = reciprocal_ranks(vectors, twins.first, twins.second)
    both = (both + reciprocal_ranks(vectors, twins.second, twins.first)) / 2
    return np.array([both[twins.band == i].mean() for i in range(len(BANDS))])


class Arm(NamedTuple):
    """How a model is trained; `uniform` drops as many tokens, but of all words alike."""

    threshold: float | None
    lr: float
    epochs: float = 1.0
    uniform: bool = False


def train(twins: Twins, arm: Arm, dim: int, epochs: int, seed: int) -> tuple[Word2Vec, float]:
    """Train skip-gram with five noise words; the model and the seconds of an epoch."""
    generator, corpus = torch.Generator().manual_seed(seed), twins.corpus
    model = Word2Vec(corpus.counts, dim, threshold=arm.threshold, generator=generator)
    if arm.uniform:
        model.keep = torch.full_like(model.keep, float(kept(corpus, arm.threshold)))
    start, passes = time.perf_counter(), max(1, round(epochs * arm.epochs))
    model.fit(corpus, epochs=passes, lr=arm.lr, batch_size=64)
    return model, (time.perf_counter() - start) / passes


def kept(corpus: Corpus, threshold: float) -> float:
    """The share of tokens that subsampling keeps."""
    model = Word2Vec(corpus.counts, 1, threshold=threshold, generator=torch.Generator())
    return float(model.keep[corpus.tokens].mean())


def tune(twins: Twins, matter: dict, dim: int, epochs: int, seed: int) -> tuple[Arm, Arm, bool]:
    """The best arm without and with subsampling by the mean of the bands; one at an edge?"""
    best, edge = [], False
    for thresholds in ([None], matter["thresholds"]):
        arms = [Arm(t, lr) for t in thresholds for lr in matter["lrs"]]
        scores = [mrr(train(twins, a, dim, epochs, seed)[0].v.numpy(), twins).mean() for a in arms]
        best.append(arms[int(np.argmax(scores))])
        edge |= best[-1].lr in (matter["lrs"][0], matter["lrs"][-1])
    return best[0], best[1], edge


def shifted_pmi(model: Word2Vec, corpus: Corpus, least: int = 20) -> float:
    """Spearman's correlation of u·v with log (#(w, c) / (#(w) P(c))) - log k, frequent pairs."""
    n = len(corpus.words)
    place = corpus.tokens, corpus.sentence, n
    # a neighbor at distance d is within a reach drawn from 1 to 5 in (6 - d) of 5 cases
    tables = [cooccurrence(*place, window=w, harmonic=False) for w in range(1, 6)]
    seen, pairs = (sum(tables) / 5).tocoo(), tables[-1].tocoo()
    frequent = pairs.data >= least
    word, center = (place[frequent] for place in pairs.coords)
    x = seen.tocsr()
    counts = np.asarray(x[word, center]).ravel()
    by_word = np.asarray(x.sum(axis=1)).ravel()[word]
    noise = noise_distribution(corpus.counts).numpy()[center]
    pmi = np.log(counts / (by_word * noise)) - np.log(model.negative)
    products = (model.v.numpy()[word] * model.u.numpy()[center]).sum(axis=1)
    return float(spearmanr(products, pmi)[0])


def gensim_mrr(twins: Twins, arm: Arm, dim: int, epochs: int, seed: int) -> np.ndarray:
    """The same metric of gensim's vectors, lines in random order."""
    from gensim.models import Word2Vec as Gensim

    corpus = twins.corpus
    names = np.array([str(i) for i in range(len(corpus.words))])
    ends = np.flatnonzero(np.diff(corpus.sentence.numpy())) + 1
    lines = [line.tolist() for line in np.split(names[corpus.tokens.numpy()], ends)]
    np.random.default_rng(seed).shuffle(lines)
    options = {"sample": arm.threshold, "alpha": arm.lr, "min_alpha": arm.lr * 1e-4}
    options |= {"min_count": 1, "sg": 1, "workers": 1, "seed": seed + 1}
    found = Gensim(lines, vector_size=dim, epochs=epochs, **options).wv
    nothing = np.zeros(dim, np.float32)
    vectors = [found[name] if found.has_index_for(name) else nothing for name in names]
    return mrr(np.stack(vectors), twins)


def main(run: Run, *, seeds: PositiveInt = 4, dim: PositiveInt = 50) -> None:
    """Train with and without subsampling, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Seeds of the verdict; rates and the threshold are chosen with another.
    dim
        Length of the vectors.
    """
    paper = papers.load(__file__)
    matter = paper.matter
    epochs, n = run.budget(quick=1, default=3, full=10), run.budget(quick=20, default=100)
    size = run.budget(quick=60_000, default=500_000, full=2_000_000)
    seeds = run.budget(quick=1, default=seeds, full=max(seeds, 8))
    matter["lrs"] = run.budget(quick=matter["lrs"][2:4], default=matter["lrs"])
    tuning = twins_of(wikitext2("valid")[: size // 2], matter["edges"], n, 7000)
    plain, sub, edge = tune(tuning, matter, dim, epochs, 7000)
    note = f"rate {plain.lr} without, {sub.lr} with subsampling at {sub.threshold}"
    once = {"deterministic": True, "quick": False, "note": note}
    run.claim("best rates on the grid's edge", edge, at_most=0, **once)

    text = wikitext2("test")[:size]
    share = kept(tuning.corpus, sub.threshold)
    arms = {"whole text": plain, "subsampled": sub, "subsampled, equal pairs": sub}
    arms["subsampled, equal pairs"] = sub._replace(epochs=1 / share)
    arms["all words alike"] = sub._replace(uniform=True)
    found, seconds, theirs, pmi = {arm: [] for arm in arms}, {arm: [] for arm in arms}, [], []
    for seed in range(run.seed, run.seed + seeds):
        twins = twins_of(text, matter["edges"], n, seed)
        for name, arm in arms.items():
            model, took = train(twins, arm, dim, epochs, seed)
            found[name].append(mrr(model.v.numpy(), twins))
            seconds[name].append(took)
            if name == "whole text":
                pmi.append(shifted_pmi(model, twins.corpus))
        theirs.append(gensim_mrr(twins, sub, dim, epochs, seed))
    check(run, twins, sub)
    scores = {name: np.array(rows) for name, rows in found.items()}
    judge(run, paper, scores, seconds, np.array(theirs), pmi)
    run.metric("share of tokens kept", 100 * share, "%")
    chance = np.mean(1 / np.arange(1, len(twins.corpus.words)))
    run.metric("MRR of a random order", chance, "MRR")
    draw(run, matter, scores, seconds)


def check(run: Run, twins: Twins, arm: Arm) -> None:
    """The share that subsampling keeps, against its expectation."""
    corpus = twins.corpus
    f = corpus.counts.double() / corpus.counts.sum()
    keep = ((arm.threshold / f).sqrt() + arm.threshold / f).clamp(max=1)
    why = {"kind": "theorem", "why": "float32 rounding", "rtol": 1e-5}
    expected = float((f * keep).sum())
    found = kept(corpus, arm.threshold)
    run.check("share of tokens kept", found, expected, against="sum of f times keep", **why)


def judge(run: Run, paper, scores: dict, seconds: dict, theirs: np.ndarray, pmi: list) -> None:
    """All verdicts; scores are (seed, band)."""
    for name, rows in scores.items():
        for i, band in enumerate(BANDS):
            run.metric(f"{name}: {band}", rows[:, i].mean(), "MRR", rtol=0.3)
    faster = np.divide(seconds["whole text"], seconds["subsampled"])
    paper.judge(run, "an epoch is twice as fast", faster, quick=False, rtol=None)
    gain = {name: (rows - scores["whole text"])[:, 0] for name, rows in scores.items()}
    late = {"quick": False, "rtol": None}
    better = "rare words find their twins better"
    paper.judge(run, better, gain["subsampled"], **late)
    run.falsifier("all words dropped alike", gain["all words alike"], breaks=better)
    paper.judge(run, "also at equal pairs", gain["subsampled, equal pairs"], **late)
    apart = (scores["subsampled"] - theirs).mean(axis=1)
    paper.judge(run, "gensim's twins are as near", apart, **late)
    paper.judge(run, "products follow the shifted PMI", pmi, **late)


def draw(run: Run, matter: dict, scores: dict, seconds: dict) -> None:
    """The paper's minutes and accuracy on the left, our twins by band on the right."""
    title = "What does leaving out frequent words do?"
    with run.figure("bands", title, columns=2, size=(9.6, 4.2), width_ratios=[1, 2.4]) as axes:
        left, right = axes
        values = {"whole text": matter["paper_minutes"][0], "t = 1e-5": matter["paper_minutes"][1]}
        inks = (plots.ORANGE, plots.BLUE)
        label = "minutes, a billion words\n(the paper, from memory)"
        plots.bars(left, values, colors=inks, xlabel=label)
        for i, (name, rows) in enumerate(scores.items()):
            shift = np.arange(len(BANDS)) + 0.16 * (i - 1.5)
            seconds_of = f"{name} ({np.median(seconds[name]):.1f} s per epoch)"
            style = {"fmt": "o", "capsize": 3, "color": plots.COLORS[(1, 0, 2, 6)[i]]}
            mean, spread = rows.mean(axis=0), rows.std(axis=0)
            right.errorbar(shift, mean, spread, label=seconds_of, **style)
        right.set_xticks(range(len(BANDS)), BANDS)
        right.set(ylabel="MRR of the twin\n(mean, SD of seeds)", ylim=(0, None))
        right.legend()


if __name__ == "__main__":
    cli(main)
