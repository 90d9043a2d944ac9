"""Comparisons are paired, tests are those of scipy and sacreBLEU, corrections are literal."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_eval import TinyModel, TinyTask

from llm_eval.engine.run import evaluate
from llm_eval.metrics.bleu import corpus_bleu, statistics
from llm_eval.statistics.aggregates import aggregates_of
from llm_eval.statistics.compare import compare, compare_runs
from llm_eval.statistics.estimates import cluster_codes
from llm_eval.statistics.multiple import benjamini_hochberg, holm
from llm_eval.statistics.paired import bootstrap_p, differences, mcnemar
from llm_eval.types import Number, Request, Response, Sample
from shared.errors import UserError

P_VALUES = st.lists(st.floats(0, 1), max_size=8)


def run(values, clusters=None, *, start=0, task="t", metric="acc", failed=()):
    return [
        Sample(
            *(task, str(start + i), {}, (), ()),
            values={} if i in failed else {metric: value},
            cluster=clusters[i] if clusters else "",
            error="timeout" if i in failed else "",
        )
        for i, value in enumerate(values)
    ]


# ---- corrections


@given(P_VALUES)
def test_holm_is_its_definition(p):
    """Step down: the smallest p has m tests against it, the next m - 1, …; once no, always no."""
    ours = holm(p)
    for alpha in (0.01, 0.05, 0.2, 0.5):
        left, rejected = sorted(range(len(p)), key=lambda i: p[i]), set()
        while left and p[left[0]] * len(left) <= alpha:
            rejected.add(left.pop(0))
        close = [i for i in range(len(p)) if abs(ours[i] - alpha) < 1e-12]
        assert {i for i in range(len(p)) if ours[i] <= alpha} | {*close} == rejected | {*close}


@given(P_VALUES)
def test_benjamini_hochberg_is_scipys(p):
    from scipy.stats import false_discovery_control

    expected = false_discovery_control(p).tolist() if p else []
    assert benjamini_hochberg(p) == pytest.approx(expected, abs=1e-12)


@given(P_VALUES)
def test_corrected_values_are_in_order_and_no_smaller(p):
    for correct in (holm, benjamini_hochberg):
        ours = correct(p)
        assert all(x >= y - 1e-15 for x, y in zip(ours, p, strict=True))
        pairs = sorted(zip(p, ours, strict=True))
        assert [y for _, y in pairs] == sorted(ours)
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\]"):
        holm([0.5, 1.5])


# ---- tests


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_scipys_binomial_test(better, worse):
    from scipy.stats import binomtest

    expected = binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert mcnemar(better, worse) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=9))
def test_mcnemar_is_the_exact_permutation_test(pairs):
    """Exchanging two answers matters only where one of them is right."""
    a, b = ([float(pair[i]) for pair in pairs] for i in (0, 1))
    found = compare(run(a), run(b), "acc", test="mcnemar", n_resamples=9)
    assert (found.better, found.worse) == (
        sum(x > y for x, y in pairs),
        sum(x < y for x, y in pairs),
    )
    same = compare(run(a), run(b), "acc", test="permutation")
    assert same.p == pytest.approx(found.p, abs=1e-12)


def test_the_permutation_test_is_scipys():
    from scipy.stats import permutation_test

    def mean_difference(x, y, axis):
        return np.mean(x - y, axis=axis)

    rng = np.random.default_rng(1)
    a, b = rng.random(10) + 0.2, rng.random(10)
    theirs = permutation_test((a, b), mean_difference, permutation_type="samples", vectorized=True)
    ours = compare(run(a.tolist()), run(b.tolist()), "acc", test="permutation")
    assert ours.p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_a_difference_is_paired():
    """What a document does to both cancels: a small gain on hard and easy ones alike is seen."""
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    a = run((hard + 0.02 + rng.normal(0, 0.01, 200)).tolist())
    found = compare(a, run(hard.tolist())[::-1], "acc")  # pairs by id, not by place
    assert found.value == pytest.approx(0.02, abs=0.003)
    assert found.low > 0.01
    assert found.high < 0.03
    assert found.p == 1 / 2000
    assert found.stderr < 0.001
    assert found.detectable == pytest.approx(2.8016 * found.stderr, rel=1e-4)


def test_p_is_never_zero_and_one_where_nothing_differs():
    same = [0.1, 0.5, 0.9]
    for test in ("paired-bootstrap", "permutation"):
        assert compare(run(same), run(same), "acc", test=test).p == 1
    a, b = run([1.0] * 40), run([0.0] * 40)
    found = compare(a, b, "acc", n_resamples=99)
    assert found.p == 0.01
    assert compare(a, b, "acc", test="permutation", n_resamples=99).p == 0.01


@pytest.mark.parametrize("test", ["paired-bootstrap", "permutation"])
def test_clusters_are_drawn_whole(test):
    """Ten documents of each of six passages: as much is known as of six documents, not sixty."""
    rng = np.random.default_rng(2)
    gains = rng.normal(0.3, 0.5, 6)
    names = [f"p{i}" for i in range(6) for _ in range(10)]
    a, b = np.repeat(gains, 10).tolist(), [0.0] * 60
    found = compare(run(a, names), run(b, names), "acc", test=test)
    once = compare(run(gains.tolist()), run([0.0] * 6), "acc", test=test)
    assert found.stderr == pytest.approx(once.stderr)
    assert found.p == pytest.approx(once.p, abs=0.03)
    naive = compare(run(a), run(b), "acc", test=test)
    assert naive.p < found.p / 2
    assert naive.high - naive.low < (found.high - found.low) / 2


def test_errors_of_the_first_kind_are_as_many_as_said():
    rng = np.random.default_rng(3)
    ps = []
    for seed in range(200):
        a, b = (rng.integers(0, 2, 40).astype(float).tolist() for _ in range(2))
        ps.append(compare(run(a), run(b), "acc", n_resamples=199, seed=seed).p)
    assert np.mean(np.array(ps) <= 0.05) < 0.1
    assert np.mean(np.array(ps) <= 0.5) == pytest.approx(0.5, abs=0.12)


# ---- metrics of a corpus, against sacreBLEU

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "one",
    "small",
    "dog",
    "run",
    "to",
    "it",
]


@pytest.fixture(scope="module")
def systems():
    rng = np.random.default_rng(0)

    def noisy(sentence, share):
        return [rng.choice(WORDS) if rng.random() < share else word for word in sentence]

    references = [rng.choice(WORDS, 12).tolist() for _ in range(60)]
    worse = [" ".join(noisy(sentence, 0.36)) for sentence in references]
    better = [" ".join(noisy(sentence, 0.26)) for sentence in references]
    return better, worse, [" ".join(sentence) for sentence in references]


@pytest.fixture(scope="module")
def bleu(systems):
    """Each system's statistics by sentence, and what makes BLEU of them."""
    from sacrebleu.metrics import BLEU

    better, worse, references = systems
    metric = BLEU(references=[references])
    stats = [metric._extract_corpus_statistics(system, None) for system in (better, worse)]

    def score(rows):
        return metric._compute_score_from_stats(np.sum(rows, axis=0).tolist()).score

    return stats, score


