"""The one renderer, from worlds to colours: first hits, textures, lamp or sun with shadows, light from everywhere, sky.

Colours are computed in the camera's frame, on (N, R) tensors: N pictures of R rays each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.first_hits import TILE, Grid, first_hits, slopes
from easi3r_lab.synthetic.worlds import FACES, Lights, Shots, Worlds
from easi3r_ros.core.geometry import invert_se3

Vector = solids.Vector

_HIGHLIGHT = 24.0  # exponent of the lamp's highlight (Blinn-Phong)
_CLOUD_TEXTURE = 0  # every bank starts with plain 1/f noise


@dataclass(frozen=True)
class _Surface:
    """What the rays meet; zero where they meet nothing."""

    ray: Vector  # direction with z = 1
    point: Vector
    normal: Vector  # unit length
    albedo: Tensor  # (N, R, 3)
    gloss: Tensor  # (N, R)
    group: Tensor  # (N, R) int64 object, -1: nothing


def radiance(worlds: Worlds, shots: Shots, depth: Tensor, part: Tensor, grid: Grid) -> Tensor:
    """(N, H, W, 3) linear colours of the hits of `first_hits`; 1 is white under full light, suns may exceed it."""
    part_from_cam = invert_se3(shots.world_from_part) @ shots.world_from_cam[:, None]
    surface = _surface(worlds, shots, part_from_cam, depth.flatten(1), part.flatten(1).long(), grid)
    cam_from_world = invert_se3(shots.world_from_cam)
    scene = shots.scene
    lights, up = worlds.lights, cam_from_world[:, :3, 2]
    towards, fade = _towards_light(lights, scene, cam_from_world, surface.point)
    facing = _dot(towards, surface.normal).clamp_min(0)
    lit, open_share = _shadows(worlds, shots, cam_from_world, surface, towards)
    lamp = (facing * fade * lit)[..., None] * lights.lamp[scene, None]
    above = 1 + 0.25 * _dot(_spread(up), surface.normal)
    light = (lamp + above[..., None] * lights.ambient[scene, None]) * open_share[..., None]
    colour = surface.albedo * light
    if bool((surface.gloss > 0).any()):
        colour = colour + _mirrored(lights, scene, up, surface, towards, fade * lit)
    nothing = surface.group < 0
    if bool(nothing.any()):
        colour = torch.where(nothing[..., None], _sky(worlds, scene, cam_from_world, surface.ray, nothing), colour)
    return colour.unflatten(1, depth.shape[1:])


def _spread(vectors: Tensor) -> Vector:
    """(N, 3) -> three (N, 1)."""
    return tuple(vectors[:, axis, None] for axis in range(3))


def _dot(a: Vector, b: Vector) -> Tensor:
    return (a[0] * b[0]).addcmul_(a[1], b[1]).addcmul_(a[2], b[2])


def _turned(matrix: Tensor, vector: Vector) -> Vector:
    """matrix (N, 3, 3) times three (N, R)."""
    return tuple(_dot(_spread(matrix[:, axis]), vector) for axis in range(3))


def _surface(worlds: Worlds, shots: Shots, part_from_cam: Tensor, depth: Tensor, part: Tensor, grid: Grid) -> _Surface:
    views, rays = depth.shape
    parts = worlds.kind.shape[1]
    x, y = slopes(shots.K, grid)
    x = x[:, None].expand(-1, grid.height, -1).reshape(views, rays)
    y = y[:, :, None].expand(-1, -1, grid.width).reshape(views, rays)
    hit = (part >= 0).flatten().nonzero()[:, 0]
    number = (torch.arange(views, device=depth.device)[:, None] * parts + part).flatten()[hit]
    in_scene = (shots.scene[:, None] * parts + part).flatten()[hit]  # (M,) row of the scenes' parts
    z = depth.flatten()[hit]
    seen = (x.flatten()[hit] * z, y.flatten()[hit] * z, z)
    pose = part_from_cam[..., :3, :].reshape(-1, 12).T.index_select(1, number)  # (12, M) of [R | t], row by row
    local = torch.stack([_dot(pose[4 * k : 4 * k + 3], seen) + pose[4 * k + 3] for k in range(3)], dim=-1)
    normal, uv, face = _by_kind(worlds, in_scene, local)
    normal = tuple(_dot(pose[k:12:4], normal.unbind(-1)) for k in range(3))  # part -> camera
    facing = _dot(seen, normal).abs() * _dot(seen, seen).rsqrt()
    pixel = grid.step / shots.K[:, 0, 0].repeat_interleave(rays)[hit]
    # A ray's footprint is an ellipse, 1 / facing as long as wide: its mean radius avoids both blur and aliasing.
    footprint = z * pixel / facing.clamp_min(0.05).sqrt()
    row = worlds.material.view(-1, FACES).flatten()[in_scene * FACES + face]
    albedo, gloss = _materials(worlds, row, uv, footprint)

    def dense(values: Tensor) -> Tensor:
        result = torch.zeros((views * rays, *values.shape[1:]), dtype=values.dtype, device=values.device)
        result[hit] = values
        return result.unflatten(0, (views, rays))

    group = torch.where(part >= 0, dense(worlds.group.flatten()[in_scene]), -1)
    ahead = torch.where(part >= 0, depth, 0)
    return _Surface(
        (x, y, torch.ones_like(x)), (x * ahead, y * ahead, ahead), tuple(dense(n) for n in normal), dense(albedo),
        dense(gloss), group,
    )  # fmt: skip


def _by_kind(worlds: Worlds, in_scene: Tensor, local: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    kinds, sizes = worlds.kind.flatten()[in_scene], worlds.size.view(-1, 4)
    normal, uv = torch.empty_like(local), torch.empty_like(local[:, :2])
    face = torch.empty_like(in_scene)
    for number in solids.KINDS:
        rows = (kinds == number).nonzero()[:, 0]
        if len(rows):
            size = sizes.index_select(0, in_scene[rows]).to(local.dtype)
            normal[rows], uv[rows], face[rows] = solids.surface(number, size, local[rows])
    return normal, uv, face


def _materials(worlds: Worlds, row: Tensor, uv: Tensor, footprint: Tensor) -> tuple[Tensor, Tensor]:
    """Albedo (M, 3) and gloss (M,)."""
    m = worlds.materials
    metres = m.metres[row]
    cosine, sine = m.turn[row].unbind(-1)
    u, v = uv.unbind(-1)
    turns = torch.stack([cosine * u - sine * v, sine * u + cosine * v], dim=-1) / metres[:, None] + m.shift[row]
    texel = worlds.bank.sample(m.texture[row], turns, footprint / metres)
    albedo, mix = m.bias[row], m.mix[row]
    for channel in range(3):
        albedo.addcmul_(mix[..., channel], texel[:, channel : channel + 1])
    strength = m.blotch[row]
    if bool((strength > 0).any()):
        # Incommensurable with the texture, so that a wall does not repeat.
        coarse = worlds.bank.sample(m.blotches[row], turns * 0.23 + 0.37, footprint / metres * 0.23)[:, 2]
        albedo = albedo * (1 + strength * (coarse - 0.5))[:, None]
    return albedo.clamp(0.0, 1.0), m.gloss[row]


def _towards_light(lights: Lights, scene: Tensor, cam_from_world: Tensor, point: Vector) -> tuple[Vector, Tensor]:
    """Unit vectors from the points to the light, and how much of it arrives on a facing surface."""
    position, sun = lights.position[scene], lights.sun[scene][:, None]
    turned = (cam_from_world[:, :3, :3] @ position[..., None])[..., 0]
    direction = _spread(turned)
    place = _spread(turned + cam_from_world[:, :3, 3])
    towards = tuple(torch.where(sun, d, c - p) for d, c, p in zip(direction, place, point, strict=True))
    squared = _dot(towards, towards).clamp_min(1e-9)
    scale = squared.rsqrt()
    reach = lights.reach[scene, None] ** 2
    fade = torch.where(sun, 1.0, 2 * reach / (reach + squared))
    return tuple(t * scale for t in towards), fade


def _shadows(
    worlds: Worlds, shots: Shots, cam_from_world: Tensor, surface: _Surface, towards: Vector
) -> tuple[Tensor, Tensor]:
    """Share of the lamp, and of all light, that the objects around leave to each point: two (N, R)."""
    occluders, lights, scene = worlds.occluders, worlds.lights, shots.scene
    lit, open_share = torch.ones_like(surface.gloss), torch.ones_like(surface.gloss)
    casts, touches = (bool((strength[scene] > 0).any()) for strength in (lights.shadow, lights.contact))
    cam_from_occluder = cam_from_world[:, None] @ shots.world_from_occluder
    if not (casts or touches):
        return lit, open_share
    exists, box = occluders.half[scene, :, 0] > 0, occluders.box[scene]
    for number in range(exists.shape[1]):
        for cast, chosen in ((_through_ball, ~box), (_through_cube, box)):
            rows = (exists & chosen)[:, number].nonzero()[:, 0]
            if not len(rows):
                continue
            pose, here = cam_from_occluder[rows, number], scene[rows]
            matrix = pose[:, :3, :3].mT / occluders.half[here, number, :, None]  # camera -> unit ball or cube
            offset = (matrix @ pose[:, :3, 3:]).unbind(1)
            place = tuple(p - o for p, o in zip(_turned(matrix, _some(surface.point, rows)), offset, strict=True))
            other = surface.group[rows] != occluders.group[here, number, None]
            if touches:
                hidden = _hidden_share(place, _turned(matrix, _some(surface.normal, rows))) * other
                open_share[rows] *= 1 - lights.contact[here, None] * hidden
            if casts:
                dark = cast(place, _turned(matrix, _some(towards, rows)))
                dark = dark / lights.softness[here, None].clamp_min(1e-3)
                lit[rows] *= 1 - lights.shadow[here, None] * (dark.clamp_max(1) * other)
    return lit, open_share


def _some(vector: Vector, rows: Tensor) -> Vector:
    """Without a copy where it is all of them."""
    return vector if len(rows) == len(vector[0]) else tuple(v[rows] for v in vector)


def _hidden_share(place: Vector, normal: Vector) -> Tensor:
    """How much of the sky above a surface point the unit ball covers: cosine / distance^2."""
    squared = _dot(place, place).clamp_min(1)
    lengths = (squared * _dot(normal, normal).clamp_min(1e-12)).sqrt()
    return (-_dot(place, normal)).clamp_min(0) / (lengths * squared)


def _through_ball(place: Vector, towards: Vector) -> Tensor:
    """Length of the way to the light inside the unit ball; it is short at the shadow's edge, which makes that soft."""
    a = _dot(towards, towards).clamp_min(1e-12)
    middle = -_dot(place, towards) / a
    half_chord = (middle * middle - (_dot(place, place) - 1) / a).clamp_min(0).sqrt()
    return ((middle + half_chord) - (middle - half_chord).clamp_min(0)).clamp_min(0) * a.sqrt()


