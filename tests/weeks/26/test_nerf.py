"""The encoding, the network, its training, the traced scene and the judges of pictures."""

import math

import numpy as np
import pytest
import torch
from enforce import ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.images import Views
from shared.run import Run
from week26.evidence import novel_views
from week26.image_quality import psnr, ssim
from week26.nerf import NeRF, positional_encoding, train
from week26.scenes import Box, Sphere, look_at, orbit, toy_views, trace
from week26.volume_rendering import Rays, camera_rays, rays_of, render

seeds = st.integers(0, 9999)


def rand(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def small(seed=0, **options):
    g = torch.Generator().manual_seed(seed)
    shape = {"d_hidden": 8, "n_layers": 3, "skip": 1, "position_frequencies": 2}
    return NeRF(g, **(shape | {"direction_frequencies": 1} | options))


# ---- the encoding and the network


@given(seeds, st.integers(1, 3), st.integers(0, 7))
def test_the_encoding_is_the_formula(seed, d, n):
    x = rand(seed, 4, d) * 2 - 1
    ours = positional_encoding(x, n)
    assert ours.shape == (4, d * (1 + 2 * n))
    for i in range(4):
        waves = [
            wave(2**k * math.pi * float(x[i, j]))
            for wave in (math.sin, math.cos)
            for j in range(d)
            for k in range(n)
        ]
        np.testing.assert_allclose(ours[i], [*x[i].tolist(), *waves], atol=1e-9)


def test_the_encoding_is_the_same_two_cells_further():
    x = rand(0, 5, 3)
    torch.testing.assert_close(
        positional_encoding(x, 4)[:, 3:], positional_encoding(x + 2, 4)[:, 3:]
    )


def test_the_network_is_its_layers_written_out():
    field = small(1).double()
    points, directions = rand(1, 6, 3), torch.nn.functional.normalize(rand(2, 6, 3), dim=-1)
    weights = {name: p.detach().numpy() for name, p in field.named_parameters()}

    def layer(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    gamma = positional_encoding(points, 2).numpy()
    h = np.maximum(layer("layers.0", gamma), 0)
    h = np.maximum(layer("layers.1", np.concatenate([gamma, h], 1)), 0)
    h = np.maximum(layer("layers.2", h), 0)
    density = 25 * np.log1p(np.exp(layer("density", h)[:, 0] - 1))
    turned = np.concatenate([layer("feature", h), positional_encoding(directions, 1).numpy()], 1)
    color = 1 / (1 + np.exp(-layer("color", np.maximum(layer("shade", turned), 0))))
    ours = field(points, directions)
    np.testing.assert_allclose(ours[0].detach(), density, atol=1e-9)
    np.testing.assert_allclose(ours[1].detach(), color, atol=1e-9)


def test_density_does_not_see_the_direction_and_color_does():
    points, one, other = rand(1, 6, 3).float(), rand(2, 6, 3).float(), rand(3, 6, 3).float()
    field = small()
    torch.testing.assert_close(field(points, one)[0], field(points, other)[0], rtol=0, atol=0)
    assert not torch.allclose(field(points, one)[1], field(points, other)[1])
    blind = small(sees_direction=False)
    torch.testing.assert_close(blind(points, one)[1], blind(points, other)[1], rtol=0, atol=0)


def test_the_seed_decides_the_network():
    a, b, c = (dict(small(seed).named_parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["layers.0.weight"], c["layers.0.weight"])


def test_bad_networks_and_encodings_are_named():
    with pytest.raises(ValueError, match="skip must be between 1 and 2, got 3"):
        small(skip=3)
    with pytest.raises(ValueError, match="n_frequencies must be at least 0, got -1"):
        positional_encoding(torch.zeros(1, 3), -1)


# ---- training


def test_training_is_adam_on_the_squared_error_of_the_drawn_pixels():
    views = toy_views(2, 6)
    rays, pixels = rays_of(views), torch.as_tensor(views.images).reshape(-1, 3)
    field, other = small(3), small(3)
    g, again = (torch.Generator().manual_seed(5) for _ in range(2))
    losses = train(field, views, steps=range(3), generator=g, batch_size=7, lr=0.01, n_coarse=4)
    optimizer = torch.optim.Adam(other.parameters(), eps=1e-15)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.01 * 10 ** (-step / 3)
        i = torch.randint(72, (7,), generator=again)
        batch = Rays(rays.origins[i], rays.directions[i])
        error = render(other, batch, n_coarse=4, generator=again).color - pixels[i]
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
        assert losses[step] == pytest.approx(float(error.square().mean()), rel=1e-4)
    for a, b in zip(field.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_it_learns_a_gray_box_and_says_when_a_step_is_over():
    views, done = toy_views(4, 8), []
    field = NeRF(torch.Generator().manual_seed(0), d_hidden=32, n_layers=3, skip=1)
    g = torch.Generator().manual_seed(0)
    options = {"batch_size": 64, "lr": 1e-2, "n_coarse": 8}
    losses = train(field, views, steps=range(40), generator=g, after=done.append, **options)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert done == list(range(40))


# ---- the scene


def test_a_sphere_has_its_size_and_its_near_side_is_seen():
    ball = Sphere((0.0, 0.0, 0.0), 0.5, (1.0, 0.0, 0.0))
    rays = camera_rays(look_at(torch.tensor([0.0, -3.0, 0.0])), 200, 200, 100.0)
    t, normal = ball.hit(rays)
    share = t.isfinite().float().mean()
    tangent = 0.5 / math.sqrt(9 - 0.25)  # of the cone that touches the sphere
    assert share == pytest.approx(math.pi * (100 * tangent) ** 2 / 200**2, rel=0.02)
    hit = t.isfinite()
    points = rays.origins[hit] + t[hit, None] * rays.directions[hit]
    torch.testing.assert_close(points.norm(dim=-1), torch.full((len(points),), 0.5))
    torch.testing.assert_close(normal[hit], points / 0.5, atol=1e-5, rtol=1e-4)
    assert ((normal * rays.directions).sum(-1)[hit] < 0).all()


@given(seeds)
def test_boxes_are_hit_on_their_surface_from_outside(seed):
    box = Box((0.1, -0.2, 0.3), (0.5, 0.4, 0.3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    origins = torch.nn.functional.normalize(rand(seed, 30, 3).float() - 0.5, dim=-1) * 3
    directions = (rand(seed + 1, 30, 3).float() - 0.5) * 1.5 - origins
    t, normal = box.hit(Rays(origins, directions))
    line = torch.linspace(0, 2, 4001)
    local = origins[:, None] + line[:, None] * directions[:, None] - torch.tensor(box.center)
    inside = (local.abs() <= torch.tensor(box.half)).all(-1)
    for first, row, n, d in zip(t, inside, normal, directions, strict=True):
        if row.any():
            assert first == pytest.approx(float(line[row].min()), abs=1e-3)
            assert float(n @ d) < 0
    assert (t.isfinite() == inside.any(1))[inside.sum(1) != 1].float().mean() > 0.9


def test_the_nearest_thing_hides_the_others_and_nothing_is_white():
    near, far = Sphere((0, -1, 0), 0.3, (1.0, 0, 0)), Sphere((0, 1, 0), 0.3, (0, 0, 1.0))
    rays = Rays(torch.tensor([[0.0, -3, 0]] * 2), torch.tensor([[0.0, 1, 0], [0, 0, 1]]))
    for scene in ((near, far), (far, near)):
        seen = trace(rays, scene)
        assert seen[0, 0] > 2 * seen[0, 2]
        assert seen[1].tolist() == [1, 1, 1]


def test_views_are_seeded_and_orbits_are_circles():
    a, b = (toy_views(3, 8, torch.Generator().manual_seed(1)) for _ in range(2))
    np.testing.assert_array_equal(a.images, b.images)
    assert a.images.dtype == np.float32
    assert 0 <= a.images.min() < a.images.max() <= 1
    around = orbit(8, elevation=0.3, distance=2.0)[:, :3, 3]
    torch.testing.assert_close(around.norm(dim=-1), torch.full((8,), 2.0))
    torch.testing.assert_close(around[:, 2], torch.full((8,), 2 * math.sin(0.3)))
    assert len({round(float(x), 3) for x in around[:, 0]}) > 4


# ---- judges of pictures


def slow_ssim(x, y):
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    found = []
    for c in range(x.shape[2]):
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                a, b = (p[i : i + 11, j : j + 11, c] for p in (x, y))
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                ab = (window * (a - ma) * (b - mb)).sum()
                top = (2 * ma * mb + 1e-4) * (2 * ab + 9e-4)
                found.append(top / (ma**2 + mb**2 + 1e-4) / (va + vb + 9e-4))
    return np.mean(found)


@given(seeds, st.integers(11, 14), st.integers(11, 14))
def test_ssim_is_the_mean_over_windows(seed, height, width):
    x, y = rand(seed, height, width, 2), rand(seed + 1, height, width, 2)
    assert ssim(x, y) == pytest.approx(slow_ssim(x.numpy(), y.numpy()), abs=1e-9)
    assert ssim(x, x) == pytest.approx(1)


def test_psnr_is_ten_decibels_per_tenth_of_the_squared_error():
    x = rand(0, 4, 5, 3)
    assert psnr(x, x + 0.1) == pytest.approx(20)
    assert psnr(x, x + 0.1 / math.sqrt(10)) == pytest.approx(30)
    assert psnr(x, x) == math.inf


def test_small_or_unequal_pictures_are_refused():
    with pytest.raises(ValueError, match="image must have 11 rows, got 10 and 20"):
        ssim(rand(0, 10, 20, 3), rand(0, 10, 20, 3))
    with pytest.raises(ValueError, match="reference must be floats of shape"):
        psnr(rand(0, 4, 4, 3), rand(0, 4, 5, 3))


# ---- the evidence's baselines and film


def made_up_views():
    poses = np.stack([look_at(torch.tensor(eye)).numpy() for eye in EYES])
    images = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((3, 4, 4, 3)) / 4
    return Views(images.astype(np.float32), poses, 4.0)


EYES = ([3.0, 0, 1], [0, 3.0, 1], [-3.0, 0, 1])


def test_the_nearest_view_is_that_of_the_nearest_camera():
    views = made_up_views()
    pose = look_at(torch.tensor([-2.5, 0.6, 1.2])).numpy()
    test = Views(views.images[:1], pose[None], 4.0)
    assert novel_views.nearest(views, test)[0].max() == 0.5
    assert novel_views.mean_picture(views, test)[0].max() == pytest.approx(0.25)


def test_scores_are_those_of_pairs():
    views = made_up_views()
    shifted = [image + 0.1 for image in views.images]
    assert novel_views.decibels(shifted, views) == pytest.approx([20] * 3, rel=1e-4)


def test_a_film_has_its_frames_and_stands_among_the_figures(tmp_path):
    run = Run(ROOT / "weeks/26/topic.py", out=tmp_path, quiet=True)
    frames = [np.full((6, 6, 3), level, np.float32) for level in (0.0, 0.5, 1.0)]
    novel_views.film(run, "orbit", "Around", frames)
    with Image.open(tmp_path / "topic_orbit.gif") as image:
        assert image.n_frames == 3
        assert image.size == (18, 18)
        image.seek(2)
        assert np.asarray(image.convert("RGB")).mean() > 250
    assert run.figures == [{"file": "topic_orbit.gif", "title": "Around"}]
