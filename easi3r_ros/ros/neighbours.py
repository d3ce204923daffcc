"""Other nodes on the same graph that share what only one may have: the name, or the world frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from rclpy.node import Node

_STATUS = "easi3r_ros/msg/WindowStatus"
# To others, a node that was killed lives until its lease is over (20 s with Fast DDS): its successor is no second one.
PATIENCE = 30.0  # seconds


class Neighbours:
    """To be asked once a second. warn(text): for a person; called once per finding."""

    def __init__(self, node: Node, warn: Callable[[str], None], now: Callable[[], float] = time.monotonic):
        self._node, self._warn, self._now = node, warn, now
        self._namesake_since: float | None = None
        self._said: set[str] = set()

    def check(self, map_frame: str, others_in_map: Iterable[str]) -> None:
        """others_in_map: moving frames to which others give the parent map_frame on /tf."""
        self._look_for_namesake()
        others = ", ".join(f"'{frame}'" for frame in sorted(others_in_map))
        if others and self._has_sibling():
            self._say(
                f"'{map_frame}' also has the moving child {others}, and there is another node of easi3r_ros: two maps "
                "of one name, with origins and units of their own. Give each a map_frame of its own, or set tf_mode "
                "to none"
            )

    def _look_for_namesake(self) -> None:
        node = self._node
        mine = (node.get_name(), node.get_namespace())
        if list(node.get_node_names_and_namespaces()).count(mine) < 2:
            self._namesake_since = None
        elif self._namesake_since is None:
            self._namesake_since = self._now()
        elif self._now() - self._namesake_since > PATIENCE:
            self._say(
                f"another node is called {node.get_fully_qualified_name()}, too: their topics, parameters and services "
                "are mixed up; start one in another namespace (-r __ns:=/NAME) or by another name (-r __node:=NAME)"
            )

    def _has_sibling(self) -> bool:
        own = f"{self._node.get_fully_qualified_name()}/"
        topics = self._node.get_topic_names_and_types()
        found = [name for name, types in topics if _STATUS in types and not name.startswith(own)]
        return any(self._node.count_publishers(name) for name in found)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._warn(text)
