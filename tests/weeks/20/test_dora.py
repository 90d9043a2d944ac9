"""DoRA against peft: outputs, gradients, training steps, merging, files."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shared.errors import UserError
from week09.optimizers import AdamW
from week20.adapter_folder import load_adapter, save_adapter
from week20.dora import DoRALinear, decompose, row_norms
from week20.lora import LoRAConfig, LoRALinear, adapter_state, adapters, inject, merge, unmerge
from week20.peft_twin import peft_name, with_peft

BOTH = {False: LoRALinear, True: DoRALinear}


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
    """As after some training: B no longer zero, lengths no longer those of the base."""
    draw = generator(seed)
    with torch.no_grad():
        for _, layer in adapters(model):
            for p in (layer.A, layer.B):
                p.copy_(torch.randn(p.shape, generator=draw) / 2)
            layer.magnitude.mul_(0.5 + torch.rand(layer.magnitude.shape, generator=draw))
    return model


@given(
    seed=st.integers(0, 10**6),
    r=st.integers(1, 9),
    alpha=st.floats(0.5, 32),
    targets=st.sampled_from([("0",), ("2",), ("0", "2")]),
    dropout=st.sampled_from([0.0, 0.4]),
)
def test_same_outputs_and_gradients_as_peft(seed, r, alpha, targets, dropout):
    config, base = LoRAConfig(r, alpha, dropout, targets=targets), small(seed)
    ours = inject(copy.deepcopy(base), config, generator(seed), layer=DoRALinear)
    randomized(ours, seed)
    theirs = with_peft(ours, base, config, dora=True)
    x = torch.randn(2, 3, 6, generator=generator(seed), dtype=torch.float64)
    outputs = []
    for model in (ours, theirs):
        model.train()
        torch.manual_seed(seed)  # the same units drop out
        outputs.append(model(x))
        (outputs[-1] ** 2).sum().backward()
    torch.testing.assert_close(*outputs, atol=1e-10, rtol=1e-10)
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert len(gradients) == 3 * len(targets)
    for name, p in ours.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, gradients[peft_name(name)], atol=1e-9, rtol=1e-9)


def test_first_steps_of_adamw_are_pefts():
    config, base = LoRAConfig(3, 6, targets=("0", "2")), small()
    ours = inject(copy.deepcopy(base), config, generator(), layer=DoRALinear)
    theirs = with_peft(ours, base, config, dora=True)
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


@given(seed=st.integers(0, 10**6), r=st.integers(1, 6))
def test_it_starts_at_the_base_with_lengths_of_its_rows(seed, r):
    base = small(seed)
    x = torch.randn(4, 6, generator=generator(seed), dtype=torch.float64)
    ours = inject(copy.deepcopy(base), LoRAConfig(r, targets=("0", "2")), layer=DoRALinear)
    torch.testing.assert_close(ours(x), base(x), atol=1e-12, rtol=1e-12)
    for name, layer in adapters(ours):
        weight = base.get_submodule(name).weight
        assert layer.magnitude.shape == (len(weight),)  # one per output
        torch.testing.assert_close(layer.magnitude.detach(), weight.norm(dim=1).detach())


@given(seed=st.integers(0, 10**6))
def test_merged_is_unmerged_and_rows_have_the_lengths_of_m(seed):
    model = inject(small(seed), LoRAConfig(2, 3, 0.3, targets=("0", "2")), layer=DoRALinear)
    randomized(model, seed).eval()
    x = torch.randn(5, 6, generator=generator(seed), dtype=torch.float64)
    before, weights = model(x), [layer.base.weight.clone() for _, layer in adapters(model)]
    torch.testing.assert_close(merge(model)(x), before, atol=1e-11, rtol=1e-11)
    for _, layer in adapters(model):
        torch.testing.assert_close(row_norms(layer.base.weight), layer.magnitude)
    unmerge(model)
    for (_, layer), weight in zip(adapters(model), weights, strict=True):
        assert torch.equal(layer.base.weight, weight)


def test_no_gradient_flows_through_the_length():
    """With it, the gradient of the direction would have no part along the row itself."""
    layer = randomized(nn.Sequential(DoRALinear(small()[0], LoRAConfig(2)))).double()[0]
    x = torch.randn(3, 6, generator=generator(), dtype=torch.float64)
    layer(x).sum().backward()
    weight = (layer.base.weight + layer.delta()).detach().requires_grad_(True)
    fixed = layer.magnitude.detach() / row_norms(weight).detach()
    F.linear(x, fixed[:, None] * weight).sum().backward()
    by_hand = layer.scaling * weight.grad @ layer.A.detach().T
    torch.testing.assert_close(layer.B.grad, by_hand)


def test_folders_go_both_ways(tmp_path):
    config, base = LoRAConfig(3, 7, targets=("0", "2")), small(dtype=torch.float32)
    ours = randomized(inject(copy.deepcopy(base), config, layer=DoRALinear))
    x = torch.randn(5, 6, generator=generator())
    theirs = with_peft(ours, base, config, dora=True)
    theirs.save_pretrained(tmp_path / "theirs")
    save_adapter(ours, tmp_path / "ours", config)
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "ours")
    torch.testing.assert_close(loaded(x), ours(x))
    for folder in ("theirs", "ours"):
        again, _ = load_adapter(copy.deepcopy(base), tmp_path / folder, layers=BOTH)
        torch.testing.assert_close(again(x), ours(x))
        assert len(adapter_state(again)) == 6
    with pytest.raises(UserError, match="use_dora must be one of the kinds asked for, got True"):
        load_adapter(copy.deepcopy(base), tmp_path / "ours")


def test_decompose():
    before = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0]])
    after = torch.tensor([[6.0, 8.0], [0.0, 1.0], [-2.0, 0.0]])
    magnitude, direction = decompose(before, after)
    torch.testing.assert_close(magnitude, torch.tensor([5.0, 0.0, 1.0]))
    torch.testing.assert_close(direction, torch.tensor([0.0, 1.0, 2.0]))


def test_bad_input():
    with pytest.raises(TypeError, match=r"base must be an nn\.Linear, got Identity"):
        DoRALinear(nn.Identity(), LoRAConfig())
    empty = nn.Linear(3, 2)
    empty.weight.data[1] = 0
    with pytest.raises(ValueError, match=r"base must have no row of zeros.*, got 0\.0"):
        DoRALinear(empty, LoRAConfig())
