"""LLaMA against transformers and torch, and what padding, caching and precision must not change."""

import math

import pytest
import torch
import torch.nn.functional as F
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from week13.positional_encodings import apply_rope
from week18.costs import cache_bytes, flops_per_token, n_parameters, weight_bytes
from week18.evidence.llama3_blocks import build, equally_large, n_weights, wrongly_paired
from week18.llama3 import Block, Llama, LlamaConfig, RMSNorm, initialize
from week18.pretrained import hugging_face_name
from week18.rotary import RopeScaling, rope_frequencies, rotate
from week18.transformers_twin import randomize, transformers_twin

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
SCALING = RopeScaling(4.0, 1.0, 4.0, 16)


def random_model(seed=0, **changes):
    sizes = {"d_model": 18, "n_heads": 6, "n_kv_heads": 2, "head_dim": 6, "d_ff": 28}
    config = LlamaConfig(13, **{**sizes, "context": 64, "rope_base": 100.0, **changes})
    return randomize(Llama(config), std=0.3, seed=seed)


def random_tokens(*shape, seed=0):
    return torch.randint(13, shape, generator=torch.Generator().manual_seed(seed))


class ListCache:
    """The plainest `Cache`: one growing tensor per layer."""

    def __init__(self):
        self.length, self.layers = 0, {}

    def update(self, layer, k, v):
        if layer in self.layers:
            k, v = (torch.cat(pair, dim=2) for pair in zip(self.layers[layer], (k, v), strict=True))
        self.layers[layer] = (k, v)
        return k, v

    def advance(self, n):
        self.length += n


configs = st.builds(
    LlamaConfig,
    vocab_size=st.integers(2, 13),
    d_model=st.sampled_from([12, 36]),  # transformers wants a multiple of n_heads
    n_layers=st.integers(1, 2),
    n_heads=st.sampled_from([2, 4, 6]),
    n_kv_heads=st.sampled_from([1, 2]),
    head_dim=st.sampled_from([2, 6, 10]),
    d_ff=st.sampled_from([3, 16]),
    context=st.just(64),
    rope_base=st.sampled_from([100.0, 500_000.0]),
    rope_scaling=st.sampled_from([None, SCALING]),
    norm_eps=st.sampled_from([1e-5, 1e-1]),
    tied=st.booleans(),
)

# ---- the whole model


