"""Motion as log odds on cells: sources of evidence, their sum within limits, memory along the flow, masks from it.

A *cue* says what moves in each frame of the window. The paper's attention only ranks (`attention`); here odds are
absolute: geometry counts standard deviations off the rigid motion of the camera, nothing is normalised by the frame's
own extremes, so a static scene gives an empty mask.

All of it is host work on cells, a sub-sample. Only what concerns pixels is done on the backbone's device: the lines
that the guided filter fitted on cells go there, and become the mask when somebody asks for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from easi3r_ros.core.config import MotionConfig
from easi3r_ros.core.engine import Parcel, upload
from easi3r_ros.core.motion.border import Colours, follow_colours
from easi3r_ros.core.two_view.flow import STEP, on_grid
from easi3r_ros.core.types import Deferred, Edge, Features, MotionEstimate, PairEvidence

MOST_LOG_ODDS = 4.0
GUIDE_RADIUS = 3  # cells
GUIDE_SOFTNESS = 1e-3  # variance of grey (0 to 1) below which there is no edge to follow
SMALLEST_AREA = 8e-4  # of the image
CERTAIN = 0.6  # a region counts if its probability somewhere is this share of the way from the threshold to one
LEAST = 1e-4  # of a probability, where its logarithm is taken
JUST_STATIC = np.float32(-0.01)  # log odds
OUTSIDE = -1e4  # cells: nothing is there
# Fitted to rendered clips (static, walking people, turning and still camera).
EVEN_ODDS = 7.0  # standard deviations at which static and moving are equally likely: errors of flow have heavy tails
STEEPNESS = 3.0  # log odds per factor e of evidence
SMEAR = 3  # pixels, width of the brush that takes off what the patches of the flow add around a mover


class MotionCue(ABC):
    """The one interface of all motion cues: evidence of pairs in, what moves in each frame out."""

    name: str
    needs_motion: bool = False  # works on `PairMotion`, which has to be measured if the backbone does not give it

    def offer(  # noqa: B027 nothing to put is fine
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence], parcel: Parcel
    ) -> None:
        """Put into the parcel what the next `estimate`, not of a second pass, will want to have on the host."""

    @abstractmethod
    def estimate(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence], again: bool = False
    ) -> dict[int, MotionEstimate]:
        """Motion in the frames of the window, by frame index.

        features: every frame of the window, oldest first. evidence: every pair of the window decoded so far.
        again: the second pass over the same frames.
        A frame about which the evidence says nothing yet is absent from the answer.
        """

    @abstractmethod
    def reconfigure(self, config: MotionConfig) -> None:
        """Apply changed live settings from the next `estimate` on, and keep what was learned."""

    @abstractmethod
    def reset(self) -> None:
        """Forget what was learned from earlier windows."""


@dataclass(frozen=True)
class EdgeLines:
    """Lines that predict what moves from the grey value, fitted on cells: the fast guided filter (He and Sun, 2015)."""

    slope: np.ndarray  # (g, k) float32
    offset: np.ndarray  # (g, k) float32
    cells: np.ndarray  # (g, k) float32 in [0, 1], what they say on the cells

    @staticmethod
    def fit(values: np.ndarray, guide: np.ndarray) -> EdgeLines:
        """values: (g, k) float32 in [0, 1]; guide: (h, w) uint8, whose borders those of the values shall be."""
        small = cv2.resize(guide, values.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        slope, offset = _local_lines(values, small)
        return EdgeLines(slope, offset, np.clip(slope * small + offset, 0.0, 1.0))


def on_pixels(lines: Tensor, guide: Tensor) -> Tensor:
    """(2, g, k) slope and offset -> (h, w) float32 in [0, 1]. guide: (h, w) uint8, on the same device."""
    if lines.device.type == "cpu":  # OpenCV does it in a third of the time
        size = tuple(guide.shape[::-1])
        slope, offset = (cv2.resize(plane, size) for plane in lines.numpy())
        return torch.from_numpy(np.clip(slope * (guide.numpy().astype(np.float32) / 255) + offset, 0.0, 1.0))
    slope, offset = F.interpolate(lines[None], tuple(guide.shape), mode="bilinear", align_corners=False)[0]
    return torch.addcmul(offset, slope, guide.float().div_(255)).clamp_(0.0, 1.0)


def resized(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, g, k) -> (h, w) float32, bilinear. size: (h, w)."""
    if cells.device.type == "cpu":
        return torch.from_numpy(cv2.resize(cells[0].numpy(), size[::-1]))
    return F.interpolate(cells[None], size, mode="bilinear", align_corners=False)[0, 0]


