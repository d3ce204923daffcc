"""The worker thread: newest wins or nothing is lost, and it survives whatever happens to it."""

import threading
import time

import pytest

from easi3r_ros.ros.worker import Worker

PATIENCE = 5.0


class Recorder:
    """Processes items; the first waits for `gate`, so that a test decides when the worker is busy."""

    def __init__(self, **options):
        self.done, self.errors = [], []
        self.gate, self.busy = threading.Event(), threading.Event()
        self.worker = Worker(self.process, self.errors.append, **options)

    def process(self, item):
        self.busy.set()
        assert self.gate.wait(PATIENCE)
        if isinstance(item, Exception):
            raise item
        self.done.append(item)

    def __enter__(self):
        self.worker.start()
        return self

    def __exit__(self, *_):
        self.gate.set()
        self.worker.stop()

    def occupy(self, item=0):
        self.worker.submit(item)
        assert self.busy.wait(PATIENCE)

    def wait(self, done):
        deadline = time.monotonic() + PATIENCE
        while self.worker.counts.processed + self.worker.counts.failed < done:
            assert time.monotonic() < deadline, self.worker.counts
            time.sleep(0.001)


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def in_thread(call, *args):
    thread = threading.Thread(target=call, args=args, daemon=True)
    thread.start()
    return thread


def test_live_the_newest_wins():
    with Recorder() as recorder:
        recorder.occupy(0)
        for item in range(1, 6):
            assert recorder.worker.submit(item)
        recorder.gate.set()
        recorder.wait(2)
        assert recorder.done == [0, 5]
        counts = recorder.worker.counts
        assert (counts.received, counts.processed, counts.dropped) == (6, 2, 4)


def test_live_the_oldest_makes_room():
    with Recorder(capacity=3) as recorder:
        recorder.occupy(0)
        for item in range(1, 6):
            recorder.worker.submit(item)
        recorder.gate.set()
        recorder.wait(4)
        assert recorder.done == [0, 3, 4, 5]


def test_live_submit_never_blocks():
    with Recorder() as recorder:
        recorder.occupy()
        start = time.monotonic()
        for item in range(100):
            recorder.worker.submit(item)
        assert time.monotonic() - start < 1.0


def test_lossless_blocks_the_producer_and_loses_nothing():
    with Recorder(lossless=True, capacity=2) as recorder:
        recorder.occupy(0)
        producer = in_thread(lambda: [recorder.worker.submit(item) for item in range(1, 50)])
        producer.join(0.1)
        assert producer.is_alive(), "the queue has room for 2, so the producer must wait"
        assert recorder.worker.counts.received == 4  # 0, two waiting, one knocking
        recorder.gate.set()
        recorder.wait(50)
        assert recorder.done == list(range(50))
        assert recorder.worker.counts.dropped == 0


def test_stop_releases_a_blocked_producer():
    recorder = Recorder(lossless=True)
    answers = []
    with recorder:
        recorder.occupy(0)
        recorder.worker.submit(1)
        producer = in_thread(lambda: answers.append(recorder.worker.submit(2)))
        stopper = in_thread(recorder.worker.stop)
        producer.join(PATIENCE)
        assert answers == [False]
        recorder.gate.set()
        stopper.join(PATIENCE)
        assert not stopper.is_alive() and recorder.done == [0], "what waited is not processed after a stop"


def test_stop_waits_for_the_item_in_hand():
    recorder = Recorder()
    with recorder:
        recorder.occupy(0)
        stopper = in_thread(recorder.worker.stop)
        stopper.join(0.05)
        assert stopper.is_alive() and not recorder.worker.idle
        recorder.gate.set()
        stopper.join(PATIENCE)
        assert recorder.done == [0] and recorder.worker.idle
    assert recorder.worker.submit(1) is False


