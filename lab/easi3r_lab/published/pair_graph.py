"""Pair graphs of a whole clip: which frames are decoded together in the published batch pipeline (METHOD 6)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from easi3r_ros.core.types import Edge


def swin_edges(frames: int, window: int, cyclic: bool = False) -> list[Edge]:
    """Every frame with the next `window` frames, both orders."""
    return offset_edges(frames, range(1, window + 1), cyclic)


def swin_stride_edges(frames: int, window: int, cyclic: bool = False) -> list[Edge]:
    """Every frame with those 1, 3, 5, ... frames later (`window` of them), both orders: the published video graph."""
    return offset_edges(frames, range(1, 2 * window, 2), cyclic)


def complete_edges(frames: int) -> list[Edge]:
    """All ordered pairs."""
    return offset_edges(frames, range(1, frames))


def offset_edges(frames: int, offsets: Iterable[int], cyclic: bool = False) -> list[Edge]:
    """Ordered pairs of frames that are one of `offsets` apart: all with a < b, then the same with a > b.

    cyclic: the first frame follows the last.
    """
    offsets = tuple(offsets)
    pairs: set[Edge] = set()
    for a in range(frames):
        for offset in offsets:
            b = (a + offset) % frames if cyclic else a + offset
            if b < frames and a != b:
                pairs.add((min(a, b), max(a, b)))
    # Published results list their pairs in the order of a Python set; keeping it makes them comparable entry by entry.
    forward = list(pairs)
    return forward + [(b, a) for a, b in forward]


def named_edges(name: str, frames: int) -> list[Edge]:
    """The graph that the published code calls `name`: complete, swin-K or swinstride-K, perhaps with -noncyclic.

    Raises ValueError for other names.
    """
    if name == "complete":
        return complete_edges(frames)
    match = re.fullmatch(r"(swin|swinstride)-(\d+)(-noncyclic)?", name)
    if not match:
        raise ValueError(f"unknown pair graph '{name}'; known: complete, swin-K, swinstride-K, each with -noncyclic")
    build = swin_edges if match[1] == "swin" else swin_stride_edges
    return build(frames, int(match[2]), cyclic=match[3] is None)
