"""Scenes by name. A preset is a function (rng, duration in seconds) -> Scene; add it to PRESETS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from easi3r_lab.synthetic.presets import living_room, street, tabletop
from easi3r_lab.synthetic.scene import Scene

PRESETS: dict[str, Callable[[np.random.Generator, float], Scene]] = {
    "static": living_room.static,
    "walkers": living_room.walkers,
    "tabletop": tabletop.tabletop,
    "patrol": living_room.patrol,
    "traffic": street.traffic,
    "handheld": living_room.handheld,
    "crowd": living_room.crowd,
}


def build_scene(preset: str, seed: int, duration: float) -> Scene:
    """The scene `preset` with everything random drawn from `seed`. Raises ValueError for an unknown preset."""
    if preset not in PRESETS:
        raise ValueError(f"unknown preset '{preset}'; known: {', '.join(PRESETS)}")
    return PRESETS[preset](np.random.default_rng(seed), duration)
