"""A look at a scene with a handful of rays, before it is worth many."""

from __future__ import annotations

import torch
from torch import Tensor

from easi3r_lab.synthetic.first_hits import Grid, first_hits
from easi3r_lab.synthetic.random_worlds.layout import RoomLayout
from easi3r_ros.core.geometry import invert_se3

SIZE = (16, 12)  # rays across and down


def probe_K(focal: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, 3) of a tiny image that shows what one of `size` (W, H) does. focal: (B,) share of its width."""
    width, height = SIZE
    K = torch.zeros(len(focal), 3, 3)
    K[:, 0, 0] = focal * width
    K[:, 1, 1] = focal * height * size[0] / size[1]
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = (width - 1) / 2, (height - 1) / 2, 1.0
    return K


def probe(layout: RoomLayout, cam_from_part: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Depth (B, V, 12, 16) and parts (B, V, 12, 16) int64. cam_from_part: (B, V, P, 4, 4); K: (B, 3, 3)."""
    B, V = cam_from_part.shape[:2]
    kind, size, K = (values.repeat_interleave(V, dim=0) for values in (layout.kind, layout.size, K))
    depth, part = first_hits(kind, size, cam_from_part.flatten(0, 1), K, Grid(*SIZE))
    return depth.unflatten(0, (B, V)), part.unflatten(0, (B, V)).long()


def median_depth(layout: RoomLayout, world_from_cam: Tensor, K: Tensor) -> Tensor:
    """(B,) metres, of what does not move, within what cameras are built for. world_from_cam: (B, 4, 4)."""
    depth, _ = probe(layout, (invert_se3(world_from_cam)[:, None] @ layout.pose)[:, None], K)
    return middle_of(depth).nan_to_num(5.0).clamp(0.3, 25.0)


def middle_of(depth: Tensor) -> Tensor:
    """(B,) median of all finite depths (B, ...), NaN where there are none."""
    return torch.where(torch.isinf(depth), torch.nan, depth).flatten(1).nanmedian(dim=1).values
