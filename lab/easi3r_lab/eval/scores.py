"""How well masks, trajectories and depth match the truth.

Masks: the region and boundary measures of DAVIS (Perazzi et al., CVPR 2016), averaged over all frames of a sequence;
DAVIS itself drops the first and the last one before it calls this. Trajectories: ATE and RPE after a Sim(3) alignment,
computed by evo. Depth: up to one scale for a whole sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from evo.core.geometry import GeometryException
from evo.core.metrics import APE, RPE, PoseRelation, Unit
from evo.core.trajectory import PosePath3D

BOUNDARY_TOLERANCE = 0.008  # of the image diagonal, as DAVIS
RECALL_THRESHOLD = 0.5
QUARTERS = 4


@dataclass(frozen=True)
class MaskScore:
    """Mean over the frames, and share of frames above 0.5, of region similarity J and boundary accuracy F."""

    jm: float
    jr: float
    fm: float
    fr: float


@dataclass(frozen=True)
class SequenceStatistics:
    """Of one measure over the frames of a sequence, as DAVIS reports it."""

    mean: float
    recall: float  # share of frames above 0.5
    decay: float  # mean of the first quarter minus that of the last: what is lost over time


def sequence_statistics(values: Sequence[float]) -> SequenceStatistics:
    """values: one per frame that counts. As the benchmark's own code has it, quarters share their border frames."""
    values = np.asarray(values, np.float64)
    borders = np.round(np.linspace(1, len(values), QUARTERS + 1) + 1e-10).astype(int) - 1
    quarters = [values[a : b + 1] for a, b in zip(borders[:-1], borders[1:], strict=True)]
    decay = float(quarters[0].mean() - quarters[-1].mean())
    return SequenceStatistics(float(values.mean()), float((values > RECALL_THRESHOLD).mean()), decay)


def region_similarity(predicted: np.ndarray, truth: np.ndarray) -> float:
    """J, the intersection over union of two (H, W) bool masks; 1 if both are empty."""
    _same_shape(predicted, truth)
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def boundary_accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """F, harmonic mean of precision and recall of the boundary pixels of two (H, W) bool masks.

    A boundary pixel is found if the other mask has one within 0.8 % of the image diagonal. Without any boundary in
    both F is 1, in only one of them 0.
    """
    _same_shape(predicted, truth)
    boundary, true_boundary = _boundary(predicted), _boundary(truth)
    if not boundary.any() or not true_boundary.any():
        return float(boundary.any() == true_boundary.any())
    radius = int(np.ceil(BOUNDARY_TOLERANCE * np.hypot(*truth.shape)))
    precision = (boundary & _dilated(true_boundary, radius)).sum() / boundary.sum()
    recall = (true_boundary & _dilated(boundary, radius)).sum() / true_boundary.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def score_masks(predicted: np.ndarray, truth: np.ndarray) -> MaskScore:
    """DAVIS measures of a sequence of masks, both (T, H, W) bool."""
    _same_shape(predicted, truth)
    j = np.array([region_similarity(p, t) for p, t in zip(predicted, truth, strict=True)])
    f = np.array([boundary_accuracy(p, t) for p, t in zip(predicted, truth, strict=True)])
    recall_j, recall_f = (float((values > RECALL_THRESHOLD).mean()) for values in (j, f))
    return MaskScore(float(j.mean()), recall_j, float(f.mean()), recall_f)


