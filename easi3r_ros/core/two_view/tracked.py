"""A frame as optical flow sees it, with the flows to other frames that are already known."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np

from easi3r_ros.core.two_view.flow import STEP, Flow, FlowEstimator, node_pixels, on_grid, structure_tensor, to_pixels
from easi3r_ros.core.two_view.keypoints import Keypoints, homography_flow
from easi3r_ros.core.types import NetworkInput

LONGEST_PREDICTION = 6.0  # times the time that a flow was observed over; beyond it zero is as good a guess
SURPRISING = 0.25  # of the image's contrast: a prediction that leaves that much unexplained is worth a second opinion
AROUND = 9  # nodes across over which predictions are compared
PREFERENCE = 0.5  # grey levels by which keypoints must do better
OCCLUDED = 40  # grey levels: more difference says no more


@dataclass(frozen=True)
class TrackedImage:
    """Keys of the dictionaries, which grow, are the partners' frame indices; they leave with the frame."""

    index: int
    stamp_ns: int
    grey: np.ndarray  # (h, w) uint8
    structure: np.ndarray  # (3, g, k) float32, `structure_tensor`
    flows: dict[int, Flow] = field(default_factory=dict)  # from this frame
    seconds: dict[int, float] = field(default_factory=dict)  # how much later the partner was taken

    @classmethod
    def of(cls, image: NetworkInput) -> TrackedImage:
        grey = cv2.cvtColor(image.image, cv2.COLOR_RGB2GRAY)
        return cls(image.frame.index, image.frame.stamp_ns, grey, structure_tensor(grey))

    @cached_property
    def keypoints(self) -> Keypoints:
        return Keypoints.of(self.grey)

    @property
    def size(self) -> tuple[int, int]:
        """(w, h)."""
        return self.grey.shape[1], self.grey.shape[0]


def flows_between(first: TrackedImage, second: TrackedImage, estimator: FlowEstimator) -> tuple[Flow, Flow]:
    """From the first to the second frame and back, computed once and kept with them."""
    if second.index not in first.flows:
        seconds = (second.stamp_ns - first.stamp_ns) * 1e-9
        flows = estimator.both_ways(
            (first.grey, second.grey), (first.structure, second.structure), _start(first, second, seconds)
        )
        for one, other, flow, later in ((first, second, flows[0], seconds), (second, first, flows[1], -seconds)):
            one.flows[other.index], one.seconds[other.index] = flow, later
    return first.flows[second.index], second.flows[first.index]


def _start(first: TrackedImage, second: TrackedImage, seconds: float) -> np.ndarray | None:
    """(h, w, 2) where to begin the search: what is expected, or where keypoints say better, what they say."""
    expected = _expected_flow(first, seconds)
    left = _mismatch(first, second, expected)
    unexplained = np.median(left)
    if unexplained < SURPRISING * first.grey.std():
        return expected
    # Keypoints take ten times as long as the shift of the whole image, which shows whether the camera has turned.
    if np.median(_mismatch(first, second, _shift(first, second))) >= unexplained:
        return expected
    turned = homography_flow(first.keypoints, second.keypoints, first.size)
    if turned is None:
        return expected
    around = (AROUND, AROUND)
    better = cv2.blur(_mismatch(first, second, turned), around) + PREFERENCE < cv2.blur(left, around)
    everywhere = to_pixels(better.astype(np.float32), first.size) > 0.5
    return np.where(everywhere[..., None], turned, np.float32(0) if expected is None else expected)


def _shift(first: TrackedImage, second: TrackedImage) -> np.ndarray:
    """(h, w, 2) the same flow everywhere, by phase correlation."""
    images = [on_grid(image.grey).astype(np.float32) for image in (first, second)]
    window = cv2.createHanningWindow(images[0].shape[::-1], cv2.CV_32F)
    shift, _ = cv2.phaseCorrelate(*images, window)
    return np.broadcast_to(np.float32(STEP) * np.float32(shift), (*first.grey.shape, 2))


def _mismatch(first: TrackedImage, second: TrackedImage, flow: np.ndarray | None) -> np.ndarray:
    """(g, k) float32 difference in grey levels of what the flow brings together; None: nothing moves."""
    height, width = first.grey.shape
    target = (
        node_pixels(height, width) if flow is None else node_pixels(height, width) + on_grid(flow).transpose(2, 0, 1)
    )
    found = cv2.remap(second.grey, *np.ascontiguousarray(target), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.minimum(cv2.absdiff(on_grid(first.grey), found), OCCLUDED).astype(np.float32)


def _expected_flow(frame: TrackedImage, seconds: float) -> np.ndarray | None:
    """(h, w, 2) flow after `seconds` if everything goes on as in the flow known for the nearest time."""
    known = {index: later for index, later in frame.seconds.items() if later}
    if not known:
        return None
    nearest = min(known, key=lambda index: abs(known[index] - seconds))
    ratio = seconds / known[nearest]
    return frame.flows[nearest].at_pixels() * np.float32(ratio) if abs(ratio) <= LONGEST_PREDICTION else None
