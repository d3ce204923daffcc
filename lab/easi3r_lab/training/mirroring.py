"""The same pairs seen in a mirror: as true as the rendered ones, and nearly free."""

from __future__ import annotations

import torch

from easi3r_lab.tiny.mirror import mirrored_points, mirrored_tokens
from easi3r_lab.training.pairs import Direction, TrainingPairs


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
    column = view.indices % columns
    return Direction(
        points=mirrored_points(view.points),
        points_in_other=mirrored_points(view.points_in_other),
        indices=mirrored_tokens(view.indices - column + (columns - 1 - column), columns),
        weights=mirrored_tokens(view.weights, columns),
        visible=mirrored_tokens(view.visible, columns),
        moves=view.moves.flip(2),
        known=view.known.flip(2),
    )
