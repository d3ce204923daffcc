"""Scenes that nothing was tuned to, with simulated pairs, for the batch alignment.

`box_room` is made as the recorded scene of golden_align was: a room with two boxes that stand and one that moves, eight
cameras, pointmaps with noise in all directions that grows with depth, exact flow. Every seed is another scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from easi3r_lab.published.objective import Problem
from easi3r_lab.published.two_passes import named_edges
from easi3r_lab.synthetic.correspondence import flow_between
from easi3r_lab.synthetic.motions import Attached, EllipseWalk, Handheld, hand_waves, pose
from easi3r_lab.synthetic.presets import build_scene
from easi3r_lab.synthetic.presets.props import block, room, tiled_floor
from easi3r_lab.synthetic.scene import Box, Light, Part, Scene, SceneCamera, SceneObject
from easi3r_lab.synthetic.textures import plaster
from easi3r_lab.synthetic.true_pairs import PairNoise, Truth, iter_truths, pair_of_truths
from easi3r_ros.core.types import PairGeometry

RATE = 6.0  # Hz: at a walking pace two frames are 15 cm apart
OUTLIER = 1e4  # pixels: flow of a pixel that goes behind the camera; the objective drops it


@dataclass(frozen=True)
class Twin:
    """Simulated pairs of a scene, and the true trajectory."""

    name: str
    problem: Problem
    truth: np.ndarray  # (T, 4, 4) world_from_cam


def box_room(seed: int, frames: int = 8, size: tuple[int, int] = (96, 64), noise: float = 0.01) -> Twin:
    """A scene as golden_align's. size: (w, h); noise: of every coordinate, relative to the depth."""
    scene = _box_room(np.random.default_rng(seed), frames / RATE)
    edges = named_edges("swinstride-5-noncyclic", frames)
    return _twin(f"box room {seed}", _truths(scene, frames, size), edges, seed, PairNoise(relative=0.0), noise)


def preset_twin(preset: str, frames: int, size: tuple[int, int], graph: str, seed: int, noise: float = 0.01) -> Twin:
    """A rendered preset. size: (w, h); noise: along the rays alone, relative to the depth at 3 m."""
    scene = build_scene(preset, seed, frames / RATE)
    name = f"{preset} {size[0]}x{size[1]}"
    return _twin(name, _truths(scene, frames, size), named_edges(graph, frames), seed, PairNoise(noise), 0.0)


def _truths(scene: Scene, frames: int, size: tuple[int, int]) -> list[Truth]:
    """Without the last of w + 1 columns and h + 1 rows: the principal point is at (w/2, h/2), as METHOD 7 has it."""
    full = iter_truths(scene, frames, (size[0] + 1, size[1] + 1), RATE)
    planes = ("depth", "parts", "mask")
    return [replace(t, **{name: np.ascontiguousarray(getattr(t, name)[:-1, :-1]) for name in planes}) for t in full]


def _twin(
    name: str,
    truths: Sequence[Truth],
    edges: Sequence[tuple[int, int]],
    seed: int,
    along_rays: PairNoise,
    everywhere: float,
) -> Twin:
    rng = np.random.default_rng(seed)
    pairs = [_shaken(pair_of_truths(truths[a], truths[b], rng, along_rays), rng, everywhere) for a, b in edges]
    maps = ("points_a", "points_b", "conf_a", "conf_b")
    problem = Problem(
        edges=torch.tensor(edges),
        **{name: torch.stack([getattr(pair, name) for pair in pairs]) for name in maps},
        masks=torch.from_numpy(np.stack([truth.mask for truth in truths])),
        flow=torch.stack([_flow(truths[a], truths[b]) for a, b in edges]),
        flow_back=torch.stack([_flow(truths[b], truths[a]) for a, b in edges]),
    )
    return Twin(name, problem, np.stack([truth.view.world_from_cam for truth in truths]))


def _shaken(pair: PairGeometry, rng: np.random.Generator, relative: float) -> PairGeometry:
    def shaken(points: torch.Tensor) -> torch.Tensor:
        noise = torch.from_numpy(rng.standard_normal(points.shape).astype(np.float32))
        return points + relative * points[..., 2:] * noise

    return replace(pair, points_a=shaken(pair.points_a), points_b=shaken(pair.points_b)) if relative else pair


def _flow(source: Truth, target: Truth) -> torch.Tensor:
    """(2, h, w) pixels"""
    flow = flow_between(source.view, target.view, source.depth, source.parts)
    return torch.from_numpy(np.nan_to_num(np.moveaxis(flow, -1, 0), nan=OUTLIER)).float()


def _box_room(rng: np.random.Generator, duration: float) -> Scene:
    paint = (plaster(rng, (0.6, 0.6, 0.6)),)
    side = rng.choice([-1.0, 1.0])
    low, high = (
        block(name, half, (*(np.array(at) + rng.uniform(-0.3, 0.3, 2)), 0.0), paint, rng.uniform(-0.5, 0.5))
        for name, half, at in (("low", (0.4, 0.4, 0.45), (0.9, -1.2)), ("high", (0.3, 0.5, 0.8), (1.2, 1.2)))
    )
    drive = EllipseWalk((0.2, 0.0, 0.0), (0.3, 0.6), 0.0, 0.5 * rng.choice([-1, 1]), rng.uniform(0, 2 * np.pi))
    mover = SceneObject("box", (Part(Box((0.35, 0.3, 0.45)), paint, Attached(drive, pose((0, 0, 0.45)))),), moving=True)
    travel = np.array([rng.uniform(-0.2, 0.3), 0.9 * side, rng.uniform(-0.2, 0.2)]) * duration
    path = Handheld(
        start=tuple(np.array([-2.3, 0.0, 1.3]) - travel / 2),
        travel=tuple(travel),
        arc=(0.1, 0.0, 0.05),
        gaze_start=(0.6, 0.0, 0.7),
        gaze_end=(0.6, 0.2 * side, 0.7),
        duration=duration,
        returns=False,
        sway=0.01,
        shake=0.01,
        waves=hand_waves(rng),
    )
    walls = room(rng, (3.4, 2.6, 1.4), tiled_floor(rng))
    return Scene(
        (walls, low, high, mover), SceneCamera(path, horizontal_fov=rng.uniform(48, 64)), Light((0.0, 0.0, 2.2))
    )
