"""Procedural textures with the statistics of real surfaces, and many of them in one tensor with their mip maps.

A texture is a seamless square image of linear albedo. Its grain is 1/f noise, the spectrum of natural surfaces
(Field 1987); bricks, planks, tiles, weave and print lie on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy import fft
from torch import Tensor


@dataclass(frozen=True)
class TextureBank:
    texels: Tensor  # (sum of all S_k^2, 3) float32, linear albedo or whatever the channels mean, level after level
    starts: Tensor  # (n, L) int64, first texel of each level; short pyramids repeat their last level
    sides: Tensor  # (n,) int64, texels along a side of the finest level, powers of two

    def sample(self, index: Tensor, turns: Tensor, footprint: Tensor) -> Tensor:
        """(N, 3), trilinear. index: (N,) texture; turns: (N, 2) place, 1 = the texture's side; footprint: (N,) length
        that a ray covers there, in the same unit."""
        side = self.sides[index]
        level = torch.log2((footprint * side).clamp_min(1.0))
        level = torch.minimum(level, torch.log2(side.to(level.dtype)) - 0.001)
        fine = level.long()
        blend = (level - fine).to(turns.dtype)[:, None]
        near = self._bilinear(index, turns, side, fine)
        return near + blend * (self._bilinear(index, turns, side, fine + 1) - near)

    def _bilinear(self, index: Tensor, turns: Tensor, side: Tensor, level: Tensor) -> Tensor:
        side = side >> level
        start = self.starts.flatten()[index * self.starts.shape[1] + level]
        x, y = (turns[:, axis] * side - 0.5 for axis in (0, 1))
        x_floor, y_floor = x.floor(), y.floor()
        fx, fy = (x - x_floor)[:, None], (y - y_floor)[:, None]
        x0, y0, wrap = x_floor.long(), y_floor.long(), side - 1
        upper_row, lower_row = start + (y0 & wrap) * side, start + ((y0 + 1) & wrap) * side
        left, right = x0 & wrap, (x0 + 1) & wrap
        upper = torch.lerp(self._at(upper_row + left), self._at(upper_row + right), fx)
        lower = torch.lerp(self._at(lower_row + left), self._at(lower_row + right), fx)
        return torch.lerp(upper, lower, fy)

    def _at(self, texel: Tensor) -> Tensor:
        return self.texels.index_select(0, texel)

    def to(self, device: torch.device | str) -> TextureBank:
        return TextureBank(self.texels.to(device), self.starts.to(device), self.sides.to(device))


def mip_maps(image: np.ndarray) -> tuple[np.ndarray, ...]:
    """The levels of a seamless (S, S, 3) image, S a power of two: float32, finest first, down to one texel."""
    levels = [image.astype(np.float32)]
    while levels[-1].shape[0] > 1:
        half = levels[-1].shape[0] // 2
        levels.append(cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA).reshape(half, half, 3))
    return tuple(levels)


def bank_of(pyramids: Sequence[Sequence[np.ndarray]]) -> TextureBank:
    """A bank of textures, each given by its `mip_maps`."""
    texels, starts, first = [], [], 0
    for pyramid in pyramids:
        rows = []
        for level in pyramid:
            rows.append(first)
            texels.append(level.reshape(-1, 3))
            first += len(texels[-1])
        starts.append(rows)
    longest = max(len(rows) for rows in starts)
    padded = [rows + rows[-1:] * (longest - len(rows)) for rows in starts]
    sides = torch.tensor([pyramid[0].shape[0] for pyramid in pyramids])
    return TextureBank(torch.from_numpy(np.concatenate(texels).astype(np.float32)), torch.tensor(padded), sides)


Colour = tuple[float, float, float]  # linear RGB albedo in [0, 1]


@dataclass(frozen=True, eq=False)
class Texture:
    """A seamless texture with its mip maps."""

    levels: tuple[np.ndarray, ...]  # as `mip_maps`
    metres: float  # length of the texture's side on a surface


def texture(image: np.ndarray, metres: float) -> Texture:
    """A texture from a seamless (S, S, 3) image of albedo, S a power of two."""
    side = image.shape[0]
    if image.shape != (side, side, 3) or side & (side - 1):
        raise ValueError(f"a texture needs a square image whose side is a power of two, got {image.shape}")
    return Texture(mip_maps(np.clip(image, 0.01, 0.95)), metres)


def fractal_noise(rng: np.random.Generator, side: int, slope: float = 1.0, stretch: float = 1.0) -> np.ndarray:
    """(side, side) float32 seamless noise, zero mean, unit deviation, amplitude spectrum 1 / f^slope.

    stretch > 1 makes the grain that many times longer along v (wood).
    """
    fy = fft.fftfreq(side)[:, None] * side * stretch
    fx = fft.rfftfreq(side)[None] * side
    frequency = np.maximum(np.hypot(fy, fx), 3.0)  # nothing larger than a third of the tile: a wall is evenly lit
    white = fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    white[0, 0] = 0
    noise = fft.irfft2(white / (frequency**slope).astype(np.float32), s=(side, side))
    return noise / noise.std()


def _tinted(colour: Colour, brightness: np.ndarray) -> np.ndarray:
    return np.array(colour, np.float32) * brightness[..., None].astype(np.float32)


def plaster(
    rng: np.random.Generator, colour: Colour, contrast: float = 0.16, side: int = 1024, metres: float = 4.0
) -> Texture:
    """Painted wall: grain at every scale and some stains."""
    grain = fractal_noise(rng, side, 0.9)
    stains = np.clip(fractal_noise(rng, side, 1.6) - 0.7, 0, None)
    return texture(_tinted(colour, 1 + contrast * grain - 0.12 * stains), metres)


def bricks(rng: np.random.Generator, colour: Colour, side: int = 1024, metres: float = 2.56) -> Texture:
    """Running bond of 24 x 8 cm bricks, every one with a shade of its own."""
    across, down = 10, 32
    y, x = np.mgrid[0:side, 0:side] / side
    row = np.floor(y * down).astype(int)
    shifted = x * across + 0.5 * (row % 2)
    column = np.floor(shifted).astype(int) % across
    shade = 1 + 0.22 * rng.standard_normal((down, across))
    in_row, in_column = (y * down) % 1, shifted % 1
    mortar = (in_row < 0.13) | (in_column < 0.045)
    grain = 1 + 0.2 * fractal_noise(rng, side, 0.8)
    wall = _tinted(colour, shade[row, column] * grain)
    wall[mortar] = _tinted((0.50, 0.48, 0.45), grain)[mortar]
    return texture(cv2.GaussianBlur(wall, (0, 0), 0.8), metres)


def planks(
    rng: np.random.Generator, colour: Colour, boards: int = 10, side: int = 1024, metres: float = 2.0
) -> Texture:
    """Wooden boards along v, with grain and dark joints."""
    y, x = np.mgrid[0:side, 0:side] / side
    board = np.floor(x * boards).astype(int)
    shade = 1 + 0.25 * rng.standard_normal(boards)
    shift = rng.integers(0, side, boards)
    grain = fractal_noise(rng, side, 0.9, stretch=8.0)
    rows = (np.arange(side)[:, None] + shift[board[0]][None]) % side
    grain = np.take_along_axis(grain, rows, axis=0)
    ends = ((y + rng.random(boards)[board]) % 0.5) < 0.004
    wood = _tinted(colour, shade[board] * (1 + 0.22 * grain))
    wood[((x * boards) % 1 < 0.04) | ends] *= 0.35
    return texture(wood, metres)


def tiles(
    rng: np.random.Generator, light: Colour, dark: Colour, across: int = 8, side: int = 1024, metres: float = 3.2
) -> Texture:
    """Checkered stone tiles with worn faces."""
    across = 8
    y, x = np.mgrid[0:side, 0:side] / side * across
    odd = (np.floor(x) + np.floor(y)).astype(int) % 2
    shade = 1 + 0.12 * rng.standard_normal((across, across))[np.floor(y).astype(int), np.floor(x).astype(int)]
    grain = shade * (1 + 0.25 * fractal_noise(rng, side, 1.0))
    floor = np.where(odd[..., None], _tinted(light, grain), _tinted(dark, grain))
    floor[(x % 1 < 0.03) | (y % 1 < 0.03)] *= 0.55
    return texture(floor, metres)


def facade(rng: np.random.Generator, wall: Colour, side: int = 512, metres: float = 6.0) -> Texture:
    """Two floors of a house with three windows each; frames are pale, panes dark and of different shades."""
    y, x = np.mgrid[0:side, 0:side] / side
    across, down = (x * 3) % 1 - 0.5, (y * 2) % 1 - 0.5
    frame = (np.abs(across) < 0.27) & (np.abs(down) < 0.33)
    pane = (np.abs(across) < 0.23) & (np.abs(down) < 0.29) & (np.abs(across) > 0.02)
    shade = rng.uniform(0.4, 1.6, (2, 3))[(y * 2).astype(int), (x * 3).astype(int)]
    grain = 1 + 0.15 * fractal_noise(rng, side, 0.9)
    image = _tinted(wall, grain)
    image[frame] = _tinted((0.70, 0.68, 0.64), grain)[frame]
    image[pane] = _tinted((0.07, 0.09, 0.12), shade * grain)[pane]
    return texture(image, metres)


def fabric(rng: np.random.Generator, colours: Sequence[Colour], side: int = 256, metres: float = 0.5) -> Texture:
    """Woven cloth: a plaid of the given colours, with folds and fluff."""
    palette = np.array(colours, np.float32)
    stripes = palette[rng.integers(0, len(palette), 16)]
    warp = np.repeat(stripes, side // 16, axis=0)
    weft = np.roll(warp, side // 8, axis=0)
    cloth = 0.5 * (warp[None] + weft[:, None])
    relief = 1 + 0.22 * fractal_noise(rng, side, 0.8) + 0.1 * fractal_noise(rng, side, 1.5)
    return texture(cloth * relief[..., None], metres)


def speckle(
    rng: np.random.Generator, colour: Colour, contrast: float = 0.3, side: int = 256, metres: float = 0.6
) -> Texture:
    """Skin, paint, cardboard, carpet: one colour with grain."""
    return texture(_tinted(colour, 1 + contrast * fractal_noise(rng, side, 0.8)), metres)


def poster(rng: np.random.Generator, side: int = 512, metres: float = 1.0) -> Texture:
    """A print with shapes and lines of text."""
    image = np.full((side, side, 3), rng.uniform(100, 230, 3), np.uint8)
    for _ in range(28):
        colour = rng.uniform(8, 230, 3).tolist()
        x, y, size = rng.integers([0, 0, 12], [side, side, side // 4]).tolist()
        if rng.random() < 0.5:
            cv2.circle(image, (x, y), size // 2, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, (x, y), (x + size, y + size // 2), colour, -1)
    for row in range(16, side, 64):
        text = "".join(chr(c) for c in rng.integers(65, 91, 20))
        cv2.putText(image, text, (8, row), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (8, 8, 8), 2, cv2.LINE_AA)
    grain = 1 + 0.06 * fractal_noise(rng, side, 0.8)
    return texture(image.astype(np.float32) / 255 * grain[..., None], metres)


def book_spines(rng: np.random.Generator, side: int = 512, metres: float = 1.0) -> Texture:
    """Three shelves of books."""
    image = np.full((side, side, 3), 0.08, np.float32)
    shelf = side // 3
    for top in range(0, 3 * shelf, shelf):
        x = 0
        while x < side:
            width, height = int(rng.integers(9, 26)), int(shelf * rng.uniform(0.6, 0.86))
            colour = rng.uniform(0.04, 0.7, 3).astype(np.float32)
            spine = image[top + shelf - 12 - height : top + shelf - 12, x + 1 : x + width]
            spine[:] = colour
            spine[height // 6 : height // 6 + 6] = colour[::-1] * 0.5 + 0.3
            x += width
        image[top + shelf - 12 : top + shelf] = (0.30, 0.19, 0.10)
    return texture(image * (1 + 0.1 * fractal_noise(rng, side, 0.8))[..., None], metres)