def _through_cube(place: Vector, towards: Vector) -> Tensor:
    """The same inside the cube of half length 1."""
    near, far = solids.slabs((1.0, 1.0, 1.0), place, towards)
    return (far - near.clamp_min(0)).clamp_min(0) * _dot(towards, towards).sqrt()


def _mirrored(lights: Lights, scene: Tensor, up: Tensor, surface: _Surface, towards: Vector, fade: Tensor) -> Tensor:
    """Sky and highlight in shiny surfaces, more at grazing angles (Schlick)."""
    length = _dot(surface.ray, surface.ray).rsqrt()
    ray = tuple(r * length for r in surface.ray)
    against = _dot(ray, surface.normal)
    mirrored = tuple(r - 2 * against * n for r, n in zip(ray, surface.normal, strict=True))
    fresnel = 0.15 + 0.85 * (1 - against.abs()).clamp(0, 1) ** 3
    height = _dot(_spread(up), mirrored)[..., None]
    zenith, horizon = lights.zenith[scene, None], lights.horizon[scene, None]
    sky = torch.where(height > 0, torch.lerp(horizon, zenith, height.clamp(0, 1)), 0.35 * horizon)
    highlight = _dot(mirrored, towards).clamp_min(0) ** _HIGHLIGHT * fade
    light = fresnel[..., None] * sky + 0.6 * highlight[..., None] * lights.lamp[scene, None]
    return surface.gloss[..., None] * light


