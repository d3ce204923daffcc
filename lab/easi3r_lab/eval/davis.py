"""DAVIS 2016 and 2017 as distributed: which sequences there are, their frames and annotations, and results on them.

ROOT/JPEGImages/480p/NAME/00000.jpg ...      ROOT/Annotations/480p/NAME/00000.png ...
ROOT/ImageSets/480p/val.txt (2016) or ROOT/ImageSets/2017/val.txt: which sequences count; without it, all that are there
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from easi3r_lab.datasets.recorded import DataSetError
from easi3r_lab.eval.scores import SequenceStatistics, boundary_accuracy, region_similarity, sequence_statistics
from easi3r_ros.core.config import PipelineConfig, settings
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import Frame, TrackingState

RATE = 24.0  # Hz, of the videos
SETTLED = 5  # frames before a causal method has partners far enough back
RESOLUTION = "480p"
LISTS = {  # where the list of sequences lies, best first
    "davis16": ("ImageSets/480p/val.txt", "ImageSets/2016/val.txt"),
    "davis17": ("ImageSets/2017/val.txt",),
    "davis-all": (),
}


@dataclass(frozen=True)
class VideoSequence:
    """Frames and annotations, one to one, in order of time."""

    name: str
    images: tuple[Path, ...]
    annotations: tuple[Path, ...]

    def frames(self) -> Iterator[tuple[Frame, np.ndarray]]:
        """Each frame, without intrinsics, with (H, W) bool, True on what moves."""
        for index, (image, annotation) in enumerate(zip(self.images, self.annotations, strict=True)):
            yield Frame(index, round(index / RATE * 1e9), "camera", _read_image(image)), _read_mask(annotation)


@dataclass(frozen=True)
class SequenceScore:
    """What one configuration did on one sequence."""

    name: str
    region: SequenceStatistics  # J over all frames but the first and the last, as DAVIS
    boundary: SequenceStatistics  # F
    settled_jm: float  # mean J from frame SETTLED on, which the first frames of a causal method do not touch
    settled_jr: float
    precision: float  # mean over the settled frames
    recall: float
    lost_percent: float  # frames without a pose
    states: dict[str, float]  # share of frames per state
    ms: float  # median of `Pipeline.push` and of making the mask

    @classmethod
    def from_dict(cls, values: dict) -> SequenceScore:
        statistics = {key: SequenceStatistics(**values[key]) for key in ("region", "boundary")}
        return cls(**{**values, **statistics})


def find_sequences(root: Path, kind: str) -> list[VideoSequence]:
    """The sequences of a data set, by name. kind: a key of LISTS. Raises DataSetError."""
    images, annotations = (_folder(root, part) for part in ("JPEGImages", "Annotations"))
    names = _listed(root, kind) or sorted(path.name for path in images.iterdir() if path.is_dir())
    if not names:
        raise DataSetError(f"{images} is empty: unpack the data set again")
    found = []
    for name in names:
        missing = [str(part / name) for part in (images, annotations) if not (part / name).is_dir()]
        if missing:
            raise DataSetError(
                f"sequence '{name}': {' and '.join(missing)} missing: the data set is not fully unpacked"
            )
        found.append(_sequence(name, images / name, annotations / name))
    return found


def _folder(root: Path, part: str) -> Path:
    """Raises DataSetError with what to do."""
    folder = root / part / RESOLUTION
    if not root.is_dir():
        raise DataSetError(f"there is no folder {root}: give the folder that holds JPEGImages and Annotations")
    if not folder.is_dir():
        inner = [path.name for path in root.iterdir() if (path / part).is_dir()]
        hint = (
            f"; did you mean {root / inner[0]}?" if inner else ": give the folder that holds JPEGImages and Annotations"
        )
        raise DataSetError(f"{folder} is missing{hint}")
    return folder


def _listed(root: Path, kind: str) -> list[str]:
    """Names in the data set's own list, as far as there is one: a sequence a line, or an image and its annotation."""
    path = next((root / name for name in LISTS[kind] if (root / name).is_file()), None)
    if path is None:
        return []
    words = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    return sorted({Path(word).parent.name if "/" in word else word for word in words})