@dataclass(frozen=True)
class Border:
    """What colours made of a frame's log odds while it was the newest."""

    correction: np.ndarray | float  # (h', w') log odds
    before: Colours  # what the frame before knew
    colours: Colours

    @classmethod
    def of(cls, feature: Features, log_odds: np.ndarray, threshold: float, before: Colours) -> Border:
        """log_odds: (h', w') before colours."""
        even = np.float32(np.log(max(threshold, LEAST) / max(1 - threshold, LEAST)))
        specks = (without_specks(probability_of(log_odds), threshold) <= threshold) & (log_odds > even)
        above = np.where(specks, JUST_STATIC, log_odds - even)
        found, colours = follow_colours(feature.input.image, above, before)
        return cls(np.clip(found + even, -MOST_LOG_ODDS, MOST_LOG_ODDS) - log_odds, before, colours)


def probability_of(log_odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-log_odds))


def _local_lines(values: np.ndarray, guide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset, averaged over windows, of the lines that predict values from the guide in every window."""
    mean_guide, mean_values = _box(guide), _box(values)
    covariance = _box(guide * values) - mean_guide * mean_values
    variance = _box(guide * guide) - mean_guide * mean_guide
    slope = covariance / (variance + GUIDE_SOFTNESS)
    return _box(slope), _box(mean_values - slope * mean_guide)


def _box(values: np.ndarray) -> np.ndarray:
    return cv2.blur(values, (2 * GUIDE_RADIUS + 1, 2 * GUIDE_RADIUS + 1))


def without_specks(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Regions above the threshold that are tiny or nowhere certain get no more than the threshold (hysteresis)."""
    count, labels = cv2.connectedComponents((probability > threshold).astype(np.uint8), connectivity=8)
    area = np.bincount(labels.ravel(), minlength=count)
    certain = np.zeros(count, bool)
    certain[labels[probability > threshold + CERTAIN * (1 - threshold)]] = True
    dropped = ~certain | (area < SMALLEST_AREA * probability.size)
    return np.where(dropped[labels], np.minimum(probability, np.float32(threshold)), probability)


def flow_to_earlier(
    index: int, evidence: Mapping[Edge, PairEvidence], known: Collection[int]
) -> tuple[int, np.ndarray] | None:
    """The nearest known frame before `index` and the flow (2, g, k) that leads there; None: there is none."""
    flows = {}
    for (a, b), pair in evidence.items():
        if pair.motion is None or index not in (a, b):
            continue
        partner, flow = (b, pair.motion.flow_a) if a == index else (a, pair.motion.flow_b)
        if partner < index and partner in known and flow is not None:
            flows[partner] = flow
    if not flows:
        return None
    nearest = max(flows)
    return nearest, flows[nearest].cpu().numpy()


def carried_along(log_odds: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """(g, k) the motion that an earlier frame's cells (g, k) give reason to expect; 0 where it was hidden or static.

    Only what speaks for motion is carried: a mover must not have to make up for the time when nothing was there.
    """
    u, v = np.fmax(_cells(*log_odds.shape) + flow / STEP, np.float32(OUTSIDE))  # fmax: not the NaN
    return cv2.remap(np.maximum(log_odds, 0), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


@lru_cache(maxsize=4)
def _cells(rows: int, columns: int) -> np.ndarray:
    """(2, rows, columns) float32 coordinates (u, v) of the cells."""
    return np.stack(np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32)))


class OddsSource(ABC):
    """One kind of evidence, as log odds of motion on cells of STEP x STEP pixels (see `two_view.flow`)."""

    name: str
    limits: tuple[float, float] = (-MOST_LOG_ODDS, MOST_LOG_ODDS)  # what it can add to others

    def offer(  # noqa: B027 nothing to put is fine
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence], parcel: Parcel
    ) -> None:
        """As `MotionCue.offer`."""

    @abstractmethod
    def log_odds(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence], again: bool = False
    ) -> dict[int, np.ndarray]:
        """(h // 2, w // 2) float32 by frame index; absent: nothing is known. Arguments as `MotionCue.estimate`.

        The same array as in the last call says that nothing changed.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget what was learned from earlier windows."""


