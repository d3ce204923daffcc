"""What passes between the stages: frozen dataclasses, with shape, unit and frame beside every field.

Conventions (REP-103 optical frame): x right, y down, z forward. Pixel (u, v) has its centre at integer coordinates.
`world_from_cam` maps camera coordinates to world coordinates. H x W is the camera's image size, h x w the size of the
image that the backbone sees, gh x gw its token grid. A *mask* is True on moving content. World units are metres if
`FrameResult.metric`, else an arbitrary unit fixed when tracking starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import torch

Edge = tuple[int, int]  # (a, b): frame indices of the reference view and the source view


@dataclass(frozen=True)
class Received:
    """The image that came in, where the pipeline is given a rectified one of the same size."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    K: np.ndarray  # (3, 3) float64, pixels; distortion is not in it
    # (values (H, W) of the rectified image, fill, smooth) -> of the one that came in; smooth: bilinear, else nearest
    restore: Callable[[np.ndarray, float, bool], np.ndarray]


@dataclass(frozen=True)
class Frame:
    """One camera image as it came in, or, of a lens whose distortion is known, as a pinhole camera would see it."""

    index: int  # running number since the last reset, from 0
    stamp_ns: int  # integer nanoseconds, exactly the header's stamp
    frame_id: str  # optical frame of the camera
    image: np.ndarray  # (H, W, 3) uint8 RGB
    K: np.ndarray | None = None  # (3, 3) float64 pinhole intrinsics in pixels of `image`; None: not known
    excluded: np.ndarray | None = None  # (H, W) bool, True where somebody else knows of movers; None: nobody does
    received: Received | None = None  # None: as it came in


@dataclass(frozen=True)
class InputSpec:
    """What image a backbone wants (METHOD 1)."""

    long_side: int  # pixels of the long side after the resize
    multiple: int = 1  # both sides are cropped to a multiple of this
    square: bool = False  # resize the short side instead and crop to a square (224 models)


@dataclass(frozen=True)
class Partners:
    """Which earlier frames a new one is paired with: so many steps back, or taken so long ago; one of them is empty."""

    steps: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.steps) + len(self.seconds)

    def first(self, count: int) -> Partners:
        """The `count` nearest."""
        return Partners(self.steps[:count], self.seconds[:count])


@dataclass(frozen=True)
class ImageTransform:
    """How camera pixels became network pixels: a resize, then a crop (METHOD 1)."""

    camera_size: tuple[int, int]  # (W, H)
    resized_size: tuple[int, int]  # (W', H') after the resize
    crop: tuple[int, int]  # (x0, y0) of the crop in the resized image
    size: tuple[int, int]  # (w, h) of the network image


@dataclass(frozen=True)
class NetworkInput:
    """A frame at the backbone's size."""

    frame: Frame
    image: np.ndarray  # (h, w, 3) uint8 RGB
    K: np.ndarray | None  # (3, 3) float64 intrinsics in pixels of this image; None: not known
    transform: ImageTransform
    excluded: np.ndarray | None = None  # (h, w) bool, as Frame


@dataclass(frozen=True)
class Features:
    """What a backbone keeps of one frame. Backbones may subclass it to carry more."""

    input: NetworkInput
    tokens: torch.Tensor  # (gh * gw, C) float, row-major; what clustering groups (Easi3R eq. 12)
    grid: tuple[int, int]  # (gh, gw)

    @property
    def index(self) -> int:
        return self.input.frame.index


@dataclass(frozen=True)
class PairAttention:
    """Mean over the queries of the pre-softmax cross-attention logits, one channel per layer and head (eq. 4-5)."""

    source: torch.Tensor  # (gh, gw, C) float32, tower 1, lives on frame b
    reference: torch.Tensor  # (gh, gw, C) float32, tower 2, lives on frame a


@dataclass(frozen=True)
class PairMotion:
    """How far each pixel's observed motion is from the rigid one, divided by its expected error (0: as static)."""

    # h and w are those of the image that flow is measured on (`two_view.flow.measured_size`), at most the network's.
    a: torch.Tensor  # (h, w) float32 >= 0, lives on frame a
    b: torch.Tensor  # (h, w) float32 >= 0, lives on frame b
    # (2, h // 2, w // 2) float32 pixels (u, v), on every second pixel: how far it went; NaN where that is not sure.
    flow_a: torch.Tensor | None = None  # lives on a, leads to b
    flow_b: torch.Tensor | None = None  # lives on b, leads to a

    def swapped(self) -> PairMotion:
        """The same, of the pair in the other order."""
        return PairMotion(self.b, self.a, self.flow_b, self.flow_a)


