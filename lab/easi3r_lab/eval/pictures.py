"""Pictures of what was perceived: contact sheet, trajectory from above, static and dynamic points from above.

Every function returns a matplotlib Figure on no display; `save` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

INK, FAINT, PAPER = "#22262b", "#8a929c", "#ffffff"
MOVING, TRUTH, CAMERA = "#e5383b", "#ffd60a", "#1769d1"
UNKNOWN_DEPTH = "#d9dce0"
STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "axes.labelcolor": INK}
EVIDENCE_MAP = LinearSegmentedColormap.from_list("evidence", ["#10141c", "#3b2a6b", "#c8324f", "#ff9f43", "#fff3c4"])
DEPTH_MAP = matplotlib.colormaps["viridis_r"].with_extremes(bad=UNKNOWN_DEPTH)


@dataclass(frozen=True)
class SheetRow:
    """One frame of the contact sheet; all maps have the image's size."""

    label: str  # "2.3 s"
    image: np.ndarray  # (H, W, 3) uint8 RGB
    evidence: np.ndarray  # (H, W) float in [0, 1]
    mask: np.ndarray  # (H, W) bool
    depth: np.ndarray  # (H, W) float, NaN: not known
    true_mask: np.ndarray | None = None  # (H, W) bool


def contact_sheet(rows: Sequence[SheetRow], title: str, depth_unit: str) -> Figure:
    """Rows of image | motion evidence | mask | depth, one colour scale of depth for all rows."""
    height, width = rows[0].image.shape[:2]
    tile, head, foot = 2.6, 0.62, 0.52  # inches
    tall = tile * height / width
    size = (4 * tile + 0.55, len(rows) * (tall + 0.05) + head + foot)
    with matplotlib.rc_context(STYLE):
        figure = _figure(size)
        axes = figure.subplots(len(rows), 4, squeeze=False)
        margins = {
            "left": 0.5 / size[0],
            "right": 1 - 0.05 / size[0],
            "top": 1 - head / size[1],
            "bottom": foot / size[1],
        }
        figure.subplots_adjust(**margins, wspace=0.02, hspace=0.05 / tall)
        scale = depth_scale(rows)
        for line, row in zip(axes, rows, strict=True):
            _sheet_line(line, row, scale)
        truth_known = any(row.true_mask is not None for row in rows)
        headings = ("camera image", "motion evidence", "dynamic mask", "depth")
        for axis, heading in zip(axes[0], headings, strict=True):
            axis.set_title(heading, fontsize=10, fontweight="bold", pad=5)
        figure.text(0.5 / size[0], 1 - 0.08 / size[1], title, fontsize=11, va="top")
        _bar(figure, axes[-1, 1], ScalarMappable(Normalize(0, 1), EVIDENCE_MAP), "probability of motion")
        _bar(figure, axes[-1, 3], ScalarMappable(scale, DEPTH_MAP), f"depth ({depth_unit}), grey: not known")
        _mask_legend(axes[-1, 2], truth_known)
    return figure


def trajectory_plot(estimated: np.ndarray, truth: np.ndarray, seconds: np.ndarray, title: str) -> Figure:
    """Two aligned trajectories (T, 4, 4) world_from_cam, z up, metres: from above, and the error over time.

    seconds: (T,) when the poses were taken.
    """
    with matplotlib.rc_context(STYLE):
        figure = _figure((8.6, 4.6))
        above, over_time = figure.subplots(1, 2, width_ratios=(1.25, 1))
        figure.subplots_adjust(left=0.08, right=0.975, top=0.84, bottom=0.13, wspace=0.24)
        figure.text(0.08, 0.97, title, fontsize=11, va="top")
        for poses, colour, style, label in ((truth, FAINT, "-", "truth"), (estimated, CAMERA, "-", "estimate")):
            width = 4.5 if poses is truth else 1.6
            above.plot(-poses[:, 1, 3], poses[:, 0, 3], style, color=colour, lw=width, label=label, alpha=0.9)
        _headings(above, estimated, length=0.06 * np.ptp(truth[:, :2, 3], axis=0).max(), count=12)
        above.plot(-truth[0, 1, 3], truth[0, 0, 3], "o", color=INK, ms=6, label="start", zorder=5)
        above.set(xlabel="to the right (m)", ylabel="forward (m)", title="from above")
        above.set_aspect("equal", adjustable="datalim")
        above.margins(0.12)
        above.legend(frameon=False, loc="best")
        error = 100 * np.linalg.norm(estimated[:, :3, 3] - truth[:, :3, 3], axis=1)
        over_time.fill_between(seconds, error, color=CAMERA, alpha=0.15, lw=0)
        over_time.plot(seconds, error, ".-", color=CAMERA, lw=1.4, ms=4)
        over_time.set(xlabel="time (s)", ylabel="position error (cm)", title="error after alignment")
        over_time.set_xlim(seconds[0], seconds[-1])
        over_time.set_ylim(0, max(1.25 * error.max(), 0.1))
        for axis in (above, over_time):
            clean(axis)
    return figure


