"""Where up is and which way x goes in `map`, poses and covariances in it, and lengths in metres without jumps."""

from dataclasses import replace

import numpy as np
import pytest
from helpers_io import make_result
from scipy.spatial.transform import Rotation

from easi3r_ros.core.config import ConfigError, PipelineConfig, with_settings
from easi3r_ros.core.types import Deferred, Scale, ScaleState, TrackingState
from easi3r_ros.mapping.level import CAMERA_LEVEL, Accelerometer, Level, Leveller, Upright, levelled
from easi3r_ros.mapping.map_frame import MapFrame, moved_covariance
from easi3r_ros.mapping.placing import Placing, UprightSource, offline_placing

RIGHT, DOWN, AHEAD = np.eye(3)  # optical axes
X, Y, Z = np.eye(3)  # REP-103: forward, left, up
G = 9.81


def pose(position=(0, 0, 0), rotation=None):
    out = np.eye(4)
    out[:3, 3] = position
    if rotation is not None:
        out[:3, :3] = rotation
    return out


def result(position=(0, 0, 0), **changes):
    return replace(make_result(0), world_from_cam=pose(position), **changes)


@pytest.mark.parametrize(("optical", "ros"), [(AHEAD, X), (-RIGHT, Y), (-DOWN, Z)])
def test_a_level_camera_has_z_up_and_x_ahead(optical, ros):
    np.testing.assert_array_equal(CAMERA_LEVEL @ optical, ros)
    np.testing.assert_allclose(levelled(-DOWN, AHEAD, -DOWN) @ optical, ros, atol=1e-12)


