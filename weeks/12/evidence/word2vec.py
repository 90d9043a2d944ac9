"""word2vec beside gensim on the same text, and what its shortcuts do."""

import itertools
import math
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from gensim.models import Word2Vec as Gensim
from gensim.models.phrases import Phrases
from torch import Tensor

from shared import datasets, plots
from shared.evidence import Evidence
from shared.study import PositiveInt, Run
from week01.word_geometry import tokenize
from week12.word2vec import (
    Batch,
    Corpus,
    Word2Vec,
    contexts,
    huffman_paths,
    join_phrases,
    keep_probability,
    noise_distribution,
    read,
)
from week12.word_tests import analogies, similarity

LR = 0.05
NOISE, TREE, AS_IN_C, TRUE = "skip-gram, noise", "skip-gram, tree", "CBOW as in C", "CBOW"
CBOW = {"skip_gram": False}
ARMS = {NOISE: {}, TREE: {"negative": 0}, AS_IN_C: CBOW | {"as_in_c": True}, TRUE: CBOW}
SHUFFLED, IN_ORDER = "words in random order", "gensim, articles one by one"


def main(
    run: Run, *, dim: PositiveInt = 64, seeds: PositiveInt = 4, files: PositiveInt = 1
) -> None:
    """Train all kinds on Wikipedia and ask what people know; gensim does the same beside.

    Parameters
    ----------
    dim
        Length of the vectors.
    seeds
        Runs of each kind.
    files
        How many of the 20 files of Wikipedia articles are read (all with --full).
    """
    check_gradients(run)
    check_losses(run)
    lines = sentences_of(datasets.pydocs_text())
    check_text(run, lines[: run.budget(quick=600, default=2000)])
    check_epoch(run, lines[:150])
    articles = datasets.wikipedia(run.budget(quick=1, default=files, full=20))
    articles = articles[: run.budget(quick=3, default=None)]
    text = sentences_of("\n".join(article.text for article in articles))
    corpus = read(text)
    run.say(f"{len(corpus.tokens):,} tokens of {len(corpus.words):,} words")
    people(run, text, corpus, run.budget(quick=1, default=seeds), dim)
    batches(run, corpus, dim)


def sentences_of(text: str) -> list[list[str]]:
    """Lower-cased words, a list for each line that has some."""
    return [words for line in text.split("\n") if (words := tokenize(line))]


# ---- checks


def tables_by_autograd(model: Word2Vec, batch: Batch, lr: float) -> Tensor:
    """`v` above `u` after a step of SGD on the batch's loss, by autograd."""
    tables = [model.v.requires_grad_(), model.u.requires_grad_()]
    gradients = torch.autograd.grad(model.gradients(batch)[0], tables)
    model.v, model.u = (table.detach() for table in tables)
    return torch.cat([table - lr * g for table, g in zip(tables, gradients, strict=True)]).detach()


