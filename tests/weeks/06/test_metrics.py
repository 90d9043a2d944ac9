"""Week 06: metrics of classification."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve as reference_curve

from week06 import metrics as ours
from week06 import probabilities

seeds = st.integers(0, 2**32 - 1)
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def case(seed, n=40, classes=3):
    """Labels, predictions, tied scores, probabilities and weights, some of them zero."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n)])
    pred = rng.integers(0, classes, len(y))
    scores = rng.integers(0, 5, (len(y), classes)) / 4
    weight = np.concatenate([np.ones(classes), rng.integers(0, 4, n) / 2])
    prob = rng.dirichlet(np.ones(classes), len(y))
    return y, pred, scores, prob, weight


@given(seeds, st.booleans())
def test_confusion_matrix_and_accuracy(seed, weighted):
    y, pred, _, _, weight = case(seed)
    w = weight if weighted else None
    np.testing.assert_allclose(
        ours.confusion_matrix(y, pred, sample_weight=w),
        reference.confusion_matrix(y, pred, sample_weight=w),
        **CLOSE,
    )
    assert ours.accuracy(y, pred, sample_weight=w) == pytest.approx(
        reference.accuracy_score(y, pred, sample_weight=w), abs=1e-14
    )


def test_confusion_matrix_has_truth_in_rows():
    matrix = ours.confusion_matrix(np.array(["cat", "cat", "dog"]), np.array(["dog", "cat", "dog"]))
    assert matrix.tolist() == [[1, 1], [0, 1]]
    assert matrix.dtype == np.int64


@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
@given(
    seeds,
    st.sampled_from(["macro", "micro", "weighted", None]),
    st.booleans(),
    st.sampled_from([0.0, 1.0, np.nan]),
)
def test_precision_recall_f1(name, seed, average, weighted, zero):
    y, pred, _, _, weight = case(seed, n=4, classes=4)  # few samples: 0 / 0 is common
    options = {"average": average, "zero_division": zero}
    options["sample_weight"] = weight if weighted else None
    np.testing.assert_allclose(
        getattr(ours, name)(y, pred, **options),
        getattr(reference, f"{name}_score")(y, pred, **options),
        **CLOSE,
    )


@pytest.mark.parametrize("zero", [0.0, 1.0])
def test_nothing_called_and_nothing_there(zero):
    none, some = np.zeros(4, int), np.array([0, 0, 1, 0])
    assert ours.precision(some, none, zero_division=zero) == zero
    assert ours.recall(none, some, zero_division=zero) == zero
    assert ours.f1(some, none, zero_division=zero) == 0  # 0 / 1, not 0 / 0
    assert ours.f1(none, none, zero_division=zero) == zero
    assert np.isnan(ours.f1(none, none, zero_division=float("nan")))


@given(seeds, st.booleans())
def test_curves(seed, weighted):
    y, _, scores, _, weight = case(seed, classes=2)
    w = {"sample_weight": weight if weighted else None}
    for name, options in (
        ("roc_curve", {"drop_intermediate": False}),
        ("precision_recall_curve", {}),
    ):
        mine = getattr(ours, name)(y, scores[:, 0], **w)
        theirs = getattr(reference, name)(y, scores[:, 0], **w, **options)
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, **CLOSE)


@given(seeds, st.sampled_from(["macro", "micro", "weighted"]), st.booleans())
def test_areas_of_several_classes(seed, average, weighted):
    y, _, scores, _, weight = case(seed)
    options = {"average": average, "sample_weight": weight if weighted else None}
    onehot = y[:, None] == np.arange(3)
    assert ours.roc_auc(y, scores, **options) == pytest.approx(
        reference.roc_auc_score(onehot, scores, **options), abs=1e-13
    )
    assert ours.average_precision(y, scores, **options) == pytest.approx(
        reference.average_precision_score(onehot, scores, **options), abs=1e-13
    )


@given(seeds)
def test_auc_is_the_share_of_ordered_pairs(seed):
    y, _, scores, _, _ = case(seed, classes=2)
    s = scores[:, 0]
    difference = s[y == 1][:, None] - s[y == 0]
    pairs = (difference > 0).mean() + 0.5 * (difference == 0).mean()
    assert ours.roc_auc(y, s) == pytest.approx(pairs, abs=1e-14)
    assert ours.roc_auc(y, -s) == pytest.approx(1 - pairs, abs=1e-14)
    assert ours.roc_auc(y, np.exp(3 * s)) == pytest.approx(pairs, abs=1e-14)  # only the order


def test_constant_score():
    y = np.arange(10) == 0
    assert ours.roc_auc(y, np.zeros(10)) == 0.5
    assert ours.average_precision(y, np.zeros(10)) == 0.1