@pytest.mark.parametrize("test", ["bs", "ar"])
def test_p_of_a_corpus_metric_is_sacrebleus(test, systems, bleu):
    from sacrebleu.metrics import BLEU
    from sacrebleu.significance import PairedTest

    (a, b), score = bleu
    better, worse, references = systems
    named = [("worse", worse), ("better", better)]
    theirs = PairedTest(
        named, {"BLEU": BLEU(references=[references])}, None, test_type=test, n_samples=1000
    )()[1]["BLEU"][1]
    kind = {"bs": "paired-bootstrap", "ar": "permutation"}[test]
    samples = run(a, metric="bleu"), run(b, metric="bleu")
    ours = compare(*samples, "bleu", test=kind, aggregate=score, n_resamples=999)
    assert ours.a == pytest.approx(theirs.score, abs=1e-9)
    assert 0.005 < theirs.p_value < 0.3
    noise = 4 * np.sqrt(2 * ours.p * (1 - ours.p) / 1000)
    if test == "ar":
        assert ours.p == pytest.approx(theirs.p_value, abs=noise)
        return
    # sacreBLEU counts one tail: |d*| - mean |d*| above |d|. By its rule, our draws give its p.
    draws = differences(a, b, np.arange(60), score, np.random.default_rng(5), 1000)
    away = np.abs(draws) - np.abs(draws).mean()
    one_tail = (np.sum(away > abs(ours.value)) + 1) / 1001
    assert one_tail == pytest.approx(theirs.p_value, abs=noise)
    assert ours.p == pytest.approx(2 * theirs.p_value, abs=2 * noise)
    assert ours.p == pytest.approx(bootstrap_p(draws, ours.value), abs=noise)


def test_a_corpus_metric_needs_its_aggregate(bleu):
    (a, b), _ = bleu
    with pytest.raises(UserError, match="bleu is no mean of documents"):
        compare(run(a, metric="bleu"), run(b, metric="bleu"), "bleu")


# ---- what is compared with what


def test_the_unpaired_and_the_failed_are_counted():
    a, b = run([1, 1, 0, 1, 0], failed={1}), run([0, 1, 1, 0], start=2)
    found = compare(a, b, "acc", n_resamples=99)
    assert (found.n, found.unpaired, found.failed) == (3, 3, 0)
    assert (found.better, found.worse) == (0, 1)
    found = compare(a, run([1] * 5), "acc", n_resamples=99)
    assert (found.n, found.unpaired, found.failed) == (4, 0, 1)
    assert found.value == -0.5


