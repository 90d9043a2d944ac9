"""Sums against enumeration, the optimum against python-crfsuite's, and what the chain is worth."""

import itertools
import re
import tempfile
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from shared import plots
from shared.corpora import wnut17
from shared.stats import Interval
from shared.study import PositiveInt, Run
from week12.ner import CRF, entities, entity_scores, f1, features, forward_backward

Tags = list[list[str]]


def main(run: Run, *, max_iter: PositiveInt = 50) -> None:
    """Learn from WNUT-17's train part and judge on its test part.

    Parameters
    ----------
    max_iter
        Iterations of L-BFGS for each model.
    """
    run.rounding(0.02, "L-BFGS stops before the optimum, so rounding moves where")
    check_sums(run)
    data = {name: wnut17(name) for name in ("train", "test")}
    sizes = run.budget(quick=(80, 60), default=(3394, 1287))
    max_iter = run.budget(quick=10, default=max_iter, full=200)
    words, tags = {}, {}
    for (name, sentences), size in zip(data.items(), sizes, strict=True):
        words[name] = [[word for word, _ in sentence] for sentence in sentences[:size]]
        tags[name] = [[tag for _, tag in sentence] for sentence in sentences[:size]]
    rows = {name: [features(sentence) for sentence in part] for name, part in words.items()}
    n = run.budget(quick=20, default=200)
    check_optimum(run, rows["train"][:n], tags["train"][:n])
    with threadpool_limits(1):  # products of thirteen columns: threads would wait for each other
        judge(run, words, rows, tags, max_iter)


# ---- checks


def check_sums(run: Run) -> None:
    """ln Z, marginals and pairs of one to four tokens against all taggings; the gradient too."""
    lengths = np.array([3, 1, 4, 2])
    emissions, transitions = run.rng.normal(size=(10, 3)), run.rng.normal(size=(3, 3))
    found = forward_backward(emissions, transitions, lengths)
    log_z, marginals, pairs = [], np.zeros((10, 3)), np.zeros((3, 3))
    for end, n in zip(np.cumsum(lengths), lengths, strict=True):
        part = emissions[end - n : end]
        taggings = list(itertools.product(range(3), repeat=n))
        scores = [
            part[range(n), path].sum() + sum(transitions[a, b] for a, b in itertools.pairwise(path))
            for path in taggings
        ]
        z = np.exp(scores).sum()
        log_z.append(np.log(z))
        for path, score in zip(taggings, scores, strict=True):
            marginals[np.arange(end - n, end), path] += np.exp(score) / z
            for a, b in itertools.pairwise(path):
                pairs[a, b] += np.exp(score) / z
    exact = run.against("enumeration", kind="theorem", atol=1e-12, why="float64 rounding")
    names = ("ln Z", "marginals", "expected pairs")
    for name, ours, theirs in zip(names, found, (np.array(log_z), marginals, pairs), strict=True):
        exact(name, ours, theirs)

    model = CRF(l2=0.3, min_count=1)
    sentences = [[["a", "b"], ["c"], ["a"]], [["b"], ["c", "a"]]]
    model.prepare(sentences, [["X", "Y", "Z"], ["Y", "Y"]])
    x = run.rng.normal(size=(3 + 3) * 3)
    steps = 1e-5 * np.eye(len(x))
    slopes = [(model.loss(x + h)[0] - model.loss(x - h)[0]) / 2e-5 for h in steps]
    order = {"against": "central differences", "why": "their error is of order h²", "atol": 1e-8}
    run.check("gradient", model.loss(x)[1], np.array(slopes), kind="theorem", **order)


def crfsuite(rows, tags: Tags, kept, *, l2: float, max_iter: int):
    """python-crfsuite's tagger on the same features, and its last loss."""
    import pycrfsuite

    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    for sentence, row_tags in zip(rows, tags, strict=True):
        trainer.append(known(sentence, kept), row_tags)
    trainer.set_params({"c1": 0.0, "c2": l2, "max_iterations": max_iter, "epsilon": 1e-7})
    every = {"feature.possible_states": True, "feature.possible_transitions": True}
    trainer.set_params({**every, "delta": 1e-9})
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model")
        trainer.train(file)
        tagger = pycrfsuite.Tagger()
        tagger.open(file)
    return tagger, trainer.logparser.last_iteration["loss"]


def known(sentence, kept) -> list[list[str]]:
    """The features that have weights."""
    return [[feature for feature in row if feature in kept] for row in sentence]


def check_optimum(run: Run, rows, tags: Tags) -> None:
    """The loss at crfsuite's weights is the one that it reports; the minimum is the same."""
    ours = CRF(l2=0.5, max_iter=400).fit(rows, tags)
    tagger, loss = crfsuite(rows, tags, ours.codes, l2=0.5, max_iter=400)
    info = tagger.info()
    ours_again = CRF(l2=0.5)
    ours_again.prepare(rows, tags)
    weights = np.zeros((len(ours.codes) + len(ours.tags), len(ours.tags)))
    tag_code = {tag: i for i, tag in enumerate(ours.tags)}
    for (feature, tag), weight in info.state_features.items():
        weights[ours.codes[feature], tag_code[tag]] = weight
    for (before, tag), weight in info.transitions.items():
        weights[len(ours.codes) + tag_code[before], tag_code[tag]] = weight
    library = run.against("python-crfsuite", why="six digits are written", rtol=1e-5)
    library("loss at its weights", ours_again.loss(weights.ravel())[0], loss)
    why = "both stop where progress is small; the loss is convex"
    library("smallest loss", ours.final_loss, loss, rtol=1e-4, why=why)


# ---- entities


