"""Easi3R as a real-time ROS 2 perception node: dynamic masks, camera pose, static and dynamic point clouds."""

import pkgutil

# The generated message package `easi3r_ros.msg` lives in the install space, this code perhaps in the checkout:
# both must be importable under one name (docs/development.md).
__path__ = pkgutil.extend_path(__path__, __name__)
__version__ = "0.1.0"