@dataclass(frozen=True)
class PairEvidence:
    """What a pair says about motion; small enough to be kept for every pair of the window."""

    attention: PairAttention | None = None  # networks
    motion: PairMotion | None = None  # measured, by the backbone or from its pointmaps


@dataclass(frozen=True)
class PairGeometry:
    """A backbone's answer for one ordered pair. Both pointmaps are in a's camera frame, up to one scale per pair."""

    a: int  # frame index of the reference view
    b: int  # frame index of the source view
    points_a: torch.Tensor  # (h, w, 3) float32, pair units
    points_b: torch.Tensor  # (h, w, 3) float32, pair units
    conf_a: torch.Tensor  # (h, w) float32 >= 1 (1: nothing known), as DUSt3R's 1 + exp(c)
    conf_b: torch.Tensor  # (h, w) float32 >= 1
    evidence: PairEvidence

    @property
    def edge(self) -> Edge:
        return self.a, self.b


@dataclass(frozen=True)
class DecodedPair:
    """An ordered pair of which only the evidence is known: its pointmaps cost more and come when they are asked for."""

    a: int  # frame index of the reference view
    b: int  # frame index of the source view
    evidence: PairEvidence
    decoded: object  # what the backbone that made it needs for the pointmaps

    @property
    def edge(self) -> Edge:
        return self.a, self.b


PairAnswer = PairGeometry | DecodedPair  # see `Backbone.pointmaps`


@dataclass(frozen=True)
class Deferred:
    """A value that is computed when it is asked for."""

    compute: Callable[[], Any]


class OnDemand:
    """A field of a dataclass that takes a value or a `Deferred`. Reading it always gives the value, computed once."""

    NO_DEFAULT = object()

    def __init__(self, default: Any = NO_DEFAULT):
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            if self._default is self.NO_DEFAULT:
                raise AttributeError(self._name)  # how a dataclass learns that the field has no default
            return self._default
        value = instance.__dict__[self._name]
        if isinstance(value, Deferred):
            value = instance.__dict__[self._name] = value.compute()
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = value


@dataclass(frozen=True)
class MotionEstimate:
    """What moves in one frame."""

    index: int
    probability: torch.Tensor = OnDemand()  # (h, w) float32 in [0, 1], on the backbone's device
    mask: torch.Tensor = OnDemand()  # (h, w) bool, as the probability
    evidence: dict[str, torch.Tensor] = field(default_factory=dict)  # per cue: (gh, gw), cells or (h, w), float32
    # (g, k) bool, the mask on the cells of the measured motion, where the host knows it; None: the device alone does.
    cells: np.ndarray | None = OnDemand(None)


class TrackingState(Enum):
    INITIALISING = "initialising"  # not enough frames or parallax for a pose yet
    TRACKING = "tracking"
    DEGRADED = "degraded"  # a pose, but a weak one: see `reason`
    LOST = "lost"  # no pose could be found: see `reason`

    @property
    def has_pose(self) -> bool:
        """Whether the pose was measured. Any other is only held, and is not to be passed on as if it were known."""
        return self in (TrackingState.TRACKING, TrackingState.DEGRADED)


@dataclass(frozen=True)
class AlignedFrame:
    """One frame in the world."""

    index: int
    world_from_cam: np.ndarray  # (4, 4) float64 SE(3), world units
    # (6, 6) float64 of (x, y, z, rot x, rot y, rot z), world axes, as PoseWithCovariance: error of this frame's placing
    # among earlier ones, whose drift is not in it. UNKNOWN_VARIANCE (`registration`) for whatever was not measured.
    covariance: np.ndarray
    K: np.ndarray  # (3, 3) float64, pixels of the network image
    depth: torch.Tensor  # (h, w) float32 z-depth, world units; NaN: not known
    confidence: torch.Tensor  # (h, w) float32 >= 1
    residual: float  # relative difference of depth between pairs and world (mean of medians); NaN: not known
    state: TrackingState
    reason: str = ""  # why the state is not TRACKING, for a person
    # Counts worlds since the reset. A new one starts where nothing was left to attach to, at the last known pose: poses
    # and lengths of two worlds must not be compared.
    world: int = 0


