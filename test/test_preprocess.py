"""Resize, crop and intrinsics: there, and exactly back."""

import numpy as np
import pytest

from easi3r_ros.core.config import PreprocessConfig
from easi3r_ros.core.preprocess import camera_intrinsics, network_intrinsics, plan, prepare, seen_share, to_camera
from easi3r_ros.core.types import Frame, ImageTransform, InputSpec

NETWORK = InputSpec(512, 16)
LINEAR_224 = InputSpec(224, 16, square=True)

# Sizes that the published preprocessing gives (shared/golden/golden_metrics.json, preprocess_sizes).
PUBLISHED = [
    (NETWORK, (854, 480), (512, 288)),
    (NETWORK, (480, 854), (288, 512)),
    (NETWORK, (640, 480), (512, 384)),
    (NETWORK, (1024, 436), (512, 208)),
    (NETWORK, (512, 512), (512, 384)),
    (NETWORK, (300, 200), (512, 336)),
    (NETWORK, (333, 517), (320, 512)),
    (LINEAR_224, (854, 480), (224, 224)),
    (LINEAR_224, (333, 517), (224, 224)),
]


@pytest.mark.parametrize("spec, camera, network", PUBLISHED)
def test_sizes_as_published(spec, camera, network):
    assert plan(camera, spec, spec.long_side).size == network


def frame_of(image, K=None):
    return Frame(0, 0, "camera", image, K)


@pytest.mark.parametrize("spec", [NETWORK, LINEAR_224, InputSpec(320)])
@pytest.mark.parametrize("camera", [(854, 480), (333, 517), (512, 512)])
def test_a_ramp_comes_back_at_its_place(spec, camera):
    """Pixel coordinates themselves as image: whatever is shifted by half a pixel shows."""
    W, H = camera
    u = np.tile(np.arange(W) * 255.0 / W, (H, 1))
    v = np.tile((np.arange(H) * 255.0 / H)[:, None], (1, W))
    image = np.stack([u, v, u], -1).round().astype(np.uint8)
    prepared = prepare(frame_of(image), spec, PreprocessConfig())
    for channel, truth in ((0, u), (1, v)):
        back = to_camera(prepared.image[..., channel], prepared.transform, fill=np.nan, smooth=True)
        inner = np.isfinite(back)
        inner[[0, -1]] = inner[:, [0, -1]] = False
        assert np.abs(back - truth)[inner][50:-50].mean() < 0.45  # rounding to uint8, twice
        assert np.abs((back - truth)[inner].mean()) < 0.1


def test_intrinsics_project_to_the_same_content():
    K = np.array([[700.0, 0, 430.2], [0, 690.0, 236.1], [0, 0, 1]])
    transform = plan((854, 517), NETWORK, 512)
    point = np.array([0.3, -0.2, 1.5])
    u, v = (K @ point / point[2])[:2]
    un, vn = (network_intrinsics(K, transform) @ point / point[2])[:2]
    sx, sy = transform.resized_size[0] / 854, transform.resized_size[1] / 517
    assert un == pytest.approx((u + 0.5) * sx - 0.5 - transform.crop[0])
    assert vn == pytest.approx((v + 0.5) * sy - 0.5 - transform.crop[1])
    assert np.allclose(camera_intrinsics(network_intrinsics(K, transform), transform), K)


def test_cropped_margins_are_filled():
    transform = plan((512, 512), NETWORK, 512)  # 4:3 crop: 64 rows above and below are never seen
    back = to_camera(np.ones((384, 512)), transform, fill=np.nan, smooth=False)
    assert back.shape == (512, 512)
    assert np.isnan(back[:64]).all() and np.isnan(back[-64:]).all() and (back[64:-64] == 1).all()


def test_cropped_columns_are_filled_to_the_pixel():
    transform = ImageTransform((100, 48), (100, 48), (26, 0), (48, 48))
    back = to_camera(np.ones((48, 48)), transform, fill=np.nan, smooth=True)
    assert np.isnan(back[:, :26]).all() and np.isnan(back[:, 74:]).all() and (back[:, 26:74] == 1).all()


def test_the_seen_share_counts_both_sides():
    assert seen_share(plan((512, 512), NETWORK, 512)) == 0.75  # rows
    assert seen_share(plan((448, 224), LINEAR_224, 224)) == 0.5  # columns
    assert seen_share(plan((640, 480), InputSpec(320), 320)) == 1.0


def test_what_must_not_be_averaged_is_not():
    """A near and a far surface, at three times the size: no depth between them."""
    depth = np.ones((10, 20), np.float32)
    depth[:, 10:] = 9.0
    transform = ImageTransform((60, 30), (20, 10), (0, 0), (20, 10))
    assert set(np.unique(to_camera(depth, transform, fill=np.nan, smooth=False))) == {1.0, 9.0}
    assert len(np.unique(to_camera(depth, transform, fill=np.nan, smooth=True))) > 2


def test_shrinking_averages():
    """Every camera pixel counts: a fine chequerboard becomes grey, not black or white."""
    board = (np.indices((480, 640)).sum(0) % 2 * 255).astype(np.uint8)
    image = prepare(frame_of(np.stack([board] * 3, -1)), InputSpec(160), PreprocessConfig()).image
    assert np.abs(image.astype(int) - 127).max() < 20


def test_intrinsics_come_back_though_the_sides_are_scaled_differently():
    K = np.array([[700.0, 0, 430.2], [0, 690.0, 236.1], [0, 0, 1]])
    transform = ImageTransform((800, 400), (400, 100), (7, 3), (380, 90))
    inside = network_intrinsics(K, transform)
    assert np.allclose(inside, [[350, 0, 430.7 * 0.5 - 0.5 - 7], [0, 172.5, 236.6 * 0.25 - 0.5 - 3], [0, 0, 1]])
    assert np.allclose(camera_intrinsics(inside, transform), K)


def test_long_side_can_be_chosen():
    assert prepare(frame_of(np.zeros((480, 640, 3), np.uint8)), InputSpec(320), PreprocessConfig(200)).image.shape == (
        150,
        200,
        3,
    )


def test_too_thin_an_image_is_refused():
    with pytest.raises(ValueError, match="too thin"):
        prepare(frame_of(np.zeros((8, 640, 3), np.uint8)), NETWORK, PreprocessConfig())


@pytest.mark.parametrize("spec", [NETWORK, LINEAR_224, InputSpec(320)])
def test_what_others_exclude_is_excluded_where_the_network_sees_it(spec):
    excluded = np.zeros((480, 640), bool)
    excluded[200:260, 300:303] = True  # three columns: narrower than a pixel of the network may be
    frame = Frame(0, 0, "camera", np.where(excluded[..., None], np.uint8(255), np.zeros((480, 640, 3), np.uint8)))
    image = prepare(frame, spec, PreprocessConfig())
    assert image.excluded is None
    image = prepare(Frame(0, 0, "camera", frame.image, None, excluded), spec, PreprocessConfig())
    assert image.excluded.shape == image.image.shape[:2] and image.excluded.any()
    assert image.excluded[image.image[..., 0] > 128].all(), "every pixel that shows it"
    assert image.excluded.mean() < 2 * excluded.mean() + 0.01
