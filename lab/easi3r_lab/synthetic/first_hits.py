"""First hits of the rays of many pinhole cameras at once: which part of its scene each ray meets, and how far away.

The image is cut into tiles, and in a tile only those solids are tried whose bounding box may show there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from easi3r_lab.synthetic import solids

TILE = 8  # rays along each side of a tile
_ROWS = 2048  # pairs of tile and solid intersected at once on a CPU: what one operation touches stays in the cache
_NEAR = 0.02  # metres; what reaches nearer than this in front of the camera is tried everywhere


@dataclass(frozen=True)
class Grid:
    """Rays through the columns u0 + k * step (k < width) and rows v0 + k * step (k < height) of an image, in pixels."""

    width: int
    height: int
    u0: float = 0.0
    v0: float = 0.0
    step: float = 1.0

    def columns(self, count: int | None = None, dtype=torch.float32, device=None) -> Tensor:
        """(width,) column of each ray; or the first `count`, beyond the width too."""
        return self.u0 + self.step * torch.arange(count or self.width, dtype=dtype, device=device)

    def rows(self, count: int | None = None, dtype=torch.float32, device=None) -> Tensor:
        return self.v0 + self.step * torch.arange(count or self.height, dtype=dtype, device=device)


def slopes(K: Tensor, grid: Grid, padded: bool = False) -> tuple[Tensor, Tensor]:
    """x / z (N, W) and y / z (N, H) of a grid's columns and rows; padded: to whole tiles. K: (N, 3, 3)."""
    width, height = (_whole_tiles(n) * TILE if padded else n for n in (grid.width, grid.height))
    us, vs = grid.columns(width, K.dtype, K.device), grid.rows(height, K.dtype, K.device)
    x = (us - K[:, 0, 2, None]) / K[:, 0, 0, None]
    return x, (vs - K[:, 1, 2, None]) / K[:, 1, 1, None]


def _whole_tiles(count: int) -> int:
    return -(-count // TILE)


def first_hits(kind: Tensor, size: Tensor, cam_from_part: Tensor, K: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Depth and part seen by N cameras, each with P parts of its own: (N, H, W) z-depth, inf where there is nothing,
    and (N, H, W) int16 part, -1 where there is nothing.

    kind: (N, P); size: (N, P, 4) metres; cam_from_part: (N, P, 4, 4); K: (N, 3, 3) pixels.
    """
    seen = _seen_in_tiles(kind, size, cam_from_part, K, grid)  # (N, tiles down, tiles across, P)
    view, row, column, part = seen.nonzero(as_tuple=True)  # sorted by tile
    x, y = slopes(K, grid, padded=True)
    x, y = x.view(len(K), -1, TILE), y.view(len(K), -1, TILE)
    t = torch.empty((len(view), TILE * TILE), dtype=K.dtype, device=K.device)
    part_from_cam = _inverse(cam_from_part)
    kinds = kind[view, part]
    limit = _ROWS if K.device.type == "cpu" else 1 << 20
    for number in solids.KINDS:
        chosen = (kinds == number).nonzero()[:, 0]
        for pairs in chosen.split(limit) if len(chosen) else ():
            n, p = view[pairs], part[pairs]
            directions = _directions(part_from_cam[n, p], x[n, column[pairs]], y[n, row[pairs]])
            origins = tuple(part_from_cam[n, p, axis, 3, None] for axis in range(3))
            t[pairs] = solids.intersect(number, size[n, p], origins, directions)
    down, across = seen.shape[1:3]
    tile = (view * down + row) * across + column
    depth, best = _nearest(t, tile, part, len(K) * down * across)
    return _untiled(depth, len(K), down, across, grid), _untiled(best, len(K), down, across, grid)


def _seen_in_tiles(kind: Tensor, size: Tensor, cam_from_part: Tensor, K: Tensor, grid: Grid) -> Tensor:
    """(N, tiles down, tiles across, P) bool: whether the solid's bounding box may show in the tile."""
    half = solids.bounds(kind, size)  # (N, P, 3)
    everywhere = torch.isinf(half[..., 0])
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=K.dtype, device=K.device)] * 3)  # (8, 3)
    corners = torch.where(everywhere[..., None], 0, half)[:, :, None] * signs  # (N, P, 8, 3)
    corners = corners @ cam_from_part[..., :3, :3].mT + cam_from_part[..., None, :3, 3]
    z = corners[..., 2]
    everywhere = everywhere | (z.amin(-1) < _NEAR)
    pixel = corners[..., :2] / z.clamp_min(_NEAR)[..., None] * K[:, None, None, [0, 1], [0, 1]]
    pixel = pixel + K[:, None, None, :2, 2]
    start = torch.tensor([grid.u0, grid.v0], dtype=K.dtype, device=K.device)
    tile = (pixel - start) / (grid.step * TILE)  # in tiles
    first, last = tile.amin(2), tile.amax(2)  # (N, P, 2)
    exists = (kind != solids.EMPTY) & (torch.isinf(half[..., 0]) | (z.amax(-1) > 0))
    shown = []
    for axis, count in ((1, grid.height), (0, grid.width)):
        number = torch.arange(_whole_tiles(count), dtype=K.dtype, device=K.device)[:, None]
        margin = 1e-3
        overlap = (number + 1 + margin > first[:, None, :, axis]) & (number - margin < last[:, None, :, axis])
        shown.append((overlap | everywhere[:, None]) & exists[:, None])  # (N, tiles, P)
    return shown[0][:, :, None] & shown[1][:, None]