def test_what_waited_at_a_stop_is_gone_after_a_start():
    recorder = Recorder(lossless=True, capacity=4)
    with recorder:
        recorder.occupy("in hand")
        recorder.worker.submit("waiting")
        threading.Timer(0.05, recorder.gate.set).start()
        recorder.worker.stop()
    with recorder:
        recorder.worker.submit("new")
        recorder.wait(1)
    assert recorder.done == ["in hand", "new"]


def test_it_can_start_again():
    recorder = Recorder()
    recorder.gate.set()
    for _ in range(2):
        with recorder:
            recorder.worker.submit("item")
            recorder.wait(1)
    assert recorder.done == ["item", "item"]


def test_two_starts_are_refused():
    with Recorder() as recorder, pytest.raises(RuntimeError, match="runs already"):
        recorder.worker.start()


def test_an_exception_is_reported_and_the_worker_lives_on():
    with Recorder() as recorder:
        recorder.gate.set()
        error = ValueError("bad image")
        recorder.worker.submit(error)
        recorder.wait(1)
        recorder.worker.submit("good")
        recorder.wait(2)
        assert recorder.errors == [error] and recorder.done == ["good"]
        assert (recorder.worker.counts.failed, recorder.worker.counts.processed) == (1, 1)


def test_pause_live_refuses_what_comes():
    with Recorder() as recorder:
        recorder.gate.set()
        recorder.worker.pause(True)
        assert recorder.worker.paused and recorder.worker.submit(1) is False
        recorder.worker.pause(False)
        assert recorder.worker.submit(2)
        recorder.wait(1)
        assert recorder.done == [2] and recorder.worker.counts.dropped == 1


def test_pause_live_drops_what_waits():
    with Recorder() as recorder:
        recorder.occupy(0)
        recorder.worker.submit(1)
        recorder.worker.pause(True)
        assert recorder.worker.counts.dropped == 1, "an image from before the pause will be stale"
        recorder.worker.pause(False)
        recorder.gate.set()
        recorder.wait(1)
        assert recorder.worker.idle and recorder.done == [0]


def test_pause_lossless_keeps_what_comes():
    with Recorder(lossless=True, capacity=2) as recorder:
        recorder.gate.set()
        recorder.worker.pause(True)
        assert recorder.worker.submit(1) and recorder.worker.submit(2)
        time.sleep(0.05)
        assert recorder.done == []
        recorder.worker.pause(False)
        recorder.wait(2)
        assert recorder.done == [1, 2]


def test_flush_drops_what_waits_and_acts_before_the_next_item():
    with Recorder(lossless=True, capacity=4) as recorder:
        recorder.occupy(0)
        recorder.worker.submit(1)
        recorder.worker.flush(lambda: recorder.done.append("reset"))
        recorder.worker.submit(2)
        recorder.gate.set()
        recorder.wait(2)
        assert recorder.done == [0, "reset", 2]
        assert (recorder.worker.counts.received, recorder.worker.counts.processed) == (2, 2)


def test_an_action_runs_while_paused_and_its_failure_is_reported():
    with Recorder() as recorder:
        recorder.worker.pause(True)
        acted = threading.Event()
        recorder.worker.call(lambda: 1 / 0)
        recorder.worker.call(acted.set)
        assert acted.wait(PATIENCE)
        assert isinstance(recorder.errors[0], ZeroDivisionError)


def test_room_is_told_of():
    """Who must not block asks first, and is told when to ask again."""
    room = []
    with Recorder(lossless=True, capacity=2, on_room=lambda: room.append(recorder.worker.has_room())) as recorder:
        recorder.occupy(0)
        assert recorder.worker.has_room()
        recorder.worker.submit(1)
        recorder.worker.submit(2)
        assert not recorder.worker.has_room() and room == []
        recorder.gate.set()
        recorder.wait(3)
        assert room == [True], "once, when it was full"
    assert recorder.worker.has_room(), "it blocks nobody any more"


def test_live_there_is_always_room():
    with Recorder() as recorder:
        recorder.occupy(0)
        recorder.worker.submit(1)
        assert recorder.worker.has_room()


