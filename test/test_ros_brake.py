"""bag_mode with a player that is much faster: every image is processed, and few wait: it is held back."""

import threading
import time

import pytest

pytest.importorskip("easi3r_ros.msg", reason="no ROS 2 here: `make test` sets it up (or source an installed one)")

from helpers_node import FakePipeline, RunningNode  # noqa: E402
from helpers_ros import rgb_image, wait_until  # noqa: E402

from easi3r_ros.messages.schedule import TimedMessage  # noqa: E402
from easi3r_ros.messages.stand_ins import serialize  # noqa: E402
from easi3r_ros.ros import brake, player  # noqa: E402
from easi3r_ros.ros.player import PlayOptions, play  # noqa: E402

IMAGES, ROOM = 300, 24
MILLISECOND = 1_000_000


class Slow(FakePipeline):
    def push(self, frame):
        time.sleep(0.004)
        return super().push(frame)


def test_room_is_counted_in_bytes():
    assert brake.room_for(640 * 480 * 3, 4) == brake.BUDGET // 921_600
    assert brake.room_for(10**9, 4) == 4


def test_a_fast_player_waits(monkeypatch):
    size = len(rgb_image(0).data)
    monkeypatch.setattr(brake, "BUDGET", ROOM * size)
    monkeypatch.setattr(brake, "LOOK_PERIOD", 0.05)
    asked, ask = [], brake.PlayerBrake._ask
    monkeypatch.setattr(brake.PlayerBrake, "_ask", lambda self, hold: asked.append(hold) or ask(self, hold))
    running = RunningNode("-p", "bag_mode:=true", "-p", "tf_mode:=none", make_pipeline=Slow)
    wait_until(lambda: running.node._stream is not None, "the node")
    worker, most, reports = running.node._stream.worker, [0], []
    # 3 ms between images at 4 ms of work each: the queue grows slowly enough for the service to be found.
    messages = [
        TimedMessage("image", 3 * index * MILLISECOND, bytes(serialize(rgb_image((index + 1) * MILLISECOND))))
        for index in range(IMAGES)
    ]
    options = PlayOptions(wait=20.0)
    thread = threading.Thread(
        target=lambda: reports.append(play(messages, {"image": "sensor_msgs/msg/Image"}, options)), daemon=True
    )
    thread.start()

    def done():
        most[0] = max(most[0], worker.waiting)
        return worker.counts.processed == IMAGES

    wait_until(done, "every image")
    thread.join(20)
    running.close()
    assert worker.counts.dropped == 0 and ROOM // 4 < most[0] <= ROOM
    assert asked[:2] == [True, False] and len(asked) < 40, "stopped, and released"
    assert reports and reports[0].acknowledged
    assert reports[0].latest < 0.5, "what a pause makes late is not late"


def test_a_pause_that_nobody_renews_ends(monkeypatch):
    import rclpy
    from std_srvs.srv import SetBool

    monkeypatch.setattr(player, "HOLD_SECONDS", 0.2)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("easi3r_player", context=context)
    with player._Brake(node) as held:
        before = held.now()
        assert held._answer(SetBool.Request(data=True), SetBool.Response()).success
        start = time.monotonic()
        after = held.now()
        assert 0.15 < time.monotonic() - start < 2 and after - before < 0.15
    node.destroy_node()
    context.shutdown()