@pytest.mark.parametrize(
    ("a", "b", "options", "said"),
    [
        (run([1]), run([1], start=5), {}, "two runs must have answered documents in common"),
        (run([1], failed={0}), run([1]), {}, "two runs must have answered documents in common"),
        (run([1]), run([1], metric="f1"), {}, "acc must be a metric of every sample"),
        (run([1]) * 2, run([1]), {}, "documents must have different ids, got '0' twice"),
        (run([0.5]), run([1]), {"test": "mcnemar"}, "mcnemar must have independent values of 0"),
        (run([1], "p"), run([1], "p"), {"test": "mcnemar"}, "documents in clusters"),
        (run([1]), run([1]), {"signatures": ("a|b", "a|c")}, "must be equal, got 'a|b' and 'a|c'"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(a, b, options, said):
    with pytest.raises(UserError, match=said.replace("|", r"\|")) as error:
        compare(a, b, "acc", **options)
    assert "\n" not in str(error.value)


def test_one_document_tells_nothing():
    found = compare(run([1]), run([0]), "acc")
    assert (found.value, found.p, found.low, found.stderr) == (1, None, None, None)


def test_runs_are_compared_in_all_they_share():
    tasks = [TinyTask("one", 30), TinyTask("two", 20)]
    a, b = (evaluate(TinyModel(seed), tasks) for seed in (0, 1))
    found = compare_runs(a.numbers, a.samples, b.numbers, b.samples, test="mcnemar")
    assert [(one.task, one.metric, one.n, one.test) for one in found] == [
        ("one", "acc", 30, "mcnemar"),
        ("two", "acc", 20, "mcnemar"),
    ]
    assert [one.corrected for one in found] == holm([one.p for one in found])
    assert [one.value for one in found] == pytest.approx(
        [x.value - y.value for x, y in zip(a.numbers, b.numbers, strict=True)]
    )
    other = evaluate(TinyModel(1), tasks, num_fewshot=2)
    with pytest.raises(UserError, match="signatures of acc must be equal"):
        compare_runs(a.numbers, a.samples, other.numbers, other.samples)
    with pytest.raises(UserError, match="must have a task and metric in common"):
        compare_runs(a.numbers, a.samples, [], [])


def test_a_number_that_is_no_mean_is_compared_by_its_aggregate_or_said_to_be_untested():
    def number(value):
        return Number("t", "top", value, None, None, None, 5, 0, True, "s")

    a, b = run([1, 5, 2, 3, 0], metric="top"), run([1, 2, 2, 3, 0], metric="top")
    (found,) = compare_runs([number(5.0)], a, [number(3.0)], b)
    assert (found.value, found.p, found.corrected) == (2, None, None)
    assert found.note == "no mean of documents, so not tested"
    (found,) = compare_runs([number(5.0)], a, [number(3.0)], b, aggregates={("t", "top"): max})
    assert found.value == 2
    assert 0 < found.p <= 1


def test_differences_are_of_the_same_documents():
    """Enumerated: with three documents there are 27 draws, and their mean is known."""
    a, b = [1.0, 0.0, 5.0], [0.0, 1.0, 2.0]
    draws = differences(a, b, np.arange(3), None, np.random.default_rng(0), 20_000)
    every = [np.mean([a[i] - b[i] for i in c]) for c in itertools.product(range(3), repeat=3)]
    assert draws.mean() == pytest.approx(np.mean(every), abs=0.03)
    assert draws.std() == pytest.approx(np.std(every), rel=0.03)
    assert {round(x, 9) for x in draws} == {round(x, 9) for x in every}


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.integers(0, 3)), min_size=1))
def test_a_mean_may_be_given_as_an_aggregate(rows):
    """Both ways draw the same documents, the same ones for a and b."""
    a, b, names = (list(side) for side in zip(*rows, strict=True))
    codes = cluster_codes(names, len(rows))
    ours, theirs = (
        differences(a, b, codes, aggregate, np.random.default_rng(0), 20)
        for aggregate in (None, np.mean)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_by_default_five_documents_prove_nothing():
    """Five of five are 2 in 32 by chance; the bootstrap has no resample without them all."""

    def number(value):
        return Number("t", "acc", value, None, None, None, 5, 0, True, "s")

    for better, worse in (([1] * 5, [0] * 5), ([0.9] * 5, [0.1] * 5)):
        numbers = [number(sum(better) / 5)], [number(sum(worse) / 5)]
        (found,) = compare_runs(numbers[0], run(better), numbers[1], run(worse))
        assert found.p > 0.05
        (sure,) = compare_runs(
            numbers[0], run(better), numbers[1], run(worse), test="paired-bootstrap"
        )
        assert sure.p < 0.01


def test_an_aggregate_must_give_the_runs_own_number_again():
    """BLEU with other options than the usual ones is not tested by the usual ones."""
    request, response = Request("generate", "Q"), Response(text="a b c d e")
    values = {"bleu": statistics("a b c d e", ["a b c d x"])}
    sample = Sample("t", "0", {}, (request,), (response,), values=values)
    own = corpus_bleu(["a b c d e"], [["a b c d x"]]).score
    for value, known in ((own, [("t", "bleu")]), (own + 1, [])):
        number = Number("t", "bleu", value, None, None, None, 1, 0, True, "bleu")
        assert list(aggregates_of([number], [sample])) == known
