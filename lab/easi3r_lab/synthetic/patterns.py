"""The pattern library of random scenes: colourless textures that every part tints with a palette of its own.

Channels: shares of the second and the third colour of the palette, and grain (0.5: none). Grain has the 1/f spectrum of
natural surfaces.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from easi3r_lab.synthetic.textures import TextureBank, bank_of, fractal_noise, mip_maps

SIDE = 256
_SEED = 20  # of the library; scenes draw from it with seeds of their own

Pattern = Callable[[np.random.Generator], np.ndarray]


@lru_cache(maxsize=1)
def library() -> TextureBank:
    """The bank of all patterns, about 30 MB; its first texture is plain noise."""
    rng = np.random.default_rng(_SEED)
    images = [make(rng) for make, count in _MAKERS for _ in range(count)]
    return bank_of([mip_maps(image) for image in images])


def clouds() -> np.ndarray:
    """(S, S, 3) plain noise, for skies."""
    return noise(np.random.default_rng(_SEED))


def _grain(rng: np.random.Generator, slope: float, stretch: float = 1.0) -> np.ndarray:
    return np.clip(0.5 + 0.2 * fractal_noise(rng, SIDE, slope, stretch), 0, 1)


def _pattern(second: np.ndarray, third: np.ndarray, grain: np.ndarray) -> np.ndarray:
    return np.stack([np.broadcast_to(a, (SIDE, SIDE)) for a in (second, third, grain)], axis=-1).astype(np.float32)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows, 0..1."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    return x, y


def noise(rng: np.random.Generator) -> np.ndarray:
    """Plaster, soil, fur: grain alone."""
    return _pattern(0.0, 0.0, _grain(rng, rng.uniform(0.7, 1.5)))


def plain(rng: np.random.Generator) -> np.ndarray:
    """Hardly any texture at all."""
    return _pattern(0.0, 0.0, 0.5 + 0.12 * (_grain(rng, rng.uniform(1.0, 1.8)) - 0.5))


def marble(rng: np.random.Generator) -> np.ndarray:
    """Clouds of the other colours."""
    clouds = [np.clip(0.5 + 0.45 * fractal_noise(rng, SIDE, rng.uniform(1.0, 1.8)), 0, 1) for _ in range(2)]
    return _pattern(clouds[0], 0.5 * clouds[1], _grain(rng, 1.0))


def camouflage(rng: np.random.Generator) -> np.ndarray:
    """Spots with sharp edges: leaves, stones, cow."""
    slope = rng.uniform(1.0, 1.8)
    spots = [fractal_noise(rng, SIDE, slope) > rng.uniform(0.0, 0.9) for _ in range(2)]
    return _pattern(spots[0], spots[1] & ~spots[0], _grain(rng, 0.8))


def brickwork(rng: np.random.Generator) -> np.ndarray:
    """Running bond; the third colour is mortar."""
    across, down = int(rng.integers(3, 7)), 2 * int(rng.integers(4, 8))
    x, y = _grid()
    row = (y * down).astype(int)
    shifted = x * across + 0.5 * (row % 2)
    column = shifted.astype(int) % across
    mortar = ((y * down) % 1 < 0.12) | (shifted % 1 < 0.12 * across / down)
    shade = rng.random((down, across))[row, column]
    return _pattern(shade * ~mortar, mortar, _grain(rng, 0.8))


def boards(rng: np.random.Generator) -> np.ndarray:
    """Wood along v; the third colour fills the joints."""
    count = int(rng.integers(3, 9))
    x, _ = _grid()
    board = (x * count).astype(int)
    grain = fractal_noise(rng, SIDE, 0.9, stretch=rng.uniform(5, 12))
    rows = (np.arange(SIDE)[:, None] + rng.integers(0, SIDE, count)[board[0]][None]) % SIDE
    grain = np.clip(0.5 + 0.25 * np.take_along_axis(grain, rows, axis=0), 0, 1)
    joint = (x * count) % 1 < 0.05
    return _pattern(rng.random(count)[board] * ~joint, joint, grain)


def checks(rng: np.random.Generator) -> np.ndarray:
    """Chessboards and tiles with joints."""
    count = 2 * int(rng.integers(1, 6))
    x, y = _grid()
    odd = ((x * count).astype(int) + (y * count).astype(int)) % 2
    joint = (((x * count) % 1 < 0.05) | ((y * count) % 1 < 0.05)) & (rng.random() < 0.6)
    return _pattern(odd * ~joint * rng.uniform(0.3, 1.0), joint, _grain(rng, rng.uniform(0.8, 1.3)))


def stripes(rng: np.random.Generator) -> np.ndarray:
    """Straight stripes of random widths, repeated."""
    edges = np.sort(rng.random(int(rng.integers(4, 12))))
    x, _ = _grid()
    band = np.searchsorted(edges, x % 1.0) % len(edges)
    return _pattern(rng.random(len(edges))[band], (rng.random(len(edges)) < 0.25)[band] * 0.8, _grain(rng, 0.9))


def plaid(rng: np.random.Generator) -> np.ndarray:
    """Woven cloth."""
    warp = np.repeat(rng.random((16, 2)), SIDE // 16, axis=0)
    cloth = 0.5 * (warp[None] + np.roll(warp, SIDE // 8, axis=0)[:, None])
    return _pattern(cloth[..., 0], 0.5 * cloth[..., 1], _grain(rng, 0.8))


def dots(rng: np.random.Generator) -> np.ndarray:
    """Polka dots."""
    count, radius = int(rng.integers(2, 7)), rng.uniform(0.15, 0.42)
    x, y = _grid()
    far = np.hypot((x * count) % 1 - 0.5, (y * count) % 1 - 0.5)
    return _pattern(far < radius, 0.0, _grain(rng, 1.0))


def facade(rng: np.random.Generator) -> np.ndarray:
    """Windows with frames in a wall."""
    across, down = int(rng.integers(2, 5)), int(rng.integers(2, 5))
    width, height = rng.uniform(0.35, 0.75, 2)
    x, y = _grid()
    dx, dy = np.abs((x * across) % 1 - 0.5), np.abs((y * down) % 1 - 0.5)
    window = (dx < width / 2) & (dy < height / 2)
    frame = (dx < width / 2 + 0.05) & (dy < height / 2 + 0.05) & ~window
    bars = window & ((dx < 0.02) | (dy < 0.02))
    lights = rng.uniform(0.5, 1.0, (down, across))[(y * down).astype(int), (x * across).astype(int)]
    return _pattern(window * ~bars * lights, frame | bars, _grain(rng, 0.9))


def lettering(rng: np.random.Generator) -> np.ndarray:
    """Rows of glyphs like print: letters, digits, words of random lengths."""
    image = np.zeros((SIDE, SIDE), np.uint8)
    line = int(rng.integers(18, 52))
    for top in range(line, SIDE + line, line):
        letters = rng.integers(48, 91, 26)
        text = "".join(" " if rng.random() < 0.15 else chr(c) for c in letters)
        scale = line / 36
        cv2.putText(
            image, text, (int(rng.integers(-8, 8)), top - line // 4), int(rng.integers(0, 8)), scale, 255,
            int(rng.integers(1, 4)), cv2.LINE_AA,
        )  # fmt: skip
    title = (np.arange(SIDE) // line % int(rng.integers(2, 6)) == 0)[:, None]
    ink = image / 255.0
    return _pattern(ink * ~title, ink * title, _grain(rng, 1.0))


def print_(rng: np.random.Generator) -> np.ndarray:
    """A poster: discs, bars and a few big letters."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    for _ in range(int(rng.integers(8, 30))):
        colour = [0, 0, 0]
        colour[int(rng.integers(0, 2))] = int(rng.integers(80, 255))
        x, y, size = rng.integers([0, 0, 8], [SIDE, SIDE, SIDE // 3]).tolist()
        if rng.random() < 0.5:
            cv2.circle(image, (x, y), size // 2, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, (x, y), (x + size, y + int(size * rng.uniform(0.2, 1))), colour, -1)
    word = "".join(chr(c) for c in rng.integers(65, 91, 4))
    cv2.putText(image, word, (10, int(rng.integers(60, 240))), cv2.FONT_HERSHEY_DUPLEX, 2.5, (0, 255, 0), 5)
    return _pattern(image[..., 0] / 255, image[..., 1] / 255, _grain(rng, 0.9))


def cobbles(rng: np.random.Generator) -> np.ndarray:
    """Stones of random shapes and shades with joints: the cells of random points."""
    points = rng.random((int(rng.integers(20, 90)), 2))
    x, y = _grid()
    nearest, second = np.full((SIDE, SIDE), 9.0), np.full((SIDE, SIDE), 9.0)
    stone = np.zeros((SIDE, SIDE), int)
    for number, (px, py) in enumerate(points):
        dx, dy = np.abs(x - px), np.abs(y - py)
        far = np.hypot(np.minimum(dx, 1 - dx), np.minimum(dy, 1 - dy))
        closer = far < nearest
        second = np.where(closer, nearest, np.minimum(second, far))
        stone[closer], nearest = number, np.where(closer, far, nearest)
    joint = second - nearest < 0.012
    return _pattern(rng.random(len(points))[stone] * ~joint, joint, _grain(rng, 0.9))


_MAKERS: tuple[tuple[Pattern, int], ...] = (
    (noise, 5),
    (plain, 4),
    (marble, 4),
    (camouflage, 4),
    (brickwork, 3),
    (boards, 3),
    (checks, 3),
    (stripes, 3),
    (plaid, 3),
    (dots, 2),
    (facade, 4),
    (lettering, 5),
    (print_, 5),
    (cobbles, 3),
)


@lru_cache(maxsize=1)
def numbers() -> dict[str, range]:
    """Which textures of the library each kind of pattern has, by the name of its function."""
    ranges, first = {}, 0
    for make, count in _MAKERS:
        ranges[make.__name__.rstrip("_")] = range(first, first + count)
        first += count
    return ranges