class PairOdds(OddsSource):
    """A source whose answer about a frame is fused from what every pair that the frame is in says."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[torch.Tensor | None], np.ndarray]] = {}

    @abstractmethod
    def votes(self, index: int, evidence: Mapping[Edge, PairEvidence]) -> list[tuple[torch.Tensor | None, ...]]:
        """The maps that live on frame `index`, as many per pair as the source works on."""

    @abstractmethod
    def fused(self, votes: list[tuple[np.ndarray | None, ...]]) -> np.ndarray:
        """At least one vote -> (h // 2, w // 2) log odds."""

    def log_odds(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence], again: bool = False
    ) -> dict[int, np.ndarray]:
        """As the base class. Frames whose maps are the same as in the last call are not computed again."""
        known: dict[int, tuple[list[torch.Tensor | None], np.ndarray]] = {}
        for index in features:
            votes, previous = self.votes(index, evidence), self._known.get(index)
            maps = [values for vote in votes for values in vote]
            if votes and previous is not None and identical(previous[0], maps):
                known[index] = previous
            elif votes:
                known[index] = maps, self.fused([tuple(map(_numpy, vote)) for vote in votes])
        self._known = known
        return {index: odds for index, (_, odds) in known.items()}

    def reset(self) -> None:
        self._known = {}


def identical(old: Sequence[object], new: Sequence[object]) -> bool:
    """Whether both hold the very same objects."""
    return len(old) == len(new) and all(x is y for x, y in zip(old, new, strict=True))


def _numpy(values: torch.Tensor | None) -> np.ndarray | None:
    return None if values is None else values.cpu().numpy()


NO_BORDER = Border(0.0, Colours.none(), Colours.none())


@dataclass(frozen=True)
class _Belief:
    sources: tuple[np.ndarray, ...]
    inherited: np.ndarray | float  # from the frame before, as it was believed when this frame was new
    threshold: float  # of the estimate
    log_odds: np.ndarray  # (h', w') of the sources, of what was inherited, and of colours where they are asked
    border: Border
    pixels: _Pixels
    estimate: MotionEstimate


class _Pixels(ABC):
    """What moves in one frame, on cells and on pixels, computed when it is asked for, and once."""

    def __init__(self, log_odds: np.ndarray, guide: tuple[np.ndarray, Tensor], threshold: float):
        """guide: the grey image (h, w) uint8, on the host and on the device where the pixels are wanted."""
        self._log_odds, self._guide, self._threshold = log_odds, guide, threshold
        self.uploaded: Tensor | None = None  # (n, g, k) the planes, where they went in one copy with others

    @property
    @abstractmethod
    def planes(self) -> np.ndarray:
        """(n, g, k) float32 that the pixels are made from."""

    @property
    @abstractmethod
    def cells(self) -> np.ndarray:
        """(g, k) bool, the mask on cells."""

    @abstractmethod
    def _made(self, planes: Tensor, guide: Tensor) -> Tensor:
        """(h, w) float32 probability, where the planes are."""

    @cached_property
    def probability(self) -> Tensor:
        if self.uploaded is None:
            bring_to_device([self], self._guide[1].device)
        return self._made(self.uploaded, self._guide[1])

    @property
    def mask(self) -> Tensor:
        return self.probability > self._threshold


class _EdgePixels(_Pixels):
    """With borders where the grey value changes."""

    @cached_property
    def lines(self) -> EdgeLines:
        return EdgeLines.fit(without_specks(probability_of(self._log_odds), self._threshold), self._guide[0])

    @property
    def planes(self) -> np.ndarray:
        return np.stack([self.lines.slope, self.lines.offset])

    @property
    def cells(self) -> np.ndarray:
        return self.lines.cells > self._threshold

    def _made(self, planes: Tensor, guide: Tensor) -> Tensor:
        return on_pixels(planes, guide)


