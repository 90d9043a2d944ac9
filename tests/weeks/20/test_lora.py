"""LoRA against peft: outputs, gradients, training steps, files; what is refused."""

import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shared.errors import UserError
from week09.optimizers import AdamW
from week14.minimal_gpt import GPT, GPTConfig
from week18.llama3 import Llama, LlamaConfig
from week18.pretrained import save_pretrained
from week20.adapter_folder import hugging_face_layer, load_adapter, save_adapter
from week20.evidence.lora import shares_of
from week20.lora import (
    LoRAConfig,
    LoRALinear,
    adapter_state,
    adapters,
    inject,
    load_adapter_state,
    merge,
    trainable,
    unload,
    unmerge,
)
from week20.peft_twin import peft_name, with_peft


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(seed: int = 0, dtype=torch.float64) -> nn.Module:
    draw = generator(seed)
    model = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 4, bias=False))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) / 2)
    return model.to(dtype)


def randomized(model: nn.Module, seed: int = 1) -> nn.Module:
    """Corrections as after some training: B no longer zero."""
    draw = generator(seed)
    state = adapter_state(model)
    new = {n: torch.randn(p.shape, generator=draw).to(p.dtype) / 2 for n, p in state.items()}
    return load_adapter_state(model, new)


@given(
    seed=st.integers(0, 10**6),
    r=st.integers(1, 12),
    alpha=st.floats(0.1, 64),
    rank_stabilized=st.booleans(),
    targets=st.sampled_from([("0",), ("2",), ("0", "2")]),
    dropout=st.sampled_from([0.0, 0.4]),
)
def test_same_outputs_and_gradients_as_peft(seed, r, alpha, rank_stabilized, targets, dropout):
    config = LoRAConfig(r, alpha, dropout, rank_stabilized, targets)
    base = small(seed)
    ours = randomized(inject(copy.deepcopy(base), config, generator(seed)), seed)
    theirs = with_peft(ours, base, config)
    x = torch.randn(2, 3, 6, generator=generator(seed), dtype=torch.float64)
    outputs = []
    for model in (ours, theirs):
        model.train()
        torch.manual_seed(seed)  # the same units drop out
        outputs.append(model(x))
        (outputs[-1] ** 2).sum().backward()
    torch.testing.assert_close(*outputs, atol=1e-10, rtol=1e-10)
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert len(gradients) == 2 * len(targets)
    for name, p in ours.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, gradients[peft_name(name)], atol=1e-9, rtol=1e-9)


def test_first_steps_of_adamw_are_pefts():
    config, base = LoRAConfig(3, 6, targets=("0", "2")), small()
    ours = inject(copy.deepcopy(base), config, generator())
    theirs = with_peft(ours, base, config)
    options = {"lr": 0.05, "betas": (0.9, 0.99), "weight_decay": 0.1}
    optimizers = [
        AdamW([p for p in ours.parameters() if p.requires_grad], **options),
        torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], **options),
    ]
    x, y = torch.randn(2, 5, 6, generator=generator(2), dtype=torch.float64), 1.0
    for _ in range(5):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            losses.append(((model(x) - y) ** 2).mean())
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(*losses, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-10, rtol=0)


@given(seed=st.integers(0, 10**6), r=st.integers(1, 8))
def test_merged_is_unmerged(seed, r):
    config = LoRAConfig(r, 8, 0.3, targets=("0", "2"))
    model = randomized(inject(small(seed), config, generator(seed)), seed).eval()
    x = torch.randn(7, 6, generator=generator(seed), dtype=torch.float64)
    before, weights = model(x), [layer.base.weight.clone() for _, layer in adapters(model)]
    torch.testing.assert_close(merge(model)(x), before, atol=1e-12, rtol=1e-12)
    unmerge(model)
    for (_, layer), weight in zip(adapters(model), weights, strict=True):
        assert torch.equal(layer.base.weight, weight)  # bit by bit, unlike a subtraction
    torch.testing.assert_close(unload(merge(model))(x), before, atol=1e-12, rtol=1e-12)
    assert not list(adapters(model))


