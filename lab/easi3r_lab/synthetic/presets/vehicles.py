"""Cars."""

from __future__ import annotations

import numpy as np

from easi3r_lab.synthetic.motions import Attached, pose
from easi3r_lab.synthetic.scene import Motion, Occluder, Part, SceneObject
from easi3r_lab.synthetic.shapes import Box, Cylinder, Prism
from easi3r_lab.synthetic.textures import fabric, poster, speckle

PAINTS = ((0.55, 0.04, 0.03), (0.05, 0.12, 0.40), (0.62, 0.62, 0.60), (0.06, 0.06, 0.07), (0.70, 0.45, 0.05))


def car(rng: np.random.Generator, name: str, drive: Motion, moving: bool = True) -> SceneObject:
    """A car or a van of about 4 m on `drive`, whose origin is on the road below its middle; it faces its +x."""
    half, wide, high = rng.uniform(1.8, 2.2), rng.uniform(0.82, 0.92), rng.uniform(0.34, 0.45)
    paint = speckle(rng, PAINTS[rng.integers(len(PAINTS))], 0.25, metres=2.5)
    glass = fabric(rng, [(0.05, 0.06, 0.08), (0.12, 0.15, 0.18), (0.25, 0.28, 0.30)], metres=1.2)
    rubber, lamps = speckle(rng, (0.03, 0.03, 0.03), 0.5, metres=0.5), speckle(rng, (0.85, 0.80, 0.60), 0.2)
    sticker = poster(rng, metres=1.6)
    van = rng.random() < 0.3
    body, floor = Box((half, wide, high + 0.45 if van else high)), 0.25
    side = sticker if van else paint
    parts = [Part(body, (paint, paint, side, side, paint, paint), _at(drive, 0, 0, floor + body.half[2]))]
    top = floor + 2 * body.half[2]
    cabin = Prism(4, 0.88 * wide, 0.14 if van else 0.28, 0.35)
    for x in (-0.9, 0.15) if not van else (half - 1.2,):
        parts.append(Part(cabin, (glass, paint), _at(drive, x, 0, top + cabin.half_length)))
    for x in (-0.62 * half, 0.62 * half):
        for y in (-wide + 0.05, wide - 0.05):
            parts.append(Part(Cylinder(0.32, 0.11), (rubber,), Attached(drive, pose((x, y, 0.32), roll=np.pi / 2))))
    for x in (-half, half):
        for y in (-0.7 * wide, 0.7 * wide):
            parts.append(Part(Box((0.02, 0.16, 0.08)), (lamps,), _at(drive, x, y, floor + 0.45)))
    shadow = Occluder((half, wide, body.half[2] + 0.15), _at(drive, 0, 0, floor + body.half[2] + 0.1), box=True)
    return SceneObject(name, tuple(parts), moving, shadow)


def _at(drive: Motion, x: float, y: float, z: float) -> Attached:
    return Attached(drive, pose((x, y, z)))
