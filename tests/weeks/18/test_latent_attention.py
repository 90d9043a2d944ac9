"""Latent attention: forms, cache, positions and scale, with parts of unequal size everywhere."""

import dataclasses

import pytest
import torch
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st

from week13.positional_encodings import apply_rope
from week18.deepseek_twin import attention_twin, randomize
from week18.evidence.latent_attention import builders
from week18.latent_attention import (
    V3,
    LatentAttention,
    LatentCache,
    LatentConfig,
    turn_neighbors,
    turns,
)
from week18.rotary import rope_frequencies

sizes = st.builds(
    LatentConfig,
    d_model=st.sampled_from([6, 11]),
    n_heads=st.integers(1, 3),
    kv_rank=st.integers(1, 9),
    nope_dim=st.integers(1, 7),
    rope_dim=st.sampled_from([2, 4, 8]),
    v_dim=st.integers(1, 6),
    q_rank=st.sampled_from([None, 1, 5]),
)
SIZES = LatentConfig(11, 3, 9, 7, 4, 5, q_rank=6)


def layer_of(config=SIZES, seed=0):
    return randomize(LatentAttention(config), seed=seed).double()


def inputs(config, n, start=0, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, n, config.d_model, generator=generator, dtype=torch.float64)
    frequencies = rope_frequencies(config.rope_dim, base=100.0).double()
    return x, *turns(torch.arange(start, start + n), frequencies)


@given(config=sizes, n=st.integers(1, 12), seed=st.integers(0, 9))
def test_absorbed_equals_explicit_by_the_definition(config, n, seed):
    """Both forms, and the sum written out head by head."""
    layer = layer_of(config, seed)
    x, cos, sin = inputs(config, n, seed=seed)
    outputs = [layer(x, cos, sin, form=form) for form in ("explicit", "absorbed", None)]
    c = config
    latent, key = layer.kv_down(x).split([c.kv_rank, c.rope_dim], dim=-1)
    latent = layer.kv_norm.weight * latent / (latent.square().mean(-1, True) + 1e-6).sqrt()
    where = {"frequencies": rope_frequencies(c.rope_dim, base=100.0).double()}
    where["pairing"] = "interleaved"
    key = apply_rope(key[:, None], **where)[:, 0]
    q = layer.q_proj(x) if c.q_rank is None else layer.q_up(layer.q_norm(layer.q_down(x)))
    heads = []
    for h, rows in enumerate(layer.kv_up.weight.split(c.nope_dim + c.v_dim)):
        content, turned = q.chunk(c.n_heads, -1)[h].split([c.nope_dim, c.rope_dim], -1)
        k, v = (latent @ rows.T).split([c.nope_dim, c.v_dim], -1)
        turned = apply_rope(turned[:, None], **where)[:, 0]
        scores = (content @ k.mT + turned @ key.mT) / (c.nope_dim + c.rope_dim) ** 0.5
        hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
        heads.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v)
    expected = layer.out_proj(torch.cat(heads, -1))
    for out in outputs:
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-10)


@given(config=sizes, n=st.integers(1, 12), start=st.sampled_from([0, 40]))
@settings(max_examples=10)
def test_equals_transformers(config, n, start):
    ours = randomize(LatentAttention(config))
    theirs = attention_twin(ours)
    x, cos, sin = (t.float() for t in inputs(config, n, start))
    turn = tuple(torch.cat([f[:, 0], f[:, 0]], dim=-1) for f in (cos, sin))
    mask = torch.full((n, n), -torch.inf).triu(1)[None, None]
    torch.testing.assert_close(ours(x, cos, sin), theirs(x, turn, mask)[0], rtol=1e-5, atol=1e-5)


def test_only_distances_matter():
    layer = layer_of()
    x, *here = inputs(SIZES, 8)
    _, *later = inputs(SIZES, 8, start=100)
    _, *same = inputs(SIZES, 8)
    torch.testing.assert_close(layer(x, *here), layer(x, *later))
    still = (torch.ones_like(same[0]), torch.zeros_like(same[1]))
    assert not torch.allclose(layer(x, *here), layer(x, *still), atol=1e-3)


def test_turned_pairs_are_neighbors():
    x = torch.randn(1, 2, 5, 6, generator=torch.manual_seed(0))
    frequencies = rope_frequencies(6, base=100.0)
    expected = apply_rope(x, 3, frequencies=frequencies, pairing="interleaved")
    ours = turn_neighbors(x, *turns(torch.arange(3, 8), frequencies))
    torch.testing.assert_close(ours, torch.cat([expected[..., 0::2], expected[..., 1::2]], -1))


