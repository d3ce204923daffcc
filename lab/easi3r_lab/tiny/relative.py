"""Two views of `tiny` brought together: its depth of each, and the pose between them from its attention's matches.

So small a network knows depth and finds tokens better than it draws one view's points in the other's camera, and with
the matches the camera's own focal length can be used. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from easi3r_lab.training.attention_matches import TokenMatches
from easi3r_ros.core.alignment.placement import register
from easi3r_ros.core.geometry import invert_se3, transform, unproject, weighted_median, weighted_procrustes
from easi3r_ros.core.types import PairGeometry

ITERATIONS = 20
NEAREST = 1e-3  # network units: depth behind the camera counts as that
MATCH_NOISE = 0.3  # of a patch: how exactly the middle of an attention peak is known
MIN_INLIERS = 0.3  # weighted share of matches that must agree with the pose
SURE = 0.05  # attention mass from which a match counts at all


@dataclass(frozen=True)
class View:
    """One frame of a pair in its own camera, in the network's unit."""

    depth: Tensor  # (h, w) float32
    confidence: Tensor  # (h, w) float32 >= 1
    static: Tensor  # (h, w) bool, True where nothing moves
    K: np.ndarray  # (3, 3)

    @property
    def points(self) -> Tensor:
        """(h, w, 3) float32."""
        return unproject(self.depth, torch.from_numpy(self.K))


@dataclass(frozen=True)
class RelativePose:
    a_from_b: Tensor  # (4, 4) float64, translation in the unit of view a
    scale: float  # unit of view b -> unit of view a


def depth_of_both(own: PairGeometry, other: PairGeometry) -> Tensor:
    """(h, w) depth of one frame as both towers see it: geometric mean, which is a few percent better than either.

    own: the pair in which the frame is view a; other: that in which it is view b, so that its points there have to be
    carried to its own camera first, by the similarity that suits the network best.
    """
    source, target = other.points_b.flatten(0, 1), own.points_a.flatten(0, 1)
    rigid, scale = weighted_procrustes(source, target, (other.conf_b * own.conf_a).flatten())
    carried = transform(rigid, scale * source.double()).float()[:, 2].reshape(own.conf_a.shape)
    return (own.points_a[..., 2].clamp(min=NEAREST) * carried.clamp(min=NEAREST)).sqrt()


def mean_depth(depths: Sequence[Tensor]) -> Tensor:
    """(h, w) geometric mean of depths (h, w) up to scale, in the unit of the first."""
    logs = torch.stack(list(depths)).log()
    levels = logs.flatten(1).median(1).values[:, None, None]
    return ((logs - levels).mean(0) + levels[0]).exp()


def relative_pose(a: View, b: View, matches: TokenMatches, patch: int) -> RelativePose:
    """Robust reprojection of a's points at the middles of its tokens onto their matches in b.

    Raises ValueError if the matches do not determine a pose.
    """
    middle = slice(patch // 2, None, patch)
    points = a.points[middle, middle].reshape(-1, 3)  # (gh, gw, 3) -> (N, 3)
    weights = matches.weight * a.confidence[middle, middle].flatten().log() * a.static[middle, middle].flatten()
    weights = torch.where(matches.weight > SURE, weights, 0.0)
    # A token's middle lies between pixels, the sampled one half a pixel to the right and below.
    pixels = matches.pixels + 0.5
    K = torch.from_numpy(b.K)
    start = torch.eye(4, dtype=torch.float64)
    found = register(points, pixels, weights, K, start, ITERATIONS, MATCH_NOISE * patch)
    if found.inliers < MIN_INLIERS:
        raise ValueError(f"only {found.inliers:.0%} of the matches agree with a pose")
    a_from_b = found.world_from_cam
    in_b = transform(invert_se3(a_from_b), points.double())[:, 2]
    column, row = (matches.pixels[:, k].round().long() for k in (0, 1))
    ratio = in_b / b.depth[row.clamp(0, b.depth.shape[0] - 1), column.clamp(0, b.depth.shape[1] - 1)].double()
    return RelativePose(a_from_b, float(weighted_median(ratio, torch.where(in_b > 0, weights.double(), 0.0))))


def in_first_camera(b: View, pose: RelativePose) -> Tensor:
    """(h, w, 3) float32 points of b in camera a."""
    return transform(pose.a_from_b.float(), b.points * pose.scale)
