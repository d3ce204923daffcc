"""What rooms and streets are furnished with: furniture, walking people, cars."""

from __future__ import annotations

import numpy as np

from easi3r_lab.synthetic.motions import Attached, EllipseWalk, Fixed, Swing, pose
from easi3r_lab.synthetic.scene import (
    Box,
    Capsule,
    Cylinder,
    Ellipsoid,
    Motion,
    Occluder,
    Part,
    Prism,
    Room,
    SceneObject,
)
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


SKIN = ((0.62, 0.38, 0.26), (0.45, 0.26, 0.16), (0.22, 0.12, 0.07))
CLOTHES = (
    ((0.70, 0.08, 0.06), (0.85, 0.75, 0.60), (0.12, 0.05, 0.05)),
    ((0.06, 0.16, 0.50), (0.65, 0.70, 0.80), (0.04, 0.06, 0.14)),
    ((0.80, 0.55, 0.08), (0.25, 0.16, 0.06), (0.90, 0.85, 0.70)),
    ((0.08, 0.32, 0.14), (0.75, 0.80, 0.55), (0.03, 0.10, 0.06)),
    ((0.45, 0.10, 0.42), (0.80, 0.70, 0.78), (0.12, 0.04, 0.14)),
)
TROUSERS = ((0.05, 0.08, 0.17), (0.10, 0.09, 0.08), (0.22, 0.17, 0.11))


def walker(rng: np.random.Generator, name: str, walk: EllipseWalk) -> SceneObject:
    """A person of about 1.75 m on `walk`, whose origin is on the floor between the feet."""
    shirt = fabric(rng, CLOTHES[rng.integers(len(CLOTHES))])
    trousers = fabric(rng, [TROUSERS[rng.integers(len(TROUSERS))], (0.16, 0.18, 0.24)], metres=0.4)
    shoes = speckle(rng, (0.05, 0.04, 0.04), 0.3)
    skin, hair = speckle(rng, SKIN[rng.integers(len(SKIN))], 0.16), speckle(rng, (0.07, 0.04, 0.02), 0.4)
    stride, phase = walk.step_frequency / 2, rng.uniform(0, 2 * np.pi)  # one leg makes every second step
    parts = [
        Part(Ellipsoid((0.13, 0.21, 0.33)), (shirt,), Attached(walk, pose((0, 0, 1.17)))),
        Part(Ellipsoid((0.12, 0.17, 0.16)), (trousers,), Attached(walk, pose((0, 0, 0.92)))),
        Part(Ellipsoid((0.10, 0.085, 0.125)), (skin,), Attached(walk, pose((0, 0, 1.60)))),
        Part(Ellipsoid((0.105, 0.095, 0.09)), (hair,), Attached(walk, pose((-0.02, 0, 1.67)))),
    ]
    for side, offset in ((0.10, 0.0), (-0.10, np.pi)):
        leg = Swing(walk, (0, side, 0.88), 0.42, stride, phase + offset)
        arm = Swing(walk, (0, 2.3 * side, 1.40), 0.5, stride, phase + offset + np.pi)
        parts += [
            Part(Capsule(0.08, 0.35), (trousers,), Attached(leg, pose((0, 0, -0.40)))),
            Part(Ellipsoid((0.14, 0.055, 0.05)), (shoes,), Attached(leg, pose((0.06, 0, -0.83)))),
            Part(Capsule(0.055, 0.24), (shirt,), Attached(arm, pose((0, 0, -0.25)))),
            Part(Ellipsoid((0.055, 0.035, 0.09)), (skin,), Attached(arm, pose((0, 0, -0.62)))),
        ]
    occluder = Occluder((0.24, 0.24, 0.85), Attached(walk, pose((0, 0, 0.85))))
    return SceneObject(name, tuple(parts), moving=True, occluder=occluder)


PAINTS = ((0.55, 0.04, 0.03), (0.05, 0.12, 0.40), (0.62, 0.62, 0.60), (0.06, 0.06, 0.07), (0.70, 0.45, 0.05))


def car(rng: np.random.Generator, name: str, drive: Motion, moving: bool = True) -> SceneObject:
    """A car or a van of about 4 m on `drive`, whose origin is on the road below its middle; it faces its +x."""
    half, wide, high = rng.uniform(1.8, 2.2), rng.uniform(0.82, 0.92), rng.uniform(0.34, 0.45)
    paint = speckle(rng, PAINTS[rng.integers(len(PAINTS))], 0.25, metres=2.5)
    glass = fabric(rng, [(0.05, 0.06, 0.08), (0.12, 0.15, 0.18), (0.25, 0.28, 0.30)], metres=1.2)
    rubber, lamps = speckle(rng, (0.03, 0.03, 0.03), 0.5, metres=0.5), speckle(rng, (0.85, 0.80, 0.60), 0.2)
    sticker = poster(rng, metres=1.6)
    van = rng.random() < 0.3
    body, floor = Box((half, wide, high + 0.45 if van else high)), 0.25
    side = sticker if van else paint
    parts = [Part(body, (paint, paint, side, side, paint, paint), _at(drive, 0, 0, floor + body.half[2]))]
    top = floor + 2 * body.half[2]
    cabin = Prism(4, 0.88 * wide, 0.14 if van else 0.28, 0.35)
    for x in (-0.9, 0.15) if not van else (half - 1.2,):
        parts.append(Part(cabin, (glass, paint), _at(drive, x, 0, top + cabin.half_length)))
    for x in (-0.62 * half, 0.62 * half):
        for y in (-wide + 0.05, wide - 0.05):
            parts.append(Part(Cylinder(0.32, 0.11), (rubber,), Attached(drive, pose((x, y, 0.32), roll=np.pi / 2))))
    for x in (-half, half):
        for y in (-0.7 * wide, 0.7 * wide):
            parts.append(Part(Box((0.02, 0.16, 0.08)), (lamps,), _at(drive, x, y, floor + 0.45)))
    shadow = Occluder((half, wide, body.half[2] + 0.15), _at(drive, 0, 0, floor + body.half[2] + 0.1), box=True)
    return SceneObject(name, tuple(parts), moving, shadow)


def _at(drive: Motion, x: float, y: float, z: float) -> Attached:
    return Attached(drive, pose((x, y, z)))
