"""Suns, lamps and skies of random scenes."""

from __future__ import annotations

import torch
from torch import Tensor

from easi3r_lab.synthetic.random_worlds.dice import Dice
from easi3r_lab.synthetic.worlds import Lights


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
