"""The still worlds of a batch of scenes, each of a family drawn by chance."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from easi3r_lab.synthetic import solids
from easi3r_lab.synthetic.random_worlds.dice import Dice
from easi3r_lab.synthetic.random_worlds.families import FAMILIES
from easi3r_lab.synthetic.random_worlds.layout import RoomLayout


@dataclass(frozen=True)
class StillWorlds:
    layout: RoomLayout
    eye: Tensor  # (B, 3) of the camera half way
    target: Tensor  # (B, 3) looked at half way
    outdoors: Tensor  # (B,) bool
    bodies: Tensor  # (B, 3) how likely what moves is a person, a car, a thing
    life_size: Tensor  # (B, 2) bool: people, cars; else they are toys

    def ground(self, place: Tensor) -> Tensor:
        """(B, G) height of the ground below points (B, G, 3)."""
        hilly = self.layout.kind[:, :1] == solids.TERRAIN
        size = [self.layout.size[:, :1, k] for k in range(4)]
        size[1] = torch.where(hilly, size[1], 1.0)
        return torch.where(hilly, solids.hills(size, place[..., 0], place[..., 1]), 0.0)


def random_still_worlds(dice: Dice, count: int) -> StillWorlds:
    family = dice.pick([share for _, share in FAMILIES], count)
    made = [make(dice, int((family == k).sum())) for k, (make, _) in enumerate(FAMILIES) if bool((family == k).any())]
    order = torch.argsort(torch.argsort(family, stable=True), stable=True)  # back from family by family
    return StillWorlds(
        RoomLayout(
            *(_padded([getattr(one.layout, field.name) for one in made])[order] for field in fields(RoomLayout))
        ),
        *(torch.cat([getattr(one, name) for one in made])[order] for name in ("eye", "target", "outdoors")),
        *(
            torch.cat([torch.tensor(getattr(one, name)).expand(len(one.eye), -1) for one in made])[order]
            for name in ("bodies", "life_size")
        ),
    )


def _padded(tensors: list[Tensor]) -> Tensor:
    """Concatenated along the scenes, with empty slots up to the longest along the parts."""
    most = max(t.shape[1] for t in tensors)
    padded = []
    for t in tensors:
        filler = torch.zeros((t.shape[0], most - t.shape[1], *t.shape[2:]), dtype=t.dtype)
        if t.dim() == 4:
            filler = filler + torch.eye(4)
        padded.append(torch.cat([t, filler], dim=1))
    return torch.cat(padded)
