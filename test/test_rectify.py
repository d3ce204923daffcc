"""Distortion out of the image and back into what was found: every lens model, crops, binning, and what is no lens."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers_io import make_result

from easi3r_ros.core.config import PreprocessConfig
from easi3r_ros.core.preprocess import prepare
from easi3r_ros.core.types import Frame, InputSpec
from easi3r_ros.messages.calibration import CameraModel
from easi3r_ros.messages.rectify import Lens, UnknownLens, pinhole_of

SIZE = (320, 240)
K = np.array([[200.0, 0, 155], [0, 205, 122], [0, 0, 1]])
POINTS = np.array([[-0.6, -0.4], [0.6, -0.42], [0.0, 0.0], [0.3, 0.45], [-0.55, 0.4], [0.62, 0.1]])  # x/z, y/z


def polynomial(D):
    """The model of OpenCV's documentation, written down again."""
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4 = [*D, *[0.0] * 12][:12]

    def bend(x, y):
        r2 = x * x + y * y
        radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        return (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + s1 * r2 + s2 * r2**2,
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + s3 * r2 + s4 * r2**2,
        )

    return bend


def equidistant(D):
    k1, k2, k3, k4 = [*D, *[0.0] * 4][:4]

    def bend(x, y):
        r = math.hypot(x, y)
        angle = math.atan(r)
        factor = angle * (1 + k1 * angle**2 + k2 * angle**4 + k3 * angle**6 + k4 * angle**8) / r if r else 1.0
        return x * factor, y * factor

    return bend


LENSES = [
    ("plumb_bob", [-0.25, 0.06, 0.001, -0.002], polynomial),
    ("plumb_bob", [-0.3, 0.1, 0.001, -0.001, -0.01], polynomial),
    ("plumb_bob", [0.12, -0.05, 0.0, 0.0, 0.0], polynomial),
    ("rational_polynomial", [0.5, 0.1, 0.001, 0.0005, 0.01, 0.8, 0.2, 0.02], polynomial),
    ("rational_polynomial", [0.5, 0.1, 0.001, 0, 0.01, 0.8, 0.2, 0.02, 0.002, 0.001, -0.002, 0.001, 0, 0], polynomial),
    ("equidistant", [0.02, -0.01, 0.003, -0.001], equidistant),
    ("equidistant", [], equidistant),
    ("fisheye", [0.0, 0.0, 0.0, 0.0], equidistant),
]
IDS = [f"{name}-{len(D)}-{k}" for k, (name, D, _) in enumerate(LENSES)]


def spots(pixels, radius=2.0):
    """An image with a round spot at each (u, v)."""
    v, u = np.mgrid[: SIZE[1], : SIZE[0]]
    image = np.zeros((SIZE[1], SIZE[0]))
    for x, y in pixels:
        image += np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * radius**2))
    return image


def centre(image, near, reach=9):
    """(u, v) of the spot's centre."""
    u0, v0 = (int(round(value)) for value in near)
    rows, columns = slice(max(0, v0 - reach), v0 + reach + 1), slice(max(0, u0 - reach), u0 + reach + 1)
    part = image[rows, columns].astype(float)
    v, u = np.mgrid[rows, columns][:, : part.shape[0], : part.shape[1]]
    return np.array([(u * part).sum(), (v * part).sum()]) / part.sum()


def through(matrix, points):
    return points * matrix[[0, 1], [0, 1]] + matrix[:2, 2]


@pytest.mark.parametrize(("model", "D", "bending"), LENSES, ids=IDS)
class TestModels:
    def test_spots_come_where_a_pinhole_camera_sees_them_and_back(self, model, D, bending):
        pinhole = np.array([[190.0, 0, 160], [0, 190, 120], [0, 0, 1]])
        lens = Lens(model, K, np.array(D), SIZE, pinhole)
        received = through(K, np.array([bending(D)(x, y) for x, y in POINTS]))
        ideal = through(pinhole, POINTS)
        image = np.repeat((255 * spots(received))[..., None], 3, 2).astype(np.uint8)
        rectified = lens.rectify(image)[..., 0]
        found = np.array([centre(rectified, near) for near in ideal])
        np.testing.assert_allclose(found, ideal, atol=0.15)
        assert np.abs(received - ideal).max() > 2, "the test would not notice"
        back = lens.restore(spots(ideal).astype(np.float32), 0.0, True)
        np.testing.assert_allclose([centre(back, near) for near in received], received, atol=0.15)

    def test_labels_and_masks_keep_their_values(self, model, D, bending):
        lens = Lens(model, K, np.array(D), SIZE, K)
        ids = np.full((SIZE[1], SIZE[0]), 70_001, np.int32)
        back = lens.restore(ids, 0, False)
        assert back.dtype == np.int32 and set(np.unique(back)) <= {0, 70_001} and (back == 70_001).mean() > 0.5
        mask = np.ones((SIZE[1], SIZE[0]), bool)
        assert lens.rectify_mask(mask).dtype == bool


