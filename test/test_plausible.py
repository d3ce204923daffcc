"""Calibrations and frame names that make no sense are refused in words; what merely looks odd is taken."""

from types import SimpleNamespace

import numpy as np
import pytest

from easi3r_ros.io.calibration_file import load_calibration
from easi3r_ros.io.sources import SourceError
from easi3r_ros.messages.calibration import CameraModel
from easi3r_ros.messages.plausible import tf_name, why_implausible

SIZE = (640, 480)


def matrix(fx=500.0, fy=500.0, cx=320.0, cy=240.0, skew=0.0):
    return np.array([[fx, skew, cx], [0, fy, cy], [0, 0, 1]])


@pytest.mark.parametrize(
    ("K", "D", "words"),
    [
        (matrix(fy=1, cx=0, cy=0), [], "do not belong together (fx 500, fy 1, cx 0, cy 0)"),
        (matrix(0.8, 1.1, 0.5, 0.5), [], "in units of the image's size"),
        (matrix(cx=0, cy=0), [], "principal point is the image's corner"),
        (matrix(cx=2000), [], "far outside the image"),
        (matrix(20, 20), [], "does not fit the image's size"),
        (matrix(1e6, 1e6), [], "does not fit the image's size"),
        (matrix(-500, 500), [], "not positive"),
        (matrix(np.nan), [], "K is not finite"),
        (matrix(np.inf, np.inf), [], "K is not finite"),
        (matrix(skew=200), [], "no camera matrix"),
        (matrix(), [np.nan] * 5, "D = [nan, nan, nan, nan, nan] is not finite"),
    ],
)
def test_nonsense_is_named_with_what_a_sane_one_looks_like(K, D, words):
    text = why_implausible(K, SIZE, np.array(D))
    assert words in text and "fx = fy = 512, cx = 320, cy = 240" in text


@pytest.mark.parametrize(
    "K", [matrix(), matrix(180, 180), matrix(3000, 3000), matrix(cx=-100), matrix(500, 600), matrix(skew=3)]
)
def test_what_a_camera_can_have(K):
    assert why_implausible(K, SIZE, np.array([0.1, -0.2, 0, 0, 0])) == ""


class TestCameraInfo:
    def ask(self, K=None, frame_id="cam", strict=False, D=(), model="plumb_bob"):
        warnings = []
        camera = CameraModel(False, warnings.append, strict)
        roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
        camera.update(
            SimpleNamespace(
                header=SimpleNamespace(frame_id="cam"),
                k=(matrix() if K is None else K).ravel(),
                p=np.zeros(12),
                d=list(D),
                distortion_model=model,
                width=640,
                height=480,
                binning_x=0,
                binning_y=0,
                roi=roi,
            )
        )
        answers = [camera.matching(SIZE, frame_id) for _ in range(3)]
        return answers[-1], warnings

    def test_nonsense_is_not_passed_on(self):
        answer, warnings = self.ask(matrix(fy=1, cx=0, cy=0))
        assert answer == (None, None) and len(warnings) == 1
        assert "the focal length is estimated" in warnings[0] and "fy 1" in warnings[0]

    def test_distortion_that_is_no_number(self):
        assert self.ask(D=[np.nan] * 5)[0] == (None, None)

    @pytest.mark.parametrize("model", ["omni", "Double_Sphere"])
    def test_a_fisheye_is_known_by_its_model(self, model):
        """With D = 0 it is still no pinhole; test_rectify.py has those that can be made one."""
        answer, warnings = self.ask(D=[0.0] * 4, model=model)
        assert answer[1] is not None and "lens distortion" in warnings[0]
        assert self.ask(D=[0.0] * 4)[1] == []

    @pytest.mark.parametrize("frame_id", ["cam_optical", "base_link", ""])
    def test_another_frame_id_is_taken_and_told_once(self, frame_id):
        answer, warnings = self.ask(frame_id=frame_id)
        assert np.array_equal(answer[1], matrix()) and len(warnings) == 1 and "it is taken" in warnings[0]
        answer, warnings = self.ask(frame_id=frame_id, strict=True)
        assert answer == (None, None) and len(warnings) == 1 and "ignoring it" in warnings[0]

    def test_a_slash_in_front_is_no_difference(self):
        answer, warnings = self.ask(frame_id="/cam", strict=True)
        assert np.array_equal(answer[1], matrix()) and warnings == []


def test_names_of_frames():
    assert [tf_name(name) for name in ("/map", "map", "//a/b", " cam ", "")] == ["map", "map", "a/b", "cam", ""]


OPENCV = """%YAML:1.0
---
calibration_time: "Thu 26 Nov 2026"
image_width: 640
image_height: 480
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 5.0e+02, 0., 320., 0., 500., 240., 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ 0., 0., 0., 0., 0. ]
"""
ORB_SLAM = """%YAML:1.0
Camera.type: "PinHole"
Camera.fx: 500.0
Camera.fy: 500.0
Camera.cx: 320.0
Camera.cy: 240.0
Camera.width: 640
Camera.height: 480
"""
EUROC = "sensor_type: camera\nresolution: [640, 480]\ncamera_model: pinhole\nintrinsics: [500, 500, 320, 240]\n"
KALIBR = "cam0:\n  intrinsics: [500, 500, 320, 240]\n  resolution: [640, 480]\n  distortion_coeffs: [0, 0, 0, 0]\n"


@pytest.mark.parametrize("text", [OPENCV, ORB_SLAM, EUROC, KALIBR, OPENCV.replace("%YAML:1.0\n---\n", "")])
def test_calibration_files(tmp_path, text):
    (tmp_path / "camera.yaml").write_text(text)
    camera = load_calibration(tmp_path / "camera.yaml")
    assert np.array_equal(camera.K, matrix()) and camera.size == SIZE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OPENCV.replace("5.0e+02", "0.8").replace("500.", "1.1"), "fx 0.8, fy 1.1"),
        ("%YAML:1.0\nfx: 3\n", "is no camera calibration"),
        ("- 1\n", "is no camera calibration"),
        ("a: !!python/object:os.system x\n", "is no camera calibration"),
    ],
)
def test_calibration_files_that_are_none(tmp_path, text, words):
    (tmp_path / "camera.yaml").write_text(text)
    with pytest.raises(SourceError) as error:
        load_calibration(tmp_path / "camera.yaml")
    assert words in str(error.value)
