"""One pass over the pixels: the objective, its gradient by the unknowns, and on demand its curvature."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from easi3r_ros.core.alignment import solver_flow as flow_term
from easi3r_ros.core.alignment import solver_local as local_terms
from easi3r_ros.core.alignment.reference import Options
from easi3r_ros.core.alignment.solver_observations import Observations
from easi3r_ros.core.alignment.solver_priors import Quadratic, one_camera, temporal
from easi3r_ros.core.alignment.solver_state import State
from easi3r_ros.core.alignment.solver_system import Layout, LocalMap, free_gradient, local_map
from easi3r_ros.core.alignment.solver_tile import (
    DepthPrior,
    Part,
    Tile,
    Weighting,
    first_depth,
    linearise,
    settle,
    tiles,
)

FIRST_SWEEPS, SWEEPS = 3, 2  # re-weightings of the depth per pass


@dataclass(frozen=True)
class Memory:
    """What a pass needs to know of the pass before: normalisers and means that change little."""

    flow_on: bool  # the flow term counts
    flow_kept: torch.Tensor  # (2,) float64 components per pixel in the terms a -> b and b -> a
    prior_mean: torch.Tensor  # (T, 1) see solver_tile.DepthPrior
    prior_pull: torch.Tensor  # (T, 1)


def no_memory(frames: int, device: torch.device) -> Memory:
    """Before the first pass, which as published goes without the flow term."""
    zero = torch.zeros(frames, 1, device=device)
    return Memory(False, torch.ones(2, dtype=torch.float64), zero, zero)


@dataclass(frozen=True)
class Evaluation:
    state: State
    value: float  # the objective, and the focal prior
    gradient: torch.Tensor  # (U,) free gradient, depth eliminated
    curvature: torch.Tensor | None  # (U, U)
    depth: torch.Tensor  # (T, n) best at this state
    memory: Memory  # for the next pass
    map: LocalMap
    couplings: list[tuple[Part, local_terms.Curvature]]

    def depth_after(self, x: torch.Tensor) -> torch.Tensor:
        """(T, n) best depth after the step x, to first order where the curvature is known."""
        depth, local = self.depth.clone(), self.map.local(x)
        for part, coupling in self.couplings:
            moved = depth[part] + coupling.depth_step(local[part[0]])
            depth[part] = torch.maximum(moved, 0.5 * depth[part])
        return depth


@dataclass(frozen=True)
class Evaluator:
    options: Options
    focal_prior: float
    layout: Layout
    distance_floor: float  # world units
    initial_log_depth: torch.Tensor | None  # (T, n) of the level's pixels, for the depth prior

    def __call__(
        self,
        observations: Observations,
        state: State,
        memory: Memory,
        depth: torch.Tensor | None = None,
        with_curvature: bool = False,
    ) -> Evaluation:
        """depth: (T, n) where to start; None: from the pairs."""
        frames, slots = observations.pair.shape
        size = 7 * (slots + observations.flows) + 1
        gradient = torch.zeros(frames, size, dtype=torch.float64)
        curvature = torch.zeros(frames, size, size, dtype=torch.float64) if with_curvature else None
        best = observations.points.new_empty(frames, observations.pixels)
        couplings, point, flow_sums = [], 0.0, torch.zeros(2, 2, dtype=torch.float64)
        for part, tile in tiles(observations, state, self._weighting(observations, memory)):
            start, flow = _prepare(tile, None if depth is None else depth[part])
            linear = linearise(tile, settle(tile, start, flow, SWEEPS), flow)
            slopes, best[part] = local_terms.gradient(tile, linear, flow)
            gradient[part[0]] += slopes.cpu()
            point += float((tile.weight * tile.static * linear.distance).sum(dtype=torch.float64))
            if flow is not None:
                flow_sums += flow_term.statistics(tile.flow, flow).cpu()
            if curvature is not None:
                bend = local_terms.curvature(tile, best[part], flow)
                curvature[part[0]] += bend.matrix.cpu()
                couplings.append((part, bend))
        mapping = local_map(self.layout, observations, state)
        value, memory = self._values(observations, memory, point, flow_sums, best)
        gradient = mapping.gradient(gradient)
        curvature = None if curvature is None else mapping.curvature(curvature)
        for prior in self._priors(state, point):
            value, gradient = value + prior.value, gradient + prior.gradient
            curvature = None if curvature is None else curvature + prior.curvature
        free = free_gradient(self.layout, gradient)
        return Evaluation(state, value, free, curvature, best, memory, mapping, couplings)

    def settled_depth(
        self, observations: Observations, state: State, memory: Memory, depth: torch.Tensor
    ) -> torch.Tensor:
        """(T, n) best depth at `state`."""
        best = torch.empty_like(depth)
        for part, tile in tiles(observations, state, self._weighting(observations, memory)):
            start, flow = _prepare(tile, depth[part])
            best[part] = linearise(tile, settle(tile, start, flow, SWEEPS), flow).least_squares_depth()
        return best

    def _weighting(self, observations: Observations, memory: Memory) -> Weighting:
        flow = torch.zeros(2, dtype=torch.float64)
        if memory.flow_on:
            flow = self.options.flow_weight / (memory.flow_kept * observations.pixels)
        prior = None
        if self.initial_log_depth is not None:
            share = self.options.depth_prior_weight / observations.movers.numel()
            prior = DepthPrior(share, self.initial_log_depth, memory.prior_mean, memory.prior_pull)
        return Weighting(self.options.static_weighting, self.distance_floor, flow, prior)

    def _values(
        self, observations: Observations, memory: Memory, point: float, flow_sums: torch.Tensor, depth: torch.Tensor
    ) -> tuple[float, Memory]:
        """Objective of the terms with pixels, and what the next pass should know."""
        value, on, kept = point, memory.flow_on, memory.flow_kept
        mean, pull = memory.prior_mean, memory.prior_pull
        if observations.flow is not None:
            count = flow_sums[:, 1].clamp(min=1.0)
            term = float((flow_sums[:, 0] / count).sum())
            value += self.options.flow_weight * term * on
            on, kept = term <= self.options.flow_limit, count / observations.pixels
        if self.initial_log_depth is not None:
            change = depth.log() - self.initial_log_depth
            mean = change.mean(1, keepdim=True)
            weighted = (1.0 + observations.movers) * (change - mean)
            pull = weighted.mean(1, keepdim=True)
            value += self.options.depth_prior_weight * float((weighted * (change - mean)).mean())
        return value, Memory(on, kept, mean, pull)

    def _priors(self, state: State, point: float) -> list[Quadratic]:
        found = []
        if self.options.temporal_weight:
            weights = self.options.temporal_weight, self.options.translation_weight
            found.append(temporal(self.layout, state, *weights))
        if self.layout.focals > 1:
            found.append(one_camera(self.layout, state, self.focal_prior * point))
        return found


def _prepare(tile: Tile, depth: torch.Tensor | None) -> tuple[torch.Tensor, flow_term.FlowLinear | None]:
    """Depth to start from, and the flow term around it."""
    if depth is None:
        depth = settle(tile, first_depth(tile), None, FIRST_SWEEPS)
    return depth, None if tile.flow is None else flow_term.linearise(tile.flow, depth)