def _directions(part_from_cam: Tensor, x: Tensor, y: Tensor) -> solids.Vector:
    """Rays of tiles in the parts' frames, for z = 1 in the camera: three (M, T * T). x, y: (M, T) slopes."""
    result = []
    for axis in range(3):
        a, b, c = (part_from_cam[:, axis, k, None] for k in range(3))
        direction = (b * y + c)[:, :, None] + (a * x)[:, None]  # (M, T, T)
        result.append(direction.flatten(1))
    return tuple(result)


def _nearest(t: Tensor, tile: Tensor, part: Tensor, tiles: int) -> tuple[Tensor, Tensor]:
    """(tiles, R) smallest t and its part, over all pairs of a tile. tile: (M,) sorted."""
    depth = torch.full((tiles, t.shape[1]), torch.inf, dtype=t.dtype, device=t.device)
    best = torch.full((tiles, t.shape[1]), -1, dtype=torch.int16, device=t.device)
    if not len(tile):
        return depth, best
    counts = torch.bincount(tile, minlength=tiles)
    starts = counts.cumsum(0) - counts
    # The k-th pairs of all tiles at once: each tile occurs once among them.
    for k in range(int(counts.max())):
        tiles_k = (counts > k).nonzero()[:, 0]
        pairs = starts[tiles_k] + k
        t_k, depth_k = t[pairs], depth[tiles_k]
        nearer = t_k < depth_k
        depth[tiles_k] = torch.where(nearer, t_k, depth_k)
        best[tiles_k] = torch.where(nearer, part[pairs, None].to(torch.int16), best[tiles_k])
    return depth, best


def _untiled(values: Tensor, views: int, down: int, across: int, grid: Grid) -> Tensor:
    """(tiles, T * T) -> (N, H, W)."""
    image = values.view(views, down, across, TILE, TILE).transpose(2, 3)
    return image.reshape(views, down * TILE, across * TILE)[:, : grid.height, : grid.width]


def _inverse(poses: Tensor) -> Tensor:
    """(..., 4, 4) of rigid poses."""
    rotation = poses[..., :3, :3].mT
    result = poses.clone()
    result[..., :3, :3] = rotation
    result[..., :3, 3] = -(rotation @ poses[..., :3, 3, None])[..., 0]
    return result