def _sky(worlds: Worlds, scene: Tensor, cam_from_world: Tensor, ray: Vector, nothing: Tensor) -> Tensor:
    """(N, R, 3) colours of the sky, where `nothing` is hit: a gradient with clouds."""
    lights = worlds.lights
    length = _dot(ray, ray).rsqrt()
    direction = _turned(cam_from_world[:, :3, :3].mT, tuple(r * length for r in ray))
    height = direction[2].clamp_min(0)
    zenith, horizon = lights.zenith[scene, None], lights.horizon[scene, None]
    sky = torch.lerp(horizon, zenith, height.sqrt()[..., None])
    view, place = nothing.nonzero(as_tuple=True)
    high = direction[2][view, place].clamp_min(0) + 0.12
    turns = torch.stack([direction[0][view, place] / high, direction[1][view, place] / high], dim=-1) * 0.11
    texture = torch.full_like(view, _CLOUD_TEXTURE)
    cover = worlds.bank.sample(texture, turns, 0.002 / (high * high))[:, 2]
    strength = lights.clouds[scene][view] * ((cover - 0.45) * 3).clamp(0, 1) * (high - 0.12).clamp(0, 0.2) * 5
    sky[view, place] = torch.lerp(sky[view, place], sky[view, place].amax(-1, keepdim=True) * 1.15, strength[:, None])
    return sky


