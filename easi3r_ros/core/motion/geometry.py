"""Motion from geometry: what the rigid motion of the camera does not explain."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch

from easi3r_ros.core.config import MotionConfig
from easi3r_ros.core.motion.base import MotionCue
from easi3r_ros.core.types import Edge, Features, MotionEstimate, PairEvidence

C=4.0
BLUR=1.5
MODE='mean'
CARRY=0.0
class GeometryCue(MotionCue):
    name = "geometry"

    def __init__(self, config):
        self.config = config

    def estimate(self, features, evidence):
        out = {}
        newest = max(features)
        for index in (newest,):
            maps = [m for (a, b), e in evidence.items() if e.motion is not None for m in ([e.motion.a] if a == index else [])]
            if not maps: continue
            q = [m.numpy() ** 2 / (m.numpy() ** 2 + C * C) for m in maps]
            q = np.mean(q, 0) if MODE == 'mean' else np.max(q, 0)
            q = cv2.GaussianBlur(q, (0, 0), BLUR)
            p = torch.from_numpy(q)
            out[index] = MotionEstimate(index, p, p > self.config.threshold)
        return out
