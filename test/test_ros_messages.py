"""Results as messages: every field of every output, with ROS's classes or with the stand-ins for them."""

import array
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.types import Deferred, Frame, FrameResult, PointCloud, TrackingState
from easi3r_ros.messages import conversions as messages
from easi3r_ros.messages.conversions import UNKNOWN, StampedPose, twist_between
from easi3r_ros.messages.images import array_from_image, rgb_from_image
from easi3r_ros.messages.message_types import WITH_ROS, CameraInfo, DiagnosticStatus, Header, WindowStatus
from easi3r_ros.messages.results import DEBUG_TOPICS, TOPICS, ResultMessages
from easi3r_ros.messages.ros_libraries import point_cloud
from easi3r_ros.messages.status import BackboneInfo, Counts, Timing, status_message, total_latency_ms
from easi3r_ros.ros.monitor import Monitor
from easi3r_ros.ros.params import NodeConfig

SECOND = 1_000_000_000
K = np.array([[50.0, 0, 4], [0, 50, 3], [0, 0, 1]])


def header(stamp_ns=1_234_567_891, frame_id="cam"):
    return Header(stamp=messages.time_message(stamp_ns), frame_id=frame_id)


def transform(rotation_vector=(0, 0, 0), translation=(0, 0, 0)):
    result = np.eye(4)
    result[:3, :3] = Rotation.from_rotvec(rotation_vector).as_matrix()
    result[:3, 3] = translation
    return result


def result(index=0, state=TrackingState.TRACKING, world_from_cam=None, width=8, height=6):
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    return FrameResult(
        frame=Frame(index, (index + 1) * SECOND, "cam", np.full((height, width, 3), 7, np.uint8)),
        mask=mask,
        probability=mask * np.float32(0.75),
        depth=np.full((height, width), 2, np.float32),
        confidence=np.full((height, width), 3, np.float32),
        K=K,
        world_from_cam=transform() if world_from_cam is None else world_from_cam,
        covariance=np.eye(6) * 0.01,
        state=state,
        reason="" if state is TrackingState.TRACKING else "because",
        metric=False,
        residual=0.02,
        dynamic_fraction=0.5,
        window=(index - 1, index) if index else (0,),
        latency_ms={"encode": 1.5, "decode": 2.5},
        evidence={},
    )


class TestImages:
    @pytest.mark.parametrize(("encoding", "dtype"), [("mono8", "u1"), ("32FC1", "f4"), ("32SC1", "i4")])
    def test_layout(self, encoding, dtype):
        pixels = np.arange(12).reshape(3, 4).astype(dtype)
        message = messages.image_message(pixels, encoding, header())
        assert (message.width, message.height, message.encoding) == (4, 3, encoding)
        assert message.step == 4 * pixels.itemsize and not message.is_bigendian
        assert bytes(message.data) == pixels.astype(f"<{dtype}").tobytes()
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 234_567_891)

    def test_stays_as_it_is_when_the_array_changes(self):
        pixels = np.zeros((2, 2), np.uint8)
        message = messages.image_message(pixels, "mono8", header())
        pixels[:] = 9
        assert bytes(message.data) == bytes(4)

    @pytest.mark.skipif(not WITH_ROS, reason="no ROS 2 here: the stand-ins keep NumPy arrays")
    def test_data_is_an_array_as_rclpy_wants_it(self):
        message = messages.image_message(np.zeros((2, 2), np.uint8), "mono8", header())
        assert isinstance(message.data, array.array) and message.data.typecode == "B"

    def test_wrong_shape(self):
        with pytest.raises(ValueError, match="cannot be mono8"):
            messages.image_message(np.zeros((2, 2, 3), np.uint8), "mono8", header())

    def test_mask_polarity(self):
        message = messages.mask_message(np.array([[True, False]]), header())
        assert bytes(message.data) == b"\xff\x00" and message.encoding == "mono8"

    @given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).map(lambda shape: (*shape, 3))))
    def test_rgb_round_trip(self, pixels):
        np.testing.assert_array_equal(rgb_from_image(messages.image_message(pixels, "rgb8", header())), pixels)

    @given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
    def test_depth_round_trip_keeps_nan(self, depth):
        np.testing.assert_array_equal(array_from_image(messages.image_message(depth, "32FC1", header())), depth)

    def test_views_need_not_be_contiguous(self):
        pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)[:, ::2]
        np.testing.assert_array_equal(array_from_image(messages.image_message(pixels, "mono8", header())), pixels)


