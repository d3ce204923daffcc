"""`easi3r-lab demo`: a rendered clip through the real node over DDS, measured against the truth."""

from easi3r_lab.demo.node_process import NodeFailed
from easi3r_lab.demo.session import DemoFailed, run_demo

__all__ = ["DemoFailed", "NodeFailed", "run_demo"]
