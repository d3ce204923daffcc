"""One pass over the pixels: the objective, its gradient by the unknowns, and on demand its curvature."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch

from easi3r_lab.published import solver_flow as flow_term
from easi3r_lab.published import solver_local as local_terms
from easi3r_lab.published.objective import ObjectiveOptions
from easi3r_lab.published.solver_local import Curvature
from easi3r_lab.published.solver_state import Observations, State, retract
from easi3r_lab.published.solver_system import (
    LocalMap,
    Quadratic,
    UnknownLayout,
    free_gradient,
    local_map,
    one_camera,
    temporal,
)
from easi3r_lab.published.solver_tile import (
    CURVATURE,
    DepthPrior,
    Part,
    PixelTile,
    Weighting,
    counting,
    first_depth,
    linearise,
    settle,
    snap,
    tiles,
)

FIRST_SWEEPS, SWEEPS = 3, 1  # re-weightings of the depth in a pass
SMALLEST_RATIO = 0.5  # of a depth to the one before a step


class Order(IntEnum):
    """What a pass computes."""

    VALUE = 0
    GRADIENT = 1
    CURVATURE = 2  # and the gradient


@dataclass(frozen=True)
class Memory:
    """What a pass needs to know of the pass before: normalisers and means, which change little."""

    flow_on: bool  # the flow term counts
    flow_kept: torch.Tensor  # (2,) float64 components per pixel in the terms a -> b and b -> a
    prior_mean: torch.Tensor  # (T, 1) see solver_tile.DepthPrior
    prior_pull: torch.Tensor  # (T, 1)


def no_memory(observations: Observations) -> Memory:
    """Before the first pass, which as published goes without the flow term."""
    zero = observations.points.new_zeros(len(observations.points), 1)
    return Memory(False, torch.ones(2, dtype=torch.float64), zero, zero)


@dataclass(frozen=True)
class Evaluation:
    state: State
    objective: float  # all published terms
    value: float  # and the focal prior
    gradient: torch.Tensor | None  # (U,) of the value; free of gauge, depth eliminated
    curvature: torch.Tensor | None  # (U, U)
    noise: float  # covariance of the unknowns = noise * inverse curvature; NaN without curvature
    depth: torch.Tensor  # (T, n) best at this state
    before: Memory
    after: Memory
    map: LocalMap
    couplings: list[tuple[Part, torch.Tensor, Curvature]]

    @property
    def comparable(self) -> bool:
        """Whether the next pass has the same terms."""
        return self.before.flow_on == self.after.flow_on

    def moved(self, x: torch.Tensor) -> State:
        """After a step x (U,)."""
        return retract(self.state, *self.map.layout.split(x))

    def depth_after(self, x: torch.Tensor) -> torch.Tensor:
        """(T, n) best depth after a step x, to first order; as it is where no curvature is known."""
        depth, local = self.depth.clone(), self.map.local(x)
        for part, at, coupling in self.couplings:
            moved = depth[part] + coupling.depth_step(local[part[0]][:, at])
            depth[part] = torch.maximum(moved, SMALLEST_RATIO * depth[part])
        return depth


@dataclass(frozen=True)
class Evaluator:
    """The objective on one level of resolution."""

    observations: Observations
    options: ObjectiveOptions
    focal_prior: float  # share of the point term, see `one_camera`
    focal: float  # pixels, that separate focal lengths are held to
    layout: UnknownLayout
    distance_floor: float  # world units
    initial_log_depth: torch.Tensor | None  # (T, n), for the depth prior

    def __call__(
        self, state: State, memory: Memory, depth: torch.Tensor | None = None, order: Order = Order.VALUE
    ) -> Evaluation:
        """depth: (T, n) where to start; None: from the pairs."""
        sums = _Sums.zero(self.observations, order)
        for part, tile in tiles(self.observations, state, self._weighting(memory)):
            sums.add(part, tile, None if depth is None else depth[part])
        mapping = local_map(self.layout, self.observations, state)
        priors = self._priors(state, sums.point)
        gradient = None if order < Order.GRADIENT else mapping.gradient(sums.local_gradient())
        curvature = None if order < Order.CURVATURE else mapping.curvature(sums.curvature)
        for prior in priors:
            gradient = None if gradient is None else gradient + prior.gradient
            curvature = None if curvature is None else curvature + prior.curvature
        objective, after = self._values(memory, sums)
        objective += sum(prior.value for prior in priors if prior.published)
        return Evaluation(
            state=state,
            objective=objective,
            value=objective + sum(prior.value for prior in priors if not prior.published),
            gradient=None if gradient is None else free_gradient(self.layout, gradient),
            curvature=curvature,
            noise=sums.noise,
            depth=sums.depth,
            before=memory,
            after=after,
            map=mapping,
            couplings=sums.couplings,
        )

    def _weighting(self, memory: Memory) -> Weighting:
        flow = torch.zeros(2, dtype=torch.float64)
        if memory.flow_on:
            flow = self.options.flow_weight / (memory.flow_kept * self.observations.pixels)
        prior = None
        if self.initial_log_depth is not None:
            share = self.options.depth_prior_weight / self.initial_log_depth.numel()
            prior = DepthPrior(share, self.initial_log_depth, memory.prior_mean, memory.prior_pull)
        return Weighting(self.options.static_weighting, self.distance_floor, flow, prior)

    def _priors(self, state: State, point: float) -> list[Quadratic]:
        priors = []
        if self.options.temporal_weight:
            weights = self.options.temporal_weight, self.options.translation_weight
            priors.append(temporal(self.layout, state, *weights))
        if self.layout.focals > 1:
            priors.append(one_camera(self.layout, state, self.focal_prior * point, self.focal))
        return priors

    def _values(self, memory: Memory, sums: _Sums) -> tuple[float, Memory]:
        """The terms with pixels, and what the next pass should know."""
        value, on, kept = sums.point, memory.flow_on, memory.flow_kept
        mean, pull = memory.prior_mean, memory.prior_pull
        if self.observations.flow is not None:
            count = sums.flow[:, 1].clamp(min=1.0)
            term = float((sums.flow[:, 0] / count).sum())
            value += self.options.flow_weight * term * on
            on, kept = term <= self.options.flow_limit, count / self.observations.pixels
        if self.initial_log_depth is not None:
            change = sums.depth.log() - self.initial_log_depth
            mean = change.mean(1, keepdim=True)
            weighted = (1.0 + self.observations.movers) * (change - mean)
            pull = weighted.mean(1, keepdim=True)
            value += self.options.depth_prior_weight * float((weighted * (change - mean)).mean())
        return value, Memory(on, kept, mean, pull)


@dataclass
class _Sums:
    """What the tiles of a pass add up to. Local coordinates: see `solver_local`."""

    order: Order
    depth: torch.Tensor  # (T, n)
    point_moments: torch.Tensor  # (T, K, 4, 3) float64, see solver_local.point_moments
    flow_gradient: torch.Tensor  # (T, F, 7)
    focal_gradient: torch.Tensor  # (T,)
    curvature: torch.Tensor  # (T, L, L) float64
    couplings: list[tuple[Part, torch.Tensor, Curvature]]
    flow: torch.Tensor  # (2, 2), see solver_flow.statistics
    share: float  # see Observations
    point: float = 0.0
    scores: float = 0.0  # sum of squared weights, as of all pixels
    stiffness: float = 0.0  # sum of weights as least squares

    @staticmethod
    def zero(observations: Observations, order: Order) -> _Sums:
        (frames, slots), flows = observations.pair.shape, observations.flows
        size = 7 * (slots + flows) + 1 if order == Order.CURVATURE else 0
        return _Sums(
            order=order,
            depth=torch.empty_like(observations.movers),
            point_moments=torch.zeros(frames, slots, 4, 3, dtype=torch.float64),
            flow_gradient=torch.zeros(frames, flows, 7, dtype=torch.float64),
            focal_gradient=torch.zeros(frames, dtype=torch.float64),
            curvature=torch.zeros(frames, size, size, dtype=torch.float64),
            couplings=[],
            flow=torch.zeros(2, 2, dtype=torch.float64),
            share=observations.share,
        )

    def add(self, part: Part, tile: PixelTile, depth: torch.Tensor | None) -> None:
        rows, slots = part[0], tile.foot.shape[1]
        if depth is None:
            depth = settle(tile, first_depth(tile), None, FIRST_SWEEPS)
        flow = None if tile.flow is None else flow_term.linearise(tile.flow, depth)
        depth = settle(tile, depth, flow, SWEEPS)
        if self.order == Order.VALUE:  # no step follows
            depth = snap(tile, depth, flow)
        linear = linearise(tile, depth, flow)
        self.depth[part] = best = linear.least_squares_depth()
        weight = counting(tile, linear.weight)
        self.point += float((weight * linear.squared).sum())
        if flow is not None:
            self.flow += flow_term.statistics(tile.flow, flow).cpu()
        if self.order >= Order.GRADIENT:
            slopes = local_terms.gradient(tile, weight, flow, best)
            self.point_moments[rows, :slots] += slopes.point_moments.cpu()
            self.flow_gradient[rows] += slopes.flow.cpu()
            self.focal_gradient[rows] += slopes.focal.cpu()
        if self.order == Order.CURVATURE:
            self._bend(part, tile, flow, best)
            self.scores += float(counting(tile, tile.weight).square().sum()) / self.share
            self.stiffness += float(weight.sum())

    def _bend(self, part: Part, tile: PixelTile, flow: flow_term.FlowLinear | None, depth: torch.Tensor) -> None:
        bend, rows = local_terms.curvature(tile, depth, flow), self.curvature[part[0]]
        # Slots that no frame of the tile uses are not in its coordinates.
        ahead = torch.arange(7 * tile.foot.shape[1])
        at = torch.cat([ahead, torch.arange(rows.shape[1] - bend.matrix.shape[1] + len(ahead), rows.shape[1])])
        if len(at) == rows.shape[1]:
            rows += bend.matrix.cpu()  # the usual case, and much faster
        else:
            rows[:, at[:, None], at] += bend.matrix.cpu()
        self.couplings.append((part, at, bend))

    def local_gradient(self) -> torch.Tensor:
        """(T, L)"""
        point = local_terms.point_gradient(self.point_moments)
        return torch.cat([point.flatten(1), self.flow_gradient.flatten(1), self.focal_gradient[:, None]], 1)

    @property
    def noise(self) -> float:
        """Of an M-estimator (Huber 1964): mean squared score over mean curvature; residuals point anywhere in 3D."""
        return self.scores / (3.0 * CURVATURE * self.stiffness) if self.stiffness else float("nan")
