"""One decode per frame: masks of earlier frames, carried along the flow, stand for a first pass."""

import numpy as np
import pytest
import torch
from easi3r_lab.synthetic import render_clip
from helpers_motion import SimulatedNetwork, frame_of

from easi3r_ros.core.config import PipelineConfig, with_settings
from easi3r_ros.core.motion.carried import carried_motion
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.two_view.flow import Flow, node_pixels
from easi3r_ros.core.types import MotionEstimate

HEIGHT, WIDTH = 48, 64


def shifted(u: float, v: float) -> Flow:
    nodes = node_pixels(HEIGHT, WIDTH)
    target = nodes + np.float32([u, v])[:, None, None]
    return Flow((WIDTH, HEIGHT), target, np.zeros((3, *nodes.shape[1:]), np.float32), np.zeros(nodes.shape[1:]))


@pytest.mark.parametrize("scale", [1, 2])
def test_a_mask_goes_where_the_flow_says(scale):
    """Also where the network's image is larger than the flow's."""
    mask = torch.zeros(scale * HEIGHT, scale * WIDTH, dtype=torch.bool)
    mask[scale * 20 : scale * 30, scale * 10 : scale * 20] = True
    cells = np.zeros((HEIGHT // 2, WIDTH // 2), bool)
    cells[10:15, 5:10] = True
    earlier = MotionEstimate(0, mask.float(), mask, cells=cells)
    carried = carried_motion(1, earlier, shifted(-8.0, 4.0))  # it came from 8 pixels to the left and 4 down
    expected = torch.zeros_like(mask)
    expected[scale * 16 : scale * 26, scale * 18 : scale * 28] = True
    assert (carried.mask ^ expected).float().mean() < 0.01 and carried.index == 1
    there = np.zeros_like(cells)
    there[8:13, 9:14] = True
    assert np.array_equal(carried.cells, there)
    assert not carried_motion(1, earlier, shifted(-200.0, 0.0)).mask.any()
    unknown = MotionEstimate(0, mask.float(), mask)
    assert carried_motion(1, unknown, shifted(0.0, 0.0)).cells is None


@pytest.mark.parametrize("cue", ["attention", "fused"])
def test_a_single_pass_decodes_once_with_masks_and_finds_nearly_the_same(cue):
    clip = render_clip("tabletop", seed=0, frames=8, size=(192, 144), rate=15.0)
    overlaps, calls = {}, {}
    for passes in (2, 1):
        network, given = SimulatedNetwork(clip), []
        decode = network.decode
        network.decode = lambda pairs, masks=None, decode=decode, given=given: given.append(masks) or decode(pairs)
        pipeline = Pipeline(with_settings(PipelineConfig(), {"motion.cue": cue, "motion.passes": passes}), network)
        found = [pipeline.push(frame_of(clip, i)).mask for i in range(len(clip))]
        overlaps[passes] = np.mean([iou(x, y) for x, y in zip(found[4:], clip.masks[4:], strict=True)])
        calls[passes] = given
    assert len(calls[1]) == len(clip) - 1 < len(calls[2])
    assert {7, 6, 4} <= set(calls[1][-1]), "the new frame and its partners"
    assert iou(calls[1][-1][7].numpy(), clip.masks[7]) > (0.3 if cue == "attention" else 0.5)  # few, large tokens
    assert overlaps[1] > overlaps[2] - 0.05, overlaps


def iou(found, truth) -> float:
    return float((found & truth).sum() / max((found | truth).sum(), 1))
