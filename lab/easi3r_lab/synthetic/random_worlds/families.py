"""The families of surroundings, and how often each is drawn."""

from __future__ import annotations

from collections.abc import Callable

from easi3r_lab.synthetic.random_worlds.dice import Dice
from easi3r_lab.synthetic.random_worlds.rooms import room
from easi3r_lab.synthetic.random_worlds.streets import street
from easi3r_lab.synthetic.random_worlds.things import Surroundings
from easi3r_lab.synthetic.random_worlds.wilds import clutter, terrain

FAMILIES: tuple[tuple[Callable[[Dice, int], Surroundings], float], ...] = (
    (room, 0.36),
    (street, 0.2),
    (terrain, 0.14),
    (clutter, 0.3),
)
