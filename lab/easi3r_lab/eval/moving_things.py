"""What becomes of movers on rendered clips: ghosts in the map, velocity of objects, and ids that change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from easi3r_lab.eval.scores import score_trajectory
from easi3r_lab.eval.synthetic_clips import ClipSpec, camera_frame
from easi3r_lab.synthetic.clips import RenderedFrame
from easi3r_ros.core.config import PipelineConfig, with_settings
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import FrameResult
from easi3r_ros.mapping.tracks import MovingObject, ObjectTracker
from easi3r_ros.mapping.voxel_map import VoxelMap

GHOST = 0.5  # share of a cell's points that were seen on a mover, from which it is a ghost
SAME = 0.3  # intersection over union of an object's pixels and a true mover's, from which one is the other
FALSE = 0.1  # share of an object's pixels that are on true movers, up to which it is none
SMALLEST = 0.004  # share of the image below which a true mover is not asked for
SETTLED = 0.5  # seconds that an object is known, before its velocity counts
TRUTH_STEP = 0.25  # seconds before and after, over which a true velocity is the mean: legs swing
NO_MASKS = {"motion.threshold": 1.0, "clouds.movers": "measured"}


@dataclass(frozen=True)
class MapScore:
    """Cells in the map at the end of a clip."""

    ghosts: int
    static: int


@dataclass(frozen=True)
class ObjectScore:
    """nan: nothing to be measured."""

    velocity_error: float  # median |estimate - truth|, m/s, after the alignment of the trajectory
    true_speed: float  # median, m/s: the error of who says that nothing moves
    direction_degrees: float  # median angle between them, where the true speed is over 0.2 m/s
    position_error: float  # median distance of the centroids of what is seen, metres
    within: float  # share of errors inside the 95 % ellipsoid of the velocity's covariance
    found: float  # share of true movers in sight that have an id
    switches: int  # times that a mover's id became another
    false_objects: float  # reported per image, on no true mover
    movers: int  # true movers that were in sight


def results_of(frames: Sequence[RenderedFrame], config: PipelineConfig) -> list[FrameResult]:
    """One per frame, every frame processed."""
    pipeline = Pipeline(config)
    return [pipeline.push(camera_frame(frame)) for frame in frames]


def map_scores(frames: Sequence[RenderedFrame], config: PipelineConfig) -> dict[str, MapScore]:
    """By how the map was made: without masks and without removal, with one of them, with both."""
    bare = _labelled(frames, results_of(frames, with_settings(config, NO_MASKS)))
    masked = _labelled(frames, results_of(frames, config))
    return {
        "neither": _map_score(bare, config, carve=False),
        "removal alone": _map_score(bare, config, carve=True),
        "masks alone": _map_score(masked, config, carve=False),
        "masks and removal": _map_score(masked, config, carve=True),
    }


def _labelled(frames: Sequence[RenderedFrame], results: Sequence[FrameResult]) -> list[FrameResult]:
    """Results in which a pixel's colour says whether it is on a true mover: 255 on all channels, else 0."""
    images = [np.repeat(frame.mask[..., None] * np.uint8(255), 3, axis=2) for frame in frames]
    return [replace(r, frame=replace(r.frame, image=image)) for r, image in zip(results, images, strict=True)]


def _map_score(results: Sequence[FrameResult], config: PipelineConfig, carve: bool) -> MapScore:
    made = VoxelMap(config.map, config.clouds.min_confidence, carve)
    for result in results:
        if result.state.has_pose:
            made.add(result)
    labels = made.points().rgb[:, 0]
    ghosts = labels > 255 * GHOST
    return MapScore(int(ghosts.sum()), int((~ghosts).sum()))


def score_of_objects(
    spec: ClipSpec, frames: Sequence[RenderedFrame], results: Sequence[FrameResult], config: PipelineConfig
) -> ObjectScore:
    """The tracker on the pipeline's results of one clip."""
    tracker = ObjectTracker(config.objects, config.clouds)
    seen = [tracker.update(result, placed=result.state.has_pose) for result in results]
    poses = np.stack([result.world_from_cam for result in results])
    aligned = score_trajectory(poses, np.stack([frame.view.world_from_cam for frame in frames]))
    similarity = _similarity(poses, aligned.aligned, aligned.scale)
    return _object_score(frames, seen, _truth(spec, frames), similarity)


