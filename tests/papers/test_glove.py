"""Held-out entries, ratios and verdicts of papers/2014-glove."""

import numpy as np
import pytest
import torch
from scipy import sparse
from test_scripts import load

from shared import papers, records
from shared.evidence import Evidence

SCRIPT = records.ROOT / "papers/2014-glove/reproduce.py"
paper = load(SCRIPT)
LINES = "a b c a b d\n" * 30 + " = e =\n" * 12 + "the the the f f f f f f\n" * 2


def test_held_out_entries_are_not_fitted():
    table = paper.table_of(LINES, [10, 13, 50, 100], 2, 1)
    seen = set(zip(*(place.tolist() for place in table.counts.tocoo().coords), strict=True))
    held = set(zip(*(place.tolist() for place in table.held.coords), strict=True))
    assert held
    assert not seen & held
    assert table.held.data.min() >= 2
    assert (table.counts.data > 0).all()


def test_exchanged_counts_are_the_same_counts_on_the_same_pairs():
    table = paper.table_of(LINES, [10, 13, 50, 100], 2, 1)
    other = paper.mixed(table, 0)
    assert (other.counts.indices == table.counts.indices).all()
    assert sorted(other.counts.data) == sorted(table.counts.data)
    assert (other.counts.data != table.counts.data).any()


def test_ratios_of_a_model_that_fits_are_those_of_the_counts():
    rng = np.random.default_rng(0)
    model = paper.GloVe(5, 3, generator=torch.Generator().manual_seed(0))
    model.words, model.contexts = (torch.tensor(rng.normal(size=(5, 4))) for _ in range(2))
    w, c = model.words.numpy(), model.contexts.numpy()
    counts = np.exp(w[:, :-1] @ c[:, :-1].T + w[:, -1:] + c[:, -1])
    held = sparse.coo_array(counts * (rng.random((5, 5)) < 0.7))
    fitted, expected = paper.ratios(model, held)
    assert len(fitted) > 5
    np.testing.assert_allclose(fitted, expected)
    model.contexts = -model.contexts
    assert np.corrcoef(*paper.ratios(model, held))[0, 1] < 0.9


def test_a_rate_too_high_is_worth_nothing():
    table = paper.table_of(LINES, [10, 13, 50, 100], 2, 1)
    n = table.counts.shape[0]
    assert paper.mrr(np.full((n, 2), np.nan), table) == 0
    assert 0 < paper.mrr(np.random.default_rng(0).normal(size=(n, 3)), table) < 1


def test_verdicts_have_the_right_sign():
    run, three = Evidence(), np.array([0.50, 0.51, 0.49])
    scores = {0.0: three - 0.1, 0.5: three, 0.75: three, 1.0: three + 0.1}
    paper.judge(run, papers.load(SCRIPT), scores, three + 0.4, three - 0.4)
    verdicts = {c["name"]: c["verdict"] for c in run.claims}
    assert verdicts == {
        "weights are better than none": "reproduced",
        "3/4 is better than 1": "not reproduced",
        "differences give ratios": "reproduced",
        "exchanged counts cost the ratios": "holds",
    }
    assert run.falsifiers[0]["broken"]
    assert run.claims[0]["mean"] == pytest.approx(0.1)