@given(pieces=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=st.integers(0, 5))
@settings(max_examples=12)
def test_cached_equals_uncached(pieces, seed):
    layer, n = layer_of(seed=seed), sum(pieces)
    x, cos, sin = inputs(SIZES, n, seed=seed)
    cache = LatentCache(SIZES, n_layers=1, batch=2, max_length=n, dtype=torch.float64)
    parts, end = [], 0
    for size in pieces:
        start, end = end, end + size
        allowed = (torch.arange(end) <= torch.arange(start, end)[:, None])[None, None]
        part = (t[..., start:end, :] for t in (x, cos, sin))
        parts.append(layer(*part, cache, allowed))
        cache.advance(size)
    torch.testing.assert_close(torch.cat(parts, 1), layer(x, cos, sin))
    assert cache.nbytes == 8 * 2 * n * (SIZES.kv_rank + SIZES.rope_dim)


def test_latents_are_normalized_and_keys_are_not():
    layer = layer_of()
    with torch.no_grad():
        layer.kv_norm.weight.fill_(1.0)
    x, cos, sin = inputs(SIZES, 6)
    stored, larger = layer.remembered(x, cos, sin), layer.remembered(10 * x, cos, sin)
    latent, key = stored.split([9, 4], dim=-1)
    torch.testing.assert_close(
        latent.square().mean(-1), torch.ones(2, 6).double(), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(larger[..., :9], latent, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(larger[..., 9:], 10 * key)


def test_cheaper_form_is_taken(monkeypatch):
    taken, layer = [], layer_of()
    for form in ("explicit", "absorbed"):
        real = getattr(layer, form)
        spy = lambda *a, form=form, real=real: (taken.append(form), real(*a))[1]  # noqa: E731
        monkeypatch.setattr(layer, form, spy)
    x, cos, sin = inputs(SIZES, 30)
    layer(x, cos, sin)
    cache = LatentCache(SIZES, n_layers=1, batch=2, max_length=31, dtype=torch.float64)
    cache.advance(30)
    layer(x[:, :1], cos[:, :, :1], sin[:, :, :1], cache)
    assert taken == ["explicit", "absorbed"]
    assert V3.operations(1, 1000, "absorbed") < V3.operations(1, 1000, "explicit") / 50
    assert V3.operations(1000, 1000, "absorbed") > V3.operations(1000, 1000, "explicit")


def test_crop_forgets_and_overwrites():
    layer, (x, cos, sin) = layer_of(), inputs(SIZES, 6)
    cache = LatentCache(SIZES, n_layers=1, batch=2, max_length=6, dtype=torch.float64)
    cache.update(0, layer.remembered(x, cos, sin))
    cache.advance(6)
    cache.crop(4)
    stored = cache.update(0, layer.remembered(-x, cos, sin)[:, 4:5])
    torch.testing.assert_close(stored[:, :4], layer.remembered(x, cos, sin)[:, :4])
    torch.testing.assert_close(stored[:, 4:], layer.remembered(-x, cos, sin)[:, 4:5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LatentConfig(0, 1, 1, 1, 2, 1), "d_model must be at least 1, got 0"),
        (lambda: LatentConfig(4, 1, 1, 1, 3, 1), "rope_dim must be even, got 3"),
        (lambda: LatentConfig(4, 1, 1, 1, 2, 1, q_rank=0), "q_rank must be None or at least 1"),
        (lambda: dataclasses.replace(SIZES, norm_eps=-1), "norm_eps must be at least 0, got -1"),
        (lambda: cache_of().update(0, torch.zeros(1, 5, 13)), "at most max_length = 4, got 5"),
        (lambda: cache_of().update(0, torch.zeros(2, 1, 13)), "batch = 1 rows, got 2"),
        (lambda: cache_of().crop(1), "length must be between 0 and 0, got 1"),
        (lambda: cache_of(batch=0), "batch must be at least 1, got 0"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def cache_of(batch=1):
    return LatentCache(SIZES, n_layers=1, batch=batch, max_length=4)


def test_unknown_form():
    layer = plain("18", "latent_attention").LatentAttention(SIZES)
    x, cos, sin = (t.float() for t in inputs(SIZES, 2))
    with pytest.raises(ValueError, match="form must be one of explicit, absorbed, got 'fast'"):
        layer(x, cos, sin, form="fast")


def test_compared_models_are_of_one_size_and_still_ones_are_blind_to_order():
    models = {arm: make(torch.Generator()) for arm, make in builders(31).items()}
    counts = {arm: sum(p.numel() for p in model.parameters()) for arm, model in models.items()}
    assert max(counts.values()) < 1.03 * min(counts.values())
    tokens = torch.randint(31, (1, 12), generator=torch.manual_seed(0))
    moved = tokens[:, [1, 0, *range(2, 12)]]
    for arm, blind in (("latent", False), ("still", True)):  # the first layer; a later one
        model = randomize(models[arm]).double()  # sees order through the causal mask
        turn = turns(torch.arange(12), rope_frequencies(8, base=100.0).double())
        here, there = (
            model.blocks[0].attention(model.embed(t), *turn)[:, 5:] for t in (tokens, moved)
        )
        assert torch.allclose(here, there) == blind
