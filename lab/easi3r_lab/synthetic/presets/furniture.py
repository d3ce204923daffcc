"""Things that stand in rooms."""

from __future__ import annotations

import numpy as np

from easi3r_lab.synthetic.motions import Fixed, pose
from easi3r_lab.synthetic.scene import Occluder, Part, SceneObject
from easi3r_lab.synthetic.shapes import Box, Capsule, Cylinder, Ellipsoid, Room
from easi3r_lab.synthetic.textures import Texture, book_spines, bricks, fabric, planks, plaster, poster, speckle, tiles

WOOD = ((0.42, 0.24, 0.11), (0.30, 0.16, 0.07), (0.55, 0.38, 0.20))


def room(rng: np.random.Generator, half: tuple[float, float, float], floor: Texture) -> SceneObject:
    """Four walls (one of bricks, three of plaster), a ceiling and a floor at z = 0."""
    pale = plaster(rng, (0.62, 0.58, 0.48))
    walls = (pale, bricks(rng, (0.48, 0.22, 0.14)), pale, plaster(rng, (0.40, 0.50, 0.50)))
    ceiling = plaster(rng, (0.72, 0.71, 0.68), contrast=0.08)
    return SceneObject("room", (Part(Room(half), (*walls, floor, ceiling), Fixed(pose((0, 0, half[2])))),))


def wooden_floor(rng: np.random.Generator) -> Texture:
    return planks(rng, WOOD[rng.integers(len(WOOD))])


def tiled_floor(rng: np.random.Generator) -> Texture:
    return tiles(rng, (0.55, 0.52, 0.46), (0.16, 0.17, 0.18))


def block(name: str, half, at, textures: tuple[Texture, ...], yaw: float = 0.0) -> SceneObject:
    """A box that stands at `at` (centre of its base)."""
    centre = Fixed(pose((at[0], at[1], at[2] + half[2]), yaw))
    swollen = tuple(1.15 * h for h in half)
    return SceneObject(name, (Part(Box(half), textures, centre),), occluder=Occluder(swollen, centre))


def picture(rng: np.random.Generator, name: str, at, width: float, height: float, yaw: float) -> SceneObject:
    """A print on a wall; `at` is its centre, yaw the direction it faces."""
    print_ = poster(rng, metres=1.4 * max(width, height))
    return SceneObject(name, (Part(Box((0.02, width / 2, height / 2)), (print_,), Fixed(pose(at, yaw))),))


def bookshelf(rng: np.random.Generator, at, yaw: float) -> SceneObject:
    """1.2 m wide, 1.8 m high, books on its +x face."""
    wood, books = speckle(rng, (0.24, 0.14, 0.07), 0.25), book_spines(rng, metres=0.9)
    return block("bookshelf", (0.16, 0.6, 0.9), at, (wood, books, wood, wood, wood, wood), yaw)


def table(rng: np.random.Generator, at, half_length: float, half_width: float, height: float) -> SceneObject:
    """A wooden table on four legs; `at` is on the floor below its middle."""
    wood = planks(rng, WOOD[rng.integers(len(WOOD))], boards=8, metres=1.0)
    top = Part(Box((half_length, half_width, 0.025)), (wood,), Fixed(pose((at[0], at[1], height - 0.025))))
    leg = Capsule(0.035, height / 2 - 0.06)
    legs = []
    for x in (-0.9 * half_length, 0.9 * half_length):
        for y in (-0.85 * half_width, 0.85 * half_width):
            legs.append(Part(leg, (wood,), Fixed(pose((at[0] + x, at[1] + y, height / 2 - 0.03)))))
    shadow = Occluder((half_length, half_width, 0.12), Fixed(pose((at[0], at[1], height * 0.6))))
    return SceneObject("table", (top, *legs), occluder=shadow)


def sofa(rng: np.random.Generator, at, yaw: float) -> SceneObject:
    """Two metres wide, facing its +x."""
    cloth = fabric(rng, [(0.30, 0.10, 0.08), (0.42, 0.20, 0.14), (0.20, 0.07, 0.07)], metres=0.9)
    base = pose(at, yaw)
    pieces = {
        (0.42, 0.95, 0.22): (0, 0, 0.22),
        (0.12, 0.95, 0.43): (-0.40, 0, 0.43),
        (0.42, 0.12, 0.31): (0, 0.95, 0.31),
        (0.42, 0.121, 0.31): (0, -0.95, 0.31),
    }
    parts = tuple(Part(Box(half), (cloth,), Fixed(base @ pose(centre))) for half, centre in pieces.items())
    return SceneObject("sofa", parts, occluder=Occluder((0.6, 1.2, 0.5), Fixed(base @ pose((0, 0, 0.3)))))


def plant(rng: np.random.Generator, at) -> SceneObject:
    """A pot with a few round bushes of leaves."""
    pot, leaves = speckle(rng, (0.50, 0.22, 0.12), 0.2), speckle(rng, (0.10, 0.26, 0.07), 0.6, metres=0.3)
    parts = [Part(Cylinder(0.17, 0.18), (pot,), Fixed(pose((at[0], at[1], at[2] + 0.18))))]
    for _ in range(5):
        offset = rng.normal(0, [0.13, 0.13, 0.16])
        half = tuple(rng.uniform(0.14, 0.24, 3))
        parts.append(Part(Ellipsoid(half), (leaves,), Fixed(pose(np.array(at) + [0, 0, 0.75] + offset))))
    return SceneObject("plant", tuple(parts), occluder=Occluder((0.3, 0.3, 0.6), Fixed(pose((*at[:2], at[2] + 0.5)))))


def lamp(rng: np.random.Generator, at) -> SceneObject:
    """A standing lamp."""
    metal, shade = (
        speckle(rng, (0.20, 0.20, 0.21), 0.15),
        fabric(rng, [(0.85, 0.75, 0.55), (0.70, 0.55, 0.32)], metres=0.4),
    )
    pole = Part(Capsule(0.025, 0.75), (metal,), Fixed(pose((at[0], at[1], 0.78))))
    head = Part(Cylinder(0.22, 0.16), (shade,), Fixed(pose((at[0], at[1], 1.6))))
    foot = Part(Cylinder(0.16, 0.02), (metal,), Fixed(pose((at[0], at[1], 0.02))))
    return SceneObject("lamp", (pole, head, foot))