class _BorderPixels(_Pixels):
    """With borders that are right already."""

    @cached_property
    def _probabilities(self) -> np.ndarray:
        return without_specks(probability_of(self._log_odds), self._threshold)

    @property
    def planes(self) -> np.ndarray:
        return self._probabilities.astype(np.float32)[None]

    @property
    def cells(self) -> np.ndarray:
        return self._probabilities > self._threshold

    def _made(self, planes: Tensor, guide: Tensor) -> Tensor:
        return resized(planes, tuple(guide.shape))


def bring_to_device(pixels: Sequence[_Pixels], device: torch.device) -> None:
    """The planes of all of them, which must be of one kind, in one upload."""
    planes = upload(np.stack([x.planes for x in pixels]), device)
    for x, own in zip(pixels, planes, strict=True):
        x.uploaded = own


class OddsCue(MotionCue):
    """The sum of its sources, each within its limits. The first one is needed, the others may be silent."""

    def __init__(self, name: str, config: MotionConfig, sources: Sequence[OddsSource]):
        self.name = name
        self._sources = tuple(sources)
        self._known: dict[int, _Belief] = {}
        self._guides: dict[int, tuple[np.ndarray, Tensor]] = {}
        self.reconfigure(config)

    def reconfigure(self, config: MotionConfig) -> None:
        """As the base class. A new threshold is applied to all frames of the window, new memory to new frames."""
        self._config = config
        # Memory is carried along the flow, which comes with the measured motion.
        self.needs_motion = config.memory > 0 or any(source.name == "geometry" for source in self._sources)

    def offer(self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence], parcel: Parcel) -> None:
        """As the base class."""
        for source in self._sources:
            source.offer(features, evidence, parcel)

    def estimate(
        self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence], again: bool = False
    ) -> dict[int, MotionEstimate]:
        """As the base class. Frames of which nothing new is said are not computed again."""
        said = {source.name: source.log_odds(features, evidence, again) for source in self._sources}
        needed = said[self._sources[0].name]
        self._known = {index: belief for index, belief in self._known.items() if index in needed}
        newest = max(features, default=None)
        self._guides = {index: guide for index, guide in self._guides.items() if index in features}
        for index in features:  # oldest first: a frame inherits from those before it
            if index in needed:
                own = {name: odds[index] for name, odds in said.items() if index in odds}
                self._update(features[index], own, evidence, newest=index == newest)
        self._bring_to_pixels(features, evidence)
        return {index: self._known[index].estimate for index in features if index in self._known}

    def reset(self) -> None:
        self._known, self._guides = {}, {}
        for source in self._sources:
            source.reset()

    def _update(
        self, feature: Features, said: dict[str, np.ndarray], evidence: Mapping[Edge, PairEvidence], newest: bool
    ) -> None:
        index, sources = feature.index, tuple(said.values())
        known = self._known.get(index)
        threshold = self._config.threshold
        if known is not None and known.threshold == threshold and identical(known.sources, sources):
            return
        inherited = known.inherited if known else self._inherited(index, evidence)
        limits = {source.name: source.limits for source in self._sources}
        total = sum(np.clip(odds, *limits[name]) for name, odds in said.items()) + inherited
        total = np.clip(total, -MOST_LOG_ODDS, MOST_LOG_ODDS)
        maps = said if len(self._sources) == 1 else {**said, self.name: total}
        if self._config.refine == "none":
            border, pixels = NO_BORDER, _EdgePixels(total, self._guide(feature), threshold)
        else:
            border = known.border if known and not newest else self._border(feature, total, known)
            total = np.clip(total + border.correction, -MOST_LOG_ODDS, MOST_LOG_ODDS)
            pixels = _BorderPixels(total, self._guide(feature), threshold)
        estimate = MotionEstimate(
            index=index,
            probability=Deferred(lambda: pixels.probability),
            mask=Deferred(lambda: pixels.mask),
            evidence={name: torch.from_numpy(values) for name, values in maps.items()},
            cells=Deferred(lambda: pixels.cells),
        )
        self._known[index] = _Belief(sources, inherited, threshold, total, border, pixels, estimate)

    def _guide(self, feature: Features) -> tuple[np.ndarray, Tensor]:
        """The grey image (h, w) uint8 of a frame on the host and on the backbone's device."""
        if feature.index not in self._guides:
            grey = cv2.cvtColor(feature.input.image, cv2.COLOR_RGB2GRAY)
            self._guides[feature.index] = grey, upload(grey, feature.tokens.device)
        return self._guides[feature.index]

    def _bring_to_pixels(self, features: Mapping[int, Features], evidence: Mapping[Edge, PairEvidence]) -> None:
        """Of the frames that the newest one is paired with, whose masks are wanted next; others when they are asked."""
        newest = max(features, default=None)
        wanted = {index for edge in evidence if newest in edge for index in edge}
        new = [self._known[index].pixels for index in sorted(wanted & self._known.keys())]
        for kind in (_EdgePixels, _BorderPixels):  # both only after a change of the setting
            if missing := [pixels for pixels in new if type(pixels) is kind and pixels.uploaded is None]:
                bring_to_device(missing, features[newest].tokens.device)

    def _border(self, feature: Features, total: np.ndarray, known: _Belief | None) -> Border:
        """By the colours that the frame before knew."""
        earlier = [other for other in self._known if other < feature.index]
        before = (
            known.border.before if known else self._known[max(earlier)].border.colours if earlier else Colours.none()
        )
        return Border.of(feature, total, self._config.threshold, before)

    def _inherited(self, index: int, evidence: Mapping[Edge, PairEvidence]) -> np.ndarray | float:
        """What the frame before has to say about frame `index`."""
        earlier = flow_to_earlier(index, evidence, self._known) if self._config.memory else None
        if earlier is None:
            return 0.0
        partner, flow = earlier
        return self._config.memory * carried_along(self._known[partner].log_odds, flow)


