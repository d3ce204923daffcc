"""Two streams joined by their stamps: either may be first, either may stop, and memory is bounded."""

import threading
import time

import pytest

from easi3r_ros.messages.pairing import LatestByStamp, Pairing

MS = 1_000_000


@pytest.fixture
def made():
    return []


def pairing(made, **options):
    return Pairing(lambda first, second: made.append((first, second)), **options)


def test_either_may_be_first(made):
    pairs = pairing(made)
    pairs.add_first(1, "a")
    pairs.add_second(1, "A")
    pairs.add_second(2, "B")
    pairs.add_second(3, "C")
    pairs.add_first(3, "c")
    pairs.add_first(2, "b")
    assert made == [("a", "A"), ("c", "C"), ("b", "B")]
    assert (pairs.paired, pairs.unpaired) == (3, 0)


def test_only_the_same_stamp_is_a_pair(made):
    pairs = pairing(made)
    pairs.add_first(10, "a")
    pairs.add_second(11, "B")
    assert made == []


def test_the_nearest_within_the_tolerance(made):
    pairs = pairing(made, tolerance_ns=5)
    for stamp in (90, 97, 104, 111):
        pairs.add_second(stamp, stamp)
    pairs.add_first(102, "a")
    pairs.add_first(80, "b")
    assert made == [("a", 104)]
    pairs.add_second(84, 84)
    assert made[1:] == [("b", 84)]


def test_what_is_in_hand_keeps_its_partner(made):
    """A network that takes minutes for an image, while depth comes at 30 Hz."""
    pairs = pairing(made, limit=5)
    for index in range(5):
        pairs.add_second(index, index)
    pairs.in_hand(3)
    for index in range(5, 500):
        pairs.add_second(index, index)
    pairs.add_first(3, "slow")
    pairs.in_hand(499)
    pairs.add_first(499, "newest")
    assert made == [("slow", 3), ("newest", 499)]


def test_memory_is_bounded_by_number_and_by_bytes(made):
    pairs = pairing(made, limit=5)
    for index in range(100):
        pairs.add_second(index, index)
        pairs.add_first(1000 + index, index)
    assert len(pairs._seconds) == len(pairs._firsts) == 5 and pairs.unpaired == 95 and not pairs.has_room
    large = pairing(made, size=len, most_bytes=100)
    large.in_hand(0)
    for index in range(100):
        large.add_second(index, "x" * 30)
        assert large._bytes == 30 * len(large._seconds) <= 100
    assert 0 in large._seconds and 99 in large._seconds


def test_there_is_room_again_when_the_next_is_in_hand(made):
    pairs = pairing(made, limit=3)
    for index in range(3):
        pairs.add_second(index, index)
    assert not pairs.has_room
    pairs.in_hand(2)
    assert pairs.has_room
    pairs.add_first(2, "c")
    assert made == [("c", 2)]


def test_time_that_jumps_back_leaves_nothing_in_the_way(made):
    pairs = pairing(made, limit=3)
    for stamp in (90_000, 90_001, 5):
        pairs.add_second(stamp * MS, stamp)
    assert not pairs.has_room
    pairs.in_hand(5 * MS)  # the image after the jump
    pairs.restart()
    assert pairs.has_room
    pairs.add_first(5 * MS, "after")
    assert made == [("after", 5)]


def test_the_item_of_a_stamp_is_waited_for():
    items = LatestByStamp()
    threading.Timer(0.05, lambda: items.put(7, "seven")).start()
    assert items.at(7, 5.0) == "seven" and items.latest() == "seven"
    began = time.monotonic()
    assert items.at(8, 0.05) is None and time.monotonic() - began < 1.0
    items.stop_waiting()
    began = time.monotonic()
    assert items.at(9, 30.0) is None and time.monotonic() - began < 1.0


def test_items_are_bounded():
    items = LatestByStamp(3)
    assert items.latest() is None
    for index in range(10):
        items.put(index, index)
    assert items.at(6, 0) is None and items.at(7, 0) == 7 and items.latest() == 9