@pytest.mark.parametrize("make", [messages.cloud_message, point_cloud], ids=["own code", "as installed"])
class TestClouds:
    def test_fields_and_colours(self, make):
        cloud = PointCloud(
            np.array([[1, 2, 3], [4, 5, 6]], np.float32),
            np.array([[255, 128, 1], [0, 0, 255]], np.uint8),
            np.array([1.5, 9], np.float32),
        )
        message = make(cloud, header())
        assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields] == [
            ("x", 0, 7, 1),
            ("y", 4, 7, 1),
            ("z", 8, 7, 1),
            ("rgb", 12, 7, 1),
            ("confidence", 16, 7, 1),
        ]
        assert (message.width, message.height, message.point_step, message.row_step) == (2, 1, 20, 40)
        words = np.frombuffer(bytes(message.data), "<u4").reshape(2, 5)
        assert [hex(word) for word in words[:, 3]] == ["0xff8001", "0xff"]
        floats = np.frombuffer(bytes(message.data), "<f4").reshape(2, 5)
        np.testing.assert_array_equal(floats[:, [0, 1, 2, 4]], [[1, 2, 3, 1.5], [4, 5, 6, 9]])
        assert message.is_dense and not message.is_bigendian

    def test_empty(self, make):
        cloud = PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32))
        message = make(cloud, header())
        assert (message.width, message.height, message.point_step, message.row_step) == (0, 1, 20, 0)
        assert len(message.fields) == 5 and len(message.data) == 0 and message.is_dense

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_dense(self, make, bad):
        xyz = np.array([[1, bad, 3], [4, 5, 6]], np.float32)
        cloud = PointCloud(xyz, np.zeros((2, 3), np.uint8), np.array([np.nan, 1], np.float32))
        message = make(cloud, header())
        assert not message.is_dense
        floats = np.frombuffer(bytes(message.data), "<f4").reshape(2, 5)
        np.testing.assert_array_equal(floats[:, :3], xyz)
        np.testing.assert_array_equal(floats[:, 4], [np.nan, 1])

    def test_every_bit_of_a_colour(self, make):
        """Colours are bits in a float: numbers so small that nothing may round them to zero."""
        rgb = np.random.default_rng(0).integers(0, 256, (1000, 3), np.uint8)
        message = make(PointCloud(np.zeros((1000, 3), np.float32), rgb, np.zeros(1000, np.float32)), header())
        packed = np.frombuffer(bytes(message.data), np.uint8).reshape(1000, 20)[:, 12:16]
        np.testing.assert_array_equal(packed, np.column_stack([rgb[:, ::-1], np.zeros(1000)]))

    def test_stays_as_it_is_when_the_arrays_change(self, make):
        xyz = np.zeros((2, 3), np.float32)
        message = make(PointCloud(xyz, np.zeros((2, 3), np.uint8), np.zeros(2, np.float32)), header())
        xyz[:] = 1
        assert bytes(message.data) == bytes(40)