def test_start_is_the_base_and_only_the_corrections_train():
    model = GPT(GPTConfig(11, 16, 2, 2, 8), generator())
    tokens = torch.arange(10)[None] % 11
    before, frozen = model(tokens), [p.clone() for p in model.parameters()]
    size = sum(p.numel() for p in model.parameters())
    inject(model, LoRAConfig(2), generator())
    assert torch.equal(model(tokens), before)
    assert trainable(model) == (2 * 2 * 2 * (8 + 8), size + 2 * 2 * 2 * (8 + 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    model(tokens).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model(tokens), before)
    for p, q in zip(unload(model).parameters(), frozen, strict=True):
        assert torch.equal(p, q)


def test_scaling():
    assert LoRAConfig(16, 32).scaling == 2
    assert LoRAConfig(16, 32, rank_stabilized=True).scaling == 8


def test_dropout_is_off_in_evaluation():
    model = randomized(inject(small(), LoRAConfig(2, 4, 0.5, targets=("0",)), generator()))
    x = torch.randn(5, 6, dtype=torch.float64, generator=generator())
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_half_precision_stays_half():
    model = randomized(inject(small(dtype=torch.bfloat16), LoRAConfig(2, targets=("0",))))
    assert model(torch.ones(1, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert merge(model)(torch.ones(1, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


# ---- files


def test_our_folder_loads_in_peft(tmp_path):
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    llama = Llama(LlamaConfig(29, 16, 2, 2, 1, d_ff=24, context=32), generator())
    save_pretrained(llama, tmp_path / "base")
    config = LoRAConfig(4, 10, rank_stabilized=True, targets=("q_proj", "out_proj", "1.up_proj"))
    ours = randomized(inject(llama, config, generator()))
    save_adapter(ours, tmp_path / "adapter", config, rename=hugging_face_layer)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    theirs = PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)
    assert sum("lora_A" in name for name, _ in theirs.named_parameters()) == 5


def test_pefts_folder_loads_in_ours(tmp_path):
    config, base = LoRAConfig(3, 7, targets=("0", "2")), small(dtype=torch.float32)
    ours = randomized(inject(copy.deepcopy(base), config))
    with_peft(ours, base, config).save_pretrained(tmp_path)
    again, read = load_adapter(copy.deepcopy(base), tmp_path)
    assert (read.r, read.alpha, set(read.targets)) == (3, 7, {"0", "2"})
    x = torch.randn(5, 6, generator=generator())
    torch.testing.assert_close(again(x), ours(x))


@pytest.fixture
def folder(tmp_path):
    """A folder as peft writes it: no manifest vouches for its bytes."""
    config, base = LoRAConfig(3, 7, targets=("0", "2")), small(dtype=torch.float32)
    with_peft(randomized(inject(copy.deepcopy(base), config)), base, config).save_pretrained(
        tmp_path
    )
    return tmp_path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lora_alpha": None}, "lora_alpha and r must be numbers, got None"),
        ({"lora_alpha": 0}, "alpha must be above 0 and finite, got 0"),
        ({"r": "3"}, "lora_alpha and r must be numbers"),
        ({"peft_type": "IA3"}, "peft_type must be 'LORA', got 'IA3'"),
        ({"bias": "all"}, "bias must be 'none', got 'all'"),
        ({"rank_pattern": {"0": 8}}, "rank_pattern must be None"),
        ({"modules_to_save": ["2"]}, "modules_to_save must be None"),
        ({"use_dora": True}, "use_dora must be one of the kinds asked for, got True"),
        ({"target_modules": ["nowhere"]}, "target_modules must name layers of the model"),
        ({"target_modules": ".*"}, "target_modules must be a list of names"),
        ({"target_modules": ["0"]}, "has unknown base_model.model.2.lora_A.weight and 1 more"),
        ({"r": 4}, r"0.A must have shape \(4, 6\), got \(3, 6\)"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(folder, change, says):
    place = folder / "adapter_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    model = small(dtype=torch.float32)
    with pytest.raises(UserError, match=says) as caught:
        load_adapter(model, folder)
    assert "\n" not in str(caught.value)
    assert not list(adapters(model))


@pytest.mark.parametrize("name", ["lora_alpha", "r", "target_modules"])
def test_what_a_config_must_say(folder, name):
    """peft would take its own defaults, and an adapter of alpha 16 would work at half strength."""
    place = folder / "adapter_config.json"
    content = json.loads(place.read_text())
    del content[name]
    place.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"does not say {name}"):
        load_adapter(small(dtype=torch.float32), folder)


def test_missing_tensors_and_torn_files(folder):
    from safetensors.torch import load_file, save_file

    place = folder / "adapter_model.safetensors"
    tensors = load_file(place)
    lost = "base_model.model.2.lora_B.weight"
    save_file({name: t for name, t in tensors.items() if name != lost}, place)
    with pytest.raises(UserError, match=f"misses {lost}$"):
        load_adapter(small(dtype=torch.float32), folder)
    place.write_bytes(place.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot be read"):
        load_adapter(small(dtype=torch.float32), folder)
    (folder / "adapter_config.json").write_text("[1]")
    with pytest.raises(UserError, match="cannot be used: it must hold an object"):
        load_adapter(small(dtype=torch.float32), folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        load_adapter(small(dtype=torch.float32), folder)


def test_an_altered_folder_of_ours(tmp_path):
    config = LoRAConfig(2, targets=("0",))
    save_adapter(inject(small(), config), tmp_path / "a", config)
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(file.read_text().replace("16", "32"))
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        load_adapter(small(), tmp_path / "a")


# ---- the judge


def test_the_share_of_a_worse_method_is_below_one():
    assert shares_of([0.1, 0.3], [0.2, 0.4]) == pytest.approx([0.5, 0.75])


# ---- wrong input


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"r": 0}, "r must be at least 1, got 0"),
        ({"alpha": 0}, "alpha must be above 0 and finite, got 0"),
        ({"alpha": float("nan")}, "alpha must be above 0 and finite, got nan"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"targets": ()}, "targets must be names of layers"),
    ],
)
def test_bad_config(options, says):
    with pytest.raises(ValueError, match=says):
        LoRAConfig(**options)


def test_bad_models():
    one = LoRAConfig(targets=("0",))
    with pytest.raises(ValueError, match="targets must name linear layers of the model, got '1'"):
        inject(small(), LoRAConfig(targets=("0", "1")))
    with pytest.raises(ValueError, match="model must have no adapters yet, got 0"):
        inject(inject(small(), one), LoRAConfig(targets=("2",)))
    with pytest.raises(ValueError, match="the layer must not be merged already"):
        merge(merge(inject(small(), one)))
    with pytest.raises(ValueError, match="the layer must be merged"):
        unmerge(inject(small(), one))
    with pytest.raises(ValueError, match="model must have adapters, got none"):
        save_adapter(small(), Path("nowhere"), one)
    with pytest.raises(ValueError, match="config must be that of 0"):
        save_adapter(inject(small(), one), Path("nowhere"), LoRAConfig(alpha=8, targets=("0",)))
    with pytest.raises(ValueError, match=r"misses 0\.A and 1 more"):
        load_adapter_state(inject(small(), one), {})
    broken = inject(small(), one)
    broken[0].A.data.fill_(torch.inf)
    with pytest.raises(ValueError, match="the merged weight must be finite"):
        merge(broken)


def test_tied_weights_are_refused():
    """Merging into an output head that is the embedding too would change the embedding."""
    llama = Llama(LlamaConfig(29, 16, 1, 2, 1, d_ff=24, context=32, tied=True), generator())
    with pytest.raises(ValueError, match=r"share their weights with no other layer, got head"):
        inject(llama, LoRAConfig(targets=("head",)))


def test_a_base_that_is_no_linear_cannot_be_merged_into():
    class Coarse(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_features, self.out_features = 4, 3
            self.register_buffer("weight", torch.ones(3, 4, dtype=torch.uint8))

        def forward(self, x):
            return x @ self.weight.to(x.dtype).T

    layer = LoRALinear(Coarse(), LoRAConfig(2), generator())
    x = torch.ones(2, 4)
    assert torch.equal(layer(x), layer.base(x))
    assert layer.A.dtype == torch.float32
    with pytest.raises(ValueError, match=r"base must be an nn\.Linear to be merged, got Coarse"):
        layer.merge()
