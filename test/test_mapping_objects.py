"""Segments of a mask and tracks over time, on rectangles whose depth and motion are known."""

from dataclasses import replace

import numpy as np
import pytest

from easi3r_ros.core.config import CloudConfig, ObjectConfig
from easi3r_ros.core.types import Frame, FrameResult, TrackingState
from easi3r_ros.mapping.segments import extent, find_segments
from easi3r_ros.mapping.tracks import CentroidFilter, ObjectTracker, overlap

WIDTH, HEIGHT, FOCAL, WALL = 320, 240, 300.0, 10.0
K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
MEASURED = CloudConfig(movers="measured")
RATE = 20.0


def view(*things, index=0, camera=(0.0, 0.0, 0.0), rate=RATE, depth_noise=0.0, **changes) -> FrameResult:
    """A wall, and before it (x, y, z, width, height) things in the world that face a camera at a position."""
    mask, depth = np.zeros((HEIGHT, WIDTH), bool), np.full((HEIGHT, WIDTH), WALL, np.float32)
    rng = np.random.default_rng(index)
    for x, y, z, width, height in sorted(things, key=lambda thing: -thing[2]):  # the nearer one covers the farther
        x, y, z = x - camera[0], y - camera[1], z - camera[2]
        u, v = (np.clip(np.rint(FOCAL * np.array([a, a + s]) / z + c).astype(int), 0, c * 2)
                for a, s, c in ((x, width, WIDTH // 2), (y, height, HEIGHT // 2)))  # fmt: skip
        mask[slice(*v), slice(*u)] = True
        depth[slice(*v), slice(*u)] = z * (1 + depth_noise * rng.normal())
    pose = np.eye(4)
    pose[:3, 3] = camera
    values = dict(
        frame=Frame(index, round(index / rate * 1e9), "cam", np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
        mask=mask,
        probability=mask.astype(np.float32),
        depth=depth,
        confidence=np.full((HEIGHT, WIDTH), 3, np.float32),
        K=K,
        world_from_cam=pose,
        covariance=np.eye(6) * 1e-4,
        state=TrackingState.TRACKING,
        reason="",
        metric=False,
        residual=0.0,
        dynamic_fraction=float(mask.mean()),
        window=(index,),
        latency_ms={},
        evidence={},
    )
    return FrameResult(**values | changes)


def tracker(**config) -> ObjectTracker:
    return ObjectTracker(ObjectConfig(**config), MEASURED)


class TestSegments:
    def test_things_apart_are_two_and_the_numbers_cover_the_mask(self):
        result = view((-2, -0.5, 5, 1, 1), (1, -0.5, 5, 0.5, 1))
        segments, numbers = find_segments(result, ObjectConfig(), MEASURED)
        assert len(segments) == 2 and segments[0].area > segments[1].area
        np.testing.assert_array_equal(numbers > 0, result.mask)
        np.testing.assert_allclose(segments[0].centroid, [-1.5, 0, 5], atol=0.03)
        np.testing.assert_allclose(segments[1].centroid, [1.25, 0, 5], atol=0.03)
        assert set(np.unique(numbers[:, : WIDTH // 2])) == {0, 1} and set(np.unique(numbers[:, WIDTH // 2 :])) == {0, 2}

    @pytest.mark.parametrize("near, count", [(3.0, 2), (4.8, 1)])
    def test_a_step_in_depth_parts_what_touches(self, near, count):
        result = view((-1, -0.5, 5, 2, 1), (-0.2, -0.1, near, 0.4, 0.2))
        segments, numbers = find_segments(result, ObjectConfig(), MEASURED)
        assert len(segments) == count
        np.testing.assert_array_equal(numbers > 0, result.mask)
        if count == 2:
            assert sorted(round(float(s.centroid[2]), 1) for s in segments) == [3.0, 5.0]

    def test_fragments_are_no_objects_and_have_no_number(self):
        result = view((-2, -0.5, 5, 1, 1), (1, 0, 5, 0.05, 0.05))
        segments, numbers = find_segments(result, ObjectConfig(), MEASURED)
        assert len(segments) == 1 and 0 < (result.mask & (numbers == 0)).sum() < 20

    def test_a_narrow_crack_does_not_part(self):
        result = view((-0.5, -0.5, 5, 1, 1))
        result.mask[HEIGHT // 2] = False
        assert len(find_segments(result, ObjectConfig(), MEASURED)[0]) == 1

    def test_without_depth_there_is_no_place(self):
        result = view((-0.5, -0.5, 5, 1, 1))
        (segment,), _ = find_segments(replace(result, depth=result.depth * np.nan), ObjectConfig(), MEASURED)
        assert segment.centroid is None and segment.area > 3000

    def test_it_stands_on_the_ground_below_it(self):
        """Two views take its own motion for parallax: 2 m say the pairs, 5 m the ground."""
        result = view((-0.5, -0.5, 5, 1, 1))
        result.depth[result.mask] = 2.0
        result.depth[~result.mask] = 5.0
        standing, _ = find_segments(result, ObjectConfig(), CloudConfig())
        measured, _ = find_segments(result, ObjectConfig(), MEASURED)
        assert standing[0].centroid[2] == pytest.approx(5) and measured[0].centroid[2] == pytest.approx(2)
        assert standing[0].covariance()[2, 2] < 25 * measured[0].covariance()[2, 2]

    def test_the_robot_s_body_is_no_object(self):
        result = view((-2, -0.5, 5, 1, 1), (1, -0.5, 5, 0.5, 1))
        body = np.zeros_like(result.mask)
        body[:, : WIDTH // 2] = True
        segments, numbers = find_segments(result, ObjectConfig(), MEASURED, body)
        assert len(segments) == 1 and not numbers[body].any()

    def test_large_images_give_the_same(self):
        result = view((-2, -0.5, 5, 1, 1))
        large = {name: np.kron(getattr(result, name), np.ones((4, 4))) for name in ("depth", "confidence")}
        large["mask"] = np.kron(result.mask, np.ones((4, 4))) > 0
        K4 = K * 4
        K4[2, 2], K4[0, 2], K4[1, 2] = 1, 4 * K[0, 2] + 1.5, 4 * K[1, 2] + 1.5
        (segment,), numbers = find_segments(replace(result, K=K4, **large), ObjectConfig(), MEASURED)
        np.testing.assert_allclose(segment.centroid, [-1.5, 0, 5], atol=0.05)
        np.testing.assert_array_equal(numbers > 0, large["mask"])

    def test_extent(self):
        points = np.random.default_rng(0).uniform([-1, -2, 3], [1, 2, 4], (5000, 3))
        centre, size = extent(points)
        np.testing.assert_allclose(centre, [0, 0, 3.5], atol=0.1)
        np.testing.assert_allclose(size, [1.9, 3.8, 0.95], atol=0.1)


class TestTracks:
    @pytest.mark.parametrize("camera_speed", [0.0, 0.5])
    def test_velocity_in_the_world_whatever_the_camera_does(self, camera_speed):
        followed = tracker()
        for index in range(40):
            t = index / RATE
            thing = (-2 + 0.8 * t, -0.5, 5 - 0.4 * t, 0.6, 1.5)
            objects, ids = followed.update(view(thing, index=index, camera=(camera_speed * t, 0, 0), depth_noise=0.02))
        (item,) = objects
        np.testing.assert_allclose(item.velocity, [0.8, 0, -0.4], atol=0.12)
        np.testing.assert_allclose(item.centroid, [-2 + 0.8 * t + 0.3, 0.25, 5 - 0.4 * t], atol=0.15)
        np.testing.assert_allclose(item.box_centre, item.centroid, atol=0.1)
        assert item.id == 1 and item.hits == 40 and item.seen and item.age == pytest.approx(39 / RATE)
        assert item.box_size[1] == pytest.approx(1.5, rel=0.15) and set(np.unique(ids)) == {0, 1}
        assert (np.linalg.eigvalsh(item.covariance) > 0).all()

    def test_it_is_reported_when_it_was_seen_often_enough_and_has_its_id_from_the_first(self):
        followed = tracker(min_hits=3)
        counts = []
        for index in range(4):
            objects, ids = followed.update(view((0, -0.5, 5, 1, 1), index=index))
            counts.append(len(objects))
            assert ids.max() == 1
        assert counts == [0, 0, 1, 1]

    def test_two_that_cross_keep_their_ids(self):
        """At different depths; in the image they cover each other."""
        followed, seen = tracker(), []
        for index in range(60):
            t = index / RATE
            first, second = (-2.2 + 1.5 * t, -0.5, 4.0, 0.6, 1.2), (2.5 - 1.5 * t, -0.6, 7.0, 0.6, 1.2)
            _, ids = followed.update(view(first, second, index=index))
            u = [int(FOCAL * (thing[0] + 0.3) / thing[2] + WIDTH / 2) for thing in (first, second)]
            if abs(u[0] - u[1]) > 45 and all(0 <= x < WIDTH for x in u):
                seen.append(tuple(ids[HEIGHT // 2, x] for x in u))
        assert len(seen) > 20 and set(seen) == {seen[0]} and seen[0][0] != seen[0][1]

    def test_out_of_sight_it_goes_on_and_keeps_its_id(self):
        followed = tracker(keep=1.0)
        for index in range(60):
            hidden = 30 <= index < 42
            things = [] if hidden else [(-2 + 1.0 * index / RATE, -0.5, 5, 0.6, 1.2)]
            objects, ids = followed.update(view(*things, index=index))
            if hidden:
                (item,) = objects
                assert not item.seen and not ids.any()
                np.testing.assert_allclose(item.centroid[0], -2 + index / RATE + 0.3, atol=0.15)
        assert objects[0].id == 1 and objects[0].seen

    def test_it_is_given_up_and_its_id_is_not_used_again(self):
        followed = tracker(keep=0.5)
        for index in range(10):
            followed.update(view((-2, -0.5, 5, 0.6, 1.2), index=index))
        for index in range(10, 25):
            objects, _ = followed.update(view(index=index))
        assert objects == [] and followed._tracks == []
        _, ids = followed.update(view((-2, -0.5, 5, 0.6, 1.2), index=25))
        assert ids.max() == 2
        followed.restart()
        _, ids = followed.update(view((-2, -0.5, 5, 0.6, 1.2), index=0))
        assert ids.max() == 3

    def test_without_a_pose_ids_go_on_and_nothing_is_said_of_places(self):
        followed = tracker()
        for index in range(5):
            followed.update(view((0, -0.5, 5, 1, 1), index=index))
        objects, ids = followed.update(view((0, -0.5, 5, 1, 1), index=5), placed=False)
        assert objects == [] and ids.max() == 1
        followed.lose_places()  # another unit from now on
        objects, ids = followed.update(view((0, -2.5, 25, 5, 5), index=6))
        assert ids.max() == 1 and objects[0].centroid[2] == pytest.approx(25)
        np.testing.assert_allclose(objects[0].velocity, 0, atol=1e-9)

    def test_many_images_need_no_more_memory_than_few(self):
        followed, rng = tracker(keep=0.5), np.random.default_rng(0)
        for index in range(300):
            x = rng.uniform(-2, 2)
            followed.update(view((x, -0.5, 5, 0.3, 0.5), index=index))
        assert len(followed._tracks) <= 15


def test_filter_agrees_with_least_squares():
    """Without restlessness, a line through the measurements."""
    times, filter_ = np.arange(20) * 0.1, None
    rng = np.random.default_rng(1)
    positions = np.stack([1 + 2 * times, -3 * times, 0 * times], -1) + rng.normal(0, 0.01, (20, 3))
    for position in positions:
        if filter_ is None:
            filter_ = CentroidFilter(position, np.eye(3) * 1e-4, 1e3)  # any speed is usual
            filter_._acceleration = 0.0
            continue
        filter_.predict(0.1)
        filter_.update(position, np.eye(3) * 1e-4, 1e3)
        filter_._acceleration = 0.0
    slope, level = np.polyfit(times, positions, 1)
    np.testing.assert_allclose(filter_.state[3:], slope, atol=1e-3)
    np.testing.assert_allclose(filter_.state[:3], level + slope * times[-1], atol=1e-3)


def test_overlap():
    a = np.array([[0.0, 0, 2, 2]])
    b = np.array([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2], [8, 0, 10, 2]])
    np.testing.assert_allclose(overlap(a, b), [[1.0, 1 / 3, 0.0, -0.6]])
