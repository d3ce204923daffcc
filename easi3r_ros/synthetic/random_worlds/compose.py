"""Whole random scenes: surroundings, bodies, light and camera, with the unusable ones left out."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from easi3r_ros.core.geometry import invert_se3
from easi3r_ros.synthetic import correspondence as between
from easi3r_ros.synthetic import patterns, solids
from easi3r_ros.synthetic.first_hits import Grid, first_hits
from easi3r_ros.synthetic.random_worlds import bodies as moving
from easi3r_ros.synthetic.random_worlds import cameras
from easi3r_ros.synthetic.random_worlds.bodies import ASSEMBLY, BODIES, CAR, SLOTS, WALKER, Limbs, Travel
from easi3r_ros.synthetic.random_worlds.dice import Dice
from easi3r_ros.synthetic.random_worlds.families import FAMILIES
from easi3r_ros.synthetic.random_worlds.layout import FLOOR, GROUND, PICTURE, ROAD, Layout
from easi3r_ros.synthetic.random_worlds.lights import random_lights
from easi3r_ros.synthetic.random_worlds.materials import random_materials
from easi3r_ros.synthetic.worlds import FACES, Occluders, Shots, Worlds

STILL_SHARE = 0.4  # of the scenes
_SPARE = 1.7  # candidates per scene that is wanted
_PROBE = (16, 12)  # rays with which candidates are tried
_STILL_SHADOWS = 10  # things of the still world that cast shadows


@dataclass(frozen=True)
class Candidates:
    """B scenes without colours."""

    layout: Layout
    limbs: Limbs
    wears: Tensor  # (B, P) part whose material each part has
    travel: Travel
    body: Tensor  # (B, P) number of the body, BODIES: the world
    part_moves: Tensor  # (B, P) bool
    eye: Tensor  # (B, 3)
    target: Tensor  # (B, 3)
    outdoors: Tensor  # (B,)
    focal: Tensor  # (B,)
    seconds: Tensor  # (B, V)
    world_from_cam: Tensor  # (B, V, 4, 4)

    def __getitem__(self, rows: Tensor) -> Candidates:
        return _rows(self, rows)


def _rows(value, rows: Tensor):
    """The same with some of the scenes only."""
    if isinstance(value, Tensor):
        return value[rows]
    return type(value)(*(_rows(getattr(value, field.name), rows) for field in fields(value)))


@dataclass(frozen=True)
class RandomScenes:
    worlds: Worlds
    focal: Tensor  # (B,) share of the image's width
    seconds: Tensor  # (B, V)
    world_from_cam: Tensor  # (B, V, 4, 4)
    world_from_part: Tensor  # (B, V, P, 4, 4)
    world_from_occluder: Tensor  # (B, V, O, 4, 4)
    moving: Tensor  # (B, P) bool

    def shots(self, K: Tensor) -> Shots:
        """All views, those of a scene one after the other. K: (B, 3, 3)."""
        B, V = self.seconds.shape
        return Shots(
            torch.arange(B).repeat_interleave(V),
            K.repeat_interleave(V, dim=0),
            self.world_from_cam.flatten(0, 1),
            self.world_from_part.flatten(0, 1),
            self.world_from_occluder.flatten(0, 1),
        )


def random_scenes(dice: Dice, scenes: int, views: int, size: tuple[int, int]) -> RandomScenes:
    """`scenes` random scenes with `views` camera poses each; size: (W, H) of the images."""
    count = math.ceil(scenes * _SPARE) + 4
    candidates = _candidates(dice, count, views, size)
    faults = _faults(candidates, size)
    best = torch.sort(faults, stable=True).indices[:scenes]
    chosen = candidates[best.sort().values]
    return _furnished(dice, chosen)


def _candidates(dice: Dice, count: int, views: int, size: tuple[int, int]) -> Candidates:
    family = dice.pick([share for _, share in FAMILIES], count)
    made = [make(dice, int((family == k).sum())) for k, (make, _) in enumerate(FAMILIES) if bool((family == k).any())]
    order = torch.argsort(torch.argsort(family, stable=True), stable=True)  # back from family by family
    still = Layout(*(_padded([getattr(one.layout, f.name) for one in made])[order] for f in fields(Layout)))
    eye, target, outdoors = (
        torch.cat([getattr(one, name) for one in made])[order] for name in ("eye", "target", "outdoors")
    )
    likely = torch.cat([torch.tensor(one.bodies).expand(len(one.eye), 3) for one in made])[order]
    middle = cameras.look_at(eye, target, 0.06 * dice.normal(count))
    focal = cameras.random_focals(dice, count)
    distance = _median_depth(still, middle, focal, size)
    seconds = cameras.random_times(dice, count, views)
    step = (seconds[:, -1:] - seconds[:, :1]) / max(views - 1, 1)
    step = torch.where(step > 0, step, 0.1)
    ways = cameras.random_ways(dice, middle, distance, seconds / step, focal)
    bodies, limbs, wears, travel, exists = _bodies(dice, still, likely, middle, distance, focal, step[:, 0])
    part_exists = exists.repeat_interleave(SLOTS, dim=1)
    bodies = Layout(torch.where(part_exists, bodies.kind, solids.EMPTY), bodies.size, bodies.pose, bodies.style)
    P = still.kind.shape[1]
    stiff = Limbs(torch.zeros(count, P, 3), *(torch.zeros(count, P) for _ in range(3)))
    limbs = Limbs(*(torch.cat([getattr(limbs, f.name), getattr(stiff, f.name)], dim=1) for f in fields(Limbs)))
    world = torch.full((P,), BODIES)
    body = torch.cat([torch.arange(BODIES).repeat_interleave(SLOTS), world]).expand(count, -1)
    wears = torch.cat([wears, BODIES * SLOTS + torch.arange(P).expand(count, -1)], dim=1)
    part_moves = torch.cat(
        [(travel.moves & exists).repeat_interleave(SLOTS, dim=1), torch.zeros(count, P, dtype=torch.bool)], dim=1
    )
    return Candidates(
        Layout.joined([bodies, still]),
        limbs,
        wears,
        travel,
        body,
        part_moves,
        eye,
        target,
        outdoors,
        focal,
        seconds,
        ways,
    )


def _padded(tensors: list[Tensor]) -> Tensor:
    """Concatenated along the scenes, with empty slots up to the longest along the parts."""
    most = max(t.shape[1] for t in tensors)
    padded = []
    for t in tensors:
        filler = torch.zeros((t.shape[0], most - t.shape[1], *t.shape[2:]), dtype=t.dtype)
        if t.dim() == 4:
            filler = filler + torch.eye(4)
        padded.append(torch.cat([t, filler], dim=1))
    return torch.cat(padded)


def _probe_K(focal: Tensor, size: tuple[int, int]) -> Tensor:
    width, height = _PROBE
    K = torch.zeros(len(focal), 3, 3)
    K[:, 0, 0] = focal * width
    K[:, 1, 1] = focal * height * size[0] / size[1]
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = (width - 1) / 2, (height - 1) / 2, 1.0
    return K


def _median_depth(still: Layout, middle: Tensor, focal: Tensor, size: tuple[int, int]) -> Tensor:
    cam_from_part = invert_se3(middle)[:, None] @ still.pose
    depth, _ = first_hits(still.kind, still.size, cam_from_part, _probe_K(focal, size), Grid(*_PROBE))
    depth = torch.where(torch.isinf(depth), torch.nan, depth).flatten(1)
    return depth.nanmedian(dim=1).values.nan_to_num(5.0).clamp(0.3, 25.0)


def _bodies(
    dice: Dice, still: Layout, likely: Tensor, middle: Tensor, distance: Tensor, focal: Tensor, step: Tensor
) -> tuple[Layout, Limbs, Tensor, Travel, Tensor]:
    """Bodies before the camera, the way they go, and which of them exist (B, G)."""
    B, G = len(likely), BODIES
    kinds = torch.searchsorted(likely.cumsum(1), dice.uniform(0, 1, B, G)).clamp_max(2)
    far = distance[:, None] * dice.uniform(0.3, 0.95, B, G)
    angle = dice.uniform(-0.85, 0.85, B, G) * torch.atan(0.5 / focal)[:, None]
    rise = dice.uniform(-0.35, 0.3, B, G)
    ray = torch.stack([torch.tan(angle), rise, torch.ones(B, G)], dim=-1) * far[..., None]
    place = (middle[:, None, :3, :3] @ ray[..., None])[..., 0] + middle[:, None, :3, 3]
    ground = _ground(still, place)
    life_size = (likely[:, 1:2] >= 0.3) | (likely[:, :1] >= 0.3)  # streets, rooms and hills, not heaps of toys
    toy_car, toy_person = far * dice.uniform(0.08, 0.2, B, G), far * dice.uniform(0.15, 0.5, B, G)
    road = (likely[:, :1] < 0.5) & life_size | (likely[:, 1:2] > 0.12)
    scale = torch.where(
        kinds == WALKER, torch.where(life_size, 1.0, toy_person), far * dice.log_uniform(0.05, 0.3, B, G)
    )
    scale = torch.where(kinds == CAR, torch.where(road & life_size, 1.0, toy_car), scale)
    layout, limbs, wears = moving.random_bodies(dice, kinds, scale)
    floating = (kinds == ASSEMBLY) & dice.chance(0.75, B, G)
    height = torch.where(kinds == ASSEMBLY, ground + scale * 0.6, ground)
    place = torch.cat(
        [place[..., :2], torch.where(floating, torch.maximum(place[..., 2], height), height)[..., None]], -1
    )
    per_step = far * dice.log_uniform(0.008, 0.15, B, G)
    free = (kinds == ASSEMBLY).float()
    still_scene = dice.chance(STILL_SHARE, B, 1)
    count = dice.pick([4, 3, 2, 1, 1], B, 1) + 1
    exists = (torch.arange(G) < count) & ~(still_scene & dice.chance(0.4, B, G))
    moves = ~still_scene & (dice.chance(0.8, B, G) | (torch.arange(G) == 0))
    second = step[:, None]
    travel = Travel(
        start=place,
        heading=dice.uniform(-math.pi, math.pi, B, G),
        speed=per_step / second,
        turning=0.07 * dice.normal(B, G) / second,
        climb=free * 0.4 * dice.normal(B, G) * per_step / second,
        spin=(free * dice.chance(0.6, B, G))[..., None]
        * dice.direction(B, G)
        * dice.uniform(0, 0.25, B, G, 1)
        / second[..., None],
        moves=moves,
    )
    limbs = Limbs(limbs.joint, limbs.angle, limbs.frequency * (0.25 / second), limbs.phase)
    return layout, limbs, wears, travel, exists


def _ground(still: Layout, place: Tensor) -> Tensor:
    """(B, G) height of the ground below points (B, G, 3)."""
    hilly = still.kind[:, :1] == solids.TERRAIN
    size = [still.size[:, :1, k] for k in range(4)]
    size[1] = torch.where(hilly, size[1], 1.0)
    return torch.where(hilly, solids.hills(size, place[..., 0], place[..., 1]), 0.0)


def _poses(c: Candidates) -> Tensor:
    """(B, V, P, 4, 4) world_from_part."""
    B, V = c.seconds.shape
    world = torch.eye(4).expand(B, V, 1, 4, 4)
    bodies = torch.cat([c.travel.poses(c.seconds), world], dim=2)
    return moving.poses_of_parts(c.layout, c.limbs, bodies, c.body[0], c.seconds, c.part_moves)


def _faults(c: Candidates, size: tuple[int, int]) -> Tensor:
    """(B,) how much is wrong with each candidate, 0: nothing. Looks at every view with a few rays."""
    B, V = c.seconds.shape
    world_from_part = _poses(c)
    cam_from_part = invert_se3(c.world_from_cam)[:, :, None] @ world_from_part
    K = _probe_K(c.focal, size)
    kind, sizes = (x.repeat_interleave(V, dim=0) for x in (c.layout.kind, c.layout.size))
    depth, part = first_hits(kind, sizes, cam_from_part.flatten(0, 1), K.repeat_interleave(V, dim=0), Grid(*_PROBE))
    depth, part = depth.unflatten(0, (B, V)), part.unflatten(0, (B, V)).long()
    sky = part < 0
    P = kind.shape[1]
    shares = torch.zeros(B, V, P + 1).scatter_add_(2, part.flatten(2) + 1, torch.ones(B, V, sky[0, 0].numel()))
    shares = shares / sky[0, 0].numel()
    finite = torch.where(sky, torch.nan, depth).flatten(1)
    middle = finite.nanmedian(dim=1).values.nan_to_num(0.0)
    seen_moving = (
        (c.part_moves.gather(1, part.clamp_min(0).flatten(1)) & ~sky.flatten(1)).float().view(B, V, -1).mean(-1)
    )
    any_moves = (c.part_moves & (c.layout.kind != solids.EMPTY)).any(1)
    pose = between.carried(
        c.world_from_cam[:, 0], c.world_from_cam[:, -1], world_from_part[:, 0], world_from_part[:, -1]
    )
    uv = between.projected(between.points_carried(depth[:, 0].clamp_max(1e4), part[:, 0], K, pose), K)
    limit = torch.tensor(_PROBE)
    overlap = ((uv > -0.5) & (uv < limit - 0.5)).all(-1).float().mean((1, 2))
    wrong = [
        depth.flatten(1).amin(1) < 0.14 * middle,
        shares[..., 1:].amax(2).amax(1) > 0.85,
        sky.float().mean((2, 3)).amax(1) > 0.5,
        seen_moving.amax(1) > 0.55,
        any_moves & (seen_moving.mean(1) < 0.008),
        overlap < 0.35,
        _camera_stuck(c, cam_from_part),
        middle <= 0,
    ]
    return torch.stack(wrong).float().sum(0)


def _camera_stuck(c: Candidates, cam_from_part: Tensor) -> Tensor:
    """(B,) whether the camera is inside a solid, outside its room or below ground."""
    place = invert_se3(cam_from_part)[..., :3, 3]  # (B, V, P, 3) camera in each part's frame
    kind, half = c.layout.kind[:, None], solids.bounds(c.layout.kind, c.layout.size)[:, None]
    inside = ((place.abs() < 1.05 * half + 0.03).all(-1)) & (kind != solids.EMPTY) & ~torch.isinf(half[..., 0])
    out = (kind == solids.ROOM) & (place.abs() > c.layout.size[:, None, :, :3] - 0.1).any(-1)
    size = [torch.where(c.layout.kind == solids.TERRAIN, c.layout.size[..., k], 1.0)[:, None] for k in range(4)]
    low = (kind == solids.TERRAIN) & (place[..., 2] < solids.hills(size, place[..., 0], place[..., 1]) + 0.25)
    return (inside | out | low).flatten(1).any(1)


def _furnished(dice: Dice, c: Candidates) -> RandomScenes:
    """With materials, light and shadows."""
    B, P = c.layout.kind.shape
    far = torch.linalg.vector_norm(c.target - c.eye, dim=-1)
    small = (far / 3.0).clamp(0.1, 1.0)  # patterns shrink with doll's houses
    style = torch.cat([c.layout.style, torch.zeros(B, FACES - 1, dtype=torch.int64)], dim=1)  # walls of rooms: own rows
    scale = small.repeat_interleave(P + FACES - 1)
    materials = random_materials(dice, style.flatten(), scale)
    first = (torch.arange(B) * (P + FACES - 1))[:, None, None]
    material = (c.wears[..., None] + first).expand(-1, -1, FACES).clone()
    walls = torch.arange(FACES) + torch.where(torch.arange(FACES) > 0, P - 1, BODIES * SLOTS)
    rooms = (c.layout.kind == solids.ROOM)[..., None]
    material = torch.where(rooms, first + walls, material)
    ceiling = torch.where(rooms[..., 0], 2 * c.layout.size[..., 2], 0.0).amax(1)
    ceiling = torch.where(ceiling > 0, ceiling, torch.inf)
    lights = random_lights(dice, c.eye, c.target, c.outdoors, ceiling)
    world_from_part = _poses(c)
    group = torch.where(c.body < BODIES, c.body, BODIES + torch.arange(P))
    occluders, of_part = _occluders(c, group)
    V = c.seconds.shape[1]
    world_from_occluder = world_from_part.gather(2, of_part[:, None, :, None, None].expand(-1, V, -1, 4, 4))
    worlds = Worlds(c.layout.kind, c.layout.size, group, material, materials, occluders, lights, patterns.library())
    return RandomScenes(
        worlds, c.focal, c.seconds, c.world_from_cam, world_from_part, world_from_occluder, c.part_moves
    )


def _occluders(c: Candidates, group: Tensor) -> tuple[Occluders, Tensor]:
    """The largest parts of each body, the things that look largest from the camera, and (B, O) which parts those are."""
    B, P = c.layout.kind.shape
    half = solids.bounds(c.layout.kind, c.layout.size)
    away = torch.linalg.vector_norm(c.layout.pose[..., :3, 3] - c.eye[:, None], dim=-1)
    flat = torch.zeros(B, P, dtype=torch.bool)
    for style in (GROUND, FLOOR, ROAD, PICTURE):
        flat |= c.layout.style == style
    useful = (c.layout.kind != solids.EMPTY) & ~torch.isinf(half[..., 0]) & ~flat
    score = torch.where(useful, half.amax(-1).clamp_max(5) / away.clamp_min(0.3), -1.0)
    score[:, : BODIES * SLOTS] = -1.0
    still = score.topk(_STILL_SHADOWS, dim=1).indices
    body = torch.arange(BODIES) * SLOTS
    # Torso and legs of a person; body and cabin of a car; the first two solids of an assembly.
    of_part = torch.cat([body.expand(B, -1), (body + 1).expand(B, -1), still], dim=1)
    exists = c.layout.kind.gather(1, of_part) != solids.EMPTY
    half = half.gather(1, of_part[..., None].expand(-1, -1, 3)) * exists[..., None]
    half = torch.where(torch.isinf(half), 0.0, half)
    kind = c.layout.kind.gather(1, of_part)
    box = (kind == solids.BOX) | (kind == solids.PRISM) | (kind == solids.CYLINDER)
    return Occluders(half, box, group.gather(1, of_part)), of_part
