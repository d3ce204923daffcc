"""Sources of metres on rendered clips, whose lengths are known: when they lock, and how far off they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from easi3r_lab.synthetic.clips import RenderedFrame
from easi3r_ros.core.config import PipelineConfig, with_settings
from easi3r_ros.core.types import FrameResult, ScaleState
from easi3r_ros.mapping.depth_scale import CONFIDENCE
from easi3r_ros.mapping.placing import FromDepth, FromOdometry, Placing, ScaleSource

SOURCES = ("odometry", "depth", "camera_height")
WHEELS, TURN = 0.01, 0.002  # of the way between two images, and rad: errors of a pretended odometry, which add up
SENSOR, HOLES, FARTHEST = 0.01, 0.2, 6.0  # relative noise, share of unknown pixels, and metres of a depth camera
FEWEST = 3  # placed frames for a truth


@dataclass(frozen=True)
class MetresScore:
    """nan: does not apply."""

    locked_after: float  # metres of the camera's way; inf: never
    locked: float  # share of the placed frames
    error: float  # median |scale / truth - 1| of the locked frames; truth: true over estimated depth, of each frame
    sigma: float  # median of what it says of itself
    largest: float  # largest error of a locked frame
    path_error: float  # |way in map / true way - 1| from the lock to the end


def score(
    frames: Sequence[RenderedFrame], results: Sequence[FrameResult], source: str, config: PipelineConfig
) -> MetresScore | None:
    """results: of `Pipeline`, one per frame. None: too few of them have a pose."""
    placed = [k for k, result in enumerate(results) if result.state.has_pose]
    if len(placed) < FEWEST:
        return None
    truth = np.stack([frames[k].view.world_from_cam for k in placed])
    height = float(frames[0].view.world_from_cam[2, 3])
    config = with_settings(config, {"scale.source": source, "scale.camera_height": height})
    placing = Placing("camera", source, config.scale, source_on(frames, source), warn=lambda _: None)
    out = [placing.place(result) for result in results]
    locked = [k for k in placed if out[k].scale.state is ScaleState.LOCKED]
    way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1))])
    if not locked:
        return MetresScore(math.inf, 0.0, math.nan, math.nan, math.nan, math.nan)
    errors = np.array([abs(out[k].scale.metres / true_metres(frames[k], results[k]) - 1) for k in locked])
    in_map = np.stack([out[k].world_from_cam[:3, 3] for k in locked])
    true_way = way[placed.index(locked[-1])] - way[placed.index(locked[0])]
    said = np.linalg.norm(np.diff(in_map, axis=0), axis=1).sum()
    return MetresScore(
        locked_after=float(way[placed.index(locked[0])]),
        locked=len(locked) / len(placed),
        error=float(np.median(errors)),
        sigma=float(np.median([out[k].scale.sigma for k in locked])),
        largest=float(errors.max()),
        path_error=float(abs(said / true_way - 1)) if true_way > 0 else math.nan,
    )


def true_metres(frame: RenderedFrame, result: FrameResult) -> float:
    """Per unit, at one frame: scales drift."""
    known = ~result.mask & ~frame.mask & (result.confidence >= CONFIDENCE)
    known &= np.isfinite(result.depth) & np.isfinite(frame.depth)
    return float(np.median(frame.depth[known] / result.depth[known]))


def source_on(frames: Sequence[RenderedFrame], source: str) -> ScaleSource | None:
    """The source as it would be fed on a robot, with noise."""
    by_stamp = {round(frame.seconds * 1e9): k for k, frame in enumerate(frames)}
    if source == "odometry":
        poses = noisy_odometry(frames)
        return FromOdometry(lambda result, last: poses[by_stamp[result.frame.stamp_ns]], clock())
    if source == "depth":
        return FromDepth(lambda result: noisy_depth(frames[by_stamp[result.frame.stamp_ns]]))
    return None


def noisy_odometry(frames: Sequence[RenderedFrame]) -> list[np.ndarray]:
    """(4, 4) odom_from_cam per frame: the camera's own way, each step with an error of its own."""
    rng = np.random.default_rng(0)
    poses = [np.eye(4)]
    for before, after in zip(frames, frames[1:], strict=False):
        step = np.linalg.inv(before.view.world_from_cam) @ after.view.world_from_cam
        step[:3, 3] *= 1 + WHEELS * rng.standard_normal()
        step[:3, :3] = step[:3, :3] @ Rotation.from_rotvec(TURN * rng.standard_normal(3)).as_matrix()
        poses.append(poses[-1] @ step)
    return poses


def noisy_depth(frame: RenderedFrame) -> np.ndarray:
    """(H, W) metres; 0: not known."""
    rng = np.random.default_rng(frame.index)
    depth = frame.depth * np.exp(SENSOR * rng.standard_normal(frame.depth.shape))
    known = (rng.random(depth.shape) > HOLES) & (depth < FARTHEST)
    return np.where(known, depth, 0).astype(np.float32)


def clock() -> Callable[[], float]:
    """Steps of a tenth of a second."""
    steps = iter(range(10**9))
    return lambda: 0.1 * next(steps)
