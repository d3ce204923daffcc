"""The incremental alignment over long and over difficult streams of simulated pairs: `easi3r-lab bench align`.

No network and no images: pointmaps come from the truth of a rendered scene, with noise and hidden scales.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from easi3r_lab.eval.scores import score_trajectory
from easi3r_lab.synthetic.motions import Attached, Fixed, Swing, pose
from easi3r_lab.synthetic.presets import build_scene
from easi3r_lab.synthetic.presets.props import block
from easi3r_lab.synthetic.scene import Box, Part, Scene, SceneCamera, SceneObject
from easi3r_lab.synthetic.true_pairs import PairNoise, Truth, iter_truths, pair_of_truths
from easi3r_ros.core.alignment.incremental import IncrementalAligner
from easi3r_ros.core.config import AlignmentConfig
from easi3r_ros.core.types import AlignedFrame, PairGeometry, Partners, TrackingState
from easi3r_ros.core.window import partners

PARTNERS = Partners(steps=(1, 3, 5))
MEMORY = 10
SIZE = (96, 72)
RATE = 10.0  # Hz: at 0.5 m/s the neighbours of a pair are 5 to 25 cm apart


@dataclass(frozen=True)
class StreamRow:
    """One stream's outcome."""

    name: str
    ate_percent: float  # of the path; nan without a path
    rpe_degrees: float
    lost: int  # frames reported as lost
    recovered: int  # frames placed right after a lost one
    degraded: int
    milliseconds: float  # CPU time per frame, median
    finite: bool


