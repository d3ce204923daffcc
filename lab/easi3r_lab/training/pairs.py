"""From rendered views to training pairs: images, pointmaps, matches and moving pixels, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import reduce

import torch
from torch import Tensor

from easi3r_lab.synthetic.training import TrainingViews, correspondence, induced, points_in
from easi3r_lab.training.matching import token_targets

MOVES_PIXELS = 0.5  # of the network image: a mover must leave its rigid place by this much to count as moving
STILL_PIXELS = 0.1  # and a mover that leaves it by less stands still


@dataclass(frozen=True)
class Direction:
    """What is true of view i of B pairs, given the other view j."""

    points: Tensor  # (B, h, w, 3) float32 points of i in camera i, metres; infinite: sky
    points_in_other: Tensor  # (B, h, w, 3) the same, where they were when i was taken, in camera j
    indices: Tensor  # (B, N, 4) int64 tokens of j where the tokens of i are seen
    weights: Tensor  # (B, N, 4) float32
    visible: Tensor  # (B, N) bool, the tokens of i that j sees
    moves: Tensor  # (B, h, w) bool, pixels of i whose surface moves in the world between the views
    known: Tensor  # (B, h, w) bool, pixels of which that is clear

    def each(self, change: Callable[[Tensor], Tensor]) -> Direction:
        """A copy with `change` applied to every tensor."""
        return Direction(*(change(getattr(self, item.name)) for item in fields(self)))

    def followed_by(self, other: Direction) -> Direction:
        """The pairs of both, one after the other."""
        return Direction(*(torch.cat((getattr(self, f.name), getattr(other, f.name))) for f in fields(self)))


@dataclass(frozen=True)
class TrainingPairs:
    images: tuple[Tensor, Tensor]  # views a and b, (B, h, w, 3) uint8 RGB
    a: Direction
    b: Direction
    K: Tensor  # (B, 3, 3)
    a_from_b: Tensor  # (B, 4, 4) camera b in camera a
    moving: Tensor  # (B,) bool, the scene has movers

    def __len__(self) -> int:
        return len(self.K)

    def each(self, change: Callable[[Tensor], Tensor]) -> TrainingPairs:
        """A copy with `change` applied to every tensor."""
        images = tuple(change(image) for image in self.images)
        rest = (change(getattr(self, name)) for name in ("K", "a_from_b", "moving"))
        return TrainingPairs(images, self.a.each(change), self.b.each(change), *rest)

    def select(self, rows: Tensor) -> TrainingPairs:
        """The pairs with these numbers, (n,) int64."""
        return self.each(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> TrainingPairs:
        return self.each(lambda tensor: tensor.to(device))


def training_pairs(views: TrainingViews, edges: Sequence[tuple[int, int]], patch: int) -> TrainingPairs:
    """Every scene's pairs (i, j) of `edges`: scenes x edges in a row."""
    parts = [_pairs_of(views, i, j, patch) for i, j in edges]
    return joined(parts)


def joined(parts: Sequence[TrainingPairs]) -> TrainingPairs:
    """All pairs in one."""
    return TrainingPairs(
        tuple(torch.cat([part.images[view] for part in parts]) for view in (0, 1)),
        reduce(Direction.followed_by, (part.a for part in parts)),
        reduce(Direction.followed_by, (part.b for part in parts)),
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("K", "a_from_b", "moving")),
    )


def _pairs_of(views: TrainingViews, i: int, j: int, patch: int) -> TrainingPairs:
    cam_i, cam_j = views.world_from_cam[:, i], views.world_from_cam[:, j]
    return TrainingPairs(
        (views.images[:, i], views.images[:, j]),
        _direction(views, i, j, patch),
        _direction(views, j, i, patch),
        views.K,
        torch.linalg.solve(cam_i, cam_j),
        views.moving.any(-1),
    )


def _direction(views: TrainingViews, i: int, j: int, patch: int) -> Direction:
    height, width = views.depth.shape[-2:]
    uv, visible = correspondence(views, i, j)
    moves, known = _motion(views, i, j, uv)
    centres = slice(patch // 2, None, patch)
    places, seen = uv[:, centres, centres].flatten(1, 2), visible[:, centres, centres].flatten(1)  # -> (B, N, .)
    indices, weights = token_targets(places.nan_to_num(0.0), (height // patch, width // patch), patch)
    return Direction(points_in(views, i, i), points_in(views, i, j), indices, weights, seen, moves, known)


def _motion(views: TrainingViews, i: int, j: int, uv: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels that leave their rigid place in the other image, and pixels of which it is clear whether they do."""
    off = (uv - induced(views, i, j)).norm(dim=-1).nan_to_num(torch.inf)
    off = torch.where(views.masks()[:, i], off, 0.0)
    return off > MOVES_PIXELS, (off > MOVES_PIXELS) | (off < STILL_PIXELS)
