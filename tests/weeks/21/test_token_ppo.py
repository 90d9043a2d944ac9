"""The score comes at the last token that counts, the price at each, and padding counts nowhere."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week21.evidence.token_ppo import (
    all_texts,
    chance,
    distance,
    law,
    points,
    reference_model,
    start_from,
)
from week21.token_ppo import (
    AdaptiveKL,
    FixedKL,
    TextPPO,
    experience,
    last_of,
    mask_of,
    text_loss,
    token_advantages,
    token_rewards,
    train,
    write,
)

F64 = {"dtype": torch.float64}


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **F64)


def masks(seed: int, texts: int, length: int) -> torch.Tensor:
    """Each text has a prompt that does not count, then some tokens that do, then padding."""
    g = torch.Generator().manual_seed(seed)
    start = torch.randint(0, length, (texts, 1), generator=g)
    n = 1 + torch.randint(0, length, (texts, 1), generator=g)
    place = torch.arange(length)
    return (place >= start) & (place < start + n)


# ---- rewards and advantages


@given(seed=st.integers(0, 10**6), length=st.integers(1, 8), beta=st.floats(0, 2))
def test_rewards_add_up_to_score_minus_divergence(seed, length, beta):
    mask, (ours, theirs) = masks(seed, 5, length), normal(seed, 2, 5, length)
    scores = normal(seed + 1, 5)
    rewards = token_rewards(scores, ours, theirs, mask, beta=beta)
    price = ((ours - theirs) * mask).sum(1)
    torch.testing.assert_close(rewards.sum(1), scores - beta * price)
    assert bool((rewards[~mask] == 0).all())
    bare = token_rewards(scores, ours, ours, mask, beta=beta)
    last = torch.tensor([[i for i, m in enumerate(row) if m][-1] for row in mask.tolist()])
    torch.testing.assert_close(bare.gather(1, last.view(-1, 1))[:, 0], scores)


@given(seed=st.integers(0, 10**6), length=st.integers(1, 8))
def test_without_values_every_advantage_is_the_score(seed, length):
    mask, scores = masks(seed, 5, length), normal(seed, 5)
    nothing = torch.zeros(5, length, **F64)
    rewards = token_rewards(scores, nothing, nothing, mask, beta=0.5)
    found = token_advantages(rewards, nothing, mask, lam=1.0)
    torch.testing.assert_close(found, torch.where(mask, scores[:, None], 0.0))


@given(seed=st.integers(0, 10**6), lam=st.floats(0, 1))
def test_advantages_do_not_see_the_padding(seed, lam):
    mask, rewards, values = masks(seed, 5, 6), normal(seed, 5, 6), normal(seed + 1, 5, 6)
    rewards = torch.where(mask, rewards, 0.0)
    found = token_advantages(rewards, values, mask, lam=lam)
    other = torch.where(mask, values, 1e6)
    torch.testing.assert_close(token_advantages(rewards, other, mask, lam=lam), found)
    pad = torch.nn.functional.pad
    padded = [pad(x, (0, 10)) for x in (rewards, values, mask)]
    torch.testing.assert_close(token_advantages(*padded, lam=lam), pad(found, (0, 10)))


def test_last_of():
    mask = torch.tensor([[True, True, False], [False, False, True], [False, True, False]])
    assert last_of(mask).long().argmax(1).tolist() == [1, 2, 1]
    assert last_of(mask).sum(1).tolist() == [1, 1, 1]


# ---- masks and texts


def test_the_end_counts_and_the_padding_after_it_does_not():
    written = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 2, 3, 0, 0]])
    assert mask_of(written, 3).sum(1).tolist() == [2, 1, 3]  # the last was cut off, its 0 is none
    assert mask_of(written, 4).sum(1).tolist() == [2, 1, 4]


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_ten_more_pads_change_no_loss_and_no_gradient(beta):
    g = torch.Generator().manual_seed(0)
    reference, model = reference_model(g).double(), start_from(reference_model(g)).double()
    model.value.weight.data.normal_(generator=g)
    tokens = write(model, 40, 5, g)
    assert bool((tokens[:, -1] != 0).any())  # some were cut off
    found = []
    for extra in (0, 10):
        padded = torch.nn.functional.pad(tokens, (0, extra))
        mask = mask_of(padded[:, 1:], 5)
        rows = experience(model, reference, padded, mask, points, beta, 0.9)
        rows["log_probs"] = rows["log_probs"] + 0.1
        model.zero_grad()
        loss = text_loss(model, rows, TextPPO())
        loss.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append(torch.cat([loss.detach()[None], *grads]))
    torch.testing.assert_close(found[0], found[1], atol=1e-10, rtol=0)


def test_the_prompt_is_never_written_and_texts_follow_the_law():
    model = reference_model(torch.Generator().manual_seed(0))
    tokens = write(model, 4000, 2, torch.Generator().manual_seed(1))
    assert tokens[:, 0].unique().tolist() == [4]
    assert tokens[:, 1:].max() <= 3
    texts = all_texts(2)
    seen = torch.stack([(tokens == text).all(1).double().mean() for text in texts])
    assert seen.sum() == 1
    assert distance(seen, law_of_two(model, texts)) < 0.05


def law_of_two(model, texts: torch.Tensor) -> torch.Tensor:
    log_probs = model(texts[:, :-1])[0].gather(-1, texts[:, 1:, None])[..., 0]
    return (log_probs * mask_of(texts[:, 1:], 2)).sum(1).exp().double()


def test_all_texts_are_there_once():
    texts = all_texts(5)
    assert len(texts) == 1 + 3 + 9 + 27 + 81 + 243 == len(texts.unique(dim=0))
    p = law(reference_model(torch.Generator().manual_seed(3)), texts)
    assert p.sum().item() == pytest.approx(1, abs=1e-5)


def test_points():
    written = torch.tensor([[1, 2, 1, 2, 3], [1, 2, 0, 0, 0], [2, 1, 0, 0, 0]])
    mask = mask_of(written, 5)
    assert points(written, mask).tolist() == [2.0, 1.5, 0.5]
    assert chance(written, mask).tolist() == [0.5, 2.0, 1.5]


# ---- the leash, and training


def test_the_leash_follows_the_divergence():
    control = AdaptiveKL(1.0, 2.0)
    for kl, factor in ((100.0, 1.02), (0.0, 0.98), (2.2, 1.01)):
        before = control.beta
        control.update(kl)
        assert control.beta == pytest.approx(before * factor)
    fixed = FixedKL(0.5)
    fixed.update(100.0)
    assert fixed.beta == 0.5


def test_it_starts_at_the_reference_and_scores_rise():
    reference = reference_model(torch.Generator().manual_seed(0))
    model, g = start_from(reference), torch.Generator().manual_seed(1)
    config = TextPPO(updates=10, lr=2e-3)
    logs = list(train(model, reference, points, FixedKL(0.05), config, g))
    assert logs[0][1] == pytest.approx(0, abs=1e-6)
    assert logs[-1][0] > logs[0][0] + 0.1
    assert logs[-1][1] > 0.05


# ---- wrong input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: last_of(torch.zeros(1, 2, dtype=torch.bool)), "mask must have a True in every"),
        (lambda: AdaptiveKL(0.0, 1.0), "beta must be positive, got 0.0"),
        (lambda: AdaptiveKL(1.0, 0.0), "target must be positive, got 0.0"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