@given(seeds, st.booleans())
def test_log_loss_and_brier(seed, weighted):
    y, _, _, prob, weight = case(seed)
    w = weight if weighted else None
    label, p = (y == 1).astype(int), prob[:, 1]
    for a, b in ((y, prob), (label, p)):
        assert probabilities.log_loss(a, b, sample_weight=w) == pytest.approx(
            reference.log_loss(a, b, sample_weight=w), abs=1e-12
        )
        assert probabilities.brier_score(a, b, sample_weight=w) == pytest.approx(
            reference.brier_score_loss(a, b, sample_weight=w), abs=1e-13
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_certain_mistakes_are_clipped(dtype):
    y, p = np.array([0, 1, 1]), np.array([1.0, 0.0, 1.0], dtype)
    assert probabilities.log_loss(y, p) == pytest.approx(reference.log_loss(y, p), rel=1e-6)
    assert np.isfinite(probabilities.log_loss(y, p))


def test_absent_class_is_named_by_labels():
    loss = probabilities.log_loss(np.array([0, 1]), np.full((2, 3), 1 / 3), labels=np.arange(3))
    assert loss == pytest.approx(np.log(3))


@given(seeds, st.integers(1, 12), st.sampled_from(["uniform", "quantile"]))
def test_calibration_curve(seed, n_bins, strategy):
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(50), 1)  # on the edges of bins, 0 and 1 among them
    y = (rng.random(50) < p).astype(int)
    y[:2] = 0, 1
    mine = probabilities.calibration_curve(y, p, n_bins=n_bins, strategy=strategy)
    theirs = reference_curve(y, p, n_bins=n_bins, strategy=strategy)
    np.testing.assert_allclose(mine[0], theirs[0], **CLOSE)
    np.testing.assert_allclose(mine[1], theirs[1], **CLOSE)
    assert mine[2].sum() == 50


def test_calibration_error_weighs_bins():
    y, p = np.array([1, 1, 1, 0]), np.array([0.9, 0.9, 0.9, 0.4])
    assert probabilities.calibration_error(y, p) == pytest.approx((3 * 0.1 + 1 * 0.4) / 4)
    weight = np.array([1, 1, 1, 2])
    twice = np.repeat(np.arange(4), weight)
    assert probabilities.calibration_error(y, p, sample_weight=weight) == pytest.approx(
        probabilities.calibration_error(y[twice], p[twice])
    )


Y, S, ONES = np.array([0, 1, 1]), np.array([0.1, 0.5, 0.9]), np.ones(3, int)


def brier(p):
    probabilities.brier_score(Y, p)


WRONG = [
    ("y_true must hold both classes", lambda: ours.roc_curve(ONES, S)),
    ("y_true must hold class 1, it does not", lambda: ours.average_precision(0 * ONES, S)),
    ("scores must be finite, got 1 NaN or inf", lambda: ours.roc_auc(Y, S * [1, np.nan, 1])),
    ("average must be macro, micro, weighted or None", lambda: ours.f1(np.arange(3), np.arange(3))),
    (r"must hold class 1, the positive one, got \[0, 2\]", lambda: ours.f1(2 * Y, 2 * Y)),
    ("sample_weight must be finite, at least 0", lambda: ours.accuracy(Y, Y, sample_weight=-S)),
    ("y_prob must lie between 0 and 1, got -0", lambda: brier(2 * S)),
    ("each row of y_prob must sum to 1", lambda: brier(np.full((3, 2), 0.4))),
    ("y_prob must have a column for each of", lambda: brier(np.full((3, 3), 1 / 3))),
    ("n_bins must be at least 1, got 0", lambda: probabilities.calibration_error(Y, S, n_bins=0)),
    ("y_true must hold at least one sample", lambda: ours.accuracy(Y[:0], Y[:0])),
    ("y_score must have a column for each of 2", lambda: ours.roc_auc(Y, np.zeros((3, 3)))),
    ("y_true must hold two classes, or y_score a column", lambda: ours.roc_auc([0, 1, 2], S)),
    ("y_true must hold two classes, or y_score a", lambda: ours.average_precision([0, 1, 2], S)),
    (r"y_pred must be values of shape \(n = 2\), got int64 of", lambda: ours.accuracy([1, 0], [1])),
    (r"y_pred must be .* \(n = 3\), got int64 of shape \(3, 1\)", lambda: ours.f1(Y, Y[:, None])),
    (r"y_score must be numbers of shape \(n = 3\) or", lambda: ours.roc_auc(Y, S[:2])),
    (r"y_prob must be floats of shape \(n = 3\)", lambda: probabilities.brier_score(Y, S[:2])),
    (r"y_score must be .*, got <U1 of", lambda: ours.precision_recall_curve(Y, ["a", "b", "c"])),
    (
        r"sample_weight must be numbers of shape \(n = 3\)",
        lambda: ours.accuracy(Y, Y, sample_weight=[1, 2]),
    ),
]


@pytest.mark.parametrize(("message", "call"), WRONG)
def test_wrong_arguments(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_lists_and_columns_are_taken_by_position():
    y, p = pd.Series([0, 1, 1], index=[2, 0, 1]), pd.Series([0, 1, 0], index=[1, 2, 0])
    assert ours.accuracy(y, p) == ours.accuracy([0, 1, 1], [0, 1, 0]) == 2 / 3
    assert ours.roc_auc(y, p) == reference.roc_auc_score(y, p)
    assert probabilities.brier_score(y, p) == pytest.approx(1 / 3)
    assert probabilities.calibration_error([0, 1], [0, 1]) == 0
