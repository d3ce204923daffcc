"""What the viewer shows, as one picture: image, mask, depth, and map and path from above as they grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from easi3r_lab.eval.pictures import CAMERA, DEPTH_MAP, MOVING, PAPER, STYLE, extent, map_image, overlay
from easi3r_ros.core.clouds import split_cloud
from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.types import FrameResult
from easi3r_ros.io.sources import SourceError
from easi3r_ros.io.writers import in_world

CELLS = 260  # along the longer side of the map


@dataclass(frozen=True)
class Snapshot:
    """One frame, and the world as far as it is known by then."""

    result: FrameResult
    static_xyz: np.ndarray  # (N, 3) of all frames so far, z up
    static_rgb: np.ndarray  # (N, 3) uint8
    dynamic_xyz: np.ndarray  # (M, 3) of this frame
    path: np.ndarray  # (T, 4, 4) world_from_cam so far


def snapshots(results: Sequence[FrameResult], count: int, config: CloudConfig) -> list[Snapshot]:
    """`count` frames with a pose, the last one among them, evenly spread. Raises SourceError if there are none."""
    placed = [result for result in results if result.state.has_pose and not result.withheld]
    if not placed:
        raise SourceError("no frame has a pose, so that there is nothing to draw")
    placed = [result for result in placed if result.world == placed[-1].world]
    chosen = {round(at) for at in np.linspace(0, len(placed) - 1, count + 1)[1:]}
    made, static = [], []
    for number, result in enumerate(placed):
        still, moving = (in_world(cloud, result.world_from_cam) for cloud in split_cloud(result, config))
        static.append(still)
        if number in chosen:
            made.append(
                Snapshot(
                    result,
                    np.concatenate([cloud.xyz for cloud in static]),
                    np.concatenate([cloud.rgb for cloud in static]),
                    moving.xyz,
                    np.stack([earlier.world_from_cam for earlier in placed[: number + 1]]),
                )
            )
    return made


def view_sheet(rows: Sequence[Snapshot], title: str) -> Figure:
    """Rows of image | mask | depth | map from above; one scale of depth, and one piece of the world, for all."""
    height, width = rows[0].result.mask.shape
    tile, head, foot = 2.6, 0.62, 0.35  # inches
    tall = tile * height / width
    size = (4 * tile + 0.6, len(rows) * (tall + 0.06) + head + foot)
    known = np.concatenate([row.result.depth[np.isfinite(row.result.depth)] for row in rows])
    near, far = np.percentile(known, [1, 99]) if known.size else (0, 1)
    low, high = extent(rows[-1].path[:, :3, 3], rows[-1].static_xyz, *(row.dynamic_xyz for row in rows))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, facecolor=PAPER)
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(rows), 4, squeeze=False)
        figure.subplots_adjust(
            left=0.5 / size[0],
            right=1 - 0.05 / size[0],
            top=1 - head / size[1],
            bottom=foot / size[1],
            wspace=0.02,
            hspace=0.06 / tall,
        )
        for axis, heading in zip(axes[0], ("image", "mask", "depth", "map from above"), strict=True):
            axis.set_title(heading, fontsize=10, fontweight="bold", pad=5)
        for line, row in zip(axes, rows, strict=True):
            line[0].imshow(row.result.frame.image)
            line[1].imshow(overlay(row.result.frame.image, row.result.mask))
            line[2].imshow(np.ma.masked_invalid(row.result.depth), cmap=DEPTH_MAP, vmin=near, vmax=far)
            line[0].set_ylabel(f"frame {row.result.frame.index}", fontsize=9)
            _map(line[3], row, low, high)
            for axis in line:
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
        figure.text(0.5 / size[0], 1 - 0.08 / size[1], title, fontsize=11, va="top")
        handles = [
            Line2D([], [], marker="o", ls="", color="#9c8468", label="static points (own colour)"),
            Line2D([], [], marker="o", ls="", color=MOVING, label="moves in this frame"),
            Line2D([], [], color=CAMERA, lw=2, label="the camera's path"),
        ]
        figure.legend(handles=handles, loc="lower right", ncol=3, frameon=False, borderaxespad=0.3)
    return figure


def _map(axis: Axes, row: Snapshot, low: np.ndarray, high: np.ndarray) -> None:
    """The world up to this frame, its x up and its y to the left, what is above the camera left out."""
    below = row.static_xyz[:, 2] < np.median(row.path[:, 2, 3])
    cell = (high - low).max() / CELLS
    image = map_image(row.static_xyz[below], row.static_rgb[below], row.dynamic_xyz, low, high, cell)
    axis.imshow(image, extent=(-high[1], -low[1], low[0], high[0]), origin="lower")
    path = row.path[:, :3, 3]
    axis.plot(-path[:, 1], path[:, 0], color=CAMERA, lw=2)
    pose, reach = row.path[-1], 0.12 * float((high - low).max())
    sides = [pose[:3, 3] + reach * (pose[:3, 2] + side * 0.5 * pose[:3, 0]) for side in (-1, 1)]
    corners = np.array([pose[:3, 3], *sides])
    axis.fill(-corners[:, 1], corners[:, 0], color=CAMERA, alpha=0.4, lw=0)
    axis.set(xlim=(-high[1], -low[1]), ylim=(low[0], high[0]))
    axis.set_aspect("equal", adjustable="box")
