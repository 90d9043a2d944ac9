"""What each depth reads and predicts, its losses, and guesses that must not change a text."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from week18.balanced_training import train
from week18.deepseek_twin import randomize
from week18.deepseek_v3 import DeepSeek, DeepSeekConfig
from week18.evidence.multi_token import followers, share_kept
from week18.latent_attention import LatentConfig
from week18.multi_token import (
    MultiToken,
    generate_greedy,
    loss_by_depth,
    multi_token_loss,
    targets_of_depth,
)

SIZES = LatentConfig(12, 2, 9, 7, 4, 5, q_rank=6)
CONFIG = DeepSeekConfig(13, SIZES, 1, 1, 10, 8, n_experts=4, context=64)


def model_of(depths=2, seed=0, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return randomize(MultiToken(DeepSeek(config), depths), seed=seed).double().eval()


def random_tokens(*shape, seed=0):
    return torch.randint(13, shape, generator=torch.Generator().manual_seed(seed))


@given(n=st.integers(4, 9), k=st.integers(1, 2), seed=st.integers(0, 9))
@settings(max_examples=12)
def test_a_depth_sees_the_tokens_up_to_its_guess_and_no_further(n, k, seed):
    """Depth k at place i depends on tokens up to i + k, and is asked for token i + k + 1."""
    model, tokens = model_of(seed=seed), random_tokens(1, n, seed=seed)
    logits = model(tokens)[k]
    assert logits.shape[1] == n - k
    for place in range(n):
        changed = tokens.clone()
        changed[0, place] = (tokens[0, place] + 1) % 13
        differs = (model(changed)[k] - logits).abs().amax(-1)[0] > 1e-12
        assert differs.tolist() == [place <= i + k for i in range(n - k)]


@given(n=st.integers(4, 12), k=st.integers(0, 2))
def test_targets_on_ids_that_are_their_places(n, k):
    targets = targets_of_depth(torch.arange(n)[None], k)
    assert targets.tolist() == [[i + k + 1 for i in range(n - k - 1)]]


def test_losses_by_hand_with_documents():
    tokens, documents = random_tokens(2, 7), torch.tensor([[0, 0, 0, 1, 1, 1, 1]] * 2)
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 6 - k, 13, generator=generator) for k in range(3)]
    for which in (None, documents):
        for k, loss in enumerate(loss_by_depth(logits, tokens, which)):
            found = []
            for row in range(2):
                for i in range(6 - k):
                    if which is None or documents[row, i] == documents[row, i + k + 1]:
                        scores, target = logits[k][row, i], tokens[row, i + k + 1]
                        found.append(-scores.log_softmax(-1)[target])
            torch.testing.assert_close(loss, torch.stack(found).mean())
    losses = [torch.tensor(v) for v in (1.0, 2.0, 4.0)]
    assert multi_token_loss(losses, 0.5).item() == 1 + 0.5 * 3


def test_trunk_is_shared_and_trained_through():
    model, tokens = model_of(1), random_tokens(2, 9)
    own = sum(p.numel() for p in model.predictors.parameters())
    assert sum(p.numel() for p in model.parameters()) == own + sum(
        p.numel() for p in model.trunk.parameters()
    )
    torch.testing.assert_close(model(tokens)[0], model.trunk(tokens))
    F.cross_entropy(model(tokens)[1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for p in (
        model.trunk.embed.weight,
        model.trunk.head.weight,
        model.trunk.blocks[0].mlp.up_proj.weight,
    ):
        assert (p.grad != 0).any()


@given(seed=st.integers(0, 30), length=st.integers(0, 20), prompt=st.integers(1, 6))
@settings(max_examples=15)
def test_guesses_change_passes_and_not_the_text(seed, length, prompt):
    model, start = model_of(1, seed=seed), random_tokens(prompt, seed=seed)
    drafted, plain = (generate_greedy(model, start, length, speculate=s) for s in (True, False))
    tokens = start.clone()
    for _ in range(length):  # without any cache
        tokens = torch.cat([tokens, model.trunk(tokens[None])[0, -1:].argmax(-1)])
    assert torch.equal(drafted.tokens, tokens)
    assert torch.equal(plain.tokens, tokens)
    assert (plain.passes, plain.kept) == (length, [])
    assert drafted.guessed == len(drafted.kept)
    assert drafted.passes == length - sum(drafted.kept)


def test_a_learned_cycle_is_guessed_right():
    tokens = torch.arange(300) % 5
    model = MultiToken(DeepSeek(CONFIG, torch.Generator().manual_seed(0)), 1, torch.manual_seed(1))
    options = {"steps": 60, "batch_size": 4, "context": 12, "lr": 1e-2}
    train(model, tokens, mtp_weight=1.0, generator=torch.Generator().manual_seed(0), **options)
    found = generate_greedy(model, tokens[:6], 20)
    assert found.tokens.tolist() == [i % 5 for i in range(26)]
    assert found.passes == 11  # the first has no guess to check, the last wants none
    assert all(found.kept)
    assert share_kept(model, tokens) == 1


def test_shares_by_hand():
    model, tokens = model_of(1), random_tokens(65)
    x = tokens[:64].view(2, 32)
    trunk, ahead = (logits.argmax(-1) for logits in model(x))
    expected = (ahead == trunk[:, 1:]).double().mean().item()
    assert share_kept(model, tokens) == pytest.approx(expected)
    table = followers(torch.tensor([0, 1, 0, 2, 0, 2, 1]), 13)
    assert table[:2].tolist() == [2, 0]
    expected = (table[x[:, 1:]] == trunk[:, 1:]).double().mean().item()
    assert share_kept(model, tokens, table) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MultiToken(DeepSeek(CONFIG), 0), "depths must be at least 1, got 0"),
        (lambda: model_of(2)(random_tokens(1, 2)), "longer than the 2 depths, got 2"),
        (lambda: targets_of_depth(random_tokens(1, 3), 2), "leave a place to predict from, got 2"),
        (lambda: multi_token_loss([torch.tensor(1.0)] * 2, -1), "weight must be at least 0"),
        (lambda: generate_greedy(model_of(1), random_tokens(0), 3), "at least one token, got 0"),
        (lambda: generate_greedy(model_of(1), random_tokens(2), -1), "length must be at least 0"),
        (
            lambda: loss_by_depth([torch.zeros(1, 3, 13)], random_tokens(1, 3)),
            "one more than depth 0 predicts, got 3",
        ),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_initial_loss_is_guessing_at_every_depth():
    model = MultiToken(DeepSeek(CONFIG, torch.Generator().manual_seed(0)), 2, torch.manual_seed(1))
    tokens = random_tokens(8, 33)
    for loss in loss_by_depth(model(tokens[:, :-1]), tokens):
        assert abs(loss.item() - math.log(13)) < 0.03
