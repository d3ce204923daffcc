"""The refinement beside the pipeline, with stand-ins of the same interface as SAM 2's."""

import sys
import threading
import time
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from easi3r_ros import libraries
from easi3r_ros.core import pipeline as pipeline_module
from easi3r_ros.core.config import ConfigError, MotionConfig, PipelineConfig, with_settings
from easi3r_ros.core.motion.refiner import FORGET, REFRESH, MaskRefiner
from easi3r_ros.core.motion.sam2_tracker import PROMPTS, TRACKED, Sam2Tracker, config_of, load_sam2
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import Frame
from easi3r_ros.libraries import MissingLibrary

SHAPE = (12, 16)
PATIENCE = 5.0  # seconds, for a thread that has nothing else to do


def frame(index):
    return Frame(index, index * 10, "camera", np.full((*SHAPE, 3), index % 250, np.uint8))


def square(left=2, width=6):
    mask = np.zeros(SHAPE, bool)
    mask[3:9, left : left + width] = True
    return mask


NOTHING = np.zeros(SHAPE, bool)


class StandIn:
    """Answers with `mask`; tells what it was asked; waits at the gate, if it is closed."""

    def __init__(self, mask=None):
        self.mask = square(3) if mask is None else mask
        self.calls = []
        self.gate = threading.Event()
        self.gate.set()

    def _answer(self, name, image):
        self.gate.wait(PATIENCE)
        self.calls.append((name, int(image[0, 0, 0])))
        return self.mask

    def prompt(self, image, mask):
        return self._answer("prompt", image)

    def track(self, image):
        return self._answer("track", image)

    def forget(self):
        self.calls.append(("forget", -1))


def settled(refiner, index, mask):
    """As the pipeline does it for one image."""
    refiner.see(frame(index))
    return refiner.settle(frame(index), mask)


def finish(refiner):
    """Until the thread has nothing left to do."""
    with refiner._changed:
        assert refiner._changed.wait_for(lambda: not refiner._working, PATIENCE)


def test_its_mask_replaces_ours_once_it_follows():
    tracker = StandIn()
    refiner = MaskRefiner(tracker, wait=PATIENCE)
    ours = square()
    assert settled(refiner, 0, NOTHING) is NOTHING  # nothing to follow
    assert settled(refiner, 1, ours) is ours  # it is told what to follow only now
    for index in (2, 3):
        assert settled(refiner, index, ours) is tracker.mask
    assert tracker.calls == [("prompt", 1), ("track", 2), ("track", 3)]


def test_it_never_waits_unless_it_is_told_to():
    tracker = StandIn()
    refiner = MaskRefiner(tracker)
    ours = square()
    settled(refiner, 0, ours)
    finish(refiner)
    tracker.gate.clear()
    refiner.see(frame(1))
    while refiner._in_hand is None:
        time.sleep(0.001)
    assert refiner.settle(frame(1), ours) is ours
    for index in range(2, 6):  # the newest wins
        assert settled(refiner, index, ours) is ours
    tracker.gate.set()
    finish(refiner)
    assert tracker.calls == [("prompt", 0), ("track", 1), ("track", 5)]
    refiner.see(frame(6))
    finish(refiner)
    assert refiner.settle(frame(6), ours) is tracker.mask  # in time, without waiting


def test_what_disagrees_is_not_used_and_is_shown_our_mask_again():
    tracker = StandIn(square(10))
    refiner = MaskRefiner(tracker, wait=PATIENCE)
    ours = square(0)
    for index in range(3):
        assert settled(refiner, index, ours) is ours
    finish(refiner)
    assert [call for call in tracker.calls if call[0] == "prompt"] == [("prompt", 0), ("prompt", 1), ("prompt", 2)]
    assert settled(refiner, 3, NOTHING) is NOTHING  # whatever it says: nothing was seen to move


def test_what_came_too_late_is_judged_all_the_same():
    tracker = StandIn(square(10))
    refiner = MaskRefiner(tracker)
    ours = square(0)
    settled(refiner, 0, ours)
    finish(refiner)
    tracker.gate.clear()
    assert settled(refiner, 1, ours) is ours
    tracker.gate.set()
    finish(refiner)
    assert refiner.settle(frame(2), ours) is ours
    finish(refiner)
    assert [call for call in tracker.calls if call[0] == "prompt"] == [("prompt", 0), ("prompt", 1), ("prompt", 2)]
    for index in range(3, 60):  # never an answer: nothing piles up
        refiner.settle(frame(index), ours)
    assert len(refiner._ours) <= 30


