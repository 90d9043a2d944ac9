"""GloVe by closed forms, and what its weights and distances are worth beside word2vec."""

import numpy as np
import torch
from gensim.models import Word2Vec as Gensim
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import Tensor

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week01.word_geometry import ppmi
from week12.evidence.word2vec import sentences_of
from week12.glove import Entries, GloVe, cooccurrence, weight
from week12.word2vec import Corpus, read
from week12.word_tests import analogies, similarity

LR, X_MAX, WINDOW = 0.2, 2.0, 5  # rate and x_max by a look at seed 100
GLOVE, ALIKE, FLAT, MIXED = "GloVe", "all counts alike", "distance ignored", "counts shuffled"


def main(run: Run, *, dim: PositiveInt = 50, seeds: PositiveInt = 5, files: PositiveInt = 1):
    """Fit log-counts of Wikipedia and ask what people know; word2vec and the SVD do the same.

    Parameters
    ----------
    dim
        Length of the vectors.
    seeds
        Runs of each kind.
    files
        How many of the 20 files of Wikipedia articles are read (all with --full).
    """
    check_counts(run)
    check_steps(run)
    articles = datasets.wikipedia(run.budget(quick=1, default=files, full=20))
    articles = articles[: run.budget(quick=2, default=None)]
    text = sentences_of("\n".join(article.text for article in articles))
    corpus = read(text)
    check_rank(run, corpus)
    people(run, text, corpus, run.budget(quick=1, default=seeds), dim)


# ---- checks


def entries_of(counts: np.ndarray | Tensor, alpha: float = 0.75) -> Entries:
    """All entries of a small table that are above zero, in float64."""
    x = torch.as_tensor(counts)
    row, column = x.nonzero().T
    x = x[row, column].double()
    return Entries(row, column, x.log(), weight(x, 4.0, alpha))


def in_float64(model: GloVe) -> GloVe:
    """The same model with wider numbers."""
    model.words, model.contexts = model.words.double(), model.contexts.double()
    model.squares = [table.double() for table in model.squares]
    return model


def steps_by_torch(model: GloVe, entries: Entries, steps: int) -> list[Tensor]:
    """The tables after some steps of torch's AdaGrad along autograd's gradients."""
    start = float(model.squares[0].mean())
    twin = object.__new__(GloVe)
    twin.words, twin.contexts = (
        table.clone().requires_grad_() for table in (model.words, model.contexts)
    )
    options = {"lr": model.lr, "initial_accumulator_value": start, "eps": 0.0}
    optimizer = torch.optim.Adagrad([twin.words, twin.contexts], **options)
    for _ in range(steps):
        optimizer.zero_grad()
        twin.gradients(entries)[0].backward()
        optimizer.step()
    return [twin.words.detach(), twin.contexts.detach()]


def check_counts(run: Run) -> None:
    """The sparse table against its definition, pair by pair."""
    text = sentences_of(datasets.pydocs_text())[:150]
    corpus = read(text)
    n = len(corpus.words)
    found = cooccurrence(corpus.tokens, corpus.sentence, n, window=4)
    expected, tokens = np.zeros((n, n)), corpus.tokens.tolist()
    for i, word in enumerate(tokens):
        for j in range(max(i - 4, 0), i):
            if corpus.sentence[i] == corpus.sentence[j]:
                expected[word, tokens[j]] += 1 / (i - j)
                expected[tokens[j], word] += 1 / (i - j)
    exact = {"kind": "theorem", "atol": 1e-10, "why": "float64 rounding"}
    name = "counts by 1/distance"
    run.check(name, found.toarray(), expected, against="the definition, pair by pair", **exact)


def check_steps(run: Run) -> None:
    """Gradients by autograd and steps of AdaGrad by torch."""
    corpus = read([list("abacbd"), list("dcab")], 1)
    entries = entries_of(cooccurrence(corpus.tokens, corpus.sentence, 4).toarray())
    model = in_float64(GloVe(4, 3, generator=run.generator()))
    expected = steps_by_torch(model, entries, 5)
    for _ in range(5):
        model.step(entries)
    equal = run.against("torch.autograd, torch.optim.Adagrad", atol=1e-12, why="float64 rounding")
    equal("five steps: words", model.words, expected[0])
    equal("five steps: contexts", model.contexts, expected[1])