class TestWhatIsNoLens:
    @pytest.mark.parametrize(
        ("model", "D", "text"),
        [
            ("plumb_bob", [0.1], "has 1 coefficients, 0 or 4 or 5 or 8 are expected"),
            ("equidistant", [0.1] * 5, "has 5 coefficients, 0 or 4 are expected"),
            ("thin_plate", [0.1] * 4, "distortion_model 'thin_plate' is not known"),
            ("plumb_bob", [-9.0, 5, 0, 0, 3], "cannot be those of this lens"),
            ("plumb_bob", [float("nan")] * 5, "cannot be those of this lens"),
        ],
    )
    def test_refused_in_words(self, model, D, text):
        with pytest.raises(UnknownLens, match=text):
            Lens(model, K, np.array(D), SIZE, K)


class TestPinhole:
    P = np.array([[150.0, 0, 160], [0, 150, 120], [0, 0, 1]])

    def test_p_where_it_is_one_else_k(self):
        assert pinhole_of(K, self.P, np.eye(3), SIZE) is self.P
        assert pinhole_of(K, self.P, np.zeros((3, 3)), SIZE) is self.P, "R not filled in"
        assert pinhole_of(K, np.zeros((3, 3)), np.eye(3), SIZE) is K

    def test_a_stereo_camera_is_not_turned(self):
        R = np.array([[0.9998, 0.02, 0], [-0.02, 0.9998, 0], [0, 0, 1]])
        assert pinhole_of(K, self.P, R, SIZE) is K


def info(model="plumb_bob", D=(-0.25, 0.06, 0.001, -0.002, 0.0), size=SIZE, roi=(0, 0, 0, 0), binning=0, k=K, p=None):
    p = np.column_stack([k, np.zeros(3)]) if p is None else p
    x, y, width, height = roi
    return SimpleNamespace(
        header=SimpleNamespace(frame_id="cam"),
        width=size[0],
        height=size[1],
        k=np.asarray(k).ravel(),
        p=np.asarray(p).ravel(),
        r=np.eye(3).ravel(),
        d=list(D),
        distortion_model=model,
        binning_x=binning,
        binning_y=binning,
        roi=SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height),
    )


class TestFromCameraInfo:
    def asked(self, message, size, rectified=False):
        warnings = []
        model = CameraModel(rectified, warnings.append)
        model.update(message)
        answer = model.matching(size, "cam")
        return answer, model.lens, warnings

    @pytest.mark.parametrize(("model", "D", "bending"), [LENSES[1], LENSES[4], LENSES[5]], ids=[IDS[1], IDS[4], IDS[5]])
    @pytest.mark.parametrize(
        ("sensor", "roi", "binning", "size", "expected"),
        [
            (SIZE, (0, 0, 0, 0), 0, SIZE, K),
            ((640, 480), (0, 0, 0, 0), 2, SIZE, K),
            ((500, 400), (100, 60, 320, 240), 1, SIZE, K),
            ((1000, 800), (200, 120, 640, 480), 2, SIZE, K),
        ],
        ids=["whole", "binned", "cropped", "both"],
    )
    def test_crops_and_binning(self, model, D, bending, sensor, roi, binning, size, expected):
        """All describe the same lens before the same image, so that one table of spots holds for them."""
        factor = max(binning, 1)
        full = K.copy()
        full[:2] *= factor
        full[0, 2] += roi[0]
        full[1, 2] += roi[1]
        (_, found), lens, warnings = self.asked(info(model, D, sensor, roi, binning, full), size)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert not warnings
        received = through(K, np.array([bending(D)(x, y) for x, y in POINTS]))
        image = np.repeat((255 * spots(received))[..., None], 3, 2).astype(np.uint8)
        rectified = lens.rectify(image)[..., 0]
        ideal = through(K, POINTS)
        np.testing.assert_allclose([centre(rectified, near) for near in ideal], ideal, atol=0.2)

    @pytest.mark.parametrize(
        ("message", "rectified"),
        [
            (info(), True),
            (info(D=[]), False),
            (info(D=[0.0] * 5), False),
            (info("rational_polynomial", [0.0] * 8), False),
            (info("rational_polynomial", [0.0] * 14), False),
            (info("", []), False),
        ],
    )
    def test_nothing_to_take_out(self, message, rectified):
        (_, found), lens, warnings = self.asked(message, SIZE, rectified)
        assert lens is None and not warnings
        np.testing.assert_allclose(found, K)

    def test_a_rectified_topic_has_p(self):
        p = np.array([[150.0, 0, 160, 0], [0, 150, 120, 0], [0, 0, 1, 0]])
        (_, found), lens, _ = self.asked(info(p=p), SIZE, rectified=True)
        np.testing.assert_array_equal(found, p[:, :3])
        (_, found), lens, _ = self.asked(info(p=p), SIZE)
        np.testing.assert_array_equal(found, p[:, :3])
        np.testing.assert_array_equal(lens.K, K)

    def test_a_lens_that_nobody_knows_is_told_once_and_left_as_it_is(self):
        warnings = []
        model = CameraModel(False, warnings.append)
        for _ in range(3):
            model.update(info("omni", [0.1] * 5))
            assert np.array_equal(model.matching(SIZE, "cam")[1], K) and model.lens is None
        assert len(warnings) == 1 and "which is not taken out" in warnings[0] and "image_proc" in warnings[0]

    def test_a_lens_is_made_once_and_again_when_the_calibration_changes(self):
        model = CameraModel(False, [].append)
        model.update(info())
        model.matching(SIZE, "cam")
        first = model.lens
        model.update(info())
        model.matching(SIZE, "cam")
        assert model.lens is first
        model.update(info(D=[-0.2, 0.06, 0.001, -0.002, 0.0]))
        model.matching(SIZE, "cam")
        assert model.lens is not first

    def test_of_another_size_there_is_no_lens(self):
        model = CameraModel(False, [].append)
        model.update(info())
        model.matching(SIZE, "cam")
        assert model.matching((64, 48), "cam") == (None, None) and model.lens is None


