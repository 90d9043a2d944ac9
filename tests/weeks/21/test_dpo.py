"""Preference losses are trl's, count the right tokens, and have the optimum that theory says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week21 import trl_preferences as trl
from week21.dpo import (
    Preference,
    collate,
    dpo_loss,
    expected_dpo_loss,
    ipo_loss,
    kto_loss,
    pad_texts,
    regularized_optimum,
    response_log_probs,
    simpo_loss,
    train,
)
from week21.evidence.dpo import fall_at_optimum, minimizer
from week21.toy_reviews import (
    BAD,
    END,
    FILM,
    GOOD,
    PAD,
    VERY,
    Reviewer,
    divergence,
    expected_reward,
    frontier,
    habits,
    log_law,
    preferences,
    responses,
    reward,
    rewards,
    trainable_copy,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


IDS = st.lists(st.integers(0, 22), min_size=1, max_size=6)
# three lists of ids, of the small LLaMA's 23 tokens: prompt, chosen, rejected
PAIRS = st.lists(st.tuples(IDS, IDS, IDS), min_size=1, max_size=4)


def made(found) -> list[Preference]:
    return [Preference(*three) for three in found]


def table_model(seed: int = 0, vocab: int = 23):
    """The next token's logits depend on the last token only."""
    table = torch.randn(vocab, vocab, generator=generator(seed))
    return lambda tokens: table[tokens]


# ---- what is scored


@given(PAIRS)
def test_scored_are_the_responses(found):
    found = made(found)
    batch = collate(found, pad=0)
    texts = [(p.prompt, p.chosen) for p in found] + [(p.prompt, p.rejected) for p in found]
    for row, scored, (prompt, response) in zip(batch.tokens, batch.scored, texts, strict=True):
        assert row[scored].tolist() == response
        assert row[: len(prompt)].tolist() == prompt
        assert not scored[: len(prompt)].any()


@given(PAIRS)
def test_log_probs_by_hand(found):
    """The product of conditional probabilities, token by token; ids equal to padding count too."""
    found = made(found)
    model, batch = table_model(), collate(found)
    got = response_log_probs(model(batch.tokens), batch.tokens, batch.scored).sum(dim=1)
    law = torch.log_softmax(model(torch.arange(23)), dim=-1)
    texts = [(p.prompt, p.chosen) for p in found] + [(p.prompt, p.rejected) for p in found]
    for value, (prompt, response) in zip(got, texts, strict=True):
        before = [prompt[-1], *response[:-1]]
        by_hand = sum(law[a, b] for a, b in zip(before, response, strict=True))
        torch.testing.assert_close(value, by_hand, atol=1e-5, rtol=1e-5)


@given(PAIRS, st.integers(0, 22))
def test_padding_changes_nothing(found, pad):
    found = made(found)
    model = table_model()
    a, b = collate(found), collate([*found, Preference([1], [1] * 30, [2])], pad=pad)
    n = len(found)
    short, long = (
        response_log_probs(model(x.tokens), x.tokens, x.scored).sum(dim=1) for x in (a, b)
    )
    kept = torch.cat([long[:n], long[n + 1 : -1]])
    torch.testing.assert_close(kept, short, atol=1e-5, rtol=1e-5)


def test_all_responses_together_have_probability_one():
    """First token, end and padding all have to be right for this."""
    model = Reviewer(generator(3))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
        total = log_law(model).exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(habits().exp().sum(dim=1), torch.ones(3), atol=1e-4, rtol=0)


# ---- trl


def scores(model, batch):
    found = response_log_probs(model(batch.tokens).logits, batch.tokens, batch.scored)
    return found.sum(dim=1)


def gradients(loss, model):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@settings(max_examples=8, deadline=None)
@given(found=PAIRS, beta=st.floats(0.05, 2), seed=st.integers(0, 5))
def test_losses_and_gradients_are_trls(found, beta, seed):
    found = made(found)
    model, reference = trl.quietly(lambda: (trl.small_llama(seed), trl.small_llama(seed + 1)))
    batch = collate(found)
    length, n = batch.scored.sum(dim=1), len(found)
    close = {"atol": 1e-4, "rtol": 1e-4}
    for name in ("sigmoid", "ipo"):
        ratio = scores(model, batch) - scores(reference, batch).detach()
        if name == "ipo":
            ours = ipo_loss(*(ratio / length).chunk(2), beta=beta).mean()
        else:
            ours = dpo_loss(*ratio.chunk(2), beta=beta).mean()
        theirs = trl.pair_loss(model, reference, batch, name, beta)
        torch.testing.assert_close(ours, theirs, **close)
        torch.testing.assert_close(gradients(ours, model), gradients(theirs, model), **close)
    other = pad_texts([(p.prompt, found[i - 1].chosen) for i, p in enumerate(found)])
    ratio = scores(model, batch) - scores(reference, batch).detach()
    point = (scores(model, other) - scores(reference, other)).mean().clamp(min=0)
    good = torch.arange(2 * n) < n
    ours = kto_loss(ratio, good, point, beta=beta).mean()
    theirs = trl.kto_loss(model, reference, batch, other, good, beta)
    torch.testing.assert_close(ours, theirs, **close)
    torch.testing.assert_close(gradients(ours, model), gradients(theirs, model), **close)


