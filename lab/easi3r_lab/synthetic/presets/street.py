"""A crossing in a town under the open sky, seen from the pavement or from a car; other cars cross and come."""

from __future__ import annotations

import numpy as np

from easi3r_lab.synthetic.motions import Fixed, Handheld, Shuttle, hand_waves, pose
from easi3r_lab.synthetic.presets.props import car
from easi3r_lab.synthetic.scene import (
    Box,
    Cylinder,
    Ellipsoid,
    Occluder,
    Part,
    Prism,
    Scene,
    SceneCamera,
    SceneObject,
    Sky,
)
from easi3r_lab.synthetic.textures import bricks, facade, plaster, poster, speckle, tiles

ROAD = 3.4  # half width, metres
PAVEMENT = 2.4  # width, metres
CROSSING = (9.0, 15.0)  # where the other road runs, x in metres
LONGEST_WAY = 4.0  # seconds; in longer clips the camera goes to and fro
WALLS = ((0.55, 0.50, 0.40), (0.50, 0.34, 0.26), (0.45, 0.50, 0.52), (0.62, 0.58, 0.55), (0.40, 0.30, 0.24))


def traffic(rng: np.random.Generator, duration: float) -> Scene:
    """One car drives ahead, or two cross, or a third comes too; the camera walks or drives on the right."""
    town = (*_ground(rng), *_houses(rng), *_trees(rng), *_signs(rng), *_parked(rng))
    sun = np.array([rng.uniform(-0.8, 0.2), rng.choice([-1, 1]) * rng.uniform(0.3, 0.9), rng.uniform(0.7, 1.2)])
    sky = Sky(sun=tuple(sun / np.linalg.norm(sun)), clouds=rng.uniform(0.3, 1.0))
    return Scene((*town, *_cars(rng)), _camera(rng, duration), sky)


def _camera(rng: np.random.Generator, duration: float) -> SceneCamera:
    one_way = min(duration, LONGEST_WAY)
    walking = rng.random() < 0.5
    speed, height, side = (1.2, 1.55, rng.uniform(-2.4, -1.0)) if walking else (2.5, 1.25, -1.6)
    travel = np.array([speed * one_way, rng.uniform(-0.4, 0.4) if walking else 0.0, 0.0])
    path = Handheld(
        start=(-1.0 if walking else -3.5, side, height),
        travel=tuple(travel),
        arc=(0.0, 0.15, 0.0),
        gaze_start=(14.0, 0.3 * side, 1.2),
        gaze_end=(18.0, -0.3 * side, 1.3),
        duration=one_way,
        returns=duration > LONGEST_WAY,
        sway=0.015 if walking else 0.006,
        shake=0.008 if walking else 0.004,
        waves=hand_waves(rng),
    )
    return SceneCamera(path)


def _cars(rng: np.random.Generator) -> list[SceneObject]:
    speed, phase = rng.uniform(3.5, 6.0), rng.uniform(0.2, 0.4)
    # A crossing car is before the camera for about half of its line: two of them take turns.
    crossing = [
        Shuttle((CROSSING[0] + 1.5, -14.0, 0.0), np.pi / 2, speed, 28.0, phase),
        Shuttle((CROSSING[1] - 1.5, 14.0, 0.0), -np.pi / 2, speed, 28.0, phase + rng.uniform(0.4, 0.6)),
    ]
    # After some 20 s it is behind the last house for good: from behind, it would come through the camera.
    ahead = Shuttle((rng.uniform(5.0, 8.0), -1.7, 0.0), 0.0, rng.uniform(3.0, 4.0), 1e4, 0.0)
    # Out of the last house, past the camera on its left.
    coming = Shuttle((80.0, 1.7, 0.0), np.pi, rng.uniform(5.0, 8.0), 95.0, rng.uniform(0.45, 0.6))
    lines = ([ahead], crossing, [*crossing, coming])[rng.integers(3)]
    return [car(rng, f"car {number}", line) for number, line in enumerate(lines, start=1)]


def _ground(rng: np.random.Generator) -> tuple[SceneObject, ...]:
    asphalt = plaster(rng, (0.15, 0.15, 0.16), contrast=0.3, metres=5.0)
    stones = tiles(rng, (0.44, 0.42, 0.40), (0.33, 0.32, 0.31), metres=2.4)
    paint = speckle(rng, (0.75, 0.75, 0.72), 0.2)
    slab = SceneObject("asphalt", (Part(Box((120.0, 120.0, 0.5)), (asphalt,), Fixed(pose((20.0, 0.0, -0.5)))),))
    objects = [slab]
    for side in (-1, 1):
        for first, last in ((-30.0, CROSSING[0] - 1), (CROSSING[1] + 1, 90.0)):
            half = ((last - first) / 2, 20.0, 0.07)
            centre = ((first + last) / 2, side * (ROAD + half[1]), 0.0)
            objects.append(SceneObject("pavement", (Part(Box(half), (stones,), Fixed(pose(centre))),)))
    for x in (*np.arange(-6, CROSSING[0] - 1, 3.0), *np.arange(CROSSING[1] + 2, 60, 3.0)):
        objects.append(SceneObject("stripe", (Part(Box((0.75, 0.07, 0.004)), (paint,), Fixed(pose((x, 0, 0.0)))),)))
    return tuple(objects)


