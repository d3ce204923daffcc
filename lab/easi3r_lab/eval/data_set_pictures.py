"""A picture of an evaluation: trajectories from above on recordings, J and F per sequence where masks are known."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from easi3r_lab.eval.davis import SequenceScore
from easi3r_lab.eval.pictures import CAMERA, FAINT, MOVING, PAPER, STYLE
from easi3r_lab.eval.recordings import RecordingScore

COLUMNS = 4


def paths_picture(scores: Sequence[RecordingScore], title: str) -> Figure:
    """A tile per sequence: truth and estimate in the plane in which the truth moves most."""
    rows = -(-len(scores) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = _figure((2.6 * COLUMNS, 2.7 * rows + 0.6))
        axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        figure.subplots_adjust(left=0.06, right=0.98, bottom=0.25 / (2.7 * rows + 0.6), wspace=0.3, hspace=0.35)
        figure.suptitle(f"{title}: camera path, truth (grey) and estimate (blue), metres", fontsize=11)
        for axis, score in zip(axes, scores, strict=False):
            _path(axis, score)
        for axis in axes[len(scores) :]:
            axis.set_visible(False)
    return figure


def _path(axis: Axes, score: RecordingScore) -> None:
    axis.set_title(f"{score.name}\nATE {score.ate:.3g} m ({score.ate_percent:.2g} %)", fontsize=7)
    axis.tick_params(labelsize=6)
    if not score.truth_path:
        axis.text(0.5, 0.5, "no path to compare", ha="center", va="center", fontsize=7, transform=axis.transAxes)
        return
    truth, estimate = np.array(score.truth_path), np.array(score.estimated_path)
    first, second = np.sort(np.argsort(np.ptp(truth, axis=0))[1:])
    axis.plot(truth[:, first], truth[:, second], color=FAINT, lw=4)
    axis.plot(estimate[:, first], estimate[:, second], color=CAMERA, lw=1.3)
    axis.set(xlabel="xyz"[first], ylabel="xyz"[second])
    axis.set_aspect("equal", adjustable="datalim")


def masks_picture(scores: Sequence[SequenceScore], title: str) -> Figure:
    """Bars of J and F, best sequence first, with the mean of J."""
    ordered = sorted(scores, key=lambda score: score.settled_jm, reverse=True)
    at = np.arange(len(ordered))
    with matplotlib.rc_context(STYLE):
        figure = _figure((max(4.0, 0.42 * len(ordered) + 1.5), 3.6))
        axis = figure.subplots()
        figure.subplots_adjust(left=1 / figure.get_figwidth() * 0.6, right=0.98, bottom=0.36, top=0.88)
        axis.bar(at - 0.2, [score.settled_jm for score in ordered], 0.4, color=CAMERA, label="J")
        axis.bar(at + 0.2, [score.boundary.mean for score in ordered], 0.4, color=MOVING, label="F")
        mean = float(np.mean([score.settled_jm for score in ordered]))
        axis.axhline(mean, color=CAMERA, lw=1, ls="--")
        axis.set_title(f"{title}: J {mean:.3f} in the mean", fontsize=10)
        axis.set_xticks(at, [score.name for score in ordered], rotation=60, ha="right", fontsize=7)
        axis.set_ylim(0, 1)
        axis.legend(frameon=False, fontsize=8)
    return figure


def _figure(size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure
