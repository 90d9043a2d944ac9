"""Calibration of choices: errors, their floor, the curve, and intervals over documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_eval.metrics.calibration import calibration, expected_error
from llm_eval.metrics.choices import probabilities
from llm_eval.types import Request, Response, Sample


def sample(i, logprobs, target, **options):
    request = Request("loglikelihood", "Q", " A")
    responses = tuple(Response(logprob=float(x)) for x in logprobs)
    return Sample("t", str(i), {}, (request,) * len(logprobs), responses, target, **options)


def samples_of(rng, n, sharper=1.0):
    """Documents of a model that is calibrated if `sharper` is 1, and too sure above it."""
    for i in range(n):
        logprobs = (rng.normal(size=4) * 2 - 30).tolist()
        target = int(rng.choice(4, p=probabilities(logprobs)))
        yield sample(i, [x * sharper for x in logprobs], target)


def numbers_of(samples):
    return calibration(samples, task="t", signature="acc|version:1")


def by_hand(samples, n_bins=10):
    """ECE of Guo et al. (2017), eq. 3, bin by bin."""
    said = np.array([max(probabilities([r.logprob for r in s.responses])) for s in samples])
    right = np.array([np.argmax([r.logprob for r in s.responses]) == s.target for s in samples])
    bins = np.minimum(np.ceil(said * n_bins - 1e-12), n_bins)
    total = 0.0
    for b in np.unique(bins):
        total += (bins == b).mean() * abs(right[bins == b].mean() - said[bins == b].mean())
    return total


@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
@settings(max_examples=4)
def test_the_error_is_equation_3(seed, n):
    samples = list(samples_of(np.random.default_rng(seed), n))
    found = {number.metric: number for number in numbers_of(samples)[:3]}
    assert found["ece"].value == pytest.approx(by_hand(samples), abs=1e-9)
    assert 0 <= found["ece"].low <= found["ece"].high <= 1


def test_the_calibrated_are_near_their_floor_and_the_too_sure_are_not():
    rng = np.random.default_rng(0)
    honest = numbers_of(list(samples_of(rng, 400)))
    bold = numbers_of(list(samples_of(rng, 400, sharper=3)))
    for one, other in zip(honest[:2], bold[:2], strict=True):  # ece and ece_mass
        assert one.value < 0.07
        assert other.low > 0.1
        assert one.note.startswith("a perfectly calibrated model would have 0.0")
        assert one.higher_is_better is False


def test_the_floor_is_that_of_all_outcomes():
    said = np.array([0.9, 0.9, 0.6, 0.6])
    pairs = 0.081 + 0.072 + 0.009, 0.144 + 0.048 + 0.096  # two bins, each over its 0, 1 or 2 right
    assert expected_error(said, n_draws=2000) == pytest.approx(sum(pairs) / 2, abs=0.01)


def test_the_curve_says_what_was_said_and_what_was_right():
    rows = [([-1.0, -1.0], 0)] * 3 + [([0.0, -9.0], 0)] * 4 + [([0.0, -9.0], 1)]
    numbers = numbers_of([sample(i, *row) for i, row in enumerate(rows)])
    curve = [n for n in numbers if n.metric == "accuracy_of_confidence"]
    assert [(n.group, n.value, n.n) for n in curve] == [
        ("0.4 to 0.5", 1, 3),
        ("0.9 to 1.0", 0.8, 5),
    ]
    assert [n.note for n in curve] == ["said 0.500", "said 1.000"]
    (ece,) = (n for n in numbers if n.metric == "ece")
    assert ece.value == pytest.approx(
        3 / 8 * 0.5 + 5 / 8 * 0.2, abs=1e-3
    )  # bins weigh what they hold
    assert ece.signature == "acc|version:1|softmax over choices|bins:10"


def test_failures_are_in_no_average():
    good = [sample(i, [-1.0, -2.0], 0) for i in range(4)]
    failed = Sample("t", "x", {}, (), (), error="no answer")
    for with_failed, without in zip(numbers_of([*good, failed]), numbers_of(good), strict=True):
        assert (with_failed.failed, without.failed) == (1, 0)
        assert with_failed.value == without.value
    (ece, mass, brier) = numbers_of([failed])
    assert (ece.value, ece.n, ece.failed, mass.metric, brier.metric) == (
        None,
        0,
        1,
        "ece_mass",
        "brier",
    )


def test_several_right_answers_and_clusters():
    samples = [sample(i, [-1.0, -1.5, -9.0], [0, 1], cluster=f"c{i // 5}") for i in range(20)]
    numbers = numbers_of(samples)
    assert "brier" not in [n.metric for n in numbers]  # it needs one right answer
    assert [n.value for n in numbers if n.metric == "accuracy_of_confidence"] == [1]

    rng = np.random.default_rng(0)
    alone = list(samples_of(rng, 40))
    copies = [
        sample(f"{s.id}.{k}", [r.logprob for r in s.responses], s.target, cluster=s.id)
        for s in alone
        for k in range(5)
    ]
    for one, many in zip(numbers_of(alone), numbers_of(copies), strict=True):
        assert one.value == pytest.approx(many.value)
        if one.metric in ("ece", "brier", "confidence"):  # five copies are one document
            assert many.stderr == pytest.approx(one.stderr, rel=0.15)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=5)
def test_an_interval_holds_its_value(seed):
    """Quantiles of resamples may not: these repeat documents, which adds to the error."""
    for number in numbers_of(list(samples_of(np.random.default_rng(seed), 12))):
        if number.metric in ("ece", "ece_mass") and number.stderr:
            assert 0 <= number.low < number.value < number.high
