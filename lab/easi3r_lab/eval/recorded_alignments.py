"""The recorded alignments of golden_align files: problems, parameters, and what the published optimiser made of it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from easi3r_lab.published.objective import ObjectiveOptions, Parameters, Problem

PARAMETERS = ("pw_poses", "im_poses", "im_focals")  # in the order of Parameters; the last one, log depth, is not raw
GRADIENTS = (*PARAMETERS, "im_depthmaps")


class AlignmentFileError(ValueError):
    """A file does not hold recorded alignments; the message says why."""


@dataclass(frozen=True)
class Recorded:
    """What was recorded at one state of a variant."""

    parameters: Parameters
    objective_without_flow: float
    objective: float
    flow: tuple[float, float]  # unweighted terms a -> b, b -> a
    temporal: float  # unweighted
    depth_prior: float  # unweighted
    gradients: tuple[torch.Tensor, ...] | None  # of `objective`, in the order of Parameters
    errors: tuple[float, float, float]  # ATE, RPE translation, RPE rotation in degrees


@dataclass(frozen=True)
class Variant:
    """One recorded optimisation."""

    name: str
    problem: Problem
    options: ObjectiveOptions
    shared_focal: bool
    init: Recorded
    final: Recorded
    losses: np.ndarray  # (iterations,) before each step
    rates: np.ndarray  # (iterations,) learning rates
    spread: float  # largest relative deviation of the last loss in repeated runs
    truth: np.ndarray  # (T, 4, 4) world_from_cam


def read_variants(path: str | Path) -> list[Variant]:
    """All that a golden_align file records. Raises AlignmentFileError if there is no such file or it is another one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:  # TypeError: .npy holds one array
        raise AlignmentFileError(f"{path} is not there or is no golden file (.npz)") from error
    if not recognises(arrays):
        raise AlignmentFileError(f"{path} is no golden_align file: it records no alignment")
    try:
        return variants(arrays)
    except KeyError as error:
        raise AlignmentFileError(f"{path} is incomplete: it has no {error}") from error


def recognises(arrays: Mapping[str, np.ndarray]) -> bool:
    return {"gt_c2w", "pts3d_i", "flow_ij"} <= arrays.keys() and any(name.endswith("/options_json") for name in arrays)


def variants(arrays: Mapping[str, np.ndarray]) -> list[Variant]:
    """The optimisations recorded in the arrays of a golden_align file."""
    names = [name.removesuffix("/options_json") for name in arrays if name.endswith("/options_json")]
    return [_variant(arrays, name) for name in names]


def _variant(arrays: Mapping[str, np.ndarray], name: str) -> Variant:
    raw = json.loads(str(arrays[f"{name}/options_json"]))
    masks = arrays["gt_mask"] if raw["mask"] == "gt" else np.zeros_like(arrays["gt_mask"])
    flow = arrays["flow_ij"]
    losses = arrays[f"{name}/loss_curve"]
    return Variant(
        name=name,
        problem=Problem(
            edges=torch.from_numpy(arrays["edges"].astype(np.int64)),
            **{new: _tensor(arrays[old]) for new, old in (("points_a", "pts3d_i"), ("points_b", "pts3d_j"))},
            **{new: _tensor(arrays[old]) for new, old in (("conf_a", "conf_i"), ("conf_b", "conf_j"))},
            masks=torch.from_numpy(masks),
            flow=_tensor(flow),
            flow_back=_tensor(flow[arrays["reverse_edge"]]),
        ),
        options=ObjectiveOptions(
            flow_weight=raw["flow_loss_weight"],
            flow_start=raw["flow_loss_start_epoch"],
            flow_limit=raw["flow_loss_thre"],
            temporal_weight=raw["temporal_smoothing_weight"],
            translation_weight=raw["translation_weight"],
            depth_prior_weight=raw.get("depth_regularize_weight", 0.0),
            iterations=raw["niter"],
            learning_rate=raw["lr"],
            learning_rate_min=raw["lr_min"],
            schedule=raw["schedule"],
        ),
        shared_focal=raw["shared_focal"],
        init=_recorded(arrays, name, "init"),
        final=_recorded(arrays, name, "final"),
        losses=losses,
        rates=arrays[f"{name}/lr_curve"],
        spread=_spread(arrays, name, losses),
        truth=arrays["gt_c2w"],
    )


def _recorded(arrays: Mapping[str, np.ndarray], name: str, state: str) -> Recorded:
    depth = arrays.get(f"{name}/{state}_depth")
    if depth is None:  # stored once for all variants that have the same
        depth = next(array for key, array in arrays.items() if key.endswith(f"/{state}_depth"))
    parameters = Parameters(*(_tensor(arrays[f"{name}/{state}_{key}"]) for key in PARAMETERS), _tensor(np.log(depth)))
    found = [arrays.get(f"{name}/{state}_grad_{key}") for key in GRADIENTS]
    gradients = None
    if found[0] is not None:
        shapes = [tensor.shape for tensor in parameters.tensors()]
        gradients = tuple(_tensor(value).reshape(shape) for value, shape in zip(found, shapes, strict=True))
    return Recorded(
        parameters=parameters,
        objective_without_flow=float(arrays[f"{name}/{state}_loss_epoch0"]),
        objective=float(arrays[f"{name}/{state}_loss_full"]),
        flow=tuple(arrays[f"{name}/{state}_flow_terms_ij_ji"].tolist()),
        temporal=float(arrays[f"{name}/{state}_temporal_term"]),
        depth_prior=float(arrays[f"{name}/{state}_depthreg_term"]),
        gradients=gradients,
        errors=tuple(arrays[f"{name}/{state}_ate_rpet_rper"].tolist()),
    )


def _spread(arrays: Mapping[str, np.ndarray], name: str, losses: np.ndarray) -> float:
    runs = arrays.get(f"{name}/spread_runs")
    return float("nan") if runs is None else float(np.abs(runs[:, 0] / losses[-1] - 1).max())


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32))
