"""Random training scenes: deterministic, varied as promised, and their truth agrees with itself and with the images."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from easi3r_lab.synthetic.training_views import TrainingViews, correspondence, induced, points_in, training_views
from torch.nn.functional import grid_sample

SIZE = (64, 48)


@pytest.fixture(scope="module")
def views() -> TrainingViews:
    return training_views(seed=3, scenes=24, views=4, size=SIZE)


def looked_up(images: torch.Tensor, uv: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """(B, H, W, C) values of (B, H, W, C) at pixels (B, H, W, 2)."""
    place = 2 * uv.nan_to_num(-9.0) / torch.tensor([SIZE[0] - 1, SIZE[1] - 1]) - 1
    values = grid_sample(images.permute(0, 3, 1, 2).float(), place, mode=mode, align_corners=True)
    return values.permute(0, 2, 3, 1)


def away_from_edges(parts: torch.Tensor) -> torch.Tensor:
    """(B, H, W) bool: all eight neighbours are on the same part."""
    padded = torch.nn.functional.pad(parts[:, None].float(), (1, 1, 1, 1), value=-9)
    around = torch.nn.functional.unfold(padded, 3).view(len(parts), 9, *parts.shape[1:])
    return (around == parts[:, None]).all(1)


def test_shapes_and_ranges(views):
    B, V, (W, H), P = 24, 4, SIZE, views.moving.shape[1]
    assert views.images.shape == (B, V, H, W, 3) and views.images.dtype == torch.uint8
    assert views.depth.shape == views.parts.shape == (B, V, H, W)
    assert views.depth.dtype == torch.float32 and views.parts.dtype == torch.int16
    assert views.world_from_cam.shape == (B, V, 4, 4) and views.world_from_part.shape == (B, V, P, 4, 4)
    assert views.K.shape == (B, 3, 3) and views.seconds.shape == (B, V)
    assert (views.seconds.diff(dim=1) > 0).all()
    sky = views.parts < 0
    assert torch.isinf(views.depth[sky]).all() and torch.isfinite(views.depth[~sky]).all()
    assert (views.depth > 0.02).all() and views.parts.max() < P
    for poses in (views.world_from_cam, views.world_from_part):
        torch.testing.assert_close(
            torch.linalg.det(poses[..., :3, :3]), torch.ones(poses.shape[:-2]), atol=1e-4, rtol=0
        )


def test_same_seed_same_scenes_other_seed_other_scenes():
    first, again, other = (training_views(seed, 3, 2, SIZE) for seed in (8, 8, 9))
    for field in fields(TrainingViews):
        assert torch.equal(getattr(first, field.name), getattr(again, field.name)), field.name
    assert (first.images.int() - other.images.int()).abs().float().mean() > 20


def test_nothing_to_render():
    for arguments in ((0, 2, SIZE), (2, 0, SIZE), (2, 2, (4, 48))):
        with pytest.raises(ValueError, match="nothing to render"):
            training_views(0, *arguments)


def test_one_view_is_enough():
    single = training_views(1, 2, 1, SIZE)
    assert single.images.shape == (2, 1, SIZE[1], SIZE[0], 3)


@pytest.mark.parametrize(("i", "j"), [(0, 1), (2, 0)])
def test_carried_points_have_the_depth_that_the_other_view_sees(views, i, j):
    """Of still and of moving pixels alike."""
    uv, seen = correspondence(views, i, j)
    found = looked_up(views.depth[:, j, ..., None].clamp_max(1e4), uv)[..., 0]
    part_there = looked_up(views.parts[:, j, ..., None], uv, "nearest")[..., 0]
    inner = looked_up(away_from_edges(views.parts[:, j])[..., None], uv, "nearest")[..., 0] > 0
    wanted = points_in(views, i, j, moving=True)[..., 2]
    masks = views.masks()[:, i]
    for kind in (masks, ~masks):
        chosen = seen & inner & kind
        assert chosen.float().mean() > 0.01
        assert (part_there[chosen] == views.parts[:, i][chosen]).all()
        error = (wanted[chosen] / found[chosen] - 1).abs()
        assert error.median() < 1e-3 and error.quantile(0.99) < 0.05  # bilinear depth of slanted surfaces


def test_what_counts_as_hidden_is_behind_something_or_outside(views):
    uv, seen = correspondence(views, 0, 3)
    z = points_in(views, 0, 3, moving=True)[..., 2]
    inside = ((uv > 0) & (uv < torch.tensor(SIZE) - 1.0)).all(-1) & (z > 0) & (views.parts[:, 0] >= 0)
    nearest = looked_up(views.depth[:, 3, ..., None].clamp_max(1e4), uv, "nearest")[..., 0]
    well_behind = inside & (z > 1.3 * nearest)
    in_front = inside & (z < 0.7 * nearest)
    assert well_behind.float().mean() > 0.02
    assert seen[well_behind].float().mean() < 0.01 and seen[in_front].float().mean() < 0.05
    assert seen[inside & ~well_behind & ~in_front].float().mean() > 0.85
    assert not seen[~((uv > -0.5) & (uv < torch.tensor(SIZE) - 0.5)).all(-1)].any()


def test_images_follow_the_correspondence(views):
    """Movers included: warped by the truth, neighbours look alike; shifted by a pixel, less so."""
    uv, seen = correspondence(views, 1, 2)
    chosen = (
        seen & away_from_edges(views.parts[:, 1]) & (views.images[:, 1].float().std(dim=(1, 2, 3)) > 25)[:, None, None]
    )

    def error(offset: float, where: torch.Tensor) -> float:
        warped = looked_up(views.images[:, 2], uv + offset)
        return float((warped - views.images[:, 1]).abs()[where].mean())

    for where in (chosen, chosen & views.masks()[:, 1]):
        assert error(0.0, where) < 12
        assert error(0.0, where) < 0.85 * min(error(1.5, where), error(-1.5, where))


def test_rigid_motion_explains_still_pixels_and_not_movers(views):
    uv, seen = correspondence(views, 0, 2)
    residual = (induced(views, 0, 2) - uv).norm(dim=-1)
    masks = views.masks()[:, 0]
    assert residual[seen & ~masks].max() < 1e-2
    assert residual[seen & masks].median() > 0.7


def test_still_points_are_where_they_were(views):
    """DUSt3R's pointmaps put what moves where it was when its own view was taken."""
    own = points_in(views, 1, 1)
    there = points_in(views, 1, 3)
    cam_3_from_cam_1 = torch.linalg.inv(views.world_from_cam[:, 3]) @ views.world_from_cam[:, 1]
    expected = torch.einsum("bij,bhwj->bhwi", cam_3_from_cam_1[:, :3, :3], own) + cam_3_from_cam_1[:, None, None, :3, 3]
    land = views.parts[:, 1] >= 0
    torch.testing.assert_close(there[land], expected[land], atol=1e-3, rtol=1e-4)


