"""Twins, arms and verdicts of papers/2013-word2vec."""

import numpy as np
import pytest
import torch
from test_scripts import load

from shared import papers, records
from shared.evidence import Evidence

SCRIPT = records.ROOT / "papers/2013-word2vec/reproduce.py"
paper = load(SCRIPT)
LINES = "a b c a b d\n" * 30 + " = e =\n" * 12 + "the <unk> the the f f f f f f\n" * 2


def test_twins_of_each_band_are_split():
    twins = paper.twins_of(LINES, [10, 13, 50, 100], 2, 0)
    words = twins.corpus.words
    assert "<unk>" not in words
    bands = [{words[i] for i in twins.first[twins.band == b]} for b in range(3)]
    assert bands[0] == {"e", "f"}
    assert bands[1] <= {"=", "c", "d"}
    assert bands[2] == {"a", "b"}
    assert [words[i] for i in twins.second] == [f"{words[i]}~" for i in twins.first]


def test_mrr_is_of_both_ways_and_zero_where_training_failed():
    twins = paper.Twins(None, np.array([0, 1, 2]), np.array([3, 4, 5]), np.arange(3))
    vectors = np.eye(6)
    vectors[3] = vectors[0] + 0.1
    assert paper.mrr(vectors, twins)[0] == 1
    assert paper.mrr(vectors * np.nan, twins).tolist() == [0, 0, 0]


def test_falsifier_drops_as_many_tokens_but_of_all_words():
    twins = paper.twins_of(LINES, [10, 13, 50, 100], 2, 0)
    arm = paper.Arm(1e-2, 0.05)
    share = paper.kept(twins.corpus, 1e-2)
    model, _ = paper.train(twins, arm._replace(uniform=True), 4, 1, 0)
    assert model.keep.tolist() == pytest.approx([share] * len(twins.corpus.words))
    model, _ = paper.train(twins, arm, 4, 1, 0)
    assert float(model.keep[twins.corpus.tokens].mean()) == pytest.approx(share)


def test_products_that_are_the_shifted_pmi_are_found_to_be():
    twins = paper.twins_of(LINES, [10, 13, 50, 100], 2, 0)
    corpus, n = twins.corpus, len(twins.corpus.words)
    model, _ = paper.train(twins, paper.Arm(None, 0.05), n, 1, 0)
    place = corpus.tokens, corpus.sentence, n
    tables = [paper.cooccurrence(*place, window=w, harmonic=False).toarray() for w in range(1, 6)]
    x = sum(tables) / 5
    noise = paper.noise_distribution(corpus.counts).numpy()
    with np.errstate(divide="ignore"):
        pmi = np.log(x / x.sum(axis=1, keepdims=True) / noise)
    model.v, model.u = torch.eye(n), torch.tensor(np.where(np.isfinite(pmi), pmi, 0).T).float()
    assert paper.shifted_pmi(model, corpus) == pytest.approx(1.0)
    model.u = -model.u
    assert paper.shifted_pmi(model, corpus) == pytest.approx(-1.0)


def test_verdicts_have_the_right_sign():
    run, matter = Evidence(), papers.load(SCRIPT)
    whole, better = np.array([[0.2, 0.3, 0.4], [0.21, 0.3, 0.4]]), 0.1
    scores = {"whole text": whole, "subsampled": whole + better, "all words alike": whole - better}
    scores["subsampled, equal pairs"] = whole + 2 * better
    seconds = {"whole text": [3.0, 3.1], "subsampled": [1.0, 1.0]}
    paper.judge(run, matter, scores, seconds, whole, [0.9, 0.91])
    verdicts = {c["name"]: c["verdict"] for c in run.claims}
    assert verdicts.pop("gensim's twins are as near") == "not reproduced"
    assert set(verdicts.values()) == {"reproduced"}
    assert run.falsifiers[0]["broken"]
    gains = [c for c in run.claims if c["name"] == "rare words find their twins better"]
    assert gains[0]["mean"] == pytest.approx(better)