def check_rank(run: Run, corpus: Corpus) -> None:
    """With all weights one, rank d + biases fits no worse than rank d and no better than d + 2."""
    n, steps = run.budget(quick=6, default=16), run.budget(quick=300, default=2000)
    counts = cooccurrence(corpus.tokens, corpus.sentence, len(corpus.words))[:n, :n].toarray() + 1
    tail = np.append(np.cumsum(np.linalg.svd(np.log(counts))[1][::-1] ** 2)[::-1] / 2, [0.0] * 3)
    dims, losses = run.budget(quick=[1, n], default=[1, 2, 4, 8, n]), []
    entries = entries_of(counts, alpha=0.0)
    for d in dims:
        model = in_float64(GloVe(n, d, lr=1.0, start=1e-2, generator=run.generator(1)))
        for _ in range(steps):
            loss = model.step(entries)
        losses.append(loss)
    least = {"kind": "theorem", "why": "AdaGrad has nearly come to rest", "atol": 3e-4 * tail[0]}
    run.check("full rank: loss", losses[-1], 0.0, against="all log-counts fitted", **least)
    inside = np.clip(losses, tail[np.array(dims) + 2], tail[dims])
    name = "rank d: loss between the bounds"
    run.check(
        name, np.array(losses), inside, against="Eckart and Young, ranks d and d + 2", **least
    )
    with run.figure("rank", "How well can d numbers per word fit the log-counts?") as ax:
        every = np.arange(1, n + 1)
        bounds = {"best of rank d": tail[every], "best of rank d + 2": tail[every + 2]}
        lines = {name: y / tail[0] for name, y in bounds.items()}
        lines["GloVe, d and two biases"] = np.array(losses) / tail[0]
        x = dict.fromkeys(bounds, every) | {"GloVe, d and two biases": dims}
        inks = (plots.GRAY, plots.REFERENCE, plots.BLUE)
        labels = {"xlabel": "d", "ylabel": "loss, nothing fitted = 1", "yscale": "log"}
        plots.curves(ax, x, lines, colors=inks, marker=".", ylim=(1e-6, 1), ends=False, **labels)


# ---- what people know


def people(run: Run, text: list, corpus: Corpus, seeds: int, dim: int) -> None:
    """Fit with and without each part; judge by WordSim-353."""
    epochs, n = run.budget(quick=1, default=5), len(corpus.words)
    place = (corpus.tokens, corpus.sentence, n)
    counts = cooccurrence(*place, window=WINDOW)
    flat = cooccurrence(*place, window=WINDOW, harmonic=False)
    mixed = counts.tocoo()
    mixed = sparse.coo_array((run.rng.permutation(mixed.data), mixed.coords), shape=mixed.shape)
    arms = {GLOVE: (counts, 0.75), ALIKE: (counts, 0.0), FLAT: (flat, 0.75), MIXED: (mixed, 0.75)}
    pairs = datasets.word_similarity()
    questions = [q for category in datasets.analogies().values() for q in category]
    found: dict[str, list[float]] = {}
    for seed in range(run.seed, run.seed + seeds):
        for arm, (table, alpha) in arms.items():
            generator = torch.Generator().manual_seed(seed)
            model = GloVe(n, dim, lr=LR, generator=generator)
            options = {"epochs": epochs, "x_max": X_MAX, "alpha": alpha, "generator": generator}
            loss = model.fit(table.tocsr(), **options)[-1]
            vectors = model.vectors.numpy(), corpus.words
            found.setdefault(arm, []).append(similarity(*vectors, pairs).value)
            if seed == run.seed:
                run.metric(f"{arm}: loss", loss, "per entry")
                run.metric(f"{arm}: analogies", analogies(*vectors, questions).value, rtol=None)
        if seed > run.seed + 1:
            continue  # two runs of the reference are enough to draw it
        order = torch.randperm(len(text), generator=generator)
        rates = {"alpha": 0.05, "min_alpha": 5e-6, "seed": seed + 1, "workers": 1}
        theirs = Gensim([text[i] for i in order], vector_size=dim, sg=1, **rates).wv
        score = similarity(theirs.vectors, theirs.index_to_key, pairs)
        found.setdefault("word2vec (gensim)", []).append(score.value)
    table = sparse.csr_array(ppmi(counts.toarray()))
    left, size, _ = svds(table, k=min(dim, n - 1), random_state=0)
    svd = similarity(left * size, corpus.words, pairs).value
    for arm, scores in found.items():
        run.metric(f"{arm}: WordSim-353", np.mean(scores), "Spearman", rtol=None)
    run.metric("PPMI and SVD: WordSim-353", svd, "Spearman", rtol=None)
    common, glove = {"unit": "Spearman", "quick": False, "rtol": None}, np.array(found[GLOVE])
    name = "vectors know what people think"
    run.claim(name, glove, at_least=0.1, seen_before="five seeds, one more epoch", **common)
    run.falsifier(MIXED, found[MIXED], breaks=name)
    seen = {"seen_before": "five seeds, one more epoch"}
    run.claim("near neighbors should count more", glove - found[FLAT], at_least=0, **seen, **common)
    run.claim(
        "frequent pairs should weigh more", glove - found[ALIKE], at_least=0, **seen, **common
    )
    run.claim("the SVD of the same counts is better", svd - glove, at_least=0, **seen, **common)
    with run.figure("people", "What do weights and distances add?") as ax:
        bars = found | {"PPMI and SVD": [svd]}
        inks = [plots.BLUE] * len(arms) + [plots.GRAY] * 2
        plots.bars(ax, bars, colors=inks, xlabel="Spearman's correlation with WordSim-353")