def top_view(
    static_xyz: np.ndarray, static_rgb: np.ndarray, dynamic_xyz: np.ndarray, world_from_cam: np.ndarray, title: str
) -> Figure:
    """Points (N, 3) in a world with z up, seen from above: static in their colours, dynamic in red, the camera's path.

    What is above the camera (a ceiling) is left out. rgb: (N, 3) uint8; world_from_cam: (T, 4, 4).
    """
    below = static_xyz[:, 2] < np.median(world_from_cam[:, 2, 3])
    static_xyz, static_rgb = static_xyz[below], static_rgb[below]
    path = world_from_cam[:, :3, 3]
    low, high = extent(path, static_xyz, dynamic_xyz)
    span = high - low  # forward, left
    with matplotlib.rc_context(STYLE):
        width, head, foot = 7.2, 0.75, 0.55  # inches
        figure = _figure((width, (width - 0.85) * float(np.clip(span[0] / span[1], 0.4, 1.4)) + head + foot))
        tall = figure.get_figheight()
        axis = figure.subplots()
        figure.subplots_adjust(left=0.7 / width, right=1 - 0.15 / width, top=1 - head / tall, bottom=foot / tall)
        figure.text(0.7 / width, 1 - 0.1 / tall, title, fontsize=11, va="top")
        image = map_image(static_xyz, static_rgb, dynamic_xyz, low, high, cell=span.max() / 380)
        axis.imshow(image, extent=(-high[1], -low[1], low[0], high[0]), origin="lower")
        axis.plot(-path[:, 1], path[:, 0], color=CAMERA, lw=2)
        _headings(axis, world_from_cam, length=0.05 * span.min(), count=5)
        axis.set(xlabel="to the right (m)", ylabel="forward (m)", xlim=(-high[1], -low[1]), ylim=(low[0], high[0]))
        axis.set_aspect("equal")
        handles = [
            Line2D([], [], marker="o", ls="", color="#9c8468", label="static points (own colour)"),
            Line2D([], [], marker="o", ls="", color=MOVING, label="moving points, all frames"),
            Line2D([], [], color=CAMERA, lw=2, label="camera"),
        ]
        place = (0.7 / width, 1 - 0.33 / tall)
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=place, ncol=3, frameon=False, borderaxespad=0)
        clean(axis)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG at 150 dpi."""
    figure.savefig(path, dpi=150, facecolor=PAPER)


def overlay(image: np.ndarray, mask: np.ndarray, true_mask: np.ndarray | None = None) -> np.ndarray:
    """(H, W, 3) uint8: the image in grey, the mask in red, the outline of the true mask in yellow."""
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    result = (0.35 * image + 0.55 * grey).astype(np.uint8)
    red = np.array(matplotlib.colors.to_rgb(MOVING)) * 255
    result[mask] = (0.45 * image[mask] + 0.55 * red).astype(np.uint8)
    if true_mask is not None:
        outlines, _ = cv2.findContours(true_mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        yellow = [round(255 * c) for c in matplotlib.colors.to_rgb(TRUTH)]
        cv2.drawContours(result, outlines, -1, yellow, 1)
    return result


def _figure(size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def depth_scale(rows: Sequence[SheetRow]) -> Normalize:
    known = np.concatenate([row.depth[np.isfinite(row.depth)] for row in rows])
    return Normalize(*np.percentile(known, [1, 99])) if known.size else Normalize(0, 1)


def _sheet_line(line: Sequence[Axes], row: SheetRow, scale: Normalize) -> None:
    line[0].imshow(row.image)
    line[1].imshow(row.evidence, cmap=EVIDENCE_MAP, vmin=0, vmax=1)
    line[2].imshow(overlay(row.image, row.mask, row.true_mask))
    line[3].imshow(np.ma.masked_invalid(row.depth), cmap=DEPTH_MAP, norm=scale)
    line[0].set_ylabel(row.label, fontsize=9)
    for axis in line:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)


def _bar(figure: Figure, above: Axes, colours: ScalarMappable, label: str) -> None:
    box = above.get_position()
    inch = 1 / figure.get_figheight()
    axis = figure.add_axes((box.x0 + 0.1 * box.width, box.y0 - 0.17 * inch, 0.8 * box.width, 0.09 * inch))
    figure.colorbar(colours, cax=axis, orientation="horizontal")
    axis.tick_params(labelsize=7, length=2, pad=1)
    axis.set_xlabel(label, fontsize=8, labelpad=1)


def _mask_legend(axis: Axes, truth_known: bool) -> None:
    handles = [Line2D([], [], marker="s", ls="", ms=8, color=MOVING, label="moving")]
    if truth_known:
        handles.append(Line2D([], [], color=TRUTH, lw=2, label="outline of the truth"))
    axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncol=2, frameon=False, fontsize=8)


def _headings(axis: Axes, world_from_cam: np.ndarray, length: float, count: int) -> None:
    """Small wedges along the path that show where the camera looks."""
    for pose in world_from_cam[np.linspace(0, len(world_from_cam) - 1, count).astype(int)]:
        centre = pose[:3, 3]
        corners = [centre + length * (pose[:3, 2] + side * 0.5 * pose[:3, 0]) for side in (-1, 1)]
        points = np.array([centre, *corners])
        axis.fill(-points[:, 1], points[:, 0], color=CAMERA, alpha=0.35, lw=0)


def clean(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(colors=INK, labelsize=8, length=3)
    axis.set_title(axis.get_title(), fontsize=10, fontweight="bold", pad=6)


def extent(path: np.ndarray, *clouds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (x, y) of a rectangle with the path and nearly all points: stray ones must not make the rest tiny."""
    corners = [path[:, :2]]
    corners += [np.percentile(cloud[:, :2], [1.5, 98.5], axis=0) for cloud in clouds if len(cloud)]
    low, high = (limit(np.concatenate(corners), axis=0) for limit in (np.min, np.max))
    margin = 0.06 * max((high - low).max(), 1e-6)
    return low - margin, high + margin


