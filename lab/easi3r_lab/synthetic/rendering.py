"""The one renderer: pictures of worlds, some at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from easi3r_lab.synthetic.first_hits import TILE, Grid, first_hits
from easi3r_lab.synthetic.illumination import radiance
from easi3r_lab.synthetic.worlds import Shots, Worlds
from easi3r_ros.core.geometry import invert_se3

_CPU_RAYS = 1 << 16  # at once: what stays in a processor's cache
_GPU_RAYS = 1 << 22


def hits_of(worlds: Worlds, shots: Shots, grid: Grid) -> tuple[Tensor, Tensor]:
    """z-depth (N, H, W), inf in the sky, and part (N, H, W) int16, -1 there, in the precision of the shots' poses."""
    cam_from_part = invert_se3(shots.world_from_cam)[:, None] @ shots.world_from_part
    kind, size = worlds.kind[shots.scene], worlds.size[shots.scene].to(shots.K.dtype)
    return first_hits(kind, size, cam_from_part, shots.K, grid)


def render(worlds: Worlds, shots: Shots, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Linear colours (N, H, W, 3), depth and part as `hits_of`, of all shots; in single precision."""
    rays = _CPU_RAYS if shots.K.device.type == "cpu" else _GPU_RAYS
    pictures = []
    for some in shots.split(max(1, rays // (grid.width * grid.height))):
        bands = [_band(worlds, some, band) for band in _bands(grid, rays)]
        pictures.append([torch.cat(values, dim=1) for values in zip(*bands, strict=True)])
    colours, depth, part = (torch.cat(values) for values in zip(*pictures, strict=True))
    return colours, depth, part


def _band(worlds: Worlds, shots: Shots, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    depth, part = hits_of(worlds, shots, grid)
    return radiance(worlds, shots, depth, part, grid), depth, part


def _bands(grid: Grid, rays: int) -> list[Grid]:
    """The rows of a large image in pieces of whole tiles."""
    rows = max(TILE, rays // grid.width // TILE * TILE)
    return [
        Grid(grid.width, min(rows, grid.height - first), grid.u0, grid.v0 + grid.step * first, grid.step)
        for first in range(0, grid.height, rows)
    ]