def robustness(frames: int = 60) -> Iterator[StreamRow]:
    """What happens with more and more movers, worse and worse masks, and cameras that do not move as one would like."""
    for share in (0.0, 0.2, 0.4, 0.6):
        for kind in ("perfect", "eroded", "dilated", "empty"):
            if share == 0.0 and kind != "perfect":
                continue
            scene = _with_panel(build_scene("static", 1, frames / RATE), share)
            yield run_stream(f"{share:.0%} moving, {kind} masks", iter_truths(scene, frames, SIZE, RATE), masks=kind)
    still = build_scene("static", 1, frames / RATE)
    yield run_stream("rotation only", iter_truths(_turning(still), frames, SIZE, RATE))
    yield run_stream("walk, then a still camera", iter_truths(_stopping(still, frames), frames, SIZE, RATE))
    middle = set(range(frames // 2, frames // 2 + 5))
    yield run_stream("5 frames of noise", iter_truths(still, frames, SIZE, RATE), spoiled=middle)


def run_stream(
    name: str,
    truths: Iterable[Truth],
    noise: float = 0.01,
    masks: str = "perfect",
    spoiled: Set[int] = frozenset(),
) -> StreamRow:
    """Align a stream and compare it with its truth. spoiled: frames of whose pairs nothing is left but noise."""
    return stream_row(name, list(aligned_stream(truths, noise, masks, spoiled)))


@dataclass(frozen=True)
class Step:
    """One frame of a stream."""

    truth: np.ndarray  # (4, 4) world_from_cam
    result: AlignedFrame  # without its maps, so that the memory is the aligner's
    seconds: float  # CPU time of the alignment


def aligned_stream(
    truths: Iterable[Truth],
    noise: float = 0.01,
    masks: str = "perfect",
    spoiled: Set[int] = frozenset(),
    keep: Callable[[list[PairGeometry], dict[int, torch.Tensor], AlignedFrame], None] | None = None,
) -> Iterator[Step]:
    """See `run_stream`. keep: called with the pairs and masks of every frame, and what came of it."""
    aligner, rng = IncrementalAligner(AlignmentConfig(), MEMORY), np.random.default_rng(0)
    window: dict[int, Truth] = {}
    lost: set[int] = set()
    for truth in truths:
        window[truth.index] = truth
        window.pop(truth.index - MEMORY, None)
        pairs = _pairs(window, partners(dict.fromkeys(sorted(window)[:-1], 0), PARTNERS, 0, lost), rng, noise)
        pairs = [_spoil(pair, rng) if spoiled & set(pair.edge) else pair for pair in pairs]
        known = {index: torch.from_numpy(_mask(view.mask, masks)) for index, view in window.items()}
        start = time.process_time()
        result = aligner.update(truth.index, pairs, known, truth.view.K, truth.depth.shape)
        seconds = time.process_time() - start
        if keep is not None:
            keep(pairs, known, result)
        if result.state is TrackingState.LOST:
            lost.add(result.index)
        lost &= window.keys()
        nothing = torch.empty(0)
        yield Step(truth.view.world_from_cam, replace(result, depth=nothing, confidence=nothing), seconds)


def _pairs(window: dict[int, Truth], others: set[int], rng: np.random.Generator, noise: float) -> list[PairGeometry]:
    newest = max(window)
    edges = [edge for other in sorted(others) for edge in ((newest, other), (other, newest))]
    return [pair_of_truths(window[a], window[b], rng, PairNoise(relative=noise)) for a, b in edges]


def _spoil(pair: PairGeometry, rng: np.random.Generator) -> PairGeometry:
    shape = tuple(pair.points_a.shape)
    points = [torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for _ in range(2)]
    return replace(pair, points_a=points[0], points_b=points[1])


def _mask(mask: np.ndarray, kind: str) -> np.ndarray:
    if kind == "empty":
        return np.zeros_like(mask)
    kernel = np.ones((5, 5), np.uint8)
    change = {
        "perfect": lambda m: m,
        "eroded": lambda m: cv2.erode(m, kernel),
        "dilated": lambda m: cv2.dilate(m, kernel),
    }
    return change[kind](mask.astype(np.uint8)).astype(bool)


def stream_row(name: str, steps: Sequence[Step]) -> StreamRow:
    results = [step.result for step in steps]
    estimated = np.stack([result.world_from_cam for result in results])
    lost = [result.state is TrackingState.LOST for result in results]
    try:
        scored = score_trajectory(estimated, np.stack([step.truth for step in steps]))
        ate, rotation = scored.ate_percent_of_path, scored.rpe_rotation
    except ValueError:  # a camera that only turns has no path to align
        ate, rotation = float("nan"), float("nan")
    return StreamRow(
        name=name,
        ate_percent=ate,
        rpe_degrees=rotation,
        lost=sum(lost),
        recovered=sum(before and result.state.has_pose for before, result in zip(lost, results[1:], strict=False)),
        degraded=sum(result.state is TrackingState.DEGRADED for result in results),
        milliseconds=1e3 * float(np.median([step.seconds for step in steps])),
        finite=bool(np.isfinite(estimated).all() and np.isfinite([r.covariance for r in results]).all()),
    )


# -- scenes whose difficulty can be chosen -----------------------------------------------------------------------------


def _with_panel(scene: Scene, share: float) -> Scene:
    """A panel that hangs in front of the camera, swings on its own and covers about `share` of the image."""
    if share == 0.0:
        return scene
    distance, half_tan = 1.2, np.tan(np.radians(scene.camera.horizontal_fov) / 2)
    half_width = distance * half_tan * share**0.5
    panel = Box((half_width, 0.75 * half_width, 0.01))
    hinge = Swing(scene.camera.world_from_cam, (0.0, -1.0, distance), angle=0.25, frequency=0.4, phase=0.0)
    texture = block("unused", (0.1, 0.1, 0.1), (0, 0, 0), scene.parts[0].textures[:1]).parts[0].textures
    part = Part(panel, texture, Attached(hinge, pose((0.0, 1.0, 0.0))))
    return replace(scene, objects=(*scene.objects, SceneObject("panel", (part,), moving=True)))


def _turning(scene: Scene) -> Scene:
    """The camera stays where it is and turns to and fro."""
    start = scene.camera.world_from_cam(0.0)
    turn = Swing(Fixed(start), (0.0, 0.0, 0.0), angle=0.3, frequency=0.1, phase=0.0)
    return replace(scene, camera=SceneCamera(turn, scene.camera.horizontal_fov))


def _stopping(scene: Scene, frames: int) -> Scene:
    """The camera walks for the first half, then stands still."""
    walk, end = scene.camera.world_from_cam, frames / RATE / 2
    return replace(scene, camera=SceneCamera(lambda seconds: walk(min(seconds, end)), scene.camera.horizontal_fov))
