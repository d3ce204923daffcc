"""A camera carried round and round a furnished room behind people who walk ahead: as long as one likes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_lab.synthetic.motions import EllipseWalk, hand_waves, pose
from easi3r_lab.synthetic.presets.living_room import interior, lamp
from easi3r_lab.synthetic.presets.people import walker
from easi3r_lab.synthetic.scene import Scene, SceneCamera

BODY_FROM_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # REP-103
ROUND = EllipseWalk(centre=(0.0, 0.0, 1.45), axes=(1.7, 1.4), yaw=0.0, speed=0.5, phase=0.0)
AHEAD = (
    (0.62, -0.1),
    (0.72, -0.75),
    (0.9, 0.35),
    (1.0, -0.45),
)  # people: radians ahead of the camera, metres to its left


@dataclass(frozen=True, eq=False)
class Carried:
    """A camera held by somebody who walks: looks ahead, sways a little."""

    walk: EllipseWalk
    waves: np.ndarray  # (6, K, 2) as Handheld.waves
    sway: float = 0.008  # metres
    shake: float = 0.006  # radians

    def __call__(self, seconds: float) -> np.ndarray:
        wobble = np.sin(2 * np.pi * self.waves[..., 0] * seconds + self.waves[..., 1])
        wobble = wobble.sum(axis=1) * np.sqrt(2 / self.waves.shape[1])  # unit deviation
        matrix = self.walk(seconds) @ BODY_FROM_OPTICAL
        matrix[:3, 3] += self.sway * wobble[:3]
        matrix[:3, :3] = matrix[:3, :3] @ Rotation.from_rotvec(self.shake * wobble[3:]).as_matrix()
        return matrix


@dataclass(frozen=True, eq=False)
class Beside:
    """Walks along with somebody, some way to the left, swinging a little from side to side."""

    walk: EllipseWalk
    left: float  # metres
    swing: float  # metres
    phase: float  # radians

    @property
    def step_frequency(self) -> float:
        return self.walk.step_frequency

    def __call__(self, seconds: float) -> np.ndarray:
        return self.walk(seconds) @ pose((0.0, self.left + self.swing * np.sin(1.3 * seconds + self.phase), 0.0))


def patrol(rng: np.random.Generator, duration: float) -> Scene:
    """Four people walk in front of the camera, about a third of the image."""
    start = rng.uniform(0, 2 * np.pi)
    camera = Carried(replace(ROUND, phase=start), hand_waves(rng))
    people = []
    for number, (ahead, left) in enumerate(AHEAD, start=1):
        path = replace(ROUND, centre=(0.0, 0.0, 0.0), phase=start + ahead)
        people.append(walker(rng, f"walker {number}", Beside(path, left, 0.15, rng.uniform(0, 2 * np.pi))))
    return Scene((*interior(rng), *people), SceneCamera(camera), lamp())
