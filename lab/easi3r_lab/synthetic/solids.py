"""Shapes that rays are intersected with in closed form, thousands at once, each in its own frame around the origin.

A solid is a kind and up to four numbers (metres): see KINDS' constants. Vectors come as three tensors, one per axis,
because that is what torch multiplies fastest. Discriminants are computed from the point of the ray that is nearest to
the centre, which keeps far and small spheres exact in single precision (Haines et al., Ray Tracing Gems, chapter 7).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EMPTY = 0  # a slot without a solid
BOX = 1  # half lengths x, y, z
ROOM = 2  # half lengths x, y, z; seen from inside
ELLIPSOID = 3  # semi-axes x, y, z
CAPSULE = 4  # radius, half length of the axis (along z) between the centres of the end spheres
CYLINDER = 5  # radius, half length (along z)
PRISM = 6  # sides (3 to 6), apothem at the base, half length (along z), taper: metres of apothem lost per metre of z
TERRAIN = 7  # amplitude, wavelength, phase in radians, reach: hills above and below z = 0; above, the rays start
KINDS = (BOX, ROOM, ELLIPSOID, CAPSULE, CYLINDER, PRISM, TERRAIN)

Vector = tuple[Tensor, Tensor, Tensor]

MOST_SIDES = 6
# Hills: weight, waves per wavelength, direction and phase of each sine; their frequencies have no common measure.
_WAVES = ((0.46, 0.61, 0.3, 1.0), (0.29, 1.0, 1.9, 2.7), (0.17, 1.73, 4.0, -1.3), (0.08, 3.1, 5.2, 4.1))
_MARCH, _HALVINGS = 28, 9
_TINY = 1e-9


def bounds(kind: Tensor, size: Tensor) -> Tensor:
    """(..., 3) half lengths of a box that holds each solid; infinite: it is everywhere. kind: (...), size: (..., 4)."""
    a, b, c = size[..., 0], size[..., 1], size[..., 2]
    infinite = torch.full_like(a, math.inf)
    table = {
        BOX: (a, b, c),
        ROOM: (infinite,) * 3,
        ELLIPSOID: (a, b, c),
        CAPSULE: (a, a, a + b),
        CYLINDER: (a, a, b),
        PRISM: (2 * b, 2 * b, c),  # a triangle's corners are twice as far as its sides
        TERRAIN: (infinite,) * 3,
    }
    result = torch.zeros((*kind.shape, 3), dtype=size.dtype, device=size.device)
    for number, half in table.items():
        result = torch.where((kind == number)[..., None], torch.stack(half, dim=-1), result)
    return result


def intersect(kind: int, size: Tensor, origin: Vector, direction: Vector) -> Tensor:
    """(N, R) smallest t > 0 with origin + t * direction on solid n, inf where the ray misses.

    size: (N, 4); origin: three (N, 1); direction: three (N, R), of any length; t is in units of that length.
    """
    columns = tuple(size[:, k : k + 1] for k in range(4))
    return _INTERSECT[kind](columns, origin, direction)


def slabs(half: tuple[Tensor, ...], origin: Vector, direction: Vector) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave an axis-aligned box around the origin."""
    near, far = None, None
    for h, o, d in zip(half, origin, direction, strict=False):
        inverse = 1 / torch.where(d.abs() < _TINY, _TINY, d)
        centre, reach = -o * inverse, h * inverse.abs()
        first, last = centre - reach, centre + reach
        near = first if near is None else torch.maximum(near, first)
        far = last if far is None else torch.minimum(far, last)
    return near, far


def _box(size, origin: Vector, direction: Vector) -> Tensor:
    near, far = slabs(size[:3], origin, direction)
    return torch.where((near <= far) & (near > 0), near, math.inf)


def _room(size, origin: Vector, direction: Vector) -> Tensor:
    far = slabs(size[:3], origin, direction)[1]
    return torch.where(far > 0, far, math.inf)


def _round(origin, direction, radius: Tensor | float) -> tuple[Tensor, Tensor]:
    """First meeting with a sphere (three axes) or an endless cylinder (two) around the origin, if there is one.

    Returns t, which may lie behind the start, and whether they meet.
    """
    a = sum(d * d for d in direction).clamp_min(1e-12)
    middle = -sum(o * d for o, d in zip(origin, direction, strict=True)) / a
    nearest = [o + middle * d for o, d in zip(origin, direction, strict=True)]
    under_root = radius * radius - sum(n * n for n in nearest)
    return middle - (under_root.clamp_min(0) / a).sqrt(), under_root > 0


def _ellipsoid(size, origin: Vector, direction: Vector) -> Tensor:
    scaled_origin = tuple(o / h for o, h in zip(origin, size, strict=False))
    scaled_direction = tuple(d / h for d, h in zip(direction, size, strict=False))
    t, meets = _round(scaled_origin, scaled_direction, 1.0)
    return torch.where(meets & (t > 0), t, math.inf)


