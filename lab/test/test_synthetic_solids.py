"""Solids, tiles and textures of the renderer against brute force and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.first_hits import Grid, first_hits, slopes
from easi3r_lab.synthetic.motions import look_at, pose
from easi3r_lab.synthetic.scene import intrinsics
from easi3r_lab.synthetic.textures import bank_of, mip_maps, texture


def _prism(p: torch.Tensor) -> torch.Tensor:
    """A triangle that narrows by half a metre per metre, from its definition."""
    sides = [
        p[..., 0] * math.cos(a) + p[..., 1] * math.sin(a) + 0.5 * (p[..., 2] + 0.3) - 0.4
        for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)
    ]
    return torch.stack([*sides, p[..., 2].abs() - 0.3]).amax(0)


HALF = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
SOLIDS = {
    "box": (solids.BOX, (0.5, 0.3, 0.2, 0), lambda p: (p.abs() - HALF).amax(-1)),
    "ellipsoid": (solids.ELLIPSOID, (0.5, 0.3, 0.2, 0), lambda p: (p / HALF).norm(dim=-1) - 1),
    "capsule": (
        solids.CAPSULE,
        (0.2, 0.4, 0, 0),
        lambda p: torch.stack([p[..., 0], p[..., 1], (p[..., 2].abs() - 0.4).clamp_min(0)]).norm(dim=0) - 0.2,
    ),
    "cylinder": (
        solids.CYLINDER,
        (0.2, 0.4, 0, 0),
        lambda p: torch.maximum(p[..., :2].norm(dim=-1) - 0.2, p[..., 2].abs() - 0.4),
    ),
    "prism": (solids.PRISM, (3, 0.4, 0.3, 0.5), _prism),
}


def rays(origin: tuple[float, ...], deviation: float, count: int = 800) -> tuple[torch.Tensor, torch.Tensor]:
    start = torch.tensor(origin, dtype=torch.float64)
    targets = torch.from_numpy(np.random.default_rng(0).normal(0, deviation, (count, 3)))
    return start, targets - start


def hit(kind: int, size: tuple[float, ...], origin: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    size = torch.tensor(size, dtype=directions.dtype)[None]
    columns = tuple(o.to(directions.dtype).view(1, 1) for o in origin)
    return solids.intersect(kind, size, columns, tuple(d[None] for d in directions.unbind(-1)))[0]


@pytest.mark.parametrize("name", SOLIDS)
@pytest.mark.parametrize("origin", [(-1.1, 0.7, 0.9), (0.03, 0.01, 1.5), (1.2, -0.2, -0.9)])
def test_first_hit_against_marching(name, origin):
    """Every hit lies on the surface, nothing lies in front of it, and no ray that enters the solid is missed."""
    kind, size, outside = SOLIDS[name]
    start, directions = rays(origin, 0.35)
    t = hit(kind, size, start, directions)
    hits = torch.isfinite(t)
    assert 50 < hits.sum() < 780
    np.testing.assert_allclose(outside(start + t[hits, None] * directions[hits]), 0, atol=1e-9)
    steps = torch.linspace(0, 2, 2001, dtype=torch.float64)
    along = outside(start + steps[:, None, None] * directions)  # (steps, rays)
    entered = along.amin(0) < -1e-3
    assert hits[entered].all()
    first_inside = steps[(along < 0).int().argmax(0)]
    np.testing.assert_allclose(t[hits & entered], first_inside[hits & entered], atol=1.1e-3)


@pytest.mark.parametrize("name", SOLIDS)
def test_normals_point_out_of_the_surface(name):
    kind, size, outside = SOLIDS[name]
    start, directions = rays((1.0, 0.8, -1.2), 0.25, 400)
    t = hit(kind, size, start, directions)
    points = (start + t[:, None] * directions)[torch.isfinite(t)]
    rows = torch.tensor(size, dtype=torch.float64).expand(len(points), 4)
    normals, uv, face = solids.surface(kind, rows, points)
    np.testing.assert_allclose(normals.norm(dim=-1), 1, atol=1e-6)
    assert (outside(points + 1e-3 * normals) > 0).all() and (outside(points - 1e-3 * normals) < 0).all()
    assert uv.shape == (len(points), 2) and face.shape == (len(points),)


@pytest.mark.parametrize("name", SOLIDS)
def test_the_bounding_box_holds_the_solid(name):
    kind, size, outside = SOLIDS[name]
    half = solids.bounds(torch.tensor(kind), torch.tensor(size, dtype=torch.float64))
    points = torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, (20000, 3)))
    assert (points[outside(points) < 0].abs() <= half + 1e-9).all()


def test_a_small_far_ball_is_exact_in_single_precision():
    """Where b^2 - 4ac loses all its digits."""
    start, directions = torch.tensor([-500.0, 0.0, 0.0]), torch.tensor([[1.0, 0.0, 0.0], [1.0, 4e-5, 0.0]])
    t = hit(solids.ELLIPSOID, (0.05, 0.05, 0.05, 0), start, directions.float())
    expected = 500 - np.sqrt(0.05**2 - np.array([0, 0.02]) ** 2)
    np.testing.assert_allclose(t, expected, atol=2e-4)


def test_room_is_seen_from_inside():
    origin = torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64)
    directions = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, -1]], dtype=torch.float64)
    t = hit(solids.ROOM, (2.0, 3.0, 1.0, 0), origin, directions)
    np.testing.assert_allclose(t, [1.5, 2.5, 3, 1])
    size = torch.tensor([[2.0, 3.0, 1.0, 0]], dtype=torch.float64).expand(4, 4)
    normals, _, face = solids.surface(solids.ROOM, size, origin + t[:, None] * directions)
    np.testing.assert_array_equal(normals, -directions)
    np.testing.assert_array_equal(face, [1, 0, 3, 4])


def test_hills_are_met_where_the_ray_first_goes_below_ground():
    size = (0.8, 9.0, 1.3, 60.0)
    columns = [torch.tensor(s, dtype=torch.float64) for s in size]
    origin = torch.tensor([0.0, 0.0, 1.6], dtype=torch.float64)
    rng = np.random.default_rng(3)
    directions = torch.from_numpy(np.stack([np.ones(300), rng.uniform(-1, 1, 300), rng.uniform(-0.6, 0.1, 300)], -1))
    t = hit(solids.TERRAIN, size, origin, directions)
    steps = torch.linspace(0, 40, 8001, dtype=torch.float64)
    points = origin + steps[:, None, None] * directions
    below = points[..., 2] < solids.hills(columns, points[..., 0], points[..., 1])
    truth = torch.where(below.any(0), steps[below.int().argmax(0)], torch.inf)
    assert torch.isfinite(truth).float().mean() > 0.5
    same = (t - truth).abs() < 0.01
    # A march may step over the tip of a hill that a ray only grazes.
    assert same[torch.isfinite(truth)].float().mean() > 0.98
    met = origin + t[:, None] * directions
    gap = met[..., 2] - solids.hills(columns, met[..., 0], met[..., 1])
    assert gap[torch.isfinite(t)].abs().max() < 1e-4
    normals, _, _ = solids.surface(
        solids.TERRAIN, torch.tensor([size]).double(), torch.tensor([[1.0, 2.0, 0.0]]).double()
    )
    h = 1e-5
    ground = [
        solids.hills(columns, torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64))
        for x, y in ((1 + h, 2.0), (1 - h, 2.0), (1.0, 2 + h), (1.0, 2 - h))
    ]
    slope = [float(ground[0] - ground[1]) / (2 * h), float(ground[2] - ground[3]) / (2 * h)]
    np.testing.assert_allclose(normals[0, :2] / -normals[0, 2], slope, atol=1e-4)


def test_depth_of_a_sphere_ahead():
    K, size = intrinsics((161, 121), 60.0), (161, 121)
    world_from_cam = look_at(np.zeros(3), np.array([1.0, 0, 0]))
    cam_from_part = torch.from_numpy(np.linalg.inv(world_from_cam) @ pose((4.0, 0, 0)))[None, None]
    kind, shape = torch.tensor([[solids.ELLIPSOID]]), torch.ones(1, 1, 4, dtype=torch.float64)
    depth, part = (v[0].numpy() for v in first_hits(kind, shape, cam_from_part, torch.from_numpy(K)[None], Grid(*size)))
    assert depth[60, 80] == pytest.approx(3.0)
    seen = part >= 0
    # Silhouette of a unit sphere 4 m ahead: a circle of slope tan(asin(1 / 4)).
    assert seen.sum() == pytest.approx(np.pi * (K[0, 0] * np.tan(np.arcsin(0.25))) ** 2, rel=0.01)
    assert np.isinf(depth[~seen]).all()


@pytest.mark.parametrize("kind", [solids.ROOM, solids.TERRAIN])
def test_what_is_everywhere_is_seen_with_its_middle_behind_the_camera(kind):
    world_from_cam = look_at(np.array([1.5, 0, 0.8]), np.array([4.0, 0, -0.5]))
    cam_from_part = torch.from_numpy(np.linalg.inv(world_from_cam))[None, None]
    size = torch.tensor([[[2.0, 2, 1, 0]]] if kind == solids.ROOM else [[[0.1, 8, 0, 500]]], dtype=torch.float64)
    K = torch.from_numpy(intrinsics((40, 30), 50.0))[None]
    depth, part = first_hits(torch.tensor([[kind]]), size, cam_from_part, K, Grid(40, 30))
    assert torch.isfinite(depth[0, -1]).all() and (part[0, -1] == 0).all()


def heap(seed: int, views: int = 3, parts: int = 40) -> tuple[torch.Tensor, ...]:
    """Random solids of every kind around and behind cameras at the origin."""
    rng = np.random.default_rng(seed)
    kind = torch.from_numpy(rng.choice([solids.EMPTY, *(SOLIDS[name][0] for name in SOLIDS)], (views, parts)))
    size = torch.from_numpy(rng.uniform(0.1, 0.5, (views, parts, 4)))
    size[..., 0] = torch.where(kind == solids.PRISM, 5.0, size[..., 0])
    size[..., 3] *= 0.3
    poses = [[pose(rng.normal(0, 2, 3), *rng.uniform(-3, 3, 3)) for _ in range(parts)] for _ in range(views)]
    return (
        kind,
        size,
        torch.from_numpy(np.array(poses)),
        torch.from_numpy(intrinsics((50, 37), 80.0)).expand(views, 3, 3),
    )


@pytest.mark.parametrize("seed", range(3))
def test_tiles_lose_nothing(seed):
    """Every ray against every solid, without tiles."""
    kind, size, cam_from_part, K = heap(seed)
    grid = Grid(50, 37)
    depth, part = first_hits(kind, size, cam_from_part, K, grid)
    x, y = slopes(K, grid)
    for view in range(len(K)):
        directions = torch.stack([*torch.meshgrid(x[view], y[view], indexing="xy"), torch.ones(37, 50)], -1).double()
        best = torch.full((37, 50), torch.inf, dtype=torch.float64)
        for number in range(kind.shape[1]):
            if kind[view, number] == solids.EMPTY:
                continue
            part_from_cam = torch.linalg.inv(cam_from_part[view, number])
            turned = directions.view(-1, 3) @ part_from_cam[:3, :3].T
            t = hit(int(kind[view, number]), size[view, number].tolist(), part_from_cam[:3, 3], turned)
            best = torch.minimum(best, t.view(37, 50))
        torch.testing.assert_close(depth[view], best)
        assert ((part[view] >= 0) == torch.isfinite(best)).all()
    assert 0.1 < torch.isfinite(depth).double().mean() < 1


def test_texels_lie_at_their_centres_and_the_texture_repeats():
    image = np.random.default_rng(0).random((8, 8, 3)).astype(np.float32)
    bank = bank_of([mip_maps(np.zeros((4, 4, 3))), mip_maps(image)])
    v, u = np.indices((8, 8)).reshape(2, -1)
    turns = torch.from_numpy(np.stack([(u + 0.5) / 8 + 3, (v + 0.5) / 8 - 2], axis=-1)).float()
    texels = bank.sample(torch.ones(64, dtype=torch.int64), turns, torch.full((64,), 1e-3))
    np.testing.assert_allclose(texels, image.reshape(-1, 3), atol=1e-5)


def test_fine_pattern_far_away_becomes_its_mean():
    """Mip mapping: 5 cm checks are an even grey when one ray covers metres, and not when it covers a millimetre."""
    board = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((16, 16)))[..., None] * np.ones(3)
    bank = bank_of([texture(0.1 + 0.8 * board, metres=0.4).levels, mip_maps(np.full((8, 8, 3), 0.3))])
    turns = torch.from_numpy(np.random.default_rng(0).uniform(-8, 8, (2000, 2))).float()
    first = torch.zeros(2000, dtype=torch.int64)
    far, near = (
        bank.sample(first, turns, torch.full((2000,), 5.0)),
        bank.sample(first, turns, torch.full((2000,), 2e-4)),
    )
    np.testing.assert_allclose(far, 0.5, atol=1e-3)
    assert near.std() > 0.35
    for footprint in (1e-4, 0.3, 9.0):
        np.testing.assert_allclose(bank.sample(first + 1, turns, torch.full((2000,), footprint)), 0.3, atol=1e-6)
    with pytest.raises(ValueError, match="power of two"):
        texture(np.zeros((100, 100, 3)), 1.0)
