"""Masks drawn more exactly by a model with a memory of what it follows (SAM 2), beside the pipeline, never in its way.

A thread of its own follows the movers from image to image while the pipeline works on the same image. Our mask says
what to follow: at first, whenever the two disagree, and every REFRESH images. Where its mask of an image is ready in
time it replaces ours; where it is not, or does not agree with ours, ours stays: nothing is masked of which the pipeline
has seen no motion at all. Images that come while it is busy are skipped, the newest wins.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Condition
from typing import NamedTuple, Protocol

import numpy as np

from easi3r_ros.core.types import Frame

log = logging.getLogger(__name__)

AGREES = 0.3  # intersection over union with our mask, from which the refined one is believed
REFRESH = 60  # images after which our mask is shown again: memories drift
SMALLEST = 5e-4  # share of the image: less is nothing to follow
FORGET = 15  # images in a row without a mover, after which none is followed any more
KEPT = 4  # answers
OURS = 30  # masks of our own, until the answer is there


class MaskTracker(Protocol):
    """Follows one region through a video. Called from one thread."""

    def prompt(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The mask of what `mask` (H, W) bool means in `image` (H, W, 3) uint8 RGB; followed from now on."""
        ...

    def track(self, image: np.ndarray) -> np.ndarray:
        """(H, W) bool: where it is now. Only after a prompt."""
        ...

    def forget(self) -> None:
        """Until the next prompt."""
        ...


class Job(NamedTuple):
    index: int
    image: np.ndarray
    mask: np.ndarray | None = None  # to be prompted with


class MaskRefiner:
    """Runs a MaskTracker on its own thread. `see`, `settle` and `reset` are called from one other thread."""

    def __init__(self, tracker: MaskTracker, wait: float = 0.0):
        """wait: seconds that a frame waits for its refined mask at most."""
        self._tracker, self._wait = tracker, wait
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="easi3r-refine")
        self._changed = Condition()
        self._working = self._forgets = self._broken = False
        self._waiting: dict[str, Job] = {}  # "prompt", "track": the newest of each
        self._in_hand: Job | None = None
        self._answers: dict[int, np.ndarray] = {}
        self._ours: dict[int, np.ndarray] = {}
        self._judged = -1  # newest index whose answer was compared with ours
        self._life = 0  # counts resets
        self._follows = False
        self._prompted_at = self._without = 0

    def reset(self) -> None:
        """What was followed is forgotten; indices start again."""
        with self._changed:
            self._life += 1
            self._waiting.clear()
            self._answers.clear()
            self._ours.clear()
            self._follows, self._forgets, self._without, self._judged = False, True, 0, -1
            self._start()

    def see(self, frame: Frame) -> None:
        """An image that the pipeline begins to work on."""
        with self._changed:
            if self._follows and not self._broken:
                self._waiting["track"] = Job(frame.index, frame.image)
                self._start()

    def settle(self, frame: Frame, mask: np.ndarray) -> np.ndarray:
        """The mask to be used for `frame`, which was seen; mask: (H, W) bool, ours, which also says what to follow."""
        with self._changed:
            expected = any(job is not None and job.index == frame.index for job in self._jobs())
            if expected and self._wait > 0:
                self._changed.wait_for(lambda: frame.index in self._answers or self._broken, self._wait)
            refined = self._answers.get(frame.index)
            self._ours[frame.index] = mask
            if len(self._ours) > OURS:
                del self._ours[min(self._ours)]
            judged = self._judge()
        self._follow(frame, mask, disagrees=judged is False)
        return refined if refined is not None and judged else mask

    def _judge(self) -> bool | None:
        """Whether the newest answer that was not judged yet agrees with our mask of its image; None: there is none.

        An answer that came too late to be used still says whether it follows the right thing.
        """
        new = [index for index in self._answers if index > self._judged and index in self._ours]
        if not new:
            return None
        self._judged = max(new)
        verdict = overlap(self._answers[self._judged], self._ours[self._judged]) >= AGREES
        self._ours = {index: mask for index, mask in self._ours.items() if index > self._judged}
        return verdict

    def _jobs(self) -> tuple[Job | None, ...]:
        return (*self._waiting.values(), self._in_hand)

    def _follow(self, frame: Frame, mask: np.ndarray, disagrees: bool) -> None:
        """Prompt or forget, where that is due."""
        moves = mask.mean() >= SMALLEST
        with self._changed:
            self._without = 0 if moves else self._without + 1
            if self._broken:
                return
            if moves and (not self._follows or disagrees or frame.index - self._prompted_at >= REFRESH):
                self._waiting["prompt"] = Job(frame.index, frame.image, mask)
                self._follows, self._prompted_at = True, frame.index
            elif self._follows and self._without >= FORGET:
                self._waiting.clear()
                self._follows, self._forgets = False, True
            self._start()

    def _start(self) -> None:
        """Let the thread look for work. Called with the lock."""
        if not self._working and not self._broken:
            self._working = True
            self._thread.submit(self._work)

    def _work(self) -> None:
        """What waits, until nothing does."""
        while True:
            with self._changed:
                forgets, self._forgets, life = self._forgets, False, self._life
                job = self._waiting.pop("prompt", None) or self._waiting.pop("track", None)
                self._in_hand = job
                if job is None and not forgets:
                    self._working = False
                    self._changed.notify_all()
                    return
            try:
                if forgets:
                    self._tracker.forget()
                answer = None if job is None else self._answer(job)
            except Exception as error:  # a foreign model may fail in any way, and our masks are still there
                self._give_up(error)
                return
            with self._changed:
                self._in_hand = None
                if answer is not None and life == self._life:
                    self._answers[job.index] = answer
                    for old in sorted(self._answers)[:-KEPT]:
                        del self._answers[old]
                self._changed.notify_all()

    def _answer(self, job: Job) -> np.ndarray:
        mask = self._tracker.track(job.image) if job.mask is None else self._tracker.prompt(job.image, job.mask)
        if mask.shape != job.image.shape[:2] or mask.dtype != bool:
            raise ValueError(f"a mask must be {job.image.shape[:2]} bool, got {mask.shape} {mask.dtype}")
        return mask

    def _give_up(self, error: Exception) -> None:
        what = f"{type(error).__name__}: {error}"
        log.error("masks are no longer refined (%s): they are those of motion.refine border", what)
        with self._changed:
            self._broken, self._working, self._in_hand = True, False, None
            self._waiting.clear()
            self._changed.notify_all()


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two (H, W) bool masks; 0 where both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 0.0
