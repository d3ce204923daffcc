"""Comparison with golden files: arrays recorded from the official implementation, with weights that follow from names.

A file says everything about itself: its kind follows from its arrays; sizes, salt and graph are stored beside them.
Where a step depends on an earlier discrete one (cluster labels, masks of the first pass, the histogram of multi-Otsu),
it starts from what was recorded, so that one rounding difference cannot spoil everything after it.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from easi3r_lab.eval import golden_pair, golden_window

if TYPE_CHECKING:
    from easi3r_lab.eval.golden_align import Measured

TOLERANCE = 1e-4  # rtol and atol, float32
Arrays = Mapping[str, np.ndarray]


class GoldenError(ValueError):
    """A file cannot be verified; the message says why."""


@dataclass(frozen=True)
class Check:
    """One recorded quantity against ours."""

    file: str
    quantity: str
    # Of network outputs the largest |difference| / (1 + |recorded|), which is at most t exactly if allclose(rtol=t,
    # atol=t). Of alignments and metrics: see golden_align.relative_error.
    max_error: float
    tolerance: float
    passed: bool


def verify_file(path: Path, notify: Callable[[str], None] = print, device: str = "cpu") -> list[Check]:
    """Recomputes what a file records, and compares.

    device: where networks run. notify: gets a line about each thing that is recognised but not compared. Raises
    GoldenError for a file that is no golden file of a known kind.
    """
    recorded = _load(path)
    for kind in (golden_pair, golden_window):
        if kind.recognises(recorded):
            ours = kind.recompute(recorded, TOLERANCE, device)
            return list(_compared(path.name, recorded, ours, kind.INPUTS, notify))
    from easi3r_lab.eval import golden_align, golden_metrics  # here: they need packages that networks do not

    if golden_align.recognises(recorded):
        return list(_measured(path, golden_align.measure(recorded, TOLERANCE)))
    if golden_metrics.recognises(recorded):
        return list(_measured(path, golden_metrics.measure(path, recorded, TOLERANCE, notify)))
    known = "an image pair, a window of frames, alignments, metrics"
    raise GoldenError(f"{path} holds none of the known kinds of golden data: {known}")


def max_error(ours: np.ndarray, recorded: np.ndarray) -> float:
    """See `Check.max_error`; infinite for another shape, and where only one of the two is a number."""
    if ours.shape != recorded.shape:
        return float("inf")
    if recorded.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(ours, recorded) else float("inf")
    ours, recorded = ours.astype(np.float64), recorded.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf, where both are the same
        error = np.where(ours == recorded, 0.0, np.abs(ours - recorded) / (1 + np.abs(recorded)))
    return float(np.nan_to_num(error, nan=np.inf).max(initial=0.0))


def _compared(
    file: str, recorded: Arrays, ours: Arrays, inputs: frozenset[str], notify: Callable[[str], None]
) -> Iterator[Check]:
    for name in recorded:
        if name in inputs:
            continue
        if (value := _sampled(name, ours, recorded)) is None:
            notify(f"{file}: '{name}' is not known and not compared")
            continue
        error = max_error(value, recorded[name])
        yield Check(file, name, error, TOLERANCE, error <= TOLERANCE)


def _measured(path: Path, found: Iterator[Measured]) -> Iterator[Check]:
    try:
        for quantity, error, allowed in found:
            yield Check(path.name, quantity, error, allowed, error <= allowed)
    except KeyError as error:
        raise GoldenError(f"{path} is incomplete: it has no {error}") from error


def _sampled(name: str, ours: Arrays, recorded: Arrays) -> np.ndarray | None:
    """Our value of a recorded array, cut as its name says: rows and columns of images, else channels."""
    if name in ours:
        return ours[name]
    base, _, cut = name.rpartition("_")
    if base not in ours:
        return None
    if cut == "full":
        return ours[base][recorded["full_edge_index"]]
    if not (match := re.fullmatch(r"sub(\d+)", cut)):
        return None
    step = int(match[1])
    if "pts3d" in base:
        return ours[base][..., ::step, ::step, :]
    return ours[base][..., ::step, ::step] if "conf" in base else ours[base][..., ::step]


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError as error:
        raise GoldenError(f"there is no file {path}") from error
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:  # TypeError: .npy holds one array
        raise GoldenError(f"{path} is not a golden file (.npz), or it is damaged") from error
