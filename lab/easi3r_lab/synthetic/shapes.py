"""The shapes that scenes are built of by name, each in its own frame around the origin, in metres."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from easi3r_lab.synthetic import solids


class Shape(ABC):
    @property
    @abstractmethod
    def solid(self) -> tuple[int, tuple[float, ...]]:
        """Kind and numbers as the renderer wants them (solids.py)."""


@dataclass(frozen=True)
class Box(Shape):
    half: tuple[float, float, float]

    @property
    def solid(self) -> tuple[int, tuple[float, ...]]:
        return solids.BOX, self.half


@dataclass(frozen=True)
class Room(Shape):
    """A box seen from inside."""

    half: tuple[float, float, float]

    @property
    def solid(self) -> tuple[int, tuple[float, ...]]:
        return solids.ROOM, self.half


@dataclass(frozen=True)
class Ellipsoid(Shape):
    half: tuple[float, float, float]

    @property
    def solid(self) -> tuple[int, tuple[float, ...]]:
        return solids.ELLIPSOID, self.half


@dataclass(frozen=True)
class Capsule(Shape):
    """A cylinder along z with round ends: limbs, torsos."""

    thickness: float  # radius
    half_length: float  # from the origin to the centre of each end sphere

    @property
    def solid(self) -> tuple[int, tuple[float, ...]]:
        return solids.CAPSULE, (self.thickness, self.half_length)


@dataclass(frozen=True)
class Cylinder(Shape):
    """A cylinder along z with flat ends: cans, mugs, lamps, wheels. Faces: 0 side, 1 ends."""

    thickness: float  # radius
    half_length: float

    @property
    def solid(self) -> tuple[int, tuple[float, ...]]:
        return solids.CYLINDER, (self.thickness, self.half_length)


@dataclass(frozen=True)
class Prism(Shape):
    """A polygon along z: roofs, cabins, pillars. Faces: 0 sides, 1 ends."""

    sides: int  # 3 to 6
    apothem: float  # from the axis to the middle of a side, at the bottom
    half_length: float
    taper: float = 0.0  # metres of apothem lost per metre upwards

    @property
    def solid(self) -> tuple[int, tuple[float, ...]]:
        return solids.PRISM, (float(self.sides), self.apothem, self.half_length, self.taper)
