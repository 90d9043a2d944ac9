"""Metrics are those of trec_eval: ties, grades, queries that a run lacks, files in and out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.evaluation.metrics import collapse, evaluate, means, order
from rag.evaluation.significance import compare
from rag.evaluation.trec import read_qrels, read_run, write_qrels, write_run
from shared.errors import UserError

NAMES = st.sampled_from(["a", "b", "B", "d10", "d9", "é", "z", "日"])
SCORES = st.sampled_from([0.0, 0.5, 0.5 + 1e-12, 1 / 3, 2.0, -1.0, 1e9, 1e9 + 1])
RUNS = st.dictionaries(st.sampled_from("123"), st.dictionaries(NAMES, SCORES, max_size=8))
QRELS = st.dictionaries(
    st.sampled_from("1234"),
    st.dictionaries(NAMES, st.integers(0, 3), min_size=1, max_size=6),
    min_size=1,
)
IN_TREC = {
    "ndcg": "ndcg",
    "ndcg@3": "ndcg_cut_3",
    "map": "map",
    "map@2": "map_cut_2",
    "mrr": "recip_rank",
    "recall@2": "recall_2",
    "P@5": "P_5",
}


def in_trec_eval(run, qrels):
    import pytrec_eval

    wanted = {"ndcg", "ndcg_cut.3", "map", "map_cut.2", "recip_rank", "recall.2", "P.5"}
    return pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)


@given(RUNS, QRELS)
@settings(max_examples=40, deadline=None)
def test_values_are_those_of_trec_eval(run, qrels):
    ours, theirs = evaluate(run, qrels, list(IN_TREC)), in_trec_eval(run, qrels)
    assert ours.keys() == qrels.keys()
    for query, values in ours.items():
        for name, value in values.items():
            expected = theirs[query][IN_TREC[name]] if query in theirs else 0.0
            assert value == pytest.approx(expected, abs=1e-9)


def test_values_of_large_random_runs():
    rng = np.random.default_rng(0)
    names = [f"d{i}" for i in range(300)]
    run = {
        f"q{q}": dict(zip(names, rng.integers(0, 40, 300) / 7 + rng.random(), strict=True))
        for q in range(20)
    }
    qrels = {
        f"q{q}": {name: int(rng.integers(0, 4)) for name in rng.choice(names, 30, replace=False)}
        for q in range(22)
    }
    ours, theirs = evaluate(run, qrels, list(IN_TREC)), in_trec_eval(run, qrels)
    assert len(ours) == 22
    for query, values in theirs.items():
        expected = [values[name] for name in IN_TREC.values()]
        np.testing.assert_allclose(list(ours[query].values()), expected, atol=1e-9)
    assert means(ours)["mrr"] == pytest.approx(sum(v["recip_rank"] for v in theirs.values()) / 22)


def test_of_equals_the_later_name_is_first_and_equal_means_as_float32():
    assert order({"a": 1.0, "c": 1.0, "b": 2.0}) == ["b", "c", "a"]
    assert order({"x": 1.0, "a": 1.0 + 1e-11}) == ["x", "a"]
    assert order({"x": 1.0, "a": 1.0 + 1e-6}) == ["a", "x"]
    with pytest.raises(ValueError, match="scores of a run must be finite"):
        order({"a": float("nan")})


def test_a_negative_grade_is_not_relevant():
    """Some collections mark spam by it; trec_eval's C code does not return on such files."""
    values = evaluate(
        {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": -2, "b": 1}, "r": {"a": -1}}, ["ndcg"]
    )
    assert values == {"q": {"ndcg": 1 / np.log2(3)}, "r": {"ndcg": 0.0}}


def test_a_document_has_the_score_of_its_best_chunk():
    assert collapse(["a", "b", "a"], [0.5, -1.0, 0.2]) == {"a": 0.5, "b": -1.0}


@pytest.mark.parametrize("name", ["ndcg@0", "ndcg@x", "P", "recall", "bpref", ""])
def test_other_metrics_are_refused(name):
    with pytest.raises(UserError, match=r"metrics must be .* got "):
        evaluate({}, {"q": {"a": 1}}, [name])


# ---- files


@given(
    st.dictionaries(
        st.sampled_from("123"),
        st.dictionaries(
            NAMES, st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1
        ),
    ),
    QRELS,
)
@settings(max_examples=30, deadline=None)
def test_files_give_back_what_was_written(tmp_path_factory, run, qrels):
    folder = tmp_path_factory.mktemp("trec")
    write_run(folder / "run", run)
    write_qrels(folder / "qrels", qrels)
    assert read_run(folder / "run") == run
    assert read_qrels(folder / "qrels") == qrels


def test_files_are_read_by_trec_evals_reader(tmp_path):
    import pytrec_eval

    run = {"q1": {"a": 1 / 3, "b": 0.25}, "q2": {"c": 7.0}}
    write_run(tmp_path / "run", run, tag="x")
    with (tmp_path / "run").open() as stream:
        assert pytrec_eval.parse_run(stream) == run
    write_qrels(tmp_path / "qrels", {"q1": {"a": 2}})
    with (tmp_path / "qrels").open() as stream:
        assert pytrec_eval.parse_qrel(stream) == {"q1": {"a": 2}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("q Q0 d 1 0.5\n", "line 1: must have 6 columns, got 5"),
        ("\nq Q0 d 1 high tag\n", "line 2: must have a finite number, got 'high'"),
        ("q Q0 d 1 nan tag\n", "must have a finite number, got 'nan'"),
        ("q Q0 d 1 2 t\nq Q0 d 2 1 t\n", "line 2: document 'd' comes twice for query 'q'"),
    ],
)
def test_what_is_no_run_is_named_with_its_line(tmp_path, text, why):
    (tmp_path / "run").write_text(text)
    with pytest.raises(UserError, match=why):
        read_run(tmp_path / "run")


def test_a_name_with_a_space_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="names in TREC files must be without spaces, got 'a b'"):
        write_run(tmp_path / "run", {"q": {"a b": 1.0}})
    with pytest.raises(UserError, match="absent cannot be read"):
        read_qrels(tmp_path / "absent")


# ---- significance


def values_of(numbers):
    return {f"q{i}": {"map": x} for i, x in enumerate(numbers)}


def test_a_difference_is_paired():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    found = compare(values_of(hard * 0.9 + 0.02), values_of(hard * 0.9), "map")
    assert found.difference.low == pytest.approx(0.02)
    assert (found.better, found.worse, found.p) == (200, 0, 1e-4)
    alike = compare(values_of(hard), values_of(rng.permutation(hard)), "map")
    assert alike.difference.low < 0 < alike.difference.high
    assert alike.p > 0.05


def test_the_randomization_test_is_scipys():
    from scipy.stats import permutation_test

    def mean_difference(x, y, axis):
        return np.mean(x - y, axis=axis)

    rng = np.random.default_rng(1)
    a, b = rng.random(10) + 0.2, rng.random(10)
    theirs = permutation_test((a, b), mean_difference, permutation_type="samples", vectorized=True)
    assert compare(values_of(a), values_of(b), "map").p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_other_queries_are_refused():
    with pytest.raises(ValueError, match="ours and theirs must have the same queries"):
        compare(values_of([1, 2]), values_of([1, 2, 3]), "map")
