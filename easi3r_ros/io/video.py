"""PyAV, imported where it is used."""

from __future__ import annotations

import importlib
import logging
from typing import Any


def import_av(error: type[Exception], purpose: str, otherwise: str = "") -> Any:
    """The module `av`. Raises `error` with what to install where it is missing.

    purpose: what needs it; otherwise: what else can be done.
    """
    try:
        av = importlib.import_module("av")
    except ImportError as missing:
        raise error(f"{purpose} needs PyAV: pip install 'av>=12' (it brings FFmpeg along){otherwise}") from missing
    # What FFmpeg mutters about a broken file, our own errors say in words.
    logging.getLogger("libav").setLevel(logging.CRITICAL)
    return av


def words(error: BaseException) -> str:
    """What FFmpeg says about a failure, without the number and the path."""
    return getattr(error, "strerror", None) or str(error)