def test_a_flush_makes_room():
    room = []
    with Recorder(lossless=True, capacity=1, on_room=lambda: room.append("room")) as recorder:
        recorder.occupy(0)
        recorder.worker.submit(1)
        room.clear()
        recorder.worker.flush(lambda: None)
        assert room == ["room"] and recorder.worker.has_room()


def test_a_flush_counts_who_knocks():
    with Recorder(lossless=True, capacity=1) as recorder:
        recorder.occupy(0)
        recorder.worker.submit(1)
        producer = in_thread(recorder.worker.submit, 2)
        wait_for(lambda: recorder.worker.counts.received == 3)
        recorder.worker.flush(lambda: None)
        recorder.gate.set()
        producer.join(PATIENCE)
        recorder.wait(2)
        counts = recorder.worker.counts
        assert counts.received == counts.processed == 2 and recorder.done == [0, 2]


def test_what_a_stop_refuses_is_counted_as_dropped():
    recorder = Recorder(lossless=True)
    with recorder:
        recorder.occupy(0)
        recorder.worker.submit(1)
        producer = in_thread(recorder.worker.submit, 2)
        wait_for(lambda: recorder.worker.counts.received == 3)
        threading.Timer(0.05, recorder.gate.set).start()
        recorder.worker.stop()
        producer.join(PATIENCE)
        counts = recorder.worker.counts
        assert (counts.received, counts.processed, counts.dropped) == (3, 1, 2)


def test_actions_are_done_even_at_the_end():
    """A setting that was accepted, or a reset that somebody waits for, must not be lost to a stop."""
    recorder = Recorder()
    with recorder:
        recorder.occupy(0)
        assert recorder.worker.call(lambda: recorder.done.append("before the stop"))
        stopper = in_thread(recorder.worker.stop)
        stopper.join(0.05)
        assert recorder.worker.call(lambda: recorder.done.append("during the stop"))
        assert recorder.worker.flush(lambda: recorder.done.append("reset"))
        recorder.gate.set()
        stopper.join(PATIENCE)
        assert recorder.done == [0, "before the stop", "during the stop", "reset"]
    assert not recorder.worker.call(lambda: recorder.done.append("too late"))
    assert not recorder.worker.flush(lambda: recorder.done.append("too late"))
    with recorder:
        recorder.worker.submit(1)
        recorder.wait(1)
    assert "too late" not in recorder.done, "who is told no does it himself"


def test_a_stop_that_is_in_a_hurry():
    with Recorder() as recorder:
        recorder.occupy(0)
        assert recorder.worker.stop(patience=0.05) is False
        with pytest.raises(RuntimeError, match="runs already"):
            recorder.worker.start()
        recorder.gate.set()
        assert recorder.worker.stop(PATIENCE) is True and recorder.done == [0]


def test_it_outlives_a_failure_of_its_error_handling():
    def fail(error):
        raise RuntimeError("the GPU is gone")

    with Recorder() as recorder:
        recorder.gate.set()
        recorder.worker._on_error = fail
        recorder.worker.submit(ValueError())
        recorder.wait(1)
        recorder.worker.submit("good")
        recorder.wait(2)
        assert recorder.done == ["good"]


@pytest.mark.parametrize("lossless", [False, True])
def test_nothing_is_lost_track_of(lossless):
    """received = processed + failed + dropped once nothing waits, whatever the threads do."""
    with Recorder(lossless=lossless, capacity=3) as recorder:
        recorder.gate.set()
        for item in range(500):
            recorder.worker.submit(ValueError() if item % 7 == 0 else item)
        time.sleep(0.05)
        recorder.worker.submit("last")
        deadline = time.monotonic() + PATIENCE
        while not (recorder.done and recorder.done[-1] == "last") and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01)
        counts = recorder.worker.counts
        assert counts.received == 501 == counts.processed + counts.failed + counts.dropped
        assert recorder.done[:-1] == sorted(recorder.done[:-1])
        assert not lossless or counts.dropped == 0