@pytest.mark.parametrize("pitch", [-90, -60, -20, 0, 35, 90])
@pytest.mark.parametrize("roll", [0, 30, 180])
def test_gravity_levels_any_camera(pitch, roll):
    """pitch: degrees upwards; a camera that looks straight down has the image's upper edge ahead."""
    optical_from_level = Rotation.from_euler("xz", [pitch, roll], degrees=True).as_matrix()  # turned about its own axes
    up = optical_from_level @ -DOWN
    rotation = levelled(up, AHEAD, -DOWN)
    np.testing.assert_allclose(rotation @ up, Z, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    ahead = rotation @ (AHEAD if abs(pitch) < 90 else -DOWN)
    assert ahead[0] > 0 and abs(ahead[1]) < 1e-9


def test_gravity_needs_a_direction():
    with pytest.raises(ValueError, match="gravity"):
        levelled(np.zeros(3), AHEAD, -DOWN)


def accelerometer(noise=0.02, turning=0.0, offset=0.0, count=200, seconds=0.5):
    out, rng = Accelerometer(), np.random.default_rng(0)
    for k in range(count):
        up = np.array([0.0, 0, G + offset]) + noise * rng.standard_normal(3)
        out.add(int(1e9 + seconds * 1e9 * k / count), up, np.array([0, 0, turning]))
    return out


def test_an_imu_at_rest_and_one_that_is_not():
    up, still = accelerometer().up(1_500_000_000)
    np.testing.assert_allclose(up, [0, 0, G], atol=0.01)
    assert still
    for shaken in (accelerometer(noise=2.0), accelerometer(turning=0.5), accelerometer(offset=2.0)):
        assert not shaken.up(1_500_000_000)[1]
    assert accelerometer().up(9_000_000_000) is None, "nothing near that time"
    assert accelerometer(count=3).up(1_500_000_000) is None
    broken = Accelerometer()
    broken.add(0, np.array([np.nan, 0, 0]), np.zeros(3))
    assert broken.up(0) is None


def test_what_was_measured_at_rest_counts():
    leveller = Leveller("imu")
    leveller.see(np.eye(4), Upright(-DOWN * G))
    leveller.see(np.eye(4), Upright((-DOWN + AHEAD) * G, still=False))
    level, problem = leveller.decide()
    np.testing.assert_allclose(level.rotation @ -DOWN, Z, atol=1e-12)
    assert not problem


def test_accelerations_of_a_moving_camera_average_out_and_are_told():
    leveller = Leveller("imu")
    for sign in (1, -1):
        leveller.see(np.eye(4), Upright(-DOWN * G + sign * 2 * AHEAD, still=False))
    level, problem = leveller.decide()
    np.testing.assert_allclose(level.rotation @ -DOWN, Z, atol=1e-12)
    assert "did not rest" in problem


def test_without_anything_about_up_the_first_image_counts_as_level_and_that_is_said():
    leveller = Leveller("imu")
    leveller.why_blind = "no accelerations on '/imu'"
    level, problem = leveller.decide()
    np.testing.assert_array_equal(level.rotation, CAMERA_LEVEL)
    assert problem.startswith("no accelerations on '/imu'; map is levelled as if the first image was level")


def test_an_image_that_was_turned_already_is_taken_into_account():
    """Gravity comes with the second image, when the camera has rolled a quarter."""
    rolled = Rotation.from_euler("z", 90, degrees=True).as_matrix()  # world_from_cam
    leveller = Leveller("imu")
    leveller.see(pose(rotation=rolled), Upright(rolled.T @ -DOWN * G))
    np.testing.assert_allclose(leveller.decide()[0].rotation @ -DOWN, Z, atol=1e-12)


class TestMapFrame:
    @pytest.fixture
    def frame(self):
        frame = MapFrame()
        frame.set_level(Level(CAMERA_LEVEL), metric=True)
        return frame

    @pytest.mark.parametrize(
        ("moved", "there"), [(AHEAD, X), (RIGHT, -Y), (DOWN, -Z)], ids=["ahead", "to the right", "down"]
    )
    def test_polarity(self, frame, moved, there):
        placed = frame.place(result(moved), Scale())
        np.testing.assert_allclose(placed.world_from_cam[:3, 3], there, atol=1e-12)
        np.testing.assert_allclose(placed.world_from_cam[:3, :3] @ AHEAD, X, atol=1e-12)  # a point ahead of the camera
        assert not placed.metric

    def test_covariance_turns_with_it(self, frame):
        placed = frame.place(result(covariance=np.diag([1.0, 2, 3, 4, 5, 6])), Scale("fixed", ScaleState.LOCKED, 10.0))
        np.testing.assert_allclose(np.diag(placed.covariance), [300, 100, 200, 6, 4, 5], atol=1e-9)

    @pytest.mark.parametrize("metres", [1e-3, 1.0, 1e3])
    def test_an_unknown_variance_stays_unknown(self, metres):
        moved = moved_covariance(np.diag([1e6] * 6), CAMERA_LEVEL, metres)
        assert np.diag(moved).min() >= 1e6 - 1e-3

    def test_metres(self, frame):
        placed = frame.place(result(2 * AHEAD), Scale("depth", ScaleState.LOCKED, 3.0))
        np.testing.assert_allclose(placed.world_from_cam[:3, 3], 6 * X)
        np.testing.assert_allclose(np.nanmax(placed.depth), 3 * np.nanmax(make_result(0).depth))
        assert placed.metric and not placed.withheld

    def test_maps_stay_deferred_and_are_computed_once(self, frame):
        asked = []
        lazy = result().changed(depth=Deferred(lambda: asked.append(1) or np.ones((4, 4), np.float32)))
        placed = frame.place(lazy, Scale("depth", ScaleState.LOCKED, 3.0))
        other = frame.place(lazy, Scale("depth", ScaleState.LOCKED, 3.0))
        assert not asked
        assert placed.depth[0, 0] == other.depth[0, 0] == 3.0 and lazy.depth[0, 0] == 1.0
        assert len(asked) == 1

    def test_better_metres_do_not_move_what_was_said(self, frame):
        locked = lambda metres: Scale("odometry", ScaleState.LOCKED, metres)  # noqa: E731
        frame.place(result(1 * AHEAD), locked(2.0))
        before = frame.place(result(2 * AHEAD), locked(2.0)).world_from_cam[:3, 3]
        after = frame.place(result(2 * AHEAD), locked(3.0)).world_from_cam[:3, 3]
        np.testing.assert_allclose(after, before)
        np.testing.assert_allclose(frame.place(result(3 * AHEAD), locked(3.0)).world_from_cam[:3, 3], before + 3 * X)

    def test_the_way_until_metres_are_known_counts_in_metres(self, frame):
        waiting = frame.place(result(1 * AHEAD), Scale("odometry", ScaleState.UNLOCKED, 2.1))
        assert waiting.withheld and not waiting.metric
        placed = frame.place(result(2 * AHEAD), Scale("odometry", ScaleState.LOCKED, 2.0))
        np.testing.assert_allclose(placed.world_from_cam[:3, 3], 4 * X)

    def test_a_new_world_goes_on_where_the_last_pose_was(self, frame):
        locked = lambda metres: Scale("odometry", ScaleState.LOCKED, metres)  # noqa: E731
        frame.place(result(2 * AHEAD), locked(2.0))
        lost = result(2 * AHEAD, state=TrackingState.LOST, world=1)
        frame.place(lost, Scale("odometry", ScaleState.UNLOCKED))
        frame.place(result(2.5 * AHEAD, world=1), Scale("odometry", ScaleState.UNLOCKED))
        placed = frame.place(result(3 * AHEAD, world=1), locked(10.0))
        np.testing.assert_allclose(placed.world_from_cam[:3, 3], (4 + 10) * X)

    def test_a_base_below_the_camera_is_the_origin(self):
        frame = MapFrame()
        frame.set_level(Level(CAMERA_LEVEL, position=np.array([0.1, 0, 0.3])), metric=True)
        np.testing.assert_allclose(frame.place(result(), Scale()).world_from_cam[:3, 3], [0.1, 0, 0.3])


class Told(UprightSource):
    def __init__(self, answers):
        self._answers = iter(answers)

    def ask(self, result):
        return next(self._answers)


class TestPlacing:
    def test_levels(self):
        config = PipelineConfig()
        for level, there in (("camera", X), ("none", AHEAD)):
            placing = Placing(level, "none", config.scale)
            np.testing.assert_allclose(placing.place(result(AHEAD)).world_from_cam[:3, 3], there)

    def test_a_base_that_looks_sideways(self):
        """level tf: x is the base's, not the camera's."""
        cam_from_base = np.column_stack([-RIGHT, -AHEAD, -DOWN])  # the camera looks to the robot's right
        upright = Upright(cam_from_base[:, 2], cam_from_base[:, 0], np.array([0, -0.2, 0.5]))
        placing = Placing("tf", "depth", PipelineConfig().scale, upright=Told([upright]))
        placed = placing.place(result())
        np.testing.assert_allclose(placed.world_from_cam[:3, :3] @ AHEAD, -Y, atol=1e-12)
        np.testing.assert_allclose(placed.world_from_cam[:3, 3], [0, -0.2, 0.5])

    def test_restart_levels_again(self):
        placing = Placing("imu", "none", PipelineConfig().scale, upright=Told([Upright(-DOWN), Upright(DOWN)]))
        assert placing.place(result(DOWN)).world_from_cam[2, 3] == pytest.approx(-1)
        placing.restart()
        assert placing.place(result(DOWN)).world_from_cam[2, 3] == pytest.approx(1)

    def test_a_metric_backbone_needs_nobody(self):
        placed = Placing("camera", "checkpoint", PipelineConfig().scale).place(result(AHEAD, metric=True))
        assert placed.metric and placed.scale.state is ScaleState.LOCKED and placed.scale.metres == 1.0

    def test_fixed_warns_that_each_start_has_another_unit(self):
        said = []
        config = with_settings(PipelineConfig(), {"scale.source": "fixed", "scale.metres_per_unit": 2.0})
        placing = Placing("camera", "fixed", config.scale, warn=said.append)
        np.testing.assert_allclose(placing.place(result(AHEAD)).world_from_cam[:3, 3], 2 * X)
        placing.restart()
        assert len(said) == 2 and "each start has another unit" in said[0]

    @pytest.mark.parametrize(
        ("values", "metric", "text"),
        [
            ({"level": "imu"}, False, "only the node can do"),
            ({"scale.source": "odometry"}, False, "only the node can do"),
            ({"scale.source": "checkpoint"}, False, "this backbone knows no metres"),
            ({"scale.source": "camera_height"}, False, "set scale.camera_height"),
        ],
    )
    def test_what_a_recording_cannot_have(self, values, metric, text):
        with pytest.raises(ConfigError, match=text):
            offline_placing(with_settings(PipelineConfig(), values), metric)
