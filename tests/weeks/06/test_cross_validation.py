"""Week 06: splits, nested cross-validation and comparisons."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import model_selection as reference
from sklearn.neighbors import KNeighborsClassifier

from shared.run import Run
from week06 import comparison
from week06 import cross_validation as ours
from week06.evidence import cross_validation as evidence
from week06.metrics import accuracy

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", ["KFold", "StratifiedKFold", "GroupKFold"])
@given(st.integers(2, 5), st.booleans(), seeds)
def test_same_folds_as_sklearn(name, k, shuffle, seed):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.concatenate([np.repeat(list("bac"), k), rng.choice(list("abc"), 17)]))
    groups = rng.permutation(np.concatenate([np.arange(k), rng.integers(0, 9, 2 * k + 17)]))
    options = {"n_splits": k}
    if name != "GroupKFold":
        options |= {"shuffle": shuffle, "random_state": seed if shuffle else None}
        groups = None
    both = (getattr(module, name)(**options) for module in (ours, reference))
    pairs = (splitter.split(np.zeros((len(y), 1)), y, groups) for splitter in both)
    for mine, theirs in zip(*pairs, strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])


@pytest.mark.parametrize("splitter", [ours.KFold(3, True, 0), ours.StratifiedKFold(3, True, 0)])
def test_every_sample_is_tested_once(splitter):
    X, y = np.zeros((20, 1)), np.arange(20) % 2
    splits = list(splitter.split(X, y))
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(20))
    for train, test in splits:
        assert sorted([*train, *test]) == list(range(20))


def data(n=60, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return rng.normal(size=(n, 4)) + y[:, None], y


def test_cross_val_score_with_groups():
    X, y = data()
    groups = np.arange(60) // 5
    some = (ours.NearestNeighbor, X, y, ours.GroupKFold(3), accuracy)
    mine = ours.cross_val_score(*some, groups=groups)
    options = {"cv": reference.GroupKFold(3), "groups": groups}
    theirs = reference.cross_val_score(KNeighborsClassifier(1), X, y, **options)
    np.testing.assert_array_equal(mine, theirs)


def test_tuning_never_sees_the_outer_test_fold():
    X, y = data(60)
    seen = []

    class Watching(ours.SelectThenFit):
        def fit(self, X, y):
            seen.append(X)
            return super().fit(X, y)

    outer = ours.KFold(3)
    ours.nested_cross_val_score(Watching, {"k": [1, 2]}, X, y, outer, ours.KFold(2), accuracy)
    per_fold = len(seen) // 3
    for k, (_, test) in enumerate(outer.split(X)):
        tested = {row.tobytes() for row in X[test]}
        for fitted in seen[k * per_fold : (k + 1) * per_fold]:
            assert not tested & {row.tobytes() for row in fitted}


@given(st.integers(2, 40), st.floats(0.01, 1), seeds)
def test_correction_divides_t(n, share, seed):
    a, b = np.random.default_rng(seed).normal(size=(2, n))
    plain = comparison.corrected_resampled_ttest(a, b, test_share=0.0)
    fair = comparison.corrected_resampled_ttest(a, b, test_share=share)
    assert plain.t == pytest.approx(stats.ttest_rel(a, b).statistic)
    assert fair.t == pytest.approx(plain.t / np.sqrt(1 + n * share))
    assert fair.p == pytest.approx(2 * stats.t.sf(abs(fair.t), n - 1), rel=1e-9)
    assert fair.difference == plain.difference
    assert fair.high - fair.low > plain.high - plain.low


def test_the_same_difference_everywhere():
    a = np.full(5, 0.5)
    assert comparison.corrected_resampled_ttest(a, a, test_share=0.1).p == 1
    better = comparison.corrected_resampled_ttest(a + 0.25, a, test_share=0.1)
    assert (better.t, better.p) == (np.inf, 0)


def test_bootstrap_pairs_what_belongs_together():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    pred = np.where(rng.random(400) < 0.7, y, 1 - y)
    same = comparison.bootstrap_difference(y, pred, pred, accuracy, rng=rng, n_resamples=50)
    np.testing.assert_array_equal(same, 0)
    other = np.where(rng.random(400) < 0.1, 1 - pred, pred)
    draws = comparison.bootstrap_difference(y, pred, other, accuracy, rng=rng, n_resamples=2000)
    each = (pred == y).astype(float) - (other == y)
    assert draws.mean() == pytest.approx(each.mean(), abs=5 * each.std() / 20 / 2000**0.5)
    assert draws.std() == pytest.approx(each.std() / 20, rel=0.08)


def test_most_correlated():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 8)), rng.normal(size=30)
    X[:, 3] = 1.0  # constant: no correlation, no warning
    expected = [abs(np.corrcoef(X[:, j], y)[0, 1]) if j != 3 else -1 for j in range(8)]
    np.testing.assert_array_equal(ours.most_correlated(X, y, 4), np.argsort(expected)[::-1][:4])


def test_one_value_per_data_set(tmp_path):
    """The folds of one data set share their samples: only their mean is a value."""
    run = Run(tmp_path / "weeks" / "06" / "leak.py", mode="quick", out=tmp_path, quiet=True)
    evidence.selection_leak(run, 3)
    assert [row["n"] for row in run.claims + run.falsifiers] == [3, 3, 3, 3]


X, Y = np.zeros((6, 1)), np.array([0, 0, 0, 0, 1, 1])
TWO, ZERO, RNG = ours.KFold(2), np.zeros(3), np.random.default_rng(0)


def split(splitter, *others):
    next(splitter.split(X, *others))


def nested(**grid):
    ours.nested_cross_val_score(ours.NearestNeighbor, grid, X, Y, TWO, TWO, accuracy)


def t_test(scores, share):
    comparison.corrected_resampled_ttest(scores, scores, test_share=share)


def bootstrap(n):
    comparison.bootstrap_difference(Y, Y, Y, accuracy, rng=RNG, n_resamples=n)


WRONG = [
    ("between 2 and the number of samples = 6, got 7", lambda: split(ours.KFold(7))),
    ("samples of the rarest class = 2, got 3", lambda: split(ours.StratifiedKFold(3), Y)),
    ("number of groups = 2, got 3", lambda: split(ours.GroupKFold(3), Y, Y)),
    ("groups must hold a group for each of 6", lambda: split(ours.GroupKFold(3), Y)),
    ("y must hold a class for each of 6 samples", lambda: split(ours.StratifiedKFold(3))),
    ("grid must name at least one value", lambda: nested(k=[])),
    ("at least 2 splits, got 1", lambda: t_test(ZERO[:1], 0.1)),
    (r"test_share must be n_test / n_train, at least 0, got -1\.0", lambda: t_test(ZERO, -1.0)),
    ("k must be between 1 and n_features = 1, got 2", lambda: ours.most_correlated(X, Y, 2)),
    ("n_resamples must be at least 1, got 0", lambda: bootstrap(0)),
    (
        r"y must be values of shape \(n = 6\), got int64 of shape \(5\)",
        lambda: ours.cross_val_score(ours.NearestNeighbor, X, Y[:5], TWO, accuracy),
    ),
    (
        r"b must be floats of shape \(splits = 3\), got float64 of shape \(2\)",
        lambda: comparison.corrected_resampled_ttest([1, 2, 3], [1, 2], test_share=0.1),
    ),
]


@pytest.mark.parametrize(("message", "call"), WRONG)
def test_wrong_arguments(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_tables_are_taken_by_position():
    table = pd.DataFrame({"a": [0.0, 1.0, 10.0, 11.0]}, index=[3, 2, 1, 0])
    y, two = pd.Series([0, 0, 1, 1], index=[0, 2, 1, 3]), ours.StratifiedKFold(2)
    assert ours.cross_val_score(ours.NearestNeighbor, table, y, two, accuracy).mean() == 1
    twice = pd.concat([table] * 2), pd.concat([y] * 2)
    found = ours.nested_cross_val_score(ours.SelectThenFit, {"k": [1]}, *twice, two, two, accuracy)
    assert found[0].tolist() == [1, 1]
    draws = comparison.bootstrap_difference(y, y, 1 - y, accuracy, rng=np.random.default_rng(0))
    assert (draws == 1).any()
