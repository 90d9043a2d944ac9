"""HMC and NUTS: theorems of the integrator, one exact step, tuning, and the trees themselves."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import check_grad

from shared.study import Run
from week24 import hmc_nuts
from week24.adaptation import DualAveraging, sample, shrunk, windows
from week24.calibration import uniformity
from week24.evidence import hmc_nuts as evidence
from week24.evidence import other_samplers
from week24.hmc import Metric, State, at, energy, hmc, leapfrog
from week24.hmc_nuts import join, leaf, nuts, trajectory
from week24.posteriors import (
    EFFECTS,
    ERRORS,
    eight_schools,
    funnel,
    gaussian,
    logistic,
    random_covariance,
    schools_theta,
)

LEAST_P = 1e-4
TARGETS = {
    "gaussian": (lambda rng: gaussian(random_covariance(4, 10.0, rng)), 4),
    "funnel": (lambda rng: funnel(4), 4),
    "centered schools": (lambda rng: eight_schools(centered=True), 10),
    "schools": (lambda rng: eight_schools(centered=False), 10),
    "logistic": (
        lambda rng: logistic(rng.normal(size=(9, 3)), (rng.random(9) < 0.5).astype(float)),
        4,
    ),
}


def normal(q):
    return -0.5 * float(q.dot(q)), -q


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", TARGETS)
def test_gradients_are_those_of_the_density(name, rng):
    make, dim = TARGETS[name]
    target, q = make(rng), rng.normal(size=dim)
    error = check_grad(lambda q: target(q)[0], lambda q: target(q)[1], q)
    assert error < 1e-4 * (1 + np.linalg.norm(target(q)[1]))


@pytest.mark.parametrize("centered", [False, True])
def test_the_schools_are_what_they_say(centered, rng):
    """scipy's densities, times the Jacobian tau of log tau."""

    def density(q):
        mu, tau, theta = q[0], np.exp(q[1]), schools_theta(q[None], centered=centered)[0]
        prior = stats.norm(mu, tau).logpdf(theta) if centered else stats.norm.logpdf(q[2:])
        hyper = stats.norm(0, 5).logpdf(mu) + stats.halfcauchy(scale=5).logpdf(tau) + q[1]
        return hyper + prior.sum() + stats.norm(theta, ERRORS).logpdf(EFFECTS).sum()

    target, points = eight_schools(centered=centered), rng.normal(size=(5, 10))
    ours = [target(q)[0] for q in points]
    np.testing.assert_allclose(np.diff(ours), np.diff([density(q) for q in points]), rtol=1e-9)


@pytest.mark.parametrize("name", TARGETS)
def test_a_table_of_points_is_as_good_as_one_after_the_other(name, rng):
    make, dim = TARGETS[name]
    target, points = make(rng), rng.normal(size=(6, dim))
    density, gradient = target(points)
    for i, q in enumerate(points):
        np.testing.assert_allclose(density[i], target(q)[0], rtol=1e-12)
        np.testing.assert_allclose(gradient[i], target(q)[1], rtol=1e-12, atol=1e-12)


# ---- leapfrog


@given(st.sampled_from(list(TARGETS)), st.integers(0, 99), st.booleans())
def test_leapfrog_goes_back_where_it_came_from(name, seed, dense):
    rng = np.random.default_rng(seed)
    make, dim = TARGETS[name]
    target = make(rng)
    metric = Metric(random_covariance(dim, 5.0, rng) if dense else rng.uniform(0.5, 2, dim))
    start = at(target, 0.3 * rng.normal(size=dim), metric.draw(rng))
    state = start
    for step in [0.05] * 8 + [-0.05] * 8:
        state = leapfrog(target, state, step, metric)
    np.testing.assert_allclose(state.q, start.q, atol=1e-10)
    np.testing.assert_allclose(state.p, start.p, atol=1e-10)


