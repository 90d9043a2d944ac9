"""Planar layers: Jacobian, inverse, and what becomes of them without the constraint."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week22.evidence.planar_flow import folded
from week22.planar_flow import Planar, PlanarFlow, fit, ring
from week22.plane import mass_on_grid

DOUBLE = {"dtype": torch.float64}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), **DOUBLE)


def stirred(flow, seed: int, size: float = 1.0):
    flow = flow.double()
    with torch.no_grad():
        for i, parameter in enumerate(flow.parameters()):
            parameter += size * random(seed + i, *parameter.shape)
    return flow


@given(seed=st.integers(0, 10**5), d=st.integers(1, 4))
def test_a_layer_has_autograds_jacobian_and_comes_back(seed, d):
    layer, z = stirred(Planar(d, generator(seed)), seed), random(seed, 3, d)
    x, log_det = layer(z)
    torch.testing.assert_close(layer.inverse(x), z, atol=1e-5, rtol=1e-5)
    for row, value in zip(z, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0][0], row)
        torch.testing.assert_close(jacobian.slogdet().logabsdet, value)
        assert jacobian.slogdet().sign > 0


@given(seed=st.integers(0, 10**5), size=st.floats(0.1, 5))
def test_the_constraint_holds_and_moves_u_along_w_only(seed, size):
    layer = stirred(Planar(3, generator(seed)), seed, size)
    slope = layer.w @ layer.u
    torch.testing.assert_close(layer.w @ layer.direction(), torch.nn.functional.softplus(slope) - 1)
    moved = layer.direction() - layer.u
    torch.testing.assert_close(moved, (moved @ layer.w) * layer.w / (layer.w @ layer.w))


def test_density_at_samples_is_the_one_of_the_way_there():
    flow, z = stirred(PlanarFlow(2, 3, generator()), 1, 0.5), random(2, 6, 2)
    x, log_det = flow(z)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(flow.log_prob(x), base - log_det, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(flow.bound(ring, z), ring(x) - base + log_det)


def test_mass_is_one_by_quadrature():
    flow = stirred(PlanarFlow(2, 3, generator()), 1, 0.3)
    assert mass_on_grid(flow.log_prob, 8.0, 200) == pytest.approx(1, abs=1e-2)


def test_without_the_constraint_space_folds():
    layer = Planar(1, constrain=False).double()
    with torch.no_grad():
        layer.w.fill_(2.0)
        layer.u.fill_(-2.0)
    z = torch.linspace(-3, 3, 601, **DOUBLE)[:, None]
    assert (layer(z)[0][:, 0].diff() < 0).any()
    assert folded(layer) > 0
    layer.constrain = True
    assert (layer(z)[0][:, 0].diff() > 0).all()
    assert folded(layer) == 0


def test_without_layers_the_best_is_a_gaussian():
    """ln p̃ of a Gaussian is reached, its ln of the mass is 0."""
    law = torch.distributions.MultivariateNormal(torch.tensor([1.0, -2.0]), torch.eye(2) * 0.25)
    flow = PlanarFlow(2, 0)
    bounds = fit(flow, law.log_prob, steps=300, lr=0.05, generator=generator())
    assert bounds[0] < -1
    assert bounds[-1] == pytest.approx(0, abs=0.05)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="d must be at least 1, got 0"):
        Planar(0)
    with pytest.raises(ValueError, match="n_layers must be at least 0, got -1"):
        PlanarFlow(2, -1)
