"""The published alignment objective, and its 300 Adam steps: the definition that the fast solver is measured against.

METHOD 7 (Easi3R eq. 2 and 11). Parameters are stored as published: quaternions xyzw, translations as
sign(t) log(1 + |t|), depth and pair scale as logarithms, focal lengths as 20 log(pixels). P pairs, T frames, h x w
pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch

from easi3r_ros.core.geometry import pixel_grid

FOCAL_SCALE = 20.0  # the published optimiser stores 20 log(focal): one learning rate suits all parameters
GEOMETRIC_MEAN_SCALE = 0.5  # of the pair scales: fixes the gauge
FLOW_CLIP = 50.0  # pixels; larger residuals are outliers of the flow, and dropped
EPSILON = 1e-6


@dataclass(frozen=True)
class Problem:
    """What the alignment is given."""

    edges: torch.Tensor  # (P, 2) int64: frames (a, b) of every pair
    points_a: torch.Tensor  # (P, h, w, 3) pointmap of a in a's camera
    points_b: torch.Tensor  # (P, h, w, 3) pointmap of b in a's camera
    conf_a: torch.Tensor  # (P, h, w) >= 1
    conf_b: torch.Tensor  # (P, h, w) >= 1
    masks: torch.Tensor  # (T, h, w) bool, True on movers
    flow: torch.Tensor | None = None  # (P, 2, h, w) optical flow (u, v) from a to b in pixels
    flow_back: torch.Tensor | None = None  # (P, 2, h, w) from b to a

    @property
    def frames(self) -> int:
        return len(self.masks)


@dataclass(frozen=True)
class Parameters:
    """The unknowns, as published."""

    pair_poses: torch.Tensor  # (P, 8) quaternion, signed-log translation, log scale
    frame_poses: torch.Tensor  # (T, 7) quaternion, signed-log translation
    focals: torch.Tensor  # (1, 1) shared or (T, 1): 20 log(pixels)
    log_depth: torch.Tensor  # (T, h, w)

    def tensors(self) -> list[torch.Tensor]:
        return [getattr(self, item.name) for item in fields(self)]


@dataclass(frozen=True)
class ObjectiveOptions:
    """Weights of the terms and the schedule; the defaults are the published demo's, with flow."""

    flow_weight: float = 0.01
    flow_start: float = 0.1  # share of the iterations
    flow_limit: float = 25.0  # the flow term is dropped while it exceeds this
    temporal_weight: float = 0.0
    translation_weight: float = 1.0
    depth_prior_weight: float = 0.0
    static_weighting: bool = False  # not published: point term times (1 - mask)
    iterations: int = 300
    learning_rate: float = 0.01
    learning_rate_min: float = 0.001
    schedule: str = "linear"  # or "cosine"


@dataclass(frozen=True)
class Terms:
    """Values of the objective; all but `total` unweighted."""

    point: torch.Tensor
    flow: tuple[torch.Tensor, torch.Tensor]  # a -> b, b -> a; zero where it is not part of the objective
    temporal: torch.Tensor
    depth_prior: torch.Tensor
    total: torch.Tensor


@dataclass(frozen=True)
class Optimised:
    parameters: Parameters
    losses: torch.Tensor  # (steps,) objective before each step
    rates: torch.Tensor = field(repr=False)  # (steps,) learning rate of each step


def rotation_matrix(quaternion: torch.Tensor) -> torch.Tensor:
    """(..., 4) quaternions xyzw of any length -> (..., 3, 3)."""
    x, y, z, w = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def poses(raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, >= 7) published pose parameters -> rotations (N, 3, 3), translations (N, 3)."""
    log_translation = raw[:, 4:7]
    return rotation_matrix(raw[:, :4]), log_translation.sign() * torch.expm1(log_translation.abs())


def pair_scales(pair_poses: torch.Tensor) -> torch.Tensor:
    """(P,) scales, normalised to their fixed geometric mean."""
    log_scale = pair_poses[:, 7]
    return torch.exp(log_scale - log_scale.mean()) * GEOMETRIC_MEAN_SCALE


def focal_lengths(parameters: Parameters) -> torch.Tensor:
    """(T,) focal lengths in pixels."""
    return torch.exp(parameters.focals[:, 0] / FOCAL_SCALE).expand(len(parameters.frame_poses))


def camera_points(parameters: Parameters) -> torch.Tensor:
    """(T, h, w, 3) points of every frame in its own camera; principal point (w/2, h/2)."""
    depth = parameters.log_depth.exp()
    _, height, width = depth.shape
    centred = pixel_grid(height, width, depth.device).to(depth) - depth.new_tensor([width / 2, height / 2])
    rays = centred / focal_lengths(parameters)[:, None, None, None]
    return torch.cat([rays * depth[..., None], depth[..., None]], -1)


def world_points(parameters: Parameters) -> torch.Tensor:
    """(T, h, w, 3) points of every frame in the world."""
    rotation, translation = poses(parameters.frame_poses)
    return torch.einsum("tij,thwj->thwi", rotation, camera_points(parameters)) + translation[:, None, None]


def objective(
    problem: Problem,
    parameters: Parameters,
    options: ObjectiveOptions,
    initial_log_depth: torch.Tensor,
    with_flow: bool,
) -> Terms:
    """All terms at `parameters`. initial_log_depth: (T, h, w), what the depth prior pulls to."""
    point = point_term(problem, parameters, options.static_weighting)
    flow = flow_terms(problem, parameters) if with_flow and options.flow_weight else (point.new_zeros(()),) * 2
    temporal = temporal_term(parameters, options.translation_weight)
    prior = depth_prior_term(problem, parameters, initial_log_depth)
    total = point + options.temporal_weight * temporal + options.depth_prior_weight * prior
    if flow[0] + flow[1] <= options.flow_limit:
        total = total + options.flow_weight * (flow[0] + flow[1])
    return Terms(point, flow, temporal, prior, total)


def point_term(problem: Problem, parameters: Parameters, static_weighting: bool = False) -> torch.Tensor:
    """Eq. 2: mean over pixels of log(conf) * |world - s_e T_e X|, views a and b each divided by their own pixels."""
    world = world_points(parameters)
    rotation, translation = poses(parameters.pair_poses)
    scale = pair_scales(parameters.pair_poses)[:, None, None, None]
    total = world.new_zeros(())
    views = ((problem.points_a, problem.conf_a), (problem.points_b, problem.conf_b))
    for frame, (points, conf) in zip(problem.edges.T, views, strict=True):
        moved = scale * (torch.einsum("pij,phwj->phwi", rotation, points) + translation[:, None, None])
        weight = conf.log()
        if static_weighting:
            weight = weight * ~problem.masks[frame]
        total = total + (weight * (world[frame] - moved).norm(dim=-1)).mean()
    return total


def flow_terms(problem: Problem, parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 11: smooth-L1 between the flow that camera motion and depth induce and the estimated one, where static."""
    a, b = problem.edges.T
    return (
        _flow_term(problem, parameters, a, b, problem.flow),
        _flow_term(problem, parameters, b, a, problem.flow_back),
    )


