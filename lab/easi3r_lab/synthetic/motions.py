"""Smooth motions: each is a function of time in seconds that gives a (4, 4) pose in the world."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_lab.synthetic.scene import Motion, Scene, SceneObject


def pose(translation=(0.0, 0.0, 0.0), yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """(4, 4) pose: rotations about z, then y, then x (radians, REP-103), and a translation in metres."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("ZYX", [yaw, pitch, roll]).as_matrix()
    matrix[:3, 3] = translation
    return matrix


@dataclass(frozen=True, eq=False)
class Fixed:
    world_from_part: np.ndarray  # (4, 4)

    def __call__(self, seconds: float) -> np.ndarray:
        return self.world_from_part


def with_movers_frozen(scene: Scene, seconds: float) -> Scene:
    """The same scene with everything but the camera standing as it was at a time. Movers keep their instances."""
    return replace(scene, objects=tuple(_frozen(item, seconds) for item in scene.objects))


def _frozen(item: SceneObject, seconds: float) -> SceneObject:
    parts = tuple(replace(part, world_from_part=Fixed(part.world_from_part(seconds))) for part in item.parts)
    occluder = item.occluder
    if occluder is not None:
        occluder = replace(occluder, world_from_occluder=Fixed(occluder.world_from_occluder(seconds)))
    return replace(item, parts=parts, occluder=occluder)


@dataclass(frozen=True, eq=False)
class Attached:
    """Rigidly fixed to something that moves."""

    parent: Motion
    parent_from_part: np.ndarray  # (4, 4)

    def __call__(self, seconds: float) -> np.ndarray:
        return self.parent(seconds) @ self.parent_from_part


@dataclass(frozen=True, eq=False)
class Swing:
    """A limb that swings about the y axis of its parent."""

    parent: Motion
    joint: tuple[float, float, float]  # in the parent's frame, metres
    angle: float  # amplitude, radians
    frequency: float  # Hz
    phase: float  # radians

    def __call__(self, seconds: float) -> np.ndarray:
        angle = self.angle * np.sin(2 * np.pi * self.frequency * seconds + self.phase)
        return self.parent(seconds) @ pose(self.joint, pitch=angle)


@dataclass(frozen=True, eq=False)
class EllipseWalk:
    """Round and round an ellipse, facing where it goes: people, toy cars."""

    centre: tuple[float, float, float]
    axes: tuple[float, float]  # semi-axes along the ellipse's own x and y, metres
    yaw: float  # of the ellipse in the world, radians
    speed: float  # mean, metres per second; negative: clockwise
    phase: float  # radians
    bob: float = 0.0  # up and down at every step, metres
    step_frequency: float = 1.8  # steps per second

    def __call__(self, seconds: float) -> np.ndarray:
        a, b = self.axes
        mean_radius = np.sqrt((a**2 + b**2) / 2)
        angle = self.phase + self.speed / mean_radius * seconds
        heading = np.arctan2(b * np.cos(angle), -a * np.sin(angle)) + (np.pi if self.speed < 0 else 0.0)
        rise = self.bob * np.cos(2 * np.pi * self.step_frequency * seconds)
        return pose(self.centre, self.yaw) @ pose((a * np.cos(angle), b * np.sin(angle), rise), heading)


@dataclass(frozen=True, eq=False)
class Shuttle:
    """Along a straight line at constant speed, facing where it goes; at the end it starts again: cars in traffic."""

    start: tuple[float, float, float]
    heading: float  # yaw in the world, radians
    speed: float  # metres per second
    length: float  # of the line, metres
    phase: float  # share of the line already done at time 0

    def __call__(self, seconds: float) -> np.ndarray:
        done = (self.phase * self.length + self.speed * seconds) % self.length
        return pose(self.start, self.heading) @ pose((done, 0.0, 0.0))


@dataclass(frozen=True, eq=False)
class Handheld:
    """A camera carried by a person: a smooth path, a gaze, and the sway of a hand.

    Position: start + travel * share of the way + an arc to the side; the sway is a sum of sines between 0.4 and 2 Hz.
    """

    start: tuple[float, float, float]
    travel: tuple[float, float, float]  # metres walked within `duration`
    arc: tuple[float, float, float]  # metres off the straight line at half way
    gaze_start: tuple[float, float, float]  # world point looked at in the beginning
    gaze_end: tuple[float, float, float]  # and at `duration`
    duration: float  # seconds of one way
    returns: bool  # walk to and fro, softly turning at the ends; else at constant speed and no further than `travel`
    sway: float  # metres, deviation of each axis
    shake: float  # radians, deviation of each angle
    waves: np.ndarray = field(repr=False)  # (6, K, 2): frequency in Hz and phase of each of the K waves per axis

    def __call__(self, seconds: float) -> np.ndarray:
        share = seconds / self.duration
        share = (1 - np.cos(np.pi * share)) / 2 if self.returns else min(share, 1.0)
        wobble = np.sin(2 * np.pi * self.waves[..., 0] * seconds + self.waves[..., 1])
        wobble = wobble.sum(axis=1) * np.sqrt(2 / self.waves.shape[1])  # unit deviation
        position = np.array(self.start) + share * np.array(self.travel) + np.sin(np.pi * share) * np.array(self.arc)
        gaze = np.array(self.gaze_start) + share * (np.array(self.gaze_end) - np.array(self.gaze_start))
        world_from_cam = look_at(position + self.sway * wobble[:3], gaze)
        world_from_cam[:3, :3] = world_from_cam[:3, :3] @ Rotation.from_rotvec(self.shake * wobble[3:]).as_matrix()
        return world_from_cam


def hand_waves(rng: np.random.Generator, count: int = 3) -> np.ndarray:
    """(6, count, 2) random frequencies (0.4 to 2 Hz) and phases for `Handheld.waves`."""
    return np.stack([rng.uniform(0.4, 2.0, (6, count)), rng.uniform(0, 2 * np.pi, (6, count))], axis=-1)


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(4, 4) world_from_cam of an upright optical frame (x right, y down, z forward) that looks at `target`."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    matrix[:3, 3] = position
    return matrix
