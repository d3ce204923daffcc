"""Random scenes for training, rendered by the batch: several views of each, and all that is true about them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from easi3r_lab.synthetic import correspondence as between
from easi3r_lab.synthetic import sensor
from easi3r_lab.synthetic.first_hits import Grid
from easi3r_lab.synthetic.random_worlds.compose import RandomScenes, random_scenes
from easi3r_lab.synthetic.random_worlds.layout import Dice
from easi3r_lab.synthetic.renderer import render
from easi3r_lab.synthetic.worlds import Shots


@dataclass(frozen=True)
class TrainingViews:
    """B random scenes, each in V views. World: z up, metres; cameras: x right, y down, z forward (REP-103)."""

    images: Tensor  # (B, V, H, W, 3) uint8 RGB
    depth: Tensor  # (B, V, H, W) float32 z-depth at the pixel's centre, metres; inf: sky
    parts: Tensor  # (B, V, H, W) int16 rigid part seen at the pixel's centre; -1: sky
    K: Tensor  # (B, 3, 3) pixels; pixel centres are integers
    world_from_cam: Tensor  # (B, V, 4, 4)
    world_from_part: Tensor  # (B, V, P, 4, 4)
    moving: Tensor  # (B, P) bool: the part belongs to something that moves
    seconds: Tensor  # (B, V) when each view was taken, from the middle of the clip

    def masks(self) -> Tensor:
        """(B, V, H, W) bool, True on what moves."""
        B, V, H, W = self.parts.shape
        parts = self.parts.long()
        seen = self.moving.gather(1, parts.clamp_min(0).reshape(B, -1)).view(B, V, H, W)
        return seen & (parts >= 0)


def training_views(
    seed: int, scenes: int, views: int, size: tuple[int, int], device: torch.device | str = "cpu"
) -> TrainingViews:
    """Random scenes with random cameras; the same arguments give the same scenes (on another device: other noise).

    size: (W, H). About 40 % of the scenes are still, the others have 1 to 5 movers.
    Raises ValueError where there is nothing to render.
    """
    if min(scenes, views) < 1 or min(size) < 8:
        raise ValueError(f"nothing to render: scenes={scenes}, views={views}, size={size}")
    device = torch.device(device)
    with torch.inference_mode():
        dice = Dice(seed)
        drawn = random_scenes(dice, scenes, views, size)
        K = _intrinsics(drawn.focal, size)
        shots = drawn.shots(K)
        colours, depth, parts = render(drawn.worlds.to(device), shots.to(device), Grid(*size))
        generator = torch.Generator(device=device).manual_seed(seed)
        images = _photographed(dice, drawn, shots.to(device), colours, depth, parts, generator)
    shape = (scenes, views, size[1], size[0])
    return TrainingViews(
        images=images.view(*shape, 3),
        depth=depth.view(shape),
        parts=parts.view(shape),
        K=K.to(device),
        world_from_cam=drawn.world_from_cam.to(device),
        world_from_part=drawn.world_from_part.to(device),
        moving=drawn.moving.to(device),
        seconds=drawn.seconds.to(device),
    )


def _intrinsics(focal: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, 3) with the principal point in the image's middle. focal: (B,) share of the width."""
    width, height = size
    K = torch.zeros(len(focal), 3, 3)
    K[:, 0, 0] = K[:, 1, 1] = focal * width
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = (width - 1) / 2, (height - 1) / 2, 1.0
    return K


