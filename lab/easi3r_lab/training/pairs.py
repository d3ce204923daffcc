"""From rendered views to training pairs: images, pointmaps and matches, in both directions, also seen in a mirror."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import reduce

import torch
from torch import Tensor

from easi3r_lab.synthetic.training_views import TrainingViews, correspondence, points_in
from easi3r_lab.training.matching import token_targets


@dataclass(frozen=True)
class Direction:
    """What is true of view i of B pairs, given the other view j."""

    points: Tensor  # (B, h, w, 3) float32 points of i in camera i, metres; infinite: sky
    points_in_other: Tensor  # (B, h, w, 3) the same, where they were when i was taken, in camera j
    indices: Tensor  # (B, N, 4) int64 tokens of j where the tokens of i are seen
    weights: Tensor  # (B, N, 4) float32
    visible: Tensor  # (B, N) bool, the tokens of i that j sees

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
    centres = slice(patch // 2, None, patch)
    places, seen = uv[:, centres, centres].flatten(1, 2), visible[:, centres, centres].flatten(1)  # -> (B, N, .)
    indices, weights = token_targets(places.nan_to_num(0.0), (height // patch, width // patch), patch)
    return Direction(points_in(views, i, i), points_in(views, i, j), indices, weights, seen)


def mirrored(pairs: TrainingPairs, patch: int) -> TrainingPairs:
    """All pairs with left and right exchanged: as true as the rendered ones, nearly free. patch: pixels of a token."""
    K = pairs.K.clone()
    K[:, 0, 2] = pairs.images[0].shape[2] - 1 - K[:, 0, 2]
    reflection = torch.diag(K.new_tensor([-1.0, 1.0, 1.0, 1.0])).to(pairs.a_from_b)
    return TrainingPairs(
        tuple(image.flip(2) for image in pairs.images),
        _mirrored(pairs.a, patch),
        _mirrored(pairs.b, patch),
        K,
        reflection @ pairs.a_from_b @ reflection,
        pairs.moving,
    )


def _mirrored(view: Direction, patch: int) -> Direction:
    columns = view.points.shape[2] // patch
    column = view.indices % columns
    return Direction(
        points=_mirrored_points(view.points),
        points_in_other=_mirrored_points(view.points_in_other),
        indices=_mirrored_tokens(view.indices - column + (columns - 1 - column), columns),
        weights=_mirrored_tokens(view.weights, columns),
        visible=_mirrored_tokens(view.visible, columns),
    )


def _mirrored_points(points: Tensor) -> Tensor:
    """(..., h, w, 3) points of every pixel; x changes its sign."""
    return points.flip(-2) * points.new_tensor([-1.0, 1.0, 1.0])


def _mirrored_tokens(values: Tensor, columns: int) -> Tensor:
    """The tokens along dimension 1, row by row, each row in reverse order. columns: tokens in a row."""
    return values.unflatten(1, (-1, columns)).flip(2).flatten(1, 2)
