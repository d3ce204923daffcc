"""Recorded calls, on a CPU: a recording that, as a graph does, has its own inputs and writes over its own outputs."""

import logging

import pytest
import torch
from helpers_dust3r import SMALL, SMALL_LINEAR, noise_images, one_thread, small_backbone  # noqa: F401

from easi3r_ros.core.cuda_graphs import RecordedCalls
from easi3r_ros.core.dust3r.inference import Dust3rBackbone

HEIGHT, WIDTH = 48, 80
CPU = torch.device("cpu")


class FakeRecording:
    """What CudaRecording is, for a CPU."""

    made = 0

    def __init__(self, function, inputs, pool):
        FakeRecording.made += 1
        self._function = function
        self.inputs = [x.clone() for x in inputs]
        self.outputs = [x.clone() for x in function(*self.inputs)]
        self.replays = 0

    def replay(self):
        self.replays += 1
        for own, fresh in zip(self.outputs, self._function(*self.inputs), strict=True):
            own.copy_(fresh)


def failing(function, inputs, pool):
    raise RuntimeError("operation not permitted when stream is capturing\nmore lines")


def doubled(x):
    return (2 * x,)


def recording_backbone(config=SMALL, record=FakeRecording) -> Dust3rBackbone:
    backbone = small_backbone(config)
    backbone._calls = RecordedCalls(CPU, True, record)
    return backbone


def left_half():
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, : WIDTH // 2] = True
    return mask


def test_a_call_takes_the_smallest_recording_that_is_large_enough():
    calls = RecordedCalls(CPU, True, FakeRecording)
    for rows in (4, 2):
        calls.record("double", doubled, [torch.ones(rows, 3)])
    before = {rows: recording.replays for rows, recording in calls._recordings["double"].items()}
    for count in (1, 2, 3, 4, 5):
        x = torch.randn(count, 3)
        assert torch.equal(calls.call("double", doubled, x)[0], 2 * x)
    replays = {rows: recording.replays - before[rows] for rows, recording in calls._recordings["double"].items()}
    assert replays == {4: 2, 2: 2}  # five rows: in the ordinary way


def test_answers_outlive_the_next_replay():
    calls = RecordedCalls(CPU, True, FakeRecording)
    calls.record("double", doubled, [torch.ones(2, 3)])
    (first,) = calls.call("double", doubled, torch.ones(2, 3))
    calls.call("double", doubled, torch.zeros(2, 3))
    assert torch.equal(first, 2 * torch.ones(2, 3))


def test_buffers_made_in_inference_mode_serve_outside_of_it():
    calls = RecordedCalls(CPU, True, FakeRecording)
    with torch.inference_mode():
        calls.record("double", doubled, [torch.ones(2, 3)])
    x = torch.randn(2, 3)
    assert torch.equal(calls.call("double", doubled, x)[0], 2 * x)


def test_a_failed_recording_is_told_once_and_everything_goes_on(caplog):
    calls = RecordedCalls(CPU, True, FakeRecording)
    calls.record("double", doubled, [torch.ones(2, 3)])
    calls._record = failing
    with caplog.at_level(logging.WARNING):
        calls.record("other", doubled, [torch.ones(2, 3)])
        calls.record("third", doubled, [torch.ones(2, 3)])
    (message,) = [record.getMessage() for record in caplog.records]
    assert "CUDA graphs are not used from now on" in message and "more lines" not in message
    assert len(calls) == 0
    assert torch.equal(calls.call("double", doubled, torch.ones(2, 3))[0], torch.full((2, 3), 2.0))


def test_a_recording_that_replays_something_else_is_not_used(caplog):
    class Stale(FakeRecording):
        def replay(self):
            self.outputs[0].zero_()

    calls = RecordedCalls(CPU, True, Stale)
    calls.record("double", doubled, [torch.ones(2, 3)])
    assert len(calls) == 0 and "a replay gives something else" in caplog.text


def test_the_number_of_recordings_is_bounded():
    calls = RecordedCalls(CPU, True, FakeRecording)
    for key in range(2 * calls.LIMIT):
        calls.record(key, doubled, [torch.ones(1, 3)])
    assert len(calls) == calls.LIMIT


def stream(backbone, images):
    """Answers of a frame's pairs, first pass and second, with masks that change some pairs and not others."""
    features = [backbone.encode(image) for image in images]
    told = []
    for new in range(1, len(features)):
        pairs = [pair for old in features[:new] for pair in ((features[new], old), (old, features[new]))]
        nothing = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        masks = {index: left_half() if index % 2 else nothing for index in range(new + 1)}
        first = backbone.attend(pairs)
        told.append(backbone.pointmaps(backbone.attend(pairs, masks, first)))
    return told


@pytest.mark.parametrize("config", [SMALL, SMALL_LINEAR], ids=["dpt", "linear"])
def test_a_network_of_recorded_calls_answers_as_without(config):
    images = noise_images(4, HEIGHT, WIDTH)
    plain, recorded = small_backbone(config), recording_backbone(config)
    recorded.warm_up((HEIGHT, WIDTH), 6)
    made = FakeRecording.made
    assert recorded.graphs == 5  # images, pairs, masked pairs, half as many of them, heads
    for expected, ours in zip(stream(plain, images), stream(recorded, images), strict=True):
        for x, y in zip(expected, ours, strict=True):
            assert x.edge == y.edge
            for name in ("points_a", "points_b", "conf_a", "conf_b"):
                torch.testing.assert_close(getattr(y, name), getattr(x, name), rtol=1e-5, atol=1e-5)
            for name in ("source", "reference"):
                a, b = (getattr(pair.evidence.attention, name) for pair in (x, y))
                torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
    assert FakeRecording.made == made  # no frame waits for a recording
    assert all(item.replays > 1 for by_rows in recorded._calls._recordings.values() for item in by_rows.values())


def test_recordings_are_given_up_where_memory_runs_out():
    backbone = recording_backbone()
    backbone.warm_up((HEIGHT, WIDTH), 4)
    assert backbone.graphs > 0
    assert backbone.decode_fewer_at_once() == 1  # one at a time already, but their memory is free now
    assert backbone.graphs == 0
    assert backbone.decode_fewer_at_once() is None


def test_graphs_are_off_on_a_cpu_and_where_the_user_says_so():
    backbone = small_backbone()
    backbone.warm_up((HEIGHT, WIDTH), 4)
    assert backbone.graphs == 0


def test_counters_see_the_calls_themselves():
    backbone = recording_backbone()
    backbone.warm_up((HEIGHT, WIDTH), 2)
    (recording,) = backbone._calls._recordings["encode", HEIGHT, WIDTH].values()
    before = recording.replays
    with backbone.without_graphs():
        backbone.encode(noise_images(1, HEIGHT, WIDTH)[0])
    assert recording.replays == before
    backbone.encode(noise_images(1, HEIGHT, WIDTH)[0])
    assert recording.replays == before + 1
