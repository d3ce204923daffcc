"""`easi3r demo`: a rendered clip through the real node over DDS, measured against the truth."""

from easi3r_ros.demo.node_process import NodeFailed
from easi3r_ros.demo.run import DemoFailed, run_demo

__all__ = ["DemoFailed", "NodeFailed", "run_demo"]
