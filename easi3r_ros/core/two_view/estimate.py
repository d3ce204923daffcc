"""How the camera moved between two frames: rotation and translation where there is parallax, else a turn alone.

The search is global: all directions of translation, each with the rotation that suits it. Between frames of a video the
rotation is small and nearly known, so only two numbers remain to be searched. On rendered clips of people before a
moving camera, refinement from OpenCV's five-point MAGSAC++ ended in a wrong minimum in 13 to 28 % of the pairs, from
here in none, in less time.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np

from easi3r_ros.core.two_view.flow import UNKNOWN_LENS
from easi3r_ros.core.two_view.refine import (
    QUARTER_OF_NORMAL,
    SMALLEST_SCALE,
    Bearings,
    Camera,
    FocalBelief,
    Matches,
    Motion,
    cross,
    epipolar_residuals,
    fit_rotation,
    geman_mcclure,
    refine_motion,
    robust_cost,
    robust_scale,
    robust_scale_2d,
    rotation_residuals,
    turn_of_shift,
    turned,
)
from easi3r_ros.core.two_view.rigid import Triangulation, triangulate

DIRECTIONS = 64
MATCHES = 200
ITERATIONS = 4
FEWEST_MATCHES = 30  # below this nothing is said about the motion
FIRST_ITERATIONS = 3  # of every hypothesis
INLIER = 3.0  # robust scales
MODEL_ERROR = 0.4  # pixels, of a camera without calibration: lens, focal length, rolling shutter
BEHIND = 0.1  # share of the matches that may be behind infinity where a sign is tried
SIDEWAYS = 0.5  # of the translation; less is forward, and a turn looks different
TURN_EXPLAINS = 0.78  # share of the static-looking matches that a turn alone must explain to be preferred


def search_translation(bearings: Bearings, turn: Motion, best: int = 2) -> list[Motion]:
    """The `best` motions of those whose translation is one of DIRECTIONS on a hemisphere (the sign cannot be told yet).

    turn: rotation to start from. For every direction t the residual of a match (a, b) is linear in a small rotation w:
    b . (t x (R a + w x R a)) = t . (R a x b) + w . (R a x (b x t)).
    """
    some = bearings.some(MATCHES)
    directions = hemisphere(DIRECTIONS)
    base, by_turn = _linear_in_turn(some, turn.R, directions)
    w = np.zeros((DIRECTIONS, 3))
    for _ in range(ITERATIONS):
        residuals = base + (w[:, None] @ by_turn)[:, 0]
        weights = geman_mcclure(residuals, _scales(residuals)[:, None])
        weighted = by_turn * weights[:, None]
        normal = weighted @ by_turn.transpose(0, 2, 1) + 1e-9 * np.eye(3)
        w = -np.linalg.solve(normal, weighted @ base[..., None])[..., 0]
    residuals = base + (w[:, None] @ by_turn)[:, 0]
    scale = _scales(residuals).min()
    costs = 1 - np.sqrt(geman_mcclure(residuals, scale)).mean(axis=1)
    return [Motion(turned(turn.R, w[i]), directions[i], turn.camera, turn.focal) for i in np.argsort(costs)[:best]]


def _linear_in_turn(bearings: Bearings, R: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (T, N) in standard deviations of N matches for T directions, and their derivatives (T, 3, N) by w."""
    a, b = R @ bearings.a, bearings.b
    # R a x (b x t) = b (R a . t) - t (R a . b)
    by_turn = b * (directions @ a)[:, None] - directions[..., None] * (a * b).sum(0)
    nx = directions[:, 1:2] * a[2] - directions[:, 2:3] * a[1]  # epipolar lines t x R a
    ny = directions[:, 2:3] * a[0] - directions[:, 0:1] * a[2]
    xx, xy, yy = bearings.covariance
    inverse = 1 / np.sqrt(xx * nx * nx + 2 * xy * nx * ny + yy * ny * ny + 1e-14)
    return directions @ cross(a, b) * inverse, by_turn * inverse[:, None]


def _scales(residuals: np.ndarray) -> np.ndarray:
    """(T,) robust scale of each row of (T, N) residuals."""
    quarter = residuals.shape[1] // 4
    quartiles = np.partition(np.abs(residuals), quarter, axis=1)[:, quarter]
    return np.maximum(quartiles / QUARTER_OF_NORMAL, SMALLEST_SCALE)


@lru_cache(maxsize=1)
def hemisphere(count: int) -> np.ndarray:
    """(count, 3) unit vectors with z > 0, evenly spread on a spiral (Fibonacci lattice)."""
    step = np.arange(count) + 0.5
    z = step / count
    angle = np.pi * (1 + np.sqrt(5)) * step
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)