class GeometryOdds(PairOdds):
    """From `PairMotion`, whoever measured it."""

    name = "geometry"

    def votes(
        self, index: int, evidence: Mapping[Edge, PairEvidence]
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Standard deviations and flow, one vote per partner: both orders of a pair say the same."""
        votes = {}
        for (a, b), pair in evidence.items():
            if pair.motion is not None and index in (a, b):
                motion = pair.motion
                votes[b if a == index else a] = (motion.a, motion.flow_a) if a == index else (motion.b, motion.flow_b)
        return list(votes.values())

    def fused(self, votes: list[tuple[np.ndarray, np.ndarray | None]]) -> np.ndarray:
        return fused_log_odds(votes)


def fused_log_odds(votes: list[tuple[np.ndarray, np.ndarray | None]]) -> np.ndarray:
    """(h', w') log odds of motion on cells.

    votes: (h, w) standard deviations and (2, h', w') flow of each pair. The fusion is the upper median: as much motion
    as at least half of the pairs see. A slow mover shows only over a long time, a fast one is lost by the flow over the
    same time, and what is just uncovered is seen from one side only. Where its flow is lost, a pair
    has no vote against motion.
    """
    descending = _sorted([_log_odds(sigmas) for sigmas, _ in votes])
    median = descending[0]  # of one or two
    if len(votes) > 2:
        voters = sum(1 if flow is None else np.isfinite(flow[0]).astype(np.uint8) for _, flow in votes)
        for k in range(1, (len(votes) + 1) // 2):
            median = np.where(voters > 2 * k, descending[k], median)
    return np.clip(median, -MOST_LOG_ODDS, MOST_LOG_ODDS)


def _log_odds(sigmas: np.ndarray) -> np.ndarray:
    cells = on_grid(cv2.erode(sigmas, np.ones((SMEAR, SMEAR), np.uint8)))
    return 0.5 * STEEPNESS * np.log((cells * cells + 1) / (EVEN_ODDS**2 + 1))


def _sorted(planes: list[np.ndarray]) -> list[np.ndarray]:
    """Descending, per element. Insertion of whole planes, for a handful of them far quicker than np.sort."""
    descending: list[np.ndarray] = []
    for plane in planes:
        for i, other in enumerate(descending):
            descending[i], plane = np.maximum(other, plane), np.minimum(other, plane)
        descending.append(plane)
    return descending