@settings(max_examples=25, deadline=None)
@given(found=PAIRS, beta=st.floats(0.1, 4), gamma=st.floats(0, 2), seed=st.integers(0, 99))
def test_simpo_is_trls(found, beta, gamma, seed):
    found = made(found)
    batch = collate(found)
    logits = torch.randn(*batch.tokens.shape, 23, generator=generator(seed), requires_grad=True)
    log_prob = response_log_probs(logits, batch.tokens, batch.scored).sum(dim=1)
    per_token = (log_prob / batch.scored.sum(dim=1)).chunk(2)
    ours = simpo_loss(*per_token, beta=beta, gamma=gamma).mean()
    labels = batch.tokens.masked_fill(~batch.scored, -100)
    theirs = trl.simpo_loss(logits, labels, beta, gamma)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    (a,), (b,) = (torch.autograd.grad(x, logits) for x in (ours, theirs))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


# ---- properties of the losses


def first_loss(loss: str, found, *, beta: float = 0.5, seed: int = 1) -> float:
    """The loss that `train` reports before its first step, all pairs seen in turn."""
    table = torch.randn(23, 23, generator=generator(seed), requires_grad=True)
    options = {"steps": 1, "batch": 64, "generator": generator(), "lr": 0.0, "beta": beta}
    logs = train(lambda t: table[t], table_model(), found, parameters=[table], loss=loss, **options)
    return next(logs)["loss"]


@pytest.mark.parametrize(("loss", "same"), [("ipo", True), ("simpo", True), ("dpo", False)])
def test_duplicated_tokens_change_nothing_where_the_mean_counts(loss, same):
    """Runs of one token: each has the same log-probability, as the last prompt token equals it."""
    once = [Preference([3], [3, 3], [3, 3, 3])]
    twice = [Preference([3], [3] * 4, [3] * 6)]
    close = math.isclose(first_loss(loss, once), first_loss(loss, twice), rel_tol=1e-5)
    assert close == same


@given(PAIRS, st.floats(0.05, 2))
def test_a_policy_that_is_its_reference(found, beta):
    """DPO is ln 2, IPO the whole gap squared, KTO one half."""
    found = made(found)
    options = {"beta": beta, "seed": 0}
    assert first_loss("dpo", found, **options) == pytest.approx(math.log(2), abs=1e-5)
    assert first_loss("ipo", found, **options) == pytest.approx(1 / (4 * beta**2), rel=1e-4)
    assert first_loss("kto", found, **options) == pytest.approx(0.5, abs=1e-5)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.05, 2))
def test_gradient_of_dpo_is_equation_7s(chosen, rejected, beta):
    """-β σ(-β gap) for the chosen ratio, the opposite for the rejected one."""
    a, b = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (chosen, rejected))
    g, h = torch.autograd.grad(dpo_loss(a, b, beta=beta).sum(), (a, b))
    weight = beta / (1 + math.exp(beta * (chosen - rejected)))
    assert g.item() == pytest.approx(-weight)
    assert h.item() == pytest.approx(weight)


def test_no_gradient_through_ktos_reference_point():
    point = torch.tensor(0.3, requires_grad=True)
    ratio = torch.tensor([0.2, 0.4], requires_grad=True)
    loss = kto_loss(ratio, torch.tensor([True, False]), point, beta=0.5).sum()
    loss.backward()
    assert point.grad is None
    good, bad = ratio.grad.tolist()
    assert good < 0 < bad


