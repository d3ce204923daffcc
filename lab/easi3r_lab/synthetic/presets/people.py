"""A walking person built of capsules and ellipsoids."""

from __future__ import annotations

import numpy as np

from easi3r_lab.synthetic.motions import Attached, EllipseWalk, Swing, pose
from easi3r_lab.synthetic.scene import Occluder, Part, SceneObject
from easi3r_lab.synthetic.shapes import Capsule, Ellipsoid
from easi3r_lab.synthetic.textures import fabric, speckle

SKIN = ((0.62, 0.38, 0.26), (0.45, 0.26, 0.16), (0.22, 0.12, 0.07))
CLOTHES = (
    ((0.70, 0.08, 0.06), (0.85, 0.75, 0.60), (0.12, 0.05, 0.05)),
    ((0.06, 0.16, 0.50), (0.65, 0.70, 0.80), (0.04, 0.06, 0.14)),
    ((0.80, 0.55, 0.08), (0.25, 0.16, 0.06), (0.90, 0.85, 0.70)),
    ((0.08, 0.32, 0.14), (0.75, 0.80, 0.55), (0.03, 0.10, 0.06)),
    ((0.45, 0.10, 0.42), (0.80, 0.70, 0.78), (0.12, 0.04, 0.14)),
)
TROUSERS = ((0.05, 0.08, 0.17), (0.10, 0.09, 0.08), (0.22, 0.17, 0.11))


def walker(rng: np.random.Generator, name: str, walk: EllipseWalk) -> SceneObject:
    """A person of about 1.75 m on `walk`, whose origin is on the floor between the feet."""
    shirt = fabric(rng, CLOTHES[rng.integers(len(CLOTHES))])
    trousers = fabric(rng, [TROUSERS[rng.integers(len(TROUSERS))], (0.16, 0.18, 0.24)], metres=0.4)
    shoes = speckle(rng, (0.05, 0.04, 0.04), 0.3)
    skin, hair = speckle(rng, SKIN[rng.integers(len(SKIN))], 0.16), speckle(rng, (0.07, 0.04, 0.02), 0.4)
    stride, phase = walk.step_frequency / 2, rng.uniform(0, 2 * np.pi)  # one leg makes every second step
    parts = [
        Part(Ellipsoid((0.13, 0.21, 0.33)), (shirt,), Attached(walk, pose((0, 0, 1.17)))),
        Part(Ellipsoid((0.12, 0.17, 0.16)), (trousers,), Attached(walk, pose((0, 0, 0.92)))),
        Part(Ellipsoid((0.10, 0.085, 0.125)), (skin,), Attached(walk, pose((0, 0, 1.60)))),
        Part(Ellipsoid((0.105, 0.095, 0.09)), (hair,), Attached(walk, pose((-0.02, 0, 1.67)))),
    ]
    for side, offset in ((0.10, 0.0), (-0.10, np.pi)):
        leg = Swing(walk, (0, side, 0.88), 0.42, stride, phase + offset)
        arm = Swing(walk, (0, 2.3 * side, 1.40), 0.5, stride, phase + offset + np.pi)
        parts += [
            Part(Capsule(0.08, 0.35), (trousers,), Attached(leg, pose((0, 0, -0.40)))),
            Part(Ellipsoid((0.14, 0.055, 0.05)), (shoes,), Attached(leg, pose((0.06, 0, -0.83)))),
            Part(Capsule(0.055, 0.24), (shirt,), Attached(arm, pose((0, 0, -0.25)))),
            Part(Ellipsoid((0.055, 0.035, 0.09)), (skin,), Attached(arm, pose((0, 0, -0.62)))),
        ]
    occluder = Occluder((0.24, 0.24, 0.85), Attached(walk, pose((0, 0, 0.85))))
    return SceneObject(name, tuple(parts), moving=True, occluder=occluder)