def test_memory_is_refreshed_and_forgotten():
    tracker = StandIn()
    refiner = MaskRefiner(tracker, wait=PATIENCE)
    for index in range(REFRESH + 1):
        settled(refiner, index, square())
    for index in range(REFRESH + 1, REFRESH + 1 + FORGET + 3):
        settled(refiner, index, NOTHING)
    finish(refiner)
    assert [call for call in tracker.calls if call[0] == "prompt"] == [("prompt", 0), ("prompt", REFRESH)]
    assert tracker.calls[-1] == ("forget", -1)
    assert tracker.calls[-2] == ("track", REFRESH + FORGET)


def test_a_reset_starts_anew():
    tracker = StandIn()
    refiner = MaskRefiner(tracker, wait=PATIENCE)
    for index in range(3):
        settled(refiner, index, square())
    refiner.reset()
    finish(refiner)
    ours = square()
    assert settled(refiner, 0, ours) is ours
    assert settled(refiner, 1, ours) is tracker.mask
    assert tracker.calls[-3:] == [("forget", -1), ("prompt", 0), ("track", 1)]


def test_a_failure_is_said_once_and_ours_stay(caplog):
    tracker = StandIn(np.zeros((2, 2), bool))
    refiner = MaskRefiner(tracker, wait=PATIENCE)
    ours = square()
    for index in range(4):
        assert settled(refiner, index, ours) is ours
    (record,) = caplog.records
    assert "masks are no longer refined (ValueError: a mask must be (12, 16) bool" in record.getMessage()


class Predictor:
    """What of SAM2VideoPredictor is used, with its bookkeeping: answers where the image is bright."""

    image_size, device = 8, "cpu"

    def init_state(self, folder):
        state = {"images": [None], "num_frames": 1, "cached_features": {0: "the JPEG's"}}
        lists = ("output_dict_per_obj", "mask_inputs_per_obj", "frames_tracked_per_obj")
        return state | {name: {0: {}} for name in lists} | {"temporary": {}}

    def _outputs(self, state, kind):
        outputs = state["output_dict_per_obj"][0]
        outputs.setdefault("cond_frame_outputs", {})
        outputs.setdefault("non_cond_frame_outputs", {})
        return outputs[kind]

    def add_new_mask(self, state, number, obj, mask):
        assert mask.dtype == torch.bool and not state["cached_features"]
        state["temporary"][number] = mask
        state["mask_inputs_per_obj"][0][number] = mask
        return number, [obj], torch.where(mask, 1.0, -1.0)[None, None]

    def propagate_in_video_preflight(self, state):
        self._outputs(state, "cond_frame_outputs").update(state["temporary"])
        state["temporary"].clear()

    def propagate_in_video(self, state, start, max_frame_num_to_track):
        assert max_frame_num_to_track == 0 and start < state["num_frames"]
        assert self._outputs(state, "cond_frame_outputs")
        self._outputs(state, "non_cond_frame_outputs")[start] = "memory"
        state["frames_tracked_per_obj"][0][start] = {"reverse": False}
        self.seen = state["images"][start]
        yield start, [1], (self.seen.mean(0) > 0).float()[None, None] - 0.5


def test_the_endless_video_stays_small():
    predictor = Predictor()
    tracker = Sam2Tracker(predictor)
    dark, bright = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    for turn in range(8):
        np.testing.assert_array_equal(tracker.prompt(dark, np.eye(8, dtype=bool)), np.eye(8, dtype=bool))
        for _ in range(5):
            assert tracker.track(bright).all() and not tracker.track(dark).any()
        assert turn or len(tracker._state["images"]) == 1
    state = tracker._state
    outputs = state["output_dict_per_obj"][0]
    assert list(outputs["cond_frame_outputs"]) == [11 * turn for turn in range(4, 8)] and PROMPTS == 4
    assert list(outputs["non_cond_frame_outputs"]) == sorted(outputs["non_cond_frame_outputs"])[-TRACKED:]
    assert len(outputs["non_cond_frame_outputs"]) == TRACKED
    assert set(state["frames_tracked_per_obj"][0]) == set(outputs["non_cond_frame_outputs"])
    assert set(state["mask_inputs_per_obj"][0]) == set(outputs["cond_frame_outputs"])
    np.testing.assert_allclose(
        predictor.seen[:, 0, 0], -np.array([0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], rtol=1e-5
    )
    tracker.forget()
    tracker.prompt(dark, np.eye(8, dtype=bool))
    assert list(tracker._state["images"]) == [0]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("sam2.1_hiera_tiny.pt", "configs/sam2.1/sam2.1_hiera_t.yaml"),
        ("sam2_hiera_base_plus.pt", "configs/sam2/sam2_hiera_b+.yaml"),
    ],
)
def test_the_configuration_follows_from_the_name(tmp_path, name, config):
    assert config_of(tmp_path / name) == config


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match="'motion.sam2_checkpoint' must name its checkpoint"):
        load_sam2(MotionConfig(refine="sam2"), cpu)
    with pytest.raises(ConfigError, match="there is no file '.*absent.pt'; nothing is downloaded"):
        load_sam2(MotionConfig(refine="sam2", sam2_checkpoint=str(tmp_path / "absent.pt")), cpu)
    mine = tmp_path / "mine.pt"
    mine.write_bytes(b"?")
    with pytest.raises(ConfigError, match="the name 'mine.pt' does not say which it is"):
        load_sam2(MotionConfig(refine="sam2", sam2_checkpoint=str(mine)), cpu)
    monkeypatch.setitem(sys.modules, "sam2", None)
    named = MotionConfig(refine="sam2", sam2_checkpoint=str(mine), sam2_config="x.yaml")
    with pytest.raises((MissingLibrary, ModuleNotFoundError), match="sam2"):
        load_sam2(named, cpu)
    (library,) = (item for item in libraries.LARGE if item.module == "sam2")
    assert "motion.refine sam2 needs it" in libraries.sentence(library)