def random_model(counts: Tensor, generator: torch.Generator, **options) -> Word2Vec:
    """Tables of standard normal float64 numbers, so that nothing is small."""
    model = Word2Vec(counts, 5, window=2, threshold=None, generator=generator, **options)
    model.v, model.u = (
        torch.randn(len(counts), 5, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return model


def check_gradients(run: Run) -> None:
    """A step by hand against autograd, with repeated words, short sentences and padding."""
    corpus = read([["a", "b", "c", "a", "d", "b"], ["d"], ["c", "a"]], 1)
    equal = run.against("torch.autograd", atol=1e-12, why="float64 rounding")
    for name in (NOISE, TREE, TRUE):
        model = random_model(corpus.counts, run.generator(), **ARMS[name])
        batch = next(model.batches(corpus, 8))
        expected = tables_by_autograd(model, batch, 0.1)
        model.step(batch, 0.1)
        equal(f"{name}: a step of SGD", torch.cat([model.v, model.u]), expected)


def check_losses(run: Run) -> None:
    """By enumeration: the tree is a distribution; noise costs what its mean over words says."""
    counts, n_draws = torch.tensor([50, 30, 9, 4, 4, 2, 1]), run.budget(quick=4000, default=40_000)

    def ask(model: Word2Vec, centers: Tensor) -> Tensor:
        one = torch.full((len(centers), 1), 3)
        return model.gradients(Batch(one, one > 0, *model.questions(centers)))[0]

    exact = run.against("enumeration", kind="theorem", atol=1e-12, why="float64 rounding")
    model = random_model(counts, run.generator(), negative=0)
    p = torch.stack([ask(model, torch.tensor([i])) for i in range(7)]).neg().exp()
    exact("tree: p of all words", p.sum(), 1.0)
    exact("tree: Kraft's sum", (0.5 ** model.paths.mask.sum(1).double()).sum(), 1.0)
    model, word = random_model(counts, run.generator(1), negative=2), 4
    score = model.u @ model.v[3]
    against_noise = noise_distribution(counts) * (-score).sigmoid().log()
    against_noise[word] = 0  # noise that is the center asks nothing
    expected = -score[word].sigmoid().log() - 2 * against_noise.sum()
    found = ask(model, torch.full((n_draws,), word)) / n_draws
    exact("noise: mean loss of a center", found, expected, rtol=0.03, why="Monte Carlo")


def check_text(run: Run, text: list[list[str]]) -> None:
    """Subsampling, noise, the tree and phrases against gensim's."""
    corpus, theirs = read(text), Gensim(hs=1)
    theirs.build_vocab(text)
    counts, place = corpus.counts, [theirs.wv.key_to_index[word] for word in corpus.words]
    equal = run.against("gensim.models.Word2Vec", atol=1e-6, why="float32 rounding")
    kept = [theirs.wv.get_vecattr(word, "sample_int") / 2**32 for word in corpus.words]
    equal("subsampling: share kept", keep_probability(counts, 1e-3), np.array(kept))
    table = np.diff(theirs.cum_table.astype(float), prepend=0) / theirs.cum_table[-1]
    equal("noise: the 3/4 table", noise_distribution(counts), table[place])
    code = torch.tensor([len(theirs.wv.get_vecattr(word, "code")) for word in corpus.words])
    bits = [(counts * n).sum() / counts.sum() for n in (huffman_paths(counts).mask.sum(1), code)]
    equal("tree: mean length of a path", *bits)
    phrases = Phrases(text, min_count=5, threshold=10, connector_words=frozenset())
    # gensim's score has the number of its entries where the C code's has the number of words
    threshold = 10 * sum(map(len, text)) / len(phrases.vocab)
    ours = join_phrases(text, min_count=5, threshold=threshold)
    same = np.array([a == b for a, b in zip(ours, phrases[text], strict=True)])
    exact = {"against": "gensim.models.phrases.Phrases", "why": "exact"}
    run.check("phrases: lines that are the same", same, np.ones(len(same), bool), **exact)


def sigmoid_of_gensim(score: Tensor) -> Tensor:
    """Look σ up as gensim and the C code do: 1000 values, at int((s + 6) * (1000 / 6 / 2)).

    The division is of integers, 83 and not 83.3, so that 0 finds the σ of -0.024.
    """
    table = (torch.arange(1000) / 1000 * 12 - 6).sigmoid()
    return table[((score + 6) * 83).long().clamp(0, 999)]


def check_epoch(run: Run, text: list[list[str]]) -> None:
    """CBOW through the tree, one center after another: with a window of 1 nothing is random."""
    options = {"sg": 0, "hs": 1, "negative": 0, "sample": 0, "alpha": LR, "min_alpha": LR}
    theirs = Gensim(vector_size=8, window=1, min_count=2, workers=1, **options)
    theirs.build_vocab(text)
    corpus = read(text, 2)
    place = [theirs.wv.key_to_index[word] for word in corpus.words]
    start = torch.tensor(theirs.wv.vectors[place])
    options = ARMS[AS_IN_C] | {"negative": 0, "window": 1, "threshold": None}
    ours = Word2Vec(corpus.counts, 8, generator=run.generator(), **options)
    for word, nodes, codes, mask in zip(corpus.words, *ours.paths, strict=True):
        theirs.wv.set_vecattr(word, "point", nodes[mask].numpy().astype(np.uint32))
        theirs.wv.set_vecattr(word, "code", codes[mask].numpy().astype(np.uint8))
    theirs.train(text, total_examples=len(text), epochs=1)
    expected, ends = torch.tensor(theirs.wv.vectors[place]), []
    for sigmoid in (sigmoid_of_gensim, torch.sigmoid):
        ours.v, ours.u = start.clone(), torch.zeros_like(start)
        with mock.patch("week12.word2vec.sigmoid", sigmoid):
            for center in torch.arange(len(corpus.tokens))[:, None]:
                beside, mask = contexts(center, corpus.sentence, 1)
                if mask.any():
                    asked = ours.questions(corpus.tokens[center])
                    ours.step(Batch(corpus.tokens[beside], mask, *asked), LR)
        ends.append(ours.v)
    rounding = {"atol": 1e-5, "against": "gensim.models.Word2Vec", "why": "float32 rounding"}
    run.check("CBOW, tree: an epoch with gensim's σ", ends[0], expected, **rounding)
    apart = (ends[1] - expected).norm() / (expected - start).norm()
    run.metric("gensim's σ(0)", sigmoid_of_gensim(torch.zeros(1)).item())
    run.metric("an epoch with the exact σ departs by", 100 * apart, "% of the movement", rtol=0.1)


def check_scores(run: Run, vectors, pairs: list, questions: list) -> None:
    """Our scores of gensim's vectors against gensim's own."""
    equal = run.against("gensim.models.KeyedVectors", atol=1e-6, why="float32 rounding")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.tsv"
        file.write_text("".join(f"{a}\t{b}\t{said}\n" for a, b, said in pairs), encoding="utf-8")
        theirs = vectors.evaluate_word_pairs(str(file))[1][0]
    ours = similarity(vectors.vectors, vectors.index_to_key, pairs).value
    why = "float32 rounding, which exchanges neighbors in rank"
    equal("Spearman", ours, theirs, atol=2e-3, why=why)
    theirs = vectors.evaluate_word_analogies(
        str(datasets.path("word_similarity", "questions-words.txt"))
    )
    equal("analogies", analogies(vectors.vectors, vectors.index_to_key, questions).value, theirs[0])


# ---- what people know


def train_gensim(text: list[list[str]], arm: str, dim: int, epochs: int, seed: int):
    """gensim's vectors by the settings of ours."""
    kind = {"sg": int(arm != AS_IN_C), "hs": int(arm == TREE), "negative": 5 * (arm != TREE)}
    rate = {"alpha": LR, "min_alpha": LR * 1e-4, "epochs": epochs}
    return Gensim(text, vector_size=dim, seed=seed + 1, workers=1, **rate, **kind).wv


def people(run: Run, text: list, corpus: Corpus, seeds: int, dim: int) -> None:
    """Train all kinds, ours and gensim's; judge them by WordSim-353."""
    epochs = run.budget(quick=1, default=5)
    pairs, simlex = (datasets.word_similarity(name) for name in ("wordsim353", "simlex999"))
    questions = [q for category in datasets.analogies().values() for q in category]
    order = torch.randperm(len(corpus.tokens), generator=run.generator(9))
    mixed = corpus._replace(tokens=corpus.tokens[order])
    found: dict[str, list] = {}
    last: dict[str, list] = {}
    lines = [text[i] for i in torch.randperm(len(text), generator=run.generator(8))]
    for s, arm in itertools.product(range(run.seed, run.seed + seeds), [*ARMS, SHUFFLED]):
        generator = torch.Generator().manual_seed(s)
        model = Word2Vec(corpus.counts, dim, generator=generator, **ARMS.get(arm, {}))
        loss = model.fit(mixed if arm == SHUFFLED else corpus, epochs=epochs, lr=LR, batch_size=64)[
            -1
        ]
        last.setdefault(arm, []).append(loss)
        trained = {arm: (model.v.numpy(), corpus.words)}
        if arm in (NOISE, TREE, AS_IN_C):
            theirs = train_gensim(lines, arm, dim, epochs, s)
            trained[f"gensim, {arm}"] = (theirs.vectors, theirs.index_to_key)
        if arm == NOISE:
            reads = train_gensim(text, arm, dim, epochs, s)
            trained[IN_ORDER] = (reads.vectors, reads.index_to_key)
        for name, vectors in trained.items():
            scores = [similarity(*vectors, pairs), similarity(*vectors, simlex)]
            found.setdefault(name, []).append([*scores, analogies(*vectors, questions)])
    check_scores(run, theirs, pairs, questions)
    for arm, losses in last.items():
        run.metric(f"{arm}: loss", np.mean(losses), "nats per prediction")
    names = ("WordSim-353", "SimLex-999", "analogies")
    for i, name in enumerate(names):
        run.metric(f"questions of {name}", found[NOISE][0][i].n, "questions")
        for arm, rows in found.items():
            run.metric(f"{arm}: {name}", np.mean([row[i].value for row in rows]), rtol=None)
    wordsim = {arm: np.array([row[0].value for row in rows]) for arm, rows in found.items()}
    judge(run, wordsim)
    with run.figure("people", "Do the vectors agree with people? Ours beside gensim's") as ax:
        colors = [plots.GRAY if "gensim" in arm else plots.BLUE for arm in wordsim]
        plots.bars(ax, wordsim, colors=colors, xlabel="Spearman's correlation with WordSim-353")


def judge(run: Evidence, wordsim: dict[str, np.ndarray]) -> None:
    """The claims, on Spearman's correlation with WordSim-353 for each seed."""
    common = {"unit": "Spearman", "quick": False, "rtol": None}
    company = "vectors know what people think"
    run.claim(company, wordsim[NOISE], at_least=0.2, seen_before="four seeds", **common)
    run.falsifier(SHUFFLED, wordsim[SHUFFLED], breaks=company)
    for arm in (NOISE, TREE, AS_IN_C):
        gain = wordsim[arm] - wordsim[f"gensim, {arm}"]
        seen = {"seen_before": "four seeds"}
        run.claim(f"{arm}: as good as gensim", gain, at_least=-0.05, **seen, **common)
    for name, arm, other in (
        ("gensim gains by lines in random order", f"gensim, {NOISE}", IN_ORDER),
        ("CBOW: the undivided gradient is better", AS_IN_C, TRUE),
        ("on little text the tree is better", TREE, NOISE),
    ):
        gain = wordsim[arm] - wordsim[other]
        run.claim(name, gain, at_least=0, seen_before="four seeds", **common)


# ---- what a batch may hold


def batches(run: Run, corpus: Corpus, dim: int) -> None:
    """Larger and larger batches, with gradients summed, until the vectors fly apart."""
    sizes = run.budget(quick=[64], default=[128, 256, 1024, 2048])
    kept = keep_probability(corpus.counts, 1e-3) * corpus.counts
    turns = float(huffman_paths(corpus.counts).mask.sum(1).float() @ kept / kept.sum())
    lines = {}
    for arm, questions in ((NOISE, 6), (TREE, turns)):
        losses = []
        for size in sizes:
            model = Word2Vec(corpus.counts, dim, generator=run.generator(5), **ARMS[arm])
            losses += model.fit(corpus, epochs=1, lr=LR, batch_size=size)
        lines[arm] = np.nan_to_num(losses, nan=np.inf) / (questions * math.log(2))
        most = max(size for size, loss in zip(sizes, lines[arm], strict=True) if loss < 1)
        run.metric(f"{arm}: largest batch that learns", most, "centers", rtol=None)
    with run.figure("batches", "How many gradients may one step sum?") as ax:
        labels = {"xlabel": "centers per step", "ylabel": "loss of one epoch, untrained = 1"}
        labels |= {"xscale": "log", "ylim": (0.4, 1.45), "reference": {"untrained": 1.0}}
        plots.curves(ax, sizes, {a: y.clip(0, 1.4) for a, y in lines.items()}, marker="o", **labels)
