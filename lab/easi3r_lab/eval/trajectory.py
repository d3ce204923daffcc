"""How well camera trajectories match the truth: ATE and RPE after a Sim(3) alignment, computed by evo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from evo.core.geometry import GeometryException
from evo.core.metrics import APE, RPE, PoseRelation, Unit
from evo.core.trajectory import PosePath3D


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


def score(estimated: np.ndarray, truth: np.ndarray) -> TrajectoryScore:
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