def _capsule(size, origin: Vector, direction: Vector) -> Tensor:
    radius, half = size[0], size[1]
    side, meets_side = _round(origin[:2], direction[:2], radius)
    height = origin[2] + side * direction[2]
    # Beyond an end of the axis, the ray enters through the sphere at that end if at all.
    end = torch.where(height > 0, half, -half)
    cap, meets_cap = _round((origin[0], origin[1], origin[2] - end), direction, radius)
    on_side = height.abs() <= half
    t = torch.where(on_side, side, cap)
    return torch.where(meets_side & (on_side | meets_cap) & (t > 0), t, math.inf)


def _cylinder(size, origin: Vector, direction: Vector) -> Tensor:
    radius, half = size[0], size[1]
    side, meets = _round(origin[:2], direction[:2], radius)
    on_side = meets & (side > 0) & ((origin[2] + side * direction[2]).abs() <= half)
    slope = torch.where(direction[2].abs() < _TINY, _TINY, direction[2])
    end = (-torch.sign(slope) * half - origin[2]) / slope
    x, y = origin[0] + end * direction[0], origin[1] + end * direction[1]
    on_end = (end > 0) & (x * x + y * y <= radius * radius)
    return torch.where(on_end, end, torch.where(on_side, side, math.inf))


def _side_normals(sides: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Unit vectors in the plane, across each possible side of the prisms; those beyond the last repeat the first."""
    return [
        (torch.cos(angle), torch.sin(angle))
        for angle in (torch.where(k < sides, 2 * math.pi * k / sides.clamp_min(3), 0.0) for k in range(MOST_SIDES))
    ]


def _prism(size, origin: Vector, direction: Vector) -> Tensor:
    sides, apothem, half, taper = size
    near, far = slabs((half,), origin[2:], direction[2:])
    outside = torch.zeros_like(near, dtype=torch.bool)
    slope, height = taper * direction[2], taper * (origin[2] + half)
    for x, y in _side_normals(sides):
        towards = x * direction[0] + y * direction[1] + slope
        gap = apothem - (x * origin[0] + y * origin[1] + height)
        parallel = towards.abs() < _TINY
        t = gap / torch.where(parallel, _TINY, towards)
        near = torch.where(towards < 0, torch.maximum(near, t), near)
        far = torch.where(towards > 0, torch.minimum(far, t), far)
        outside |= parallel & (gap < 0)
    return torch.where((near <= far) & (near > 0) & ~outside, near, math.inf)


def hills(size, x: Tensor, y: Tensor) -> Tensor:
    """Height of the terrain above its z = 0."""
    amplitude, wavelength, phase = size[0], size[1], size[2]
    height = 0.0
    for weight, frequency, heading, shift in _WAVES:
        wave = 2 * math.pi * frequency / wavelength
        along = x * (wave * math.cos(heading)) + y * (wave * math.sin(heading))
        height = height + weight * torch.sin(along + (phase * (1 + frequency) + shift))
    return amplitude * height


def _slope_of_hills(size, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    amplitude, wavelength, phase = size[0], size[1], size[2]
    dx, dy = 0.0, 0.0
    for weight, frequency, heading, shift in _WAVES:
        wave = 2 * math.pi * frequency / wavelength
        along = x * (wave * math.cos(heading)) + y * (wave * math.sin(heading))
        steepness = weight * wave * torch.cos(along + (phase * (1 + frequency) + shift))
        dx, dy = dx + steepness * math.cos(heading), dy + steepness * math.sin(heading)
    return amplitude * dx, amplitude * dy


def _terrain(size, origin: Vector, direction: Vector) -> Tensor:
    """March until the ray is below ground, then halve the step in which that happened."""
    amplitude, reach = size[0], size[3]
    length = sum(d * d for d in direction).sqrt()
    falling = torch.where(direction[2] < -_TINY, direction[2], -_TINY)
    end = torch.minimum((-amplitude - origin[2]) / falling, reach / length)
    start = ((amplitude - origin[2]) / falling).clamp_min(0)

    def above(t: Tensor) -> Tensor:
        ground = hills(size, origin[0] + t * direction[0], origin[1] + t * direction[1])
        return origin[2] + t * direction[2] - ground

    low, high, found = start, start, torch.zeros_like(start, dtype=torch.bool)
    last = start
    for step in range(1, _MARCH + 1):
        t = start + (end - start) * (step / _MARCH) ** 1.6  # denser where perspective shows more
        below = ~found & (above(t) < 0)
        low, high = torch.where(below, last, low), torch.where(below, t, high)
        found, last = found | below, t
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        below = above(middle) < 0
        low, high = torch.where(below, low, middle), torch.where(below, middle, high)
    at_low, at_high = above(low), above(high)
    t = low + (high - low) * (at_low / (at_low - at_high).clamp_min(_TINY)).clamp(0, 1)
    return torch.where(found & (start < end) & (t > 0), t, math.inf)


_INTERSECT = {
    BOX: _box,
    ROOM: _room,
    ELLIPSOID: _ellipsoid,
    CAPSULE: _capsule,
    CYLINDER: _cylinder,
    PRISM: _prism,
    TERRAIN: _terrain,
}


def surface(kind: int, size: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Outward normal (N, 3), texture coordinates in metres (N, 2) and face number (N,) of points (N, 3) on solids.

    size: (N, 4). Faces: of boxes and rooms -x, +x, -y, +y, -z, +z; of cylinders and prisms 0 sides, 1 ends; else 0.
    """
    return _SURFACE[kind](tuple(size[:, k] for k in range(4)), points.unbind(-1))


def _box_surface(size, point: Vector, inwards: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = point
    share = torch.stack([p.abs() / h for p, h in zip(point, size, strict=False)], dim=-1)  # (N, 3)
    axis = share.argmax(dim=-1)
    side = torch.sign(torch.stack(point, dim=-1).gather(1, axis[:, None]))  # (N, 1)
    normal = torch.nn.functional.one_hot(axis, 3).to(x.dtype) * (-side if inwards else side)
    u, v = torch.where(axis == 0, y, x), torch.where(axis == 2, y, -z)
    return normal, torch.stack([u, v], dim=-1), 2 * axis + (side[:, 0] > 0)


def _room_surface(size, point: Vector) -> tuple[Tensor, Tensor, Tensor]:
    return _box_surface(size, point, inwards=True)


def _around(point: Vector, radius: Tensor) -> Tensor:
    """(N, 2) texture coordinates wound around the z axis."""
    return torch.stack([torch.atan2(point[1], point[0]) * radius, -point[2]], dim=-1)


def _ellipsoid_surface(size, point: Vector) -> tuple[Tensor, Tensor, Tensor]:
    normal = torch.stack([p / (h * h) for p, h in zip(point, size, strict=False)], dim=-1)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    return normal, _around(point, (size[0] + size[1]) / 2), _no_face(point)


def _capsule_surface(size, point: Vector) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = point
    core = torch.minimum(torch.maximum(z, -size[1]), size[1])
    normal = torch.nn.functional.normalize(torch.stack([x, y, z - core], dim=-1), dim=-1)
    return normal, _around(point, size[0]), _no_face(point)


def _cylinder_surface(size, point: Vector) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = point
    end = (z.abs() - size[1]).abs() < (torch.hypot(x, y) - size[0]).abs()
    flat, none = torch.sign(z), torch.zeros_like(z)
    normal = torch.where(
        end[:, None], torch.stack([none, none, flat], -1), torch.stack([x / size[0], y / size[0], none], -1)
    )
    uv = torch.where(end[:, None], torch.stack([x, y], dim=-1), _around(point, size[0]))
    return normal, uv, end.long()


def _prism_surface(size, point: Vector) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = point
    sides, apothem, half, taper = size
    best, normal, u = torch.full_like(x, math.inf), torch.stack([x, y, z], dim=-1), x
    steepness = torch.sqrt(1 + taper * taper)
    for nx, ny in _side_normals(sides):
        gap = (apothem - (x * nx + y * ny + taper * (z + half))).abs() / steepness
        nearer = gap < best
        best, u = torch.where(nearer, gap, best), torch.where(nearer, y * nx - x * ny, u)
        normal = torch.where(nearer[:, None], torch.stack([nx, ny, taper], -1) / steepness[:, None], normal)
    end = (z.abs() - half).abs() < best
    none = torch.zeros_like(z)
    normal = torch.where(end[:, None], torch.stack([none, none, torch.sign(z)], dim=-1), normal)
    uv = torch.where(end[:, None], torch.stack([x, y], dim=-1), torch.stack([u, -z], dim=-1))
    return normal, uv, end.long()


def _terrain_surface(size, point: Vector) -> tuple[Tensor, Tensor, Tensor]:
    dx, dy = _slope_of_hills(size, point[0], point[1])
    normal = torch.nn.functional.normalize(torch.stack([-dx, -dy, torch.ones_like(dx)], dim=-1), dim=-1)
    return normal, torch.stack([point[0], point[1]], dim=-1), _no_face(point)


def _no_face(point: Vector) -> Tensor:
    return torch.zeros_like(point[0], dtype=torch.int64)


_SURFACE = {
    BOX: _box_surface,
    ROOM: _room_surface,
    ELLIPSOID: _ellipsoid_surface,
    CAPSULE: _capsule_surface,
    CYLINDER: _cylinder_surface,
    PRISM: _prism_surface,
    TERRAIN: _terrain_surface,
}