def test_scenes_are_as_varied_as_training_needs():
    views = training_views(seed=11, scenes=60, views=6, size=(32, 24))
    still = ~views.moving.any(1)
    assert 0.25 < still.float().mean() < 0.55
    masks = views.masks()
    assert not masks[still].any()
    share = masks[~still].float().mean(dim=(2, 3))  # (scenes, views)
    assert share.max() < 0.65 and (share.mean(1) > 0.004).float().mean() > 0.9
    assert share.mean(1).max() > 0.2  # some movers are large
    fov = 2 * torch.rad2deg(torch.atan(32 / 2 / views.K[:, 0, 0]))
    assert fov.min() >= 39.9 and fov.max() <= 110.1 and fov.std() > 12
    depth = torch.where(torch.isinf(views.depth), torch.nan, views.depth).flatten(1)
    middle = depth.nanmedian(dim=1).values
    assert middle.min() < 2 and middle.max() > 6
    steps = torch.linalg.inv(views.world_from_cam[:, :-1]) @ views.world_from_cam[:, 1:]
    baseline = steps[..., :3, 3].norm(dim=-1).mean(1) / middle
    assert 0.03 < baseline.median() < 0.12 and baseline.max() < 0.4
    angle = torch.rad2deg(torch.acos(((steps[..., :3, :3].diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1)))
    assert angle.max() < 16 and angle.mean() > 1
    whole = torch.linalg.inv(views.world_from_cam[:, 0]) @ views.world_from_cam[:, -1]
    whole_angle = torch.acos(((whole[:, :3, :3].diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1))
    assert whole_angle.max() < math.radians(60)
    assert correspondence(views, 0, 1)[1].float().mean() > 0.6
    brightness = views.images.float().mean(dim=(1, 2, 3, 4))
    assert brightness.min() > 25 and brightness.max() < 235 and brightness.std() > 12


def test_no_view_is_one_bare_surface_or_blocked():
    views = training_views(seed=12, scenes=40, views=3, size=(32, 24))
    parts = views.parts.flatten(2)
    largest = torch.stack([(parts == parts.mode(dim=2, keepdim=True).values).float().mean(2)])
    assert (largest < 0.9).float().mean() > 0.95
    near = views.depth.flatten(1).amin(1)
    middle = torch.where(torch.isinf(views.depth), torch.nan, views.depth).flatten(1).nanmedian(1).values
    assert (near > 0.1 * middle).float().mean() > 0.9
