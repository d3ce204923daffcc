"""Listens to /tf and broadcasts where the camera is, on that edge of the tree which `tf_mode` names (REP-105).

Refuses where that would give a frame a second parent, and says which `tf_mode` would not.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from easi3r_ros.mapping.tf_tree import MOST_FRAMES, SECOND, NotYet, Waiting
from easi3r_ros.messages.conversions import stamp_ns, transform_message
from easi3r_ros.messages.plausible import tf_name
from easi3r_ros.ros.pulled import Pulled
from easi3r_ros.ros.tf_buffer import make_buffer

# As tf2_ros does it, but for the depth: /tf is read when it is needed, and at least ten times a second.
_DYNAMIC_QOS = QoSProfile(depth=1000)
_STATIC_QOS = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_SEND_QOS = QoSProfile(depth=100)
PERIOD = 0.1  # seconds
# Before anything is broadcast, others are listened to: so long at least, and until static transforms came, if there are
# publishers of them.
LISTEN, LISTEN_LONG = 0.5, 3.0
PATIENCE = 1.0  # seconds that an image's pose waits for the transforms at its stamp
_FRESH = 10.0  # seconds: who gave a frame a parent longer ago does so no more


class ParentWatch:
    """Knows which parents others give to frames, and what we gave ourselves. Bounded."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._static: dict[str, str] = {}
        self._moving: OrderedDict[str, dict[str, float]] = OrderedDict()  # child -> parent -> when it was heard last
        self._ours: deque[tuple[str, str, int]] = deque(maxlen=500)  # (parent, child, stamp) as we sent it
        self._our_children: set[str] = set()

    def we_send(self, transform: TransformStamped) -> None:
        """Before it is sent."""
        self._our_children.add(transform.child_frame_id)
        self._ours.append((transform.header.frame_id, transform.child_frame_id, stamp_ns(transform.header.stamp)))

    def hear(self, transforms: Iterable[TransformStamped], static: bool) -> None:
        for transform in transforms:
            child, parent = tf_name(transform.child_frame_id), tf_name(transform.header.frame_id)
            if static:
                self._static[child] = parent
            elif not (child in self._our_children and self._is_ours(parent, child, transform)):
                self._moving.setdefault(child, {})[parent] = self._clock()
                self._moving.move_to_end(child)
                if len(self._moving) > MOST_FRAMES:  # some systems broadcast ever new ones
                    self._moving.popitem(last=False)

    def _is_ours(self, parent: str, child: str, transform: TransformStamped) -> bool:
        return (parent, child, stamp_ns(transform.header.stamp)) in self._ours

    def parent(self, child: str) -> str | None:
        """What others gave it."""
        if child in self._static:
            return self._static[child]
        fresh = [p for p, when in self._moving.get(child, {}).items() if self._clock() - when < _FRESH]
        return fresh[-1] if fresh else None

    def children(self, frame: str) -> list[str]:
        """Moving frames, not ours, that others gave this parent lately."""
        found = [child for child in self._moving if child not in self._static and child not in self._our_children]
        return [child for child in found if self.parent(child) == frame]

    def chain(self, frame: str) -> list[str]:
        """The frame and all above it."""
        out = [frame]
        while (above := self.parent(out[-1])) is not None and above not in out:
            out.append(above)
        return out

    def moves(self, child: str) -> bool:
        return child not in self._static


@dataclass(frozen=True)
class TfFrames:
    """Names, as in NodeConfig."""

    map: str
    odom: str
    base: str


def fitting_mode(parents: ParentWatch, camera: str, frames: TfFrames) -> str:
    """What to set so that TF can be broadcast, for a person."""
    chain = parents.chain(camera)
    root = chain[-1]
    if frames.map in chain[1:]:
        return f"somebody else places '{camera}' in '{frames.map}' already: set tf_mode to none, and use ~/pose"
    if root == camera:
        return "tf_mode map_to_camera would work"
    if root == frames.odom:
        return "tf_mode map_to_odom would work"
    if root == frames.base:
        return "tf_mode map_to_base would work"
    if any(parents.moves(frame) for frame in chain[:-1]):
        return f"tf_mode map_to_odom with odom_frame '{root}' would work"
    return f"tf_mode map_to_base with base_frame '{root}' would work"


