"""Which source opens a path: the one place that knows them all, so that each of them needs to know none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path

from easi3r_ros.io.calibration_file import load_calibration
from easi3r_ros.io.folder_names import HEIF_SUFFIXES, OTHER_PICTURES, reads_heif
from easi3r_ros.io.salvage import storage_suffix
from easi3r_ros.io.sources import (
    BAG_SUFFIXES,
    VIDEO_SUFFIXES,
    CameraProperties,
    FrameSource,
    SourceError,
    image_files,
)

OPENERS = "easi3r_ros.sources"  # group of entry points that make sources of names such as synthetic:walkers
LABORATORY = "synthetic"  # the scheme of rendered clips, which the package easi3r_lab registers
_MOST_NAMED = 3


def open_source(
    path: Path | str,
    *,
    topic: str | None = None,
    rate: float | None = None,
    camera_info: Path | str | None = None,
    frame_id: str = CameraProperties.frame_id,
) -> FrameSource:
    """Open a rosbag2 (folder, .mcap or .db3), a video file, a folder of images, or a clip of an installed package.

    The last are names such as synthetic:walkers, which the laboratory (easi3r_lab) renders.

    topic: image topic of a bag, needed only if it has several. For videos and folders: rate, frames per second (default
    is the time that the video gives every frame, 30 for folders); camera_info, a calibration file of the ROS camera
    calibrator; frame_id, the camera's optical frame. Raises SourceError.
    """
    path = Path(path)
    if (opener := opener_of(path)) is not None:
        if topic is not None or camera_info is not None:
            raise SourceError(f"'{path}' brings its own camera: leave out the topic and the calibration file")
        return opener(str(path).partition(":")[2], rate, frame_id)
    if is_bag(path):
        if rate is not None:
            raise SourceError("a bag has its own stamps: leave out the rate")
        from easi3r_ros.io.bag_source import BagSource

        return BagSource(path, topic, None if camera_info is None else load_calibration(Path(camera_info), frame_id))
    if topic is not None:
        raise SourceError(f"'{path}' is no bag and has no topics: leave out the topic '{topic}'")
    camera = CameraProperties(frame_id) if camera_info is None else load_calibration(Path(camera_info), frame_id)
    if path.is_dir():
        from easi3r_ros.io.folder_source import FolderSource

        return FolderSource(path, rate, camera)
    from easi3r_ros.io.video_source import VideoSource

    return VideoSource(path, rate, camera)


def opener_of(path: Path) -> Callable[[str, float | None, str], FrameSource] | None:
    """What an installed package registered for the scheme of `path` (SCHEME:REST): (rest, rate, frame_id) -> source.

    None: it is an ordinary path. Raises SourceError where the package that could open it is missing or broken.
    """
    name = str(path)
    scheme = None if path.exists() else re.match(r"([a-z][a-z0-9_]*):", name)
    if scheme is None:
        return None
    for entry in entry_points(group=OPENERS, name=scheme[1]):
        try:
            return entry.load()
        except ImportError as error:
            raise SourceError(f"'{name}': what opens it ({entry.value}) cannot be imported: {error}") from error
    if scheme[1] == LABORATORY:
        raise SourceError(
            f"'{name}': rendered clips belong to the laboratory, which is not installed. It comes with a checkout of "
            "easi3r_ros, not with the package: pip install -e lab"
        )
    return None


def is_bag(path: Path) -> bool:
    """Whether an existing path is a recording, of whatever state; ROS 1 bags included.

    Raises SourceError for what can be no input at all: nothing, a device, a part of a bag, a folder of mixed things.
    """
    if not path.exists():
        raise SourceError(f"'{path}' does not exist")
    if path.is_dir():
        return _is_bag_folder(path)
    if path.name == "metadata.yaml":
        raise SourceError(f"'{path}' only describes a bag: name its folder, '{path.parent}'")
    if not path.is_file():
        raise SourceError(f"'{path}' is no file: a camera or a stream is for the node, with its driver")
    return path.suffix in BAG_SUFFIXES | {".bag"} or storage_suffix(path) is not None


def _is_bag_folder(path: Path) -> bool:
    if (path / "metadata.yaml").exists():
        return True
    try:
        items = sorted(path.iterdir())
    except OSError as error:
        raise SourceError(f"'{path}' cannot be listed: {error.strerror}") from error
    visible = [item for item in items if not item.name.startswith(".")]
    recordings = [item.name for item in visible if item.suffix in BAG_SUFFIXES]
    videos = [item.name for item in visible if item.suffix.lower() in VIDEO_SUFFIXES]
    images = image_files(visible) or [item for item in visible if item.suffix.lower() in HEIF_SUFFIXES and reads_heif()]
    if (recordings or images) and videos or recordings and images:
        found = [f"{len(images)} image{'s'[: len(images) != 1]}"] if images else []
        found += [_listed(names) for names in (recordings, videos) if names]
        raise SourceError(
            f"'{path}' holds {' and '.join(found)}: name one file, or put the images into their own folder"
        )
    if recordings or images:
        return bool(recordings)
    raise SourceError(f"'{path}' holds neither a bag (metadata.yaml, *.mcap, *.db3) nor images{_hint(visible, videos)}")


def _hint(items: Iterable[Path], videos: list[str]) -> str:
    """What in a folder without frames may have been meant."""
    items = list(items)
    if unread := [item.name for item in items if item.suffix.lower() in HEIF_SUFFIXES | OTHER_PICTURES]:
        heif = any(Path(name).suffix.lower() in HEIF_SUFFIXES for name in unread)
        advice = "pip install pillow-heif, or convert them" if heif else "convert them to PNG"
        return f": {_listed(unread)} cannot be read here; {advice}"
    if videos:
        return f": name the video itself, such as {_listed(videos)}"
    folders = [item.name for item in items if item.is_dir() and _may_hold_frames(item)]
    return f": name one of its folders, such as {_listed(folders)}" if folders else ""


def _may_hold_frames(folder: Path) -> bool:
    """Looks no deeper than into the folder itself."""
    try:
        return any(item.name == "metadata.yaml" or item.suffix in BAG_SUFFIXES for item in folder.iterdir()) or bool(
            image_files(folder.iterdir())
        )
    except OSError:
        return False


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(f"'{name}'" for name in names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
