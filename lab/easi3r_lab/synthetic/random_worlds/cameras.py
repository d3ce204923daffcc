"""Smooth random ways of cameras: carried by hand, driving, orbiting, turning, still."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from easi3r_lab.synthetic.random_worlds.dice import Dice
from easi3r_lab.synthetic.random_worlds.layout import rigid, turn_by

HANDHELD, DRIVING, ORBITING, TURNING, STILL = range(5)
_SHARES = [0.32, 0.18, 0.3, 0.12, 0.08]
_MOST_TURN, _MOST_STEP_TURN = math.radians(40), math.radians(12)


def look_at(eye: Tensor, target: Tensor, roll: Tensor) -> Tensor:
    """(B, 4, 4) world_from_cam of optical frames (x right, y down, z forward); roll: (B,) radians off upright."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    return rigid(rotation @ turn_by(roll[:, None] * torch.tensor([0.0, 0.0, 1.0])), eye)


def random_focals(dice: Dice, count: int) -> Tensor:
    """(B,) focal lengths as share of the image's width: horizontal fields of view of 40 to 110 degrees."""
    return 0.5 / torch.tan(torch.deg2rad(dice.uniform(40, 110, count)) / 2)


def random_times(dice: Dice, count: int, views: int) -> Tensor:
    """(B, V) seconds around the middle of each clip, at somewhat irregular steps of 0.05 to 0.4 s."""
    step = dice.log_uniform(0.05, 0.4, count, 1)
    return step * (torch.arange(views) - (views - 1) / 2 + dice.uniform(-0.2, 0.2, count, views))


def random_ways(dice: Dice, middle: Tensor, distance: Tensor, steps: Tensor, focal: Tensor) -> Tensor:
    """(B, V, 4, 4) world_from_cam, each near `middle` half way.

    middle: (B, 4, 4); distance: (B,) median depth, of which a step is 3 to 12 %; steps: (B, V) time in mean steps, 0
    half way; focal: (B,) share of the width.
    """
    B, V = steps.shape
    manner = dice.pick(_SHARES, B)[:, None]
    length = (distance * dice.uniform(0.03, 0.12, B))[:, None]
    hand = torch.nn.functional.normalize(dice.normal(B, 3) * torch.tensor([1.0, 0.5, 0.7]), dim=-1)
    drive = torch.nn.functional.normalize(0.15 * dice.normal(B, 3) + torch.tensor([0.0, 0.0, 1.0]), dim=-1)
    drive = drive * torch.where(dice.chance(0.8, B, 1), 1.0, -1.0)
    orbit = torch.nn.functional.normalize(dice.normal(B, 3) * torch.tensor([1.0, 0.35, 0.1]), dim=-1)
    towards = torch.where(manner == HANDHELD, hand, torch.where(manner == DRIVING, drive, orbit))
    velocity = towards * length * (manner < TURNING)  # (B, 3) per step, in the middle camera's frame
    pivot = distance[:, None] * dice.uniform(0.7, 1.3, B, 1)
    around = torch.stack([velocity[:, 1], -velocity[:, 0], torch.zeros(B)], dim=-1) / pivot
    free = torch.deg2rad(dice.normal(B, 3) * torch.tensor([1.2, 2.5, 1.0]))
    swept = torch.deg2rad(dice.sign(B, 1) * dice.uniform(2, 12, B, 1)) * torch.tensor([0.0, 1.0, 0.0]) + 0.3 * free
    turn = torch.where(manner == ORBITING, around + 0.3 * free, torch.where(manner == TURNING, swept, free))
    turn = _limited(turn, V, focal) * (manner != STILL)
    bend = 0.06 * length[:, None] * dice.normal(B, 1, 3) * (manner < TURNING)[..., None]
    shake = dice.uniform(0, 0.04, B, 1, 1) * (manner[..., None] == HANDHELD)
    t = steps[..., None]
    place = velocity[:, None] * t + bend * t**2 + shake * length[:, None] * dice.normal(B, V, 3)
    rotation = turn_by(turn[:, None] * t + shake * 0.15 * dice.normal(B, V, 3))
    return middle[:, None] @ rigid(rotation, place)


def _limited(turn: Tensor, views: int, focal: Tensor) -> Tensor:
    """Turns per step, such that the first and the last view still overlap."""
    angle = torch.linalg.vector_norm(turn, dim=-1, keepdim=True)
    whole = torch.minimum(torch.tensor(_MOST_TURN), 1.1 * torch.atan(0.5 / focal))[:, None]
    most = (whole / max(views - 1, 1)).clamp_max(_MOST_STEP_TURN)
    return turn * (most / angle.clamp_min(1e-6)).clamp_max(1.0)
