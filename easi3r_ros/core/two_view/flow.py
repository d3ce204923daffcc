"""Dense optical flow with its expected error, and a frame as the flow sees it.

DIS flow both ways, with the information (inverse covariance) of every vector. The flow's patches are 6 pixels apart, so
every second pixel in each direction holds all it knows: what is computed from it lives on that grid, (g, k) =
(h, w) // 2 nodes, each in the middle of its 2 x 2 pixels. The search starts from what earlier flows predict, or, after
a turn that they did not, from a homography of keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import cv2
import numpy as np

from easi3r_ros.core.types import NetworkInput

# Expected error of a flow vector, fitted to rendered clips with true flow.
FLOOR = 0.016  # pixels: what is left where texture is rich and nothing moves
UNKNOWN_LENS = (
    0.1  # pixels, instead of FLOOR where nobody gave the intrinsics: no lens is the pinhole that it is taken for
)
RELATIVE = 0.0065  # of the length of the flow vector
GREY_NOISE = 0.32  # grey levels, as if the pixels of the window were one
CYCLE = 0.32  # of the distance by which the flow there and back misses
OUT_OF_VIEW = 30.0  # pixels: the vector ends outside the other image, so it says nothing
WINDOW = 13  # pixels: about the patch that the flow matches

REFINEMENT = 2  # variational iterations per scale: flow between patches, where borders are
CONFIRMED = 1.0  # pixels by which the flow there and back may miss; more: occluded or wrong

MASK_MARGIN = 5  # pixels, width of the brush: flow next to a mover is the mover's
STEP = 2  # pixels between the nodes of the grid
SMALLEST_SIDE = 16  # pixels: two patches
MEASURED_SIDE = 320  # pixels of the long side: the errors above were fitted to images of this size
KEYPOINTS = 400
FEWEST_MATCHES = 15
REPROJECTION = 4.0  # pixels: parallax counts as agreement, the flow finds the rest
LONGEST_PREDICTION = 6.0  # times the time that a flow was observed over; beyond it zero is as good a guess
SURPRISING = 0.25  # of the image's contrast: a prediction that leaves that much unexplained is worth a second opinion
AROUND = 9  # nodes across over which predictions are compared
PREFERENCE = 0.5  # grey levels by which keypoints must do better
SPARSE = 4  # every n-th node is enough for a median
OCCLUDED = 40  # grey levels: more difference says no more


@dataclass(frozen=True)
class Flow:
    """Flow from one frame to another, at the grid of the first."""

    size: tuple[int, int]  # (w, h) of the images
    target: np.ndarray  # (2, g, k) float32 pixels: where the nodes went
    information: np.ndarray  # (3, g, k) float32 1/pixels^2: xx, xy, yy of the inverse covariance
    cycle: np.ndarray  # (g, k) float32 pixels: distance between the node and where the flow there and back ends

    @property
    def nodes(self) -> np.ndarray:
        """(2, g, k) float32 pixels that the vectors of the grid start from."""
        return node_pixels(*self.size[::-1])

    @property
    def confirmed(self) -> np.ndarray:
        """(2, g, k) float32 flow vectors of the nodes, NaN where the way back does not lead home."""
        return np.where(self.cycle < CONFIRMED, self.target - self.nodes, np.float32(np.nan))

    def at_pixels(self) -> np.ndarray:
        """(h, w, 2) float32 flow vector of every pixel: where it went, minus where it was."""
        return to_pixels(np.moveaxis(self.target - self.nodes, 0, -1), self.size)


def measured_size(size: tuple[int, int]) -> tuple[int, int]:
    """(w, h) of a network's image -> (w, h) of the image that its flow is measured on: no more than MEASURED_SIDE."""
    scale = min(1.0, MEASURED_SIDE / max(size))
    return max(STEP, round(size[0] * scale)), max(STEP, round(size[1] * scale))


