"""The camera's motion from matches, and inverse depth in closed form."""

from dataclasses import replace

import numpy as np
import pytest
from helpers_classical import K, angle, angle_between, pose

from easi3r_ros.core.two_view.estimate import estimate_motion
from easi3r_ros.core.two_view.flow import UNKNOWN_LENS
from easi3r_ros.core.two_view.refine import Camera, FocalBelief, Matches, camera_from, focal_from_fov
from easi3r_ros.core.two_view.rigid import RigidFit, floating, implausible_depth, triangulate

CAMERA = Camera(K[[0, 1], [0, 1]], K[:2, 2])
KNOWN = FocalBelief(0.0, np.inf)
SIGMA = 0.05  # pixels


def matches_of(b_from_a: np.ndarray, rng, count=800, movers=0.0, moved=(0.25, -0.1, 0.0)) -> tuple[Matches, np.ndarray]:
    """Matches of random points, a share of which moves on its own; and their depth in a."""
    depth = rng.uniform(2, 7, count)
    pixels = rng.uniform([0, 0], [160, 120], (count, 2))
    points = CAMERA.rays(pixels) * depth[:, None]
    later = points @ b_from_a[:3, :3].T + b_from_a[:3, 3]
    later[: int(movers * count)] += moved
    target = (later @ K.T)[:, :2] / later[:, 2:] + rng.normal(0, SIGMA, (count, 2))
    return Matches(pixels, target, np.tile([SIGMA**2, 0, SIGMA**2], (count, 1))), depth


@pytest.mark.parametrize("translation", [(0.2, 0.02, 0.0), (0.0, 0.0, 0.25), (-0.1, 0.05, -0.15)])
def test_motion_is_found_among_movers(translation):
    b_from_a = pose(translation, (0.01, -0.03, 0.02))
    matches, _ = matches_of(b_from_a, np.random.default_rng(0), movers=0.3)
    motion = estimate_motion(matches, CAMERA, KNOWN)
    assert angle(motion.R @ b_from_a[:3, :3].T) < 0.1
    assert angle_between(motion.t, b_from_a[:3, 3]) < 1.5  # the sign too: points must be in front


def test_the_aperture_problem_does_not_bias_the_translation():
    """A pixel of error along edges of all directions, 1 to 3 pixels of parallax: refinement at the measured points, not
    the likeliest ones, is off by 2.2 degrees here."""
    errors = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        b_from_a = pose((0.05, 0.015, 0.005), (0.004, -0.01, 0.005))
        matches, _ = matches_of(b_from_a, rng)
        edge = rng.uniform(0, np.pi, len(matches))
        along = np.stack([np.cos(edge), np.sin(edge)], axis=-1)
        covariance = np.stack([along[:, 0] ** 2, along[:, 0] * along[:, 1], along[:, 1] ** 2], -1) + matches.covariance
        blurred = replace(matches, b=matches.b + along * rng.normal(0, 1, (len(matches), 1)), covariance=covariance)
        errors.append(angle_between(estimate_motion(blurred, CAMERA, KNOWN).t, b_from_a[:3, 3]))
    assert np.mean(errors) < 1.6


def test_a_turn_is_a_turn_in_spite_of_movers():
    b_from_a = pose((0, 0, 0), (0.02, 0.08, -0.03))
    matches, _ = matches_of(b_from_a, np.random.default_rng(1), movers=0.15)
    motion = estimate_motion(matches, CAMERA, KNOWN)
    assert motion.turns_only
    assert angle(motion.R @ b_from_a[:3, :3].T) < 0.02
    infinite = K @ b_from_a[:3, :3] @ np.linalg.inv(K)
    np.testing.assert_allclose(motion.homography / motion.homography[2, 2], infinite / infinite[2, 2], atol=0.05)


def test_a_still_camera_turns_by_nothing():
    matches, _ = matches_of(np.eye(4), np.random.default_rng(2))
    motion = estimate_motion(matches, CAMERA, KNOWN)
    assert motion.turns_only
    assert angle(motion.R) < 0.01


def test_a_turn_teaches_the_focal_length():
    b_from_a = pose((0, 0, 0), (0.01, 0.12, 0.0))
    matches, _ = matches_of(b_from_a, np.random.default_rng(3))
    wrong = FocalBelief(float(np.log(0.7 * K[0, 0])), 6.0)
    start = replace(CAMERA, focal=0.7 * CAMERA.focal)
    motion = estimate_motion(matches, start, wrong)
    assert motion.camera.focal[0] == pytest.approx(K[0, 0], rel=0.02)
    assert motion.focal.information > 10 * wrong.information
    assert angle(motion.R @ b_from_a[:3, :3].T) < 0.1


def test_a_known_focal_length_stays():
    matches, _ = matches_of(pose((0, 0, 0), (0.01, 0.12, 0.0)), np.random.default_rng(4))
    np.testing.assert_array_equal(estimate_motion(matches, CAMERA, KNOWN).camera.focal, CAMERA.focal)


def test_a_longer_pair_decides_whether_there_is_parallax():
    tiny = pose((0.004, 0, 0), (0, 0.01, 0))  # 0.1 pixels of parallax
    matches, _ = matches_of(tiny, np.random.default_rng(5))
    assert estimate_motion(matches, CAMERA, KNOWN).turns_only
    longer = estimate_motion(matches_of(pose((0.2, 0, 0)), np.random.default_rng(5))[0], CAMERA, KNOWN)
    assert not estimate_motion(matches, CAMERA, KNOWN, longer=longer).turns_only


