"""What may move in random scenes: walking people, cars and assembled things, where they are put and how they go.

A body has a frame of its own that travels; its parts are fixed in it or swing about a joint. Whether it travels is
drawn per body: in a still scene the same people and cars stand still.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.random_worlds.backdrop import StillWorlds
from easi3r_lab.synthetic.random_worlds.layout import (
    CLOTH,
    METAL,
    SKIN,
    THING,
    Dice,
    RoomLayout,
    only,
    random_things,
    rigid,
    scaled,
    solids_of,
    turn_by,
    turn_y,
    turn_z,
)

BODIES = 5  # most that one scene has
SLOTS = 12  # parts of a body
WALKER, CAR, ASSEMBLY = range(3)


@dataclass(frozen=True)
class Limbs:
    """How each part swings in its body's frame: (B, P, ...)."""

    joint: Tensor  # (B, P, 3) metres
    angle: Tensor  # (B, P) amplitude in radians about the y axis
    frequency: Tensor  # (B, P) Hz
    phase: Tensor  # (B, P)


@dataclass(frozen=True)
class Travel:
    """Where each of G bodies is: (B, G, ...) with speeds in metres and radians per second."""

    start: Tensor  # (B, G, 3)
    heading: Tensor  # (B, G)
    speed: Tensor  # (B, G) along the heading
    turning: Tensor  # (B, G) yaw rate
    climb: Tensor  # (B, G) along z
    spin: Tensor  # (B, G, 3) rotation vector per second, after the heading
    moves: Tensor  # (B, G) bool

    def poses(self, seconds: Tensor) -> Tensor:
        """(B, V, G, 4, 4) world_from_body. seconds: (B, V)."""
        t = torch.where(self.moves[:, None], seconds[..., None], 0.0)  # (B, V, G)
        turning = torch.where(self.turning.abs() < 1e-3, 1e-3, self.turning)[:, None]
        heading = self.heading[:, None] + turning * t
        radius = self.speed[:, None] / turning
        x = radius * (torch.sin(heading) - torch.sin(self.heading[:, None]))
        y = radius * (torch.cos(self.heading[:, None]) - torch.cos(heading))
        place = self.start[:, None] + torch.stack([x, y, self.climb[:, None] * t], dim=-1)
        return rigid(turn_z(heading) @ turn_by(self.spin[:, None] * t[..., None]), place)


def poses_of_parts(
    layout: RoomLayout, limbs: Limbs, bodies: Tensor, body: Tensor, seconds: Tensor, moves: Tensor
) -> Tensor:
    """(B, V, P, 4, 4) world_from_part.

    bodies: (B, V, G + 1, 4, 4) world_from_body, the last one the world itself; body: (P,) whose each part is;
    seconds: (B, V); moves: (B, P) bool, whether limbs swing.
    """
    t = torch.where(moves[:, None], seconds[..., None], 0.0)
    swing = limbs.angle[:, None] * torch.sin(2 * math.pi * limbs.frequency[:, None] * t + limbs.phase[:, None])
    joint = rigid(turn_y(swing), limbs.joint[:, None].expand(*swing.shape, 3))
    return bodies[:, :, body] @ joint @ layout.pose[:, None]


