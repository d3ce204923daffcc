"""The pure decision about how much is done per frame, on made-up latencies."""

import itertools
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from helpers_dust3r import one_thread, small_backbone  # noqa: F401

from easi3r_ros.core.bench import MeteredBackbone, moving_patterns
from easi3r_ros.core.budget import LATE, PATIENCE, SETTLING, Effort, Level, Limits, decide, described, ladder
from easi3r_ros.core.config import PipelineConfig, with_settings
from easi3r_ros.core.pipeline import Pipeline

LEVELS = ladder(partners=5, passes=2, fewest=2, scales=(1.0, 0.75, 0.5))
LIMITS = Limits(deadline_ms=100.0)


def run(latency_of, frames, levels=LEVELS, limits=LIMITS, memory_of=lambda level: 0.0, effort=None):
    """Levels of so many frames; latency_of(frame, level index)."""
    effort, seen = effort or Effort(), []
    for frame in range(frames):
        seen.append(effort.level)
        effort = decide(effort, levels, limits, latency_of(frame, effort.level), memory_of(effort.level))
    return seen, effort


def changes(seen):
    return [frame for frame, (x, y) in enumerate(itertools.pairwise(seen)) if x != y]


def proportional(full_ms):
    return lambda frame, level: full_ms * LEVELS[level].cost / LEVELS[0].cost


def test_the_ladder_goes_from_everything_to_the_least():
    assert LEVELS[0] == Level(5, 2) and LEVELS[1] == Level(5, 1) and LEVELS[-1] == Level(2, 1, 0.5)
    assert [level.cost for level in LEVELS] == sorted((level.cost for level in LEVELS), reverse=True)
    assert ladder(2, 1, 2) == (Level(2, 1),)
    assert ladder(2, 2, 1) == (Level(2, 2), Level(2, 1), Level(1, 1))


def test_without_limits_nothing_changes():
    seen, effort = run(lambda *_: 1e6, 500, limits=Limits())
    assert set(seen) == {0} and effort.cause == ""


def test_what_is_too_slow_is_left_after_a_few_frames_down_to_what_is_in_time():
    seen, effort = run(proportional(180.0), 200)
    assert changes(seen)[0] == LATE - 1
    assert seen[-1] == next(i for i in range(len(LEVELS)) if proportional(180.0)(0, i) <= LIMITS.deadline_ms)
    assert "180 ms" in effort.cause and "100 ms allowed" in effort.cause
    seen, _ = run(lambda *_: 1e4, 500)
    assert seen[-1] == len(LEVELS) - 1, "no further than there are levels"


def test_single_late_frames_change_nothing():
    seen, _ = run(lambda frame, level: 500.0 if frame % 10 == 0 else 60.0, 2000)
    assert set(seen) == {0}


def test_it_recovers_when_the_load_is_gone():
    def loaded(frame, level):
        return proportional(240.0 if frame < 300 else 60.0)(frame, level)

    seen, effort = run(loaded, 1500)
    assert seen[299] > 1 and seen[-1] == 0 and effort.cause == ""
    steps = changes(seen[300:])
    assert steps[0] >= PATIENCE - 1 and min(np.diff(steps), default=PATIENCE) >= PATIENCE


def test_between_two_levels_it_stays_below():
    """Everything takes 110 ms, a single pass 60: by proportion it is known that there is no room above."""
    seen, _ = run(proportional(110.0), 20_000)
    assert seen[-1] == 1 and len(changes(seen)) == 1


@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_a_level_that_deceives_is_not_entered_and_left_for_ever(noise):
    """By proportion there is room, in truth there is not."""
    rng = np.random.default_rng(0)
    seen, _ = run(lambda frame, level: (120.0 if level == 0 else 30.0) + noise * rng.standard_normal(), 20_000)
    steps = changes(seen)
    assert len(steps) <= 11, steps  # down, and five times up and down
    ups = [frame for frame in steps if seen[frame + 1] < seen[frame]]
    assert all(later > 3 * earlier for earlier, later in itertools.pairwise(np.diff(ups)))
    assert np.mean(seen) > 0.98, "hardly any frame is late"


def test_noise_around_the_deadline_does_not_make_it_nervous():
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 3, 20_000)
    seen, _ = run(lambda frame, level: proportional(96.0)(frame, level) + noise[frame], 20_000)
    assert len(changes(seen)) <= 4


def test_after_a_change_some_frames_do_not_count():
    seen, _ = run(lambda *_: 1e4, 100)
    assert all(step >= LATE + SETTLING for step in np.diff(changes(seen)))