def on_grid(image: np.ndarray) -> np.ndarray:
    """(h, w, ...) -> (g, k, ...) means around the nodes."""
    height, width = image.shape[:2]
    return cv2.resize(image, (width // STEP, height // STEP), interpolation=cv2.INTER_AREA)


def widened(moving: np.ndarray) -> np.ndarray:
    """(h, w) bool -> (g, k) bool with a margin."""
    wide = cv2.dilate(moving.astype(np.uint8), np.ones((MASK_MARGIN, MASK_MARGIN), np.uint8))
    return on_grid(wide * np.uint8(255)) > 0


def to_pixels(nodes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(g, k, ...) float32 -> (h, w, ...) bilinear. size: (w, h)."""
    return cv2.resize(np.ascontiguousarray(nodes), size, interpolation=cv2.INTER_LINEAR)


@lru_cache(maxsize=4)
def node_pixels(height: int, width: int) -> np.ndarray:
    """(2, g, k) float32 coordinates (u, v) of the nodes of an (h, w) image, read-only."""
    rows, columns = height // STEP, width // STEP
    u = (np.arange(columns, dtype=np.float32) + 0.5) * width / columns - 0.5
    v = (np.arange(rows, dtype=np.float32) + 0.5) * height / rows - 0.5
    nodes = np.stack(np.meshgrid(u, v)).astype(np.float32)
    nodes.flags.writeable = False
    return nodes


def structure_tensor(grey: np.ndarray) -> np.ndarray:
    """(h, w) uint8 -> (3, g, k) float32: xx, xy, yy of the gradient's second moments around each node."""
    dx = cv2.Scharr(grey, cv2.CV_32F, 1, 0, scale=1 / 32)
    dy = cv2.Scharr(grey, cv2.CV_32F, 0, 1, scale=1 / 32)
    return np.stack([on_grid(cv2.boxFilter(product, -1, (WINDOW, WINDOW))) for product in (dx * dx, dx * dy, dy * dy)])


class FlowEstimator:
    """Dense inverse search (Kroeger et al., ECCV 2016) down to full resolution. Not thread-safe.

    Sparse patches down to full resolution and a short variational refinement: OpenCV's MEDIUM preset, which stops at
    half resolution, has twice the error on small moving things.
    """

    def __init__(self) -> None:
        self._refined, self._rough = (_inverse_search(iterations) for iterations in (REFINEMENT, 0))

    def both_ways(
        self,
        grey: tuple[np.ndarray, np.ndarray],
        structure: tuple[np.ndarray, np.ndarray],
        expected: np.ndarray | None,
        floor: float = FLOOR,
        refine: bool = True,
    ) -> tuple[Flow, Flow]:
        """Flow from the first to the second image and back.

        grey: two (h, w) uint8 images. structure: their `structure_tensor`. expected: (h, w, 2) what the flow from first
        to second may be, the start of the search; None: about zero. It is what finds fast things and repeated texture.
        floor: pixels, error of the best vectors. refine: with the variational refinement.
        """
        # Always an explicit start: OpenCV's search otherwise goes on from the one it was last given.
        start = np.zeros((*grey[0].shape, 2), np.float32) if expected is None else expected
        search = self._refined if refine else self._rough
        forward = search.calc(grey[0], grey[1], start.copy())
        backward = search.calc(grey[1], grey[0], _reversed(forward))
        return _assess(forward, backward, structure[0], floor), _assess(backward, forward, structure[1], floor)


def _inverse_search(refinement: int) -> cv2.DISOpticalFlow:
    """refinement: iterations of the variational one."""
    made = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    made.setFinestScale(0)
    made.setPatchStride(6)
    made.setGradientDescentIterations(5)
    made.setVariationalRefinementIterations(refinement)
    return made


def _reversed(flow: np.ndarray) -> np.ndarray:
    """(h, w, 2) about the flow back: the opposite vector of the pixel that came here."""
    coarse = on_grid(flow)
    came_from = np.moveaxis(node_pixels(*flow.shape[:2]), 0, -1) - coarse
    back = -cv2.remap(flow, came_from, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return to_pixels(back, flow.shape[1::-1])


def _assess(vectors: np.ndarray, opposite: np.ndarray, structure: np.ndarray, floor: float) -> Flow:
    height, width = vectors.shape[:2]
    du, dv = cv2.split(on_grid(vectors))
    target = u, v = node_pixels(height, width) + np.stack([du, dv])
    back_u, back_v = cv2.split(cv2.remap(opposite, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    missed = (du + back_u) ** 2 + (dv + back_v) ** 2
    variance = floor**2 + RELATIVE**2 * (du * du + dv * dv) + CYCLE**2 * missed
    variance += np.float32(OUT_OF_VIEW**2) * ((u < 0) | (v < 0) | (u > width - 1) | (v > height - 1))
    return Flow((width, height), target, flow_information(structure, variance), np.sqrt(missed))


def flow_information(structure: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(3, g, k) inverse of the covariance noise^2 S^-1 + variance I, finite also where the structure S is singular.

    With L = S / noise^2 the inverse is (L + variance det(L) I) / det(I + variance L).
    """
    xx, xy, yy = structure / np.float32(GREY_NOISE**2)
    determinant = np.maximum(xx * yy - xy * xy, 0)
    isotropic = variance * determinant
    scale = 1 / (1 + variance * (xx + yy + isotropic))
    return np.stack([(xx + isotropic) * scale, xy * scale, (yy + isotropic) * scale])


@dataclass(frozen=True)
class Keypoints:
    pixels: np.ndarray  # (N, 2) float32
    descriptors: np.ndarray  # (N, 32) uint8, binary

    @classmethod
    def of(cls, grey: np.ndarray) -> Keypoints:
        """ORB (Rublee et al., ICCV 2011) of a (h, w) uint8 image."""
        # Smaller patches than the default's 31 pixels, and finer steps of scale: the images are small.
        detector = cv2.ORB.create(KEYPOINTS, 1.3, 4, edgeThreshold=12, patchSize=21, fastThreshold=8)
        found, descriptors = detector.detectAndCompute(grey, None)
        if descriptors is None:
            return cls(np.empty((0, 2), np.float32), np.empty((0, 32), np.uint8))
        return cls(cv2.KeyPoint.convert(found), descriptors)


def homography_flow(first: Keypoints, second: Keypoints, size: tuple[int, int]) -> np.ndarray | None:
    """(h, w, 2) flow by the homography that most keypoints follow; None if they follow none. size: (w, h)."""
    if min(len(first.pixels), len(second.pixels)) < FEWEST_MATCHES:
        return None
    matches = cv2.BFMatcher.create(cv2.NORM_HAMMING, crossCheck=True).match(first.descriptors, second.descriptors)
    if len(matches) < FEWEST_MATCHES:
        return None
    a = first.pixels[[match.queryIdx for match in matches]]
    b = second.pixels[[match.trainIdx for match in matches]]
    homography, inliers = cv2.findHomography(a, b, cv2.USAC_MAGSAC, REPROJECTION, maxIters=300)
    if homography is None or np.count_nonzero(inliers) < FEWEST_MATCHES:
        return None
    pixels = np.moveaxis(np.indices(size, np.float32), 0, -1).swapaxes(0, 1)  # (h, w, 2) u, v
    flow = cv2.perspectiveTransform(pixels, homography) - pixels
    return flow if np.abs(flow).max() < 2 * max(size) else None  # the horizon of the homography is in the image


@dataclass(frozen=True)
class TrackedImage:
    """Keys of the dictionaries, which grow, are the partners' frame indices; they leave with the frame."""

    index: int
    stamp_ns: int
    grey: np.ndarray  # (h, w) uint8
    structure: np.ndarray  # (3, g, k) float32, `structure_tensor`
    floor: float = FLOOR  # pixels, error of the best flow vectors
    flows: dict[int, Flow] = field(default_factory=dict)  # from this frame
    seconds: dict[int, float] = field(default_factory=dict)  # how much later the partner was taken

    @classmethod
    def of(cls, image: NetworkInput, size: tuple[int, int] | None = None) -> TrackedImage:
        """size: (w, h) to shrink it to; None: as it is."""
        grey = cv2.cvtColor(image.image, cv2.COLOR_RGB2GRAY)
        if size is not None and size != grey.shape[::-1]:
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        floor = UNKNOWN_LENS if image.K is None else FLOOR
        return cls(image.frame.index, image.frame.stamp_ns, grey, structure_tensor(grey), floor)

    @cached_property
    def keypoints(self) -> Keypoints:
        return Keypoints.of(self.grey)

    @property
    def size(self) -> tuple[int, int]:
        """(w, h)."""
        return self.grey.shape[1], self.grey.shape[0]

    def speed(self) -> float | None:
        """Pixels per second of the median flow vector to the frame nearest in time; None: there is no flow yet."""
        seconds = {index: abs(later) for index, later in self.seconds.items() if later}
        if not seconds:
            return None
        nearest = min(seconds, key=seconds.get)
        flow = self.flows[nearest]
        shift = (flow.target - flow.nodes)[:, ::SPARSE, ::SPARSE]
        return float(np.median(np.hypot(*shift))) / seconds[nearest]


def flows_between(first: TrackedImage, second: TrackedImage, estimator: FlowEstimator) -> tuple[Flow, Flow]:
    """From the first to the second frame and back, computed once and kept with them."""
    if second.index not in first.flows:
        seconds = (second.stamp_ns - first.stamp_ns) * 1e-9
        flows = estimator.both_ways(
            (first.grey, second.grey),
            (first.structure, second.structure),
            _start(first, second, seconds),
            max(first.floor, second.floor),
            # Half of the flow's time, and worth nothing to far pairs: their motion is large.
            refine=second.index - first.index == 1,
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
