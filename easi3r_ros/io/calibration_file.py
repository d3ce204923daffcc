"""Calibrations from files: of ROS's camera calibrator, OpenCV (`%YAML:1.0`), ORB-SLAM's settings, Kalibr and EuRoC."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from easi3r_ros.io.sources import CameraProperties, SourceError
from easi3r_ros.messages.plausible import is_fisheye, why_implausible

log = logging.getLogger(__name__)


class _Loader(yaml.SafeLoader):
    """Plain YAML, and OpenCV's matrices as the mappings that they are."""


_Loader.add_constructor(
    "tag:yaml.org,2002:opencv-matrix", lambda loader, node: loader.construct_mapping(node, deep=True)
)

Parts = tuple[Any, tuple[int, int], Any, str]  # K as nine numbers, (W, H), D, name of the distortion model


def _of_ros_or_opencv(data: Mapping[str, Any]) -> Parts:
    D = data.get("distortion_coefficients", {}) or {}
    model = data.get("distortion_model", data.get("camera_model", ""))
    return data["camera_matrix"]["data"], (data["image_width"], data["image_height"]), D.get("data", ()), model


def _of_orb_slam(data: Mapping[str, Any]) -> Parts:
    camera = "Camera1" if "Camera1.fx" in data else "Camera"
    fx, fy, cx, cy = (float(data[f"{camera}.{name}"]) for name in ("fx", "fy", "cx", "cy"))
    D = [data[f"{camera}.{name}"] for name in ("k1", "k2", "p1", "p2") if f"{camera}.{name}" in data]
    size = data["Camera.width"], data["Camera.height"]
    return (
        [fx, 0, cx, 0, fy, cy, 0, 0, 1],
        size,
        D,
        "equidistant" if data.get("Camera.type") == "KannalaBrandt8" else "",
    )


def _of_kalibr(data: Mapping[str, Any]) -> Parts:
    camera = data.get("cam0", data)
    fx, fy, cx, cy = (float(value) for value in camera["intrinsics"][-4:])
    D, model = camera.get("distortion_coeffs", ()), camera.get("distortion_model", "")
    return [fx, 0, cx, 0, fy, cy, 0, 0, 1], tuple(camera["resolution"]), D, model


_READERS: tuple[Callable[[Mapping[str, Any]], Parts], ...] = (_of_ros_or_opencv, _of_orb_slam, _of_kalibr)


def load_calibration(path: Path, frame_id: str = CameraProperties.frame_id) -> CameraProperties:
    """The pinhole camera that a calibration file describes. Raises SourceError."""
    parts = _parts(_content(path))
    if parts is None:
        raise SourceError(
            f"'{path}' is no camera calibration: expected image_width, image_height and camera_matrix with 9 numbers "
            "(ROS, OpenCV), Camera.fx ... Camera.height (ORB-SLAM), or intrinsics and resolution (Kalibr)"
        )
    K, size, D, model = parts
    if problem := why_implausible(K, size, D):
        raise SourceError(f"'{path}': {problem}")
    if is_fisheye(model):
        log.warning("'%s' is the calibration of a fisheye lens, which is not modelled: rectify the images first", path)
    return CameraProperties(frame_id, K, size)


def _content(path: Path) -> Any:
    """Raises SourceError where the file cannot be read; None: it is no YAML."""
    try:
        text = path.read_text()
    except OSError as error:
        raise SourceError(f"cannot read the calibration file '{path}': {error.strerror}") from error
    except UnicodeDecodeError:
        return None
    try:
        return yaml.load(re.sub(r"\A\s*%YAML[: ]\S*\s*\n", "", text), _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        return None


def _parts(data: Any) -> tuple[np.ndarray, tuple[int, int], np.ndarray, str] | None:
    """(3, 3) K, (W, H), D and the model's name; None if nobody understands it."""
    for reader in _READERS:
        try:
            K, (width, height), D, model = reader(data)
            matrix = np.array(K, np.float64).reshape(3, 3)
            return matrix, (int(width), int(height)), np.array(D, np.float64).ravel(), str(model)
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    return None