def test_energy_error_is_of_second_order(rng):
    metric = Metric(np.ones(10))
    target = eight_schools(centered=False)
    start = at(target, 0.5 * rng.normal(size=10), metric.draw(rng))
    errors = []
    for n in (20, 40):
        state = start
        for _ in range(n):
            state = leapfrog(target, state, 0.4 / n, metric)
        errors.append(abs(energy(state, metric) - energy(start, metric)))
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.2


def test_dense_momenta_have_covariance_m(rng):
    inverse = np.array([[2.0, 1.5], [1.5, 2.0]])
    metric = Metric(inverse)
    momenta = np.array([metric.draw(rng) for _ in range(4000)])
    np.testing.assert_allclose(np.cov(momenta.T), [[1.14, -0.86], [-0.86, 1.14]], atol=0.1)
    diagonal = Metric(np.array([4.0, 0.25]))
    spread = np.std([diagonal.draw(rng) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(spread, [0.5, 2.0], rtol=0.05)


# ---- one step from exact draws


KERNELS = {"NUTS": nuts(), "shallow NUTS": nuts(max_depth=2), "HMC": hmc(1.5)}


@pytest.mark.parametrize("name", KERNELS)
def test_one_step_leaves_the_law(name, rng):
    target, n = gaussian(evidence.TRAP), 2000
    starts = rng.multivariate_normal([0, 0], evidence.TRAP, n)
    q = evidence.stepped(target, KERNELS[name], starts, rng, step=0.6)
    sizes = np.einsum("ni,ij,nj->n", q, np.linalg.inv(evidence.TRAP), q)
    assert stats.kstest(q[:, 0], stats.norm(scale=2**0.5).cdf).pvalue > LEAST_P
    assert stats.kstest(sizes, stats.chi2(2).cdf).pvalue > LEAST_P


def test_one_step_forgets_the_start(rng):
    q = rng.normal(size=(1500, 2))
    moved = evidence.stepped(normal, nuts(), q, rng, step=0.3)
    assert abs(np.corrcoef(q[:, 0], moved[:, 0])[0, 1]) < 0.35
    assert abs(np.corrcoef((q**2).sum(1), (moved**2).sum(1))[0, 1]) < 0.8  # energy changes too


def test_hmc_draws_new_momenta(rng):
    """With old ones the chain would stay on one level of energy."""
    draws = sample(normal, np.full((1, 2), 0.01), hmc(1.0), 0, 400, rng, step=0.2).flat
    assert stats.kstest(draws[50::4, 0], "norm").pvalue > LEAST_P


# ---- trees


def grown(step: float, seed: int, dim: int = 3):
    rng = np.random.default_rng(seed)
    metric = Metric(np.ones(dim))
    start = at(normal, rng.normal(size=dim), rng.normal(size=dim))
    return start, trajectory(normal, start, step, metric, rng)[0]


def states_of(tree, step: float, dim: int = 3) -> list[State]:
    """From its left end to its right one."""
    states = [tree.left]
    while not np.allclose(states[-1].q, tree.right.q, atol=1e-9) and len(states) < 1100:
        states.append(leapfrog(normal, states[-1], step, Metric(np.ones(dim))))
    return states


@given(st.floats(0.05, 1.5), st.integers(0, 99))
def test_no_part_of_a_tree_has_turned(step, seed):
    """Else not every state of it would have grown it; the whole may have: that ends it."""
    _, tree = grown(step, seed)
    states, size = states_of(tree, step), 2
    while size < len(states):
        for i in range(0, len(states), size):
            part = [state.p for state in states[i : i + size]]
            assert part[0] @ sum(part) > 0
            assert part[-1] @ sum(part) > 0
        size *= 2


@given(st.floats(0.05, 1.5), st.integers(0, 99))
def test_a_tree_is_a_stretch_of_one_trajectory(step, seed):
    start, tree = grown(step, seed)
    metric, states = Metric(np.ones(3)), states_of(tree, step)
    assert np.log2(len(states)) % 1 == 0, "a power of two"
    assert any(np.allclose(s.q, start.q, atol=1e-9) for s in states)
    assert any(np.allclose(s.q, tree.chosen.q, atol=1e-9) for s in states)
    gains = [energy(start, metric) - energy(s, metric) for s in states]
    np.testing.assert_allclose(tree.log_weight, np.logaddexp.reduce(gains), atol=1e-9)
    np.testing.assert_allclose(tree.rho, sum(s.p for s in states), atol=1e-8)


def test_depth_does_not_saturate_at_any_step():
    """A criterion that looks at the ends alone misses turns where steps and period agree."""
    rng, metric = np.random.default_rng(1), Metric(np.ones(20))
    for step in np.linspace(0.1, 1.2, 56):
        start = at(normal, rng.normal(size=20), rng.normal(size=20))
        tree, depth = trajectory(normal, start, step, metric, rng)
        assert step * tree.size < 8 * np.pi, f"step {step}: {tree.size} leapfrogs"
        assert depth < 9


def test_the_seam_of_two_halves_is_looked_at():
    """Ends that agree with the sum, and a half that turns into the other's direction."""
    metric = Metric(np.ones(1))

    def stretch(p_left, p_right, rho):
        left, right = (
            State(np.zeros(1), np.array([p]), 0.0, np.zeros(1)) for p in (p_left, p_right)
        )
        rest = {"stop": False, "diverged": False, "accept": 1.0, "size": 2}
        return hmc_nuts.Tree(left, right, left, 0.0, np.array([rho]), **rest)

    rng = np.random.default_rng(0)
    first, last = stretch(1.0, 1.0, 2.0), stretch(1.0, 1.0, 2.0)
    assert not join(first, last, True, metric, rng).stop
    assert join(first, stretch(-3.0, 1.0, 2.0), True, metric, rng).stop
    assert join(stretch(1.0, -3.0, 2.0), last, True, metric, rng).stop


def test_inside_a_half_every_state_counts_by_its_weight():
    """Two leaves of weights 1 and 3: the second is drawn three times out of four."""
    rng, metric = np.random.default_rng(0), Metric(np.ones(1))

    def single(log_weight):
        state = State(np.array([log_weight]), np.ones(1), log_weight, np.zeros(1))
        return leaf(state, energy(state, metric), metric)._replace(log_weight=log_weight)

    first, second = single(0.0), single(np.log(3.0))
    for biased, share in [(False, 0.25), (True, 1 / 3)]:
        taken = [
            join(second, first, True, metric, rng, biased=biased).chosen.q[0] for _ in range(4000)
        ]
        assert abs(np.mean(np.array(taken) == 0.0) - share) < 0.04


def test_a_divergence_is_told_and_left_out(rng):
    def cliff(q):
        return (-0.5 * float(q.dot(q)), -q) if q[0] < 0.5 else (-1e6, -q)

    metric = Metric(np.ones(1))
    moves = [nuts()(cliff, at(cliff, np.array([0.4])), 0.2, metric, rng) for _ in range(40)]
    assert any(m.diverged for m in moves)
    assert all(m.state.q[0] < 0.5 for m in moves)


# ---- tuning


def test_dual_averaging_finds_the_step():
    """Acceptance exp(-step): 0.8 is asked for, so the step is -log 0.8."""
    tuned = DualAveraging(5.0, 0.8)
    for _ in range(3000):
        tuned.update(float(np.exp(-tuned.step)))
    assert abs(np.exp(-tuned.averaged) - 0.8) < 0.005


def test_what_is_kept_is_an_average(rng):
    """With acceptances of 0 or 1 the last step is anywhere."""
    for _ in range(5):
        tuned = DualAveraging(5.0, 0.8)
        for _ in range(3000):
            tuned.update(float(rng.random() < np.exp(-tuned.step)))
        assert abs(np.exp(-tuned.averaged) - 0.8) < 0.03


@given(st.integers(0, 3000))
def test_windows_lie_one_behind_the_other(n_warmup):
    found = windows(n_warmup)
    assert all(a < b <= n_warmup for a, b in found)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(found))
    lengths = [b - a for a, b in found]
    assert lengths == sorted(lengths)


def test_windows_are_stans():
    assert windows(1000) == [(75, 100), (100, 150), (150, 250), (250, 450), (450, 950)]


def test_a_window_of_one_kind_of_draws_still_gives_a_metric(rng):
    assert (shrunk(np.zeros((25, 3)), dense=False) > 0).all()
    assert np.linalg.eigvalsh(shrunk(np.zeros((25, 3)), dense=True)).min() > 0


@pytest.mark.parametrize("dense", [False, True])
def test_the_metric_learns_the_scales(dense, rng):
    scales = np.array([0.1, 1.0, 3.0])
    target = gaussian(np.diag(scales**2))
    found = sample(target, np.zeros((1, 3)), nuts(), 150, 150, rng, dense=dense)
    inverse = found.metrics[0].inverse_mass
    learned = np.sqrt(np.diag(inverse) if dense else inverse)
    np.testing.assert_allclose(learned, scales, rtol=0.5)
    np.testing.assert_allclose(found.flat.std(axis=0), scales, rtol=0.3)
    assert found.n_leapfrogs.mean() < 10
    assert 0.7 < found.accept.mean() < 0.98


def test_warm_up_is_not_among_the_draws(rng):
    found = sample(normal, np.full((2, 2), 50.0), nuts(), 150, 50, rng)
    assert found.draws.shape == (2, 50, 2)
    assert abs(found.draws).max() < 10


# ---- the judge


def test_uniform_ranks_pass_and_others_do_not(rng):
    flat = rng.integers(0, 20, size=(600, 3))
    assert uniformity(flat) > 0.01
    assert uniformity(np.minimum(flat, rng.integers(0, 20, size=(600, 3)))) < 1e-6
    one_bad = np.column_stack([flat[:, :2], np.full(600, 3)])
    assert uniformity(one_bad) < 1e-6


def test_moments_apart_are_told():
    """Ten errors are not within four, small as the difference is."""
    ours = {"mean": np.array([0.1]), "mcse_mean": np.array([0.01]), "sd": np.array([1.0])}
    ours |= {"mcse_sd": np.array([0.01])}
    run = Run(Path(evidence.__file__), quiet=True)
    other_samplers.same_moments(run, "same", ours, ours | {"mean": np.array([0.11])})
    assert run.passed
    other_samplers.same_moments(run, "apart", ours, ours | {"mean": np.array([0.3])})
    assert not run.passed


def test_effects_of_both_forms(rng):
    q = rng.normal(size=(1, 10))
    theta = schools_theta(q, centered=False)
    as_centered = np.column_stack([q[:, :2], theta])
    np.testing.assert_array_equal(schools_theta(as_centered, centered=True), theta)


# ---- wrong input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nuts(0), "max_depth must be between 1 and 20, got 0"),
        (lambda: hmc(0.0), "path_length must be positive"),
        (lambda: hmc(1.0, 0), "max_leapfrogs must be at least 1"),
        (lambda: Metric(np.array([1.0, -1.0])), "inverse_mass must be positive"),
        (lambda: DualAveraging(1.0, 1.0), "target_accept must be in"),
        (lambda: funnel(1), "dim must be at least 2, got 1"),
        (lambda: logistic(np.zeros((2, 1)), np.array([0.0, 2.0])), "y must hold 0 and 1"),
        (
            lambda: sample(normal, np.zeros((1, 2)), nuts(), 5, 0, np.random.default_rng(0)),
            "n_draws must be at least 1",
        ),
        (
            lambda: sample(normal, np.full((1, 2), np.inf), nuts(), 5, 5, np.random.default_rng(0)),
            "start must have positive density",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
