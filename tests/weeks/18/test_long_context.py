"""Scalings against transformers on random sizes, checkpoints both ways, and needles that exist."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from week18.evidence.long_context import answered, losses_of
from week18.llama3 import Llama, LlamaConfig
from week18.long_context import (
    NTK,
    DynamicNTK,
    Interpolation,
    Needles,
    YaRN,
    with_scaling,
)
from week18.pretrained import config_from_hugging_face, hugging_face_config
from week18.rotary import RopeScaling, Scaling, rope_frequencies
from week18.training import loss_by_position
from week18.transformers_twin import randomize, their_config, transformers_twin

factors = st.sampled_from([1.0, 1.5, 4.0, 16.0, 64.0])
contexts = st.sampled_from([1, 7, 64, 2048, 100_000])
yarns = st.builds(
    YaRN,
    factor=factors,
    original_context=contexts,
    beta_fast=st.sampled_from([4.0, 32.0]),
    beta_slow=st.sampled_from([0.25, 1.0, 4.0]),
    attention_factor=st.sampled_from([None, 0.7, 1.3]),
    mscale=st.sampled_from([None, 0.707, 1.0]),
    mscale_all_dim=st.sampled_from([None, 0.5, 1.0]),
    truncate=st.booleans(),
)
scalings = st.one_of(
    yarns, st.builds(Interpolation, factors), st.builds(DynamicNTK, factors, st.just(48))
)
NAMES = {YaRN: "yarn", Interpolation: "linear", DynamicNTK: "dynamic"}


def config_with(scaling, **changes):
    sizes = {"d_model": 24, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "d_ff": 16}
    context = int(48 * scaling.factor) if isinstance(scaling, DynamicNTK) else 4096
    return LlamaConfig(13, **{**sizes, "context": context, "rope_scaling": scaling, **changes})


@given(
    scalings, st.sampled_from([4, 16, 64]), st.sampled_from([100.0, 1e4, 5e5]), st.integers(1, 900)
)
def test_frequencies_and_gains_are_those_of_transformers(scaling, head_dim, base, n):
    config = config_with(scaling, head_dim=head_dim, rope_base=base)
    theirs = their_config(config)
    expected, gain = ROPE_INIT_FUNCTIONS[NAMES[type(scaling)]](theirs, "cpu", seq_len=n)
    found = rope_frequencies(head_dim, base=base, scaling=scaling, length=n)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert scaling.gain == pytest.approx(gain, rel=1e-12)


@settings(max_examples=10)
@given(scalings, st.sampled_from([0, 640]), st.integers(0, 99))
def test_logits_are_those_of_transformers(scaling, start, seed):
    ours = randomize(Llama(config_with(scaling)), seed=seed)
    tokens = torch.randint(13, (2, 20), generator=torch.Generator().manual_seed(seed))
    tokens = tokens[:, : ours.config.context]
    places = torch.arange(start, start + tokens.shape[1])
    with torch.no_grad():
        theirs = transformers_twin(ours)(tokens, position_ids=places[None]).logits
        torch.testing.assert_close(ours(tokens, positions=places), theirs, rtol=1e-5, atol=1e-5)


@given(scalings, st.sampled_from([4, 8]))
def test_configurations_go_both_ways(scaling, head_dim):
    config = config_with(scaling, head_dim=head_dim)
    assert config_from_hugging_face(json.loads(json.dumps(hugging_face_config(config)))) == config


def test_ntk_is_written_as_the_base_that_it_is():
    ntk = randomize(Llama(config_with(NTK(4.0))))
    again = config_from_hugging_face(hugging_face_config(ntk.config))
    assert again.rope_scaling is None
    plain = Llama(again)
    torch.testing.assert_close(plain.frequencies, ntk.frequencies)


def test_old_names_and_absent_contexts_are_understood():
    old = {"model_type": "llama", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1}
    old |= {"num_attention_heads": 2, "intermediate_size": 9, "max_position_embeddings": 512}

    def scaling(**rope):
        return config_from_hugging_face(old | {"rope_scaling": rope}).rope_scaling

    assert scaling(type="linear", factor=2.0) == Interpolation(2.0)
    assert scaling(type="dynamic", factor=3.0) == DynamicNTK(3.0, 512)
    assert scaling(type="yarn", factor=4.0) == YaRN(4.0, 512)
    assert scaling(
        type="yarn", factor=4.0, beta_fast=None, original_max_position_embeddings=128
    ) == YaRN(4.0, 128)


@pytest.mark.parametrize("kind", [Interpolation(1.0), NTK(1.0), DynamicNTK(1.0, 8), YaRN(1.0, 8)])
def test_factor_1_changes_nothing(kind):
    plain = rope_frequencies(16, base=100.0)
    torch.testing.assert_close(rope_frequencies(16, base=100.0, scaling=kind, length=8), plain)
    assert kind.gain == 1


def test_a_given_gain_replaces_the_usual_one():
    assert YaRN(16.0, 64).gain == pytest.approx(1.2773, abs=5e-5)
    assert YaRN(64.0, 64).gain == pytest.approx(1.4159, abs=5e-5)
    assert YaRN(16.0, 64, attention_factor=1.1).gain == 1.1
    assert YaRN(40.0, 64, mscale=1.0, mscale_all_dim=1.0).gain == 1
    assert YaRN(40.0, 64, mscale=0.7).gain == YaRN(40.0, 64).gain  # one of the two is not enough


def test_ntk_slows_the_slowest_wave_by_the_factor_and_keeps_the_fastest():
    ratio = rope_frequencies(32, base=1e4) / rope_frequencies(32, base=1e4, scaling=NTK(8.0))
    torch.testing.assert_close(ratio[[0, -1]], torch.tensor([1.0, 8.0]))
    assert (ratio.diff() > 0).all()


class Turned:
    """Keys from an earlier call."""

    length = 0

    def update(self, layer, k, v):
        return k, v

    def advance(self, n):
        pass


def test_dynamic_scaling_waits_for_long_texts_and_refuses_turned_keys():
    dynamic = DynamicNTK(2.0, 16)
    model = randomize(Llama(config_with(None, context=64)))
    scaled = with_scaling(model, dynamic, 64)
    tokens = torch.randint(13, (1, 40), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(tokens[:, :16]), scaled(tokens[:, :16]))
    assert not torch.allclose(model(tokens), scaled(tokens), atol=1e-3)
    with pytest.raises(ValueError, match="cache must be None: its keys would stay turned"):
        scaled(tokens, cache=Turned())


def test_with_scaling_copies_weights_and_leaves_the_model_alone():
    model = randomize(Llama(config_with(None, tied=True))).double()
    twin = with_scaling(model, YaRN(4.0, 16), 99)
    assert twin.config.context == 99
    assert twin.head.weight is twin.embed.weight
    assert twin.frequencies.dtype == torch.float64
    assert model.config.rope_scaling is None
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.data_ptr() != q.data_ptr()


# ---- needles


@given(st.integers(1, 5), st.integers(2, 6), st.integers(20, 50), st.integers(0, 99))
def test_needles_lie_where_they_are_said_to_and_hold_the_answers(n, values, length, seed):
    needles = Needles(7, n, values)
    generator = torch.Generator().manual_seed(seed)
    rows, distance = needles.rows(torch.arange(400) % 7, 6, length, generator)
    assert rows.max() < needles.vocab_size
    for row, far in zip(rows, distance, strict=True):
        body, questions = row[: -2 * n].tolist(), row[-2 * n :].view(n, 2)
        assert sum(token >= 7 for token in body) == n
        asked = (questions[:, 0] - (needles.vocab_size - n)).tolist()
        assert sorted(asked) == list(range(n))
        for i, (key, answer) in enumerate(zip(asked, questions[:, 1].tolist(), strict=True)):
            place = length - 2 * n + 2 * i - int(far[i])
            assert body[place] == 7 + key * values + answer - (7 + n * values)
    assert torch.equal(rows[:, 1:][:, needles.answers], rows[:, length - 2 * n + 1 :: 2])


def test_answered_reads_the_place_before_the_answer():
    needles = Needles(7, 3, 4)
    rows, _ = needles.rows(torch.arange(90) % 7, 5, 24, torch.Generator().manual_seed(0))

    class Oracle(torch.nn.Module):
        def forward(self, tokens):  # knows what comes next everywhere
            return torch.nn.functional.one_hot(rows[:, 1:], needles.vocab_size).float()

    oracle = Oracle()
    right = answered(oracle, rows, needles)
    assert right.mean() == 1
    assert right.shape == (5, 3)
    wrong = rows.clone()
    wrong[:, -1] = 0
    assert answered(oracle, wrong, needles).mean(0).tolist() == [1, 1, 0]


def test_losses_of_are_those_of_the_model_and_give_the_head_back():
    model = randomize(Llama(config_with(None)))
    head = model.head
    tokens = torch.randint(13, (600,), generator=torch.Generator().manual_seed(0))
    expected = loss_by_position(model, tokens, 599)
    torch.testing.assert_close(losses_of(model, tokens), expected, rtol=1e-5, atol=1e-5)
    assert model.head is head


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Interpolation(0.5), "factor must be at least 1, got 0.5"),
        (lambda: NTK(0.0), "factor must be at least 1, got 0.0"),
        (lambda: DynamicNTK(1.0, 0), "original_context must be at least 1, got 0"),
        (lambda: YaRN(float("nan"), 8), "factor must be at least 1, got nan"),
        (lambda: YaRN(2.0, 8, 1.0, 2.0), "beta_slow must be positive and at most beta_fast = 1"),
        (lambda: YaRN(2.0, 8, attention_factor=0.0), "attention_factor must be positive, got 0.0"),
        (lambda: rope_frequencies(2, scaling=NTK(2.0)), "head_dim must be above 2 .*, got 2"),
        (
            lambda: Needles(5, 4).rows(torch.arange(9), 1, 12, torch.Generator()),
            "length must be above 3 n_keys = 12, got 12",
        ),
        (
            lambda: Needles(5, 2).rows(torch.arange(9), 1, 12, torch.Generator()),
            "text must hold at least length = 12, got 9",
        ),
        (
            lambda: hugging_face_config(config_with(DynamicNTK(2.0, 48), context=100)),
            "context must be factor times original_context = 96 to be written, got 100",
        ),
        (
            lambda: loss_by_position(Llama(config_with(None)), torch.arange(9), 9),
            "tokens must be more than length = 9, got 9",
        ),
        (
            lambda: hugging_face_config(config_with(Scaling())),
            "must be one that transformers knows",
        ),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_llama3_scaling_is_one_of_them():
    assert RopeScaling().gain == 1
    assert not RopeScaling.by_length
