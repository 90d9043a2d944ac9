"""Group advantages, token losses, masks and training of GRPO."""

import copy

import numpy as np
import pytest
import torch
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st

from week21.arithmetic import (
    END_ID,
    IDS,
    TOKENS,
    Problems,
    decode,
    encode,
    response_loss,
    response_text,
    small_llama,
)
from week21.evidence.grpo import careless, correct, our_loss, questions, random_answers
from week21.evidence.trl_grpo import trl_loss
from week21.grpo import (
    GRPOConfig,
    clipped_losses,
    group_advantages,
    informative,
    kl_estimate,
    reduce_losses,
    response_log_probs,
    response_mask,
    sample_answers,
    train,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- advantages


def test_advantages_by_hand():
    found = group_advantages(torch.tensor([[1.0, 0, 0, 0]]))
    torch.testing.assert_close(found, torch.tensor([[1.5, -0.5, -0.5, -0.5]]))
    found = group_advantages(torch.tensor([[1.0, 0, 0, 0]]), scale=False)
    torch.testing.assert_close(found, torch.tensor([[0.75, -0.25, -0.25, -0.25]]))


@given(seed=st.integers(0, 10**6), groups=st.integers(1, 5), size=st.integers(2, 9))
def test_advantages_are_of_the_group(seed, groups, size):
    """Each group as if alone; a question that is harder for all answers changes nothing."""
    rewards = torch.rand(groups, size, generator=generator(seed), dtype=torch.float64)
    found = group_advantages(rewards)
    alone = np.array([(r - r.mean()) / r.std(ddof=1) for r in rewards.numpy()])
    np.testing.assert_allclose(found, alone, atol=1e-9)
    shifted = group_advantages(rewards + torch.arange(groups)[:, None])
    torch.testing.assert_close(found, shifted, atol=1e-6, rtol=1e-6)


@given(value=st.floats(-10, 10), size=st.integers(2, 40))
def test_equal_rewards_have_no_advantage(value, size):
    """0.1 seven times over has a mean that is not 0.1 in float32, and a std that is not 0."""
    rewards = torch.full((1, size), value)
    assert not informative(rewards).any()
    assert group_advantages(rewards).abs().max() == 0
    assert group_advantages(rewards, scale=False).abs().max() == 0


def test_nearly_equal_rewards_are_not_equal():
    rewards = torch.tensor([[0.0, 1e-3, 0, 0]])
    assert informative(rewards).all()
    torch.testing.assert_close(group_advantages(rewards)[0, 1].item(), 1.5, atol=1e-4, rtol=0)


# ---- losses


@pytest.mark.parametrize("kind", ["grpo", "bnpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_against_trl(kind, seed):
    found = []
    for function in (our_loss, trl_loss):
        answers = random_answers(seed, n=4 * (seed + 1), length=3 * seed + 1)
        loss = function(
            **answers, kind=kind, beta=0.1 * seed, clip=(0.1, 0.3), max_length=3 * seed + 1
        )
        loss.backward()
        found.append((loss.detach(), answers["log_p"].grad))
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-12)


def test_clip_acts_on_one_side_only():
    """A good answer already much likelier gets no more push; a bad one much likelier still does."""
    log_p = torch.tensor([[0.5], [0.5], [-0.5], [-0.5]], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    clipped_losses(log_p, torch.zeros(4, 1), advantages).sum().backward()
    moved = (log_p.grad[:, 0] != 0).tolist()
    assert moved == [False, True, True, False]


def test_clip_higher_lets_rise_more():
    log_p = torch.tensor([[0.22]], requires_grad=True)  # ratio 1.246
    for clip, moves in (((0.2, 0.2), False), ((0.2, 0.28), True)):
        log_p.grad = None
        clipped_losses(log_p, torch.zeros(1, 1), torch.ones(1), clip).sum().backward()
        assert bool(log_p.grad.abs() > 0) == moves


def test_three_reductions_by_hand():
    losses = torch.tensor([[1.0] * 8, [3.0] * 8])
    mask = torch.arange(8) < torch.tensor([[2], [8]])
    found = [
        reduce_losses(losses, mask, how, max_length=16).item()
        for how in ("sequence", "token", "constant")
    ]
    assert found == pytest.approx([2.0, 2.6, 0.8125])


@pytest.mark.parametrize("how", ["sequence", "token", "constant"])
def test_ten_more_pads_change_nothing(how):
    answers = random_answers(5)
    losses, mask = answers["log_old"], answers["mask"]
    padded = torch.cat([losses, torch.full((8, 10), torch.nan)], 1)
    wide = torch.cat([mask, torch.zeros(8, 10, dtype=torch.bool)], 1)
    expected = reduce_losses(losses, mask, how, max_length=9)
    torch.testing.assert_close(reduce_losses(padded, wide, how, max_length=9), expected)


def test_an_empty_answer_has_no_loss():
    losses, mask = torch.ones(2, 3), torch.tensor([[True, True, True], [False, False, False]])
    assert reduce_losses(losses, mask, "sequence").item() == 0.5


@given(seed=st.integers(0, 10**6), n=st.integers(2, 7))
def test_mean_of_the_kl_estimate(seed, n):
    log_p, ref = torch.randn(2, n, generator=generator(seed), dtype=torch.float64).log_softmax(-1)
    estimate = kl_estimate(log_p, ref)
    assert (estimate >= -1e-12).all()
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=log_p), torch.distributions.Categorical(logits=ref)
    )
    torch.testing.assert_close((log_p.exp() * estimate).sum(), expected, atol=1e-10, rtol=1e-8)


# ---- answers


def test_end_counts_once_and_padding_never():
    tokens = torch.tensor([[5, 6, 0, 0, 0], [0, 0, 0, 0, 0], [5, 6, 7, 8, 9], [5, 0, 6, 0, 7]])
    expected = [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert response_mask(tokens, 0).int().tolist() == expected


def test_log_probs_are_those_of_the_response():
    """The sum of the chain rule, token by token, from the prompt's last token on."""
    model = small_llama(generator())
    tokens = torch.tensor([encode("12+34=46<end>"), encode("99+99=198")])
    found = response_log_probs(model, tokens, 6)
    assert found.shape == (2, 3)
    for t in range(3):
        logits = model(tokens[:, : 6 + t])[:, -1]
        expected = torch.distributions.Categorical(logits=logits).log_prob(tokens[:, 6 + t])
        torch.testing.assert_close(found[:, t], expected, atol=1e-5, rtol=0)


def test_answers_of_a_prompt_stand_in_a_row_and_end():
    model = small_llama(generator())
    prompts = Problems().prompts([(12, 34), (99, 1)])
    answers = sample_answers(model, prompts, 3, max_length=30, end=END_ID, generator=generator(1))
    assert len(answers) == 6
    assert len({tuple(row.tolist()) for row in answers}) > 1, "answers of a group must differ"
    for row in answers.tolist():
        if END_ID in row:
            assert set(row[row.index(END_ID) :]) == {END_ID}
    # the first three go on from the first prompt: greedy answers show it
    greedy = [
        sample_answers(model, p, 1, max_length=4, end=0, temperature=0) for p in prompts[:, None]
    ]
    both = sample_answers(model, prompts, 3, max_length=4, end=0, temperature=0)
    assert both[:3].tolist() == greedy[0].tolist() * 3
    assert both[3:].tolist() == greedy[1].tolist() * 3


# ---- training


def trained(rewards, **settings):
    """A random policy after a few steps, and what they saw."""
    policy = small_llama(generator(), d_model=16)
    base = copy.deepcopy(policy)
    options = {"n_prompts": 8, "max_length": 3, "lr": 1e-2, **settings}
    prompts = Problems().prompts(Problems().draw(8, generator(3)))
    steps = train(
        policy,
        base,
        lambda n: (prompts[:n], rewards),
        steps=30,
        end=END_ID,
        config=GRPOConfig(**options),
        generator=generator(4),
    )
    return policy, base, list(steps)


@pytest.mark.parametrize(
    "settings",
    [{}, {"scale": False, "reduction": "constant"}, {"reduction": "token", "dynamic": True}],
)
def test_policy_learns_what_is_rewarded(settings):
    """Reward: the share of nines in the answer."""
    _, _, steps = trained(lambda a: (a == IDS["9"]).float().mean(1), **settings)
    assert np.mean([s.reward for s in steps[-5:]]) > np.mean([s.reward for s in steps[:3]]) + 0.3


def test_rewards_of_chance_and_equal_ones_teach_nothing():
    """Reward that is the same for all: no advantage, no KL at the start, so no step at all."""
    policy, base, steps = trained(lambda a: torch.full((len(a),), 0.1))
    for p, q in zip(policy.parameters(), base.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0)
    assert steps[-1].informative == 0


def test_penalty_keeps_near_the_reference():
    rewards = lambda a: (a == IDS["9"]).float().mean(1)  # noqa: E731
    free, held = (trained(rewards, beta=beta)[2][-1].kl for beta in (0.0, 5.0))
    assert held < free / 3


# ---- sums


@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), held_out=st.booleans())
def test_problems_for_training_are_never_held_out(seed, n, held_out):
    problems = Problems()
    found = problems.draw(n, generator(seed), held_out=held_out)
    other = problems.draw(200, generator(seed + 1), held_out=not held_out)
    assert len(found) == n
    assert not set(found) & set(other)


