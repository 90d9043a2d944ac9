"""The model against transformers', the fused block against plain operators, and its promises."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tiny_gpt.export.hugging_face import content_of, tensors_of
from tiny_gpt.generation.decoder import StaticCache
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT
from tiny_gpt.settings import Settings
from tiny_gpt.training.optimizers import Optimizers

SIZES = {"context": 16, "n_layers": 2, "n_heads": 4, "d_model": 16}
VOCABULARY = 23


def model_of(arch="modern", seed=0, **changes) -> GPT:
    """A model none of whose weights is zero or one."""
    config = GPTConfig.of(arch, VOCABULARY, **{**SIZES, **changes})
    model = GPT(config, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.1)
    return model


def tokens_of(batch=3, n=12, seed=0):
    return torch.randint(VOCABULARY, (batch, n), generator=torch.Generator().manual_seed(seed))


def gradients(model, tokens, **options) -> dict[str, torch.Tensor]:
    model.zero_grad()
    logits = model(tokens[:, :-1], **options)
    F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


# ---- the same function as in transformers


def theirs_of(model: GPT):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    content = content_of(model.config)
    classes = {"gpt2": (GPT2Config, GPT2LMHeadModel), "llama": (LlamaConfig, LlamaForCausalLM)}
    config, cls = classes[content["model_type"]]
    theirs = cls(config(**{**content, "attn_implementation": "eager"})).eval()
    missing, unknown = theirs.load_state_dict(tensors_of(model), strict=False)
    assert not unknown
    assert set(missing) <= ({"lm_head.weight"} if model.config.tied else set())
    theirs.tie_weights()
    return theirs


@pytest.mark.parametrize(
    ("arch", "changes"),
    [("gpt2", {}), ("llama", {}), ("llama", {"n_kv_heads": 1, "tied": True, "d_ff": 24})],
)
def test_logits_and_gradients_are_those_of_transformers(arch, changes):
    model = model_of(arch, **changes)
    theirs, tokens = theirs_of(model), tokens_of()
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)
    ours = gradients(model, tokens)
    loss = theirs(tokens, labels=tokens).loss
    loss.backward()
    with torch.no_grad():  # their gradients in our layout: as if they were weights
        for name, p in model.named_parameters():
            p.copy_(ours[name])
    found = {name: p.grad for name, p in theirs.named_parameters()}
    expected = tensors_of(model)
    assert found.keys() <= expected.keys()
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-5)


# ---- the fused block


@given(
    batch=st.integers(1, 3),
    n=st.integers(1, 9),
    n_heads=st.integers(1, 4),
    half=st.integers(1, 3),
    width=st.integers(1, 9),
)
def test_fused_equals_plain(batch, n, n_heads, half, width):
    model = model_of(n_heads=n_heads, d_model=2 * half * n_heads, d_ff=width)
    plain, tokens = copy.deepcopy(model), tokens_of(batch, n + 1)
    plain.fused = False
    assert model._can_fuse(torch.zeros(1))
    torch.testing.assert_close(model(tokens), plain(tokens), rtol=1e-5, atol=1e-5)
    reference = gradients(plain, tokens)
    for name, grad in gradients(model, tokens).items():
        scale = max(1e-2, float(reference[name].abs().max()))
        torch.testing.assert_close(grad, reference[name], rtol=2e-5, atol=2e-5 * scale)


def test_fused_stays_close_in_bfloat16():
    """To float32 no further than twice what plain operators under autocast are."""
    model = model_of()
    plain, tokens = copy.deepcopy(model), tokens_of(n=16)
    plain.fused = False
    exact = gradients(plain, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = gradients(model, tokens), gradients(plain, tokens)
    for name, reference in exact.items():
        scale = float(reference.norm())
        error = float((ours[name] - reference).norm()) / scale
        usual = float((theirs[name] - reference).norm()) / scale
        assert error < max(0.02, 2 * usual), name
        assert ours[name].dtype == torch.float32


# ---- promises


@pytest.mark.parametrize("arch", ["gpt2", "llama", "modern"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointed_blocks_give_the_same_gradients(arch, dropout):
    model, tokens, found = model_of(arch, dropout=dropout), tokens_of(), []
    model.fused = False
    for flag in (False, True):
        model.checkpoint_blocks = flag
        torch.manual_seed(7)
        found.append(gradients(model, tokens))
    for name, grad in found[0].items():
        assert torch.equal(grad, found[1][name]), name


@pytest.mark.parametrize("arch", ["gpt2", "llama", "modern"])
@pytest.mark.parametrize("fused", [True, False])
def test_no_token_sees_the_future(arch, fused):
    model, tokens = model_of(arch), tokens_of()
    model.fused = fused
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % VOCABULARY
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=1e-6, atol=1e-6)
    assert (before[:, 7:] - after[:, 7:]).abs().amin(-1).max() > 1e-3


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.sampled_from(["llama", "modern"]))
def test_a_document_does_not_know_its_neighbors(lengths, arch):
    model = model_of(arch, context=24)
    rows = [tokens_of(1, n, seed=i)[0] for i, n in enumerate(lengths)]
    tokens = torch.cat(rows)[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    segments = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    packed = model(tokens, positions=positions, segments=segments)[0]
    alone = torch.cat([model(row[None])[0] for row in rows])
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "modern"])
@pytest.mark.parametrize("cuts", [[1] * 12, [5, 1, 1, 5], [12], [11, 1]])
def test_cached_equals_full(arch, cuts):
    model, tokens = model_of(arch, n_kv_heads=4 if arch == "gpt2" else 2).eval(), tokens_of()
    with torch.no_grad():
        full = model(tokens)
        cache = StaticCache.for_model(model, 3, 16)
        pieces = [model(piece, cache=cache) for piece in tokens.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), full, rtol=1e-5, atol=1e-5)


def test_the_previous_token_is_mixed_in():
    model, tokens = model_of(), tokens_of()
    before = model.tokens_before(tokens, torch.arange(12))
    assert torch.equal(before[:, 1:], tokens[:, :-1])
    assert (before[:, 0] == VOCABULARY).all()
    segments = torch.tensor([[0] * 5 + [1] * 7] * 3)
    # Whether positions start again in each document or not.
    for positions in (torch.tensor([[*range(5), *range(7)]] * 3), torch.arange(12)):
        assert (model.tokens_before(tokens, positions, segments)[:, 5] == VOCABULARY).all()
    same = model(tokens, previous=before)
    torch.testing.assert_close(same, model(tokens))


def test_first_loss_is_that_of_a_uniform_guess():
    config = GPTConfig.of("modern", VOCABULARY, **SIZES)
    model = GPT(config, torch.Generator().manual_seed(0))
    assert not model(tokens_of()).detach().any()
    again = GPT(config, torch.Generator().manual_seed(0))
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


def test_wrong_input():
    of = inspect.unwrap(GPTConfig.of.__func__)  # readers have no contract that comes first
    mask = torch.ones(3, 3, dtype=torch.bool)
    for call, message in (
        (lambda: of(GPTConfig, "gpt5", 10), "architecture must be one of gpt2, llama, modern"),
        (lambda: GPTConfig(10, n_kv_heads=3), "n_kv_heads must divide n_heads = 4, got 3"),
        (lambda: GPTConfig(10, n_layers=0), "n_layers must be at least 1, got 0"),
        (lambda: GPTConfig(10, n_heads=1, d_model=5), "head_dim must be even"),
        (lambda: model_of()(tokens_of(n=17)), "tokens must be at most context = 16 long, got 17"),
        (lambda: model_of()(tokens_of(), mask=mask), "mask must cover 12 tokens, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# ---- the first steps of the optimizers


def first_steps(settings, make, steps=5, dtype=torch.float32, **changes):
    """Weights after some steps with ours, and with the optimizers of torch that `make` gives."""
    model = model_of(settings.arch, **changes)
    other = copy.deepcopy(model)
    ours, theirs = Optimizers(model, settings, dtype), make(other)
    for step in range(steps):
        tokens = tokens_of(seed=step)
        ours.factor = factor = 1 - step / 10
        gradients(model, tokens)
        ours.step()
        gradients(other, tokens)
        for optimizer in theirs:
            for group in optimizer.param_groups:
                group["lr"] = group["initial"] * factor
            optimizer.step()
    return dict(model.named_parameters()), dict(other.named_parameters())


def test_adamw_is_torchs():
    settings = Settings(arch="gpt2", optimizer="adamw", lr=1e-2, weight_decay=0.3)

    def make(model):
        decayed = [p for p in model.parameters() if p.ndim == 2]
        gains = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.3}, {"params": gains, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), foreach=False)
        for group in optimizer.param_groups:
            group["initial"] = 1e-2
        return [optimizer]

    ours, theirs = first_steps(settings, make)
    for name, p in ours.items():
        if not name.endswith("qkv.bias"):  # the keys' part has no gradient but rounding
            torch.testing.assert_close(p, theirs[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("arch", ["llama", "modern"])
def test_muon_is_torchs(arch):
    """Torch's takes its products in bfloat16 always, and so do ours here, one shape each."""
    options = {"weight_decay": 0.1, "momentum": 0.9, "ns_steps": 4}
    settings = Settings(arch=arch, lr=1e-2, matrix_lr=0.02, **options)
    model = model_of(arch, n_layers=1)
    names = [n for n, p in model.named_parameters() if "blocks." in n and p.ndim == 2]
    optimizers = Optimizers(model, settings)
    assert len(optimizers.members["muon"].params) == len(names) == 4

    def make(other):
        named = dict(other.named_parameters())
        muon = torch.optim.Muon([named[n] for n in names], lr=0.02, **options)
        rest = [p for n, p in named.items() if n not in names]
        adamw = torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0, foreach=False)
        muon.param_groups[0]["initial"], adamw.param_groups[0]["initial"] = 0.02, 1e-2
        return [muon, adamw]

    # Later steps amplify where one product rounds to another neighbor.
    for steps, limit in ((1, 1e-6), (5, 2e-4)):
        ours, theirs = first_steps(settings, make, steps, torch.bfloat16, n_layers=1)
        for name, p in ours.items():
            torch.testing.assert_close(p, theirs[name], rtol=0, atol=limit)


def test_state_of_the_optimizers_goes_round():
    settings, models = Settings(arch="llama"), [model_of("llama"), model_of("llama")]
    first, second = (Optimizers(model, settings) for model in models)
    for step in range(4):
        if step == 2:
            second.load_state(*first.state())
            models[1].load_state_dict(models[0].state_dict())
        for model, optimizers in zip(models, (first, second), strict=True):
            gradients(model, tokens_of(seed=step))
            if step >= 2 or optimizers is first:
                optimizers.step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)
    tensors, counters = first.state()
    counters.pop("optim.adamw.0.t")
    with pytest.raises(ValueError, match=r"saved lacks 0\.t"):
        second.load_state(tensors, counters)


def test_clip_shortens_all_gradients_together():
    model = model_of()
    optimizers = Optimizers(model, Settings())
    before = gradients(model, tokens_of())
    norm = optimizers.gradient_norm()
    flat = torch.cat([grad.flatten() for grad in before.values()])
    assert float(norm) == pytest.approx(float(flat.norm()), rel=1e-6)
    optimizers.clip(norm, float(norm) / 4)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, before[name] / 4, rtol=1e-4, atol=1e-9)
