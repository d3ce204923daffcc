"""The point term: distances between a frame's own points and what its pairs say, in the frame's camera (eq. 2).

Per slot, the pair's points may still move by a twist (translation, rotation, log scale) in the camera's axes; the
derivative of the residual (own point - pair's point Y) by that twist is J = -[I, -hat(Y), Y].
"""

from __future__ import annotations

import torch

from easi3r_ros.core.geometry import hat


def foot_points(
    predicted: torch.Tensor, x: torch.Tensor, y: torch.Tensor, ray2: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth at which a pixel's ray comes nearest to a predicted point, and the squared distance there.

    predicted: (t, K, 3, n); x, y: (t, 1, n), the ray is (x, y, 1); ray2: (t, 1, n) its squared length. Returns twice
    (t, K, n). From these the distance at any depth follows without cancellation.
    """
    X, Y, Z = predicted.unbind(2)
    foot = torch.addcmul(Z, X, x).addcmul_(Y, y).div_(ray2)
    miss = torch.addcmul(X, foot, x, value=-1.0).square_()
    off = torch.addcmul(Y, foot, y, value=-1.0)
    miss.addcmul_(off, off)
    torch.sub(Z, foot, out=off)
    return foot, miss.addcmul_(off, off)


def moments(predicted: torch.Tensor, pull: torch.Tensor) -> torch.Tensor:
    """(t, K, 4, 3) float64 sums over the pixels of Y pull^T and, last, of the pulls. predicted, pull: (t, K, 3, n)."""
    return torch.cat([predicted @ pull.mT, pull.sum(-1)[:, :, None]], 2).double()


def gradient(moments: torch.Tensor) -> torch.Tensor:
    """(..., 4, 3) `moments` -> (..., 7) sum of J^T pull."""
    turn = [moments[..., i, j] - moments[..., j, i] for i, j in ((1, 2), (2, 0), (0, 1))]
    trace = moments[..., :3, :].diagonal(dim1=-2, dim2=-1).sum(-1)
    return -torch.cat([moments[..., 3, :], torch.stack([*turn, trace], -1)], -1)


def normal(predicted: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(t, K, 7, 7) sum of weight J^T J, from the first and second moments of the predicted points."""
    weighted = predicted * weight[:, :, None]
    m0 = weight.sum(-1).double()[..., None, None] * torch.eye(3, dtype=torch.float64, device=weight.device)
    m1 = weighted.sum(-1).double()
    m2 = (weighted @ predicted.mT).double()
    matrix = torch.zeros(*m1.shape[:-1], 7, 7, dtype=torch.float64, device=weight.device)
    size = m2.diagonal(dim1=-2, dim2=-1).sum(-1)
    cross = hat(m1)
    matrix[..., :3, :3] = m0
    matrix[..., :3, 3:6] = -cross
    matrix[..., 3:6, :3] = cross
    matrix[..., 3:6, 3:6] = size[..., None, None] * torch.eye(3, dtype=torch.float64, device=weight.device) - m2
    matrix[..., :3, 6] = matrix[..., 6, :3] = m1
    matrix[..., 6, 6] = size
    return matrix


def coupling(predicted: torch.Tensor, weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(t, K, 7, n) weight J^T ray: how a pixel's depth and the twist of a slot pull on each other."""
    X, Y, Z = predicted.unbind(2)
    rows = torch.empty(*predicted.shape[:2], 7, predicted.shape[-1], device=predicted.device)
    rows[:, :, 0], rows[:, :, 1], rows[:, :, 2] = x, y, 1.0
    torch.addcmul(Y, Z, y, value=-1.0, out=rows[:, :, 3])  # Y x ray
    torch.addcmul(-X, Z, x, out=rows[:, :, 4])
    torch.addcmul(X * y, Y, x, value=-1.0, out=rows[:, :, 5])
    torch.addcmul(Z, X, x, out=rows[:, :, 6]).addcmul_(Y, y)
    return rows.mul_(-weight[:, :, None])
