"""Memory that runs out: less at once, then less at all, never the same again, and nothing of a failed try is kept."""

import weakref

import cv2
import numpy as np
import pytest
import torch
from helpers_dust3r import one_thread, small_backbone  # noqa: F401

from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.config import PipelineConfig, with_settings
from easi3r_ros.core.out_of_memory import OutOfMemory, attempt, is_out_of_memory
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import Features, Frame, InputSpec, PairEvidence, PairGeometry, Partners

MESSAGES = (
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "MPS backend out of memory (MPS allocated: 8 GB)",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "OpenCV(4.10.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes",
)


def frame(index: int, side: int = 64) -> Frame:
    # A pattern that moves: noise, and images of which nothing is found again, are left out (`core.sight`).
    tiles = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = np.roll(cv2.resize(tiles, (side, side * 3 // 4), interpolation=cv2.INTER_NEAREST), index, axis=1)
    return Frame(index, index * 100_000_000, "camera", image)


class Limited(Backbone):
    """Two numbers decide whether it has the memory: the pairs decoded at once, and all of them."""

    name, input_spec, default_partners = "limited", InputSpec(64), Partners(steps=(1, 2, 3, 4))

    def __init__(self, at_once: int, altogether: int, batch_size: int):
        self.at_once, self.altogether, self.batch_size = at_once, altogether, batch_size
        self.tries: list[tuple[int, int]] = []

    def encode(self, image):
        return Features(image, torch.zeros(1, 1), (1, 1))

    def decode(self, pairs, masks=None):
        self.largest = min(self.batch_size, len(pairs))
        self.tries.append((len(pairs), self.largest))
        if self.largest > self.at_once or len(pairs) > self.altogether:
            raise torch.cuda.OutOfMemoryError("simulated")
        nothing = torch.ones(48, 64)
        points = torch.ones(48, 64, 3)
        return [PairGeometry(a.index, b.index, points, points, nothing, nothing, PairEvidence()) for a, b in pairs]

    def decode_fewer_at_once(self):
        if self.largest < 2:
            return None
        self.batch_size = self.largest // 2
        return self.batch_size


def test_first_fewer_at_once_then_fewer_at_all(caplog):
    backbone = Limited(at_once=8, altogether=4, batch_size=16)
    pipeline = Pipeline(with_settings(PipelineConfig(), {"motion.cue": "geometry"}), backbone)
    for index in range(4):
        pipeline.push(frame(index))
    assert backbone.tries == [(2, 2), (4, 4), (6, 6), (6, 3), (6, 1), (4, 1)]
    backbone.tries.clear()
    pipeline.push(frame(4))
    assert backbone.tries == [(4, 1)], "from then on"
    assert [record.message for record in caplog.records] == [
        "out of memory: pairs are decoded 3 at a time from now on",
        "out of memory: pairs are decoded 1 at a time from now on",
        "out of memory: each frame is paired with 2 others only from now on",
    ]


def test_the_same_is_not_tried_again(caplog):
    """The second frame has one partner, whatever is wished for."""
    backbone = Limited(at_once=8, altogether=0, batch_size=1)
    pipeline = Pipeline(PipelineConfig(), backbone)
    pipeline.push(frame(0))
    with pytest.raises(OutOfMemory, match="too little memory for 2 pairs.*lower preprocess.long_side"):
        pipeline.push(frame(1))
    assert backbone.tries == [(2, 1)] and not caplog.records
    backbone.altogether = 8
    for index in range(2, 6):
        pipeline.push(frame(index))
    assert backbone.tries[-1] == (8, 1), "what could not help was not given up"


@pytest.mark.parametrize(("attention", "fewest"), [(False, 1), (True, 2)])
def test_never_fewer_partners_than_the_statistics_need(attention, fewest):
    backbone = Limited(at_once=8, altogether=8, batch_size=1)
    backbone.has_attention = attention
    pipeline = Pipeline(with_settings(PipelineConfig(), {"motion.cue": "geometry"}), backbone)
    for index in range(5):
        pipeline.push(frame(index))
    backbone.altogether = 0
    with pytest.raises(OutOfMemory, match=f"for {2 * fewest} pairs"):
        pipeline.push(frame(5))


class TestNetwork:
    """A real backbone, whose network has the memory for so many pairs at once."""

    @pytest.fixture
    def backbone(self, monkeypatch):
        backbone = small_backbone(batch_size=16)
        decode = backbone.network.decode
        self.sizes, self.limit, self.held = [], 64, []

        def limited(tokens_a, *args, **options):
            self.sizes.append(len(tokens_a))
            assert not any(reference() is not None for reference in self.held), "the failed try is still in memory"
            activations = torch.zeros(1000)
            if len(tokens_a) > self.limit:
                self.held.append(weakref.ref(activations))
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return decode(tokens_a, *args, **options)

        monkeypatch.setattr(backbone.network, "decode", limited)
        return backbone

    def test_it_depends_on_the_batch(self, backbone, caplog, monkeypatch):
        config = with_settings(PipelineConfig(), {"motion.passes": 1, "motion.memory": 0.0})
        pipeline = Pipeline(config, backbone)
        # Whether such a network's frames have a place is chance, and lost ones are no partners.
        monkeypatch.setattr(pipeline._window, "mark_lost", lambda index: None)
        for index in range(4):
            pipeline.push(frame(index, 80))
        assert self.sizes == [2, 4, 4], "pairs of the frames 0 to 3, of which the last has those with 0 and 2"
        self.limit = 1
        self.sizes.clear()
        result = pipeline.push(frame(4, 80))
        assert self.sizes == [6, 3] + [1] * 6 and len(self.held) == 2
        assert result.window == (0, 1, 2, 3, 4)
        assert [r.message for r in caplog.records if "out of memory" in r.message] == [
            "out of memory: pairs are decoded 3 at a time from now on",
            "out of memory: pairs are decoded 1 at a time from now on",
        ]

    def test_a_failed_second_pass_is_tried_again_with_its_masks(self, backbone, monkeypatch):
        pipeline = Pipeline(with_settings(PipelineConfig(), {"motion.cue": "attention"}), backbone)
        given = []
        decode = backbone._decode_batch

        def masked(pairs, masks):
            given.append(masks)
            self.limit = 2 if masks else 64
            return decode(pairs, masks)

        monkeypatch.setattr(backbone, "_decode_batch", masked)
        for index in range(4):
            pipeline.push(frame(index, 80))
        second = [masks for masks in given if masks]
        assert len(self.held) == 1 and second[0] is second[1]


class TestEncode:
    @pytest.fixture
    def backbone(self, monkeypatch):
        backbone = Limited(8, 8, 8)
        self.failures, self.held = 0, []
        encode = backbone.encode

        def limited(image):
            assert not any(reference() is not None for reference in self.held), "the failed try is still in memory"
            activations = torch.zeros(1000)
            if self.failures:
                self.failures -= 1
                self.held.append(weakref.ref(activations))
                raise RuntimeError("MPS backend out of memory")
            return encode(image)

        monkeypatch.setattr(backbone, "encode", limited)
        return backbone

    def test_once_more_after_giving_back_what_is_unused(self, backbone, monkeypatch, caplog):
        released = []
        monkeypatch.setattr("easi3r_ros.core.pipeline.release_unused", lambda: released.append(1))
        self.failures = 1
        assert Pipeline(PipelineConfig(), backbone).push(frame(0)).window == (0,)
        assert released == [1] and "it is tried once more" in caplog.records[0].message

    def test_then_it_is_said(self, backbone):
        pipeline = Pipeline(PipelineConfig(), backbone)
        self.failures = 2
        with pytest.raises(OutOfMemory, match="encode an image of 64 x 48 pixels: lower preprocess.long_side"):
            pipeline.push(frame(0))
        assert pipeline.push(frame(0)).window == (0,), "and it goes on"


@pytest.mark.parametrize("text", MESSAGES)
def test_how_devices_say_it(text):
    assert is_out_of_memory(RuntimeError(text))


def test_how_this_machine_says_it():
    def too_much():
        return torch.empty(10**17, dtype=torch.uint8)

    with pytest.raises(Exception) as raised:  # noqa: PT011, B017
        too_much()
    assert is_out_of_memory(raised.value) and attempt(too_much) is None
    assert attempt(lambda: np.empty(10**17, np.uint8)) is None


def test_other_errors_are_not_swallowed():
    def broken():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        attempt(broken)
    assert attempt(lambda: []) == []
