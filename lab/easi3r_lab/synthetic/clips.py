"""Clips of rendered scenes, with everything that is true about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from easi3r_lab.synthetic.assembly import shots_of, truth_of, worlds_of
from easi3r_lab.synthetic.correspondence import flow_between, occluded_between, pointmap
from easi3r_lab.synthetic.first_hits import Grid
from easi3r_lab.synthetic.presets import build_scene
from easi3r_lab.synthetic.renderer import render
from easi3r_lab.synthetic.scene import Scene, SceneView, Sky, view_of
from easi3r_lab.synthetic.sensor import GAMMA
from easi3r_lab.synthetic.worlds import Worlds

SUPERSAMPLING = 2  # rays per pixel and axis


@dataclass(frozen=True)
class RenderedFrame:
    """One image of a clip and its truth; (u, v) has its centre at integer coordinates."""

    index: int
    seconds: float
    image: np.ndarray  # (H, W, 3) uint8 RGB
    depth: np.ndarray  # (H, W) float32 z-depth at the pixel centre, metres; inf: sky
    parts: np.ndarray  # (H, W) int16 index of the rigid part seen at the pixel centre; -1: sky
    instances: np.ndarray  # (H, W) int32, 0: static, from 1: the moving objects
    view: SceneView

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, True on moving objects."""
        return self.instances > 0

    @property
    def points(self) -> np.ndarray:
        """(H, W, 3) float64 what each pixel sees, camera frame, metres; inf in the sky."""
        return pointmap(self.view.K, self.depth)


@dataclass(frozen=True)
class Clip:
    """T rendered frames. World: z up, metres. Camera: x right, y down, z forward (REP-103)."""

    preset: str
    seed: int
    rate: float  # Hz
    K: np.ndarray  # (3, 3) float64 pixels
    images: np.ndarray  # (T, H, W, 3) uint8 RGB
    depth: np.ndarray  # (T, H, W) float32 z-depth, metres; inf: sky
    masks: np.ndarray  # (T, H, W) bool, True on moving objects
    instances: np.ndarray  # (T, H, W) int32, 0: static, from 1: the moving objects
    parts: np.ndarray  # (T, H, W) int16, rigid part seen; -1: sky
    world_from_cam: np.ndarray  # (T, 4, 4) float64
    world_from_part: np.ndarray  # (T, P, 4, 4) float64

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """(W, H)."""
        return self.images.shape[2], self.images.shape[1]

    def stamp_ns(self, index: int) -> int:
        """When frame `index` was taken, nanoseconds from the start of the clip."""
        return round(index * 1e9 / self.rate)

    def flow(self, i: int, j: int) -> np.ndarray:
        """(H, W, 2) float64 optical flow from frame i to frame j in pixels (x, y); NaN: goes behind the camera."""
        return flow_between(self.view(i), self.view(j), self.depth[i], self.parts[i])

    def occluded(self, i: int, j: int) -> np.ndarray:
        """(H, W) bool, True where what frame i sees is out of frame j's sight."""
        return occluded_between(self.view(i), self.view(j), self.depth[i], self.parts[i], self.depth[j])

    def points(self, index: int) -> np.ndarray:
        """(H, W, 3) float64 what the pixels of frame `index` see, camera frame, metres; inf in the sky."""
        return pointmap(self.K, self.depth[index])

    def view(self, index: int) -> SceneView:
        """Camera and objects at the time of frame `index`."""
        return SceneView(self.K, self.world_from_cam[index], self.world_from_part[index])


def render_clip(
    preset: str, seed: int = 0, frames: int = 90, size: tuple[int, int] = (320, 240), rate: float = 30.0
) -> Clip:
    """A clip of `frames` images of `size` (W, H) at `rate` Hz; the same arguments always give the same clip.

    Raises ValueError for an unknown preset (`presets.PRESETS` has the names).
    """
    return stack_frames(list(iter_frames(preset, seed, frames, size, rate)), preset, seed, rate)


def stack_frames(rendered: Sequence[RenderedFrame], preset: str, seed: int, rate: float) -> Clip:
    """The clip made of the frames of `iter_frames` with these arguments."""
    return Clip(
        preset=preset,
        seed=seed,
        rate=rate,
        K=rendered[0].view.K,
        images=np.stack([frame.image for frame in rendered]),
        depth=np.stack([frame.depth for frame in rendered]),
        masks=np.stack([frame.mask for frame in rendered]),
        instances=np.stack([frame.instances for frame in rendered]),
        parts=np.stack([frame.parts for frame in rendered]),
        world_from_cam=np.stack([frame.view.world_from_cam for frame in rendered]),
        world_from_part=np.stack([frame.view.world_from_part for frame in rendered]),
    )


def iter_frames(
    preset: str, seed: int = 0, frames: int = 90, size: tuple[int, int] = (320, 240), rate: float = 30.0
) -> Iterator[RenderedFrame]:
    """The frames of `render_clip`, one at a time."""
    if frames < 1 or min(size) < 8 or rate <= 0:
        raise ValueError(f"nothing to render: frames={frames}, size={size}, rate={rate}")
    scene = build_scene(preset, seed, duration=frames / rate)
    worlds = worlds_of(scene)
    for index in range(frames):
        yield render_frame(scene, index, index / rate, size, np.random.default_rng([seed, index]), worlds)


def render_frame(
    scene: Scene,
    index: int,
    seconds: float,
    size: tuple[int, int],
    rng: np.random.Generator,
    worlds: Worlds | None = None,
) -> RenderedFrame:
    """One frame of a scene. rng: the sensor's noise; worlds: the scene's tensors, if they are at hand.

    Raises ValueError if a ray leaves a scene that has no sky.
    """
    view = view_of(scene, seconds, size)
    depth, parts = (values[0] for values in truth_of(scene, [view], Grid(*size)))
    if (parts < 0).any() and not isinstance(scene.light, Sky):
        raise ValueError(f"the scene is open: {(parts < 0).mean():.0%} of the rays hit nothing; put it in a room")
    with torch.inference_mode():
        shots = shots_of(scene, [view], [seconds])
        colours, _, _ = render(worlds or worlds_of(scene), shots, _subpixels(size))
    s = SUPERSAMPLING
    display = colours[0].clamp(0, 1) ** (1 / GAMMA)
    display = 255 * display.unflatten(1, (size[0], s)).unflatten(0, (size[1], s)).mean(dim=(1, 3))  # (H, s, W, s, 3)
    noisy = display.numpy() + rng.normal(0, scene.camera.noise, (size[1], size[0], 3))
    return RenderedFrame(
        index=index,
        seconds=seconds,
        image=np.clip(np.rint(noisy), 0, 255).astype(np.uint8),
        depth=depth.astype(np.float32),
        parts=parts,
        instances=np.where(parts < 0, 0, scene.instance_of_part()[parts]).astype(np.int32),
        view=view,
    )


def _subpixels(size: tuple[int, int]) -> Grid:
    """Centres of the sub-pixels of pixels whose own centres are the integers."""
    s = SUPERSAMPLING
    first = 0.5 / s - 0.5
    return Grid(size[0] * s, size[1] * s, first, first, 1 / s)
