"""What the node said about a rendered clip, compared with the truth: numbers and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from easi3r_lab.demo.client import NodeResult
from easi3r_lab.eval import pictures
from easi3r_lab.eval.scores import DepthScore, MaskScore, TrajectoryScore, score_depth, score_masks, score_trajectory
from easi3r_lab.synthetic import Clip
from easi3r_ros.core.types import PointCloud

_SHEET_ROWS = 5
_CLOUDS_SHOWN = 30  # frames whose points the view from above shows


@dataclass(frozen=True)
class DemoFigures:
    mask: MaskScore
    trajectory: TrajectoryScore
    depth: DepthScore  # scaled as the trajectory, so that it says whether the two agree
    posed: np.ndarray  # (P,) indices into the results that have a pose, as the trajectory's frames


def evaluate(results: Sequence[NodeResult], frames: Sequence[int], clip: Clip) -> DemoFigures:
    """results[k] is about clip frame frames[k]. Raises ValueError if there are too few poses to compare."""
    posed = np.array([k for k, result in enumerate(results) if result.world_from_cam is not None], dtype=int)
    if len(posed) < 3:
        raise ValueError(f"only {len(posed)} of {len(results)} results have a pose; an alignment needs 3")
    frames = np.array(frames)
    estimated = np.stack([results[k].world_from_cam for k in posed])
    path = score_trajectory(estimated, clip.world_from_cam[frames[posed]])
    depths = np.stack([results[k].depth for k in posed])
    return DemoFigures(
        mask=score_masks(np.stack([result.mask for result in results]), clip.masks[frames]),
        trajectory=path,
        depth=score_depth(depths, clip.depth[frames[posed]], path.scale),
        posed=posed,
    )


def draw(out: Path, results: Sequence[NodeResult], frames: Sequence[int], clip: Clip, found: DemoFigures) -> None:
    """Writes contact_sheet.png, trajectory.png and top_view.png into `out`."""
    path = found.trajectory
    title = f"rendered clip '{clip.preset}': mask IoU {found.mask.jm:.2f}"
    sheet = pictures.contact_sheet(_sheet_rows(results, frames, clip, found), title, depth_unit="m")
    pictures.save(sheet, out / "contact_sheet.png")
    title = f"camera: error {100 * path.ate:.1f} cm rms, {path.ate_percent_of_path:.1f} % of {path.path_length:.2f} m"
    posed = np.array(frames)[found.posed]
    figure = pictures.trajectory_plot(path.aligned, clip.world_from_cam[posed], posed / clip.rate, title)
    pictures.save(figure, out / "trajectory.png")
    title = "what stands and what moves, seen from above"
    pictures.save(pictures.top_view(*_world_points(results, found), path.aligned, title), out / "top_view.png")


def _sheet_rows(
    results: Sequence[NodeResult], frames: Sequence[int], clip: Clip, found: DemoFigures
) -> list[pictures.SheetRow]:
    chosen = found.posed[np.linspace(0.04 * len(found.posed), len(found.posed) - 1, _SHEET_ROWS).astype(int)]
    return [
        pictures.SheetRow(
            label=f"{frames[k] / clip.rate:.1f} s",
            image=clip.images[frames[k]],
            evidence=results[k].probability,
            mask=results[k].mask,
            depth=results[k].depth * found.trajectory.scale,
            true_mask=clip.masks[frames[k]],
        )
        for k in chosen
    ]


def _world_points(results: Sequence[NodeResult], found: DemoFigures) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Static points (N, 3), their colours (N, 3) and dynamic points (M, 3) of many frames, in the truth's world."""
    static, colours, dynamic = [], [], []
    for row in range(0, len(found.posed), max(1, len(found.posed) // _CLOUDS_SHOWN)):
        result, world_from_cam = results[found.posed[row]], found.trajectory.aligned[row]
        static.append(_moved(result.static, world_from_cam, found.trajectory.scale))
        colours.append(result.static.rgb)
        dynamic.append(_moved(result.dynamic, world_from_cam, found.trajectory.scale))
    return np.concatenate(static), np.concatenate(colours), np.concatenate(dynamic)


def _moved(cloud: PointCloud, world_from_cam: np.ndarray, scale: float) -> np.ndarray:
    return scale * cloud.xyz @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]