def test_memory_that_was_too_much_is_never_tried_again():
    memory = [4000.0, 3000.0, 2000.0, 1500.0, 1000.0, 800.0, 500.0]
    seen, effort = run(lambda *_: 1.0, 5000, limits=Limits(1000.0, 2500.0), memory_of=lambda level: memory[level])
    assert seen[-1] == effort.highest == 2 and len(changes(seen)) == 2
    assert "3000 MB" in effort.cause


def test_a_deadline_that_is_taken_away_gives_everything_back():
    _, slow = run(proportional(240.0), 200)
    seen, _ = run(proportional(240.0), 1000, limits=Limits(), effort=slow)
    assert slow.level > 0 and seen[-1] == 0


def test_it_is_said_in_words():
    assert described(LEVELS[0], LEVELS[0], "") == ""
    assert described(Level(3, 1), LEVELS[0], "late") == "3 of 5 partners, 1 pass: late"
    assert "75% of the size" in described(Level(2, 1, 0.75), LEVELS[0], "late")


class SlowNetwork(MeteredBackbone):
    """Every pair takes its time, by a clock of its own."""

    pair_ms = 10.0

    def __init__(self, clock):
        super().__init__(small_backbone())
        self._clock, self.sizes, self.pairs = clock, [], []

    def encode(self, image):
        self.sizes.append(image.image.shape[1])
        return super().encode(image)

    def attend(self, pairs, masks=None, earlier=(), moving=None):
        self._clock.seconds += 1e-3 * self.pair_ms * len(pairs)
        self.pairs.append(len(pairs))
        return super().attend(pairs, masks, earlier, moving)


@pytest.fixture
def slow(monkeypatch):
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("easi3r_ros.core.pipeline.time", SimpleNamespace(perf_counter=lambda: clock.seconds))
    network = SlowNetwork(clock)
    return network


def push(pipeline, count, frames):
    return [pipeline.push(next(frames)) for _ in range(count)]


def test_the_pipeline_keeps_its_deadline_and_says_so(slow, caplog):
    config = {"window.offsets": [1, 2, 3], "preprocess.long_side": 96, "motion.cue": "attention", "motion.clusters": 8}
    pipeline = Pipeline(with_settings(PipelineConfig(), {**config, "engine.deadline_ms": 70.0}), slow)
    frames = moving_patterns((96, 64))
    with caplog.at_level(logging.INFO):
        results = push(pipeline, 20, frames)
    assert results[0].effort == "" and pipeline._level == Level(3, 1)
    assert slow.pairs[-1] == 6, "one pass over three partners takes 60 ms"
    assert results[-1].effort.startswith("3 of 3 partners, 1 pass: a frame took ")
    assert [r.message for r in caplog.records if r.name == "easi3r_ros.core.pipeline"] == [
        f"less is done from now on: {results[-1].effort}"
    ]
    assert results[-1].world == 0 and results[-1].state.has_pose

    slow.pair_ms = 30.0  # a load from outside
    results = push(pipeline, 40, frames)
    assert pipeline._level == Level(2, 1, 0.5) and slow.sizes[-1] == 48
    assert results[-1].depth.shape == (64, 96), "maps stay at the camera's size"
    assert results[-1].world == 2 and "50% of the size" in results[-1].effort

    slow.pair_ms = 0.1
    pipeline.reconfigure(with_settings(pipeline.config, {"engine.deadline_ms": 1000.0}))
    results = push(pipeline, PATIENCE + SETTLING + 2, frames)
    assert pipeline._level == Level(2, 1, 0.75) and slow.sizes[-1] > 48
    assert "75% of the size" in results[-1].effort


def test_memory_is_kept_in_the_same_way(slow, monkeypatch):
    used = {2: 900.0, 1: 400.0}
    monkeypatch.setattr("easi3r_ros.core.pipeline.memory_used_mb", lambda _: used[pipeline._level.passes])
    config = {"window.offsets": [1, 2], "preprocess.long_side": 96, "motion.cue": "attention", "engine.memory_mb": 500}
    pipeline = Pipeline(with_settings(PipelineConfig(), config), slow)
    results = push(pipeline, 20, moving_patterns((96, 64)))
    assert pipeline._level == Level(2, 1) and "900 MB of memory, 500 MB allowed" in results[-1].effort


def test_without_a_budget_nothing_is_measured(slow, monkeypatch):
    monkeypatch.setattr("easi3r_ros.core.pipeline.decide", None)
    pipeline = Pipeline(with_settings(PipelineConfig(), {"window.offsets": [1], "preprocess.long_side": 96}), slow)
    assert push(pipeline, 3, moving_patterns((96, 64)))[-1].effort == ""
