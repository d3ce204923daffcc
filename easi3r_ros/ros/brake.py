"""Holds a player back while bag_mode has enough to do: DDS does not before thousands of images wait in memory.

`easi3r play` and `ros2 bag play` have a service for it. Other publishers are held back by the middleware alone, late.
"""

from __future__ import annotations

import importlib
import threading
import time
from typing import Any

from rclpy.node import Node
from std_srvs.srv import SetBool

SERVICE = "easi3r_player/pause"
ROSBAG2 = "rosbag2_interfaces/srv/Pause"
BUDGET = 256 << 20  # bytes of images that may wait here
HOLD, RELEASE = 1 / 2, 1 / 8  # shares of the room that are taken when the player is stopped, and when it goes on
REPEAT = 5.0  # seconds between two requests for the same: a player goes on when nobody asks any more
LOOK_PERIOD = 0.5  # seconds between two looks at the graph


def room_for(image_bytes: int, least: int) -> int:
    """How many images of a size may wait."""
    return max(least, BUDGET // max(1, image_bytes))


class PlayerBrake:
    """Stops and releases every player that it finds. Thread-safe."""

    def __init__(self, node: Node):
        self._node = node
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        self._held = False
        self._looked = -LOOK_PERIOD
        self._asked = 0.0

    def weigh(self, waiting: int, room: int) -> None:
        """To be told how many images wait, and how many may."""
        with self._lock:
            if not self._held and waiting >= HOLD * room:
                self._held = self._ask(True)
            elif self._held and waiting <= RELEASE * room:
                self._held = not self._ask(False)
            elif self._held and time.monotonic() - self._asked > REPEAT:
                self._ask(True)

    def close(self) -> None:
        """Let the players go on."""
        with self._lock:
            if self._held:
                self._ask(False)
            for client in self._clients.values():
                self._node.destroy_client(client)
            self._clients, self._held = {}, False

    def _ask(self, hold: bool) -> bool:
        """Whether anybody was asked."""
        self._look()
        self._asked, asked = time.monotonic(), False
        for name, client in self._clients.items():
            if not client.service_is_ready():
                continue
            if name.endswith(SERVICE):
                client.call_async(SetBool.Request(data=hold))
                asked = True
            elif name.endswith("/pause" if hold else "/resume"):
                client.call_async(client.srv_type.Request())
                asked = True
        return asked

    def _look(self) -> None:
        if time.monotonic() - self._looked < LOOK_PERIOD:
            return
        self._looked = time.monotonic()
        for name, types in self._node.get_service_names_and_types():
            if name in self._clients:
                continue
            if name.endswith(f"/{SERVICE}") and "std_srvs/srv/SetBool" in types:
                self._clients[name] = self._node.create_client(SetBool, name)
            elif ROSBAG2 in types and (kinds := _rosbag2()) is not None:
                self._clients[name] = self._node.create_client(kinds.Pause, name)
                resume = f"{name.removesuffix('/pause')}/resume"
                self._clients[resume] = self._node.create_client(kinds.Resume, resume)


def _rosbag2() -> Any | None:
    """The module of rosbag2's services, which is there where rosbag2 is."""
    try:
        return importlib.import_module("rosbag2_interfaces.srv")
    except ImportError:
        return None
