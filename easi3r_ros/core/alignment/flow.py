"""Optical flow for the flow term of the alignment, and what it says about a pair: what is hidden, and what moves.

Flow is (2, h, w) float32: (u, v) in pixels from where a pixel is to where it goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch

from easi3r_ros.core.geometry import pixel_grid, project, transform, unproject

CYCLE_PX = 1.5  # the way there and back misses by more where something is hidden
DYNAMIC_PX = 1.5  # tau of METHOD 9: the error of DIS on static pixels of rendered clips is below in 19 of 20
RAFT_MULTIPLE = 8  # pixels: RAFT wants sides that are multiples of this
RAFT_SMALLEST = 128  # pixels: at an eighth of less, its correlation pyramid has no room


class FlowEstimator(Protocol):
    """Anything that finds the optical flow from one image to another."""

    def __call__(self, source: np.ndarray, target: np.ndarray) -> torch.Tensor:
        """(h, w, 3) uint8 RGB images -> (2, h, w) float32 flow on the pixels of `source`."""


class DisFlow:
    """Dense inverse search (Kroeger et al., ECCV 2016) from OpenCV: no weights, a few ms per pair on one core."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._dis.setFinestScale(0)  # the presets stop at half resolution

    def __call__(self, source: np.ndarray, target: np.ndarray) -> torch.Tensor:
        """Raises ValueError for images of different sizes."""
        _same_size(source, target)
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (source, target)]
        return torch.from_numpy(self._dis.calc(*grey, None)).movedim(-1, 0).contiguous()


class RaftFlow:
    """RAFT (Teed and Deng, ECCV 2020) as torchvision has it, with weights from a file: nothing is downloaded."""

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu"):
        """weights: file with a state dict of torchvision's raft_large.

        Raises RuntimeError without a working torchvision, ValueError if the file is missing or holds something else.
        """
        try:
            from torchvision.models.optical_flow import raft_large
        except (ImportError, RuntimeError) as error:  # RuntimeError: built for another PyTorch
            raise RuntimeError(
                "RAFT needs a torchvision that fits this PyTorch: pip install torchvision, or use DIS, which needs none"
            ) from error
        if not Path(weights).is_file():
            raise ValueError(f"no weights of RAFT at {weights}: give a file with the state dict of raft_large")
        self._model = raft_large(weights=None).to(device).eval()
        try:
            self._model.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
        except (RuntimeError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{weights} is no state dict of raft_large") from error
        self._device = device

    @torch.inference_mode()
    def __call__(self, source: np.ndarray, target: np.ndarray) -> torch.Tensor:
        """Raises ValueError for images of different sizes."""
        _same_size(source, target)
        height, width = source.shape[:2]
        size = [max(RAFT_SMALLEST, -(-side // RAFT_MULTIPLE) * RAFT_MULTIPLE) for side in (height, width)]
        padding = ((0, size[0] - height), (0, size[1] - width), (0, 0))
        padded = [np.pad(image, padding, mode="edge") for image in (source, target)]
        images = [torch.from_numpy(image).movedim(-1, 0)[None].to(self._device) / 127.5 - 1.0 for image in padded]
        return self._model(*images)[-1][0, :, :height, :width].cpu()


def flows_of_pairs(
    images: Sequence[np.ndarray], edges: Iterable[tuple[int, int]], estimate: FlowEstimator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `reference.Problem` wants: (P, 2, h, w) flow a -> b of every pair, and b -> a.

    images: (h, w, 3) uint8 RGB, by frame. estimate: default DIS. Each direction between two frames is computed once.
    """
    estimate = estimate or DisFlow()
    edges = list(edges)
    directed = {edge for a, b in edges for edge in ((a, b), (b, a))}
    flow = {(a, b): estimate(images[a], images[b]) for a, b in sorted(directed)}
    return torch.stack([flow[a, b] for a, b in edges]), torch.stack([flow[b, a] for a, b in edges])


def occlusion_mask(flow: torch.Tensor, flow_back: torch.Tensor, tolerance: float = CYCLE_PX) -> torch.Tensor:
    """(h, w) bool, True where a pixel leaves the other image or where the way there and back misses by > tolerance px.

    flow: (2, h, w) to the other image; flow_back: (2, h, w) from there.
    """
    height, width = flow.shape[1:]
    target = pixel_grid(height, width, flow.device) + flow.movedim(0, -1)
    outside = (target < 0).any(-1) | (target[..., 0] > width - 1) | (target[..., 1] > height - 1)
    scale = 2.0 / (target.new_tensor([width, height]) - 1).clamp(min=1)
    back = torch.nn.functional.grid_sample(
        flow_back[None], (target * scale - 1)[None], mode="bilinear", padding_mode="border", align_corners=True
    )[0]
    return outside | ~((flow + back).norm(dim=0) <= tolerance)


def camera_flow(
    depth: torch.Tensor, K: torch.Tensor, b_from_a: torch.Tensor, K_b: torch.Tensor | None = None
) -> torch.Tensor:
    """(2, h, w) flow from camera a to camera b if nothing but the camera moved; NaN where depth is unknown or behind b.

    depth: (h, w) of a; K, K_b: (3, 3) intrinsics of a and b (default: the same); b_from_a: (4, 4).
    """
    points = transform(b_from_a.to(depth), unproject(depth, K))
    pixels = project(points, K if K_b is None else K_b)
    flow = (pixels - pixel_grid(*depth.shape, depth.device)).movedim(-1, 0)
    return torch.where(points[..., 2] > 0, flow, torch.nan)


def dynamic_mask(
    flow: torch.Tensor, camera: torch.Tensor, occluded: torch.Tensor | None = None, tau: float = DYNAMIC_PX
) -> torch.Tensor:
    """(h, w) bool: |flow - camera| > tau pixels (METHOD 9). Unknown (NaN) and occluded pixels count as static.

    flow: (2, h, w) estimated; camera: (2, h, w) of `camera_flow`; occluded: (h, w) of `occlusion_mask`.
    """
    moving = (flow - camera).norm(dim=0) > tau
    return moving if occluded is None else moving & ~occluded


def _same_size(source: np.ndarray, target: np.ndarray) -> None:
    if source.shape != target.shape:
        raise ValueError(f"flow needs two images of one size, got {source.shape} and {target.shape}")
