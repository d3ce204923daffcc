"""A bounded map of the static world: cells that were seen to be full, and not seen through since.

What moves leaves ghosts where a mask misses it, or comes too late: it stood still and left. Every new image is
therefore also asked what it speaks against: a cell nearer than what is seen in its direction is empty by now, and so is
one where something moves.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields

import cv2
import numpy as np

from easi3r_ros.core.config import MapConfig
from easi3r_ros.core.types import FrameResult, PointCloud

PERIOD_NS = 100_000_000  # images nearer in time than this say the same
COLUMNS = 160  # rays across an image, about
METRES = 0.05  # default edge of a cell
SHARE = 80  # of the first median depth, where the unit is not known
FULL, SURE, MOST = 1.0, 2.0, 6.0  # evidence by one image, from which a cell is in the map, and at most
EMPTY = 1.0  # evidence by one image that sees through a cell
MARGIN = 0.08  # relative error of depth: only what is nearer by more is seen through
GROWN = 0.03  # share of the image's width by which masks are widened: outlines are where ghosts begin
HALF = 1 << 20  # cells from the origin along an axis; those beyond are left out
FREED = 0.1  # share of a full map that makes room at once


@dataclass
class _Cells:
    """N cells in the order of their keys."""

    keys: np.ndarray  # (N,) int64
    xyz: np.ndarray  # (N, 3) float32 mean of the points
    rgb: np.ndarray  # (N, 3) float32 mean
    count: np.ndarray  # (N,) float32 images that saw it, at most MOST_AVERAGED
    evidence: np.ndarray  # (N,) float32
    seen_ns: np.ndarray  # (N,) int64 last time

    def __len__(self) -> int:
        return len(self.keys)

    def kept(self, which: np.ndarray) -> _Cells:
        return _Cells(*(getattr(self, item.name)[which] for item in fields(self)))

    def merged(self, others: _Cells) -> _Cells:
        """Together with cells of other keys."""
        new = np.searchsorted(self.keys, others.keys) + np.arange(len(others))  # where they come to lie
        old = np.ones(len(self) + len(others), bool)
        old[new] = False

        def both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            out = np.empty((len(old), *first.shape[1:]), first.dtype)
            out[old], out[new] = first, second
            return out

        return _Cells(*(both(getattr(self, item.name), getattr(others, item.name)) for item in fields(self)))


MOST_AVERAGED = 50.0  # afterwards a cell follows what it sees


def _no_cells() -> _Cells:
    return _Cells(
        np.zeros(0, np.int64),
        np.zeros((0, 3), np.float32),
        np.zeros((0, 3), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
    )


class VoxelMap:
    """Thread-safe: read by others while one writes. Points are in the world frame and units of the results."""

    def __init__(self, config: MapConfig, min_confidence: float, carve: bool = True):
        """min_confidence: of a depth that counts. carve: whether images speak against cells at all."""
        self._config, self._min_confidence, self._carve = config, min_confidence, carve
        self._lock = threading.Lock()
        self.restart()

    def restart(self) -> None:
        """A new world, or another unit: nothing of before belongs to it."""
        with self._lock:
            self._cells = _no_cells()
            self._voxel = self._config.voxel_size
            self._last_ns: int | None = None
            self.overflowed = False  # whether cells had to make room

    @property
    def voxel_size(self) -> float:
        """Edge of a cell; 0: not known yet."""
        return self._voxel

    def __len__(self) -> int:
        """Cells, those that are not sure yet included."""
        return len(self._cells)

    def add(self, result: FrameResult) -> bool:
        """Take in an image with a pose. False: too soon after the last one, or it has no depth."""
        stamp = result.frame.stamp_ns
        if self._last_ns is not None and 0 <= stamp - self._last_ns < PERIOD_NS:
            return False
        view = _View.of(result, self._min_confidence)
        if not view.static.any():
            return False
        self._last_ns = stamp
        if not self._voxel:
            self._voxel = METRES if result.metric else float(np.median(view.depth[view.static])) / SHARE
        found = self._found(*view.static_points(), stamp)
        with self._lock:
            if self._carve:
                self._take_away(view)
            self._cells = self._added(found)
            self._make_room()
        return True

    def points(self) -> PointCloud:
        """What is sure, in the world; confidence: how many images saw it."""
        with self._lock:
            sure = self._cells.kept(self._cells.evidence >= SURE)
        return PointCloud(sure.xyz, np.rint(sure.rgb).astype(np.uint8), sure.count)

    def _found(self, xyz: np.ndarray, rgb: np.ndarray, stamp: int) -> _Cells:
        """Cells of one image alone."""
        index = np.floor(xyz / self._voxel)
        inside = (np.abs(index) < HALF).all(axis=1)
        index, xyz, rgb = (index[inside] + HALF).astype(np.int64), xyz[inside], rgb[inside]
        packed = (index[:, 0] << 42) | (index[:, 1] << 21) | index[:, 2]
        keys, which, counts = np.unique(packed, return_inverse=True, return_counts=True)
        means = [np.bincount(which, values, len(keys)) / counts for values in (*xyz.T, *rgb.T)]
        ones = np.ones(len(keys), np.float32)
        place, colour = np.stack(means[:3], -1).astype(np.float32), np.stack(means[3:], -1).astype(np.float32)
        return _Cells(keys, place, colour, ones, ones * FULL, np.full(len(keys), stamp, np.int64))

    def _added(self, found: _Cells) -> _Cells:
        cells = self._cells
        at = np.searchsorted(cells.keys, found.keys)
        known = at < len(cells)
        known[known] = cells.keys[at[known]] == found.keys[known]
        old, again = at[known], found.kept(known)
        cells.count[old] = np.minimum(cells.count[old] + 1, MOST_AVERAGED)
        share = 1 / cells.count[old][:, None]
        cells.xyz[old] += share * (again.xyz - cells.xyz[old])
        cells.rgb[old] += share * (again.rgb - cells.rgb[old])
        cells.evidence[old] = np.minimum(cells.evidence[old] + FULL, MOST)
        cells.seen_ns[old] = again.seen_ns
        return cells.merged(found.kept(~known))

    def _take_away(self, view: _View) -> None:
        cells = self._cells
        cells.evidence -= EMPTY * view.contradicts(cells.xyz)
        if (cells.evidence <= 0).any():
            self._cells = cells.kept(cells.evidence > 0)

    def _make_room(self) -> None:
        surplus = len(self._cells) - self._config.max_voxels
        if surplus <= 0:
            return
        self.overflowed = True
        count = min(len(self._cells), surplus + int(FREED * self._config.max_voxels))
        oldest = np.argpartition(self._cells.seen_ns, count - 1)[:count]
        keep = np.ones(len(self._cells), bool)
        keep[oldest] = False
        self._cells = self._cells.kept(keep)


@dataclass(frozen=True)
class _View:
    """One image, thinned out."""

    depth: np.ndarray  # (h, w) float32 z-depth, world units; NaN: not known
    nearest: np.ndarray  # (h, w) float32 the least depth around a pixel; inf: not known
    static: np.ndarray  # (h, w) bool: known, and far from what moves
    moves: np.ndarray  # (h, w) bool
    rgb: np.ndarray  # (h, w, 3) uint8
    K: np.ndarray  # (3, 3) of the thin image
    world_from_cam: np.ndarray  # (4, 4)

    @classmethod
    def of(cls, result: FrameResult, min_confidence: float) -> _View:
        step = max(1, round(result.mask.shape[1] / COLUMNS))
        thin = (slice(step // 2, None, step),) * 2
        reach = max(1, round(GROWN * result.mask.shape[1]))
        wide = cv2.dilate(result.mask.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8))[thin] > 0
        known = np.isfinite(result.depth[thin]) & (result.depth[thin] > 0)
        known &= result.confidence[thin] >= min_confidence
        depth = np.where(known, result.depth[thin], np.float32(np.nan))
        nearest = cv2.erode(np.where(known, depth, np.float32(np.inf)), np.ones((3, 3), np.uint8))
        K = result.K.copy()
        K[:2, 2] -= step // 2
        K[:2] /= step
        return cls(depth, nearest, known & ~wide, result.mask[thin], result.frame.image[thin], K, result.world_from_cam)

    def static_points(self) -> tuple[np.ndarray, np.ndarray]:
        """((N, 3) float64 in the world, (N, 3) uint8 colours)."""
        v, u = np.nonzero(self.static)
        z = self.depth[v, u].astype(np.float64)
        (fx, _, cx), (_, fy, cy), _ = self.K
        points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], -1)
        return points @ self.world_from_cam[:3, :3].T + self.world_from_cam[:3, 3], self.rgb[v, u]

    def contradicts(self, xyz: np.ndarray) -> np.ndarray:
        """(N,) bool: whether the image shows that there is nothing, or nothing that stays, at (N, 3) world points."""
        rotation, position = self.world_from_cam[:3, :3], self.world_from_cam[:3, 3]
        camera = (xyz - position.astype(np.float32)) @ rotation.astype(np.float32)
        z = camera[:, 2]
        height, width = self.depth.shape
        (fx, _, cx), (_, fy, cy), _ = self.K
        with np.errstate(all="ignore"):
            u, v = fx * camera[:, 0] / z + cx, fy * camera[:, 1] / z + cy
        seen = (z > 0) & (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
        u, v, z = np.rint(u[seen]).astype(int), np.rint(v[seen]).astype(int), z[seen]
        nearest, moves = self.nearest[v, u], self.moves[v, u]
        # What lies behind a mover is only hidden by it.
        against = np.isfinite(nearest) & (
            z < np.nan_to_num(nearest, posinf=0.0) * np.where(moves, 1 + MARGIN, 1 - MARGIN)
        )
        out = np.zeros(len(xyz), bool)
        out[np.flatnonzero(seen)[against]] = True
        return out