def with_true_depth(frames: Sequence[RenderedFrame], results: Sequence[FrameResult]) -> list[FrameResult]:
    """Results as of a camera that measures depth: masks as found, depth and pose as they are."""
    sure = np.full(frames[0].depth.shape, 10.0, np.float32)
    return [
        replace(
            result,
            depth=np.where(np.isfinite(frame.depth), frame.depth, np.float32(np.nan)),
            confidence=sure,
            world_from_cam=frame.view.world_from_cam,
        )
        for frame, result in zip(frames, results, strict=True)
    ]


def _similarity(poses: np.ndarray, aligned: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, float]:
    """(rotation, offset, scale): truth = scale * rotation @ estimate + offset."""
    rotation = aligned[0, :3, :3] @ poses[0, :3, :3].T
    return rotation, aligned[0, :3, 3] - scale * rotation @ poses[0, :3, 3], scale


def _truth(spec: ClipSpec, frames: Sequence[RenderedFrame]) -> np.ndarray:
    """(T, M + 1, 3) velocity of every mover at every frame, m/s; index 0 is the static world."""
    from easi3r_lab.synthetic.presets import build_scene

    scene = build_scene(spec.preset, spec.seed, duration=spec.frames / spec.rate)
    owner, step = scene.instance_of_part(), TRUTH_STEP
    out = np.zeros((len(frames), owner.max() + 1, 3))
    for index, frame in enumerate(frames):
        before, after = (
            np.stack([part.world_from_part(frame.seconds + sign * step)[:3, 3] for part in scene.parts])
            for sign in (-1, 1)
        )
        for mover in range(1, owner.max() + 1):
            out[index, mover] = ((after - before)[owner == mover]).mean(axis=0) / (2 * step)
    return out


def _object_score(
    frames: Sequence[RenderedFrame],
    seen: Sequence[tuple[list[MovingObject], np.ndarray]],
    truth: np.ndarray,
    similarity: tuple[np.ndarray, np.ndarray, float],
) -> ObjectScore:
    rotation, offset, scale = similarity
    errors, speeds, angles, places, inside = [], [], [], [], []
    last: dict[int, int] = {}
    switches, asked, found, false = 0, 0, 0, 0
    for index, (frame, (objects, ids)) in enumerate(zip(frames, seen, strict=True)):
        known = {item.id: item for item in objects}
        false += sum(item.seen and not frame.mask[ids == item.id].mean() > FALSE for item in objects)
        for mover in range(1, truth.shape[1]):
            pixels = frame.instances == mover
            if pixels.mean() < SMALLEST or not index:
                continue
            asked += 1
            id_ = _same(pixels, ids)
            if not id_:
                continue
            found += 1
            switches += last.setdefault(mover, id_) != id_
            last[mover] = id_
            item = known.get(id_)
            if item is None or item.age < SETTLED or not item.seen:
                continue
            velocity, true = scale * rotation @ item.velocity, truth[index, mover]
            errors.append(np.linalg.norm(velocity - true))
            speeds.append(np.linalg.norm(true))
            if speeds[-1] > 0.2:
                cosine = velocity @ true / max(np.linalg.norm(velocity) * speeds[-1], 1e-9)
                angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
            off = rotation.T @ (velocity - true) / scale
            inside.append(off @ np.linalg.solve(item.covariance[3:, 3:], off) < 7.81)
            pose = frame.view.world_from_cam
            middle = pose[:3, :3] @ frame.points[pixels].mean(axis=0) + pose[:3, 3]
            places.append(np.linalg.norm(scale * rotation @ item.centroid + offset - middle))
    return ObjectScore(
        *(_median(values) for values in (errors, speeds, angles, places)),
        float(np.mean(inside)) if inside else float("nan"),
        found / asked if asked else float("nan"),
        switches,
        false / len(frames),
        len(last),
    )


def _same(pixels: np.ndarray, ids: np.ndarray) -> int:
    """The id that most of a mover's pixels have, if it means this mover; else 0."""
    counts = np.bincount(ids[pixels])
    counts[:1] = 0
    if not counts.any():
        return 0
    best = int(counts.argmax())
    union = np.count_nonzero(pixels | (ids == best))
    return best if counts[best] > SAME * union else 0


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else float("nan")
