"""The backbone that needs no weights: optical flow and two-view geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch

from easi3r_ros.core.backbones.base import Backbone
from easi3r_ros.core.backbones.classical.features import ClassicalFeatures, extract
from easi3r_ros.core.backbones.classical.pair import Solution, View, solve_motion, solve_views, with_flow
from easi3r_ros.core.two_view.camera import FocalBelief, focal_from_fov
from easi3r_ros.core.two_view.flow import FlowEstimator, widened
from easi3r_ros.core.two_view.refine import Motion
from easi3r_ros.core.types import Edge, InputSpec, NetworkInput, PairEvidence, PairGeometry, PairMotion, Partners

FOV_DEVIATION = 0.4  # of log focal length: how far off the assumed field of view may be


class ClassicalBackbone(Backbone):
    """Pointmaps by triangulation, motion evidence from what no rigid motion explains.

    All frames must come from one camera. Intrinsics are the input's; where it has none, the focal length starts at the
    assumed field of view and is learned while the camera turns.
    """

    name = "classical"
    input_spec = InputSpec(long_side=320)
    detail = 2  # flow and depth are computed on every second pixel
    # The last frame, and one far enough back for parallax: by time, because a slow machine drops frames.
    default_partners = Partners(seconds=(0.0, 0.15))

    def __init__(self, horizontal_fov: float = 60.0):
        """horizontal_fov: degrees, assumed while intrinsics are not known."""
        self._horizontal_fov = horizontal_fov
        self._flow = FlowEstimator()

    def encode(self, image: NetworkInput) -> ClassicalFeatures:
        """Raises ValueError for an image too small for optical flow."""
        return extract(image)

    def decode(
        self,
        pairs: Sequence[tuple[ClassicalFeatures, ClassicalFeatures]],
        masks: Mapping[int, torch.Tensor] | None = None,
    ) -> list[PairGeometry]:
        moving = {index: widened(mask.cpu().numpy()) for index, mask in (masks or {}).items() if bool(mask.any())}
        solutions = self._solve(pairs, moving)
        return [_answer(a, b, solutions[min(a.index, b.index), max(a.index, b.index)]) for a, b in pairs]

    def _solve(
        self, pairs: Sequence[tuple[ClassicalFeatures, ClassicalFeatures]], moving: Mapping[int, np.ndarray]
    ) -> dict[Edge, Solution]:
        """Every unordered pair once."""
        unordered = {}
        for pair in pairs:
            first, second = sorted(pair, key=lambda features: features.index)
            unordered[first.index, second.index] = first, second
        near_to_far = sorted(unordered.values(), key=lambda pair: pair[1].index - pair[0].index)
        # Flow to near frames predicts that to far ones, where the search is harder.
        known = [with_flow(first, second, self._flow) for first, second in near_to_far]
        # Far frames know the camera's translation, of which near ones see little but noise.
        solutions: dict[Edge, Solution] = {}
        longer: dict[int, Motion | None] = {}
        for pair in reversed(known):
            prior = self._focal_prior(pair.first.tracked.size[0])
            motion = solve_motion(pair, moving, prior, longer.get(pair.second.index))
            longer.setdefault(pair.second.index, motion)
            solutions[pair.edge] = solve_views(pair, motion, moving, prior)
        return solutions

    def _focal_prior(self, width: int) -> FocalBelief:
        return FocalBelief(float(np.log(focal_from_fov(width, self._horizontal_fov))), FOV_DEVIATION**-2)


def _answer(a: ClassicalFeatures, b: ClassicalFeatures, solution: Solution) -> PairGeometry:
    if a.index <= b.index:
        a_from_b, views = np.linalg.inv(solution.second_from_first), (solution.first, solution.second)
    else:
        a_from_b, views = solution.second_from_first, (solution.second, solution.first)
    return PairGeometry(
        a=a.index,
        b=b.index,
        points_a=torch.from_numpy(views[0].points),
        points_b=torch.from_numpy(_transformed(a_from_b, views[1])),
        conf_a=torch.from_numpy(views[0].confidence),
        conf_b=torch.from_numpy(views[1].confidence),
        evidence=PairEvidence(
            motion=PairMotion(
                *(torch.from_numpy(view.evidence) for view in views), *(torch.from_numpy(view.flow) for view in views)
            )
        ),
    )


def _transformed(pose: np.ndarray, view: View) -> np.ndarray:
    """(h, w, 3) points of a view in the coordinates that the (4, 4) pose leads to."""
    return cv2.transform(view.points, pose[:3])
