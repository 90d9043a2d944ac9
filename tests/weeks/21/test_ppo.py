"""The environment is gymnasium's, the update CleanRL's, and training leaves nothing to chance."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week21.cartpole import CartPole
from week21.evidence.ppo import (
    RandomRewards,
    balance,
    cleanrl_steps,
    curve,
    gain,
    mean_length,
    our_steps,
    random_rows,
)
from week21.ppo import (
    ActorCritic,
    Log,
    PPOConfig,
    advantages_of,
    clip_gradients,
    collect,
    finished,
    train,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- the environment


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20)
def test_poles_fall_as_gymnasiums_do(seed):
    from gymnasium.envs.classic_control.cartpole import CartPoleEnv

    rng, theirs = np.random.default_rng(seed), CartPoleEnv()
    theirs.reset(seed=seed)
    theirs.state = rng.uniform(-0.2, 0.2, 4) * [10, 5, 1, 5]
    ours = CartPole(3, rng)
    ours.reset()
    ours.state[1] = theirs.state
    for _ in range(30):
        action = rng.integers(2, size=3)
        observed, reward, over, *_ = theirs.step(int(action[1]))
        _, rewards, terminated, truncated, reached = ours.step(action)
        np.testing.assert_allclose(reached[1], theirs.state, atol=1e-12)
        np.testing.assert_allclose(reached[1].astype(np.float32), observed, rtol=1e-6)
        assert terminated[1] == over
        assert rewards[1] == reward == 1
        if over:
            break
        assert not truncated[1]


def test_an_episode_that_is_over_starts_again_and_says_where_it_was():
    poles = CartPole(2, np.random.default_rng(0), limit=3)
    poles.reset()
    poles.state[0] = [2.39, 5, 0, 0]
    states, _, terminated, truncated, reached = poles.step(np.array([1, 1]))
    assert terminated.tolist() == [True, False]
    assert reached[0, 0] > 2.4 > 0.05 > abs(states[0, 0])
    assert (states[1] == reached[1]).all()
    for _ in range(2):
        _, _, terminated, truncated, _ = poles.step(np.array([0, 1]))
    assert truncated.tolist() == [False, True]  # the first began again a step later
    assert not terminated.any()


# ---- the update


@pytest.mark.parametrize(
    "config",
    [
        PPOConfig(value_clip=0.2, max_grad_norm=0.1),
        PPOConfig(clip=0.05, entropy_weight=0.1, value_weight=1.0, lr=1e-2),
    ],
)
def test_weights_after_some_minibatches_are_cleanrls(config):
    model, other = ActorCritic(4, 2, generator()).double(), ActorCritic(4, 2).double()
    other.load_state_dict(model.state_dict())
    batches = [random_rows(model, generator(i)) for i in range(4)]
    ours, theirs = our_steps(model, batches, config), cleanrl_steps(other, batches, config)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


@given(seed=st.integers(0, 10**6), limit=st.floats(0.01, 10))
@settings(max_examples=20)
def test_the_joint_norm_is_clipped(seed, limit):
    params = [torch.zeros(3), torch.zeros(2, 2)]
    for i, p in enumerate(params):
        p.grad = torch.randn(p.shape, generator=generator(seed + i))
    other = [torch.zeros(3), torch.zeros(2, 2)]
    for p, q in zip(params, other, strict=True):
        q.grad = p.grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(other, limit)
    assert clip_gradients(params, limit) == pytest.approx(norm.item(), rel=1e-5)
    for p, q in zip(params, other, strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_orthogonal_weights_and_a_policy_that_begins_uniform():
    model = ActorCritic(4, 2, generator())
    weight = model.policy[2].weight
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(64), atol=1e-5, rtol=0)
    logits, values = model(torch.randn(50, 4, generator=generator()))
    assert logits.abs().max() < 0.05 < values.abs().max()
    assert ActorCritic(4, 2, generator(), orthogonal=False).policy[0].bias.abs().max() > 0.1


def test_a_cut_off_episode_is_worth_its_last_state_unless_switched_off():
    poles = CartPole(2, np.random.default_rng(0), limit=4)
    model = ActorCritic(4, 2, generator())
    rollout, _ = collect(model, poles, poles.reset(), 8, generator())
    assert rollout.truncated[3].all()
    with torch.no_grad():
        worth = model(rollout.reached[3])[1]
    config = PPOConfig(gamma=0.9)
    found = advantages_of(model, rollout, config)[3]
    torch.testing.assert_close(found, 1 + 0.9 * worth - rollout.values[3])
    found = advantages_of(model, rollout, PPOConfig(bootstrap_truncated=False))[3]
    torch.testing.assert_close(found, 1 - rollout.values[3])


def test_log_probabilities_and_states_belong_together():
    poles = CartPole(3, np.random.default_rng(0))
    model = ActorCritic(4, 2, generator())
    rollout, states = collect(model, poles, poles.reset(), 5, generator())
    policy = torch.distributions.Categorical(logits=model(rollout.states)[0])
    torch.testing.assert_close(policy.log_prob(rollout.actions), rollout.log_probs)
    assert (states == poles.state).all()
    still = ~(rollout.terminated | rollout.truncated)[:-1]
    torch.testing.assert_close(rollout.states[1:][still], rollout.reached[:-1][still])


# ---- training


def test_the_same_seeds_give_the_same_weights_and_it_learns():
    config = PPOConfig(total_steps=3072, n_envs=8, n_steps=64)
    models = [ActorCritic(4, 2, generator()) for _ in range(2)]
    logs = [
        list(train(m, CartPole(8, np.random.default_rng(1)), config, generator(2))) for m in models
    ]
    first, last = (np.mean(logs[0][i].returns) for i in (0, -1))
    assert last > first + 10
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_learning_rate_falls_to_zero():
    config = PPOConfig(total_steps=256, n_envs=4, n_steps=32, epochs=1, minibatches=1)
    moved = []
    for anneal in (True, False):
        model = ActorCritic(4, 2, generator())
        weights = [torch.cat([p.detach().flatten().clone() for p in model.parameters()])]
        options = PPOConfig(**{**config.__dict__, "anneal": anneal})
        for _ in train(model, CartPole(4, np.random.default_rng(0)), options, generator()):
            weights.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))
        moved.append((weights[2] - weights[1]).norm().item())
    assert moved[0] == pytest.approx(moved[1] / 2, rel=0.05)  # Adam's second step, half the rate


def test_returns_are_carried_over_from_one_rollout_to_the_next():
    poles, model = CartPole(2, np.random.default_rng(0), limit=5), ActorCritic(4, 2, generator())
    states, so_far, found = poles.reset(), np.zeros(2), []
    for _ in range(4):
        rollout, states = collect(model, poles, states, 3, generator())
        found += finished(rollout, so_far)
    assert found == [5.0] * 4
    assert so_far.tolist() == [2.0, 2.0]


# ---- judges


def log(steps: int, *returns: float) -> Log:
    return Log(steps, list(returns), 0.0, 0.0)


def test_lengths_and_curves():
    logs = [log(100, 10, 30), log(200), log(300, 50)]
    assert mean_length(logs) == 100
    assert curve(logs).tolist() == [20, 20, 50]
    assert gain([logs], [[log(300, *[1] * 30)]]).tolist() == [90.0]  # with minus without


def test_balance_counts_each_pole_once():
    model = ActorCritic(4, 2, generator())
    for p in model.parameters():
        p.data.zero_()  # always left
    assert 8 < balance(model, np.random.default_rng(0), 50) < 11


def test_random_rewards_say_nothing_of_living_long():
    poles = RandomRewards(1000, np.random.default_rng(0))
    poles.reset()
    rewards = poles.step(np.zeros(1000, dtype=int))[1]
    assert abs(rewards.mean()) < 0.15
    assert rewards.std() == pytest.approx(1, abs=0.1)


# ---- wrong input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PPOConfig(epochs=0), "epochs must be at least 1, got 0"),
        (lambda: PPOConfig(minibatches=600), "minibatches must leave 2 of the 1024 samples"),
        (lambda: PPOConfig(total_steps=10), "total_steps must be at least n_envs"),
        (lambda: PPOConfig(max_grad_norm=0), "max_grad_norm must be positive"),
        (lambda: CartPole(0, np.random.default_rng()), "n_envs must be at least 1"),
        (lambda: CartPole(1, np.random.default_rng(), limit=0), "limit must be at least 1"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_infinity_switches_clips_off():
    assert PPOConfig(clip=math.inf, max_grad_norm=math.inf).updates == 48
