"""JPEGs that end too early although they have an end: decoders fill what is missing with one colour and say nothing."""

from __future__ import annotations

import logging
from contextlib import suppress

import numpy as np

CORNER = 4  # pixels: what is filled is uniform down to the last corner
START = b"\xff\xd8"


def is_cut_short(data: bytes, image: np.ndarray) -> bool:
    """Whether the pixels of a JPEG end before the image does.

    data: the file. image: (H, W[, C]) what it was decoded to. False also where PyAV is missing, which looks closely.
    """
    corner = image[-CORNER:, -CORNER:]
    if not data.startswith(START) or (corner != corner[:1, :1]).any():
        return False
    with suppress(ImportError):
        import av

        logging.getLogger("libav").setLevel(logging.CRITICAL)
        decoder = av.CodecContext.create("mjpeg", "r")
        decoder.options = {"err_detect": "explode"}
        try:
            decoder.decode(av.Packet(data))
        except av.error.InvalidDataError:
            return True
        except av.error.FFmpegError:  # a kind that it does not know
            return False
    return False