class ScaleState(Enum):
    ARBITRARY = "arbitrary"  # one unit is an unknown length, and nobody was asked how long it is
    UNLOCKED = "unlocked"  # somebody was asked, and the answer is not sure yet: what has a length is withheld
    LOCKED = "locked"  # one unit is one metre


@dataclass(frozen=True)
class Scale:
    """What the unit of the alignment is worth."""

    source: str = "none"  # as `ScaleConfig.source`
    state: ScaleState = ScaleState.ARBITRARY
    metres: float = 1.0  # per unit of the alignment; while UNLOCKED the estimate so far, NaN if there is none
    sigma: float = float("nan")  # relative standard deviation of `metres`; NaN: not known
    reason: str = ""  # why it is not LOCKED, for a person


@dataclass(frozen=True)
class FrameResult:
    """Everything known about one frame, at the camera's size. Maps that nobody reads are not computed."""

    frame: Frame
    mask: np.ndarray = OnDemand()  # (H, W) bool
    probability: np.ndarray = OnDemand()  # (H, W) float32 in [0, 1]
    depth: np.ndarray = OnDemand()  # (H, W) float32 z-depth, world units; NaN: not known
    confidence: np.ndarray = OnDemand()  # (H, W) float32 >= 1, 1 where depth is not known
    K: np.ndarray  # (3, 3) float64, pixels of the camera image; estimated where the camera did not say
    world_from_cam: np.ndarray  # (4, 4) float64
    covariance: np.ndarray  # (6, 6) float64, as AlignedFrame
    state: TrackingState
    reason: str
    metric: bool  # world unit is metres
    residual: float  # as AlignedFrame
    dynamic_fraction: float  # share of pixels in the mask
    window: tuple[int, ...]  # indices of the frames used, oldest first
    latency_ms: dict[str, float]  # wall time per stage; "output" grows with the maps that are read
    evidence: dict[str, np.ndarray] = OnDemand()  # per cue, at the backbone's size, for debugging
    world: int = 0  # as AlignedFrame
    scale: Scale = Scale()  # lengths here are multiplied by it if it is LOCKED
    effort: str = ""  # what is left out to stay within `EngineConfig`'s budgets, and why, for a person

    @property
    def withheld(self) -> bool:
        """Metres were asked for and are not known yet: depth, points and poses must not be passed on."""
        return self.scale.state is ScaleState.UNLOCKED

    @cached_property
    def as_received(self) -> FrameResult:
        """The same laid on the image that came in, pixel by pixel; itself where that was not rectified.

        For images and masks. Its K is no pinhole of its pixels: points come from the result itself.
        """
        seen = self.frame.received
        if seen is None:
            return self

        def back(name: str, fill: float, smooth: bool) -> Deferred:
            return Deferred(lambda: seen.restore(getattr(self, name), fill, smooth))

        return self.changed(
            frame=replace(self.frame, image=seen.image, K=seen.K, received=None),
            K=seen.K,
            mask=Deferred(lambda: seen.restore(self.mask.astype(np.float32), 0.0, True) > 0.5),
            probability=back("probability", 0.0, True),
            depth=back("depth", np.nan, False),
            confidence=back("confidence", 1.0, False),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Computed: what is deferred does not outlive this process."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def changed(self, **values: Any) -> FrameResult:
        """As dataclasses.replace, but what nobody has read yet stays uncomputed; the two compute it once together."""
        kept = {item.name: self._handed_on(item.name) for item in fields(self) if item.name not in values}
        return FrameResult(**kept, **values)

    def _handed_on(self, name: str) -> Any:
        value = self.__dict__[name]
        return Deferred(lambda: getattr(self, name)) if isinstance(value, Deferred) else value


@dataclass(frozen=True)
class PointCloud:
    """Points in the camera's optical frame."""

    xyz: np.ndarray  # (N, 3) float32, world units
    rgb: np.ndarray  # (N, 3) uint8
    confidence: np.ndarray  # (N,) float32