def test_language():
    assert decode(range(len(TOKENS))) == "".join(TOKENS)
    assert response_text(encode("12<end>3<end>")) == "12"
    assert correct(torch.tensor([encode("46<end>"), encode("460")]), [(12, 34)]).tolist() == [1, 0]
    assert {careless((17, 25), generator(i)) for i in range(20)} == {"42", "32"}


def test_answers_are_judged_by_their_own_question():
    rows = [encode("46<end>"), encode("0<end>4"), encode("33<end>"), encode("46<end>")]
    answers = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, rows)), batch_first=True)
    assert correct(answers, [(12, 34), (11, 22)]).tolist() == [1, 0, 1, 0]


def test_loss_of_responses_leaves_prompts_and_padding_out():
    model = small_llama(generator())
    batch = [("1+2=", "3"), ("9+9=", "18")]
    found = response_loss(model, batch)
    rows = [
        -response_log_probs(model, torch.tensor([encode(p + r + "<end>")]), 4) for p, r in batch
    ]
    expected = torch.cat([row[0] for row in rows]).mean()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_shuffled_verdicts_are_as_many():
    """The control rewards as often as the verifier, but not the same answers."""
    answers = torch.tensor([encode("46<end>"), encode("11<end>")] * 4)
    batch = questions("shuffled", generator(1))
    _, reward = batch(8)
    assert reward(answers).sum() == questions("right", generator(1))(8)[1](answers).sum()


ONES = torch.ones(1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: group_advantages(torch.ones(3, 1)), "rewards must hold at least 2 answers"),
        (
            lambda: reduce_losses(ONES, ONES > 0, "constant"),
            "max_length must be at least 1",
        ),
        (
            lambda: plain("21", "grpo").reduce_losses(
                torch.ones(1, 2), torch.ones(1, 2) > 0, "mean"
            ),
            "how must be a known reduction, got mean",
        ),
        (
            lambda: clipped_losses(
                torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1), (-0.1, 0.2)
            ),
            "clip must be",
        ),
        (
            lambda: response_log_probs(small_llama(generator()), torch.zeros(1, 4).long(), 4),
            "n_prompt must be in 1..3, got 4",
        ),
        (
            lambda: plain("21", "grpo").clipped_losses(
                torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3)
            ),
            r"advantages must be floats of shape \(answer = 2\)",
        ),
        (lambda: Problems(terms=1), "terms must be at least 2"),
        (lambda: Problems(digits=3), "digits must be 1 or 2"),
        (lambda: encode("1 + 1"), "text must be made of"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
