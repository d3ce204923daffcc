"""Patterns, palettes and shine of random surfaces, by style; suns, lamps and skies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from easi3r_lab.synthetic import patterns
from easi3r_lab.synthetic.random_worlds import layout as styles
from easi3r_lab.synthetic.random_worlds.layout import Dice
from easi3r_lab.synthetic.worlds import Lights, Materials


@dataclass(frozen=True)
class Style:
    """What the surfaces of one style have in common."""

    patterns: dict[str, float]  # of the library, with weights
    metres: tuple[float, float]  # side of the pattern
    brightness: tuple[float, float]  # of the palette, linear
    saturation: float  # mean
    hue: float | None = None  # in turns, 0: red; None: any
    spread: float = 0.1  # deviation of the hue
    shine: float = 0.0  # how likely it mirrors the sky


_ANY = {
    "noise": 3, "marble": 2, "camouflage": 2, "brickwork": 1, "boards": 1, "checks": 1.5, "stripes": 1.5, "plaid": 1.5,
    "dots": 1, "lettering": 2, "print": 2, "cobbles": 1, "plain": 1,
}  # fmt: skip
_WALLS = {
    "noise": 3, "plain": 4, "brickwork": 2, "marble": 1, "boards": 1, "stripes": 1, "dots": 0.5, "checks": 0.5
}  # fmt: skip
_FLOORS = {"boards": 3, "checks": 3, "noise": 2, "plaid": 1, "cobbles": 1, "marble": 1, "plain": 0.7}
_CLOTHS = {"plaid": 3, "stripes": 2, "noise": 2, "dots": 1, "plain": 1, "camouflage": 1, "print": 0.5}
_METALS = {"plain": 3, "noise": 2, "stripes": 0.5, "print": 0.5, "marble": 0.5}
_PICTURES = {"print": 4, "lettering": 3, "checks": 1, "stripes": 1, "marble": 1, "facade": 1}
_STONES = {"noise": 3, "cobbles": 1.5, "marble": 2, "brickwork": 1, "checks": 0.7}

_STYLES: dict[int, Style] = {
    styles.WALL: Style(_WALLS, (0.8, 4.0), (0.25, 0.85), 0.3, shine=0.1),
    styles.FLOOR: Style(_FLOORS, (0.8, 3.0), (0.12, 0.6), 0.4, hue=0.08, shine=0.25),
    styles.GROUND: Style(
        {"noise": 3, "camouflage": 3, "marble": 2, "cobbles": 1}, (1.5, 7.0), (0.12, 0.5), 0.45, hue=0.2
    ),
    styles.ROAD: Style(
        {"noise": 3, "plain": 1, "cobbles": 1.5, "marble": 1}, (1.0, 4.0), (0.08, 0.35), 0.08, shine=0.2
    ),
    styles.FACADE: Style(
        {"facade": 6, "brickwork": 2, "boards": 1, "plain": 0.5}, (3.0, 9.0), (0.2, 0.75), 0.35, 0.08, 0.12, shine=0.2
    ),
    styles.THING: Style(_ANY, (0.2, 1.5), (0.06, 0.8), 0.6, shine=0.3),
    styles.CLOTH: Style(_CLOTHS, (0.25, 0.9), (0.05, 0.75), 0.55),
    styles.SKIN: Style({"noise": 2, "plain": 2}, (0.3, 0.8), (0.1, 0.6), 0.45, hue=0.06, spread=0.02),
    styles.WOOD: Style({"boards": 4, "noise": 1}, (0.3, 1.5), (0.1, 0.5), 0.55, hue=0.07, spread=0.03, shine=0.25),
    styles.LEAF: Style({"camouflage": 4, "noise": 2}, (0.4, 2.0), (0.08, 0.4), 0.6, hue=0.28, spread=0.07),
    styles.METAL: Style(_METALS, (0.5, 2.5), (0.06, 0.75), 0.55, shine=0.8),
    styles.PICTURE: Style(_PICTURES, (0.4, 1.6), (0.15, 0.85), 0.5, shine=0.25),
    styles.STONE: Style(_STONES, (0.5, 3.0), (0.15, 0.6), 0.2, hue=0.09),
}


@lru_cache(maxsize=1)
def _tables() -> tuple[Tensor, Tensor]:
    """(STYLES, textures) weights of the library's textures, and (STYLES, 8) their numbers."""
    numbers = patterns.numbers()
    weights = torch.zeros(styles.STYLES, max(r.stop for r in numbers.values()))
    ranges = torch.zeros(styles.STYLES, 8)
    for number, style in _STYLES.items():
        for name, weight in style.patterns.items():
            weights[number, list(numbers[name])] = weight / len(numbers[name])
        hue = -1.0 if style.hue is None else style.hue
        ranges[number] = torch.tensor(
            [*style.metres, *style.brightness, hue, style.spread, style.saturation, style.shine]
        )
    return weights, ranges


