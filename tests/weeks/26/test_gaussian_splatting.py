"""One ellipse in closed form, stacks painted from the back, fits of made-up pictures."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from week26.evidence import gaussian_splatting as judge
from week26.gaussian_splatting import (
    Splats,
    composite_weights,
    fit,
    pixel_centers,
    render_splats,
)
from week26.volume_rendering import quadrature_weights

seeds = st.integers(0, 9999)


def rand(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def splats_of(seed, n):
    parts = (rand(seed, n, 2) * 2 - 1, rand(seed + 1, n, 2) + 0.1, 6 * rand(seed + 2, n))
    return Splats(*parts, rand(seed + 3, n), rand(seed + 4, n, 3))


@given(seeds)
def test_alpha_is_a_normal_density_over_its_peak(seed):
    splats, points = splats_of(seed, 2).requires_grad_(False), rand(seed + 9, 30, 2) * 2 - 1
    ours = splats.alpha(points).detach()
    for i in range(2):
        cov = splats.covariance()[i].detach().numpy()
        normal = multivariate_normal(splats.mean[i].detach().numpy(), cov)
        peak = float(splats.opacity_logit[i].sigmoid())
        np.testing.assert_allclose(
            ours[:, i], peak * normal.pdf(points.numpy()) / normal.pdf(normal.mean), atol=1e-9
        )


@given(seeds)
def test_covariances_have_the_squared_scales_along_the_angle(seed):
    splats = splats_of(seed, 3).requires_grad_(False)
    for cov, scale, angle in zip(
        splats.covariance(), splats.log_scale.exp(), splats.angle, strict=True
    ):
        axis = torch.stack([angle.cos(), angle.sin()])
        torch.testing.assert_close(cov @ axis, scale[0] ** 2 * axis)
        assert torch.linalg.det(cov) == pytest.approx(float((scale[0] * scale[1]) ** 2))


@given(seeds, st.integers(1, 8))
def test_stacks_are_painted_from_the_back(seed, n):
    alpha, color = rand(seed, 5, n), rand(seed + 1, n)
    weights, left = composite_weights(alpha)
    seen = torch.full((5,), 0.3).double()
    for i in reversed(range(n)):
        seen = alpha[:, i] * color[i] + (1 - alpha[:, i]) * seen
    torch.testing.assert_close(weights @ color + 0.3 * left, seen)
    medium, behind = quadrature_weights(-torch.log1p(-alpha), torch.ones_like(alpha))
    torch.testing.assert_close(weights, medium)
    torch.testing.assert_close(left, behind)


def test_the_first_is_in_front_and_an_opaque_one_hides_the_rest():
    weights, left = composite_weights(torch.tensor([[0.2, 1.0, 0.7]]))
    torch.testing.assert_close(weights, torch.tensor([[0.2, 0.8, 0.0]]))
    assert left.item() == 0
    parts = [torch.zeros(2, 2), torch.full((2, 2), 9.0), torch.zeros(2), torch.ones(2)]
    picture = render_splats(Splats(*parts, torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9]])), 3, 3)
    assert picture[1, 1, 0] > 0.85
    assert picture[1, 1, 2] < 0.15


def test_pixels_go_row_by_row_from_the_top_left_and_x_comes_first():
    points = pixel_centers(2, 4)
    assert points[0].tolist() == [-0.75, -0.5]
    assert points[1].tolist() == [-0.25, -0.5]
    assert points[4].tolist() == [-0.75, 0.5]
    right = Splats(
        torch.tensor([[0.75, -0.5]]),
        torch.full((1, 2), 0.1),
        torch.zeros(1),
        torch.ones(1),
        torch.zeros(1, 3),
    )
    picture = render_splats(right, 2, 4)[..., 0].detach()
    assert picture.argmin().item() == 3
    assert picture[0, 0] == pytest.approx(1, abs=1e-4)


def test_gradients_are_finite_differences():
    splats, image = splats_of(1, 2), rand(2, 3, 4, 3)

    module = Loss(splats, image)
    names = [name for name, _ in module.named_parameters()]

    def loss(*parts):
        return torch.func.functional_call(module, dict(zip(names, parts, strict=True)), ())

    inputs = tuple(p.detach().clone().requires_grad_() for p in splats.parameters())
    assert torch.autograd.gradcheck(loss, inputs)


class Loss(torch.nn.Module):
    def __init__(self, splats, image):
        super().__init__()
        self.splats, self.image = splats, image

    def forward(self):
        return (render_splats(self.splats, 3, 4) - self.image).square().mean()


def test_a_fit_finds_an_ellipse_and_moves_only_what_may_move():
    truth = splats_of(5, 1).float()
    with torch.no_grad():
        image = render_splats(truth, 12, 12)
    start = Splats.scattered(1, torch.Generator().manual_seed(0))
    before = {name: p.detach().clone() for name, p in start.named_parameters()}
    losses = fit(start, image, steps=10, moves=lambda name: "color" in name)
    after = dict(start.named_parameters())
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved == ["color_logit"]
    losses = fit(start, image, steps=150, lr=0.1)
    assert losses[-1] < 0.1 * losses[0]


def test_scattered_is_seeded_and_counts_its_numbers():
    one, other = (Splats.scattered(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.mean, other.mean)
    assert one.n_numbers == 45
    assert one.opacity_logit.sigmoid().tolist() == pytest.approx([0.5] * 5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        Splats.scattered(0, torch.Generator())
    with pytest.raises(ValueError, match=r"scale must be positive, got 0\.0"):
        Splats(
            torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1), torch.ones(1), torch.ones(1, 3)
        )
    with pytest.raises(ValueError, match="alpha must be floats of shape"):
        composite_weights(torch.ones(3))


# ---- the judging


def test_pixels_of_as_many_numbers():
    image = rand(0, 24, 24, 3).float()
    small = judge.as_pixels(image, 3 * 24 * 24)
    torch.testing.assert_close(small, image, atol=1e-4, rtol=1e-4)
    flat = judge.as_pixels(image, 3)
    torch.testing.assert_close(flat, image.mean((0, 1)).expand(24, 24, 3), atol=1e-4, rtol=1e-4)


def test_parts_of_a_photograph_differ_by_seed():
    photo = (255 * rand(0, 300, 310, 3)).numpy().astype(np.uint8)
    one, again, other = (judge.part_of(photo, seed, 6) for seed in (1, 1, 2))
    assert one.shape == (6, 6, 3)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