def f1_gain(run: Run, ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Difference of F1, sentences resampled in pairs."""
    gains = []
    for _ in range(run.budget(quick=200, default=2000)):
        rows = run.rng.integers(0, len(ours), len(ours))
        gains.append(f1(ours[rows]) - f1(theirs[rows]))
    low, high = np.quantile(gains, [0.025, 0.975])
    return Interval(f1(ours) - f1(theirs), float(low), float(high), len(ours))


def listed(words: dict, tags: dict) -> Tags:
    """The baseline: mark again what was an entity in training, the longest first."""
    names = {
        tuple(word.lower() for word in sentence[start:end]): kind
        for sentence, row in zip(words["train"], tags["train"], strict=True)
        for kind, start, end in entities(row)
    }
    found = []
    for sentence in words["test"]:
        row, lower, i = ["O"] * len(sentence), [word.lower() for word in sentence], 0
        while i < len(row):
            ends = (e for e in range(min(i + 8, len(row)), i, -1) if tuple(lower[i:e]) in names)
            end = next(ends, None)
            if end is None:
                i += 1
                continue
            kind = names[tuple(lower[i:end])]
            row[i:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - i - 1)
            i = end
        found.append(row)
    return found


def judge(run: Run, words: dict, rows: dict, tags: dict, max_iter: int) -> None:
    """F1 of entities: the chain, tokens one by one, a chain with neighbors at random, a list."""
    truth = tags["test"]
    field = CRF(max_iter=max_iter).fit(rows["train"], tags["train"])
    tokens = [[row] for sentence in rows["train"] for row in sentence]
    alone = CRF(max_iter=max_iter).fit(tokens, [[tag] for row in tags["train"] for tag in row])
    order = run.rng.permutation(len(tokens))
    flat = [tag for row in tags["train"] for tag in row]
    starts = np.cumsum([0, *map(len, tags["train"])])
    places = [order[a:b] for a, b in itertools.pairwise(starts)]
    mixed_rows = [[tokens[i][0] for i in place] for place in places]
    mixed_tags = [[flat[i] for i in place] for place in places]
    mixed = CRF(max_iter=max_iter).fit(mixed_rows, mixed_tags)
    theirs, _ = crfsuite(rows["train"], tags["train"], field.codes, l2=field.l2, max_iter=max_iter)
    found = {
        "chain": [field.tag(sentence) for sentence in rows["test"]],
        "python-crfsuite": [theirs.tag(known(sentence, field.codes)) for sentence in rows["test"]],
        "tokens one by one": [alone.tag(sentence) for sentence in rows["test"]],  # no transitions
        "chain of tokens at random": [mixed.tag(sentence) for sentence in rows["test"]],
        "list of names": listed(words, tags),
    }
    scores = {name: entity_scores(truth, part) for name, part in found.items()}
    check_f1(run, truth, found["chain"], f1(scores["chain"]))
    for name, part in scores.items():
        right, marked, there = part.sum(axis=0)
        run.metric(f"F1, {name}", 100 * f1(part), "%")
        run.metric(f"precision, {name}", 100 * right / max(marked, 1), "%")
        run.metric(f"recall, {name}", 100 * right / there, "%")
    late, unit = {"quick": False}, {"unit": "F1"}
    seen = "the test part with 30, 50 and 80 iterations, and a control that kept to its sentence"
    chain = "neighboring tags tell something"
    gain = f1_gain(run, scores["chain"], scores["tokens one by one"])
    run.claim(chain, gain, at_least=0.01, seen_before=seen, **unit, **late)
    blind = f1_gain(run, scores["chain of tokens at random"], scores["tokens one by one"])
    run.falsifier("a chain of tokens from anywhere", blind, breaks=chain)
    equal = f1_gain(run, scores["chain"], scores["python-crfsuite"])
    same = "as good as python-crfsuite"
    run.claim(same, equal, at_least=-0.02, at_most=0.02, seen_before=seen, **unit, **late)
    beyond = f1_gain(run, scores["chain"], scores["list of names"])
    run.claim("more than a list of names", beyond, at_least=0.05, **unit, **late)
    draw(run, field)


def check_f1(run: Run, truth: Tags, found: Tags, ours: float) -> None:
    """seqeval's score of the same tags."""
    from seqeval.metrics import f1_score

    exact = {"against": "seqeval", "why": "float64 rounding", "atol": 1e-12}
    run.check("F1 of entities", ours, f1_score(truth, found), **exact)
    odd = [["B-a", "I-a", "I-b", "O", "I-b"], ["I-a", "I-a", "B-a"]]
    other = [["I-a", "I-a", "B-b", "O", "B-b"], ["B-a", "I-a", "I-a"]]
    run.check("F1 of odd tags", f1(entity_scores(odd, other)), f1_score(odd, other), **exact)


def draw(run: Run, field: CRF) -> None:
    """The learned transitions."""
    kinds = [tag for tag in field.tags if re.search(r"person|location|^O", tag)]
    at = [field.tags.index(tag) for tag in kinds]
    size = {"size": (6.6, 4.6)}
    with run.figure("transitions", "Which tag may follow which?", **size) as axes:
        grid = field.transitions[np.ix_(at, at)]
        most = np.abs(grid).max()
        names = {"rows": kinds, "columns": kinds, "limits": (-most, most), "cmap": "RdBu"}
        labels = {"xlabel": "tag", "ylabel": "tag before", "label": "weight"}
        plots.heat_map(axes, grid, **names, **labels)
        axes.tick_params(axis="x", rotation=30)
        for (row, column), value in np.ndenumerate(grid):
            ink = "white" if abs(value) > 0.6 * most else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=ink)
