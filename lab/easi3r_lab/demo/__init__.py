"""`easi3r-lab demo` and `bench soak`: rendered clips through the real node over DDS, measured."""

from easi3r_lab.demo.node_process import NodeFailed
from easi3r_lab.demo.session import DemoFailed, run_demo
from easi3r_lab.demo.soak import SoakFailed, run_soak

__all__ = ["DemoFailed", "NodeFailed", "SoakFailed", "run_demo", "run_soak"]