class TestCameraInfo:
    def test_received_is_passed_on_with_the_images_header(self):
        received = CameraInfo(header=header(1, "other"), k=K.ravel() * 2, d=[0.1] * 5, width=8, height=6)
        info = messages.camera_info_message(header(), (8, 6), K, received)
        assert list(info.d) == [0.1] * 5 and info.k[0] == 100
        assert info.header.frame_id == "cam" and received.header.frame_id == "other"

    @pytest.mark.parametrize("received", [None, "uncalibrated"])
    def test_estimated(self, received):
        info = messages.camera_info_message(header(), (8, 6), K, CameraInfo() if received else None)
        np.testing.assert_array_equal(np.reshape(info.k, (3, 3)), K)
        np.testing.assert_array_equal(np.reshape(info.p, (3, 4)), np.hstack([K, np.zeros((3, 1))]))
        assert (info.width, info.height, info.distortion_model, list(info.d)) == (8, 6, "plumb_bob", [0.0] * 5)


class TestPoses:
    @given(hnp.arrays(float, 3, elements=st.floats(-3, 3)), hnp.arrays(float, 3, elements=st.floats(-1e3, 1e3)))
    def test_pose_round_trip(self, rotation_vector, translation):
        world_from_cam = transform(rotation_vector, translation)
        pose = messages.pose_of(world_from_cam)
        q, p = pose.orientation, pose.position
        assert math.isclose(math.hypot(q.x, q.y, q.z, q.w), 1)
        np.testing.assert_allclose(
            Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix(), world_from_cam[:3, :3], atol=1e-9
        )
        np.testing.assert_allclose([p.x, p.y, p.z], translation)

    def test_quarter_turn_about_z(self):
        q = messages.pose_of(transform((0, 0, np.pi / 2))).orientation
        np.testing.assert_allclose([q.x, q.y, q.z, q.w], [0, 0, math.sqrt(0.5), math.sqrt(0.5)], atol=1e-12)

    @given(st.integers(0, 2**31 * SECOND - 1))
    def test_stamps_are_exact(self, stamp_ns):
        assert messages.stamp_ns(messages.time_message(stamp_ns)) == stamp_ns

    def test_covariance_is_row_major(self):
        covariance = np.arange(36.0).reshape(6, 6)
        assert list(messages.pose_message(transform(), covariance, header()).pose.covariance) == list(range(36))


