"""Flows whose ends and densities are known, against closed forms and scipy."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import solve_ivp

from week23.evidence.flow_matching import energy_distance, ring
from week23.flow_matching import (
    Mixture,
    VelocityNet,
    exact_velocity,
    integrate,
    line,
    log_density,
    matching,
    straightness,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(seed: int, k: int, d: int) -> Mixture:
    draw = generator(seed)
    weights = torch.rand(k, generator=draw).double() + 0.2
    means = 1.5 * torch.randn(k, d, generator=draw).double()
    return Mixture(weights / weights.sum(), means, 0.4 + torch.rand(k, generator=draw).double())


@given(seed=st.integers(0, 10**6), d=st.integers(1, 3))
@settings(max_examples=8)
def test_to_a_gaussian_the_flow_is_a_stretch(seed, d):
    data, noise = mixture(seed, 1, d), torch.randn(6, d, generator=generator(seed)).double()
    velocity = exact_velocity(data)
    exact = data.means + data.spreads * noise
    ends = integrate(velocity, noise, steps=60, method="rk4")
    torch.testing.assert_close(ends, exact, atol=1e-5, rtol=1e-5)
    back = integrate(velocity, exact, steps=60, method="rk4", times=(1.0, 0.0))
    torch.testing.assert_close(back, noise, atol=1e-5, rtol=1e-5)
    middle = integrate(velocity, noise, steps=40, method="rk4", times=(0.0, 0.6))
    spread = math.sqrt(0.4**2 + 0.6**2 * float(data.spreads) ** 2)
    torch.testing.assert_close(middle, 0.6 * data.means + spread * noise, atol=1e-5, rtol=1e-5)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 3))
@settings(max_examples=5)
def test_in_one_dimension_the_flow_keeps_order_and_shares(seed, k):
    data, noise = mixture(seed, k, 1), torch.linspace(-2, 2, 9).double()[:, None]
    ends = integrate(exact_velocity(data), noise, steps=200, method="rk4")
    below = stats.norm.cdf(ends, data.means.T, data.spreads) @ data.weights.numpy()
    torch.testing.assert_close(
        torch.from_numpy(below), torch.from_numpy(stats.norm.cdf(noise[:, 0])), atol=1e-5, rtol=0
    )


@given(seed=st.integers(0, 10**6), k=st.integers(1, 3), d=st.integers(1, 3))
@settings(max_examples=5)
def test_log_density_is_the_mixtures(seed, k, d):
    data = mixture(seed, k, d)
    x = data.sample(5, generator(seed))
    found = log_density(exact_velocity(data), x, steps=100)
    torch.testing.assert_close(found, data.log_prob(x), atol=1e-4, rtol=1e-4)


def test_the_exact_velocity_is_the_mean_of_the_lines():
    data, draw = mixture(3, 2, 1), generator(4)
    x0, x1 = torch.randn(400_000, 1, generator=draw).double(), data.sample(400_000, draw)
    velocity = exact_velocity(data)
    for t in (0.2, 0.7):
        x = line(x0, x1, torch.full_like(x0, t))[:, 0]
        near = (x > 0.4) & (x < 0.5)
        measured = (x1 - x0)[near].mean()
        exact = velocity(x[near, None], torch.full((int(near.sum()), 1), t).double()).mean()
        assert abs(float(measured - exact)) < 5 * float((x1 - x0)[near].std() / near.sum() ** 0.5)


def test_matching_by_hand_and_least_at_the_exact_velocity():
    x0, x1, t = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.25]])
    torch.testing.assert_close(line(x0, x1, t), torch.tensor([[1.5, 1.0]]))
    found = matching(lambda x, t: x + t, x0, x1, t)  # (1.75, 1.25) - (2, 4)
    torch.testing.assert_close(found, torch.tensor([0.0625 + 7.5625]))
    data, draw = ring(), generator()
    x0, x1 = torch.randn(4000, 2, generator=draw), data.sample(4000, draw)
    t, velocity = torch.rand(4000, 1, generator=draw), exact_velocity(data)
    least = matching(velocity, x0, x1, t).mean()
    assert least < matching(lambda x, t: 0.9 * velocity(x, t), x0, x1, t).mean()
    assert least < matching(lambda x, t: velocity(x, t) + 0.3, x0, x1, t).mean()


def test_euler_by_hand_and_orders():
    grow = lambda x, t: x  # noqa: E731
    one = torch.ones(1, 1).double()
    assert integrate(grow, one, steps=2).item() == 2.25
    errors = [
        abs(integrate(grow, one, steps=n, method=method).item() - math.e)
        for method in ("euler", "rk4")
        for n in (10, 20)
    ]
    assert 1.8 < errors[0] / errors[1] < 2.2
    assert 14 < errors[2] / errors[3] < 18
    moving = integrate(lambda x, t: 2 * t, torch.zeros(1, 1), steps=4)  # left ends: 0, ½, 1, 1½
    torch.testing.assert_close(moving, torch.tensor([[0.75]]))


def test_paths_are_scipys():
    velocity, start = exact_velocity(mixture(5, 3, 2)), torch.tensor([[0.3, -1.0]]).double()

    def field(t, x):
        return velocity(torch.from_numpy(x)[None], torch.tensor([[t]]).double())[0].numpy()

    theirs = solve_ivp(field, (0, 1), start[0].numpy(), rtol=1e-9, atol=1e-10).y[:, -1]
    ours = integrate(velocity, start, steps=100, method="rk4")[0]
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-6, rtol=1e-6)


def test_diffusers_counts_time_from_data_to_noise():
    from diffusers import FlowMatchEulerDiscreteScheduler

    velocity, x = exact_velocity(ring()), torch.randn(5, 2, generator=generator())
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    theirs = x
    for t in scheduler.timesteps:
        at = x.new_full((5, 1), 1 - float(t) / 1000)
        theirs = scheduler.step(-velocity(theirs, at), t, theirs).prev_sample
    torch.testing.assert_close(integrate(velocity, x, steps=4), theirs, atol=1e-5, rtol=1e-5)


def test_straightness_is_zero_on_straight_lines_only():
    shift = lambda x, t: torch.ones_like(x)  # noqa: E731
    x0 = torch.randn(20, 2, generator=generator())
    assert straightness(shift, x0) < 1e-10
    # v = 2t over [0, 1]: the chord is near 1, and (1 - 2t)² has mean 1/3 in each dimension
    assert abs(straightness(lambda x, t: 2 * t + 0 * x, x0, steps=400) - 2 / 3) < 0.01
    assert straightness(exact_velocity(ring()), x0) > 0.05


def test_energy_distance_is_scipys_squared():
    a, b = torch.randn(40, 1, generator=generator()), 2 + torch.randn(30, 1, generator=generator(1))
    theirs = stats.energy_distance(a[:, 0].numpy(), b[:, 0].numpy()) ** 2
    assert abs(energy_distance(a, b) - theirs) < 1e-5


def test_a_network_hears_the_time():
    net, x = VelocityNet(2, 8, generator()), torch.randn(4, 2, generator=generator(1))
    assert not torch.allclose(net(x, torch.zeros(4, 1)), net(x, torch.ones(4, 1)))
    assert net(x, torch.zeros(4, 1)).shape == (4, 2)


def test_bad_input():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        integrate(lambda x, t: x, torch.zeros(1, 1), steps=0)
