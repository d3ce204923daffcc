"""The fast ways of computing give what those give that they stand for.

`mode: paper` groups every window from scratch, `stream` goes on with the groups of the window before. Where groups are
plain, both find them, and the masks are the same. Where 64 groups are cut out of what has none, k-means with another
seed gives other ones, and masks differ by as much (docs/performance.md).
"""

import numpy as np
import pytest
import torch
from easi3r_lab.eval.fast_path import agreement, masks_of
from easi3r_lab.synthetic import render_clip
from helpers_dust3r import one_thread  # noqa: F401
from helpers_motion import SimulatedNetwork

from easi3r_ros.core.types import Features

PAPER = {"motion.mode": "paper"}
GROUPS = 6


class PlainGroups(SimulatedNetwork):
    """Tokens of one mover and of things in the background, as a trained encoder has them: groups far apart."""

    def encode(self, image):
        features = super().encode(image)
        moving = self._tokens(self.clip.masks[image.frame.index]).flatten() > 0.5
        columns = torch.arange(features.grid[1]).repeat(features.grid[0]) * (GROUPS - 1) // features.grid[1]
        group = torch.where(moving, GROUPS - 1, columns)
        noise = torch.randn(len(group), GROUPS, generator=torch.Generator().manual_seed(image.frame.index))
        return Features(image, 10.0 * torch.eye(GROUPS)[group] + 0.1 * noise, features.grid)


@pytest.fixture(scope="module")
def clip():
    return render_clip("walkers", seed=3, frames=9, size=(256, 192), rate=10.0)


@pytest.mark.parametrize("cue", ["attention", "fused"])
def test_stream_and_paper_agree(clip, cue):
    settings = {"motion.cue": cue, "motion.clusters": GROUPS}
    found = agreement(clip, lambda: PlainGroups(clip), settings, settings | PAPER)
    assert found.iou >= 0.98, found
    assert found.first > 0.3 and abs(found.first - found.second) < 0.02


def test_masks_that_differ_are_seen(clip):
    settings = {"motion.cue": "fused", "motion.clusters": GROUPS}
    assert agreement(clip, lambda: PlainGroups(clip), settings, settings | {"motion.threshold": 0.97}).iou < 0.9
    assert len(masks_of(clip, PlainGroups(clip), settings)) == len(clip) and np.isfinite(clip.depth).all()
