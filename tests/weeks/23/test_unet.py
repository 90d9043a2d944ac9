"""The U-Net against diffusers: outputs and gradients, with and without a memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week23.diffusers_twin import UNET, renamed, unet_twin
from week23.unet import UNet, UNetConfig, timestep_embedding


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomized(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """As after some training: nothing is zero any more."""
    draw = generator(seed)
    with torch.no_grad():
        for p in model.parameters():
            scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.3
            p.add_(scale * torch.randn(p.shape, generator=draw))
    return model


CONFIGS = [
    UNetConfig(2, (8, 16), (True, False), n_layers=1, n_heads=2, memory_dim=6, n_groups=4),
    UNetConfig(3, (8, 8, 12), (False, True, False), 2, n_heads=4, memory_dim=5, n_groups=4),
    UNetConfig(1, (12,), (True,), n_layers=2, n_heads=3, memory_dim=None, n_groups=3),
    UNetConfig(1, (8, 16), (False, True), n_layers=1, n_heads=1, memory_dim=None, n_groups=8),
]


@given(config=st.sampled_from(CONFIGS), seed=st.integers(0, 10**6), n=st.integers(1, 3))
@settings(max_examples=8)
def test_same_outputs_and_gradients_as_diffusers(config, seed, n):
    ours = randomized(UNet(config, generator(seed)).double(), seed)
    theirs, draw = unet_twin(ours), generator(seed)
    x = torch.randn(n, config.in_channels, 4, 8, generator=draw).double().requires_grad_()
    t = torch.randint(1000, (n,), generator=draw)
    memory = None
    if config.memory_dim:
        memory = torch.randn(n, 3, config.memory_dim, generator=draw).double().requires_grad_()
    inputs = [x] if memory is None else [x, memory]
    outputs = ours(x, t, memory), theirs(x, t, memory).sample
    torch.testing.assert_close(*outputs, atol=1e-9, rtol=1e-9)
    weights = torch.randn(x.shape, generator=draw)
    own, their = dict(ours.named_parameters()), dict(theirs.named_parameters())
    names = list(own)
    found = [
        torch.autograd.grad((y * weights).sum(), inputs + parameters)
        for y, parameters in zip(
            outputs,
            ([own[k] for k in names], [their[renamed(k, UNET)] for k in names]),
            strict=True,
        )
    ]
    for name, a, b in zip(["x", "memory"][: len(inputs)] + names, *found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


def test_as_many_parameters_as_stable_diffusion():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        ours = UNet(UNetConfig())
        theirs = UNet2DConditionModel(cross_attention_dim=768)
    shapes = {renamed(name, UNET): p.shape for name, p in ours.named_parameters()}
    assert shapes == {name: p.shape for name, p in theirs.named_parameters()}


def test_time_embedding_is_cosines_first():
    found = timestep_embedding(torch.tensor([0.0, 1.0]), 4)
    by_hand = torch.tensor([[1.0, 1, 0, 0], [0.540302, 0.999950, 0.841471, 0.0099998]])
    torch.testing.assert_close(found, by_hand, atol=1e-6, rtol=0)


def test_a_new_model_predicts_zero_and_its_blocks_do_nothing():
    model = UNet(CONFIGS[0], generator())
    x, memory = torch.randn(2, 2, 4, 4), torch.randn(2, 3, 6)
    assert not model(x, 7, memory).any()
    hidden = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(model.mid_out(hidden, torch.randn(2, 32)), hidden)


def test_one_time_for_all_is_a_batch_of_times():
    model = randomized(UNet(CONFIGS[0], generator()))
    x, memory = torch.randn(3, 2, 4, 4), torch.randn(3, 3, 6)
    together = model(x, 500, memory)
    torch.testing.assert_close(together, model(x, torch.full((3,), 500), memory))
    alone = model(x[1:2], torch.tensor([500.0]), memory[1:2])
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together, model(x, 20, memory))


def test_bad_input():
    with pytest.raises(ValueError, match=r"attention must say yes or no for each of \(8, 16\)"):
        UNetConfig(widths=(8, 16), attention=(True,))
    with pytest.raises(ValueError, match="widths must be multiples of n_groups = 32"):
        UNetConfig(widths=(48,), attention=(True,))
    model = UNet(CONFIGS[0], generator())
    with pytest.raises(ValueError, match=r"multiples of 2, got \(4, 3\)"):
        model(torch.zeros(1, 2, 4, 3), 0, torch.zeros(1, 3, 6))
    with pytest.raises(ValueError, match="memory must be 6 wide, got None"):
        model(torch.zeros(1, 2, 4, 4), 0)
    with pytest.raises(ValueError, match="dim must be even, got 5"):
        timestep_embedding(torch.zeros(1), 5)
