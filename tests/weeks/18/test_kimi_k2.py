"""The clip on random heads: what shrinks, what stays, and what is measured."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.run import Run
from week18.evidence.kimi_k2 import TAU, judge
from week18.kimi_k2 import QKClip, clip_factors, clip_heads, clip_latent, largest_logits
from week18.llama3 import Llama, LlamaConfig
from week18.training import train
from week18.transformers_twin import randomize


def random_model(n_kv_heads=4, seed=0):
    config = LlamaConfig(13, 16, 2, 4, n_kv_heads, d_ff=20, context=64, rope_base=100.0)
    return randomize(Llama(config).double(), std=0.7, seed=seed)


def random_tokens(seed=0, n=40):
    return torch.randint(13, (3, n), generator=torch.Generator().manual_seed(seed))


@given(st.sampled_from([1, 2, 4]), st.integers(1, 6), st.integers(0, 99))
def test_largest_logits_by_loops(n_kv, n, seed):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 4, n, 6, generator=generator)
    k = torch.randn(2, n_kv, n, 6, generator=generator)
    for head, found in enumerate(largest_logits(q, k).tolist()):
        scores = [
            float(q[b, head, i] @ k[b, head * n_kv // 4, j]) / math.sqrt(6)
            for b in range(2)
            for i in range(n)
            for j in range(i + 1)
        ]
        assert found == pytest.approx(max(scores), rel=1e-4, abs=1e-5)


def test_factors_of_high_negative_and_equal_scores():
    found = clip_factors(torch.tensor([150.0, -3.0, 100.0, 0.0]), 100.0)
    torch.testing.assert_close(found, torch.tensor([2 / 3, 1.0, 1.0, 1.0]))


@settings(max_examples=15)
@given(st.sampled_from([1, 2, 4]), st.integers(0, 99), st.floats(0.2, 0.9))
def test_a_clip_brings_the_largest_score_to_tau_and_no_other_head_moves(n_kv, seed, share):
    model, tokens = random_model(n_kv, seed), random_tokens(seed)
    clip = QKClip(model, None)
    model(tokens)
    clip.step()
    before = clip.history[0]
    clip.tau = tau = max(share * before.max().item(), 1e-3)
    # The second layer's input changes with the first's clip, so the first is looked at alone.
    model(tokens)
    clip.step()
    model(tokens)
    clip.step()
    torch.testing.assert_close(clip.history[2][0], before[0].clamp(max=tau))


def test_heads_and_keys_are_scaled_by_rows():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(8, 5, generator=generator), torch.randn(8, 5, generator=generator)
    factors = torch.tensor([0.25, 1.0])
    own_q, own_k = q.clone(), k.clone()
    clip_heads(own_q, own_k, factors, head_dim=4)
    root = torch.tensor([0.5, 1.0]).repeat_interleave(4)[:, None]
    torch.testing.assert_close((own_q, own_k), (q * root, k * root))
    shared_q, shared_k = q.clone(), k[:4].clone()
    clip_heads(shared_q, shared_k, factors, head_dim=4)
    assert torch.equal(shared_k, k[:4])
    torch.testing.assert_close(shared_q, q * root.square())


def test_latent_attention_keeps_the_values_and_gives_the_rotary_query_all():
    q, kv = torch.ones(2 * 5, 3), torch.ones(2 * 7, 3)  # 3 of content, 2 turned; 4 of the value
    clip_latent(q, kv, torch.tensor([0.25, 1.0]), nope_dim=3)
    assert q[:, 0].tolist() == [0.5] * 3 + [0.25] * 2 + [1] * 5
    assert kv[:, 0].tolist() == [0.5] * 3 + [1] * 4 + [1] * 7


def test_several_batches_count_and_evaluation_does_not():
    model = random_model()
    clip = QKClip(model, None)
    seen = []
    for seed in (1, 2):
        model(random_tokens(seed))
        clip.step()
        seen.append(clip.history[-1])
    for seed in (1, 2):
        model(random_tokens(seed))
    clip.step()
    assert torch.equal(clip.history[-1], torch.maximum(*seen))
    model.eval()(random_tokens(3))
    with pytest.raises(ValueError, match="model must have computed scores"):
        clip.step()
    clip.close()
    model.train()(random_tokens(3))
    assert not clip.largest


def test_watching_changes_nothing():
    losses = []
    for watched in (False, True):
        model = Llama(LlamaConfig(7, 16, context=12), torch.Generator().manual_seed(0))
        after = QKClip(model, None).step if watched else None
        options = {"steps": 4, "batch_size": 4, "context": 12, "after_step": after}
        generator = torch.Generator().manual_seed(1)
        losses.append(train(model, torch.arange(99) % 7, generator=generator, **options))
    assert losses[0] == losses[1]


def test_the_judge_looks_at_all_steps_of_muon_and_the_late_ones_of_the_clip(tmp_path):
    run = Run(tmp_path / "kimi_k2.py", out=tmp_path, quiet=True)
    muon = np.full((3, 10), TAU)
    muon[:, 2] = 3 * TAU
    clipped = np.full((3, 10), TAU)
    clipped[:, 0] = 9 * TAU  # before the clip has seen anything
    usual = np.full((3, 10), TAU / 5)
    scores = {"Muon": muon, "MuonClip": clipped, "usual rate": usual}
    judge(run, scores, {arm: [2.0, 2.1, 2.2] for arm in scores})
    assert [claim["verdict"] for claim in run.claims] == ["holds"] * 3
    assert [claim["mean"] for claim in run.claims] == pytest.approx([3, 1, 0])
    assert all(row["broken"] for row in run.falsifiers)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: clip_factors(torch.ones(2), 0.0), "tau must be positive, got 0.0"),
        (lambda: clip_factors(torch.tensor([math.nan]), 1.0), "largest must be finite scores"),
        (lambda: clip_factors(torch.tensor([math.inf]), 1.0), "largest must be finite scores"),
        (lambda: QKClip(random_model(), -1.0), "tau must be positive or None, got -1.0"),
        (
            lambda: largest_logits(torch.ones(1, 3, 2, 4), torch.ones(1, 2, 2, 4)),
            "n_kv_heads must divide n_heads = 3, got 2",
        ),
        (
            lambda: clip_heads(torch.ones(8, 2), torch.ones(8, 2), torch.ones(3), head_dim=4),
            "factors must be one for each of 2 heads, got 3",
        ),
        (
            lambda: clip_latent(torch.ones(9, 2), torch.ones(8, 2), torch.ones(2), nope_dim=3),
            "q_weight must have a multiple of 2 rows, more than nope_dim = 3 each, got 9",
        ),
        (
            lambda: clip_latent(torch.ones(8, 2), torch.ones(6, 2), torch.ones(2), nope_dim=3),
            "kv_weight must have a multiple of 2 rows, more than nope_dim = 3 each, got 6",
        ),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