def _sequence(name: str, images: Path, annotations: Path) -> VideoSequence:
    """Raises DataSetError if frames and annotations are not one to one."""
    frames = {path.stem: path for path in images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")}
    masks = {path.stem: path for path in annotations.glob("*.png")}
    if frames.keys() != masks.keys():
        odd = sorted(frames.keys() ^ masks.keys())
        raise DataSetError(
            f"sequence '{name}': {len(frames)} images and {len(masks)} annotations, '{odd[0]}' is not in both: "
            "the data set is not fully unpacked"
        )
    if len(frames) <= SETTLED + 1:
        raise DataSetError(f"sequence '{name}' has {len(frames)} frames, at least {SETTLED + 2} are needed")
    order = sorted(frames)
    return VideoSequence(name, tuple(frames[stem] for stem in order), tuple(masks[stem] for stem in order))


def _read_image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataSetError(f"{path} is no image that can be read: unpack the data set again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _read_mask(path: Path) -> np.ndarray:
    """(H, W) bool. Annotations of 2016 are 0 or 255, those of 2017 palettes, where every object is a foreground."""
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise DataSetError(f"{path} is no image that can be read: unpack the data set again")
    return values > 0 if values.ndim == 2 else values.any(axis=-1)


def score_sequence(sequence: VideoSequence, config: PipelineConfig, tick: Callable[[], None]) -> SequenceScore:
    """Every frame through a new pipeline, online. tick: called after each."""
    pipeline = Pipeline(config)
    j, f, shares, states, ms = [], [], [], [], []
    for frame, truth in sequence.frames():
        result = pipeline.push(frame)
        mask = result.mask
        ms.append(sum(result.latency_ms.values()))
        states.append(result.state)
        j.append(region_similarity(mask, truth))
        f.append(boundary_accuracy(mask, truth))
        hit = np.count_nonzero(mask & truth)
        shares.append((hit / max(np.count_nonzero(mask), 1), hit / max(np.count_nonzero(truth), 1)))
        tick()
    settled = np.array(j[SETTLED:-1])
    precision, recall = np.mean(shares[SETTLED:-1], axis=0)
    return SequenceScore(
        name=sequence.name,
        region=sequence_statistics(j[1:-1]),
        boundary=sequence_statistics(f[1:-1]),
        settled_jm=float(settled.mean()),
        settled_jr=float((settled > 0.5).mean()),
        precision=float(precision),
        recall=float(recall),
        lost_percent=100 * states.count(TrackingState.LOST) / len(states),
        states={state.value: states.count(state) / len(states) for state in TrackingState},
        ms=float(np.median(ms)),
    )


class ResultFolder:
    """Results per sequence of one configuration, so that an evaluation that was stopped goes on."""

    def __init__(self, folder: Path | None, config: PipelineConfig, kind: Any = SequenceScore, words: str = ""):
        """folder: None keeps nothing. kind: a dataclass with `name` and `from_dict`. words: of what else they are."""
        self._kind = kind
        text = repr([(name, value) for name, _, value in settings(config)]) + words
        self._folder = folder and folder / hashlib.sha256(text.encode()).hexdigest()[:12]

    def get(self, name: str) -> Any | None:
        path = self._folder and self._folder / f"{name.replace('/', '_')}.json"
        return self._kind.from_dict(json.loads(path.read_text())) if path and path.is_file() else None

    def put(self, score: Any) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        name = score.name.replace("/", "_")
        unfinished = self._folder / f".{name}.part"
        unfinished.write_text(json.dumps(asdict(score)))
        unfinished.rename(self._folder / f"{name}.json")  # whole or not at all


def mean_score(scores: Sequence[SequenceScore]) -> SequenceScore:
    """Over the sequences, each counting the same, as DAVIS."""
    rows = [asdict(score) for score in scores]
    return SequenceScore.from_dict({**_mean(rows), "name": "mean"})


def _mean(rows: Sequence[dict]) -> dict:
    first = rows[0]
    return {
        key: _mean([row[key] for row in rows])
        if isinstance(first[key], dict)
        else float(np.mean([row[key] for row in rows]))
        for key in first
        if key != "name"
    }
