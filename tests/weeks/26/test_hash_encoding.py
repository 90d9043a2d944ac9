"""Rows of corners, dense levels against two interpolators, and what is not asked."""

import numpy as np
import pytest
import torch
from enforce import ROOT
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from torch import nn
from torch.nn import functional as F

from shared.images import Views
from shared.run import Run
from week26.evidence import hash_encoding as judge
from week26.hash_encoding import HashField, HashGrid, OccupancyGrid, skip_empty, spatial_hash
from week26.volume_rendering import Rays, render

seeds = st.integers(0, 9999)


def rand(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def grid_of(seed, **options):
    grid = HashGrid(torch.Generator().manual_seed(seed), **options).double()
    nn.init.normal_(grid.table, generator=torch.Generator().manual_seed(seed))
    return grid


@given(seeds, st.integers(0, 19))
def test_rows_are_those_of_32_bit_arithmetic(seed, log2_size):
    corners = torch.randint(0, 4096, (50, 3), generator=torch.Generator().manual_seed(seed))
    products = corners.numpy().astype(np.uint32) * np.array([1, 2654435761, 805459861], np.uint32)
    expected = np.bitwise_xor.reduce(products, -1) % np.uint32(2**log2_size)
    np.testing.assert_array_equal(spatial_hash(corners, 2**log2_size), expected)


@given(st.integers(2, 9), st.integers(1, 20), st.floats(1, 30))
def test_resolutions_grow_by_one_factor(n_levels, coarsest, factor):
    finest = int(coarsest * factor)
    grid = HashGrid(
        torch.Generator(), n_levels=n_levels, coarsest=coarsest, finest=finest, log2_size=8
    )
    growth = np.exp((np.log(finest) - np.log(coarsest)) / (n_levels - 1))  # equation 3
    expected = np.floor(coarsest * growth ** np.arange(n_levels) + 1e-6)
    np.testing.assert_array_equal(grid.resolutions, expected)
    assert grid.resolutions[-1] == finest
    assert grid.sizes == [min((n + 1) ** 3, 256) for n in grid.resolutions]


@given(seeds, st.integers(1, 3))
def test_the_fast_reading_is_the_slow_one(seed, n_features):
    grid = grid_of(seed, n_levels=4, n_features=n_features, log2_size=7, coarsest=2, finest=40)
    points = rand(seed + 1, 20, 3) * 2 - 1
    torch.testing.assert_close(grid(points), grid.by_level(points))
    assert any(grid.hashed)
    assert not all(grid.hashed)
    torch.testing.assert_close(grid(points[:1]), grid(points)[:1])


@given(seeds, st.integers(1, 6))
def test_a_dense_level_is_trilinear(seed, n):
    grid = grid_of(seed, n_levels=2, n_features=1, coarsest=n, finest=n + 1, log2_size=12)
    points = rand(seed + 1, 30, 3) * 2 - 1
    cube = grid.table[: (n + 1) ** 3, 0].detach().view(n + 1, n + 1, n + 1)  # z, y, x
    ours = grid(points)[:, 0].detach()
    sampled = F.grid_sample(cube[None, None], points.view(1, -1, 1, 1, 3), align_corners=True)
    torch.testing.assert_close(ours, sampled.flatten())
    axes = (np.linspace(-1, 1, n + 1),) * 3
    scipy = RegularGridInterpolator(axes, cube.numpy())(points.numpy()[:, ::-1])
    np.testing.assert_allclose(ours, scipy, atol=1e-10)


def test_corners_of_cells_read_their_own_row_and_the_cube_ends_at_its_surface():
    grid = grid_of(0, n_levels=2, n_features=2, coarsest=2, finest=3, log2_size=12)
    corners = torch.tensor([[-1.0, -1, -1], [0, -1, -1], [-1, 0, -1], [-1, -1, 0], [1, 1, 1]])
    expected = grid.table[[0, 1, 3, 9, 26]]
    torch.testing.assert_close(grid(corners.double())[:, :2], expected)
    beyond = torch.tensor([[1.7, 1.0, 1.2], [-1.0, -3.0, -1.0]]).double()
    torch.testing.assert_close(grid(beyond), grid(beyond.clamp(-1, 1)))


@given(seeds)
def test_shares_of_a_point_add_up_to_one(seed):
    grid = HashGrid(torch.Generator().manual_seed(seed), log2_size=6)
    rows, shares = grid.corners(rand(seed, 15, 3).float() * 2 - 1)
    torch.testing.assert_close(shares.sum(-1), torch.ones(15, 8))
    starts = np.cumsum([0, *grid.sizes])
    for level in range(8):
        at = rows[:, level]
        assert ((at >= starts[level]) & (at < starts[level + 1])).all()


def test_gradients_reach_the_rows_that_were_read_and_no_others():
    grid = grid_of(1, n_levels=2, n_features=1, coarsest=2, finest=20, log2_size=8)
    points = rand(3, 4, 3) * 2 - 1
    rows, shares = grid.corners(points)
    (grad,) = torch.autograd.grad(grid(points).sum(), grid.table)
    expected = torch.zeros(len(grid.table)).double()
    expected.index_add_(0, rows.flatten(), shares.flatten())
    torch.testing.assert_close(grad[:, 0], expected)


def test_no_point_gives_no_vector():
    field = HashField(HashGrid(torch.Generator()), torch.Generator())
    density, color = field(torch.zeros(0, 3), torch.zeros(0, 3))
    assert density.shape == (0,)
    assert color.shape == (0, 3)


def test_the_field_is_its_two_networks():
    g = torch.Generator().manual_seed(0)
    field = HashField(HashGrid(g, n_levels=2), g, d_hidden=8)
    nn.init.normal_(field.grid.table, generator=g)
    points, one = rand(1, 9, 3).float(), F.normalize(rand(2, 9, 3).float(), dim=-1)
    density, color = field(points, one)
    h = field.geometry(field.grid.by_level(points))
    torch.testing.assert_close(density, h[:, 0].exp())
    again, other = field(points, -one)
    torch.testing.assert_close(again, density)
    assert not torch.allclose(other, color)


# ---- occupancy


def slab(points, directions):
    return 9.0 * (points[:, 0] > 0.25), points / 2 + 0.5


def test_cells_are_counted_and_found_again():
    grid = OccupancyGrid(4)
    corner = torch.tensor([[-1.0, -1, -1], [0.99, 0.99, 0.99], [1.0, 1, 1], [0.01, -0.99, 0.99]])
    assert grid.cell(corner).tolist() == [0, 63, 63, 2 * 16 + 3]
    assert grid.occupied(corner).all()  # before anything was seen
    grid.update(slab, torch.Generator().manual_seed(0))
    assert grid.share == pytest.approx(0.375, abs=0.13)
    points = rand(0, 400, 3).float() * 2 - 1
    outside = (points[:, 0] < 0) | (points[:, 0] > 0.5)
    assert torch.equal(grid.occupied(points)[outside], points[outside, 0] > 0.5)


def test_what_is_gone_is_forgotten_and_comes_back():
    grid, g = OccupancyGrid(3, threshold=1.0, decay=0.5), torch.Generator().manual_seed(0)
    full = lambda points, directions: (torch.full((len(points),), 3.0), points)  # noqa: E731
    empty = lambda points, directions: (torch.zeros(len(points)), points)  # noqa: E731
    grid.update(full, g)
    shares = []
    for field in (empty, empty, full):
        grid.update(field, g)
        shares.append(grid.share)
    assert shares == [1, 0, 1]  # 1.5, 0.75, 3


@given(seeds)
def test_not_asking_where_nothing_is_changes_nothing(seed):
    grid = OccupancyGrid(8, threshold=0.0)
    box = lambda p, d: (5.0 * (p.abs() < 0.5).all(-1), p / 2 + 0.5)  # noqa: E731
    grid.update(box, torch.Generator().manual_seed(seed))
    aims = rand(seed, 20, 3).float() - 0.5
    rays = Rays(torch.tensor([[0.0, -3, 0]]).expand(20, 3), aims + torch.tensor([0.0, 3, 0]))
    whole, sparse = (render(f, rays, n_coarse=16).color for f in (box, skip_empty(box, grid)))
    torch.testing.assert_close(sparse, whole)


def test_only_occupied_points_are_asked():
    grid, asked = OccupancyGrid(4), []
    grid.density = torch.zeros(64)
    grid.density[63] = 9.0

    def field(points, directions):
        asked.append(points)
        return torch.ones(len(points)), points

    points = torch.tensor([[0.9, 0.9, 0.9], [0.0, 0, 0], [0.6, 0.7, 0.8]])
    density, color = skip_empty(field, grid)(points, points)
    assert density.tolist() == [1, 0, 1]
    torch.testing.assert_close(asked[0], points[[0, 2]])
    torch.testing.assert_close(color[2], points[2])


def test_bad_input_is_named():
    g = torch.Generator()
    with pytest.raises(ValueError, match="size must be a power of two, got 12"):
        spatial_hash(torch.zeros(1, 3).long(), 12)
    with pytest.raises(ValueError, match="n_levels must be at least 2, got 1"):
        HashGrid(g, n_levels=1)
    with pytest.raises(ValueError, match="coarsest must be between 1 and finest, got 9 and 8"):
        HashGrid(g, coarsest=9, finest=8)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1.0"):
        OccupancyGrid(decay=1.0)
    with pytest.raises(ValueError, match="resolution must be at least 1, got 0"):
        OccupancyGrid(0)


# ---- the judging


def test_multiplications_are_counted_in_layers():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    assert judge.products(net) == 25


def test_the_evidence_trains_through_the_occupancy_and_updates_it():
    g = torch.Generator().manual_seed(0)
    views = judge.toy_views(2, 6)
    sparse = judge.Sparse(judge.new_field(g))
    sparse.learn(views, 15, g, batch_size=8, n_coarse=4)
    assert sparse.occupancy.share == 1  # nothing was looked at before the sixteenth step
    sparse.learn(views, 16, g, batch_size=8, n_coarse=4)
    assert sparse.occupancy.density.isfinite().all()


def test_without_the_bulldozer_the_small_scene_is_drawn(tmp_path, monkeypatch):
    run = Run(ROOT / "weeks/26/hash_encoding.py", mode="quick", out=tmp_path, quiet=True)
    said, g = [], torch.Generator().manual_seed(0)
    monkeypatch.setattr(run, "say", said.append)
    monkeypatch.setenv("ML_STUDIES_DATA", str(tmp_path))
    views = judge.bulldozer(run, g)
    assert views.images.shape == (34, 20, 20, 3)
    assert "study fetch nerf_lego" in said[0]
    assert "the small scene is drawn instead" in said[0]


def test_the_bulldozer_is_scaled_into_the_cube(tmp_path, monkeypatch):
    poses = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    poses[:, :3, 3] = [0, 3, 1.5]
    lego = Views(np.ones((2, 20, 20, 3), np.float32), poses, 9.0)
    monkeypatch.setattr(judge.datasets, "nerf_lego", lambda size: lego)
    run = Run(ROOT / "weeks/26/hash_encoding.py", mode="quick", out=tmp_path, quiet=True)
    views = judge.bulldozer(run, torch.Generator())
    np.testing.assert_allclose(views.poses[:, :3, 3], [[0, 2, 1]] * 2)
    assert lego.poses[0, 1, 3] == 3  # what was loaded stays as it is
    assert views.focal == 9