class TfListener:
    """What others broadcast, taken in whenever it is asked for, and ten times a second. Thread-safe."""

    def __init__(self, node: Node):
        self.lock = threading.RLock()
        self.parents = ParentWatch()
        self._buffer = make_buffer()
        self._moving = Pulled(node, TFMessage, "/tf", _DYNAMIC_QOS, overridable=False)
        self._static = Pulled(node, TFMessage, "/tf_static", _STATIC_QOS, overridable=False)
        self._since = time.monotonic()
        self._heard_static = False
        self._node = node
        self._then: list[Callable[[], None]] = []
        self._timer = node.create_timer(PERIOD, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def call_often(self, then: Callable[[], None]) -> None:
        """Ten times a second, on the executor's thread."""
        self._then.append(then)

    def hear(self) -> None:
        """Take in what came."""
        with self.lock:
            for pulled, static in ((self._static, True), (self._moving, False)):
                for message in pulled.take():
                    self._heard_static |= static
                    self.parents.hear(message.transforms, static)
                    for transform in message.transforms:
                        self._buffer.put(transform, static)

    def lookup(self, target: str, source: str, stamp: int, tolerance_ns: int = 0) -> np.ndarray:
        """(4, 4) target_from_source at a time in ns. Raises TransformError."""
        with self.lock:
            target, source = tf_name(target), tf_name(source)
            return np.eye(4) if target == source else self._buffer.lookup(target, source, stamp, tolerance_ns)

    @property
    def settled(self) -> bool:
        """Whether everybody had the time to be heard."""
        waited = time.monotonic() - self._since
        return waited > (LISTEN if self._heard_static or not self._static.publishers else LISTEN_LONG)

    def close(self) -> None:
        self._node.destroy_timer(self._timer)
        self._moving.close()
        self._static.close()

    def _tick(self) -> None:
        self.hear()
        for then in self._then:
            then()


class TfBroadcaster:
    """Sends map -> odom, base or camera, so that the camera is where the results say. Thread-safe.

    warn(text): for a person; called once per frame that cannot be given a parent.
    """

    def __init__(
        self,
        node: Node,
        listener: TfListener,
        mode: str,
        frames: TfFrames,
        tolerance: float,
        warn: Callable[[str], None],
    ):
        """mode: `tf_mode`, but none. tolerance: `tf_tolerance`, seconds."""
        self._node, self._listener, self._mode, self._frames, self._warn = node, listener, mode, frames, warn
        self._tolerance_ns = int(tolerance * SECOND)
        self._warned: set[str] = set()
        self._waiting: Waiting[tuple[Header, np.ndarray]] = Waiting(PATIENCE)
        self._given_up = 0
        self._last_ns: int | None = None  # stamp of the last image
        self._publisher = node.create_publisher(TFMessage, "/tf", _SEND_QOS)
        listener.call_often(self._flush)

    def send(self, map_from_cam: np.ndarray, header: Header) -> None:
        """Broadcast the (4, 4) pose of the camera at an image, as soon as everything for it is there; or refuse.

        header: the image's.
        """
        stamp = stamp_ns(header.stamp)
        with self._listener.lock:
            if self._last_ns is not None and stamp <= self._last_ns:
                return  # tf2 knows but one transform of a time
            self._last_ns = stamp
            self._waiting.add((header, map_from_cam), time.monotonic())
            self._listener.hear()
            self._flush()

    def restart(self) -> None:
        """A new world: what waits belongs to the old one."""
        with self._listener.lock:
            self._waiting.clear()
            self._last_ns = None

    def close(self) -> None:
        self._node.destroy_publisher(self._publisher)

    def _flush(self) -> None:
        with self._listener.lock:
            if not len(self._waiting) or not self._listener.settled:
                return
            for (header, map_from_cam), cam_from_child in self._waiting.resolve(self._cam_from_child, time.monotonic()):
                self._broadcast(header, map_from_cam @ cam_from_child)
            if self._waiting.given_up > self._given_up:
                self._given_up = self._waiting.given_up
                self._warn(
                    f"no TF {self._frames.map} -> {self._child('the camera')} for some images: {self._waiting.why}"
                )

    def _child(self, camera: str) -> str:
        return {"map_to_odom": self._frames.odom, "map_to_base": self._frames.base}.get(self._mode, tf_name(camera))

    def _cam_from_child(self, item: tuple[Header, np.ndarray], last: bool) -> np.ndarray:
        """(4, 4) at the image's stamp. Raises TransformError."""
        header, _ = item
        child = self._child(header.frame_id)
        if self._problem(header.frame_id, child):  # is said by `_broadcast`
            return np.eye(4)
        tolerance = self._tolerance_ns if last else 0
        try:
            return self._listener.lookup(header.frame_id, child, stamp_ns(header.stamp), tolerance)
        except NotYet as error:
            raise NotYet(
                f"{error}. {fitting_mode(self._listener.parents, tf_name(header.frame_id), self._frames)}"
            ) from error

    def _broadcast(self, header: Header, map_from_child: np.ndarray) -> None:
        child = self._child(header.frame_id)
        problem = self._problem(header.frame_id, child)
        if problem:
            if child not in self._warned:
                self._warned.add(child)
                self._warn(f"no TF {self._frames.map} -> {child}: {problem}")
            return
        in_map = Header(stamp=header.stamp, frame_id=self._frames.map)
        transform = transform_message(map_from_child, in_map, child)
        self._listener.parents.we_send(transform)
        self._publisher.publish(TFMessage(transforms=[transform]))

    def _problem(self, camera: str, child: str) -> str:
        if not camera:
            return "the images have no frame_id; set one in the camera driver, or set tf_mode to none"
        if child == self._frames.map:
            return f"the images have frame_id '{child}', which is map_frame; change one of them"
        parents = self._listener.parents
        other = parents.parent(child)
        if other is not None:
            whose = " from another broadcaster" if other == self._frames.map else ""
            advice = fitting_mode(parents, tf_name(camera), self._frames)
            return f"'{child}' already has the parent '{other}'{whose}, and a frame has only one. {advice}"
        if child in parents.chain(self._frames.map):
            return f"'{child}' is above '{self._frames.map}' in TF: that would be a circle"
        return ""
