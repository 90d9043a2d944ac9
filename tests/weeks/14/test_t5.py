"""T5 of random sizes against transformers, and what must hold of any encoder–decoder."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.records import ROOT
from shared.run import Run
from week14.evidence.t5 import Forgetful, cut_losses, judge
from week14.span_corruption import EOS, PAD
from week14.t5 import T5, T5Config, greedy, training_losses
from week14.t5_twin import randomize, transformers_twin


def small(version="1.0", **sizes):
    sizes = {"d_model": 12, "n_heads": 2, "n_buckets": 8, "max_distance": 12} | sizes
    return randomize(T5(T5Config(20, version=version, **sizes))).eval()


def tokens(*shape, seed=0):
    return torch.randint(EOS + 1, 20, shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=6)
@given(
    version=st.sampled_from(["1.0", "1.1"]),
    layers=st.integers(1, 2),
    heads=st.sampled_from([1, 3]),
    head_dim=st.sampled_from([None, 5]),
    sides=st.tuples(st.integers(1, 18), st.integers(1, 18)),
    padding=st.integers(0, 5),
)
def test_equals_transformers(version, layers, heads, head_dim, sides, padding):
    model = small(version, n_layers=layers, n_heads=heads, head_dim=head_dim)
    source, target = tokens(2, sides[0]), tokens(2, sides[1], seed=1)
    source[1, max(1, sides[0] - padding) :] = PAD
    keep = (source != PAD).long()
    theirs = transformers_twin(model)(input_ids=source, attention_mask=keep, labels=target)
    torch.testing.assert_close(model(source, target), theirs.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_head_and_its_scale(version):
    model = small(version)
    names = dict(model.named_parameters())
    assert ("head.weight" in names) == (version == "1.1")
    assert sum("bias.table" in name for name in names) == 2  # one per stack
    assert not [name for name, p in names.items() if name.endswith(".bias")]


@settings(max_examples=6)
@given(cuts=st.lists(st.integers(1, 12), max_size=3), version=st.sampled_from(["1.0", "1.1"]))
def test_cached_steps_of_any_size_equal_all_at_once(cuts, version):
    model, source, target = small(version), tokens(2, 9), tokens(2, 20, seed=1)
    source[0, 6:] = PAD
    read, memory = F.pad(target, (1, -1)), model.begin(source)
    sizes = [*cuts, 20 - sum(cuts)] if sum(cuts) < 20 else [20]
    parts = [model.decode(part, source, memory) for part in read.split(sizes, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(source, target), rtol=1e-4, atol=1e-5)


def test_the_future_is_invisible_and_all_of_the_source_is_seen():
    model, source, target = small(), tokens(1, 7), tokens(1, 8, seed=1)
    other = target.clone()
    other[0, 4] = (other[0, 4] - 1) % 18 + 2
    changed = (model(source, target) != model(source, other)).any(-1)[0]
    assert changed.tolist() == [False] * 5 + [True] * 3
    for place in range(7):
        another = source.clone()
        another[0, place] = (another[0, place] - 1) % 18 + 2
        assert (model(another, target) != model(source, target)).any(-1).all()


def test_padding_changes_nothing():
    model, source, target = small(), tokens(2, 7), tokens(2, 8, seed=1)
    padded = F.pad(source, (0, 4), value=PAD)
    torch.testing.assert_close(model(padded, target), model(source, target))


def test_start_has_scores_and_logits_of_unit_size():
    """The missing 1/sqrt(d) is in the start of the queries, the head's scale in its factor."""
    for version in ("1.0", "1.1"):
        config = T5Config(500, d_model=256, n_heads=4, n_layers=1, version=version)
        model = T5(config, torch.Generator().manual_seed(0))
        attention, u = model.encoder.layers[0].self_attention, torch.randn(1, 200, 256)
        q, (k, _) = attention.heads(attention.q_proj(u)), attention.keys_values(u)
        assert (q @ k.transpose(2, 3)).std().item() == pytest.approx(1, rel=0.1)
        logits = model(torch.randint(2, 500, (4, 9)), torch.randint(2, 500, (4, 9)))
        assert logits.std().item() == pytest.approx(1, rel=0.2)


