"""Which random scenes are worth rendering: nothing in the way, something to see, views that overlap."""

from __future__ import annotations

import torch
from torch import Tensor

from easi3r_lab.synthetic import correspondence as between
from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.random_worlds import probe
from easi3r_lab.synthetic.random_worlds.candidates import Candidates
from easi3r_ros.core.geometry import invert_se3


def faults(c: Candidates, size: tuple[int, int]) -> Tensor:
    """(B,) how many things are wrong with each candidate. Looks at every view with a few rays; size: (W, H)."""
    world_from_part = c.world_from_part()
    cam_from_part = invert_se3(c.world_from_cam)[:, :, None] @ world_from_part
    K = probe.probe_K(c.focal, size)
    depth, part = probe.probe(c.layout, cam_from_part, K)
    sky = part < 0
    middle = probe.middle_of(depth).nan_to_num(0.0)
    moving = _share_of_movers(c, part)
    may_move = (c.part_moves & (c.layout.kind != solids.EMPTY)).any(1)
    wrong = [
        depth.flatten(1).amin(1) < 0.14 * middle,  # something right before the camera
        _largest_share(part, c.layout.kind.shape[1]).amax(1) > 0.85,
        sky.float().mean((2, 3)).amax(1) > 0.5,
        moving.amax(1) > 0.55,
        may_move & (moving.mean(1) < 0.008),
        _overlap(c, world_from_part, K, depth, part) < 0.35,
        _camera_stuck(c, cam_from_part),
        middle <= 0,
    ]
    return torch.stack(wrong).float().sum(0)


def _share_of_movers(c: Candidates, part: Tensor) -> Tensor:
    """(B, V)."""
    seen = c.part_moves.gather(1, part.clamp_min(0).flatten(1)).view_as(part) & (part >= 0)
    return seen.float().mean((2, 3))


def _largest_share(part: Tensor, parts: int) -> Tensor:
    """(B, V) of the part that fills most of the view."""
    B, V = part.shape[:2]
    rays = part[0, 0].numel()
    counts = torch.zeros(B, V, parts + 1).scatter_add_(2, part.flatten(2) + 1, torch.ones(B, V, rays))
    return counts[..., 1:].amax(2) / rays


def _overlap(c: Candidates, world_from_part: Tensor, K: Tensor, depth: Tensor, part: Tensor) -> Tensor:
    """(B,) share of what the first view sees that is inside the last one's image."""
    ends = (c.world_from_cam[:, 0], c.world_from_cam[:, -1], world_from_part[:, 0], world_from_part[:, -1])
    points = between.points_carried(depth[:, 0].clamp_max(1e4), part[:, 0], K, between.carried(*ends))
    uv = between.projected(points, K)
    return ((uv > -0.5) & (uv < torch.tensor(probe.SIZE) - 0.5)).all(-1).float().mean((1, 2))


def _camera_stuck(c: Candidates, cam_from_part: Tensor) -> Tensor:
    """(B,) whether the camera is inside a solid, outside its room or below ground."""
    place = invert_se3(cam_from_part)[..., :3, 3]  # (B, V, P, 3) camera in each part's frame
    kind, half = c.layout.kind[:, None], solids.bounds(c.layout.kind, c.layout.size)[:, None]
    inside = ((place.abs() < 1.05 * half + 0.03).all(-1)) & (kind != solids.EMPTY) & ~torch.isinf(half[..., 0])
    out = (kind == solids.ROOM) & (place.abs() > c.layout.size[:, None, :, :3] - 0.1).any(-1)
    size = [torch.where(c.layout.kind == solids.TERRAIN, c.layout.size[..., k], 1.0)[:, None] for k in range(4)]
    low = (kind == solids.TERRAIN) & (place[..., 2] < solids.hills(size, place[..., 0], place[..., 1]) + 0.25)
    return (inside | out | low).flatten(1).any(1)