def _boundary(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool, True where a pixel differs from its right, lower or lower-right neighbour."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return cv2.dilate(mask.astype(np.uint8), (x**2 + y**2 <= radius**2).astype(np.uint8)) > 0


def _same_shape(predicted: np.ndarray, truth: np.ndarray) -> None:
    if predicted.shape != truth.shape or predicted.dtype != bool or truth.dtype != bool:
        raise ValueError(
            f"need two bool masks of one shape, got {predicted.dtype} {predicted.shape} and {truth.dtype} {truth.shape}"
        )


@dataclass(frozen=True)
class TrajectoryScore:
    """Errors after Sim(3) alignment (Umeyama 1991), in units of the truth."""

    ate: float  # rmse of the position
    rpe_translation: float  # rmse of the relative translation from frame to frame
    rpe_rotation: float  # rmse of the relative rotation from frame to frame, degrees
    path_length: float  # of the truth
    scale: float  # estimate * scale = truth
    aligned: np.ndarray  # (T, 4, 4) estimated world_from_cam in the truth's world and scale

    @property
    def ate_percent_of_path(self) -> float:
        return 100 * self.ate / self.path_length if self.path_length else float("inf")


def path_length(world_from_cam: np.ndarray) -> float:
    """Length of the way through the positions of (T, 4, 4) poses."""
    return float(np.linalg.norm(np.diff(world_from_cam[:, :3, 3], axis=0), axis=1).sum())


def score_trajectory(estimated: np.ndarray, truth: np.ndarray) -> TrajectoryScore:
    """Compares two (T, 4, 4) world_from_cam trajectories of the same frames, T >= 3.

    Raises ValueError if the shapes do not match, a pose is not finite, or the positions do not determine an alignment.
    """
    if estimated.shape != truth.shape or truth.shape[1:] != (4, 4) or len(truth) < 3:
        raise ValueError(f"need two trajectories (T >= 3, 4, 4), got {estimated.shape} and {truth.shape}")
    if not (np.isfinite(estimated).all() and np.isfinite(truth).all()):
        raise ValueError("a pose is not finite")
    reference, aligned = PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(estimated))
    try:
        _, _, scale = aligned.align(reference, correct_scale=True)
    except GeometryException as error:
        raise ValueError("a camera that stood still or went dead straight cannot be aligned") from error
    return TrajectoryScore(
        ate=_rmse(APE(PoseRelation.translation_part), reference, aligned),
        rpe_translation=_rmse(RPE(PoseRelation.translation_part, 1, Unit.frames), reference, aligned),
        rpe_rotation=_rmse(RPE(PoseRelation.rotation_angle_deg, 1, Unit.frames), reference, aligned),
        path_length=path_length(truth),
        scale=float(scale),
        aligned=np.stack(aligned.poses_se3),
    )


def _rmse(metric: APE | RPE, reference: PosePath3D, aligned: PosePath3D) -> float:
    metric.process_data((reference, aligned))
    return float(metric.get_all_statistics()["rmse"])


@dataclass(frozen=True)
class DepthScore:
    abs_rel: float  # mean of |estimate - truth| / truth
    delta_125: float  # share of pixels with max(estimate / truth, truth / estimate) < 1.25
    scale: float  # estimate * scale = truth
    coverage: float  # share of the pixels with a true depth that have an estimate


def score_depth(estimated: np.ndarray, truth: np.ndarray, scale: float | None = None) -> DepthScore:
    """Compares depth of one shape, any number of frames; pixels not finite or <= 0 in either are left out.

    scale: what the estimate is multiplied with; None: the ratio of the medians (Eigen et al. 2014).
    Raises ValueError if the shapes differ or nothing can be compared.
    """
    if estimated.shape != truth.shape:
        raise ValueError(f"need depth of one shape, got {estimated.shape} and {truth.shape}")
    known = np.isfinite(truth) & (truth > 0)
    both = known & np.isfinite(estimated) & (estimated > 0)
    if not both.any():
        raise ValueError("no pixel has both an estimated and a true depth")
    estimate, target = estimated[both].astype(np.float64), truth[both].astype(np.float64)
    if scale is None:
        scale = float(_median(target) / _median(estimate))
    ratio = scale * estimate / target
    return DepthScore(
        abs_rel=float(np.abs(ratio - 1).mean()),
        delta_125=float((np.maximum(ratio, 1 / ratio) < 1.25).mean()),
        scale=scale,
        coverage=float(both.sum() / known.sum()),
    )


def _median(values: np.ndarray) -> float:
    """Of an even number of values the lower one of the two in the middle, as in the published evaluations."""
    return np.quantile(values, 0.5, method="lower")
