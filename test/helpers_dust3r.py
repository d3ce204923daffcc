"""Small networks with generated weights, and frames for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from easi3r_ros.core.config import BackboneConfig
from easi3r_ros.core.dust3r.generated import generated_network
from easi3r_ros.core.dust3r.inference import Dust3rBackbone
from easi3r_ros.core.dust3r.network import NetworkConfig
from easi3r_ros.core.types import Frame, ImageTransform, NetworkInput

GOLDEN = Path(__file__).parent / "data" / "golden"
SMALL = NetworkConfig(
    encoder_width=32, encoder_depth=2, encoder_heads=2, decoder_width=32, decoder_depth=4, decoder_heads=2
)
SMALL_LINEAR = NetworkConfig(**{**SMALL.__dict__, "head": "linear"})


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small gain nothing from threads, and lose much where other tests keep the cores busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):  # scikit-learn's and NumPy's
        yield
    torch.set_num_threads(before)


def noise_images(count: int, height: int, width: int, seed: int = 0) -> list[NetworkInput]:
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    transform = ImageTransform((width, height), (width, height), (0, 0), (width, height))
    return [NetworkInput(Frame(i, i, "camera", image), image, None, transform) for i, image in enumerate(images)]


def small_backbone(config: NetworkConfig = SMALL_LINEAR, **settings) -> Dust3rBackbone:
    return Dust3rBackbone(generated_network(config), BackboneConfig(device="cpu", **settings))
