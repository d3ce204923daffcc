"""Images that show nothing, the same, or something else: the state says so, and the world waits."""

from functools import cache
from itertools import chain

import cv2
import numpy as np
import pytest
from helpers_classical import ROOM, K, pose, render

from easi3r_ros.core.config import PipelineConfig
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.sight import doubted, is_same, little_texture, why_blind
from easi3r_ros.core.types import AlignedFrame, Frame, TrackingState

PERIOD = 66_000_000
H, W = 120, 160
T, L = TrackingState.TRACKING, TrackingState.LOST


@cache
def walk(index: int) -> np.ndarray:
    """What a camera sees that moves sideways through a room."""
    image = render(ROOM, pose((0.05 * index, 0.0, 0.01 * index)), noise_seed=index)[0]
    image.flags.writeable = False
    return image


def watermark() -> np.ndarray:
    return cv2.putText(np.zeros((240, 320, 3), np.uint8), "26.11. NO SIGNAL", (8, 230), 0, 0.6, (255, 255, 255))


def flat(level: float, noise: float = 0.0, shape: tuple[int, ...] = (H, W, 3)) -> np.ndarray:
    return np.clip(np.random.default_rng(0).normal(level, noise, shape), 0, 255).astype(np.uint8)


def track(images, K=K):
    pipeline = Pipeline(PipelineConfig())
    return [
        pipeline.push(Frame(index, index * PERIOD, "cam", np.ascontiguousarray(image), K))
        for index, image in enumerate(images)
    ]


BLIND = {
    "black": (flat(0), "black"),
    "a covered lens with sensor noise": (flat(6, 2), "low contrast"),
    "white": (flat(255), "white"),
    "grey": (flat(128), "grey"),
    "white noise": (flat(128, 80), "noise"),
    "grey noise": (np.repeat(flat(128, 60, (H, W, 1)), 3, -1), "noise"),
    "a ramp": (np.repeat(np.tile(np.linspace(0, 255, W, dtype=np.uint8), (H, 1))[..., None], 3, -1), "no texture"),
    "ten bits taken for sixteen": (walk(0) // 16, "bits"),
    "a clock on black": (watermark(), "no texture in 9"),
}


@pytest.mark.parametrize("name", BLIND)
def test_why_an_image_is_blind(name):
    image, reason = BLIND[name]
    assert reason in why_blind(image)


def test_a_room_is_not_blind():
    for image in (walk(0), walk(0) // 4, np.clip(walk(0) + flat(0, 15, (H, W, 3)), 0, 255).astype(np.uint8)):
        assert why_blind(image) == "" and little_texture(image) == ""
    covered = cv2.resize(walk(0), None, fx=2, fy=2)
    covered[:, : 2 * W * 9 // 10] = 0
    assert why_blind(covered) == "" and "texture" in little_texture(covered)


def test_what_a_camera_takes_twice_is_not_the_same():
    image = walk(0)
    again = np.clip(image.astype(int) + np.random.default_rng(1).normal(0, 1, image.shape).round(), 0, 255)
    assert is_same(image, image.copy()) and not is_same(image, again.astype(np.uint8))
    assert not is_same(image, image[:-2])


@pytest.mark.parametrize("name", ["black", "white noise"])
def test_the_world_waits_while_nothing_is_seen(name):
    blind = BLIND[name][0]
    results = track([*map(walk, range(4)), *[blind] * 12, *map(walk, range(5, 8))])
    assert [result.state for result in results[2:4]] == [T, T]
    for result in results[4:16]:  # more than the window holds
        assert result.state is L and BLIND[name][1] in result.reason
        assert not result.mask.any() and np.isnan(result.depth).all()
        assert result.covariance[0, 0] >= 1e6 and result.window == (0, 1, 2, 3)
    assert [result.state for result in results[16:]] == [T] * 3
    assert {result.world for result in results} == {0}
    gone = [np.linalg.norm(results[i].world_from_cam[:3, 3]) for i in (3, 18)]
    assert gone[1] / gone[0] == pytest.approx(7 / 3, rel=0.15)


def test_blind_from_the_beginning():
    results = track([flat(0)] * 3 + [*map(walk, range(4))])
    assert [result.state for result in results[:3]] == [TrackingState.INITIALISING] * 3
    assert "black" in results[2].reason and results[-1].state is T


def test_images_of_two_kinds_in_turn():
    """Such as a topic on which somebody also publishes depth: the stranger is LOST, and disturbs nothing."""
    depth = [cv2.applyColorMap(render(ROOM, pose())[1].astype(np.uint8) * 30, cv2.COLORMAP_JET)] * 8
    strangers = [np.roll(image, 20 * i, axis=1) for i, image in enumerate(depth)]
    results = track(chain.from_iterable(zip(map(walk, range(8)), strangers, strict=True)))
    assert {result.state for result in results[5::2]} == {L}
    assert "found again" in results[7].reason
    assert [result.state for result in results[4::2]] == [T] * 6


def test_another_scene_becomes_another_world():
    other = [np.ascontiguousarray(walk(i)[::-1, ::-1]) for i in range(16)]
    other = [255 - image for image in other]
    results = track([*map(walk, range(4)), *other])
    assert results[4].state is L and results[4].world == 0
    assert results[-1].state is T and results[-1].world == 1


class TestRepeatedImages:
    def test_it_gets_the_same_answer_and_its_own_stamp(self):
        results = track(map(walk, [0, 1, 2, 3, 3, 4, 5, 6, 7, 8]))
        assert [result.state for result in results[2:]] == [T] * 8
        first, again = results[3:5]
        assert again.frame.stamp_ns == 4 * PERIOD and again.frame.index == 4 and again.window == first.window
        assert again.world_from_cam is first.world_from_cam
        assert again.depth is first.depth  # computed once, for whoever asks first
        assert 4 not in results[5].window

    def test_every_image_twice(self):
        results = track(map(walk, np.repeat(range(8), 2)))
        assert [result.state for result in results[4:]] == [T] * 12

    def test_a_camera_that_hangs_is_told(self):
        results = track(map(walk, [0, 1, 2] + [3] * 40 + [4, 5]))
        assert results[20].state is T
        assert results[42].state is TrackingState.DEGRADED and "the same image for 3 s" in results[42].reason
        assert results[-1].state is T


def test_a_mover_over_much_of_the_image_makes_the_pose_doubtful():
    for moving, state in ((0.1, T), (0.45, TrackingState.DEGRADED)):
        found = doubted(AlignedFrame(0, np.eye(4), np.eye(6), K, None, None, 0.0, T), walk(0), 0.9, moving)
        assert found.state is state and ("45% of the image moves" in found.reason) == (moving > 0.3)