def random_bodies(dice: Dice, kinds: Tensor, scale: Tensor) -> tuple[RoomLayout, Limbs, Tensor]:
    """Parts of G bodies per scene, body after body, SLOTS each; how they swing; (B, P) slot whose material each wears.

    kinds: (B, G) of WALKER, CAR, ASSEMBLY; scale: (B, G), 1: life-size; of an assembly: metres.
    """
    B, G = kinds.shape
    made = [_walker(dice, B * G), _car(dice, B * G), _assembly(dice, B * G)]
    chosen = kinds.flatten()[:, None]  # (B * G, 1)

    def choose(values: list[Tensor]) -> Tensor:
        stacked = torch.stack(values, dim=1)  # (B * G, 3, SLOTS, ...)
        picked = stacked[torch.arange(B * G)[:, None], chosen]  # (B * G, 1, SLOTS, ...)
        return picked.reshape(B, G * SLOTS, *stacked.shape[3:])

    layout = RoomLayout(*(choose([getattr(m[0], f.name) for m in made]) for f in fields(RoomLayout)))
    limbs = Limbs(*(choose([getattr(m[1], f.name) for m in made]) for f in fields(Limbs)))
    wears = choose([m[2] for m in made]) + SLOTS * (torch.arange(G * SLOTS) // SLOTS)
    s = scale.repeat_interleave(SLOTS, dim=1)  # (B, P)
    pose = layout.pose.clone()
    pose[..., :3, 3] *= s[..., None]
    layout = RoomLayout(layout.kind, scaled(layout.kind, layout.size, s), pose, layout.style)
    return layout, Limbs(limbs.joint * s[..., None], limbs.angle, limbs.frequency, limbs.phase), wears


def _rows(n: int, *values: float) -> Tensor:
    """(n, len(values)), the same in every row."""
    return torch.tensor(values).expand(n, -1)


def _walker(dice: Dice, n: int) -> tuple[RoomLayout, Limbs, Tensor]:
    """A person of about 1.75 m; the origin is on the floor between the feet."""
    wide, tall = dice.uniform(0.85, 1.2, n, 1), dice.uniform(0.9, 1.08, n, 1)
    E, C = solids.ELLIPSOID, solids.CAPSULE
    #         torso hips  head  hair   legs         feet         arms          hands
    kind = torch.tensor([[E, E, E, E, C, C, E, E, C, C, E, E]]).expand(n, -1)
    a = _rows(n, 0.13, 0.12, 0.10, 0.105, 0.08, 0.08, 0.14, 0.14, 0.055, 0.055, 0.055, 0.055)
    b = _rows(n, 0.21, 0.17, 0.085, 0.095, 0.35, 0.35, 0.055, 0.055, 0.24, 0.24, 0.035, 0.035)
    c = _rows(n, 0.33, 0.16, 0.125, 0.09, 0, 0, 0.05, 0.05, 0, 0, 0.09, 0.09)
    stretched = torch.where(kind == C, 1.0, wide)
    size = [a * wide, b * torch.where(kind == C, tall, stretched), c * tall]
    z = _rows(n, 1.17, 0.92, 1.60, 1.67, -0.40, -0.40, -0.83, -0.83, -0.25, -0.25, -0.62, -0.62)
    x = _rows(n, 0, 0, 0, -0.02, 0, 0, 0.06, 0.06, 0, 0, 0, 0)
    style = torch.tensor([CLOTH, CLOTH, SKIN, SKIN, CLOTH, CLOTH, THING, THING, CLOTH, CLOTH, SKIN, SKIN])
    layout = solids_of(kind, size, [x, torch.zeros(n, 12), z * tall], None, style.expand(n, -1))
    side = _rows(n, 0, 0, 0, 0, 0.10, -0.10, 0.10, -0.10, 0.23, -0.23, 0.23, -0.23) * wide
    hinge = _rows(n, 0, 0, 0, 0, 0.88, 0.88, 0.88, 0.88, 1.40, 1.40, 1.40, 1.40) * tall
    step = dice.uniform(0, 2 * math.pi, n, 1) + _rows(n, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 1, 0) * math.pi
    swing = dice.uniform(0.2, 0.6, n, 1) * _rows(n, 0, 0, 0, 0, 1, 1, 1, 1, 1.2, 1.2, 1.2, 1.2)
    joint = torch.stack([torch.zeros(n, 12), side, hinge], dim=-1)
    limbs = Limbs(joint, swing, dice.uniform(0.6, 1.2, n, 1).expand(n, 12), step)
    return layout, limbs, torch.tensor([0, 1, 2, 3, 1, 1, 6, 6, 0, 0, 2, 2]).expand(n, -1)


def _car(dice: Dice, n: int) -> tuple[RoomLayout, Limbs, Tensor]:
    """A car of about 4 m, the origin on the road below its middle: body, cabin, wheels, lights."""
    half, wide, height = dice.uniform(1.7, 2.4, n, 1), dice.uniform(0.8, 1.0, n, 1), dice.uniform(0.3, 0.55, n, 1)
    body = solids_of(solids.BOX, [half, wide, height], [0 * half, 0.0, height + 0.28], None, METAL)
    roof = dice.uniform(0.25, 0.5, n, 1)
    taper = dice.uniform(0.1, 0.5, n, 1)
    cabin = solids_of(
        solids.PRISM, [4.0, 0.85 * wide, roof, taper], [-0.2 * half, 0.0, 2 * height + 0.28 + roof], None, METAL
    )
    radius = dice.uniform(0.28, 0.38, n, 1)
    axles, sides = torch.tensor([[-0.62, -0.62, 0.62, 0.62]]), torch.tensor([[-1.0, 1.0, -1.0, 1.0]])
    upright = turn_by(torch.tensor([math.pi / 2, 0.0, 0.0]))
    wheels = solids_of(solids.CYLINDER, [radius, 0.12], [axles * half, sides * (wide - 0.06), radius], upright, THING)
    ends = half * torch.tensor([[1.0, 1, -1, -1]])
    lights = solids_of(solids.BOX, [0.03, 0.14, 0.09], [ends, sides * 0.7 * wide, height + 0.4], None, THING)
    plates = solids_of(solids.BOX, [0.02, 0.26, 0.08], [half * torch.tensor([[1.0, -1]]), 0.0, 0.5], None, THING)
    return RoomLayout.joined([body, cabin, wheels, lights, plates]), _stiff(n), torch.arange(12).expand(n, -1)


def _assembly(dice: Dice, n: int) -> tuple[RoomLayout, Limbs, Tensor]:
    """Up to four solids stuck together, within about one metre of the origin; some with a part that swings."""
    kind, size, style = random_things(dice, (n, SLOTS), 0.25, 0.9)
    count = dice.pick([3, 3, 2, 1], n, 1) + 1
    offset = 0.55 * dice.normal(n, SLOTS, 3) * (torch.arange(SLOTS) > 0)[:, None]
    layout = solids_of(
        kind, list(size.unbind(-1)), list(offset.unbind(-1)), turn_by(math.pi * dice.normal(n, SLOTS, 3)), style
    )
    layout = only(layout, torch.arange(SLOTS) < count)
    swings = dice.chance(0.3, n, 1) & (torch.arange(SLOTS) > 0)
    limbs = _stiff(n)
    angle = torch.where(swings, dice.uniform(0.2, 0.7, n, 1), 0.0).expand(n, SLOTS)
    limbs = Limbs(limbs.joint, angle, dice.uniform(0.3, 1.0, n, 1).expand(n, SLOTS), limbs.phase)
    return layout, limbs, torch.arange(12).expand(n, -1)


def _stiff(n: int) -> Limbs:
    zeros = torch.zeros(n, SLOTS)
    return Limbs(torch.zeros(n, SLOTS, 3), zeros, zeros, zeros)


STILL_SHARE = 0.4  # of the scenes


@dataclass(frozen=True)
class PlacedBodies:
    layout: RoomLayout
    limbs: Limbs
    wears: Tensor  # (B, G * SLOTS) slot whose material each part has
    travel: Travel
    moves: Tensor  # (B, G) bool: exists and moves


def place_bodies(
    dice: Dice, still: StillWorlds, middle: Tensor, distance: Tensor, focal: Tensor, step: Tensor
) -> PlacedBodies:
    """middle: (B, 4, 4) world_from_cam half way; distance: (B,) median depth; focal: (B,) share of the width;
    step: (B,) mean seconds between views."""
    B, G = len(distance), BODIES
    kinds = torch.searchsorted(still.bodies.cumsum(1), dice.uniform(0, 1, B, G)).clamp_max(ASSEMBLY)
    far = distance[:, None] * dice.uniform(0.3, 0.95, B, G)
    before_camera = _before_camera(dice, middle, far, focal)
    scale = _scale(dice, still, kinds, far)
    layout, limbs, wears = random_bodies(dice, kinds, scale)
    start = _on_ground_or_floating(dice, before_camera, still.ground(before_camera), kinds, scale)
    per_step = far * dice.log_uniform(0.008, 0.15, B, G)
    still_scene = dice.chance(STILL_SHARE, B, 1)
    count = dice.pick([4, 3, 2, 1, 1], B, 1) + 1
    # People and cars stand about in still scenes too: what something is must not tell whether it moves.
    exists = (torch.arange(G) < count) & ~(still_scene & dice.chance(0.4, B, G))
    moves = ~still_scene & (dice.chance(0.8, B, G) | (torch.arange(G) == 0))
    travel = _travel(dice, start, kinds == ASSEMBLY, per_step, moves, step[:, None])
    limbs = Limbs(limbs.joint, limbs.angle, limbs.frequency * (0.25 / step[:, None]), limbs.phase)
    return PlacedBodies(only(layout, exists.repeat_interleave(SLOTS, dim=1)), limbs, wears, travel, moves & exists)


def _before_camera(dice: Dice, middle: Tensor, far: Tensor, focal: Tensor) -> Tensor:
    """(B, G, 3) points in the world that the middle camera sees, `far` (B, G) metres ahead."""
    B, G = far.shape
    angle = dice.uniform(-0.85, 0.85, B, G) * torch.atan(0.5 / focal)[:, None]
    ray = torch.stack([torch.tan(angle), dice.uniform(-0.35, 0.3, B, G), torch.ones(B, G)], dim=-1)
    return (middle[:, None, :3, :3] @ (ray * far[..., None])[..., None])[..., 0] + middle[:, None, :3, 3]


def _scale(dice: Dice, still: StillWorlds, kinds: Tensor, far: Tensor) -> Tensor:
    """(B, G) as `random_bodies` wants it."""
    B, G = far.shape
    toy_car, toy_person = far * dice.uniform(0.08, 0.2, B, G), far * dice.uniform(0.15, 0.5, B, G)
    assembly = far * dice.log_uniform(0.05, 0.3, B, G)
    people, cars = still.life_size[:, :1], still.life_size[:, 1:]
    scale = torch.where(kinds == WALKER, torch.where(people, 1.0, toy_person), assembly)
    return torch.where(kinds == CAR, torch.where(cars, 1.0, toy_car), scale)


def _on_ground_or_floating(dice: Dice, place: Tensor, ground: Tensor, kinds: Tensor, scale: Tensor) -> Tensor:
    """(B, G, 3) places with their heights: only assemblies may float."""
    floating = (kinds == ASSEMBLY) & dice.chance(0.75, *kinds.shape)
    resting = torch.where(kinds == ASSEMBLY, ground + scale * 0.6, ground)
    height = torch.where(floating, torch.maximum(place[..., 2], resting), resting)
    return torch.cat([place[..., :2], height[..., None]], dim=-1)


def _travel(dice: Dice, start: Tensor, free: Tensor, per_step: Tensor, moves: Tensor, second: Tensor) -> Travel:
    """free: (B, G) bool, may also climb and tumble; per_step: (B, G) metres between views; second: (B, 1) the same."""
    B, G = per_step.shape
    heading, turning = dice.uniform(-math.pi, math.pi, B, G), 0.07 * dice.normal(B, G)
    climb = 0.4 * free * dice.normal(B, G) * per_step
    spins = free & dice.chance(0.6, B, G)
    spin = spins[..., None] * dice.direction(B, G) * dice.uniform(0, 0.25, B, G, 1)
    return Travel(start, heading, per_step / second, turning / second, climb / second, spin / second[..., None], moves)
