"""What other programs take beside or instead of the mask, and on which topic. Knows no node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from easi3r_ros.core.types import FrameResult
from easi3r_ros.messages import conversions as messages
from easi3r_ros.messages.masked import blacked_out, static_mask
from easi3r_ros.messages.message_types import CameraInfo, CompressedImage, Header, Image

STACK_TOPICS = {  # name under ~/ -> message class
    "mask_static": Image,
    "image_static": Image,
    "sync/image": Image,
    "sync/image/compressed": CompressedImage,
    "sync/camera_info": CameraInfo,
}
DEPTH_TOPICS = {"depth_static": Image, "sync/depth": Image}  # where a depth image comes in


def stack_messages(
    result: FrameResult, received: Any, camera_info: CameraInfo | None, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Any]]:
    """(name in STACK_TOPICS, message) of what is `wanted`, all with the stamp and frame_id of the image.

    received: the image as it came in, Image or CompressedImage; it goes out on sync/image as it is.
    """
    header, is_raw = received.header, hasattr(received, "encoding")
    if wanted("sync/image"):
        yield "sync/image", received if is_raw else _decoded(result, header)
    if not is_raw and wanted("sync/image/compressed"):
        yield "sync/image/compressed", received
    if wanted("sync/camera_info"):
        height, width = result.frame.image.shape[:2]
        yield "sync/camera_info", messages.camera_info_message(header, (width, height), result.K, camera_info)
    if wanted("mask_static"):
        yield "mask_static", messages.image_message(static_mask(result.mask), "mono8", header)
    if wanted("image_static"):
        yield "image_static", blacked_out(received if is_raw else _decoded(result, header), result.mask)


def _decoded(result: FrameResult, header: Header) -> Image:
    return messages.image_message(result.frame.image, "rgb8", header)
