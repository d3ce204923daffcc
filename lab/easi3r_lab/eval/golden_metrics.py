"""What golden_metrics files record, recomputed: measures of masks, trajectories and depth up to one scale; image sizes.

The scalars are in a JSON file of the same name beside the arrays. Not compared: the official resizing of true masks,
point clouds, and alignments of depth that `scores.score_depth` does not offer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from easi3r_lab.eval.golden_align import Measured, relative_error
from easi3r_lab.eval.scores import RECALL_THRESHOLD, boundary_accuracy, region_similarity, score_depth, score_trajectory
from easi3r_ros.core.preprocess import plan
from easi3r_ros.core.types import InputSpec

MAX_DEPTH = {"bonn/median": 70.0, "kitti/median": np.inf}  # metres; truth from there on counts as unknown
SPECS = {512: InputSpec(512, multiple=16), 224: InputSpec(224, multiple=16, square=True)}  # of the published models

Arrays = Mapping[str, np.ndarray]
Compared = tuple[str, np.ndarray | float, np.ndarray | float]  # quantity, ours, recorded
Notify = Callable[[str], None]


def recognises(arrays: Arrays) -> bool:
    return any(name.startswith(("mask/", "traj/", "depth/")) for name in arrays)


def measure(path: Path, arrays: Arrays, tolerance: float, notify: Notify) -> Iterator[Measured]:
    """tolerance: relative. notify: gets a line about what is not compared."""
    beside = path.with_suffix(".json")
    scalars = json.loads(beside.read_text()) if beside.exists() else {}
    if not scalars:
        notify(f"{path.name}: there is no {beside.name} beside it: what it records is not compared")
    for parts in (_masks, _trajectories, _depths, _sizes):
        for name, ours, recorded in parts(arrays, scalars):
            yield name, relative_error(ours, recorded), tolerance
    notify(f"{path.name}: point clouds, resized true masks and other alignments of depth are not compared")


def _masks(arrays: Arrays, scalars: Mapping) -> Iterator[Compared]:
    scores = []
    for name in dict.fromkeys(key.split("/")[1] for key in arrays if key.startswith("mask/") and key.count("/") == 2):
        truth, predicted = (_unpacked(arrays, f"mask/{name}/{role}") for role in ("gt_cropped", "pred"))
        padded = np.zeros_like(truth)  # a frame without prediction has an empty one
        padded[: len(predicted)] = predicted[: len(truth)]
        j = np.array([region_similarity(p, t) for p, t in zip(padded, truth, strict=True)])
        f = np.array([boundary_accuracy(p, t) for p, t in zip(padded, truth, strict=True)])
        yield f"mask/{name}/J_per_frame", j, arrays[f"mask/{name}/J_per_frame"]
        yield f"mask/{name}/F_per_frame", f, arrays[f"mask/{name}/F_per_frame"]
        scores.append((j, f))
    if "mask" in scalars:
        for measure, values in zip("JF", map(np.concatenate, zip(*scores, strict=True)), strict=True):
            recorded = scalars["mask"]["global_exact"]
            yield f"mask/{measure} mean", float(values.mean()), recorded[f"{measure}_M"]
            yield f"mask/{measure} recall", float((values > RECALL_THRESHOLD).mean()), recorded[f"{measure}_R"]


def _unpacked(arrays: Arrays, name: str) -> np.ndarray:
    """(T, H, W) bool"""
    shape = arrays[f"{name}_shape"]
    return np.unpackbits(arrays[f"{name}_packed"])[: np.prod(shape)].reshape(shape).astype(bool)


def _trajectories(arrays: Arrays, scalars: Mapping) -> Iterator[Compared]:
    for name in dict.fromkeys(key.split("/")[1] for key in arrays if key.startswith("traj/")):
        at, predicted = f"traj/{name}", arrays[f"traj/{name}/pred_c2w"]
        scored = score_trajectory(predicted, arrays[f"{at}/gt_c2w"])
        rotation = scored.aligned[0, :3, :3] @ predicted[0, :3, :3].T
        yield f"{at}/sim3_s", scored.scale, arrays[f"{at}/sim3_s"]
        yield f"{at}/sim3_R", rotation, arrays[f"{at}/sim3_R"]
        moved = scored.aligned[0, :3, 3] - scored.scale * rotation @ predicted[0, :3, 3]
        yield f"{at}/sim3_t", moved, arrays[f"{at}/sim3_t"]
        if "traj" in scalars:
            ours = {"ate": scored.ate, "rpe_trans": scored.rpe_translation, "rpe_rot_deg": scored.rpe_rotation}
            for key, value in ours.items():
                yield f"{at}/{key}", value, scalars["traj"][name][key]


def _depths(arrays: Arrays, scalars: Mapping) -> Iterator[Compared]:
    for mode, limit in MAX_DEPTH.items():
        for number, recorded in enumerate(scalars.get("depth", {}).get(mode, {}).get("per_sequence", [])):
            predicted, truth = arrays[f"depth/{number}/pred"], arrays[f"depth/{number}/gt"]
            scored = score_depth(predicted, np.where(truth < limit, truth, 0.0))
            yield f"depth/{number} {mode} Abs Rel", scored.abs_rel, recorded["Abs Rel"]
            yield f"depth/{number} {mode} delta < 1.25", scored.delta_125, recorded["δ < 1.25"]


def _sizes(arrays: Arrays, scalars: Mapping) -> Iterator[Compared]:
    """Of the images that the published models see, after resizing and cropping."""
    for case in scalars.get("preprocess_sizes", []):
        if case["crop"] and not case["square_ok"]:
            (width, height), spec = case["input_wh"], SPECS[case["size"]]
            size = plan((width, height), spec, spec.long_side).size
            yield f"preprocess {width}x{height} to {case['size']}", np.array(size), np.array(case["output_wh"])