@settings(max_examples=15)
@given(config=configs, length=st.integers(1, 40), seed=st.integers(0, 99))
def test_equals_transformers(config, length, seed):
    """Logits and gradients; lengths go past the 16 positions that the scaling was made for."""
    ours = randomize(Llama(config), seed=seed)
    theirs = transformers_twin(ours)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(config.vocab_size, (2, length + 1), generator=generator)
    outputs = ours(tokens[:, :-1]), theirs(tokens[:, :-1]).logits
    torch.testing.assert_close(*outputs, **TOLERANCE)
    for out in outputs:
        F.cross_entropy(out.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    reference = {name: p.grad for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, reference[hugging_face_name(name)], rtol=1e-4, atol=1e-5)


def test_given_positions_equal_transformers():
    ours = random_model(rope_scaling=SCALING)
    theirs = transformers_twin(ours)
    tokens, positions = random_tokens(2, 7), torch.tensor([[0, 3, 4, 9, 30, 31, 63]] * 2)
    expected = theirs(tokens, position_ids=positions).logits
    torch.testing.assert_close(ours(tokens, positions=positions), expected, **TOLERANCE)
    torch.testing.assert_close(ours(tokens, positions=positions[0]), expected, **TOLERANCE)


def test_bfloat16_follows_the_float32_model():
    """Angles stay in float32: in bfloat16, position 257 would be rounded to 256."""
    ours = random_model(context=4096)
    tokens = random_tokens(1, 12)
    positions = torch.arange(1001, 1013)
    expected = ours(tokens, positions=positions)
    half = ours.to(torch.bfloat16)
    assert half.frequencies.dtype == torch.float32
    error = (half(tokens, positions=positions).float() - expected).abs().max()
    assert error < 0.06 * expected.abs().max()


def test_frequencies_survive_a_trip_through_half_precision_and_meta():
    model = random_model()
    exact = model.frequencies.clone()
    assert torch.equal(model.half().float().frequencies, exact)
    with torch.device("meta"):
        empty = Llama(model.config)
    assert torch.equal(empty.to_empty(device="cpu").frequencies, exact)
    assert model.double().frequencies.dtype == torch.float64


@given(seed=st.integers(0, 20))
@settings(max_examples=8)
def test_padding_on_the_left_changes_nothing(seed):
    model = random_model(seed).double()
    lengths = torch.tensor([9, 4, 1])
    tokens = random_tokens(3, 9, seed=seed)
    real = torch.arange(9) >= 9 - lengths[:, None]
    positions = (real.cumsum(1) - 1).clamp(min=0)
    for where in (positions, None):  # a common shift is not seen
        padded = model(tokens, mask=real, positions=where)
        assert padded.isfinite().all()
        for row, n in enumerate(lengths):
            alone = model(tokens[row : row + 1, 9 - n :])
            torch.testing.assert_close(padded[row, 9 - n :], alone[0])


def test_padding_gives_finite_gradients():
    model = random_model()
    real = torch.arange(6) >= torch.tensor([[0], [5]])
    model(random_tokens(2, 6), mask=real)[real].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_only_distances_matter():
    """A common shift of all positions, such as padding's, is not seen."""
    model = random_model().double()
    tokens = random_tokens(2, 8)
    shifted = model(tokens, positions=torch.arange(100, 108))
    torch.testing.assert_close(model(tokens), shifted)
    stretched = model(tokens, positions=torch.arange(0, 16, 2))
    assert not torch.allclose(model(tokens), stretched, atol=1e-3)


# ---- the cache


@given(pieces=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 9))
@settings(max_examples=12)
def test_cached_equals_uncached(pieces, seed):
    model, cache = random_model(seed).double(), ListCache()
    tokens = random_tokens(2, sum(pieces), seed=seed)
    parts = [model(part, cache=cache) for part in tokens.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens))
    assert cache.length == sum(pieces)
    stored = sum(t.numel() for pair in cache.layers.values() for t in pair)
    assert stored * 8 == 2 * cache_bytes(model.config, sum(pieces), bytes_per_value=8)


def test_cached_with_padding_equals_rows_alone():
    model, cache = random_model().double(), ListCache()
    tokens = random_tokens(2, 8)
    real = torch.arange(8) >= torch.tensor([[0], [3]])
    positions = (real.cumsum(1) - 1).clamp(min=0)
    for a, b in ((0, 5), (5, 6), (6, 8)):
        out = model(tokens[:, a:b], mask=real[:, :b], positions=positions[:, a:b], cache=cache)
    for row, start in enumerate((0, 3)):
        torch.testing.assert_close(out[row], model(tokens[row : row + 1, start:])[0, -2:])


def test_refuses_what_it_cannot_hold():
    model, cache = random_model(context=8), ListCache()
    with pytest.raises(ValueError, match="at most context = 8 long, got 9"):
        model(random_tokens(1, 9))
    model(random_tokens(1, 6), cache=cache)
    with pytest.raises(ValueError, match="at most context = 8 long, got 9"):
        model(random_tokens(1, 3), cache=cache)
    with pytest.raises(ValueError, match="mask must cover 8 tokens, got 2"):
        model(random_tokens(1, 2), cache=cache, mask=torch.ones(1, 2, dtype=torch.bool))
    other = plain("18", "llama3").Llama(model.config)
    with pytest.raises(ValueError, match=r"mask must be booleans, got torch\.int64"):
        other(random_tokens(1, 2), mask=torch.ones(1, 2, dtype=torch.long))