def _houses(rng: np.random.Generator) -> list[SceneObject]:
    houses = []
    for side in (-1, 1):
        x = -16.0
        while x < 60:
            length, depth, height = rng.uniform(3.5, 6.5), rng.uniform(4, 6), rng.uniform(2.6, 6.5)
            if x < CROSSING[1] + 1.5 and x + 2 * length > CROSSING[0] - 1.5:
                x = CROSSING[1] + 1.5
            at = (x + length, side * (ROAD + PAVEMENT + depth), 0.0)
            houses.append(_house(rng, (length, depth, height), at))
            x += 2 * length + rng.choice([0.0, 0.0, rng.uniform(1, 4)])
    houses.append(_house(rng, (4.0, 14.0, 7.0), (78.0, 0.0, 0.0)))
    return houses


def _house(rng: np.random.Generator, half: tuple[float, float, float], at: tuple[float, float, float]) -> SceneObject:
    colour = WALLS[rng.integers(len(WALLS))]
    front = facade(rng, colour, metres=rng.uniform(5.0, 7.5))
    side = bricks(rng, colour, side=512) if rng.random() < 0.4 else front
    roof = speckle(rng, (0.30, 0.13, 0.09), 0.3, metres=2.0)
    walls = Part(Box(half), (side, side, front, front, roof, roof), Fixed(pose((*at[:2], half[2]))))
    parts = [walls]
    if rng.random() < 0.5:
        apothem = min(half[0], half[1])
        top = Prism(4, apothem, 0.8, 0.5 * apothem)
        parts.append(Part(top, (roof,), Fixed(pose((*at[:2], 2 * half[2] + 0.8)))))
    return SceneObject("house", tuple(parts), occluder=Occluder(half, Fixed(pose((*at[:2], half[2]))), box=True))


def _trees(rng: np.random.Generator) -> list[SceneObject]:
    bark, leaves = speckle(rng, (0.16, 0.10, 0.06), 0.4), speckle(rng, (0.10, 0.22, 0.06), 0.6, metres=1.2)
    trees = []
    for x, side in ((5.0, 1), (7.2, -1), (19.0, 1), (21.0, -1), (28.0, 1), (33.0, -1)):
        foot, size = (x, side * (ROAD + 0.6), 0.0), rng.uniform(0.8, 1.3)
        crown = Fixed(pose((foot[0], foot[1], 3.3)))
        parts = (
            Part(Cylinder(0.13, 1.4), (bark,), Fixed(pose((foot[0], foot[1], 1.4)))),
            Part(Ellipsoid((size, size, 1.2 * size)), (leaves,), crown),
            Part(Ellipsoid((0.7 * size,) * 3), (leaves,), Fixed(pose((foot[0] + 0.5, foot[1] - 0.4, 2.9)))),
        )
        trees.append(SceneObject("tree", parts, occluder=Occluder((size, size, 1.2 * size), crown)))
    return trees


def _signs(rng: np.random.Generator) -> list[SceneObject]:
    metal = speckle(rng, (0.35, 0.36, 0.38), 0.15)
    signs = []
    for x, side in ((3.0, -1), (8.0, 1), (16.8, -1), (17.2, 1), (24.0, 1)):
        y = side * (ROAD + 0.5)
        pole = Part(Cylinder(0.04, 1.35), (metal,), Fixed(pose((x, y, 1.35))))
        plate = Part(Box((0.02, 0.4, 0.3)), (poster(rng, metres=0.8),), Fixed(pose((x - 0.05, y, 2.4))))
        signs.append(SceneObject("sign", (pole, plate)))
    return signs


def _parked(rng: np.random.Generator) -> list[SceneObject]:
    """They look like those that drive."""
    places = [(4.5, 1), (20.5, -1), (26.0, 1)]
    return [
        car(rng, "parked car", Fixed(pose((x, side * (ROAD - 1.0), 0.0), np.pi if side > 0 else 0.0)), moving=False)
        for x, side in places
        if rng.random() < 0.8
    ]
