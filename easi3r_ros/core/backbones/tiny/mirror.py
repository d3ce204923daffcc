"""Back from a mirror: what a network says of images whose left and right were exchanged, for the images as they are."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from easi3r_ros.core.types import PairEvidence, PairGeometry


def unmirrored_pair(pair: PairGeometry) -> PairGeometry:
    """x changes its sign in both cameras. The evidence is left behind."""

    def flipped(points: Tensor) -> Tensor:
        return points.flip(1) * points.new_tensor([-1.0, 1.0, 1.0])

    return replace(
        pair,
        points_a=flipped(pair.points_a),
        points_b=flipped(pair.points_b),
        conf_a=pair.conf_a.flip(1),
        conf_b=pair.conf_b.flip(1),
        evidence=PairEvidence(),
    )


def unmirrored_logits(logits: Tensor, columns: int) -> Tensor:
    """Matching logits (B, N, N) between tokens; columns: tokens in a row of the image."""
    grid = (logits.shape[1] // columns, columns)
    return logits.view(-1, *grid, *grid).flip(2, 4).reshape(logits.shape)