def _flow_term(
    problem: Problem, parameters: Parameters, source: torch.Tensor, target: torch.Tensor, flow: torch.Tensor
) -> torch.Tensor:
    error = torch.nn.functional.smooth_l1_loss(
        induced_flow(parameters, source, target), flow, reduction="none", beta=1.0
    )
    kept = ~problem.masks[source][:, None] & (error < FLOW_CLIP)  # (P, 2, h, w)
    return (error * kept).sum() / kept.sum().clamp(min=1)


def induced_flow(parameters: Parameters, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(P, 2, h, w) flow in pixels from frames `source` to frames `target` if nothing but the camera moved."""
    rotation, translation = poses(parameters.frame_poses)
    focal = focal_lengths(parameters)
    relative = rotation[target].mT @ rotation[source]  # target_from_source
    offset = (rotation[target].mT @ (translation[source] - translation[target])[..., None])[..., 0]
    log_depth = parameters.log_depth[source]
    _, height, width = log_depth.shape
    grid = pixel_grid(height, width, log_depth.device).to(log_depth)
    centre = grid.new_tensor([width / 2, height / 2])
    rays = (grid - centre) / focal[source][:, None, None, None]
    rays = torch.cat([rays, torch.ones_like(rays[..., :1])], -1)  # (P, h, w, 3)
    disparity = 1.0 / (log_depth.exp() + EPSILON)  # projecting ray + disparity * offset is safe for far points
    moved = torch.einsum("pij,phwj->phwi", relative, rays) + disparity[..., None] * offset[:, None, None]
    pixels = focal[target][:, None, None, None] * moved[..., :2] / (moved[..., 2:] + EPSILON) + centre
    return (pixels - grid).permute(0, 3, 1, 2)


def temporal_term(parameters: Parameters, translation_weight: float) -> torch.Tensor:
    """Sum over consecutive frames of |relative rotation - I|_F + weight * |relative translation|."""
    rotation, translation = poses(parameters.frame_poses)
    relative = rotation[:-1].mT @ rotation[1:]
    offset = (rotation[:-1].mT @ (translation[1:] - translation[:-1])[..., None])[..., 0]
    identity = torch.eye(3, dtype=relative.dtype, device=relative.device)
    return ((relative - identity).flatten(1).norm(dim=1) + translation_weight * offset.norm(dim=1)).sum()


def depth_prior_term(problem: Problem, parameters: Parameters, initial_log_depth: torch.Tensor) -> torch.Tensor:
    """Mean over frames of the (1 + mask)-weighted squared change of log depth, its own mean removed."""
    change = parameters.log_depth - initial_log_depth
    change = change - change.mean(dim=(1, 2), keepdim=True)
    return ((1.0 + problem.masks.to(change)) * change.square()).mean(dim=(1, 2)).mean()


def adam(problem: Problem, start: Parameters, options: ObjectiveOptions, steps: int | None = None) -> Optimised:
    """The published optimiser: Adam with betas (0.9, 0.9) and a falling rate, flow from 10 % of the iterations on.

    steps: only so many of `options.iterations`; None: all.
    """
    parameters = Parameters(*(tensor.detach().clone().requires_grad_() for tensor in start.tensors()))
    optimiser = torch.optim.Adam(parameters.tensors(), lr=options.learning_rate, betas=(0.9, 0.9))
    losses, rates = [], []
    for step in range(options.iterations if steps is None else steps):
        rate = _learning_rate(options, step / options.iterations)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        with_flow = step >= options.flow_start * options.iterations
        loss = objective(problem, parameters, options, start.log_depth, with_flow).total
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        rates.append(rate)
    final = replace(parameters, **{f.name: getattr(parameters, f.name).detach() for f in fields(parameters)})
    return Optimised(final, torch.tensor(losses), torch.tensor(rates))


def _learning_rate(options: ObjectiveOptions, progress: float) -> float:
    span = options.learning_rate - options.learning_rate_min
    if options.schedule == "cosine":
        return options.learning_rate_min + span * 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi))))
    return options.learning_rate - span * progress