# ---- the parts


@given(
    shape=st.sampled_from([(3,), (2, 5), (2, 1, 7)]),
    eps=st.sampled_from([1e-5, 0.5]),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_rms_norm_equals_torch(shape, eps, scale):
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(shape[-1], eps)
    with torch.no_grad():
        norm.weight.normal_(generator=generator)
    x = (scale * torch.randn(shape, generator=generator)).requires_grad_()
    outputs = norm(x), F.rms_norm(x, shape[-1:], norm.weight, eps)
    torch.testing.assert_close(*outputs)
    upstream = torch.randn(shape, generator=generator)
    ours, theirs = (torch.autograd.grad(out, (x, norm.weight), upstream) for out in outputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rms_norm_in_bfloat16_squares_in_float32():
    x = torch.full((1, 512), 3.0, dtype=torch.bfloat16)
    x[0, 0] = 3e19  # its square has no float16 and loses the rest in bfloat16
    ours = RMSNorm(512).bfloat16()(x)
    theirs = F.rms_norm(x.float(), (512,), eps=1e-5).bfloat16()
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=0)
    y = torch.randn(4, 4096, generator=torch.manual_seed(0)).bfloat16()
    theirs = F.rms_norm(y.float(), (4096,), eps=1e-5)
    torch.testing.assert_close(RMSNorm(4096).bfloat16()(y).float(), theirs, rtol=2**-8, atol=1e-6)


@given(
    half=st.integers(1, 5),
    start=st.integers(0, 10_000),
    scaled=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_rotate_equals_apply_rope(half, start, scaled, dtype):
    frequencies = rope_frequencies(2 * half, scaling=SCALING if scaled else None)
    x = torch.randn(2, 3, 4, 2 * half, generator=torch.manual_seed(0)).to(dtype)
    angles = torch.arange(start, start + 4)[:, None] * frequencies
    cos, sin = (f(angles).to(dtype)[None, None] for f in (torch.cos, torch.sin))
    expected = apply_rope(x, start, frequencies=frequencies)
    torch.testing.assert_close(rotate(x, cos, sin), expected, rtol=0, atol=0)
    torch.testing.assert_close(expected.norm(dim=-1), x.norm(dim=-1))


@given(head_dim=st.sampled_from([2, 16, 128]), factor=st.floats(1, 32))
def test_scaling_keeps_fast_waves_and_stretches_slow_ones(head_dim, factor):
    plain = rope_frequencies(head_dim, base=10_000.0)
    scaling = RopeScaling(factor, 1.0, 4.0, 1024)
    ratio = plain / rope_frequencies(head_dim, base=10_000.0, scaling=scaling)
    wave = 2 * math.pi / plain
    torch.testing.assert_close(ratio[wave < 256], torch.ones_like(ratio[wave < 256]))
    slow = ratio[wave > 1024]
    torch.testing.assert_close(slow, torch.full_like(slow, factor))
    assert ((ratio >= 1 - 1e-5) & (ratio <= factor * (1 + 1e-5))).all()
    assert (ratio.diff() >= -1e-5 * factor).all()


def test_mlp_is_gated():
    block = Block(LlamaConfig(5, 4, 1, 2, d_ff=3), 0)
    u = torch.randn(7, 4, generator=torch.manual_seed(0))
    gate, up = u @ block.gate_proj.weight.T, u @ block.up_proj.weight.T
    expected = (gate / (1 + (-gate).exp()) * up) @ block.down_proj.weight.T
    torch.testing.assert_close(block.mlp(u), expected)


@pytest.mark.parametrize(("d", "d_ff"), [(96, 256), (64, 176), (48, 128), (100, 272), (3, 8)])
def test_default_mlp_weighs_as_gpts(d, d_ff):
    config = LlamaConfig(5, d, 1, 1, head_dim=2)
    assert config.d_ff == d_ff
    assert 8 * d * d <= 3 * d * config.d_ff < 8 * d * d + 24 * d


def test_initial_loss_is_guessing():
    model = Llama(LlamaConfig(13, 32), torch.Generator().manual_seed(0))
    tokens = random_tokens(8, 33)
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(13)) < 0.03
    stds = {n: p.std().item() for n, p in model.named_parameters() if p.ndim == 2}
    for name, std in stds.items():
        onto_stream = "out_proj" in name or "down" in name
        assert std == pytest.approx(0.02 / (2 if onto_stream else 1), rel=0.15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LlamaConfig(5, n_kv_heads=3), "n_kv_heads must divide n_heads = 4, got 3"),
        (lambda: LlamaConfig(5, head_dim=5), "head_dim must be even for rotary positions, got 5"),
        (lambda: LlamaConfig(5, n_heads=7), "n_heads must divide d_model = 64"),
        (lambda: LlamaConfig(5, n_layers=0), "n_layers must be at least 1, got 0"),
        (lambda: LlamaConfig(5, n_heads=0), "n_heads must be at least 1, got 0"),
        (lambda: LlamaConfig(5, rope_base=-1.0), "rope_base must be positive"),
        (lambda: LlamaConfig(5, norm_eps=-1.0), "norm_eps not negative"),
        (lambda: RopeScaling(0.5), r"factor must be at least 1, got 0\.5"),
        (lambda: RopeScaling(8.0, 4.0, 4.0), r"below high_freq_factor = 4\.0, got 4"),
        (lambda: RopeScaling(original_context=0), "original_context must be at least 1, got 0"),
        (lambda: rope_frequencies(3), "head_dim must be even and at least 2, got 3"),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- the costs


@given(config=configs)
def test_parameters_are_counted(config):
    assert n_parameters(config) == sum(p.numel() for p in Llama(config).parameters())
    assert weight_bytes(config, bytes_per_value=4) == 4 * n_parameters(config)


@pytest.mark.parametrize("length", [1, 17])
@pytest.mark.parametrize(
    "config",
    [LlamaConfig(13, 12, 2, 6, 2, 10, 7), LlamaConfig(5, 16, 1, 4, 4, tied=True)],
    ids=["grouped", "tied"],
)
def test_operations_are_counted(config, length):
    model, tokens = Llama(config), torch.zeros(1, length, dtype=torch.long)
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            loss = model(tokens).sum()
            if backward:
                loss.backward()
        expected = length * flops_per_token(config, length, backward=backward)
        assert counter.get_total_flops() == expected


# ---- the compared models


@pytest.mark.parametrize("arm", ["LLaMA", "layer norm", "GELU", "learned positions", "all heads"])
def test_arms_are_equally_large_and_differ(arm):
    config = LlamaConfig(13, 16, 2, 4, 1, context=12, rope_base=100.0)
    width = equally_large(arm, config, 9000)
    model = initialize(build(arm, config, width), 2, torch.Generator().manual_seed(0))
    assert abs(n_weights(model) / 9000 - 1) < 0.01
    tokens = random_tokens(2, 12)
    assert model(tokens).shape == (2, 12, 13)
    if arm == "learned positions":
        moved = tokens[:, [1, 0, *range(2, 12)]]
        assert (model.frequencies == 0).all()
        assert not torch.allclose(model(tokens)[:, -1], model(moved)[:, -1], atol=1e-6)


def test_wrong_pairs_are_the_interleaved_ones(monkeypatch):
    model = random_model()
    tokens = random_tokens(2, 9)
    expected = wrongly_paired(model)(tokens)
    options = {"frequencies": model.frequencies, "pairing": "interleaved"}
    monkeypatch.setattr("week18.llama3.rotate", lambda x, cos, sin: apply_rope(x, **options))
    torch.testing.assert_close(model(tokens), expected, **TOLERANCE)
