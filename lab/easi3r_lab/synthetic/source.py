"""A rendered clip as a source of frames: `synthetic:PRESET` or `synthetic:PRESET:SEED` instead of a path.

lab/pyproject.toml registers `SyntheticSource` as what easi3r_ros opens for the scheme `synthetic`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from easi3r_lab.synthetic import iter_frames
from easi3r_lab.synthetic.presets import PRESETS
from easi3r_ros.core.types import Frame
from easi3r_ros.io.sources import CameraProperties, FrameSource, SourceError, checked_rate, stamp_at

SCHEME = "synthetic"
DEFAULT_RATE = 15.0
_FRAMES = 90


class SyntheticSource(FrameSource):
    """Frames with their true K; each is rendered when it is first wanted, and kept (20 MB in all)."""

    made_on_demand = True

    def __init__(self, name: str, rate: float | None = None, frame_id: str = CameraProperties.frame_id):
        """name: PRESET or PRESET:SEED. Raises SourceError for an unknown preset or a seed that is none."""
        self.path = Path(f"{SCHEME}:{name}")
        preset, _, seed = name.partition(":")
        if preset not in PRESETS:
            raise SourceError(f"'{self.path}': there is no preset '{preset}'; choose one of {', '.join(PRESETS)}")
        if seed and not seed.isdecimal():
            raise SourceError(f"'{self.path}': the seed '{seed}' must be a whole number, such as {SCHEME}:{preset}:1")
        self._rate, self._frame_id = checked_rate(DEFAULT_RATE if rate is None else rate), frame_id
        self._coming = iter_frames(preset, int(seed or 0), _FRAMES, rate=self._rate)
        self._frames: list[Frame] = []

    @property
    def length(self) -> int:
        return _FRAMES

    @property
    def rate(self) -> float:
        return self._rate

    def __iter__(self) -> Iterator[Frame]:
        for index in range(_FRAMES):
            if index == len(self._frames):
                picture = next(self._coming)
                stamp = stamp_at(index, self._rate)
                self._frames.append(Frame(index, stamp, self._frame_id, picture.image, picture.view.K))
            yield self._frames[index]

    def prepare(self, on_frame: Callable[[], None] = lambda: None) -> None:
        """As the base class."""
        for _ in self:
            on_frame()

    def close(self) -> None:
        self._frames.clear()
        self._coming.close()