def test_greedy_is_the_argmax_of_all_at_once_and_stops():
    model, source = small(), tokens(4, 9)
    with torch.no_grad():
        model.embed.weight[EOS] *= 3  # so that some rows end early
    written = greedy(model, source, max_len=25)
    ended = (written == EOS).any(1)
    assert ended.any()
    assert not ended.all()
    for row, line in zip(source, written, strict=True):
        n = line.tolist().index(EOS) + 1 if EOS in line else len(line)
        best = model(row[None], line[None, :n]).argmax(-1)[0]
        assert (best == line[:n]).all()
        assert (line[n:] == PAD).all()


def test_it_learns_to_write_what_came_first_and_padding_is_not_counted():
    generator = torch.Generator().manual_seed(0)
    model = T5(T5Config(8, d_model=32, n_layers=1, n_heads=2), generator)

    def pairs():
        while True:
            source = torch.randint(2, 8, (24, 3), generator=generator)
            yield source, F.pad(F.pad(source[:, :1], (0, 1), value=EOS), (0, 3), value=PAD)

    losses = list(training_losses(model, pairs(), steps=60, lr=0.02))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    source, target = next(pairs())
    assert (greedy(model, source, max_len=2) == target[:, :2]).double().mean() > 0.6
    whole, *_ = training_losses(model, [(source, target)], steps=1, lr=0.0)
    bare, *_ = training_losses(model, [(source, target[:, :2])], steps=1, lr=0.0)
    assert whole == pytest.approx(bare, rel=1e-5)


def test_forgetful_decoder_is_the_step_that_believes_to_be_the_first():
    model, source, target = small(), tokens(2, 9), tokens(2, 6, seed=1)
    read, bias, forgetful = F.pad(target, (1, -1)), model.decoder.bias, small()
    forgetful.decoder.bias = Forgetful(forgetful.decoder.bias)
    memory, steps = model.begin(source), []
    first = bias(1, 1)
    bias.forward = lambda new, total: first.expand(-1, new, total)
    for i in range(6):
        steps.append(model.decode(read[:, i : i + 1], source, memory))
    torch.testing.assert_close(torch.cat(steps, 1), forgetful(source, target))


def test_losses_of_cut_characters_only():
    model, source = small(), tokens(1, 5)
    target = torch.tensor([[19, 4, 5, 18, 6, EOS, PAD]])
    losses = cut_losses(model, source, target, n_words=17)
    assert losses.isnan().tolist() == [[True, False, False, True, False, True, True]]
    expected = -model(source, target).log_softmax(-1)[0, 1, 4]
    assert losses[0, 1].item() == pytest.approx(expected.item(), rel=1e-5)


def test_judging_by_made_up_losses(tmp_path):
    run = Run(ROOT / "weeks/14/t5.py", out=tmp_path, quiet=True)
    made = {
        "right": 2.0,
        "other": 2.5,
        "mixed": 3.3,
        "mixed, other": 3.3,
        "decoder": 2.1,
        "encoder": 2.2,
    }
    losses = {name: value + np.array([0.0, 0.01, 0.02]) for name, value in made.items()}
    curves = {"text infilling": [np.linspace(4, 2, 50) + s for s in (0, 0.1, 0.2)]}
    other = {
        name: made[name] + np.array([0, 0.01, 0.03]) for name in ("other", "decoder", "encoder")
    }
    judge(run, losses | other, curves, 3.2)
    assert [claim["verdict"] for claim in run.claims] == ["holds"] * 5
    means = [claim["mean"] for claim in run.claims]
    assert means == pytest.approx([1.19, 0.503, 1.84, 0.203, 0.103], abs=0.01)
    assert all(row["broken"] for row in run.falsifiers)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: T5Config(20, d_model=10), "n_heads must divide d_model = 10 .*, got 4"),
        (lambda: T5Config(0), "vocab_size must be at least 1, got 0"),
        (lambda: T5Config(20, n_layers=0), "n_layers must be at least 1, got 0"),
        (lambda: plain("14", "t5").T5Config(20, version="2"), "version must be 1.0 or 1.1, got 2"),
        (lambda: T5Config(20, n_buckets=6), "n_buckets must be a positive multiple of 4, got 6"),
        (lambda: T5Config(20, max_distance=16), "max_distance must exceed n_buckets / 2 = 16"),
        (lambda: greedy(small(), tokens(1, 3), max_len=0), "max_len must be at least 1, got 0"),
        (lambda: small()(tokens(1, 3)[:, :0], tokens(1, 3)), "source must hold at least one token"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
