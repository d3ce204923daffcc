"""Scenes without colours, the ways of their cameras, and which of them are worth rendering.

A look with a handful of rays tells: nothing in the way, something to see, views that overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from easi3r_lab.synthetic import correspondence as between
from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.first_hits import Grid, first_hits
from easi3r_lab.synthetic.random_worlds.backdrop import StillWorlds, random_still_worlds
from easi3r_lab.synthetic.random_worlds.bodies import BODIES, SLOTS, Limbs, Travel, place_bodies, poses_of_parts
from easi3r_lab.synthetic.random_worlds.layout import Dice, RoomLayout, rigid, turn_by
from easi3r_ros.core.geometry import invert_se3

SIZE = (16, 12)  # rays across and down


def probe_K(focal: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, 3) of a tiny image that shows what one of `size` (W, H) does. focal: (B,) share of its width."""
    width, height = SIZE
    K = torch.zeros(len(focal), 3, 3)
    K[:, 0, 0] = focal * width
    K[:, 1, 1] = focal * height * size[0] / size[1]
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = (width - 1) / 2, (height - 1) / 2, 1.0
    return K


def probe(layout: RoomLayout, cam_from_part: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Depth (B, V, 12, 16) and parts (B, V, 12, 16) int64. cam_from_part: (B, V, P, 4, 4); K: (B, 3, 3)."""
    B, V = cam_from_part.shape[:2]
    kind, size, K = (values.repeat_interleave(V, dim=0) for values in (layout.kind, layout.size, K))
    depth, part = first_hits(kind, size, cam_from_part.flatten(0, 1), K, Grid(*SIZE))
    return depth.unflatten(0, (B, V)), part.unflatten(0, (B, V)).long()


def median_depth(layout: RoomLayout, world_from_cam: Tensor, K: Tensor) -> Tensor:
    """(B,) metres, of what does not move, within what cameras are built for. world_from_cam: (B, 4, 4)."""
    depth, _ = probe(layout, (invert_se3(world_from_cam)[:, None] @ layout.pose)[:, None], K)
    return middle_of(depth).nan_to_num(5.0).clamp(0.3, 25.0)


def middle_of(depth: Tensor) -> Tensor:
    """(B,) median of all finite depths (B, ...), NaN where there are none."""
    return torch.where(torch.isinf(depth), torch.nan, depth).flatten(1).nanmedian(dim=1).values


HANDHELD, DRIVING, ORBITING, TURNING, STILL = range(5)
_SHARES = [0.32, 0.18, 0.3, 0.12, 0.08]
_MOST_TURN, _MOST_STEP_TURN = math.radians(40), math.radians(12)


def look_at(eye: Tensor, target: Tensor, roll: Tensor) -> Tensor:
    """(B, 4, 4) world_from_cam of optical frames (x right, y down, z forward); roll: (B,) radians off upright."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    return rigid(rotation @ turn_by(roll[:, None] * torch.tensor([0.0, 0.0, 1.0])), eye)


def random_focals(dice: Dice, count: int) -> Tensor:
    """(B,) focal lengths as share of the image's width: horizontal fields of view of 40 to 110 degrees."""
    return 0.5 / torch.tan(torch.deg2rad(dice.uniform(40, 110, count)) / 2)


def random_times(dice: Dice, count: int, views: int) -> Tensor:
    """(B, V) seconds around the middle of each clip, at somewhat irregular steps of 0.05 to 0.4 s."""
    step = dice.log_uniform(0.05, 0.4, count, 1)
    return step * (torch.arange(views) - (views - 1) / 2 + dice.uniform(-0.2, 0.2, count, views))


def random_ways(dice: Dice, middle: Tensor, distance: Tensor, steps: Tensor, focal: Tensor) -> Tensor:
    """(B, V, 4, 4) world_from_cam, each near `middle` half way.

    middle: (B, 4, 4); distance: (B,) median depth, of which a step is 3 to 12 %; steps: (B, V) time in mean steps, 0
    half way; focal: (B,) share of the width.
    """
    B, V = steps.shape
    manner = dice.pick(_SHARES, B)[:, None]
    length = (distance * dice.uniform(0.03, 0.12, B))[:, None]
    hand = torch.nn.functional.normalize(dice.normal(B, 3) * torch.tensor([1.0, 0.5, 0.7]), dim=-1)
    drive = torch.nn.functional.normalize(0.15 * dice.normal(B, 3) + torch.tensor([0.0, 0.0, 1.0]), dim=-1)
    drive = drive * torch.where(dice.chance(0.8, B, 1), 1.0, -1.0)
    orbit = torch.nn.functional.normalize(dice.normal(B, 3) * torch.tensor([1.0, 0.35, 0.1]), dim=-1)
    towards = torch.where(manner == HANDHELD, hand, torch.where(manner == DRIVING, drive, orbit))
    velocity = towards * length * (manner < TURNING)  # (B, 3) per step, in the middle camera's frame
    pivot = distance[:, None] * dice.uniform(0.7, 1.3, B, 1)
    around = torch.stack([velocity[:, 1], -velocity[:, 0], torch.zeros(B)], dim=-1) / pivot
    free = torch.deg2rad(dice.normal(B, 3) * torch.tensor([1.2, 2.5, 1.0]))
    swept = torch.deg2rad(dice.sign(B, 1) * dice.uniform(2, 12, B, 1)) * torch.tensor([0.0, 1.0, 0.0]) + 0.3 * free
    turn = torch.where(manner == ORBITING, around + 0.3 * free, torch.where(manner == TURNING, swept, free))
    turn = _limited(turn, V, focal) * (manner != STILL)
    bend = 0.06 * length[:, None] * dice.normal(B, 1, 3) * (manner < TURNING)[..., None]
    shake = dice.uniform(0, 0.04, B, 1, 1) * (manner[..., None] == HANDHELD)
    t = steps[..., None]
    place = velocity[:, None] * t + bend * t**2 + shake * length[:, None] * dice.normal(B, V, 3)
    rotation = turn_by(turn[:, None] * t + shake * 0.15 * dice.normal(B, V, 3))
    return middle[:, None] @ rigid(rotation, place)


def _limited(turn: Tensor, views: int, focal: Tensor) -> Tensor:
    """Turns per step, such that the first and the last view still overlap."""
    angle = torch.linalg.vector_norm(turn, dim=-1, keepdim=True)
    whole = torch.minimum(torch.tensor(_MOST_TURN), 1.1 * torch.atan(0.5 / focal))[:, None]
    most = (whole / max(views - 1, 1)).clamp_max(_MOST_STEP_TURN)
    return turn * (most / angle.clamp_min(1e-6)).clamp_max(1.0)


@dataclass(frozen=True)
class Candidates:
    """The first BODIES * SLOTS parts are those of the bodies, the others the still world."""

    still: StillWorlds
    layout: RoomLayout
    limbs: Limbs
    wears: Tensor  # (B, P) part whose material each part has
    travel: Travel
    part_moves: Tensor  # (B, P) bool
    focal: Tensor  # (B,) share of the image's width
    seconds: Tensor  # (B, V)
    world_from_cam: Tensor  # (B, V, 4, 4)

    def __getitem__(self, rows: Tensor) -> Candidates:
        """Some of the scenes."""
        return _rows(self, rows)

    def body(self) -> Tensor:
        """(P,) number of each part's body; BODIES: the still world."""
        world = torch.full((self.still.layout.kind.shape[1],), BODIES)
        return torch.cat([torch.arange(BODIES).repeat_interleave(SLOTS), world])

    def world_from_part(self) -> Tensor:
        """(B, V, P, 4, 4)."""
        B, V = self.seconds.shape
        bodies = torch.cat([self.travel.poses(self.seconds), torch.eye(4).expand(B, V, 1, 4, 4)], dim=2)
        return poses_of_parts(self.layout, self.limbs, bodies, self.body(), self.seconds, self.part_moves)


def _rows(value, rows: Tensor):
    if isinstance(value, Tensor):
        return value[rows]
    return type(value)(*(_rows(getattr(value, field.name), rows) for field in fields(value)))


def random_candidates(dice: Dice, count: int, views: int, size: tuple[int, int]) -> Candidates:
    """size: (W, H) of the images."""
    still = random_still_worlds(dice, count)
    middle = look_at(still.eye, still.target, 0.06 * dice.normal(count))
    focal = random_focals(dice, count)
    distance = median_depth(still.layout, middle, probe_K(focal, size))
    seconds = random_times(dice, count, views)
    step = (seconds[:, -1] - seconds[:, 0]) / max(views - 1, 1)
    step = torch.where(step > 0, step, 0.1)
    ways = random_ways(dice, middle, distance, seconds / step[:, None], focal)
    placed = place_bodies(dice, still, middle, distance, focal, step)
    P = still.layout.kind.shape[1]
    stiff = Limbs(torch.zeros(count, P, 3), *(torch.zeros(count, P) for _ in range(3)))
    return Candidates(
        still=still,
        layout=RoomLayout.joined([placed.layout, still.layout]),
        limbs=Limbs(*(torch.cat([getattr(placed.limbs, f.name), getattr(stiff, f.name)], 1) for f in fields(Limbs))),
        wears=torch.cat([placed.wears, BODIES * SLOTS + torch.arange(P).expand(count, -1)], dim=1),
        travel=placed.travel,
        part_moves=torch.cat(
            [placed.moves.repeat_interleave(SLOTS, dim=1), torch.zeros(count, P, dtype=torch.bool)], dim=1
        ),
        focal=focal,
        seconds=seconds,
        world_from_cam=ways,
    )


def faults(c: Candidates, size: tuple[int, int]) -> Tensor:
    """(B,) how many things are wrong with each candidate. Looks at every view with a few rays; size: (W, H)."""
    world_from_part = c.world_from_part()
    cam_from_part = invert_se3(c.world_from_cam)[:, :, None] @ world_from_part
    K = probe_K(c.focal, size)
    depth, part = probe(c.layout, cam_from_part, K)
    sky = part < 0
    middle = middle_of(depth).nan_to_num(0.0)
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
    return ((uv > -0.5) & (uv < torch.tensor(SIZE) - 0.5)).all(-1).float().mean((1, 2))


def _camera_stuck(c: Candidates, cam_from_part: Tensor) -> Tensor:
    """(B,) whether the camera is inside a solid, outside its room or below ground."""
    place = invert_se3(cam_from_part)[..., :3, 3]  # (B, V, P, 3) camera in each part's frame
    kind, half = c.layout.kind[:, None], solids.bounds(c.layout.kind, c.layout.size)[:, None]
    inside = ((place.abs() < 1.05 * half + 0.03).all(-1)) & (kind != solids.EMPTY) & ~torch.isinf(half[..., 0])
    out = (kind == solids.ROOM) & (place.abs() > c.layout.size[:, None, :, :3] - 0.1).any(-1)
    size = [torch.where(c.layout.kind == solids.TERRAIN, c.layout.size[..., k], 1.0)[:, None] for k in range(4)]
    low = (kind == solids.TERRAIN) & (place[..., 2] < solids.hills(size, place[..., 0], place[..., 1]) + 0.25)
    return (inside | out | low).flatten(1).any(1)
