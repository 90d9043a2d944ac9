"""Week 06: grid, random, halving, and Bayesian optimization."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from week06 import gaussian_process
from week06 import hyperparameter_search as ours

seeds = st.integers(0, 2**32 - 1)
SQUARE = np.array([[0.0, 1.0], [-2.0, 2.0]])


@given(st.integers(1, 15), st.integers(1, 3), st.floats(0.2, 2), seeds)
def test_process_equals_sklearn(n, d, length_scale, seed):
    rng = np.random.default_rng(seed)
    X, new, y = rng.uniform(size=(n, d)), rng.uniform(size=(7, d)), rng.normal(size=n)
    mine = gaussian_process.GaussianProcess(length_scale, 1.7, 0.01).fit(X, y)
    theirs = GaussianProcessRegressor(
        ConstantKernel(1.7) * Matern(length_scale, nu=2.5), alpha=0.01, optimizer=None
    ).fit(X, y)
    mean, std = theirs.predict(new, return_std=True)
    np.testing.assert_allclose(mine.predict(new)[0], mean, atol=1e-7)
    np.testing.assert_allclose(mine.predict(new)[1] ** 2, std**2, atol=1e-8)
    assert mine.log_marginal_likelihood_ == pytest.approx(
        theirs.log_marginal_likelihood_value_, rel=1e-8
    )


def test_without_noise_it_passes_through_the_points():
    X, y = np.array([[0.0], [0.5], [1.0]]), np.array([1.0, -1.0, 2.0])
    process = gaussian_process.GaussianProcess(0.3, 1.0, 0.0).fit(X, y)
    mean, std = process.predict(X)
    np.testing.assert_allclose(mean, y, atol=1e-8)
    np.testing.assert_allclose(std, 0, atol=1e-5)
    mean, std = process.predict(np.array([[100.0]]))  # far away: what was believed before
    np.testing.assert_allclose([mean[0], std[0]], [0, 1], atol=1e-12)


def test_likelihood_chooses_the_best_of_its_grid():
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(25, 1))
    y = np.sin(6 * X[:, 0]) + 0.1 * rng.normal(size=25)
    scales, ratios = np.array([0.01, 0.3, 5.0]), np.array([1e-4, 1e-2, 1.0])
    best = gaussian_process.fit_by_likelihood(X, y, length_scales=scales, noise_ratios=ratios)
    assert best.length_scale == 0.3
    for scale, ratio, v in itertools.product(scales, ratios, np.geomspace(0.1, 10, 9)):
        other = gaussian_process.GaussianProcess(scale, v, ratio * v).fit(X, y)
        assert other.log_marginal_likelihood_ <= best.log_marginal_likelihood_ + 1e-9


def test_expected_improvement_without_doubt():
    gain = ours.expected_improvement(np.array([1.0, 3.0, 2.0]), np.zeros(3), 2.0)
    np.testing.assert_array_equal(gain, [1, 0, 0])


def test_grid_and_random_points():
    grid = ours.grid_points(SQUARE, 3)
    assert grid.shape == (9, 2)
    np.testing.assert_allclose(np.unique(grid[:, 0]), [1 / 6, 1 / 2, 5 / 6])
    np.testing.assert_allclose(np.unique(grid[:, 1]), [-4 / 3, 0, 4 / 3], atol=1e-15)
    points = ours.random_points(SQUARE, 500, np.random.default_rng(0))
    assert ((points >= SQUARE[:, 0]) & (points <= SQUARE[:, 1])).all()
    assert len(np.unique(points[:, 0])) == 500  # as many values on each axis as points
    trace = ours.evaluate(lambda x: float(x[0]), grid)
    np.testing.assert_array_equal(trace.best_so_far, np.minimum.accumulate(grid[:, 0]))


def test_halving_schedule():
    rungs = ours.successive_halving(lambda c, n: c, 27, min_resource=1, max_resource=9)
    assert [(len(r.candidates), r.resource) for r in rungs] == [(27, 1), (9, 3), (3, 9)]
    assert rungs[-1].candidates.tolist() == [0, 1, 2]
    rungs = ours.successive_halving(lambda c, n: -c, 243, min_resource=1, max_resource=10**6)
    assert [len(r.candidates) for r in rungs] == [243, 81, 27, 9, 3, 1]
    assert rungs[-1].candidates.tolist() == [242]


def test_a_nan_does_not_survive():
    rungs = ours.successive_halving(
        lambda c, n: math.nan if c < 3 else c, 6, min_resource=1, max_resource=2, factor=2
    )
    assert rungs[-1].candidates.tolist() == [3, 4, 5]


def test_bayesian_search_finds_a_bowl():
    def bowl(x):
        return float((x[0] - 0.3) ** 2 + (x[1] / 4 - 0.2) ** 2)

    for seed in range(3):
        rng = np.random.default_rng(seed)
        found = ours.bayesian_search(bowl, SQUARE, 14, rng)
        other = ours.evaluate(bowl, ours.random_points(SQUARE, 14, rng))
        assert found.values.min() < other.values.min()
        assert found.points.shape == (14, 2)
        assert ((found.points >= SQUARE[:, 0]) & (found.points <= SQUARE[:, 1])).all()


def test_units_do_not_matter():
    """Scaled inputs and outputs give the same trials: the search standardizes both."""

    def bowl(x):
        return float((x[0] - 0.3) ** 2)

    line = np.array([[0.0, 1.0]])
    plain = ours.bayesian_search(bowl, line, 9, np.random.default_rng(0))
    scaled = ours.bayesian_search(
        lambda x: 1e4 * bowl(x / 1000) + 7, 1000 * line, 9, np.random.default_rng(0)
    )
    np.testing.assert_allclose(scaled.points, 1000 * plain.points, rtol=1e-4)


def test_constant_objective():
    trace = ours.bayesian_search(lambda x: 1.0, SQUARE, 8, np.random.default_rng(0))
    np.testing.assert_array_equal(trace.values, 1)


X, Y, RNG = np.zeros((2, 1)), np.zeros(2), np.random.default_rng(0)
Process = gaussian_process.GaussianProcess


def halve(least, **options):
    ours.successive_halving(max, 3, min_resource=least, max_resource=9, **options)


WRONG = [
    ("must be fitted before use", lambda: Process().predict(X)),
    ("length_scale must be positive, got 0", lambda: Process(0.0)),
    ("noise must be at least 0, got -1", lambda: Process(noise=-1.0)),
    ("finite numbers only", lambda: Process().fit(X, Y * np.nan)),
    ("X must have 1 columns as in fit, got 2", lambda: Process(1.0).fit(X, Y).predict(np.eye(2))),
    ("std must be at least 0, got -1", lambda: ours.expected_improvement(Y, Y - 1, 0.0)),
    ("bounds must be finite with low < high", lambda: ours.grid_points(SQUARE[:, ::-1], 2)),
    ("per_axis must be at least 1, got 0", lambda: ours.grid_points(SQUARE, 0)),
    ("n must be at least 1, got 0", lambda: ours.random_points(SQUARE, 0, RNG)),
    ("factor must be at least 2, got 1", lambda: halve(1, factor=1)),
    ("min_resource must be between 1 and max_resource = 9", lambda: halve(10)),
    (
        "n_initial must be between 2 and budget = 3",
        lambda: ours.bayesian_search(max, SQUARE, 3, RNG),
    ),
]


@pytest.mark.parametrize(("message", "call"), WRONG)
def test_wrong_arguments(message, call):
    with pytest.raises(ValueError, match=message):
        call()
