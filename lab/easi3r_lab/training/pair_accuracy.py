"""How good any backbone is on the held-out static pairs: depth, and the pose between two views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from easi3r_lab.eval import depth as depth_eval
from easi3r_lab.training.evaluation import held_out_pairs, rotation_degrees
from easi3r_lab.training.pairs import Direction
from easi3r_lab.training.plan import TINY
from easi3r_ros.core.alignment.placement import pair_pose, pair_sample
from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.config import PreprocessConfig
from easi3r_ros.core.preprocess import prepare
from easi3r_ros.core.types import Frame, NetworkInput, PairGeometry

STEP_NS = 150_000_000  # between the two frames of a pair
MIN_STEP = 0.02  # of the median depth: a shorter translation has no direction


def pair_accuracy(backbone: Backbone, long_side: int, known_intrinsics: bool) -> dict[str, float]:
    """Means over the pairs of scenes in which nothing moves; the camera is the one that the scene was rendered with.

    known_intrinsics: give K to the backbone, as a camera_info would.
    """
    pairs = held_out_pairs(long_side, TINY.patch_size)
    rows = []
    for index in (~pairs.moving).nonzero()[:, 0].tolist():
        K = pairs.K[index].numpy().astype(np.float64)
        inputs = [_input(backbone, pairs.images[view][index].numpy(), K, view) for view in (0, 1)]
        given = inputs if known_intrinsics else [_without_intrinsics(image) for image in inputs]
        pair = backbone.decode([tuple(backbone.encode(image) for image in given)])[0]
        truth = pairs.a.each(lambda tensor, i=index: tensor[i])
        rows.append(_measure(pair, inputs[1].K, truth, pairs.a_from_b[index]))
    names = rows[0].keys()
    return {name: float(np.nanmean([row[name] for row in rows])) for name in names} | {
        "rotation_median": float(np.nanmedian([row["rotation"] for row in rows])),
        "pairs": len(rows),
    }


def _input(backbone: Backbone, image: np.ndarray, K: np.ndarray, index: int) -> NetworkInput:
    frame = Frame(index, index * STEP_NS, "camera", image, K)
    return prepare(frame, backbone.input_spec, PreprocessConfig())


def _without_intrinsics(image: NetworkInput) -> NetworkInput:
    return replace(image, K=None, frame=replace(image.frame, K=None))


def _measure(pair: PairGeometry, K: np.ndarray, truth: Direction, a_from_b: torch.Tensor) -> dict[str, float]:
    """K: (3, 3) true intrinsics in pixels of the pair's maps; a_from_b: (4, 4) true."""
    estimate = torch.nn.functional.interpolate(pair.points_a[None, None, ..., 2], truth.points.shape[:2])[0, 0]
    confident = torch.nn.functional.interpolate(pair.conf_a[None, None], truth.points.shape[:2])[0, 0] > 1.0
    known = torch.where(confident, estimate, torch.nan).numpy()
    true_depth = torch.where(truth.points[..., 2].isfinite(), truth.points[..., 2], torch.nan).numpy()
    try:
        depth = depth_eval.score(known, true_depth)
    except ValueError:  # no parallax, and the backbone needs it
        depth = depth_eval.DepthScore(float("nan"), float("nan"), float("nan"), 0.0)
    sample = pair_sample(pair)
    b_from_a = pair_pose(sample, torch.ones_like(sample.conf_b), K)
    error = b_from_a @ a_from_b.double()  # the identity, if it were right
    true_step = a_from_b[:3, 3].double()
    found_step = torch.linalg.inv(b_from_a)[:3, 3]
    long_enough = true_step.norm() > MIN_STEP * truth.points[..., 2][truth.points[..., 2].isfinite()].median()
    cosine = torch.nn.functional.cosine_similarity(true_step, found_step, dim=0).clamp(-1, 1)
    return {
        "abs_rel": depth.abs_rel,
        "delta_125": depth.delta_125,
        "coverage": depth.coverage,
        "rotation": float(rotation_degrees(error[:3, :3])),
        "rotation_if_none": float(rotation_degrees(a_from_b[:3, :3])),
        "direction": float(torch.rad2deg(cosine.acos())) if long_enough else float("nan"),
    }
