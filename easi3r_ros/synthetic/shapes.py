"""Shapes that a ray can be intersected with in closed form, each in its own frame around the origin, in metres."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from easi3r_ros.synthetic.vectors import dot, length

Surface = tuple[np.ndarray, np.ndarray, np.ndarray]


class Shape(ABC):
    @property
    @abstractmethod
    def radius(self) -> float:
        """Radius of a sphere around the origin that holds the shape."""

    @abstractmethod
    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """(N,) smallest t > 0 with origin + t * direction on the shape, inf where the ray misses.

        origin: (3,), directions: (N, 3) of any length; t is in units of that length.
        """

    @abstractmethod
    def surface(self, points: np.ndarray) -> Surface:
        """Normal (N, 3), texture coordinates in metres (N, 2) and face number (N,) of points (N, 3) on the shape."""


def _slabs(half: np.ndarray, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave an axis-aligned box around the origin, by the slab method."""
    safe = np.where(np.abs(directions) < 1e-9, 1e-9, directions)
    centre = -origin.astype(directions.dtype) / safe
    reach = half.astype(directions.dtype) / np.abs(safe)
    near, far = centre - reach, centre + reach  # numpy reduces an axis of three far slower than this:
    near = np.maximum(np.maximum(near[:, 0], near[:, 1]), near[:, 2])
    return near, np.minimum(np.minimum(far[:, 0], far[:, 1]), far[:, 2])


def _box_surface(half: np.ndarray, points: np.ndarray, sign: float) -> Surface:
    """Faces in the order -x, +x, -y, +y, -z, +z; the texture lies flat, with its v axis along z on upright faces."""
    axis = np.argmax(np.abs(points) / half.astype(points.dtype), axis=-1)
    rows = np.arange(len(points))
    side = np.sign(points[rows, axis])
    normals = np.zeros_like(points)
    normals[rows, axis] = sign * side
    u = np.where(axis == 0, points[:, 1], points[:, 0])
    v = np.where(axis == 2, points[:, 1], -points[:, 2])
    return normals, np.stack([u, v], axis=-1), 2 * axis + (side > 0)


@dataclass(frozen=True)
class Box(Shape):
    half: tuple[float, float, float]

    @property
    def radius(self) -> float:
        return float(np.linalg.norm(self.half))

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        near, far = _slabs(np.array(self.half), origin, directions)
        return np.where((near <= far) & (near > 0), near, np.inf)

    def surface(self, points: np.ndarray) -> Surface:
        return _box_surface(np.array(self.half), points, 1.0)


@dataclass(frozen=True)
class Room(Shape):
    """A box seen from inside."""

    half: tuple[float, float, float]

    @property
    def radius(self) -> float:
        return float(np.linalg.norm(self.half))

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        far = _slabs(np.array(self.half), origin, directions)[1]
        return np.where(far > 0, far, np.inf)

    def surface(self, points: np.ndarray) -> Surface:
        return _box_surface(np.array(self.half), points, -1.0)


@dataclass(frozen=True)
class Ellipsoid(Shape):
    half: tuple[float, float, float]

    @property
    def radius(self) -> float:
        return max(self.half)

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        half = np.array(self.half, directions.dtype)
        return _sphere(origin.astype(directions.dtype) / half, directions / half, 1.0)

    def surface(self, points: np.ndarray) -> Surface:
        half = np.array(self.half, points.dtype)
        normals = points / half**2
        normals /= length(normals)[:, None]
        around = np.arctan2(points[:, 1], points[:, 0]) * points.dtype.type((self.half[0] + self.half[1]) / 2)
        return normals, np.stack([around, -points[:, 2]], axis=-1), np.zeros(len(points), dtype=np.int64)


@dataclass(frozen=True)
class Capsule(Shape):
    """A cylinder along z with round ends: limbs, torsos."""

    thickness: float  # radius
    half_length: float  # from the origin to the centre of each end sphere

    @property
    def radius(self) -> float:
        return self.thickness + self.half_length

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        origin = origin.astype(directions.dtype)
        side = _sphere(origin[:2], directions[:, :2], self.thickness)
        with np.errstate(invalid="ignore"):
            beyond = ~(np.abs(origin[2] + side * directions[:, 2]) <= self.half_length)
        side = np.where(beyond, np.inf, side)
        end = np.array([0, 0, self.half_length], directions.dtype)
        caps = [_sphere(origin - e, directions, self.thickness) for e in (end, -end)]
        return np.minimum(side, np.minimum(*caps))

    def surface(self, points: np.ndarray) -> Surface:
        core = np.zeros_like(points)
        core[:, 2] = np.clip(points[:, 2], -self.half_length, self.half_length)
        normals = (points - core) / points.dtype.type(self.thickness)
        around = np.arctan2(points[:, 1], points[:, 0]) * points.dtype.type(self.thickness)
        return normals, np.stack([around, -points[:, 2]], axis=-1), np.zeros(len(points), dtype=np.int64)


@dataclass(frozen=True)
class Cylinder(Shape):
    """A cylinder along z with flat ends: cans, mugs, lamps, wheels. Faces: 0 side, 1 ends."""

    thickness: float  # radius
    half_length: float

    @property
    def radius(self) -> float:
        return float(np.hypot(self.thickness, self.half_length))

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        origin = origin.astype(directions.dtype)
        side = _sphere(origin[:2], directions[:, :2], self.thickness)
        slope = np.where(np.abs(directions[:, 2]) < 1e-9, 1e-9, directions[:, 2])
        end = (-np.sign(slope) * self.half_length - origin[2]) / slope
        with np.errstate(invalid="ignore"):
            beyond = ~(np.abs(origin[2] + side * directions[:, 2]) <= self.half_length)
            on_end = length(origin[:2] + end[:, None] * directions[:, :2]) <= self.thickness
        return np.where(on_end & (end > 0), end, np.where(beyond, np.inf, side))

    def surface(self, points: np.ndarray) -> Surface:
        off_side = np.abs(np.hypot(points[:, 0], points[:, 1]) - self.thickness)
        end = np.abs(np.abs(points[:, 2]) - self.half_length) < off_side
        normals = points / points.dtype.type(self.thickness)
        normals[:, 2] = 0
        normals[end] = 0
        normals[end, 2] = np.sign(points[end, 2])
        around = np.arctan2(points[:, 1], points[:, 0]) * points.dtype.type(self.thickness)
        uv = np.where(end[:, None], points[:, :2], np.stack([around, -points[:, 2]], axis=-1))
        return normals, uv, end.astype(np.int64)


def _sphere(origin: np.ndarray, directions: np.ndarray, radius: float) -> np.ndarray:
    """First hit of rays with a sphere (3 columns) or an endless cylinder (2 columns) around the origin."""
    a = dot(directions, directions)
    half_b = dot(directions, origin)
    c = float(origin @ origin) - radius**2
    under_root = half_b**2 - a * directions.dtype.type(c)
    t = (-half_b - np.sqrt(np.maximum(under_root, 0))) / np.maximum(a, 1e-12)
    return np.where((under_root > 0) & (t > 0), t, np.inf)
