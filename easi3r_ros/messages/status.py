"""WindowStatus: what is said about the work on one image. Knows no node."""

from __future__ import annotations

import math
from dataclasses import dataclass

from easi3r_ros.core.types import FrameResult, TrackingState
from easi3r_ros.messages.conversions import stamp_ns, time_message
from easi3r_ros.messages.message_types import Header, WindowStatus

_STATES = {
    TrackingState.INITIALISING: WindowStatus.STATE_INITIALISING,
    TrackingState.TRACKING: WindowStatus.STATE_TRACKING,
    TrackingState.DEGRADED: WindowStatus.STATE_DEGRADED,
    TrackingState.LOST: WindowStatus.STATE_LOST,
}
# Stamps this far from the clock come from another clock (a bag without /clock, a camera that counts from its start).
_SAME_CLOCK_MS = 3_600_000.0


@dataclass(frozen=True)
class Counts:
    """What became of the items since `start` or `flush`; received = processed + failed + dropped + still waiting."""

    received: int = 0
    processed: int = 0
    failed: int = 0  # `process` raised
    dropped: int = 0  # replaced by a newer item, late, or refused because of a pause or a flush


@dataclass(frozen=True)
class BackboneInfo:
    name: str
    checkpoint: str  # empty: needs none


@dataclass(frozen=True)
class Timing:
    """Times of one image in milliseconds."""

    processing_ms: float  # reception to publication
    total_ms: float  # stamp to publication; NaN: not the same clock
    frame_rate: float  # results per second


def total_latency_ms(now_ns: int, header: Header) -> float:
    """ROS time since the image's stamp in milliseconds; NaN if that cannot be on the same clock."""
    elapsed = (now_ns - stamp_ns(header.stamp)) / 1e6
    return elapsed if 0 <= elapsed <= _SAME_CLOCK_MS else math.nan


def _scale_state(result: FrameResult) -> int:
    if result.withheld:
        return WindowStatus.SCALE_UNLOCKED
    return WindowStatus.SCALE_METRIC if result.metric else WindowStatus.SCALE_ARBITRARY


def status_message(
    result: FrameResult,
    header: Header,
    window_stamps_ns: list[int],
    backbone: BackboneInfo,
    timing: Timing,
    counts: Counts,
) -> WindowStatus:
    """counts: with this image among the processed ones."""
    return WindowStatus(
        header=header,
        frame_index=result.frame.index,
        tracking_state=_STATES[result.state],
        reason=result.reason,
        scale_state=_scale_state(result),
        scale_source=result.scale.source,
        scale=float(result.scale.metres),
        scale_sigma=float(result.scale.sigma),
        scale_reason=result.scale.reason,
        backbone=backbone.name,
        uses_checkpoint=bool(backbone.checkpoint),
        checkpoint=backbone.checkpoint,
        window_frames=list(result.window),
        window_stamps=[time_message(stamp) for stamp in window_stamps_ns],
        stage_names=list(result.latency_ms),
        stage_latency_ms=list(result.latency_ms.values()),
        processing_latency_ms=timing.processing_ms,
        total_latency_ms=timing.total_ms,
        dynamic_fraction=result.dynamic_fraction,
        alignment_residual=float(result.residual),
        frames_received=counts.received,
        frames_processed=counts.processed,
        frames_dropped=counts.dropped + counts.failed,
        frame_rate=timing.frame_rate,
        effort=result.effort,
    )