@pytest.mark.parametrize("long_side", [320, 160, 100])
@pytest.mark.parametrize("multiple", [1, 16])
def test_k_follows_resize_and_crop(long_side, multiple):
    """A point of the scene is at the same content in the network's image, by K before and K after."""
    frame = Frame(0, 0, "cam", np.repeat((255 * spots(through(K, POINTS), 4.0))[..., None], 3, 2).astype(np.uint8), K)
    made = prepare(frame, InputSpec(long_side, multiple), PreprocessConfig())
    expected = through(made.K, POINTS)
    inside = ((expected > 4) & (expected < np.array(made.transform.size) - 4)).all(1)
    reach = max(3, round(12 * long_side / 320))
    found = np.array([centre(made.image[..., 0], near, reach) for near in expected[inside]])
    np.testing.assert_allclose(found, expected[inside], atol=0.25)
    assert inside.sum() >= 4


class TestResults:
    def lens(self):
        return Lens("plumb_bob", K, np.array([-0.25, 0.06, 0.001, -0.002]), SIZE, K)

    def test_masks_and_depth_lie_on_the_image_that_came_in(self):
        lens, ideal = self.lens(), through(K, POINTS)
        received = through(K, np.array([polynomial([-0.25, 0.06, 0.001, -0.002])(x, y) for x, y in POINTS]))
        image = np.repeat((255 * spots(received))[..., None], 3, 2).astype(np.uint8)
        frame = lens.frame(Frame(3, 5, "cam", image, K, excluded=image[..., 0] > 100))
        assert frame.received.image is image and (frame.index, frame.stamp_ns) == (3, 5)
        there = [centre(frame.excluded, near) for near in ideal]
        np.testing.assert_allclose(there, ideal, atol=0.5)
        mask = spots(ideal) > 0.5
        depth = np.where(mask, 2.0, 5.0).astype(np.float32)
        result = replace(make_result(0, size=SIZE), frame=frame, mask=mask, depth=depth, K=K)
        seen = result.as_received
        np.testing.assert_allclose([centre(seen.mask, near) for near in received], received, atol=0.5)
        assert set(np.unique(seen.depth[np.isfinite(seen.depth)])) == {2.0, 5.0}, "depth is never averaged"
        assert seen.frame.image is image and result.as_received is seen and seen.as_received is seen
        assert result.frame.image is not image, "points come from the rectified one"

    def test_without_a_lens_it_is_the_result_itself(self):
        result = make_result(0)
        assert result.as_received is result

    def test_what_nobody_reads_is_not_bent(self):
        lens, asked = self.lens(), []
        frame = lens.frame(Frame(0, 0, "cam", np.zeros((SIZE[1], SIZE[0], 3), np.uint8), K))
        frame = replace(frame, received=replace(frame.received, restore=lambda *a: asked.append(1) or lens.restore(*a)))
        seen = replace(make_result(0, size=SIZE), frame=frame).as_received
        assert not asked
        assert seen.mask is seen.mask and len(asked) == 1
