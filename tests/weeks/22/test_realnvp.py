"""Couplings and their company: Jacobians by autograd, inverses, and a density of mass one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from week22.evidence.realnvp import gaussian_likelihood
from week22.plane import fit, mass_on_grid
from week22.realnvp import (
    ActNorm,
    Chain,
    Coupling,
    Linear,
    MultiScale,
    picture_flow,
    real_nvp,
    squeeze,
    standard_normal,
    unsqueeze,
)

DOUBLE = {"dtype": torch.float64}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), **DOUBLE)


def stirred(flow: nn.Module, seed: int, size: float = 0.3) -> nn.Module:
    """Every parameter moved, in float64: nothing is an identity by its start."""
    flow = flow.double()
    with torch.no_grad():
        for i, parameter in enumerate(flow.parameters()):
            parameter += size * random(seed + i, *parameter.shape)
    return flow.eval()


def jacobian_log_det(f, x: torch.Tensor) -> torch.Tensor:
    """ln |det| of f at each row, by autograd."""
    rows = []
    for row in x:
        jacobian = torch.autograd.functional.jacobian(lambda v: f(v[None])[0].flatten(), row)
        rows.append(jacobian.flatten(1).slogdet().logabsdet)
    return torch.stack(rows)


def holds_both_ways(flow: nn.Module, x: torch.Tensor) -> None:
    z, log_det = flow(x)
    assert log_det.shape == (len(x),)
    torch.testing.assert_close(flow.inverse(z), x, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(jacobian_log_det(lambda v: flow(v)[0], x), log_det)
    torch.testing.assert_close(jacobian_log_det(flow.inverse, z.detach()), -log_det)


@given(
    seed=st.integers(0, 10**5),
    d=st.integers(2, 5),
    n=st.integers(1, 4),
    additive=st.booleans(),
    alternate=st.booleans(),
)
def test_rows_have_autograds_jacobian_both_ways(seed, d, n, additive, alternate):
    options = {"additive": additive, "alternate": alternate, "generator": generator(seed)}
    flow = stirred(real_nvp(d, n_couplings=n, width=6, **options), seed)
    holds_both_ways(flow, random(seed, 2, d))


@pytest.mark.parametrize("side", [4, 6])
def test_pictures_have_autograds_jacobian_both_ways(side):
    flow = stirred(picture_flow(side, width=3, generator=generator()), 1, 0.2)
    holds_both_ways(flow, random(2, 2, 1, side, side))


def test_the_first_step_sets_actnorm_and_reload_does_not():
    layer, x = ActNorm(3).double(), 5 + 2 * random(0, 6, 3, 4, 2)
    y, log_det = layer(x)
    torch.testing.assert_close(y.transpose(0, 1).flatten(1).mean(1), torch.zeros(3, **DOUBLE))
    torch.testing.assert_close(
        y.transpose(0, 1).flatten(1).std(1, correction=0), torch.ones(3, **DOUBLE)
    )
    torch.testing.assert_close(log_det, (4 * 2 * layer.log_scale.sum()).expand(6))
    again = ActNorm(3).double()
    again.load_state_dict(layer.state_dict())
    other = random(1, 6, 3, 4, 2)
    torch.testing.assert_close(again(other)[0], layer(other)[0])  # in training mode
    torch.testing.assert_close(again.shift, layer.shift)


def test_actnorm_waits_for_training():
    layer, x = ActNorm(2).eval(), torch.randn(3, 2, 2, 2, generator=generator())
    assert torch.equal(layer(x)[0], x)
    assert not layer.ready


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 2, 4)])
def test_actnorm_has_autograds_jacobian(shape):
    layer = stirred(ActNorm(3), 3)
    holds_both_ways(layer, random(4, *shape))


def test_a_coupling_never_reads_what_it_changes():
    mask = torch.tensor([True, False, True])
    layer = stirred(Coupling(mask, nn.Linear(3, 6)), 0, 1.0)
    x = random(1, 1, 3)
    moved = x + torch.tensor([0.0, 1.0, 0.0])
    assert torch.equal(layer(x)[0][:, mask], x[:, mask])
    torch.testing.assert_close(layer(x)[1], layer(moved)[1])


def test_additive_couplings_keep_volume_and_same_masks_leave_half():
    x = random(0, 4, 4)
    assert not stirred(real_nvp(4, additive=True), 1)(x)[1].any()
    fixed = stirred(real_nvp(4, alternate=False), 1)(x)[0]
    assert torch.equal(fixed[:, ::2], x[:, ::2])
    assert not torch.isclose(stirred(real_nvp(4), 1)(x)[0], x).any()


@given(seed=st.integers(0, 10**5), c=st.integers(1, 3), h=st.integers(1, 3), w=st.integers(1, 3))
def test_squeeze_moves_places_into_channels_and_back(seed, c, h, w):
    x = random(seed, 2, c, 2 * h, 2 * w)
    y = squeeze(x)
    assert y.shape == (2, 4 * c, h, w)
    assert torch.equal(unsqueeze(y), x)
    assert torch.equal(y[0, :4, 0, 0], x[0, 0, :2, :2].ravel())


def test_the_split_half_skips_the_rest():
    """What is done at the split is changed by nothing that follows."""
    parts = [stirred(ActNorm(c), 7 * c) for c in (1, 4, 2)]
    flow, x = MultiScale(*parts), random(0, 2, 1, 4, 4)
    z = flow(x)[0]
    torch.testing.assert_close(z[:, 2:], parts[1](squeeze(parts[0](x)[0]))[0][:, 2:])
    holds_both_ways(flow, x)


def test_samples_have_the_density_that_is_said():
    """log q of a sample, by way of its latents, is log_prob of it."""
    flow = stirred(real_nvp(3, width=5, generator=generator()), 2)
    z = random(3, 5, 3)
    x = flow.inverse(z)
    torch.testing.assert_close(flow.log_prob(x), standard_normal(z) + flow(x)[1])
    theirs = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(standard_normal(z), theirs)
    assert flow.float().sample((4, 3), generator(1)).shape == (4, 3)


def test_mass_is_one():
    flow = stirred(real_nvp(2, n_couplings=4, width=8, generator=generator()), 5, 0.2)
    assert mass_on_grid(flow.log_prob, 8.0, 300) == pytest.approx(1, abs=2e-3)
    with_half = mass_on_grid(lambda x: flow.log_prob(x) - math.log(2), 8.0, 300)
    assert with_half == pytest.approx(0.5, abs=1e-3)


def test_a_linear_flow_reaches_the_likeliest_gaussian():
    x = random(0, 200, 3) @ torch.tensor([[2.0, 0, 0], [1, 0.5, 0], [0.3, -0.2, 1]], **DOUBLE) + 1
    flow = Linear(3).double()
    fit(flow, lambda: x, steps=200, lr=0.1)
    mean = float(flow.log_prob(x).detach().mean())
    assert mean == pytest.approx(gaussian_likelihood(x, x), abs=1e-3)
    law = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0))
    assert gaussian_likelihood(x, x) == pytest.approx(float(law.log_prob(x).mean()))
    holds_both_ways(stirred(Linear(3), 4), random(5, 2, 3))


def test_chains_of_nothing_and_batches_of_none():
    x = random(0, 3, 2)
    z, log_det = Chain()(x)
    assert torch.equal(z, x)
    assert not log_det.any()
    flow = real_nvp(2).double()
    assert flow.log_prob(random(0, 0, 2)).shape == (0,)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="mask must be boolean, got torch"):
        Coupling(torch.ones(2), nn.Identity())
    with pytest.raises(ValueError, match="x must have an even height and width, got 3 and 4"):
        squeeze(torch.zeros(1, 1, 3, 4))
    with pytest.raises(ValueError, match="n_features must be at least 2, got 1"):
        real_nvp(1)
