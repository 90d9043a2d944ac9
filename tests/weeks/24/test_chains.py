"""Many chains at once: the same trees as the recursion's, the same laws, and ranks of the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from week24 import chains, hmc_nuts
from week24.calibration import ranks, uniformity, unweighted
from week24.evidence import hmc_nuts as evidence
from week24.hmc import Metric, State, at
from week24.posteriors import eight_schools, funnel, gaussian, random_covariance

LEAST_P = 1e-4


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(q):
    return -0.5 * (q**2).sum(axis=-1), -q


def rows(target, q, p=None) -> State:
    return State(q, np.zeros_like(q) if p is None else p, *target(q))


class Coins:
    """Directions as told; whatever else is drawn is one half."""

    def __init__(self, coins):
        self.coins = iter(coins)

    def integers(self, n, size=None):
        coin = next(self.coins)
        return coin if size is None else np.array(coin)

    def random(self, size=None):
        return 0.5 if size is None else np.full(size, 0.5)


TARGETS = {
    "schools": (eight_schools(centered=False), 10),
    "centered schools": (eight_schools(centered=True), 10),
    "funnel": (funnel(3), 3),
    "gaussian": (gaussian(random_covariance(2, 30.0, np.random.default_rng(0))), 2),
}


@given(st.sampled_from(list(TARGETS)), st.floats(0.05, 2.5), st.integers(0, 999))
def test_trees_are_those_of_the_recursion(name, size, seed):
    """Given the coins, a trajectory has nothing random: its ends, its weight, what it cost."""
    (target, dim), rng, many, deep = TARGETS[name], np.random.default_rng(seed), 4, 7
    q, p = 0.5 * rng.normal(size=(many, dim)), rng.normal(size=(many, dim))
    inverse_mass, step = rng.uniform(0.5, 2, (many, dim)), size * rng.uniform(0.5, 1, many)
    coins = rng.integers(2, size=(deep, many))
    grown = chains.grow(target, rows(target, q, p), step, inverse_mass, Coins(coins), deep)
    for i in range(many):
        start, metric = at(target, q[i], p[i]), Metric(inverse_mass[i])
        tree, depth = hmc_nuts.trajectory(
            target, start, step[i], metric, Coins(coins[:, i]), max_depth=deep
        )
        ours = [grown.left.q, grown.left.p, grown.right.q, grown.right.p]
        for mine, theirs in zip(
            ours, [tree.left.q, tree.left.p, tree.right.q, tree.right.p], strict=True
        ):
            np.testing.assert_allclose(mine[i], theirs, rtol=1e-6, atol=1e-6)
        moves = grown.moves
        np.testing.assert_allclose(grown.log_weight[i], tree.log_weight, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(moves.accept[i], tree.accept / tree.size, rtol=1e-6, atol=1e-9)
        assert (moves.n_leapfrogs[i], moves.depth[i]) == (tree.size, depth)
        assert moves.diverged[i] == tree.diverged


def test_turns_across_the_seam_are_seen(rng):
    """On a circle with turns of 45 to 60 degrees per step four states have not turned.

    Eight have, by more than a whole turn, so that their ends agree with their sum again.
    """
    step = np.linspace(0.78, 0.98, 20)
    q = np.column_stack([(1 - step**2 / 4) ** -0.5, 0 * step])  # momenta of leapfrogs on a circle
    p = np.tile([0.0, 1.0], (20, 1))
    start, metric, going = rows(normal, q, p), np.ones((20, 2)), np.ones(20, bool)
    before = chains.energies(start, metric)
    for depth, stops in [(2, False), (3, True)]:
        new = chains.half(normal, start, step, metric, before, going, depth, rng)
        assert (new.stop == stops).all()
        assert not (chains.turned(new.first_p, new.end.p, new.rho, metric)).any()
    assert (chains.grow(normal, start, step, metric, rng).moves.n_leapfrogs == 7).all()


KERNELS = {"NUTS": chains.nuts(), "shallow NUTS": chains.nuts(2), "HMC": chains.hmc(1.5)}


@pytest.mark.parametrize("step", [0.25, 0.9])
@pytest.mark.parametrize("name", KERNELS)
def test_one_step_leaves_the_law(name, step, rng):
    starts = rng.multivariate_normal([0, 0], evidence.TRAP, 20_000)
    q = evidence.stepped_together(gaussian(evidence.TRAP), KERNELS[name], starts, rng, step)
    sizes = np.einsum("ni,ij,nj->n", q, np.linalg.inv(evidence.TRAP), q)
    assert stats.kstest(q[:, 0], stats.norm(scale=2**0.5).cdf).pvalue > LEAST_P
    assert stats.kstest(sizes, stats.chi2(2).cdf).pvalue > LEAST_P
    assert (q != starts).any(axis=1).mean() > 0.5


def test_exact_draws_of_the_funnel_stay_exact(rng):
    v = 3 * rng.normal(size=(4000, 1))
    q = np.concatenate([v, np.exp(v / 2) * rng.normal(size=(4000, 2))], axis=1)
    moved = evidence.stepped_together(funnel(3), chains.nuts(6), q, rng, step=0.4)
    assert stats.kstest(moved[:, 0], stats.norm(scale=3).cdf).pvalue > LEAST_P
    z = moved[:, 1] * np.exp(-moved[:, 0] / 2)
    assert stats.kstest(z, "norm").pvalue > LEAST_P


def test_each_chain_draws_new_momenta(rng):
    """With old ones a chain would stay on one level of energy."""
    q = rows(normal, np.full((2000, 1), 1e-3))
    for _ in range(12):
        step, metric = np.full(2000, 0.2), np.ones((2000, 1))
        q = chains.hmc(1.0)(normal, q, step, metric, rng).state
    assert stats.kstest(q.q[:, 0], "norm").pvalue > LEAST_P


def test_a_divergence_is_told_and_left_out(rng):
    def cliff(q):
        return np.where(q[:, 0] < 0.5, -0.5 * q[:, 0] ** 2, -1e6), -q

    for kernel in (chains.nuts(), chains.hmc(1.5)):
        start, step, metric = rows(cliff, np.full((60, 1), 0.4)), np.full(60, 0.2), np.ones((60, 1))
        moved = kernel(cliff, start, step, metric, rng)
        assert moved.diverged.any()
        assert not moved.diverged.all()
        assert (moved.state.q < 0.5).all()


def test_each_chain_learns_its_own_step_and_scales(rng):
    """Rows may have targets of their own; the first half here is ten times as wide."""
    scales = np.repeat([10.0, 1.0], 10)[:, None] * np.array([[1.0, 0.2]])

    def target(q):
        one = q.ndim == 1  # the search for a first step is of one chain, here of an average one
        s = scales.mean(axis=0) if one else scales
        return -0.5 * ((q / s) ** 2).sum(axis=-1), -q / s**2

    found = chains.sample_chains(target, scales, chains.nuts(), 150, 60, rng)
    learned = np.array([metric.inverse_mass for metric in found.metrics]) ** 0.5
    assert np.median(abs(learned / scales - 1)) < 0.3
    np.testing.assert_allclose(found.draws[:10].std(axis=(0, 1)), [10.0, 2.0], rtol=0.2)
    np.testing.assert_allclose(found.draws[10:].std(axis=(0, 1)), [1.0, 0.2], rtol=0.2)
    assert 0.75 < found.accept.mean() < 0.98
    assert found.n_leapfrogs.mean() < 10


def test_warm_up_is_not_among_the_draws(rng):
    found = chains.sample_chains(normal, np.full((3, 2), 50.0), chains.nuts(), 100, 20, rng)
    assert found.draws.shape == (3, 20, 2)
    assert abs(found.draws).max() < 10


# ---- simulation-based calibration


def test_ranks_of_the_truth_are_uniform(rng):
    assert uniformity(ranks(chains.nuts(), 800, rng)) > 0.01
    assert uniformity(ranks(chains.hmc(1.0), 800, rng)) > 0.01


def test_a_wrong_sampler_gives_ranks_that_are_not(rng):
    assert uniformity(ranks(unweighted, 800, rng)) < 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chains.nuts(0), "max_depth must be between 1 and 20, got 0"),
        (lambda: chains.hmc(0.0), "path_length must be positive"),
        (lambda: draw(n=0), "n_draws must be at least 1, got 0"),
        (lambda: draw(warmup=-1), "n_warmup must be at least 0, got -1"),
        (lambda: draw(start=np.full((2, 2), np.inf)), "start must have positive density"),
        (lambda: ranks(chains.nuts(), 0, np.random.default_rng(0)), "replicates must be at least"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def draw(start=((0.0, 0.0), (0.0, 0.0)), warmup=5, n=5):
    start, rng = np.array(start), np.random.default_rng(0)
    return chains.sample_chains(normal, start, chains.nuts(), warmup, n, rng)