def test_the_package_is_asked_for_a_prompt_and_its_errors_are_sentences(tmp_path, monkeypatch):
    asked = {}

    def build(config, checkpoint, device, **rest):
        asked.update(config=config, device=device, **rest)
        if "broken" in checkpoint:
            raise RuntimeError("size mismatch\nfor a.b")
        return Predictor()

    names = ("sam2", "sam2.sam2_video_predictor", "sam2.build_sam", "sam2.utils", "sam2.utils.misc")
    package, video, builder, utils, misc = (ModuleType(name) for name in names)
    builder.build_sam2_video_predictor = build
    package.sam2_video_predictor, package.build_sam, package.utils, utils.misc = video, builder, utils, misc
    for module in (package, video, builder, utils, misc):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("sam2.1_hiera_small.pt", "broken.pt"):
        (tmp_path / name).write_bytes(b"?")
    load_sam2(MotionConfig(sam2_checkpoint=str(tmp_path / "sam2.1_hiera_small.pt")), torch.device("cpu"))
    assert asked["config"] == "configs/sam2.1/sam2.1_hiera_s.yaml"
    assert asked["hydra_overrides_extra"] == ["++model.use_mask_input_as_output_without_sam=false"]
    broken = MotionConfig(sam2_checkpoint=str(tmp_path / "broken.pt"), sam2_config="a.yaml")
    with pytest.raises(
        ConfigError, match="cannot be loaded from '.*broken.pt' with 'motion.sam2_config' a.yaml: size mis"
    ):
        load_sam2(broken, torch.device("cpu"))


def test_the_pipeline_publishes_the_refined_mask(monkeypatch):
    """A textured square before a textured wall; the stand-in cuts one column off the mask that it was shown."""

    class Trims(StandIn):
        def prompt(self, image, mask):
            self.mask = mask.copy()
            self.mask[:, np.flatnonzero(mask.any(axis=0))[0]] = False
            return self._answer("prompt", image)

    tracker = Trims()
    monkeypatch.setattr(pipeline_module, "load_sam2", lambda config, device: tracker)
    config = with_settings(PipelineConfig(), {"motion.refine": "sam2", "motion.sam2_wait": PATIENCE})
    pipeline, plain = Pipeline(config), Pipeline(PipelineConfig())
    rng = np.random.default_rng(0)
    wall, mover = (cv2.GaussianBlur(noise, (0, 0), 1.5) for noise in rng.integers(0, 255, (2, 96, 128, 3), np.uint8))
    refined = 0
    for index in range(8):
        image = wall.copy()
        image[30:70, 20 + 3 * index : 60 + 3 * index] = mover[30:70, 20:60]
        given = Frame(index, index * 33_000_000, "camera", image)
        result, ours = pipeline.push(given), plain.push(given)
        if result.mask is tracker.mask:
            refined += 1
            assert result.dynamic_fraction == pytest.approx(tracker.mask.mean())
            assert "refine" in result.latency_ms
        else:
            np.testing.assert_array_equal(result.mask, ours.mask)
            assert result.dynamic_fraction == ours.dynamic_fraction
    assert refined >= 3
    pipeline.reset()
    finish(pipeline._refiner)
    assert tracker.calls[-1] == ("forget", -1)


def test_without_it_nothing_is_loaded():
    assert MotionConfig().refine == "border" and Pipeline(PipelineConfig())._refiner is None
