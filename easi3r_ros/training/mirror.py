"""The same pairs seen in a mirror: as true as the rendered ones, and nearly free."""

from __future__ import annotations

import torch
from torch import Tensor

from easi3r_ros.training.pairs import Direction, TrainingPairs


def mirrored(pairs: TrainingPairs, patch: int) -> TrainingPairs:
    """All pairs with left and right exchanged: x changes its sign in both cameras. patch: pixels of a token."""
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
    columns = view.moves.shape[2] // patch
    sign = view.points.new_tensor([-1.0, 1.0, 1.0])

    def tokens(values: Tensor) -> Tensor:
        """(B, N, ...) with the tokens of every row in reverse order."""
        return values.unflatten(1, (-1, columns)).flip(2).flatten(1, 2)

    column = view.indices % columns
    return Direction(
        points=view.points.flip(2) * sign,
        points_in_other=view.points_in_other.flip(2) * sign,
        indices=tokens(view.indices - column + (columns - 1 - column)),
        weights=tokens(view.weights),
        visible=tokens(view.visible),
        moves=view.moves.flip(2),
        known=view.known.flip(2),
    )