def random_materials(dice: Dice, style: Tensor, scale: Tensor) -> Materials:
    """One material for every entry of `style` (R,). scale: (R,) factor on the patterns' sizes, for small worlds."""
    weights, ranges = _tables()
    R = len(style)
    low, high, dark, bright, hue, spread, saturation, shine = ranges[style].unbind(-1)
    texture = _pick_rows(dice, weights[style])
    metres = scale * low * (high / low) ** dice.uniform(0, 1, R)
    angle = torch.where(dice.chance(0.8, R), 0.0, dice.uniform(0, 6.3, R))
    first = _palette(dice, hue, spread, saturation, dark, bright)
    others = [
        _palette(dice, torch.where(dice.chance(0.5, R), hue, -1.0), 2 * spread, saturation, dark, bright)
        for _ in range(2)
    ]
    contrast = dice.uniform(0.1, 0.8, R)[:, None]  # of the grain, both ways
    mix = torch.stack([*(c - first for c in others), contrast * first], dim=-1)  # (R, 3, 3), columns per channel
    return Materials(
        texture=texture,
        metres=metres,
        turn=torch.stack([torch.cos(angle), torch.sin(angle)], dim=-1),
        shift=dice.uniform(0, 1, R, 2),
        bias=first * (1 - 0.5 * contrast),
        mix=mix,
        blotches=dice.pick([1.0] * len(patterns.numbers()["noise"]), R),
        blotch=dice.uniform(0, 0.9, R) * dice.chance(0.6, R),
        gloss=dice.uniform(0.1, 0.7, R) * (dice.uniform(0, 1, R) < shine),
    )


def _pick_rows(dice: Dice, weights: Tensor) -> Tensor:
    """(R,) a column for each row, with a probability in proportion to the weights."""
    shares = weights.cumsum(dim=1)
    return torch.searchsorted(shares, dice.uniform(0, 1, len(weights), 1) * shares[:, -1:]).clamp_max(
        weights.shape[1] - 1
    )[:, 0]


def _palette(dice: Dice, hue: Tensor, spread: Tensor, saturation: Tensor, dark: Tensor, bright: Tensor) -> Tensor:
    """(R, 3) linear colours."""
    R = len(hue)
    # People paint and print in warm and in blue tones more often than in green and violet.
    common = torch.tensor([0.07, 0.6])[dice.pick([0.7, 0.3], R)] + 0.06 * dice.normal(R)
    anything = torch.where(dice.chance(0.6, R), common, dice.uniform(0, 1, R))
    turn = torch.where(hue < 0, anything, hue + spread * dice.normal(R))
    saturated = (saturation * dice.uniform(0, 1.6, R)).clamp(0, 0.95)
    value = dark * (bright / dark) ** dice.uniform(0, 1, R)
    angles = 2 * torch.pi * (turn[:, None] - torch.tensor([0.0, 1 / 3, 2 / 3]))
    rgb = 1 - saturated[:, None] * (0.5 - 0.5 * torch.cos(angles)) * 1.3
    return (value[:, None] * rgb).clamp(0.01, 0.95)


def random_lights(dice: Dice, eye: Tensor, target: Tensor, outdoors: Tensor, ceiling: Tensor) -> Lights:
    """A sun where the sky is open, else a lamp above the way from the eye to its target.

    eye, target: (B, 3); outdoors: (B,) bool; ceiling: (B,) height that lamps stay below, metres.
    """
    B = len(eye)
    far = torch.linalg.vector_norm(target - eye, dim=-1, keepdim=True)
    lamp = torch.lerp(eye, target, dice.uniform(0, 0.9, B, 1)) + 0.25 * far * dice.normal(B, 3)
    lamp[:, 2] = torch.minimum(eye[:, 2] + far[:, 0] * dice.uniform(0.3, 0.9, B), ceiling - 0.15)
    azimuth, height = dice.uniform(0, 6.3, B), dice.uniform(0.35, 1.3, B)
    sun = torch.stack([azimuth.cos() * height.cos(), azimuth.sin() * height.cos(), height.sin()], dim=-1)
    warm = 1 + dice.uniform(-0.12, 0.12, B, 1) * torch.tensor([1.0, 0.0, -1.0])
    overcast = dice.chance(0.3, B)
    grey = dice.uniform(0.6, 1.0, B, 1).expand(-1, 3)
    blue = torch.tensor([0.18, 0.36, 0.75]) * dice.uniform(0.7, 1.2, B, 1)
    zenith = torch.where(overcast[:, None], grey, blue)
    horizon = torch.lerp(zenith, torch.tensor([0.85, 0.87, 0.9]).expand(B, 3), dice.uniform(0.4, 0.9, B, 1))
    strength = torch.where(outdoors & overcast, dice.uniform(0.15, 0.5, B), dice.uniform(0.6, 1.3, B))
    ambient = torch.where(outdoors & overcast, dice.uniform(0.55, 0.85, B), dice.uniform(0.2, 0.55, B))
    tint = torch.where(outdoors[:, None], 0.75 + 0.4 * zenith, warm)
    return Lights(
        position=torch.where(outdoors[:, None], sun, lamp),
        sun=outdoors,
        lamp=strength[:, None] * warm,
        ambient=ambient[:, None] * tint,
        reach=far[:, 0] * dice.uniform(0.6, 1.4, B),
        contact=dice.uniform(0.4, 0.8, B),
        shadow=dice.uniform(0.55, 1.0, B) * dice.chance(0.8, B) * torch.where(outdoors & overcast, 0.5, 1.0),
        softness=dice.log_uniform(0.04, 0.7, B),
        zenith=torch.where(outdoors[:, None], zenith, 0.5 * ambient[:, None] * torch.ones(3)),
        horizon=torch.where(outdoors[:, None], horizon, 0.7 * ambient[:, None] * torch.ones(3)),
        clouds=dice.uniform(0, 1, B) * ~overcast,
    )
