"""A frame's depth map and mask -> the point clouds of what stands and of what moves."""

from __future__ import annotations

import numpy as np

from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.types import FrameResult, PointCloud


def split_cloud(result: FrameResult, config: CloudConfig) -> tuple[PointCloud, PointCloud]:
    """(static, dynamic) points of a frame, in the camera's optical frame, world units. Only finite points."""
    step = slice(config.stride // 2, None, config.stride)
    depth, confidence = result.depth[step, step], result.confidence[step, step]
    mask, rgb = result.mask[step, step], result.frame.image[step, step]
    height, width = result.depth.shape
    v, u = np.meshgrid(np.arange(height)[step], np.arange(width)[step], indexing="ij")
    good = np.isfinite(depth) & (depth > 0) & (confidence >= config.min_confidence)
    if config.max_depth > 0:
        good &= depth <= config.max_depth
    (fx, _, cx), (_, fy, cy), _ = result.K
    xyz = np.stack([(u - cx) / fx * depth, (v - cy) / fy * depth, depth], -1).astype(np.float32)
    static, dynamic = good & ~mask, good & mask
    return tuple(PointCloud(xyz[sel], rgb[sel], confidence[sel]) for sel in (static, dynamic))
