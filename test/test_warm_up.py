"""What is done before the first frame: once per shape of images, only where it gains something, and never later."""

import cv2
import numpy as np
import pytest
import torch

from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.config import PipelineConfig, with_settings
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import Features, Frame, InputSpec, PairEvidence, PairGeometry, Partners

CONFIG = with_settings(PipelineConfig(), {"motion.cue": "geometry", "motion.passes": 2})


class Told(Backbone):
    """Writes down what it is asked for."""

    name, input_spec, default_partners = "told", InputSpec(64, 16, False), Partners(steps=(1, 3, 5))
    gains_from_warm_up = True

    def __init__(self, error: Exception | None = None):
        self.error, self.told = error, []

    def warm_up(self, size, pairs):
        self.told.append(("warm_up", size, pairs))
        if self.error is not None:
            raise self.error

    def encode(self, image):
        self.told.append("encode")
        return Features(image, torch.zeros(1, 1), (1, 1))

    def decode(self, pairs, masks=None):
        shape = pairs[0][0].input.image.shape[:2]
        one, points = torch.ones(shape), torch.ones(*shape, 3)
        return [PairGeometry(a.index, b.index, points, points, one, one, PairEvidence()) for a, b in pairs]


def frame(index: int, width: int, height: int) -> Frame:
    # A pattern that moves: noise, and images of which nothing is found again, are left out (`core.sight`).
    tiles = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = np.roll(cv2.resize(tiles, (width, height), interpolation=cv2.INTER_NEAREST), index, axis=1)
    return Frame(index, index * 100_000_000, "camera", image)


def test_the_usual_cameras_have_no_first_frame_to_wait_for():
    backbone = Told()
    pipeline = Pipeline(CONFIG, backbone)
    pipeline.warm_up()
    assert backbone.told == [("warm_up", (32, 64), 6), ("warm_up", (48, 64), 6)]
    for index in range(3):
        pipeline.push(frame(index, 320, 240))
    assert backbone.told[2:] == ["encode"] * 3


def test_another_shape_is_warmed_up_for_before_its_first_frame_and_never_again():
    backbone = Told()
    pipeline = Pipeline(CONFIG, backbone)
    for _ in range(2):
        for index in range(3):
            pipeline.push(frame(index, 400, 100))
        pipeline.reset()
    assert backbone.told == [("warm_up", (16, 64), 6), *["encode"] * 6]


def test_who_gains_nothing_is_not_asked():
    backbone = Told()
    backbone.gains_from_warm_up = False
    pipeline = Pipeline(CONFIG, backbone)
    pipeline.warm_up()
    pipeline.push(frame(0, 320, 240))
    assert backbone.told == ["encode"]


def test_too_little_memory_to_warm_up_is_no_end(caplog):
    backbone = Told(torch.cuda.OutOfMemoryError("simulated"))
    pipeline = Pipeline(CONFIG, backbone)
    pipeline.push(frame(0, 320, 240))
    assert "out of memory while warming up for images of 64 x 48 pixels" in caplog.text
    assert backbone.told[1:] == ["encode"]


def test_a_broken_network_is_found_before_the_first_frame():
    with pytest.raises(FloatingPointError, match="no numbers"):
        Pipeline(CONFIG, Told(FloatingPointError("the answers are no numbers"))).warm_up()