def _photographed(
    dice: Dice,
    drawn: RandomScenes,
    shots: Shots,
    colours: Tensor,
    depth: Tensor,
    parts: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """(N, H, W, 3) uint8 by a random camera per scene."""
    B, V = drawn.seconds.shape
    device = colours.device

    def per_view(values: Tensor) -> Tensor:
        return values.repeat_interleave(V, dim=0).to(device)

    shutter = dice.uniform(0, 0.5, B) * dice.chance(0.35, B)
    if V > 1 and bool((shutter > 0).any()):
        colours = _motion_blurred(drawn, shots, colours, depth, parts, per_view(shutter))
    colours = sensor.lens_blur(colours, per_view(dice.uniform(0.3, 0.75, B)))
    first = colours.unflatten(0, (B, V))[:, 0]
    gain = sensor.automatic_gain(first, dice.log_uniform(0.12, 0.42, B).to(device))
    flicker = dice.uniform(0.93, 1.07, B, V).flatten().to(device)
    white = dice.uniform(0.93, 1.07, B, 3)
    gain = per_view(gain)[:, None] * flicker[:, None] * per_view(white)
    values = sensor.exposed(colours, gain[:, None, None])
    images = sensor.noisy(values, per_view(dice.log_uniform(0.4, 6.0, B)), generator)
    quality = torch.where(dice.chance(0.3, B), dice.uniform(35, 95, B), 0.0)
    return _compressed(images, quality.repeat_interleave(V))


def _motion_blurred(
    drawn: RandomScenes, shots: Shots, colours: Tensor, depth: Tensor, parts: Tensor, shutter: Tensor
) -> Tensor:
    """Blurred along the way to the next view, for a share `shutter` (N,) of that way; the last views: back."""
    B, V = drawn.seconds.shape
    number = torch.arange(B * V, device=colours.device)
    following = torch.where(number % V == V - 1, number - 1, number + 1)
    rows = (shutter > 0).nonzero()[:, 0]
    to = following[rows]
    pose = between.carried(
        shots.world_from_cam[rows], shots.world_from_cam[to], shots.world_from_part[rows], shots.world_from_part[to]
    )
    far = torch.where(torch.isinf(depth[rows]), 1e4, depth[rows])
    uv = between.projected(between.points_carried(far, parts[rows], shots.K[rows], pose), shots.K[rows])
    H, W = depth.shape[1:]
    y, x = torch.meshgrid(torch.arange(H, device=uv.device), torch.arange(W, device=uv.device), indexing="ij")
    flow = (uv - torch.stack([x, y], dim=-1)).nan_to_num(0.0) * shutter[rows, None, None, None]
    blurred = colours.clone()
    blurred[rows] = sensor.motion_blur(colours[rows], flow.clamp(-0.08 * W, 0.08 * W))
    return blurred


def _compressed(images: Tensor, quality: Tensor) -> Tensor:
    """JPEG and back, where quality (N,) is not 0."""
    pictures = images.cpu().numpy()
    for index in (quality > 0).nonzero()[:, 0].tolist():
        _, data = cv2.imencode(".jpg", pictures[index], [cv2.IMWRITE_JPEG_QUALITY, int(quality[index])])
        pictures[index] = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return torch.from_numpy(np.ascontiguousarray(pictures)).to(images.device)


def correspondence(
    views: TrainingViews, i: int | Tensor, j: int | Tensor, tolerance: float = 0.02
) -> tuple[Tensor, Tensor]:
    """Where what view i sees is in view j, movers moving along: (B, H, W, 2) pixels (u, v), NaN behind the camera; and
    (B, H, W) bool, whether j sees it. The sky has a place only as far as the camera turns, and counts as not seen.

    i, j: one view for all scenes, or (B,) a view of each.
    """
    depth, parts, cam_i, part_i = _at(views, i)
    depth_j, parts_j, cam_j, part_j = _at(views, j)
    pose = between.carried(cam_i, cam_j, part_i, part_j)
    points = between.points_carried(torch.where(parts < 0, 1e4, depth), parts, views.K, pose)
    uv = between.projected(points, views.K)
    return uv, between.visible(points, uv, parts, depth_j, parts_j, tolerance)


def induced(views: TrainingViews, i: int | Tensor, j: int | Tensor) -> Tensor:
    """(B, H, W, 2) where what view i sees would be in view j if only the camera had moved, pixels; NaN behind it."""
    depth, parts, cam_i, _ = _at(views, i)
    cam_j = _at(views, j)[2]
    pose = between.carried_still(cam_i, cam_j)
    return between.projected(between.points_carried(torch.where(parts < 0, 1e4, depth), parts, views.K, pose), views.K)


def points_in(views: TrainingViews, i: int | Tensor, j: int | Tensor, moving: bool = False) -> Tensor:
    """(B, H, W, 3) what view i sees, in the frame of camera j, metres; non-finite in the sky.

    moving: where things are when j is taken; else (as DUSt3R's pointmaps want) where they were when i was.
    """
    depth, parts, cam_i, part_i = _at(views, i)
    _, _, cam_j, part_j = _at(views, j)
    pose = between.carried(cam_i, cam_j, part_i, part_j) if moving else between.carried_still(cam_i, cam_j)
    return between.points_carried(depth, parts, views.K, pose)


def _at(views: TrainingViews, index: int | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Depth, parts, cameras and poses of parts of one view per scene."""
    B = len(views.K)
    chosen = torch.as_tensor(index, device=views.K.device).expand(B)
    scene = torch.arange(B, device=views.K.device)
    return tuple(
        values[scene, chosen] for values in (views.depth, views.parts, views.world_from_cam, views.world_from_part)
    )