# ---- the optimum


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 7), beta=st.floats(0.1, 2))
def test_the_minimum_is_the_regularized_optimum(seed, n, beta):
    log_reference, values = torch.randn(2, n, generator=generator(seed), dtype=torch.float64)
    log_reference = log_reference.log_softmax(0)
    wins = (values[:, None] - values).sigmoid()
    best = regularized_optimum(log_reference, values, beta)
    found = minimizer(lambda p: expected_dpo_loss(p, log_reference, wins, beta), n)
    torch.testing.assert_close(found, best.exp(), atol=1e-5, rtol=0)


@given(seed=st.integers(0, 10**6), beta=st.floats(0.1, 2))
def test_the_optimum_has_the_most_reward_minus_divergence(seed, beta):
    log_reference, values, other = torch.randn(3, 5, generator=generator(seed)).double()
    log_reference, other = log_reference.log_softmax(0), other.log_softmax(0)
    best = regularized_optimum(log_reference, values, beta)

    def objective(law):
        return (law.exp() * (values - beta * (law - log_reference))).sum()

    assert objective(best) >= objective(other) - 1e-12
    top = beta * (log_reference + values / beta).logsumexp(0)
    torch.testing.assert_close(objective(best), top)


def test_fall_at_the_optimum_is_that_of_its_law():
    law = habits()
    data = preferences(law, 300, generator())
    best = regularized_optimum(law, rewards().expand_as(law), 0.3) - law
    place = {tuple(y): i for i, y in enumerate(responses())}
    for side, got in zip(("chosen", "rejected"), fall_at_optimum(law, data), strict=True):
        rows = [best[p.prompt[0] - FILM, place[tuple(getattr(p, side))]] for p in data.pairs]
        assert got == pytest.approx(torch.stack(rows).mean().item(), abs=1e-3)


# ---- the reviews


def test_reward_by_hand():
    texts = [[VERY, GOOD, END], [VERY, VERY, BAD, END], [END], [GOOD] * 5]
    assert reward(texts).tolist() == [1.0, -1.0, 0.0, 2.5]


def test_frontier_is_a_frontier():
    law = habits()
    points = frontier(law, [0.1, 1.0, 100.0])
    assert (points[:-1] > points[1:]).all()
    assert divergence(law, law) == 0
    assert expected_reward(law) == pytest.approx(points[2, 1].item(), abs=0.02)


def test_preferences_follow_bradley_and_terry():
    data = preferences(habits(), 20_000, generator())
    won, lost = data.chosen, data.rejected
    near = ((won - lost).abs() - 1).abs() < 0.11
    share = (won > lost)[near].float().mean().item()
    assert share == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    coin = preferences(habits(), 20_000, generator(), shuffled=True)
    assert (coin.chosen - coin.rejected).mean().abs() < 0.03
    assert (won - lost).mean() > 0.2


def test_training_raises_the_reward():
    reference = Reviewer(generator(1)).requires_grad_(False)
    law = log_law(reference)
    pairs = preferences(law, 400, generator(2)).pairs
    policy = trainable_copy(reference)
    options = {"steps": 25, "batch": 64, "lr": 3e-3, "generator": generator(3)}
    logs = list(train(policy, reference, pairs, parameters=list(policy.parameters()), **options))
    with torch.no_grad():
        after = log_law(policy)
    assert expected_reward(after) > expected_reward(law) + 0.3
    assert logs[-1]["loss"] < logs[0]["loss"]
    assert logs[0]["chosen"] < 0
    assert divergence(log_law(reference), law) == 0


# ---- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Preference([], [1], [2]), "prompt must hold at least one token"),
        (lambda: Preference([1], [1], []), "rejected must hold at least one token"),
        (lambda: Preference.from_texts([1, 2, 3], [1, 4, 5], 2), "same prompt ids, got"),
        (lambda: collate([]), "pairs must hold at least one preference"),
        (lambda: preferences(habits(), 0, generator()), "count must be at least 1, got 0"),
        (
            lambda: regularized_optimum(torch.zeros(2), torch.zeros(2), 0.0),
            "beta must be positive, got 0",
        ),
        (
            lambda: response_log_probs(
                torch.zeros(1, 2, 5), torch.zeros(1, 2).long(), torch.ones(1, 2).bool()
            ),
            "scored must leave out the first token",
        ),
        (
            lambda: response_log_probs(
                torch.zeros(1, 2, 5), torch.zeros(1, 2).long(), torch.zeros(1, 2).bool()
            ),
            "scored must hold a token in each row",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_padding_is_no_word():
    assert Preference.from_texts([1, 2, 3], [1, 2, 4, PAD], 2) == Preference([1, 2], [3], [4, PAD])
