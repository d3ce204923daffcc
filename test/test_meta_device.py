"""Full-size tensors stay where they are: on `meta`, which has shapes but no values, every word to the host fails.

Two pipelines get the same frames. The first runs on the CPU, and what its host got at the places that `engine.WAITS`
names is written down. The second one's device is `meta`: an `.item()`, a `nonzero`, a `.cpu()`, a conversion to NumPy
or two devices in one operation raises, wherever it is. Its host gets at the named places what was written down, and
nothing else, and must come to the same poses.
"""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_dust3r import SMALL, SMALL_LINEAR, one_thread  # noqa: F401

from easi3r_ros.core.bench import MeteredBackbone, moving_patterns
from easi3r_ros.core.clouds import split_cloud
from easi3r_ros.core.config import BackboneConfig, CloudConfig, PipelineConfig, with_settings
from easi3r_ros.core.dust3r.generated import generated_network
from easi3r_ros.core.dust3r.inference import Dust3rBackbone
from easi3r_ros.core.engine import MOST_WAITS, WAITS, CrossingCounter, Parcel, fetch, fetch_each, observed, upload
from easi3r_ros.core.pipeline import Pipeline

SIZE = (96, 64)  # (w, h)
FRAMES = 7
META = torch.device("meta")


class WrittenDown:
    """An observer that keeps what every wait brought to the host, frame by frame."""

    def __init__(self):
        self.frames: list[list[tuple[str, list[torch.Tensor]]]] = []

    def __call__(self, place, values):
        self.frames[-1].append((place, [x.clone() for x in values]))


class ReadOut:
    """An observer that gives the host what was written down, in the same order, and nothing that was not."""

    def __init__(self, written: WrittenDown):
        self._written, self.frame, self._next = written, -1, 0

    def begin(self):
        self.frame, self._next = self.frame + 1, 0

    def __call__(self, place, values):
        expected, known = self._written.frames[self.frame][self._next]
        self._next += 1
        assert place == expected
        assert [(x.shape, x.dtype) for x in values] == [(x.shape, x.dtype) for x in known]
        if self.frame:  # the first frame has no pairs, and nothing of it is on the device
            assert any(x.device == META for x in values), f"'{place}' asks for what the host has"
        return known

    @property
    def all_read(self) -> bool:
        return self._next == len(self._written.frames[self.frame])


def pipeline_on(device: str, network, **settings) -> Pipeline:
    backbone = MeteredBackbone(Dust3rBackbone(network, BackboneConfig(device=device)))
    common = {"preprocess.long_side": SIZE[0], "window.size": 6, "window.offsets": [1, 3, 5], "motion.clusters": 8}
    return Pipeline(with_settings(PipelineConfig(), common | settings), backbone)


def frames(known_camera: bool):
    for frame, _ in zip(moving_patterns(SIZE), range(FRAMES), strict=False):
        yield frame if known_camera else replace(frame, K=None)


def looked_at(result):
    """What a node with subscribers to everything but the maps of single cues reads."""
    static, dynamic = split_cloud(result, CloudConfig())
    return result.mask, result.probability, result.depth, result.confidence, static.xyz, dynamic.xyz


CASES = [
    (SMALL, {"motion.cue": "attention", "window.offsets": [1, 2]}, True),
    (SMALL_LINEAR, {"motion.cue": "fused"}, True),
    (SMALL_LINEAR, {"motion.cue": "attention", "motion.scope": "sequence"}, False),
    (SMALL_LINEAR, {"motion.cue": "fused", "motion.passes": 1}, False),
    (SMALL_LINEAR, {"motion.cue": "attention", "motion.passes": 1}, True),
    (SMALL_LINEAR, {"motion.cue": "geometry", "motion.memory": 0.0}, True),
]