def estimate_motion(
    matches: Matches,
    camera: Camera,
    prior: FocalBelief,
    start: Motion | None = None,
    longer: Motion | None = None,
    guess: Motion | None = None,
) -> Motion | None:
    """The camera's motion that explains most matches; None if there are too few of them to say anything.

    start: an earlier estimate for the same frames that is about right; without it the search is global.
    longer: the motion to the same frame b from a frame farther away than a. It knows better whether there is parallax.
    guess: what somebody else believes; tried beside the others.
    """
    if len(matches) < FEWEST_MATCHES:
        return None
    turn = fit_rotation(matches, camera, prior)
    if longer is not None and longer.turns_only:
        return _with_homography(matches, turn)
    # The turn may have learned a focal length from what is really parallax: translation starts from the prior's.
    unbiased = Motion(turn.R, turn.t, camera, prior)
    if start is not None and not start.turns_only:
        hypotheses = [start]
    else:
        hypotheses = search_translation(Bearings.of(matches, camera), unbiased)
    if longer is not None:
        hypotheses.append(replace(unbiased, t=longer.t))
    if guess is not None:
        hypotheses.append(guess)
    moved = _best_known(matches, hypotheses) if prior.known else _best_in_front(matches, hypotheses)
    # Whether there is parallax is asked of the flow alone: what a lens may add would hide all that is small.
    exact = matches if prior.known else matches.tightened(UNKNOWN_LENS)
    if longer is None and _turn_suffices(exact, turn, moved):
        return _with_homography(matches, turn)
    return moved


def _best_known(matches: Matches, hypotheses: list[Motion]) -> Motion:
    """Of a calibrated camera: the sign of the translation can be told once the lines are known."""
    return _in_front(matches, refine_motion(matches, _best_of(matches, hypotheses)))


def _best_in_front(matches: Matches, hypotheses: list[Motion]) -> Motion:
    """Of a camera that nobody calibrated, whose errors hide what tells a turn from a shift to the side.

    While hypotheses are compared, what they leave within MODEL_ERROR is not told apart.
    """
    coarse = matches.loosened(MODEL_ERROR)
    sides = [refine_motion(coarse, side, in_front=True) for side in _sides(coarse, _best_of(coarse, hypotheses))]
    best = sides[_cheapest([_off_front(coarse, side) for side in sides])]
    return refine_motion(matches, best, in_front=True)


def _best_of(matches: Matches, hypotheses: list[Motion]) -> Motion:
    """Refined far enough to tell."""
    if len(hypotheses) == 1:
        return hypotheses[0]
    hypotheses = [refine_motion(matches, hypothesis, FIRST_ITERATIONS) for hypothesis in hypotheses]
    return hypotheses[_cheapest([epipolar_residuals(matches, hypothesis) for hypothesis in hypotheses])]


def _cheapest(residuals: list[np.ndarray]) -> int:
    scale = min(robust_scale(r) for r in residuals)
    return int(np.argmin([robust_cost(r, scale) for r in residuals]))


def _sides(matches: Matches, motion: Motion) -> list[Motion]:
    """Both signs of the translation, each with the turn that leaves most matches in front of the camera.

    What is behind infinity after one turn is far away after the next: a turn and a shift to the side look alike.
    """
    found = _triangulated(matches, motion)
    fits = np.abs(found.epipolar) < INLIER * robust_scale(found.epipolar)
    along = (found.inverse_depth * found.parallax)[fits]  # pixels
    sideways = float(np.hypot(*motion.t[:2]))
    sides = []
    for sign in (1.0, -1.0):
        behind = min(float(np.quantile(sign * along, BEHIND)), 0.0) if sideways > SIDEWAYS else 0.0
        shift = behind * sign * motion.t[:2] / max(sideways, SIDEWAYS) / motion.camera.focal
        sides.append(replace(motion, R=turn_of_shift(shift) @ motion.R, t=sign * motion.t))
    return sides


def _off_front(matches: Matches, motion: Motion) -> np.ndarray:
    """(N,) distances of the matches from where a static point in front of the camera can be seen."""
    found = _triangulated(matches, motion)
    return np.hypot(found.epipolar, np.minimum(found.inverse_depth, 0) * np.sqrt(found.information))


def _triangulated(matches: Matches, motion: Motion) -> Triangulation:
    return triangulate(matches.a.T, matches.b.T, matches.information().T, motion.R, motion.t, motion.camera)


def _turn_suffices(matches: Matches, turn: Motion, moved: Motion) -> bool:
    """Any epipolar geometry also explains some movers: to be preferred it must explain a good deal more than a turn."""
    residuals = epipolar_residuals(matches, moved)
    scale = robust_scale(residuals)
    explained = np.count_nonzero(np.abs(residuals) < INLIER * scale)
    by_turn = np.count_nonzero(rotation_residuals(matches, turn) < INLIER * scale)
    return by_turn >= TURN_EXPLAINS * explained


def _with_homography(matches: Matches, turn: Motion) -> Motion:
    """The turn, with the homography that also takes up distortion, rolling shutter and a wrong focal length."""
    residuals = rotation_residuals(matches, turn)
    inliers = residuals < INLIER * robust_scale_2d(residuals)
    homography, _ = cv2.findHomography(matches.a[inliers], matches.b[inliers], method=0)
    K = turn.camera.matrix()
    return replace(turn, homography=K @ turn.R @ np.linalg.inv(K) if homography is None else homography)


def _in_front(matches: Matches, motion: Motion) -> Motion:
    """The sign of the translation that puts most matches before the camera."""
    found = _triangulated(matches, motion)
    significance = found.inverse_depth * np.sqrt(found.information)
    votes = np.clip(significance, -5, 5)[np.abs(found.epipolar) < INLIER * robust_scale(found.epipolar)]
    return motion if votes.sum() >= 0 else replace(motion, t=-motion.t)
