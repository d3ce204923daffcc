"""The unknowns of the solver other than depth, in double precision, and their published form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.spatial.transform import Rotation

from easi3r_lab.published import objective as reference
from easi3r_ros.core.geometry import hat, se3_exp


@dataclass(frozen=True)
class State:
    """float64, on the CPU: a few hundred numbers."""

    world_from_cam: torch.Tensor  # (T, 4, 4) rigid
    world_from_pair: torch.Tensor  # (P, 4, 4) similarities, scale included
    focal: torch.Tensor  # (1,) shared or (T,) pixels, along u

    @property
    def focals(self) -> torch.Tensor:
        return self.focal.expand(len(self.world_from_cam))


def pair_scales(state: State) -> torch.Tensor:
    """(P,) world units per pair unit."""
    return torch.linalg.det(state.world_from_pair[:, :3, :3]).pow(1 / 3)


def retract(state: State, frame_twist: torch.Tensor, log_focal: torch.Tensor, pair_twist: torch.Tensor) -> State:
    """Move by (T, 6) twists in the cameras' axes, (1,) or (T,) focal changes and (P, 7) twists in the world's axes.

    The mean of the pairs' scale changes is taken out: their geometric mean stays what it is (METHOD 7).
    """
    frames = len(frame_twist)
    motion = se3_exp(torch.cat([frame_twist, pair_twist[:, :6]]))
    log_scale = pair_twist[:, 6] - pair_twist[:, 6].mean()
    moved = motion[frames:].clone()
    moved[:, :3, :3] *= log_scale.exp()[:, None, None]
    focal = state.focal * log_focal.exp() if len(log_focal) else state.focal
    return State(state.world_from_cam @ motion[:frames], moved @ state.world_from_pair, focal)


def with_scale(state: State, factor: float) -> State:
    """The same world in other units."""
    frames, pairs = state.world_from_cam.clone(), state.world_from_pair.clone()
    frames[:, :3, 3] *= factor
    pairs[:, :3] *= factor
    return State(frames, pairs, state.focal)


def adjoint(transform: torch.Tensor) -> torch.Tensor:
    """(..., 4, 4) rigid a_from_b -> (..., 7, 7): twist (translation, rotation, log scale) in b's axes -> in a's."""
    rotation, translation = transform[..., :3, :3], transform[..., :3, 3]
    matrix = torch.zeros(*transform.shape[:-2], 7, 7, dtype=transform.dtype)
    matrix[..., :3, :3] = matrix[..., 3:6, 3:6] = rotation
    matrix[..., :3, 3:6] = hat(translation) @ rotation
    matrix[..., :3, 6] = -translation
    matrix[..., 6, 6] = 1.0
    return matrix


def from_parameters(parameters: reference.Parameters) -> State:
    """One focal length per frame."""
    rotation, translation = reference.poses(parameters.frame_poses.double().cpu())
    frames = _matrices(rotation, translation)
    rotation, translation = reference.poses(parameters.pair_poses.double().cpu())
    scale = reference.pair_scales(parameters.pair_poses.double().cpu())[:, None]
    pairs = _matrices(rotation * scale[..., None], translation * scale)
    return State(frames, pairs, reference.focal_lengths(parameters).detach().double().cpu())


def to_parameters(state: State, depth: torch.Tensor) -> reference.Parameters:
    """As published, float32. depth: (T, h, w)."""
    scale = pair_scales(state)
    raw = _raw(
        state.world_from_pair[:, :3, :3] / scale[:, None, None], state.world_from_pair[:, :3, 3] / scale[:, None]
    )
    parts = (
        torch.cat([raw, scale.log()[:, None]], 1),
        _raw(state.world_from_cam[:, :3, :3], state.world_from_cam[:, :3, 3]),
        reference.FOCAL_SCALE * state.focal.log()[:, None],
    )
    return reference.Parameters(*(part.float().to(depth.device) for part in parts), depth.log())


def _raw(rotation: torch.Tensor, translation: torch.Tensor) -> torch.Tensor:
    quaternion = torch.from_numpy(Rotation.from_matrix(rotation.numpy()).as_quat())
    return torch.cat([quaternion, translation.sign() * torch.log1p(translation.abs())], 1)


def _matrices(linear: torch.Tensor, translation: torch.Tensor) -> torch.Tensor:
    matrix = torch.eye(4, dtype=linear.dtype).repeat(len(linear), 1, 1)
    matrix[:, :3, :3] = linear
    matrix[:, :3, 3] = translation
    return matrix