@pytest.mark.parametrize(("network", "settings", "known_camera"), CASES)
def test_a_device_without_values_gives_the_same_poses(network, settings, known_camera):
    here = pipeline_on("cpu", generated_network(network), **settings)
    there = pipeline_on("meta", generated_network(network).to(META), **settings)
    written = WrittenDown()
    read = ReadOut(written)
    states, counter = [], CrossingCounter(META)  # of the last frame: it is slow
    for frame in frames(known_camera):
        written.frames.append([])
        with observed(written):
            ours = here.push(frame)
            maps = looked_at(ours)
        read.begin()
        with observed(read), counter if frame.index == FRAMES - 1 else nullcontext():
            theirs = there.push(frame)
            same = looked_at(theirs)
        assert read.all_read
        np.testing.assert_array_equal(theirs.world_from_cam, ours.world_from_cam)
        assert theirs.state is ours.state and theirs.dynamic_fraction == ours.dynamic_fraction
        assert all(np.array_equal(x, y, equal_nan=True) for x, y in zip(maps, same, strict=True))
        places = [place for place, _ in written.frames[-1]]
        assert len(set(places)) == len(places)
        assert len([place for place in places if place != "founding"]) <= MOST_WAITS, places
        states.append(ours.state)
    # Uploads alone: nothing waits for them. The image, for a single pass the flow, for cues on the host the grey values
    # and lines: in each pass, and with a single one of frames that were no partners before.
    assert set(counter.by_name) <= CrossingCounter.COPIES, counter.by_name
    most = {("attention", 2): 1, ("attention", 1): 2, ("fused", 1): 8}.get(
        (settings["motion.cue"], settings.get("motion.passes", 2)), 4
    )
    assert 1 <= counter.total <= most, counter.by_name
    assert states[-1].has_pose
    assert "founding" in [place for waits in written.frames for place, _ in waits]


def test_each_cue_waits_where_it_is_said_to():
    expected = {"attention": ["changed pairs", "samples", "result"], "fused": ["motion", "samples", "result"]}
    for cue, places in expected.items():
        pipeline, seen = pipeline_on("cpu", generated_network(SMALL_LINEAR), **{"motion.cue": cue}), []
        with observed(lambda place, _, seen=seen: seen.append(place)):
            for frame in frames(True):
                seen.clear()
                looked_at(pipeline.push(frame))
        assert seen == places


def test_what_nobody_reads_is_not_waited_for():
    pipeline, seen = pipeline_on("cpu", generated_network(SMALL_LINEAR), **{"motion.cue": "fused"}), []
    with observed(lambda place, _: seen.append(place)):
        for frame in frames(True):
            seen.clear()
            pipeline.push(frame)
    assert seen == ["motion", "samples"]


@pytest.mark.parametrize(
    "word",
    [
        lambda x: float(x.sum()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.numpy(),
        lambda x: x + torch.ones(3),
        lambda x: fetch(x, "samples"),
    ],
    ids=["item", "nonzero", "index by a mask", "numpy", "two devices", "fetch that nobody answers"],
)
def test_a_word_to_the_host_would_be_seen(word):
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        word(torch.empty(3, device=META))


def test_a_wait_has_a_name():
    with pytest.raises(KeyError):
        fetch(torch.ones(1), "somewhere")
    assert MOST_WAITS == 3 and len(WAITS) >= MOST_WAITS


def test_a_parcel_is_one_wait_for_all_that_was_added():
    parcel, seen = Parcel("samples"), []
    one, two = torch.arange(3), torch.ones(2, 2) > 0
    with observed(lambda place, values: seen.append((place, len(values)))):
        landings = [parcel.add(one), parcel.add(two)]
        assert torch.equal(landings[1].open(), two) and torch.equal(landings[0].open(), one)
        assert seen == [("samples", 2)]
        assert torch.equal(parcel.add(two).open(), two)
    assert seen == [("samples", 2), ("samples", 1)]


def test_packing_keeps_values_types_and_shapes(monkeypatch):
    """As it is done for a GPU, with the CPU in its place."""

    class Away(torch.Tensor):
        device = torch.device("cuda")

    values = [torch.randn(3, 5)[:, ::2], torch.arange(4, dtype=torch.int64), torch.tensor(True), torch.zeros(0, 2)]
    monkeypatch.setattr("easi3r_ros.core.engine._landed", lambda packed: packed)
    landed = fetch_each([x.as_subclass(Away) for x in values], "samples")
    for x, y in zip(values, landed, strict=True):
        assert torch.equal(x, y.as_subclass(torch.Tensor)) and x.dtype == y.dtype
    assert torch.equal(upload(np.arange(3), torch.device("cpu")), torch.arange(3))


@pytest.mark.parametrize("mode", [nullcontext, torch.inference_mode])
def test_the_counter_sees_copies_and_words(mode):
    with mode(), CrossingCounter(META) as counter:
        torch.ones(3).to(META)
        torch.ones(3).to(torch.float64)
        torch.ones(3).sum().item()  # the host's own
    assert counter.total == 1
    with mode(), CrossingCounter() as everything:
        torch.ones(3).sum().item()
        torch.ones(3).nonzero()
        torch.ones(3)[torch.ones(3) > 0]
    assert everything.total >= 3
