"""Scenes without colours, of which the usable ones are chosen."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from easi3r_lab.synthetic.random_worlds import cameras
from easi3r_lab.synthetic.random_worlds.bodies import BODIES, SLOTS, Limbs, Travel, poses_of_parts
from easi3r_lab.synthetic.random_worlds.dice import Dice
from easi3r_lab.synthetic.random_worlds.layout import RoomLayout
from easi3r_lab.synthetic.random_worlds.placing import place_bodies
from easi3r_lab.synthetic.random_worlds.probe import median_depth, probe_K
from easi3r_lab.synthetic.random_worlds.still import StillWorlds, random_still_worlds


@dataclass(frozen=True)
class Candidates:
    """The first BODIES * SLOTS parts are those of the bodies, the others the still world."""

    still: StillWorlds
    layout: RoomLayout
    limbs: Limbs
    wears: Tensor  # (B, P) part whose material each part has
    travel: Travel
    part_moves: Tensor  # (B, P) bool
    focal: Tensor  # (B,) share of the image's width
    seconds: Tensor  # (B, V)
    world_from_cam: Tensor  # (B, V, 4, 4)

    def __getitem__(self, rows: Tensor) -> Candidates:
        """Some of the scenes."""
        return _rows(self, rows)

    def body(self) -> Tensor:
        """(P,) number of each part's body; BODIES: the still world."""
        world = torch.full((self.still.layout.kind.shape[1],), BODIES)
        return torch.cat([torch.arange(BODIES).repeat_interleave(SLOTS), world])

    def world_from_part(self) -> Tensor:
        """(B, V, P, 4, 4)."""
        B, V = self.seconds.shape
        bodies = torch.cat([self.travel.poses(self.seconds), torch.eye(4).expand(B, V, 1, 4, 4)], dim=2)
        return poses_of_parts(self.layout, self.limbs, bodies, self.body(), self.seconds, self.part_moves)


def _rows(value, rows: Tensor):
    if isinstance(value, Tensor):
        return value[rows]
    return type(value)(*(_rows(getattr(value, field.name), rows) for field in fields(value)))


def random_candidates(dice: Dice, count: int, views: int, size: tuple[int, int]) -> Candidates:
    """size: (W, H) of the images."""
    still = random_still_worlds(dice, count)
    middle = cameras.look_at(still.eye, still.target, 0.06 * dice.normal(count))
    focal = cameras.random_focals(dice, count)
    distance = median_depth(still.layout, middle, probe_K(focal, size))
    seconds = cameras.random_times(dice, count, views)
    step = (seconds[:, -1] - seconds[:, 0]) / max(views - 1, 1)
    step = torch.where(step > 0, step, 0.1)
    ways = cameras.random_ways(dice, middle, distance, seconds / step[:, None], focal)
    placed = place_bodies(dice, still, middle, distance, focal, step)
    P = still.layout.kind.shape[1]
    stiff = Limbs(torch.zeros(count, P, 3), *(torch.zeros(count, P) for _ in range(3)))
    return Candidates(
        still=still,
        layout=RoomLayout.joined([placed.layout, still.layout]),
        limbs=Limbs(*(torch.cat([getattr(placed.limbs, f.name), getattr(stiff, f.name)], 1) for f in fields(Limbs))),
        wears=torch.cat([placed.wears, BODIES * SLOTS + torch.arange(P).expand(count, -1)], dim=1),
        travel=placed.travel,
        part_moves=torch.cat(
            [placed.moves.repeat_interleave(SLOTS, dim=1), torch.zeros(count, P, dtype=torch.bool)], dim=1
        ),
        focal=focal,
        seconds=seconds,
        world_from_cam=ways,
    )
