"""`PairMotion` for pairs of networks, which give pointmaps but no measured motion."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from easi3r_ros.core.motion.residual import PairFlow, pair_motion, relative_pose
from easi3r_ros.core.two_view.flow import FlowEstimator, widened
from easi3r_ros.core.two_view.refine import Motion
from easi3r_ros.core.two_view.tracked import TrackedImage, flows_between
from easi3r_ros.core.types import Edge, Features, PairGeometry, PairMotion

# A frame's pairs with those taken so long before it are measured: the last one shows what is fast, which flow loses
# over a longer time, a longer time shows what is slow. All of ten pairs would take longer than a network on a GPU.
SECONDS = (0.0, 0.15, 0.4)


class MotionMeter:
    """Adds `PairMotion` to pairs that have none. Keeps the flows of frames of the window. Not thread-safe."""

    def __init__(self) -> None:
        self._estimator = FlowEstimator()
        self._tracked: dict[int, TrackedImage] = {}

    def complete(
        self,
        features: Mapping[int, Features],
        pairs: Sequence[PairGeometry],
        masks: Mapping[int, torch.Tensor] | None = None,
    ) -> list[PairGeometry]:
        """The pairs, in their order, with motion measured for some of those that had none.

        features: every frame of the window. masks: frame index -> (h, w) bool, True on what is known to move, which
        must not influence what is expected of the static rest.
        """
        self._tracked = {index: tracked for index, tracked in self._tracked.items() if index in features}
        unmeasured = {pair.edge: pair for pair in pairs if pair.evidence.motion is None}
        if not unmeasured:
            return list(pairs)
        found = self._measure(features, unmeasured, masks or {})
        return [
            replace(pair, evidence=replace(pair.evidence, motion=found[pair.edge])) if pair.edge in found else pair
            for pair in pairs
        ]

    def reset(self) -> None:
        self._tracked = {}

    def _measure(
        self,
        features: Mapping[int, Features],
        pairs: Mapping[Edge, PairGeometry],
        masks: Mapping[int, torch.Tensor],
    ) -> dict[Edge, PairMotion]:
        """By edge, in both orders."""
        moving = {index: widened(mask.cpu().numpy()) for index, mask in masks.items() if bool(mask.any())}
        edges = measured_edges(pairs, {index: f.input.frame.stamp_ns for index, f in features.items()})
        # Flow to near frames predicts that to far ones, where the search is harder.
        flows = {(a, b): self._flow(features[a], features[b], moving) for a, b in edges}
        found: dict[Edge, PairMotion] = {}
        longer: dict[int, Motion] = {}
        # Far frames know the camera's translation, of which near ones see little but noise.
        for a, b in reversed(edges):
            pose = relative_pose(pairs[a, b], features[a].input.K, flows[a, b], longer.get(a))
            if pose is not None:
                longer.setdefault(a, pose.refined)
                found[a, b] = pair_motion(pairs[a, b], pose, flows[a, b])
                found[b, a] = found[a, b].swapped()
        return found

    def _flow(self, a: Features, b: Features, moving: Mapping[int, np.ndarray]) -> PairFlow:
        flows = flows_between(self._image(a), self._image(b), self._estimator)
        return PairFlow(*flows, moving.get(a.index), moving.get(b.index))

    def _image(self, features: Features) -> TrackedImage:
        if features.index not in self._tracked:
            self._tracked[features.index] = TrackedImage.of(features.input)
        return self._tracked[features.index]


def measured_edges(edges: Collection[Edge], stamps: Mapping[int, int]) -> list[Edge]:
    """One per frame and entry of SECONDS as far as there are enough, near to far in time.

    Of the two orders of a pair, that whose reference view is the newer frame, where there is a choice: what the pair
    says about the newest frame is what matters. stamps: by frame index, nanoseconds.
    """
    by_frames = {(max(edge), min(edge)): edge for edge in sorted(edges)}
    chosen: set[Edge] = set()
    for newer in {newer for newer, _ in by_frames}:
        for seconds in SECONDS:
            free = [pair for pair in by_frames if pair[0] == newer and pair not in chosen]
            if free:
                chosen.add(min(free, key=lambda pair: (abs(_age(pair, stamps) - seconds), -pair[1])))
    return [by_frames[pair] for pair in sorted(chosen, key=lambda pair: _age(pair, stamps))]


def _age(edge: Edge, stamps: Mapping[int, int]) -> float:
    """Seconds between the frames of (newer, older)."""
    return (stamps[edge[0]] - stamps[edge[1]]) * 1e-9
