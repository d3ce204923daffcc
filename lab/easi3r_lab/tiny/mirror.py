"""Left and right exchanged: of points, of tokens, and of what a network says about images seen in a mirror."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from easi3r_ros.core.types import PairEvidence, PairGeometry


def mirrored_points(points: Tensor) -> Tensor:
    """(..., h, w, 3) points of every pixel; x changes its sign."""
    return points.flip(-2) * points.new_tensor([-1.0, 1.0, 1.0])


def mirrored_tokens(values: Tensor, columns: int, dim: int = 1) -> Tensor:
    """The tokens along `dim`, row by row, each row in reverse order. columns: tokens in a row."""
    return values.unflatten(dim, (-1, columns)).flip(dim + 1).flatten(dim, dim + 1)


def unmirrored_pair(pair: PairGeometry) -> PairGeometry:
    """The pair as it is, from the answer about its mirror image. The evidence is left behind."""
    return replace(
        pair,
        points_a=mirrored_points(pair.points_a),
        points_b=mirrored_points(pair.points_b),
        conf_a=pair.conf_a.flip(1),
        conf_b=pair.conf_b.flip(1),
        evidence=PairEvidence(),
    )


def unmirrored_logits(logits: Tensor, columns: int) -> Tensor:
    """Matching logits (B, N, N) between tokens; columns: tokens in a row of the image."""
    return mirrored_tokens(mirrored_tokens(logits, columns, 1), columns, 2)
