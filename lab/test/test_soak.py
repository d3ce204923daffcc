"""`easi3r-lab bench soak`: its figures from given numbers, and a short one with the real node."""

import importlib.util
from dataclasses import replace

import pytest
from easi3r_lab.demo.soak_figures import Counted, Mark, adds_up, figures, forth_and_back

WELL = Counted(sent=100, answered=90, unanswered=10, received=95, processed=90, dropped=3, failed=2, lost=5)


def test_forth_and_back_jumps_nowhere():
    assert list(forth_and_back(4, 9)) == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert list(forth_and_back(1, 3)) == [0, 0, 0]


def test_every_image_is_in_one_count():
    assert adds_up(WELL)
    for changes in (
        {"dropped": 2},  # received is more than what became of it
        {"lost": 4},  # one is nowhere
        {"answered": 89, "unanswered": 11},  # processed, but no result came
        {"unanswered": 9},
    ):
        assert not adds_up(replace(WELL, **changes)), changes
    silent = replace(WELL, lost=None)  # a middleware that does not say: then nothing may be missing
    assert not adds_up(silent) and adds_up(replace(silent, sent=95, unanswered=5))


def test_memory_is_compared_after_the_warm_up_and_tenths_with_each_other():
    memory = [300.0, *[400.0] * 50, *[406.0] * 50]
    marks = [Mark(10 * (i + 1), value, 0.1 * i if i < 50 else 5 + 0.2 * (i - 50)) for i, value in enumerate(memory)]
    found = figures([10.0] * 100 + [20.0] * 800 + [30.0] * 100, marks, WELL, 2000)
    assert (found["memory_mb_min"], found["memory_mb_max"], found["memory_growth_percent"]) == (400.0, 406.0, 1.5)
    assert (found["latency_ms_p99_first_tenth"], found["latency_ms_p99_last_tenth"]) == (10.0, 30.0)
    assert (found["cpu_ms_per_frame_first_tenth"], found["cpu_ms_per_frame_last_tenth"]) == (10.0, 20.0)
    assert found["frames_wanted"] == 2000 and found["sent"] == 100


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is None, reason="no ROS 2 here: `make test` sets it up")
def test_a_short_one(tmp_path):
    from easi3r_lab.demo import run_soak

    said = []
    found = run_soak(tmp_path, frames=60, every=10, size=(160, 120), say=said.append)
    assert found["every_loss_counted"], found
    assert (found["sent"], found["answered"], found["received"], found["processed"]) == (60, 60, 60, 60)
    assert found["dropped"] == found["failed"] == found["unanswered"] == 0
    assert [text.split()[0] for text in said[1:]] == ["10", "20", "30", "40", "50", "60"]
    assert 100 < found["memory_mb_min"] <= found["memory_mb_max"] < 2000
    assert found["cpu_ms_per_frame_last_tenth"] > 1
