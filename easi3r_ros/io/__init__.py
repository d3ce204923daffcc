"""Frames from bags, videos and image folders; results to bags, trajectories, clouds, masks and videos. Needs no ROS."""

from easi3r_ros.io.opener import open_source
from easi3r_ros.io.sources import FrameSource, SourceError

__all__ = ["FrameSource", "SourceError", "open_source"]
