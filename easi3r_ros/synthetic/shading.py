"""From hits to colours: texture, lamp and ambient light, soft contact shadows, gamma."""

from __future__ import annotations

import numpy as np

from easi3r_ros.synthetic.raycast import Hits, View, pixel_rays
from easi3r_ros.synthetic.scene import Light, Occluder, Part, Scene
from easi3r_ros.synthetic.vectors import dot, length, turned

GAMMA = 2.2


def shade(scene: Scene, view: View, hits: Hits, us: np.ndarray, vs: np.ndarray, seconds: float) -> np.ndarray:
    """(H', W', 3) float32 grey levels 0..255 of the hits on the grid vs x us (float32)."""
    rays = pixel_rays(view.K, us, vs).astype(np.float32)
    points = (rays * hits.depth[..., None]).reshape(-1, 3)  # (H', W', 3) -> (N, 3), camera frame
    albedo, normals = _materials(scene.parts, view, hits, points, pixel=float(us[1] - us[0]) / view.K[0, 0])
    world = turned(view.world_from_cam[:3, :3], points) + view.world_from_cam[:3, 3].astype(np.float32)
    light = _light(scene.light, world, normals) * _openness(scene, hits, world, normals, seconds)
    linear = np.clip(albedo * light[:, None], 0, 1)
    return (255 * linear ** np.float32(1 / GAMMA)).reshape(*hits.depth.shape, 3)


def _materials(
    parts: tuple[Part, ...], view: View, hits: Hits, points: np.ndarray, pixel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Albedo (N, 3) and world normals (N, 3) of points (N, 3) in the camera frame. pixel: width of a ray at z = 1."""
    index = hits.part.reshape(-1)
    order = np.argsort(index, kind="stable")
    bounds = np.searchsorted(index[order], np.arange(len(parts) + 1))
    albedo, normals = np.zeros_like(points), np.zeros_like(points)
    for number, part in enumerate(parts):
        rows = order[bounds[number] : bounds[number + 1]]
        if rows.size == 0:
            continue
        seen = points[rows]
        part_from_cam = (np.linalg.inv(view.world_from_part[number]) @ view.world_from_cam).astype(np.float32)
        normal, uv, face = part.shape.surface(turned(part_from_cam[:3, :3], seen) + part_from_cam[:3, 3])
        facing = np.abs(dot(seen, turned(part_from_cam[:3, :3].T, normal))) / length(seen)
        # A ray's footprint is an ellipse, 1 / facing as long as wide: its mean radius avoids both blur and aliasing.
        footprint = seen[:, 2] * pixel / np.sqrt(np.maximum(facing, 0.05))
        albedo[rows] = _sampled(part, uv, face, footprint)
        normals[rows] = turned(view.world_from_part[number][:3, :3], normal)
    return albedo, normals


def _sampled(part: Part, uv: np.ndarray, face: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    if len(part.textures) == 1:
        return part.textures[0].sample(uv, footprint)
    albedo = np.zeros((len(uv), 3), np.float32)
    for number, texture in enumerate(part.textures):
        rows = face == number
        albedo[rows] = texture.sample(uv[rows], footprint[rows])
    return albedo


def _light(light: Light, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(N,) irradiance: Lambert's cosine law for the lamp, and more ambient light on what faces up."""
    towards = np.array(light.position, np.float32) - points
    squared = dot(towards, towards)
    cosine = np.maximum(dot(towards, normals) / np.sqrt(squared), 0)
    fade = 2 * light.reach**2 / (light.reach**2 + squared)
    return light.lamp * cosine * fade + light.ambient * (1 + 0.25 * normals[:, 2])


def _openness(scene: Scene, hits: Hits, points: np.ndarray, normals: np.ndarray, seconds: float) -> np.ndarray:
    """(N,) share of the light that the objects around a point leave it, each object taken for its ellipsoid."""
    openness = np.ones(len(points), np.float32)
    owner = np.repeat(np.arange(len(scene.objects)), [len(item.parts) for item in scene.objects])[hits.part.reshape(-1)]
    for number, item in enumerate(scene.objects):
        if item.occluder is not None:
            hidden = _hidden_share(item.occluder, points, normals, seconds)
            openness *= np.where(owner == number, np.float32(1), 1 - np.float32(0.8) * hidden)
    return openness


def _hidden_share(occluder: Occluder, points: np.ndarray, normals: np.ndarray, seconds: float) -> np.ndarray:
    """(N,) how much of the sky above each surface point the ellipsoid covers: cosine / distance^2 as a unit sphere."""
    pose = occluder.world_from_occluder(seconds)
    sphere_from_world = (pose[:3, :3] / np.array(occluder.half)).T
    towards = turned(sphere_from_world, pose[:3, 3].astype(np.float32) - points)
    normals = turned(sphere_from_world, normals)
    squared = np.maximum(dot(towards, towards), 1)
    lengths = np.sqrt(squared * np.maximum(dot(normals, normals), 1e-12))
    return np.maximum(dot(towards, normals), 0) / (lengths * squared)
