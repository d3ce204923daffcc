"""Moving things over time: which of an image's segments is which of those known, where it is and how fast.

Who is who is decided in the image, where outlines are sharp, by overlap with where a track is expected; in space, where
depth is known, a Kalman filter of constant velocity follows the centroid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from easi3r_ros.core.config import CloudConfig, ObjectConfig
from easi3r_ros.core.types import FrameResult
from easi3r_ros.mapping.segments import Segment, extent, find_segments

# Change of velocity per second, relative to the distance from the camera, so that it holds in any unit: a person at 5 m
# changes theirs by 1.2 m/s within a second.
RESTLESS = 0.25
FIRST_SPEED = 0.2  # standard deviation of the velocity at first sight, distances per second
GATE = 16.3  # squared Mahalanobis distance of 3 dimensions that one in a thousand exceeds
FARTHEST = -0.5  # overlap (1: same box, -1: far apart) of a segment and an expected box that may still be one thing
PULL = 0.5  # share of a box's observed movement that its expected movement takes over
SHRINKS = 0.1  # share of the usual area of its box that a new image adds
ALIKE = 0.7  # seconds for which errors of distance are alike
FOLLOWS = 0.3  # share of the size of its box that a new image adds
# What a segment says about its errors is a guess; each track learns how large they are, as a factor of the variance.
LEARNS, FACTORS = 0.1, (0.02, 10.0)
MISPLACED = 1.0  # what being at the wrong place in space costs, beside 1 - overlap


@dataclass(frozen=True)
class MovingObject:
    """One thing that moves, as known at the time of an image. World frame and units."""

    id: int  # from 1, never used again while the node runs
    age: float  # seconds since first sight
    hits: int  # images that showed it
    seen: bool  # in this very image; else where it is expected
    centroid: np.ndarray  # (3,) of what is seen of it
    velocity: np.ndarray  # (3,) per second
    covariance: np.ndarray  # (6, 6) of centroid and velocity
    box_centre: np.ndarray  # (3,) of the box along the world's axes around what is seen of it
    box_size: np.ndarray  # (3,)


class CentroidFilter:
    """Kalman filter of (6,) position and velocity, constant velocity with white acceleration."""

    def __init__(self, position: np.ndarray, covariance: np.ndarray, distance: float):
        """position: (3,); covariance: (3, 3) of it; distance: from the camera, which sets what speeds are usual."""
        self.state = np.concatenate([position, np.zeros(3)])
        self.covariance = np.zeros((6, 6))
        self.covariance[:3, :3] = covariance
        self.covariance[3:, 3:] = np.eye(3) * (FIRST_SPEED * distance) ** 2
        self._acceleration = RESTLESS * distance
        self.factor = 1.0  # of the measurements' covariance, as learned

    def predict(self, seconds: float) -> None:
        step, q = np.eye(6), self._acceleration**2
        step[:3, 3:] = np.eye(3) * seconds
        noise = np.kron([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]], np.eye(3)) * q
        self.state = step @ self.state
        self.covariance = step @ self.covariance @ step.T + noise

    def distance(self, position: np.ndarray, covariance: np.ndarray) -> float:
        """Squared Mahalanobis distance of a measurement."""
        off = position - self.state[:3]
        return float(off @ np.linalg.solve(self.covariance[:3, :3] + self.factor * covariance, off))

    def update(self, position: np.ndarray, covariance: np.ndarray, distance: float) -> None:
        """covariance: (3, 3) of the measurement, as far as known."""
        surprise = min(self.distance(position, covariance) / 3, FACTORS[1])  # 1 on average, if covariances are right
        self.factor = float(np.clip(self.factor * (1 + LEARNS * (surprise - 1)), *FACTORS))
        covariance = self.factor * covariance
        gain = np.linalg.solve(self.covariance[:3, :3] + covariance, self.covariance[:3]).T  # (6, 3)
        self.state = self.state + gain @ (position - self.state[:3])
        kept = np.eye(6)
        kept[:, :3] -= gain
        # Joseph's form stays symmetric and positive.
        self.covariance = kept @ self.covariance @ kept.T + gain @ covariance @ gain.T
        self._acceleration = RESTLESS * distance


class Track:
    """One thing, from first sight until it is given up."""

    def __init__(self, id_: int, segment: Segment, seconds: float):
        self.id, self.first, self.last = id_, seconds, seconds
        self.hits = 1
        self.box = segment.box
        self._usual_area = _area(segment.box)
        self._whole = 1.0  # share of its usual box that the last image shows: less where something hides it
        self._flow = np.zeros(2)  # pixels per second of the box's centre
        self.filter: CentroidFilter | None = None  # None: depth was never known
        self.box_offset, self.box_size = np.zeros(3), np.zeros(3)  # of the box, from the centroid
        self._ray, self._distance, self._error = np.zeros(3), 1.0, 0.0  # to it when it was last placed, world

    def expected_box(self, seconds: float) -> np.ndarray:
        return self.box + np.tile(self._flow * (seconds - self.last), 2)

    def see(self, segment: Segment, seconds: float) -> None:
        self._whole = min(1.0, _area(segment.box) / self._usual_area)
        self._usual_area += SHRINKS * (_area(segment.box) - self._usual_area)
        if seconds > self.last:
            moved = (_centre(segment.box) - _centre(self.box)) / (seconds - self.last)
            self._flow += (PULL if self.hits > 1 else 1.0) * self._whole**4 * (moved - self._flow)
        self.box, self.last = segment.box, seconds
        self.hits += 1

    def place(self, segment: Segment, world_from_cam: np.ndarray) -> None:
        """Take in where it is. The filter has been brought to the time of the image."""
        rotation, distance = world_from_cam[:3, :3], float(np.linalg.norm(segment.centroid))
        position = rotation @ segment.centroid + world_from_cam[:3, 3]
        self._ray, self._distance = rotation @ segment.centroid / distance, distance
        # Of a thing half hidden, the middle of what is seen is beside its own.
        hidden = (1 - self._whole) * np.linalg.norm(self.box_size) / 2
        covariance = rotation @ segment.covariance() @ rotation.T + hidden**2 * np.eye(3)
        centre, size = extent(segment.points @ rotation.T + world_from_cam[:3, 3])
        if self.filter is None or self.filter.distance(position, covariance) > 4 * GATE:
            # It was never known where, or another place in space is meant by now than the one that was followed.
            self.filter = CentroidFilter(position, covariance, distance)
            self._error = distance * segment.error
            self.box_offset, self.box_size = centre - position, size
            return
        self.filter.update(position, covariance, distance)
        self._error = distance * segment.error * math.sqrt(self.filter.factor)
        self.box_offset += FOLLOWS * (centre - position - self.box_offset)
        self.box_size += FOLLOWS * (size - self.box_size)

    def _alike(self) -> np.ndarray:
        """(3, 3) covariance of the velocity by errors of distance that are alike from image to image.

        The filter does not see them: what is taken for nearer than it is seems to go too slowly, and what comes to be
        taken for farther seems to go away.
        """
        velocity = self.filter.state[3:]
        across = velocity - self._ray * (self._ray @ velocity)
        along = self._error / ALIKE * self._ray
        relative = self._error / self._distance
        return np.outer(along, along) + relative**2 * np.outer(across, across)

    def as_object(self, seconds: float) -> MovingObject:
        state, covariance = self.filter.state, self.filter.covariance.copy()
        covariance[3:, 3:] += self._alike()
        return MovingObject(
            self.id,
            seconds - self.first,
            self.hits,
            self.last == seconds,
            state[:3].copy(),
            state[3:].copy(),
            covariance,
            state[:3] + self.box_offset,
            self.box_size.copy(),
        )


class ObjectTracker:
    """Follows what moves from result to result. Not thread-safe; bounded."""

    def __init__(self, config: ObjectConfig, clouds: CloudConfig):
        """clouds: as `find_segments`."""
        self._next_id = 1
        self.reconfigure(config, clouds)
        self.restart()

    def reconfigure(self, config: ObjectConfig, clouds: CloudConfig) -> None:
        """Apply changed live settings."""
        self._config, self._clouds = config, clouds

    def restart(self) -> None:
        """A new world: nothing of the old one is followed; ids go on, so that none is used twice."""
        self._tracks: list[Track] = []
        self._seconds: float | None = None

    def lose_places(self) -> None:
        """Lengths or axes are others from now on: who is who stays known, where everything is does not."""
        for track in self._tracks:
            track.filter = None

    def update(
        self, result: FrameResult, ignored: np.ndarray | None = None, placed: bool = True
    ) -> tuple[list[MovingObject], np.ndarray]:
        """Everything that moves now, and (H, W) int32: its id where it is seen, 0 elsewhere.

        placed: whether the pose and the depth are known and can be compared with those before. Without, things keep
        their ids, but nothing is said of where they are. ignored: as `find_segments`. Results must come in their order.
        """
        seconds = result.frame.stamp_ns / 1e9
        segments, numbers = find_segments(result, self._config, self._clouds, ignored)
        self._predict(seconds)
        world_from_cam = result.world_from_cam if placed else None
        matches = self._match(segments, seconds, world_from_cam)
        ids = np.zeros(len(segments) + 1, np.int32)
        for index, segment in enumerate(segments):
            track = matches.get(index)
            if track is None:
                track = Track(self._next_id, segment, seconds)
                self._next_id += 1
                self._tracks.append(track)
            else:
                track.see(segment, seconds)
            if placed and segment.centroid is not None:
                track.place(segment, world_from_cam)
            ids[index + 1] = track.id
        self._tracks = [track for track in self._tracks if seconds - track.last <= self._config.keep]
        known = [t for t in self._tracks if t.filter is not None and t.hits >= self._config.min_hits]
        return [track.as_object(seconds) for track in known] if placed else [], ids[numbers]

    def _predict(self, seconds: float) -> None:
        elapsed = 0.0 if self._seconds is None else max(0.0, seconds - self._seconds)
        self._seconds = seconds
        for track in self._tracks:
            if track.filter is not None:
                track.filter.predict(elapsed)

    def _match(self, segments: list[Segment], seconds: float, world_from_cam: np.ndarray | None) -> dict[int, Track]:
        """Index of a segment -> its track; the cheapest way to give each at most one."""
        if not segments or not self._tracks:
            return {}
        expected = np.stack([track.expected_box(seconds) for track in self._tracks])
        cost = 1.0 - overlap(np.stack([segment.box for segment in segments]), expected)  # 0 to 2
        possible = cost < 1.0 - FARTHEST
        for i, segment in enumerate(segments):
            for j, track in enumerate(self._tracks):
                cost[i, j] += self._misplaced(segment, track, world_from_cam)
        # Being new costs as much as the worst match: nobody is swapped so that everybody has one.
        rows, columns = linear_sum_assignment(np.where(possible, cost, 1.0 - FARTHEST + MISPLACED))
        return {i: self._tracks[j] for i, j in zip(rows, columns, strict=True) if possible[i, j]}

    def _misplaced(self, segment: Segment, track: Track, world_from_cam: np.ndarray | None) -> float:
        if world_from_cam is None or segment.centroid is None or track.filter is None:
            return 0.0
        rotation = world_from_cam[:3, :3]
        position = rotation @ segment.centroid + world_from_cam[:3, 3]
        off = track.filter.distance(position, rotation @ segment.covariance() @ rotation.T)
        return MISPLACED * min(1.0, off / GATE)


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) generalised intersection over union of (N, 4) and (M, 4) boxes, from -1 (far apart) to 1 (the same).

    Rezatofighi et al. 2019: boxes that do not overlap are told apart by how far they are from each other.
    """
    a, b = first[:, None], second[None]
    inner = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    hull = (np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inner
    return inner / union - (hull - union) / hull


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2
