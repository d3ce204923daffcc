"""A camera of its own process for `easi3r-lab bench transport`: raw images of one size at one rate, nothing else to do.

python -m easi3r_lab.demo.transport_camera WIDTH HEIGHT RATE COUNT best_effort|reliable
"""

from __future__ import annotations

import array
import sys
import time

import cv2
import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from easi3r_ros.messages.conversions import time_message

DEPTH = 5  # as camera drivers have it
PICTURES = 12
PATIENCE = 30.0  # seconds for the node to be found


def pictures(width: int, height: int) -> list[array.array]:
    """Different views of one texture, as the bytes of rgb8 images."""
    rng = np.random.default_rng(0)
    coarse = cv2.resize(rng.integers(0, 256, (height // 16, width // 8, 3), np.uint8), (2 * width, height))
    views = [coarse[:, 8 * k : 8 * k + width] for k in range(PICTURES)]
    return [array.array("B", np.ascontiguousarray(view).tobytes()) for view in views]


def send(width: int, height: int, rate: float, count: int, reliable: bool) -> float:
    """Publishes `count` images on `image` once somebody listens; returns the rate that was reached, per second."""
    rclpy.init()
    node = rclpy.create_node("bench_camera")
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    publisher = node.create_publisher(Image, "image", QoSProfile(depth=DEPTH, reliability=reliability))
    data = pictures(width, height)
    deadline = time.monotonic() + PATIENCE
    while not publisher.get_subscription_count() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(2.5)  # until the node has learned what is offered, and asked for the same
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.frame_id = "camera"
    start = time.monotonic()
    for index in range(count):
        time.sleep(max(0.0, start + index / rate - time.monotonic()))
        message._data = data[index % PICTURES]  # the setter would copy it
        message.header.stamp = time_message(time.time_ns())
        publisher.publish(message)
    reached = (count - 1) / (time.monotonic() - start) if count > 1 else rate
    time.sleep(1.5)  # what is on its way
    node.destroy_node()
    rclpy.shutdown()
    return reached


if __name__ == "__main__":
    width, height, count = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4])
    print(f"{send(width, height, float(sys.argv[3]), count, sys.argv[5] == 'reliable'):.2f}")
