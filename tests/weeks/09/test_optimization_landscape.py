"""Week 09: surfaces against autograd and the literature, paths against torch's optimizers."""

import io
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from week09.evidence.optimization_landscape_figures import animated_png
from week09.optimization_landscape import (
    OPTIMIZERS,
    SURFACES,
    Surface,
    beale,
    descend,
    himmelblau,
    rastrigin,
    ravine_gradient,
    rosenbrock,
    saddle,
    scatter,
    score,
    tune,
)

each_surface = pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.name)
coordinates = st.floats(-4, 4)


def point(x, y):
    return torch.tensor([x, y], dtype=torch.float64)


@each_surface
@given(x=coordinates, y=coordinates)
def test_gradient_is_autograds(surface, x, y):
    p = point(x, y).requires_grad_()
    surface.value(p).backward()
    torch.testing.assert_close(surface.gradient(p.detach()), p.grad, rtol=1e-11, atol=1e-11)


@each_surface
def test_batches_are_single_points(surface):
    points = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, gradients = surface.value(points), surface.gradient(points)
    assert values.shape == (2, 3)
    torch.testing.assert_close(values[1, 2], surface.value(points[1, 2]))
    torch.testing.assert_close(gradients[1, 2], surface.gradient(points[1, 2]))


def test_values_of_the_literature():
    assert float(rosenbrock(point(-1.2, 1.0))) == pytest.approx(24.2)
    assert float(beale(point(1.0, 1.0))) == pytest.approx(14.203125)
    assert float(himmelblau(point(0.0, 0.0))) == 170
    assert float(himmelblau(point(-0.270845, -0.923039))) == pytest.approx(181.617, abs=1e-3)
    assert float(rastrigin(point(1.0, 0.0))) == pytest.approx(1.0)
    assert float(saddle(point(0.0, 1.0))) == -0.25


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_path_does_not_know_of_the_others(name):
    starts = torch.tensor([[-1.2, 1.0], [0.3, 0.4], [2.0, -1.0]], dtype=torch.float64)
    kept = starts.clone()
    together = descend(OPTIMIZERS[name], 1e-4, SURFACES[2].gradient, starts, 20)
    assert together.shape == (21, 3, 2)
    for i in range(3):
        alone = descend(OPTIMIZERS[name], 1e-4, SURFACES[2].gradient, starts[i : i + 1], 20)
        torch.testing.assert_close(together[:, i], alone[:, 0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(starts, kept, rtol=0, atol=0)


# ---- score and tuning


def test_score():
    surface = SURFACES[0]
    path = torch.tensor([[[-2.0, 0.0]], [[0.0, 0.0]]], dtype=torch.float64)
    assert float(score(surface, path)[0]) == pytest.approx((math.log10(2) - 6) / 2)
    lost = torch.tensor([[[0.0, 0.0]], [[100.0, 0.0]], [[0.0, 0.0]]], dtype=torch.float64)
    assert float(score(surface, lost)[0]) == pytest.approx((-6 + 6 + 6) / 3)
    broken = torch.tensor([[[0.0, 0.0]], [[math.nan, 0.0]]], dtype=torch.float64)
    assert float(score(surface, broken)[0]) == pytest.approx(0)


def test_tuning_finds_the_best_step_of_a_bowl():
    window, start = (-1, 1, -1, 1), (0.5, 0.5)
    bowl = Surface("bowl", lambda p: (p**2).sum(-1) / 2, lambda p: p, window, start)
    starts = scatter(bowl, 3, torch.Generator().manual_seed(0))
    lrs = torch.tensor([0.1, 1.0, 1.9, 5.0], dtype=torch.float64)
    best, scores = tune(OPTIMIZERS["SGD"], bowl, starts, lrs, 30)
    assert best == 1
    assert int(scores.argmax()) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: path(lr=0.1, steps=0), "steps must be at least 1, got 0"),
        (lambda path: path(lr=-1.0, steps=1), "lr must be at least 0, got -1"),
        (lambda _: scatter(SURFACES[0], 0, torch.Generator()), "n must be at least 1, got 0"),
    ],
)
def test_wrong_input(call, message):
    start = point(0.0, 0.0)[None]
    path = partial(descend, OPTIMIZERS["SGD"], gradient=ravine_gradient, starts=start)
    with pytest.raises(ValueError, match=message):
        call(path)


# ---- animation


def test_animation_holds_every_frame():
    rng = np.random.default_rng(0)
    board = np.kron(rng.integers(0, 4, (8, 8)) * 60, np.ones((6, 6))).astype(np.uint8)
    frames = []
    for i in range(6):
        picture = np.stack([board] * 3, -1)
        picture[7 * i : 7 * i + 5, 10:15] = (250, 20, 20)
        frames.append(Image.fromarray(picture))
    image = Image.open(io.BytesIO(animated_png(frames, milliseconds=100, last=500)))
    assert image.is_animated
    assert image.n_frames == 7  # the still picture, and six
    still = np.array(image.convert("RGB")).astype(int)
    assert np.abs(still - np.array(frames[-1])).max() <= 40
    for i, frame in enumerate(frames):
        image.seek(i + 1)
        shown = np.array(image.convert("RGB")).astype(int)
        assert np.abs(shown - np.array(frame)).max() <= 40  # one palette for all
        assert image.info["duration"] == (500 if i == 5 else 100)
