"""Cameras, samplers and the quadrature, against closed forms, NumPy and adaptive integration."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from week26.evidence import volume_rendering as judge
from week26.scenes import look_at, toy_views
from week26.volume_rendering import (
    Rays,
    box_bounds,
    camera_rays,
    interval_lengths,
    march,
    picture,
    quadrature_weights,
    rays_of,
    render,
    sample_pdf,
    stratified,
)

seeds = st.integers(0, 9999)
sizes = st.integers(1, 7)


def rand(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=g, dtype=torch.double)


# ---- cameras


def test_the_camera_looks_along_its_minus_z_with_y_up_and_x_to_the_right():
    rays = camera_rays(torch.eye(4), 2, 2, 1.0)
    corners = torch.tensor([[-0.5, 0.5, -1], [0.5, 0.5, -1], [-0.5, -0.5, -1], [0.5, -0.5, -1]])
    torch.testing.assert_close(rays.directions, corners)
    torch.testing.assert_close(rays.origins, torch.zeros(4, 3))


@given(seeds, sizes, sizes, st.floats(0.3, 20))
def test_rays_project_back_to_the_centers_of_their_pixels(seed, height, width, focal):
    eye = (torch.as_tensor(rand(seed, 3)) * 4 - 2 + torch.tensor([3.0, 0, 0])).float()
    pose = look_at(eye).double()
    rays = camera_rays(pose, height, width, focal)
    world = torch.eye(4).double()
    world[:3, :3], world[:3, 3] = pose[:3, :3].T, -pose[:3, :3].T @ pose[:3, 3]
    points = rays.origins + 2.5 * rays.directions
    local = points @ world[:3, :3].T + world[:3, 3]
    x = width / 2 + focal * local[:, 0] / -local[:, 2]
    y = height / 2 - focal * local[:, 1] / -local[:, 2]
    row, column = np.divmod(np.arange(height * width), width)
    np.testing.assert_allclose(x, column + 0.5, atol=1e-4)
    np.testing.assert_allclose(y, row + 0.5, atol=1e-4)
    np.testing.assert_allclose(-local[:, 2], 2.5, atol=1e-4)


@given(seeds)
def test_the_center_of_the_picture_is_what_is_looked_at(seed):
    eye, target = (3 * rand(seed + i, 3).float() + i for i in range(2))
    rays = camera_rays(look_at(eye, target), 3, 3, 2.0)
    toward = torch.nn.functional.normalize(target - eye, dim=0)
    torch.testing.assert_close(rays.directions[4], toward, atol=1e-5, rtol=1e-5)


@given(seeds)
def test_a_pose_is_a_rotation(seed):
    turn = look_at(3 * rand(seed, 3).float() + 0.1)[:3, :3]
    torch.testing.assert_close(turn @ turn.T, torch.eye(3), atol=1e-5, rtol=0)
    assert torch.linalg.det(turn) == pytest.approx(1, abs=1e-5)


@given(seeds)
def test_rays_enter_and_leave_the_cube_on_its_surface(seed):
    origins = torch.nn.functional.normalize(rand(seed, 20, 3) - 0.5, dim=-1) * 4
    directions = (rand(seed + 1, 20, 3) * 2 - 1) * 1.2 - origins
    near, far = box_bounds(origins, directions)
    line = torch.linspace(0, 3, 3001, dtype=torch.double)
    inside = ((origins[:, None] + line[:, None] * directions[:, None]).abs() <= 1).all(-1)
    for first, last, row in zip(near, far, inside, strict=True):
        if row.any():
            assert first == pytest.approx(float(line[row].min()), abs=2e-3)
            assert last == pytest.approx(float(line[row].max()), abs=2e-3)
        else:
            assert last - first < 2e-3


def test_rays_that_miss_see_the_background_and_a_camera_inside_starts_at_itself():
    rays = Rays(torch.tensor([[0.0, -3, 0]] * 2), torch.tensor([[0.0, 0, 1], [0, -1, 0]]))
    solid = lambda points, directions: (torch.full((len(points),), 99.0), 0 * points)  # noqa: E731
    torch.testing.assert_close(
        render(solid, rays, n_coarse=4, background=0.3).color, torch.full((2, 3), 0.3)
    )
    near, far = box_bounds(torch.zeros(1, 3), torch.tensor([[2.0, 0, 0]]))
    assert (near.item(), far.item()) == pytest.approx((0, 0.5))


# ---- samples


@given(seeds, sizes)
def test_strata_have_one_sample_each(seed, n):
    near, length = rand(seed, 5), 0.1 + rand(seed + 1, 5)
    g = torch.Generator().manual_seed(seed)
    for generator in (None, g):
        t = stratified(near, near + length, n, generator)
        stratum = ((t - near[:, None]) / length[:, None] * n).floor().long()
        assert (stratum == torch.arange(n)).all()
    if n > 1:  # each stratum has a number of its own
        assert not torch.allclose(t.diff(dim=-1), (length / n)[:, None])
    middle = stratified(near, near + length, n)
    torch.testing.assert_close(middle.mean(-1), near + length / 2)


@given(seeds, sizes, st.integers(1, 40))
def test_quantiles_are_those_of_numpy(seed, bins, n):
    edges, weights = rand(seed, 3, bins + 1).sort(-1).values, rand(seed + 1, 3, bins) + 1e-3
    ours = sample_pdf(edges, weights, n)
    cdf = np.cumsum(np.pad(weights.numpy(), ((0, 0), (1, 0))), -1)
    quantiles = (np.arange(n) + 0.5) / n
    for row, c, e in zip(ours.numpy(), cdf, edges.numpy(), strict=True):
        np.testing.assert_allclose(row, np.interp(quantiles, c / c[-1], e), atol=1e-9)
    assert (ours.diff(dim=-1) >= 0).all()


def test_bins_without_weight_get_no_sample_and_no_weight_at_all_is_even():
    edges = torch.tensor([[0.0, 1, 2, 3]] * 2)
    g = torch.Generator().manual_seed(0)
    t = sample_pdf(edges, torch.tensor([[1.0, 0, 1], [0, 0, 0]]), 600, g)
    assert not ((t[0] > 1.001) & (t[0] < 1.999)).any()
    assert torch.histc(t[1], 3, 0, 3).tolist() == [200, 200, 200]


def test_samples_of_another_call_are_others():
    g = torch.Generator().manual_seed(0)
    edges, weights = torch.tensor([[0.0, 1]]), torch.ones(1, 1)
    assert not torch.equal(sample_pdf(edges, weights, 4, g), sample_pdf(edges, weights, 4, g))


# ---- the integral


@given(seeds, sizes)
def test_slabs_are_exact(seed, n):
    t = 1 + rand(seed, 2, n + 1).cumsum(-1)
    density, d = 3 * rand(seed + 1, 2, n), rand(seed + 2, 2, 3) * 2 - 1
    weights, left = quadrature_weights(density, interval_lengths(t[:, :-1], d, t[:, -1]))
    through = 1.0
    for i in range(n):  # slab after slab
        length = (t[:, i + 1] - t[:, i]) * d.square().sum(-1).sqrt()
        passed = torch.exp(-density[:, i] * length)
        torch.testing.assert_close(weights[:, i], through * (1 - passed))
        through = through * passed
    torch.testing.assert_close(left, through)
    torch.testing.assert_close(weights.sum(-1), 1 - left)


@given(seeds, st.floats(0.1, 10))
def test_a_longer_direction_shows_the_same(seed, factor):
    t = 1 + rand(seed, 2, 6).cumsum(-1)
    d = rand(seed + 1, 2, 3) + 0.1
    ours = interval_lengths(t[:, :-1], d, t[:, -1])
    scaled = interval_lengths(t[:, :-1] / factor, d * factor, t[:, -1] / factor)
    torch.testing.assert_close(ours, scaled)
    rays = Rays(torch.tensor([[0.0, -3, 0.2]]), torch.tensor([[0.1, 1.0, 0]]))
    longer = Rays(rays.origins, rays.directions * factor)
    one, other = (render(judge.ball, r, n_coarse=40) for r in (rays, longer))
    torch.testing.assert_close(one.color, other.color, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(one.depth, other.depth * factor, atol=1e-3, rtol=1e-3)


def test_a_wall_behind_everything_takes_what_is_left_in_float32():
    density, lengths = torch.tensor([[0.3, 0.5, 2.0]]), torch.tensor([[1.0, 1.0, 1e10]])
    weights, left = quadrature_weights(density, lengths)
    expected = [1 - np.exp(-0.3), np.exp(-0.3) - np.exp(-0.8), np.exp(-0.8)]
    np.testing.assert_allclose(weights[0], expected, atol=1e-6)
    assert left.item() == 0


def test_smooth_media_converge_to_adaptive_integration():
    survives = lambda s: np.exp(-quad(lambda u: 1 + np.sin(u), 0, s)[0])  # noqa: E731
    truth = quad(lambda s: survives(s) * (1 + np.sin(s)) * s, 0, 2)[0]
    errors = []
    for n in (20, 40):
        edges = torch.linspace(0, 2, n + 1, dtype=torch.double)[None]
        middle = (edges[:, 1:] + edges[:, :-1]) / 2
        weights, _ = quadrature_weights(1 + middle.sin(), edges.diff(dim=-1))
        errors.append(abs(float((weights * middle).sum()) - truth))
    assert errors[0] < 3e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)  # second order


def test_marching_adds_colors_depths_and_background():
    t = torch.tensor([[1.0, 2.0]])
    field = lambda points, directions: (points[:, 1].exp(), directions / 2)  # noqa: E731
    rays = Rays(torch.zeros(1, 3), torch.tensor([[0.0, 2.0, 0.0]]))
    found = march(field, rays, t, torch.tensor([3.0]), background=0.25)
    weights, left = quadrature_weights(torch.tensor([[2.0, 4.0]]).exp(), torch.full((1, 2), 2.0))
    expected = weights.sum() * torch.tensor([0, 0.5, 0]) + 0.25 * left
    torch.testing.assert_close(found.color[0], expected)  # directions come with length 1
    torch.testing.assert_close(found.depth, (weights * t).sum(-1) + 3 * left)


def test_fine_samples_lie_where_the_coarse_ones_found_light():
    seen = []

    def field(points, directions):
        seen.append(points)
        return judge.ball(points, directions)

    rays = Rays(torch.tensor([[0.0, -3, 0]]), torch.tensor([[0.0, 1, 0]]))
    found = render(field, rays, n_coarse=16, n_fine=48)
    assert [len(points) for points in seen] == [16, 64]
    y = seen[1][:, 1]
    assert (y.diff() >= 0).all()
    assert ((y > -0.65) & (y < -0.35)).sum() > 40
    assert found.depth.item() == pytest.approx(2.52, abs=0.02)


def test_a_picture_is_made_of_its_parts_and_views_of_their_rays():
    views = toy_views(2, 6)
    pose = torch.as_tensor(views.poses[0])
    whole = picture(judge.ball, pose, 6, views.focal, n_coarse=20)
    parts = picture(judge.ball, pose, 6, views.focal, n_coarse=20, rays=5)
    torch.testing.assert_close(whole, parts)
    rays = rays_of(views)
    direct = camera_rays(torch.as_tensor(views.poses[1]), 6, 6, views.focal)
    torch.testing.assert_close(rays.directions[36:], direct.directions)
    torch.testing.assert_close(rays.origins[36:], direct.origins)


# ---- bad input and the judging


def test_bad_input_is_named():
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        stratified(one, one, 0)
    with pytest.raises(ValueError, match="edges must be one more than bins, got 3 and 3"):
        sample_pdf(torch.zeros(1, 3), torch.ones(1, 3), 2)
    with pytest.raises(ValueError, match="focal must be positive, got 0"):
        camera_rays(torch.eye(4), 2, 2, 0.0)
    with pytest.raises(ValueError, match="lengths must be floats of shape"):
        quadrature_weights(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="eye must not be straight above target"):
        look_at(torch.tensor([0.0, 0.0, 2.0]))


def test_the_slabs_of_the_evidence_are_integrated():
    t, density, color, d = judge.random_medium(torch.Generator().manual_seed(3))
    found = judge.slab_integral(*(part[0].numpy() for part in (t, density, color, d)))
    weights, _ = quadrature_weights(density, interval_lengths(t[:, :-1], d, t[:, -1]))
    assert found == pytest.approx(float((weights * color).sum(-1)[0]), abs=1e-8)