def map_image(
    static_xyz: np.ndarray,
    static_rgb: np.ndarray,
    dynamic_xyz: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    cell: float,
) -> np.ndarray:
    """(X, Y, 3) float image from above, rows along x, columns along -y: mean colours, with red where things moved."""
    shape = tuple(np.ceil((high - low) / cell).astype(int) + 1)
    count, colour = _binned(static_xyz, static_rgb / 255.0, low, high, cell, shape)
    image = np.ones((*shape, 3))
    opaque = 0.95 * (1 - np.exp(-count / 3))[..., None]  # a lone stray point stays faint
    image = (1 - opaque) * image + opaque * colour
    moved, _ = _binned(dynamic_xyz, np.zeros((len(dynamic_xyz), 3)), low, high, cell, shape)
    strength = (0.85 * (1 - np.exp(-moved / 3)))[..., None]
    return (1 - strength) * image + strength * np.array(matplotlib.colors.to_rgb(MOVING))


def _binned(
    xyz: np.ndarray, rgb: np.ndarray, low: np.ndarray, high: np.ndarray, cell: float, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Points per cell (X, Y), and their mean colour (X, Y, 3)."""
    inside = ((xyz[:, :2] >= low) & (xyz[:, :2] <= high)).all(axis=1)
    row = ((xyz[inside, 0] - low[0]) / cell).astype(int)
    column = ((high[1] - xyz[inside, 1]) / cell).astype(int)
    index = row * shape[1] + column
    count = np.bincount(index, minlength=shape[0] * shape[1])
    sums = [np.bincount(index, rgb[inside, c], minlength=shape[0] * shape[1]) for c in range(3)]
    colour = np.stack(sums, axis=-1) / np.maximum(count, 1)[:, None]
    return count.reshape(shape), colour.reshape(*shape, 3)
