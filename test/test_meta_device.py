"""Full-size tensors stay where they are: on `meta`, which has shapes but no values, every word to the host fails."""

import pytest
import torch
from helpers_dust3r import SMALL, SMALL_LINEAR, one_thread  # noqa: F401

from easi3r_ros.core.dust3r.inference import normalised_image, token_masks
from easi3r_ros.core.dust3r.network import Dust3rNetwork, changed_by_mask
from easi3r_ros.core.motion.attention import RunningThreshold, attention_motion
from easi3r_ros.core.motion.clustering import Histogram, TokenClusters
from easi3r_ros.core.motion.statistics import WINDOW_SCOPE, RunningStatistics, fuse_summaries
from easi3r_ros.core.types import PairAttention

GRID, SIZE = (3, 5), (48, 80)
FRAMES = (0, 1, 2)
EDGES = [(a, b) for a in FRAMES for b in FRAMES if a != b]


class Tokens:
    def __init__(self, tokens):
        self.tokens = tokens


@pytest.fixture(params=[SMALL, SMALL_LINEAR], ids=["dpt", "linear"])
def network(request):
    with torch.device("meta"):
        return Dust3rNetwork(request.param)


@torch.inference_mode()
def test_the_network_and_the_motion_say_no_word_to_the_host(network):
    images = torch.empty(len(FRAMES), *SIZE, 3, dtype=torch.uint8, device="meta")
    tokens = network.encode(normalised_image(images))
    a, b = (torch.stack([tokens[edge[side]] for edge in EDGES]) for side in (0, 1))
    masks = token_masks(torch.empty(len(EDGES), *SIZE, dtype=torch.bool, device="meta"), 16)
    statistics, clusters, threshold = RunningStatistics(), TokenClusters(8), RunningThreshold()
    features = {frame: Tokens(tokens[frame]) for frame in FRAMES}
    for given in (None, (masks, masks)):
        decoded = network.decode(a, b, GRID, given)
        pairs = {
            edge: PairAttention(source, reference)
            for edge, source, reference in zip(EDGES, decoded.source, decoded.reference, strict=True)
        }
        maps, _ = fuse_summaries(statistics.update(pairs, FRAMES), WINDOW_SCOPE)
        motion = attention_motion(maps, features, clusters.assign, 8, SIZE)
        for best in (threshold.update(motion), Histogram.of(motion.upsampled).best_threshold()):
            mask = motion.upsampled > best
            assert mask.shape == (len(FRAMES), *SIZE) and mask.device.type == "meta"
    assert changed_by_mask(masks, masks).shape == (len(EDGES),)
    points_a, _, _, conf_b = network.pointmaps(decoded, 2)
    assert points_a.shape == (len(EDGES), *SIZE, 3) and conf_b.device.type == "meta"


def test_a_word_to_the_host_would_be_seen():
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(torch.empty(3, device="meta").sum())