_CPU_RAYS = 1 << 16  # at once: what stays in a processor's cache
_GPU_RAYS = 1 << 22


def hits_of(worlds: Worlds, shots: Shots, grid: Grid) -> tuple[Tensor, Tensor]:
    """z-depth (N, H, W), inf in the sky, and part (N, H, W) int16, -1 there, in the precision of the shots' poses."""
    cam_from_part = invert_se3(shots.world_from_cam)[:, None] @ shots.world_from_part
    kind, size = worlds.kind[shots.scene], worlds.size[shots.scene].to(shots.K.dtype)
    return first_hits(kind, size, cam_from_part, shots.K, grid)


def render(worlds: Worlds, shots: Shots, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Linear colours (N, H, W, 3), depth and part as `hits_of`, of all shots; in single precision."""
    rays = _CPU_RAYS if shots.K.device.type == "cpu" else _GPU_RAYS
    pictures = []
    for some in shots.split(max(1, rays // (grid.width * grid.height))):
        bands = [_band(worlds, some, band) for band in _bands(grid, rays)]
        pictures.append([torch.cat(values, dim=1) for values in zip(*bands, strict=True)])
    colours, depth, part = (torch.cat(values) for values in zip(*pictures, strict=True))
    return colours, depth, part


def _band(worlds: Worlds, shots: Shots, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    depth, part = hits_of(worlds, shots, grid)
    return radiance(worlds, shots, depth, part, grid), depth, part


def _bands(grid: Grid, rays: int) -> list[Grid]:
    """The rows of a large image in pieces of whole tiles."""
    rows = max(TILE, rays // grid.width // TILE * TILE)
    return [
        Grid(grid.width, min(rows, grid.height - first), grid.u0, grid.v0 + grid.step * first, grid.step)
        for first in range(0, grid.height, rows)
    ]
