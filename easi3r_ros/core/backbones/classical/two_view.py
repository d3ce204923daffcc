"""How the camera moved between two frames: rotation and translation where there is parallax, else a turn alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from easi3r_ros.core.backbones.classical.camera import Camera, FocalBelief
from easi3r_ros.core.backbones.classical.matches import Matches
from easi3r_ros.core.backbones.classical.refine import (
    Motion,
    epipolar_residuals,
    fit_rotation,
    refine_motion,
    robust_cost,
    robust_scale,
    robust_scale_2d,
    rotation_residuals,
)
from easi3r_ros.core.backbones.classical.triangulate import triangulate

FEWEST_MATCHES = 30  # below this nothing is said about the motion
RANSAC_PIXELS = 0.5
RANSAC_MATCHES = 500
INLIER = 3.0  # robust scales
TURN_EXPLAINS = 0.78  # share of the static-looking matches that a turn alone must explain to be preferred


def estimate_motion(
    matches: Matches,
    camera: Camera,
    prior: FocalBelief,
    start: Motion | None = None,
    longer: Motion | None = None,
) -> Motion | None:
    """The camera's motion that explains most matches; None if there are too few of them to say anything.

    start: an earlier estimate for the same frames that is about right; without it the search is global.
    longer: the motion to the same frame b from a frame farther away than a. It knows better whether there is parallax.
    """
    if len(matches) < FEWEST_MATCHES:
        return None
    turn = fit_rotation(matches, camera, prior)
    hypotheses = [start] if start is not None and not start.turns_only else [_essential(matches, turn, camera, prior)]
    if longer is not None and not longer.turns_only:
        hypotheses.append(Motion(turn.R, longer.t, camera, prior))
    refined = [refine_motion(matches, hypothesis) for hypothesis in hypotheses if hypothesis is not None]
    if not refined or (longer is not None and longer.turns_only):
        return _with_homography(matches, turn)
    residuals = [epipolar_residuals(matches, motion) for motion in refined]
    scale = min(robust_scale(r) for r in residuals)
    best = int(np.argmin([robust_cost(r, scale) for r in residuals]))
    if longer is None and _turn_suffices(matches, turn, residuals[best], scale):
        return _with_homography(matches, turn)
    return _in_front(matches, refined[best])


def _turn_suffices(matches: Matches, turn: Motion, epipolar: np.ndarray, scale: float) -> bool:
    """Any epipolar geometry also explains some movers: to be preferred it must explain a good deal more than a turn."""
    explained = np.count_nonzero(np.abs(epipolar) < INLIER * scale)
    by_turn = np.count_nonzero(rotation_residuals(matches, turn) < INLIER * scale)
    return by_turn >= TURN_EXPLAINS * explained


def _with_homography(matches: Matches, turn: Motion) -> Motion:
    """The turn, with the homography that also takes up distortion, rolling shutter and a wrong focal length."""
    residuals = rotation_residuals(matches, turn)
    inliers = residuals < INLIER * robust_scale_2d(residuals)
    homography, _ = cv2.findHomography(matches.a[inliers], matches.b[inliers], method=0)
    K = turn.camera.matrix()
    return replace(turn, homography=K @ turn.R @ np.linalg.inv(K) if homography is None else homography)


def _essential(matches: Matches, turn: Motion, camera: Camera, prior: FocalBelief) -> Motion | None:
    """RANSAC over essential matrices (five points, MAGSAC++); of their two rotations the one next to the pure turn."""
    some = slice(None, None, max(1, len(matches) // RANSAC_MATCHES))
    essential, _ = cv2.findEssentialMat(
        matches.a[some], matches.b[some], camera.matrix(), method=cv2.USAC_MAGSAC, prob=0.99, threshold=RANSAC_PIXELS
    )
    if essential is None or essential.shape[0] < 3 or not np.isfinite(essential).all():
        return None
    first, second, t = cv2.decomposeEssentialMat(essential[:3])
    R = max((first, second), key=lambda rotation: np.trace(rotation @ turn.R.T))
    return Motion(R, t[:, 0], camera, prior)


def _in_front(matches: Matches, motion: Motion) -> Motion:
    """The sign of the translation that puts most matches before the camera."""
    found = triangulate(matches.a.T, matches.b.T, matches.information().T, motion.R, motion.t, motion.camera)
    significance = found.inverse_depth * np.sqrt(found.information)
    votes = np.clip(significance, -5, 5)[np.abs(found.epipolar) < INLIER * robust_scale(found.epipolar)]
    return motion if votes.sum() >= 0 else replace(motion, t=-motion.t)
