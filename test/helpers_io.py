"""Recordings made on the spot, a pipeline that does no work, and results to write."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from rosbags.interfaces import Qos
from rosbags.rosbag2 import StoragePlugin, Writer

from easi3r_ros.core.types import Frame, FrameResult, TrackingState
from easi3r_ros.messages.conversions import camera_info_message, image_message, time_message
from easi3r_ros.messages.message_types import CameraInfo, Header, Image
from easi3r_ros.messages.stand_ins import message_class, serialize, typestore

WIDTH, HEIGHT = 64, 48
FRAME_ID = "cam_optical"
START = 1_700_000_000_000_000_007  # a stamp that no float holds
PERIOD = 40_000_000
K = np.array([[70.0, 0, 31.5], [0, 70.0, 23.5], [0, 0, 1]])


def picture(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(H, W, 3) uint8 RGB, smooth enough for lossy codecs, different for every index."""
    v, u = np.mgrid[:height, :width]
    image = np.stack([u * 3, v * 4, np.full_like(u, 8 * index)], -1)
    return np.clip(image, 0, 255).astype(np.uint8)


def stamp(index: int) -> int:
    return START + index * PERIOD


def header(index: int) -> Header:
    return Header(stamp=time_message(stamp(index)), frame_id=FRAME_ID)


def raw_image(index: int) -> Image:
    return image_message(picture(index), "rgb8", header(index))


def jpeg_image(index: int):
    data = cv2.imencode(".png", cv2.cvtColor(picture(index), cv2.COLOR_RGB2BGR))[1]
    return message_class("sensor_msgs/msg/CompressedImage")(header=header(index), format="png", data=data.ravel())


def camera_info(index: int) -> CameraInfo:
    return camera_info_message(header(index), (WIDTH, HEIGHT), K, None)


def write_bag(
    folder: Path,
    messages: Iterable[tuple[str, str, int, object]],
    plugin: StoragePlugin = StoragePlugin.MCAP,
    qos: Sequence[Qos] = (),
) -> Path:
    """messages: (topic, type, time in ns, message). qos: what the recorded publishers offered."""
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        connections = {}
        for topic, kind, time_ns, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=typestore(), offered_qos_profiles=qos)
            writer.write(connections[topic], time_ns, serialize(message))
    return folder


def camera_bag(folder: Path, count: int = 5, plugin: StoragePlugin = StoragePlugin.MCAP, image=raw_image) -> Path:
    """Images first, each followed by its camera_info, as a driver may publish them."""
    compressed = image is not raw_image
    topic = "/cam/image_raw/compressed" if compressed else "/cam/image_raw"
    kind = "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image"
    messages = []
    for index in range(count):
        messages.append((topic, kind, stamp(index) + 5, image(index)))
        messages.append(("/cam/camera_info", "sensor_msgs/msg/CameraInfo", stamp(index) + 9, camera_info(index)))
    return write_bag(folder, messages, plugin)


def write_video(path: Path, count: int = 6, rate: float = 25.0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
    for index in range(count):
        video.write(cv2.cvtColor(picture(index, *size), cv2.COLOR_RGB2BGR))
    video.release()
    return path


def encode_video(
    path: Path,
    ticks: Sequence[int],
    codec: str = "libx264",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    base: int = 90_000,
    muxer: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """A video whose i-th frame shows `picture(i)` at ticks[i] / base seconds; the name says the container."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=30, options={"crf": "12"} | options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, base)
        for index, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def tag_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write into an MP4 how players must turn it: x' = a x + c y, y' = b x + d y, each -1, 0 or 1."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix comes after 40 bytes of other fields
    struct.pack_into(">9i", data, at, *(65536 * value for value in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    path.write_bytes(data)
    return path


def make_result(
    index: int = 0, state: TrackingState = TrackingState.TRACKING, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> FrameResult:
    """A wall 2 units away, a mover at 1 unit in a rectangle, the camera 0.1 units further right at every index."""
    width, height = size
    frame = Frame(index, stamp(index), FRAME_ID, picture(index, width, height), K)
    mask = np.zeros((height, width), bool)
    mask[10:20, 10 + index : 30 + index] = True
    depth = np.where(mask, 1.0, 2.0).astype(np.float32)
    depth[0] = np.nan
    confidence = np.full((height, width), 3.0, np.float32)
    confidence[0] = 1.0
    pose = np.eye(4)
    pose[0, 3] = 0.1 * index
    return FrameResult(
        frame=frame,
        mask=mask,
        probability=np.where(mask, 0.9, 0.1).astype(np.float32),
        depth=depth,
        confidence=confidence,
        K=K,
        world_from_cam=pose,
        covariance=np.eye(6) * 0.01,
        state=state,
        reason="" if state is TrackingState.TRACKING else "because",
        metric=False,
        residual=0.02,
        dynamic_fraction=float(mask.mean()),
        window=tuple(range(max(0, index - 2), index + 1)),
        latency_ms={"encode": 2.0, "decode": 3.0},
        evidence={},
    )


class FakePipeline:
    """`make_result` for every frame, with that frame in it."""

    resets = 0

    def reset(self) -> None:
        self.resets += 1

    def push(self, frame: Frame) -> FrameResult:
        from dataclasses import replace

        height, width = frame.image.shape[:2]
        seen = self.__dict__.setdefault("seen", [])  # not every number: what is damaged is left out
        seen.append(frame.index)
        return replace(make_result(frame.index, size=(width, height)), frame=frame, window=tuple(seen[-3:]))
