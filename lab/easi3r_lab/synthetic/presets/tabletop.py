"""A laid table from close by: two things are pushed about among many that stand still."""

from __future__ import annotations

import numpy as np

from easi3r_lab.synthetic.motions import Attached, EllipseWalk, Fixed, Handheld, hand_waves, pose
from easi3r_lab.synthetic.presets import props
from easi3r_lab.synthetic.scene import Box, Cylinder, Ellipsoid, Light, Occluder, Part, Scene, SceneCamera, SceneObject
from easi3r_lab.synthetic.textures import fabric, poster, speckle

TOP = 0.75  # height of the table, metres
ARM_SPEED = 0.22  # of the camera, metres per second
LONGEST_WAY = 4.0  # seconds; in longer clips the camera goes to and fro


def tabletop(rng: np.random.Generator, duration: float) -> Scene:
    """A toy car drives loops and a ball is pushed about on a table, 0.8 m from the camera."""
    still = (
        props.room(rng, (2.5, 2.5, 1.3), props.tiled_floor(rng)),
        props.table(rng, (0.0, 0.0, 0.0), 0.6, 0.9, TOP),
        props.picture(rng, "print", (2.47, 0.3, 1.3), 1.4, 1.0, np.pi),
        props.bookshelf(rng, (2.3, -1.6, 0.0), np.pi),
        *_crockery(rng),
    )
    return Scene((*still, _toy_car(rng), _ball(rng)), _camera(rng, duration), Light((-0.6, 0.8, 2.2), reach=2.0))


def _camera(rng: np.random.Generator, duration: float) -> SceneCamera:
    side = rng.choice([-1.0, 1.0])
    one_way = min(duration, LONGEST_WAY)
    travel = ARM_SPEED * one_way * np.array([0.1, side, 0.1])
    path = Handheld(
        start=tuple(np.array([-0.95, 0.0, 1.22]) - travel / 2),
        travel=tuple(travel),
        arc=(0.06, 0.0, 0.02),
        gaze_start=(0.1, 0.0, TOP),
        gaze_end=(0.1, 0.0, TOP),
        duration=one_way,
        returns=duration > LONGEST_WAY,
        sway=0.004,
        shake=0.005,
        waves=hand_waves(rng),
    )
    return SceneCamera(path)


def _crockery(rng: np.random.Generator) -> tuple[SceneObject, ...]:
    things = [
        props.block("book", (0.11, 0.16, 0.02), (-0.30, 0.48, TOP), (poster(rng, metres=0.3),), 0.4),
        props.block("second book", (0.10, 0.14, 0.025), (-0.29, 0.47, TOP + 0.04), (poster(rng, metres=0.3),), -0.1),
        props.block("cereals", (0.04, 0.10, 0.15), (0.38, 0.32, TOP), (poster(rng, metres=0.3),), 0.3),
        props.block("tea", (0.05, 0.07, 0.06), (0.42, -0.45, TOP), (poster(rng, metres=0.2),), -0.5),
    ]
    for name, at, thickness, height in (
        ("mug", (-0.25, -0.52), 0.045, 0.10),
        ("tin", (0.36, -0.08), 0.055, 0.15),
        ("jar", (0.28, 0.68), 0.06, 0.12),
    ):
        paint = fabric(rng, rng.uniform(0.05, 0.8, (3, 3)).tolist(), metres=0.16)
        centre = Fixed(pose((*at, TOP + height / 2)))
        shadow = Occluder((1.2 * thickness, 1.2 * thickness, 0.6 * height), centre)
        things.append(SceneObject(name, (Part(Cylinder(thickness, height / 2), (paint,), centre),), occluder=shadow))
    return tuple(things)


def _toy_car(rng: np.random.Generator) -> SceneObject:
    speed = 0.32 * rng.choice([-1, 1])
    drive = EllipseWalk((0.02, 0.08, TOP), (0.16, 0.34), 0.1, speed, rng.uniform(0, 2 * np.pi))
    paint, roof = (
        fabric(rng, [(0.75, 0.08, 0.05), (0.85, 0.70, 0.10)], metres=0.15),
        speckle(rng, (0.1, 0.2, 0.5), metres=0.1),
    )
    rubber = speckle(rng, (0.03, 0.03, 0.03), 0.4, metres=0.1)
    parts = [
        Part(Box((0.11, 0.055, 0.03)), (paint,), Attached(drive, pose((0, 0, 0.055)))),
        Part(Box((0.055, 0.048, 0.03)), (roof,), Attached(drive, pose((-0.015, 0, 0.115)))),
    ]
    for x in (-0.065, 0.065):
        for y in (-0.06, 0.06):
            wheel = Attached(drive, pose((x, y, 0.03), roll=np.pi / 2))
            parts.append(Part(Cylinder(0.03, 0.012), (rubber,), wheel))
    return SceneObject("toy car", tuple(parts), True, Occluder((0.13, 0.07, 0.06), Attached(drive, pose((0, 0, 0.06)))))


def _ball(rng: np.random.Generator) -> SceneObject:
    radius = 0.07
    centre, speed = (-0.22, -0.05, TOP + radius), 0.26 * rng.choice([-1, 1])
    slide = EllipseWalk(centre, (0.10, 0.36), -0.1, speed, rng.uniform(0, 2 * np.pi))
    cloth = fabric(rng, [(0.85, 0.80, 0.70), (0.10, 0.25, 0.60), (0.80, 0.35, 0.05)], metres=0.2)
    part = Part(Ellipsoid((radius,) * 3), (cloth,), slide)
    return SceneObject("ball", (part,), True, Occluder((1.05 * radius,) * 3, slide))
