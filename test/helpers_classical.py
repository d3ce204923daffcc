"""Small analytic scenes for the classical backbone: textured rectangles in space, seen by a pinhole camera."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from easi3r_ros.core.types import Frame, ImageTransform, NetworkInput

SIZE = (160, 120)  # (w, h)
K = np.array([[135.0, 0, 79.5], [0, 135.0, 59.5], [0, 0, 1]])
SUPERSAMPLING = 2


@dataclass(frozen=True)
class Panel:
    """A rectangle: centre +- right +- down, world coordinates; the world is the first camera's frame."""

    centre: tuple[float, float, float]
    right: tuple[float, float, float]
    down: tuple[float, float, float]
    seed: int

    def moved(self, *offset: float) -> Panel:
        return replace(self, centre=tuple(np.add(self.centre, offset)))


ROOM = (
    Panel((0, 0, 6), (7, 0, 0), (0, 5, 0), 1),  # back wall
    Panel((0, 1.3, 4), (6, 0, 0), (0, 0, 3.5), 2),  # floor
    Panel((-1.5, 0.5, 4), (0.5, 0, 0), (0, 0.8, 0), 3),
    Panel((0.2, 0.4, 3.2), (0.35, 0, 0.2), (0, 0.9, 0), 4),
)
WALKER = Panel((1.0, 0.1, 3.0), (0.35, 0, 0), (0, 0.9, 0), 5)


def texture(seed: int, side: int = 256) -> np.ndarray:
    """(side, side) float32 grey levels with detail at several scales."""
    rng = np.random.default_rng(seed)
    image = sum(cv2.resize(rng.normal(0, 1, (side // s, side // s)), (side, side)) * s**0.3 for s in (2, 4, 8, 32))
    return np.clip(128 + 40 * image / image.std(), 0, 255).astype(np.float32)


def render(panels: tuple[Panel, ...], world_from_cam: np.ndarray, noise_seed: int = 0) -> tuple[np.ndarray, ...]:
    """Image (h, w, 3) uint8, z-depth (h, w), index of the panel seen (h, w; -1: none)."""
    w, h = SIZE
    s = SUPERSAMPLING
    u, v = np.meshgrid((np.arange(w * s) + 0.5) / s - 0.5, (np.arange(h * s) + 0.5) / s - 0.5)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
    directions, origin = rays @ world_from_cam[:3, :3].T, world_from_cam[:3, 3]
    depth, grey, seen = np.full(u.shape, np.inf), np.full(u.shape, 90.0), np.full(u.shape, -1)
    for number, panel in enumerate(panels):
        centre, right, down = (np.array(x, float) for x in (panel.centre, panel.right, panel.down))
        normal = np.cross(right, down)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (normal @ (centre - origin)) / (directions @ normal)
        offset = origin + t[..., None] * directions - centre
        x, y = offset @ right / (right @ right), offset @ down / (down @ down)
        hit = (np.abs(x) <= 1) & (np.abs(y) <= 1) & (t > 0.1) & (t < depth)
        image = texture(panel.seed)
        positions = [((q + 1) / 2 * (image.shape[0] - 1)).astype(np.float32) for q in (x, y)]
        grey = np.where(hit, cv2.remap(image, *positions, cv2.INTER_LINEAR), grey)
        depth, seen = np.where(hit, t, depth), np.where(hit, number, seen)
    grey = grey.reshape(h, s, w, s).mean((1, 3)) + np.random.default_rng(noise_seed).normal(0, 1.0, (h, w))
    image = np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, -1)
    return image, depth[::s, ::s], seen[::s, ::s]


def pose(translation=(0.0, 0.0, 0.0), rotation=(0.0, 0.0, 0.0)) -> np.ndarray:
    """(4, 4) from a translation and a rotation vector in radians."""
    matrix = np.eye(4)
    matrix[:3, :3] = cv2.Rodrigues(np.array(rotation, float))[0]
    matrix[:3, 3] = translation
    return matrix


def network_input(image: np.ndarray, index: int, K: np.ndarray | None = K) -> NetworkInput:
    size = image.shape[1], image.shape[0]
    frame = Frame(index, index * 33_000_000, "camera", image, K)
    return NetworkInput(frame, image, K, ImageTransform(size, size, (0, 0), size))


def angle(R: np.ndarray) -> float:
    """Degrees."""
    return float(np.degrees(np.linalg.norm(cv2.Rodrigues(R)[0])))


def angle_between(a: np.ndarray, b: np.ndarray) -> float:
    """Degrees between two directions."""
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))
