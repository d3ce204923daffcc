"""Pictures: that they can be drawn from awkward input, and that what they show is where it should be."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from easi3r_lab.eval import pictures
from matplotlib.colors import to_rgb

SHAPE = (60, 80)


def row(**changes) -> pictures.SheetRow:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[20:40, 30:50] = True
    parts = {
        "label": "0.1 s",
        "image": np.full((*SHAPE, 3), 128, np.uint8),
        "evidence": mask.astype(np.float32),
        "mask": mask,
        "depth": np.full(SHAPE, 2.0),
        "true_mask": mask,
    }
    return pictures.SheetRow(**{**parts, **changes})


def written(figure, path) -> np.ndarray:
    pictures.save(figure, path)
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1]


def share_of(image: np.ndarray, colour: str, tolerance: int = 40) -> float:
    distance = np.abs(image.astype(int) - (np.array(to_rgb(colour)) * 255)).max(axis=-1)
    return float((distance < tolerance).mean())


def test_contact_sheet(tmp_path):
    image = written(pictures.contact_sheet([row(), row()], "title", "m"), tmp_path / "sheet.png")
    one = written(pictures.contact_sheet([row()], "title", "m"), tmp_path / "one.png")
    assert image.shape[0] > one.shape[0] > 200 and image.shape[1] == one.shape[1] > 1000
    assert share_of(image, pictures.TRUTH) > 0.002


@pytest.mark.parametrize(
    "changes",
    [{"depth": np.full(SHAPE, np.nan)}, {"true_mask": None}, {"mask": np.zeros(SHAPE, bool), "true_mask": None}],
)
def test_contact_sheet_of_what_may_be_missing(changes, tmp_path):
    image = written(pictures.contact_sheet([row(**changes)], "title", "m"), tmp_path / "sheet.png")
    assert image.std() > 10


def test_overlay_marks_the_mask_red_and_outlines_the_truth():
    one = row(true_mask=np.pad(np.ones((10, 10), bool), ((5, 45), (5, 65))))
    image = pictures.overlay(one.image, one.mask, one.true_mask)
    red, green, blue = image[30, 40].astype(int)
    assert red > green + 60 and red > blue + 60
    assert np.ptp(image[55, 75]) == 0  # grey stays grey
    np.testing.assert_allclose(image[5, 5:15], np.tile(np.array(to_rgb(pictures.TRUTH)) * 255, (10, 1)), atol=1)
    assert (image[9, 9] != image[5, 5]).any()  # outlined, not filled


def poses(count: int = 20) -> np.ndarray:
    """A camera that goes forward (x) and slightly left (y), looking forward, at a height of 1 m."""
    result = np.tile(np.eye(4), (count, 1, 1))
    result[:, :3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    result[:, :3, 3] = np.linspace([0, 0, 1], [2, 0.5, 1], count)
    return result


def test_trajectory_plot(tmp_path):
    truth, estimated = poses(), poses()
    estimated[:, 0, 3] += 0.02 * np.sin(np.arange(20))
    image = written(
        pictures.trajectory_plot(estimated, truth, np.arange(20) / 30, "title"), tmp_path / "trajectory.png"
    )
    assert share_of(image, pictures.CAMERA) > 0.001
    assert share_of(image, pictures.FAINT) > 0.001


def test_top_view_has_forward_up_and_left_left(tmp_path):
    """Green points far ahead, blue ones to the left, red where something moved to the right; a ceiling is left out."""
    rng = np.random.default_rng(0)

    def patch(x: float, y: float, z: float = 0.2) -> np.ndarray:
        return np.array([x, y, z]) + rng.uniform(-0.3, 0.3, (4000, 3)) * [1, 1, 0.1]

    static = np.concatenate([patch(5, 0), patch(2, 3), patch(2, 0, z=2.5)])
    colours = np.repeat(np.array([[0, 200, 0], [0, 0, 200], [255, 0, 255]], np.uint8), 4000, axis=0)
    figure = pictures.top_view(static, colours, patch(2, -3), poses(), "title")
    image = written(figure, tmp_path / "top.png").astype(int)

    def centre(mask: np.ndarray) -> np.ndarray:
        assert mask.sum() > 500
        return np.argwhere(mask).mean(axis=0)

    below_legend = image[130:]
    red, green, blue = np.moveaxis(below_legend, -1, 0)
    ahead, left = centre((green > red + 90) & (green > blue + 90)), centre((blue > red + 120) & (blue > green + 120))
    right = centre((red > green + 90) & (red > blue + 90))
    assert ahead[0] < left[0] - 100 and abs(left[0] - right[0]) < 40
    assert left[1] < ahead[1] - 100 < right[1] - 200
    assert not ((red > 200) & (blue > 200) & (green < 80)).any()


def test_top_view_without_movers(tmp_path):
    static = np.random.default_rng(0).uniform(-1, 0.5, (500, 3))
    figure = pictures.top_view(static, np.full((500, 3), 90, np.uint8), np.zeros((0, 3)), poses(), "title")
    assert written(figure, tmp_path / "top.png").std() > 5
