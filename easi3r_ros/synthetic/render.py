"""Clips of rendered scenes, with everything that is true about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from easi3r_ros.synthetic.presets import build_scene
from easi3r_ros.synthetic.raycast import View, cast
from easi3r_ros.synthetic.scene import Scene, intrinsics
from easi3r_ros.synthetic.shading import shade
from easi3r_ros.synthetic.truth import flow_between, occluded_between

SUPERSAMPLING = 2  # rays per pixel and axis


@dataclass(frozen=True)
class RenderedFrame:
    """One image of a clip and its truth; (u, v) has its centre at integer coordinates."""

    index: int
    seconds: float
    image: np.ndarray  # (H, W, 3) uint8 RGB
    depth: np.ndarray  # (H, W) float32 z-depth at the pixel centre, metres
    parts: np.ndarray  # (H, W) int16 index of the rigid part seen at the pixel centre
    instances: np.ndarray  # (H, W) int32, 0: static, from 1: the moving objects
    view: View

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, True on moving objects."""
        return self.instances > 0


@dataclass(frozen=True)
class Clip:
    """T rendered frames. World: z up, metres. Camera: x right, y down, z forward (REP-103)."""

    preset: str
    seed: int
    rate: float  # Hz
    K: np.ndarray  # (3, 3) float64 pixels
    images: np.ndarray  # (T, H, W, 3) uint8 RGB
    depth: np.ndarray  # (T, H, W) float32 z-depth, metres
    masks: np.ndarray  # (T, H, W) bool, True on moving objects
    instances: np.ndarray  # (T, H, W) int32, 0: static, from 1: the moving objects
    parts: np.ndarray  # (T, H, W) int16, rigid part seen
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

    def view(self, index: int) -> View:
        """Camera and objects at the time of frame `index`."""
        return View(self.K, self.world_from_cam[index], self.world_from_part[index])


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
    for index in range(frames):
        yield render_frame(scene, index, index / rate, size, np.random.default_rng([seed, index]))


def view_of(scene: Scene, seconds: float, size: tuple[int, int]) -> View:
    """Camera and objects at a time; size: (W, H) of the image."""
    return View(
        intrinsics(size, scene.camera.horizontal_fov),
        scene.camera.world_from_cam(seconds),
        np.stack([part.world_from_part(seconds) for part in scene.parts]),
    )


def render_frame(
    scene: Scene, index: int, seconds: float, size: tuple[int, int], rng: np.random.Generator
) -> RenderedFrame:
    """One frame of a scene. rng: the sensor's noise. Raises ValueError if a ray leaves the scene: it must be closed."""
    shapes = [part.shape for part in scene.parts]
    view = view_of(scene, seconds, size)
    centres = cast(view, shapes, *(np.arange(n, dtype=np.float64) for n in size))
    if (centres.part < 0).any():
        raise ValueError(
            f"the scene is open: {(centres.part < 0).mean():.0%} of the rays hit nothing; put it in a room"
        )
    us, vs = (_subpixels(n) for n in size)
    colours = shade(scene, view, cast(view, shapes, us, vs), us, vs, seconds)
    s = SUPERSAMPLING
    colours = colours.reshape(size[1], s, size[0], s, 3).mean(axis=(1, 3))  # (sH, sW, 3) -> (H, W, 3)
    noisy = colours + rng.normal(0, scene.camera.noise, colours.shape)
    return RenderedFrame(
        index=index,
        seconds=seconds,
        image=np.clip(np.rint(noisy), 0, 255).astype(np.uint8),
        depth=centres.depth.astype(np.float32),
        parts=centres.part,
        instances=scene.instance_of_part()[centres.part],
        view=view,
    )


def _subpixels(count: int) -> np.ndarray:
    """Centres of the sub-pixels of `count` pixels whose own centres are the integers."""
    return ((np.arange(count * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - 0.5).astype(np.float32)