def test_few_matches_say_nothing():
    matches, _ = matches_of(pose((0.2, 0, 0)), np.random.default_rng(6), count=20)
    assert estimate_motion(matches, CAMERA, KNOWN) is None


def test_triangulation_is_exact_without_noise_and_honest_with_it():
    b_from_a = pose((0.2, -0.05, 0.1), (0.01, -0.03, 0.02))
    rng = np.random.default_rng(7)
    matches, depth = matches_of(b_from_a, rng, count=4000)
    baseline = np.linalg.norm(b_from_a[:3, 3])
    t = b_from_a[:3, 3] / baseline
    found = triangulate(matches.a.T, matches.b.T, matches.information().T, b_from_a[:3, :3], t, CAMERA)
    deviations = (found.inverse_depth - baseline / depth) * np.sqrt(found.information)
    assert np.std(deviations) == pytest.approx(1, abs=0.1)
    assert np.std(found.epipolar) == pytest.approx(1, abs=0.1)
    assert abs(np.mean(deviations)) < 0.05  # no bias: scale of the world hangs on it


def test_triangulation_of_the_impossible_is_negative():
    ahead = np.array([[80.0], [60.0]])
    moved_with_the_camera = np.array([[90.0], [60.0]])  # the camera goes right, static things go left
    found = triangulate(
        ahead, moved_with_the_camera, np.array([[100.0], [0], [100.0]]), np.eye(3), np.array([-1.0, 0, 0]), CAMERA
    )
    assert found.inverse_depth[0] < 0


def test_camera_without_intrinsics_looks_through_the_middle():
    focal = focal_from_fov(320, 60.0)
    assert focal == pytest.approx(277.13, abs=0.01)
    camera = camera_from(None, (320, 240), FocalBelief(float(np.log(focal)), 1.0))
    np.testing.assert_allclose(camera.centre, [160, 120])
    np.testing.assert_allclose(camera_from(K, (320, 240), KNOWN).matrix(), K)


def hillside(seed):
    """Matches of a far plane with near rocks below, seen by a camera that slides past and turns with them."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform([0, 0], [160, 120], (800, 2))
    rocks = pixels[:, 1] > 88
    points = CAMERA.rays(pixels) * np.where(rocks, rng.uniform(4, 6, 800), 40 + 0.1 * pixels[:, 0])[:, None]
    b_from_a = pose((0.3, 0.02, 0.02), (0.0, -0.02, 0.0))
    later = points @ b_from_a[:3, :3].T + b_from_a[:3, 3]
    target = (later @ K.T)[:, :2] / later[:, 2:] + rng.normal(0, SIGMA, (800, 2))
    return Matches(pixels, target, np.tile([SIGMA**2, 0, SIGMA**2], (800, 1))), b_from_a, rocks


@pytest.mark.parametrize("seed", range(3))
def test_near_rocks_before_a_far_plane_do_not_fall_behind_infinity(seed):
    """With a focal length that is a quarter off, a turn and a shift of the plane can hardly be told apart."""
    matches, b_from_a, rocks = hillside(seed)
    wrong = replace(CAMERA, focal=0.75 * CAMERA.focal)
    motion = estimate_motion(matches, wrong, FocalBelief(float(np.log(wrong.focal[0])), 6.0))
    assert not motion.turns_only
    assert angle_between(motion.t, b_from_a[:3, 3]) < 20
    found = triangulate(matches.a.T, matches.b.T, matches.information().T, motion.R, motion.t, motion.camera)
    assert np.mean(found.inverse_depth[rocks] > 0) > 0.95
    assert np.median(found.inverse_depth[rocks]) > 3 * np.median(np.abs(found.inverse_depth[~rocks]))


def test_a_near_thing_that_reaches_the_border_may_stand_there():
    near = np.zeros((60, 80), bool)
    near[40:, 10:30] = True
    near[20:30, 40:60] = True
    np.testing.assert_array_equal(floating(near), near & (np.arange(80) >= 40))
    everywhere = np.full((60, 80), 100.0, np.float32)
    inverse_depth = np.where(near, 9.0, 1.0).astype(np.float32)
    violation = implausible_depth(RigidFit(inverse_depth, everywhere, 0 * everywhere), everywhere)
    assert violation[50, 20] == 0
    assert violation[25, 50] == pytest.approx(65)  # ten times what it is nearer than 2.5
    behind = implausible_depth(RigidFit(np.where(near, -9, 1), everywhere, 0 * everywhere), everywhere)
    assert behind[50, 20] == pytest.approx(90)


def test_the_error_of_an_unknown_lens_can_be_taken_off_again():
    matches, _ = matches_of(pose((0.02, 0, 0), (0, 0.01, 0)), np.random.default_rng(8))
    exact = replace(matches, covariance=np.tile([0.02**2, 0, 0.02**2], (len(matches), 1)))
    loose = exact.loosened(UNKNOWN_LENS)
    np.testing.assert_allclose(loose.tightened(UNKNOWN_LENS).covariance, exact.covariance, rtol=1e-6)
    assert (exact.tightened(UNKNOWN_LENS).covariance[:, [0, 2]] > 0).all()