class TestTwist:
    def pose(self, seconds, world_from_cam, covariance=None):
        return StampedPose(
            int(seconds * SECOND), world_from_cam, np.zeros((6, 6)) if covariance is None else covariance
        )

    def test_in_the_axes_of_the_camera(self):
        """Half a second along world x while the camera looks along it (its z axis), turning about its y axis."""
        looking_along_x = Rotation.from_matrix([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
        first, second = np.eye(4), np.eye(4)
        first[:3, :3] = looking_along_x.as_matrix()
        second[:3, :3] = (looking_along_x * Rotation.from_rotvec([0, 1e-3, 0])).as_matrix()
        second[0, 3] = 2
        twist, _ = twist_between(self.pose(1, first), self.pose(1.5, second))
        np.testing.assert_allclose(twist, [0, 0, 4, 0, 2e-3, 0], atol=5e-3)
        np.testing.assert_allclose(twist[3:], [0, 2e-3, 0], atol=1e-9)

    def test_covariance_follows_the_axes_and_time(self):
        covariance = np.diag([1.0, 2, 3, 4, 5, 6])
        turned = transform((0, 0, np.pi / 2))
        _, result = twist_between(self.pose(0, turned, covariance), self.pose(2, turned, covariance))
        np.testing.assert_allclose(np.diag(result), np.array([2, 1, 3, 5, 4, 6]) * 2 / 4)

    def test_covariance_is_turned_into_the_camera_s_axes(self):
        """Looking along world x, what is least known of world x is least known of the way along the camera's own z."""
        looking_along_x = np.eye(4)
        looking_along_x[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
        covariance = np.diag([10.0, 2, 3, 40, 5, 6])
        poses = [self.pose(second, looking_along_x, covariance) for second in (0, 1)]
        np.testing.assert_allclose(np.diag(twist_between(*poses)[1]), 2 * np.array([2, 3, 10, 5, 6, 40]))

    @pytest.mark.parametrize("seconds", [1.0, 0.5])
    def test_unknown_without_two_times(self, seconds):
        assert twist_between(self.pose(1, transform()), self.pose(seconds, transform())) is UNKNOWN
        assert twist_between(None, self.pose(1, transform())) is UNKNOWN


class TestResults:
    @pytest.fixture
    def maker(self):
        return ResultMessages("map", 3, CloudConfig(stride=1))

    def make(self, maker, made, wanted=lambda name: True):
        return dict(maker.make(made, header(made.frame.stamp_ns), None, wanted))

    def test_everything_but_the_status(self, maker):
        made = self.make(maker, result())
        assert set(made) == set(TOPICS) - {"status"}
        for name, message in made.items():
            assert isinstance(message, TOPICS[name])
            assert messages.stamp_ns(message.header.stamp) == SECOND
            assert message.header.frame_id == ("map" if name in ("pose", "odometry", "path") else "cam")
        assert bytes(made["mask"].data) == bytes([255, 255, 255, 255, 0, 0, 0, 0]) * 6
        assert (made["points/static"].width, made["points/dynamic"].width) == (24, 24)
        assert made["odometry"].child_frame_id == "cam"

    def test_each_cloud_has_its_own_points(self, maker):
        mask = np.zeros((6, 8), bool)
        mask[:2] = True
        made = self.make(maker, replace(result(), mask=mask, depth=np.where(mask, 1, 5).astype(np.float32)))
        for name, count, depth in (("points/dynamic", 16, 1.0), ("points/static", 32, 5.0)):
            points = np.frombuffer(bytes(made[name].data), messages.CLOUD_DTYPE)
            assert len(points) == count and set(points["z"]) == {depth}

    def test_odometry_has_the_pose_with_its_covariance(self, maker):
        made = self.make(maker, result(world_from_cam=transform((0.1, 0.2, 0.3), (1, 2, 3))))
        assert made["odometry"].pose == made["pose"].pose and made["odometry"].header == made["pose"].header
        assert made["odometry"].pose.pose.position.z == 3 and made["odometry"].pose.covariance[0] == 0.01

    def test_only_what_is_wanted_is_made(self, maker, monkeypatch):
        monkeypatch.setattr("easi3r_ros.messages.results.split_cloud", lambda *_: pytest.fail("nobody wants clouds"))
        assert set(self.make(maker, result(), lambda name: name == "mask")) == {"mask"}
        assert self.make(maker, result(), lambda name: False) == {}

    def test_evidence_of_the_cues_at_work(self, maker):
        odds = np.array([[-1.5, 4.0]], np.float32)
        made = self.make(maker, replace(result(), evidence={"geometry": odds, "attention/dynamic": odds}))
        assert set(made) & set(DEBUG_TOPICS) == {"evidence/geometry"}
        np.testing.assert_array_equal(array_from_image(made["evidence/geometry"]), odds)
        assert made["evidence/geometry"].header.frame_id == "cam"

    def test_path_is_bounded_and_grows_unseen(self, maker):
        for index in range(4):
            self.make(maker, result(index), lambda name: False)
        made = self.make(maker, result(4), lambda name: name == "path")
        assert [messages.stamp_ns(pose.header.stamp) for pose in made["path"].poses] == [s * SECOND for s in (3, 4, 5)]

    def test_shorter_path_from_now_on(self, maker):
        for index in range(3):
            self.make(maker, result(index))
        maker.reconfigure(2, CloudConfig(), path_period=0.0)
        assert len(self.make(maker, result(3))["path"].poses) == 2

    def test_a_path_repeats_its_poses_once_per_period_alone(self):
        maker = ResultMessages("map", 100, CloudConfig(), path_period=2.5)
        paths = [self.make(maker, result(index)).get("path") for index in range(7)]  # a pose a second
        assert [index for index, path in enumerate(paths) if path] == [0, 3, 6]
        assert [len(path.poses) for path in paths if path] == [1, 4, 7], "the poses between are in it"
        maker.reconfigure(100, CloudConfig(), path_period=0.0)
        assert "path" in self.make(maker, result(7))

    def test_who_comes_late_gets_a_path_at_once(self):
        maker = ResultMessages("map", 100, CloudConfig(), path_period=1000.0)
        for index in range(3):
            self.make(maker, result(index), lambda name: False)
        assert len(self.make(maker, result(3))["path"].poses) == 4
        maker.restart()
        assert len(self.make(maker, result(4))["path"].poses) == 1, "a new world does not wait for the old one's period"

    def test_only_maps_that_somebody_wants_are_computed(self, maker):
        """A map is computed when it is read; here that fails for those that nobody asks for."""
        names = ("mask", "probability", "depth", "confidence", "evidence")

        def deferred(computed):
            plain = {**{name: getattr(result(), name) for name in names}, "evidence": {"geometry": result().depth}}
            later = {name: Deferred(lambda name=name: computed.append(name) or plain[name]) for name in names}
            return replace(result(), **later)

        for wanted, needed in {
            (): set(),
            ("pose", "odometry", "path", "mask/camera_info", "depth/camera_info"): set(),
            ("mask",): {"mask"},
            ("probability",): {"probability"},
            ("depth",): {"depth"},
            ("evidence/geometry",): {"evidence"},
            ("points/static",): {"mask", "depth", "confidence"},
        }.items():
            computed = []
            made = self.make(maker, deferred(computed), lambda name, wanted=wanted: name in wanted)
            assert set(made) == set(wanted) and set(computed) == needed and len(computed) == len(needed)

    def test_restart(self, maker):
        self.make(maker, result(0, world_from_cam=transform(translation=(9, 9, 9))))
        maker.restart()
        made = self.make(maker, result(1))
        assert len(made["path"].poses) == 1
        assert made["odometry"].twist.covariance[0] == 1e6, "no velocity between two worlds"

    def test_velocity(self, maker):
        self.make(maker, result(0))
        odometry = self.make(maker, result(1, world_from_cam=transform(translation=(0, 0, 3))))["odometry"]
        assert odometry.twist.twist.linear.z == pytest.approx(3)

    @pytest.mark.parametrize("state", [TrackingState.INITIALISING, TrackingState.LOST])
    def test_nothing_is_said_of_a_pose_that_was_not_measured(self, maker, state):
        held = result(state=state)
        assert set(TOPICS) - set(self.make(maker, held)) == {"pose", "odometry", "path", "status"}
        assert maker.transform(held, header()) is None
        assert len(self.make(maker, result(1))["path"].poses) == 1, "the held one is not in it"

    def test_a_weak_pose_is_a_pose(self, maker):
        weak = result(state=TrackingState.DEGRADED)
        assert {"pose", "odometry", "path"} <= set(self.make(maker, weak))
        assert maker.transform(weak, header()) is not None

    @pytest.mark.parametrize("state", [TrackingState.INITIALISING, TrackingState.LOST])
    def test_no_velocity_over_a_time_without_poses(self, maker, state):
        self.make(maker, result(0))
        self.make(maker, result(1, state))
        assert self.make(maker, result(2))["odometry"].twist.covariance[0] == 1e6
        assert self.make(maker, result(3))["odometry"].twist.covariance[0] < 1

    def test_nothing_joins_two_worlds(self, maker):
        self.make(maker, result(0))
        made = self.make(maker, replace(result(1), world=1))
        assert made["odometry"].twist.covariance[0] == 1e6 and len(made["path"].poses) == 1
        made = self.make(maker, replace(result(2), world=1))
        assert made["odometry"].twist.covariance[0] < 1 and len(made["path"].poses) == 2

    def test_transform(self, maker):
        made = maker.transform(result(world_from_cam=transform(translation=(1, 2, 3))), header())
        assert (made.header.frame_id, made.child_frame_id) == ("map", "cam")
        translation = made.transform.translation
        assert (translation.x, translation.y, translation.z) == (1, 2, 3)


class TestStatus:
    def message(self, made=None, checkpoint=""):
        made = made or result(4)
        return status_message(
            made,
            header(),
            [3 * SECOND, 4 * SECOND],
            BackboneInfo("classical", checkpoint),
            Timing(12.5, math.nan, 9.5),
            Counts(received=10, processed=6, failed=1, dropped=2),
        )

    def test_fields(self):
        status = self.message()
        assert status.tracking_state == WindowStatus.STATE_TRACKING and status.reason == ""
        assert (status.frame_index, list(status.window_frames)) == (4, [3, 4])
        assert [messages.stamp_ns(stamp) for stamp in status.window_stamps] == [3 * SECOND, 4 * SECOND]
        assert (list(status.stage_names), list(status.stage_latency_ms)) == (["encode", "decode"], [1.5, 2.5])
        assert (status.frames_received, status.frames_processed, status.frames_dropped) == (10, 6, 3)
        assert (status.backbone, status.uses_checkpoint, status.checkpoint) == ("classical", False, "")
        assert status.processing_latency_ms == 12.5 and math.isnan(status.total_latency_ms)

    def test_checkpoint(self):
        assert self.message(checkpoint="/a.pth").uses_checkpoint

    @pytest.mark.parametrize("state", TrackingState)
    def test_every_state_has_a_constant(self, state):
        number = getattr(WindowStatus, f"STATE_{state.name}")
        assert self.message(result(4, state)).tracking_state == number

    @pytest.mark.parametrize(("now_s", "expected"), [(3.0, 1500.0), (1.0, math.nan), (1e9, math.nan)])
    def test_total_latency(self, now_s, expected):
        np.testing.assert_equal(total_latency_ms(int(now_s * SECOND), header(1_500_000_000)), expected)


class TestMonitor:
    def test_rate_and_percentiles(self):
        now = [0.0]
        monitor = Monitor(lambda: now[0])
        for index in range(21):
            now[0] = index / 10
            monitor.finished(result(index), latency_ms=index)
        assert monitor.frame_rate == pytest.approx(10)
        values = {v.key: v.value for v in monitor.tracking_diagnostic("easi3r", BackboneInfo("classical", "")).values}
        assert (values["latency p50 [ms]"], values["latency p95 [ms]"]) == ("10", "19")
        assert values["checkpoint"] == "none"
        now[0] = 100.0
        assert monitor.frame_rate == 0

    def test_silence(self):
        now = [0.0]
        monitor = Monitor(lambda: now[0])
        now[0] = 3.0
        status = monitor.input_diagnostic("easi3r", "/image", Counts(), silent=True, paused=False)
        assert status.level == DiagnosticStatus.STALE and "no images for 3 s" in status.message
        monitor.image_came()
        assert monitor.silence == 0
        assert monitor.input_diagnostic("easi3r", "/image", Counts(), False, False).level == DiagnosticStatus.OK
        assert monitor.input_diagnostic("easi3r", "/image", Counts(), False, True).message == "paused"

    @pytest.mark.parametrize(
        ("counts", "lost", "silent", "level", "text"),
        [
            (Counts(received=30, processed=20, dropped=10), 0, False, DiagnosticStatus.OK, "receiving images"),
            (
                Counts(received=30, failed=30),
                0,
                False,
                DiagnosticStatus.ERROR,
                "every image is refused: no such encoding",
            ),
            (Counts(received=30, processed=29, failed=1), 0, False, DiagnosticStatus.WARN, "1 of 30 images refused"),
            (Counts(), 25, True, DiagnosticStatus.ERROR, "no images for 11 s, 25 were lost on the way: deaf"),
            (Counts(), 0, True, DiagnosticStatus.STALE, "no images for 11 s: deaf"),
            (Counts(received=10, processed=10), 40, False, DiagnosticStatus.ERROR, "80% of the images are lost"),
            (Counts(received=40, processed=40), 10, False, DiagnosticStatus.WARN, "20% of the images are lost"),
        ],
    )
    def test_the_input_is_green_only_if_images_come_and_are_used(self, counts, lost, silent, level, text):
        now = [0.0]
        monitor = Monitor(lambda: now[0])
        monitor.failed("no such encoding")
        now[0] = 11.0
        monitor.image_lost(lost)
        status = monitor.input_diagnostic("front/easi3r", "/image", counts, silent, False, "deaf")
        assert status.level == level and text in status.message and status.name == "front/easi3r: input"

    def test_only_what_happened_lately_counts(self):
        now = [0.0]
        monitor = Monitor(lambda: now[0])
        levels = []
        for second in range(1, 15):
            now[0] = float(second)
            monitor.image_came()
            good, bad = max(0, second - 3) * 10, min(second, 3) * 10
            counts = Counts(received=good + bad, processed=good, failed=bad)
            levels.append(monitor.input_diagnostic("easi3r", "/image", counts, False, False).level)
        assert levels[:3] == [DiagnosticStatus.ERROR] * 3 and levels[4] == DiagnosticStatus.WARN
        assert levels[-1] == DiagnosticStatus.OK
        assert monitor.input_diagnostic("easi3r", "/image", Counts(), False, False).level == DiagnosticStatus.OK, (
            "reset"
        )

    def test_thresholds_are_the_user_s(self):
        now = [0.0]
        monitor = Monitor(lambda: now[0])

        def told(**limits):
            return monitor.tracking_diagnostic("easi3r", BackboneInfo("classical", ""), "", NodeConfig(**limits))

        for index in range(21):
            assert index > 9 or told(diagnostics_min_rate=1000.0).level == DiagnosticStatus.OK, "too early to say"
            now[0] = index / 10
            monitor.finished(result(index, state=TrackingState.TRACKING), latency_ms=250.0)
        assert told().level == told(diagnostics_min_rate=9.0, diagnostics_max_latency=0.3).level == DiagnosticStatus.OK
        slow, late = told(diagnostics_min_rate=12.0), told(diagnostics_max_latency=0.2)
        assert slow.level == late.level == DiagnosticStatus.WARN
        assert "10.0 results per second, less than diagnostics_min_rate 12" in slow.message
        assert "latency 250 ms, more than diagnostics_max_latency 0.2 s" in late.message
        monitor.image_lost(2)
        counts = Counts(received=30, processed=30)
        assert monitor.input_diagnostic("easi3r", "/image", counts, False, False).level == DiagnosticStatus.OK
        strict = monitor.input_diagnostic("easi3r", "/image", counts, False, False, "", 0.05)
        assert strict.level == DiagnosticStatus.WARN and "6% of the images are lost" in strict.message

    def test_the_last_state_says_nothing_while_no_results_come(self):
        monitor = Monitor()
        monitor.finished(result(state=TrackingState.TRACKING), 1.0)
        status = monitor.tracking_diagnostic("easi3r", BackboneInfo("classical", ""), "no images for 11 s")
        assert (
            status.level == DiagnosticStatus.STALE
            and "no images for 11 s; the last result was tracking" in status.message
        )

    @pytest.mark.parametrize(
        ("state", "level"),
        [
            (TrackingState.TRACKING, DiagnosticStatus.OK),
            (TrackingState.DEGRADED, DiagnosticStatus.WARN),
            (TrackingState.LOST, DiagnosticStatus.ERROR),
        ],
    )
    def test_level_follows_tracking(self, state, level):
        monitor = Monitor()
        monitor.finished(result(state=state), 1.0)
        status = monitor.tracking_diagnostic("easi3r", BackboneInfo("classical", ""))
        assert status.level == level and status.message.startswith(state.value)
