"""Rendered clips: the truth agrees with itself, with closed forms, and with the images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from easi3r_lab.synthetic import Clip, iter_frames, render_clip
from easi3r_lab.synthetic.clips import render_frame
from easi3r_lab.synthetic.motions import Fixed, look_at, pose
from easi3r_lab.synthetic.presets import PRESETS, build_scene
from easi3r_lab.synthetic.scene import Box, Ellipsoid, Light, Occluder, Part, Room, Scene, SceneCamera, SceneObject, Sky
from easi3r_lab.synthetic.textures import speckle
from easi3r_lab.synthetic.true_pairs import iter_truths

SIZE = (160, 120)


@pytest.fixture(scope="module", params=sorted(PRESETS))
def clip(request) -> Clip:
    return render_clip(request.param, seed=3, frames=6, size=SIZE, rate=30.0)


def grid(size=SIZE) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), axis=-1).astype(np.float64)


def test_static_flow_is_reprojected_depth(clip):
    # Written out here with OpenCV, so that a mistake in synthetic.truth cannot hide.
    i, j = 0, 5
    points = np.concatenate([grid() - clip.K[:2, 2], np.full((*clip.depth[i].shape, 1), clip.K[0, 0])], axis=-1)
    points *= np.where(clip.parts[i] < 0, 1.0, clip.depth[i])[..., None] / clip.K[0, 0]
    cam_j_from_cam_i = np.linalg.inv(clip.world_from_cam[j]) @ clip.world_from_cam[i]
    rotation = cv2.Rodrigues(cam_j_from_cam_i[:3, :3])[0]
    projected = cv2.projectPoints(points.reshape(-1, 3), rotation, cam_j_from_cam_i[:3, 3], clip.K, None)[0]
    expected = projected.reshape(points.shape[0], -1, 2) - grid()
    static = ~clip.masks[i] & (clip.parts[i] >= 0)
    np.testing.assert_allclose(clip.flow(i, j)[static], expected[static], atol=1e-3)


def warped(clip: Clip, i: int, j: int, offset=(0.0, 0.0)) -> np.ndarray:
    target = (grid() + clip.flow(i, j) + offset).astype(np.float32)
    return cv2.remap(clip.images[j].astype(np.float32), target[..., 0], target[..., 1], cv2.INTER_CUBIC)


def test_image_warped_by_flow_is_the_image(clip):
    """Movers included; half a pixel of error in any convention would show."""
    i, j = 1, 2
    near_edges = cv2.dilate(np.ptp([np.roll(clip.parts[i], s, a) for s in (-1, 1) for a in (0, 1)], axis=0), None) > 0
    visible = ~clip.occluded(i, j) & ~near_edges
    assert visible.mean() > 0.5

    def error(image: np.ndarray) -> float:
        return float(np.abs(image - clip.images[i])[visible].mean())

    exact = error(warped(clip, i, j))
    assert exact < 6
    for offset in ((0.4, 0), (-0.4, 0), (0, 0.4), (0, -0.4)):
        assert error(warped(clip, i, j, offset)) > 1.15 * exact


def test_movers_flow_is_not_the_camera_flow():
    clip = render_clip("walkers", seed=1, frames=3, size=SIZE)
    mask = clip.masks[0]
    frozen = Clip(
        **{**clip.__dict__, "world_from_part": np.broadcast_to(clip.world_from_part[:1], clip.world_from_part.shape)}
    )
    residual = np.linalg.norm(clip.flow(0, 2) - frozen.flow(0, 2), axis=-1)
    assert np.median(residual[mask]) > 1.0  # pixels over two frames at half the demo's resolution
    assert residual[~mask].max() < 1e-6


def test_occlusion_needs_a_nearer_surface():
    clip = render_clip("walkers", seed=1, frames=2, size=SIZE, rate=5.0)
    hidden = clip.occluded(0, 1)
    target = np.rint(grid() + clip.flow(0, 1)).astype(int)
    inside = (target >= 0).all(-1) & (target < SIZE).all(-1)
    assert hidden[~inside].all()
    assert 0.005 < hidden[inside].mean() < 0.25
    assert not clip.occluded(0, 0).any()


def test_same_seed_same_clip_other_seed_other_clip():
    first, again, other = (next(iter_frames("tabletop", seed, 1, SIZE)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.depth, again.depth)
    assert np.abs(first.image.astype(int) - other.image).mean() > 10


@pytest.mark.parametrize(("preset", "speed"), [("static", 0.5), ("tabletop", 0.22)])
def test_the_camera_keeps_its_speed_and_stays_inside_however_long_the_clip(preset, speed):
    for seconds in (1.5, 15.0):
        camera = build_scene(preset, 0, seconds).camera
        path = np.stack([camera.world_from_cam(t)[:3, 3] for t in np.arange(0, seconds, 0.1)])
        length = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
        assert 0.75 < length / (speed * seconds) < 1.4
        assert np.abs(path[:, 0]).max() < 3.2 and np.abs(path[:, 1]).max() < 2 and path[:, 2].min() > 0.9


@pytest.mark.parametrize("seed", range(4))
def test_walkers_are_a_fair_demo(seed):
    """Movers cover a realistic share of the picture; the camera really travels and nothing comes too close."""
    frames = list(iter_frames("walkers", seed, 15, (80, 60), rate=5.0))
    share = np.array([frame.mask.mean() for frame in frames])
    positions = np.stack([frame.view.world_from_cam[:3, 3] for frame in frames])
    assert 0.10 < share.mean() < 0.25 and share.max() < 0.40
    assert 1.0 < np.linalg.norm(np.diff(positions, axis=0), axis=1).sum() < 2.0
    assert min(frame.depth.min() for frame in frames) > 0.5
    assert {1, 2, 3} <= set(np.unique([frame.instances for frame in frames]))


def test_static_has_no_movers():
    for frame in iter_frames("static", 2, 2, (80, 60)):
        assert not frame.mask.any() and not frame.instances.any()


def test_truth_is_complete(clip):
    assert clip.images.shape == (6, 120, 160, 3) and clip.images.dtype == np.uint8
    sky = clip.parts < 0
    assert np.isfinite(clip.depth[~sky]).all() and np.isinf(clip.depth[sky]).all() and (clip.depth > 0).all()
    assert (sky.mean() > 0.02) == (clip.preset == "traffic") and not clip.masks[sky].any()
    assert (clip.masks == (clip.instances > 0)).all()
    assert clip.parts.max() < clip.world_from_part.shape[1]
    assert clip.size == SIZE and clip.K[0, 2] == 79.5 and clip.K[1, 2] == 59.5
    np.testing.assert_allclose(np.linalg.det(clip.world_from_cam[:, :3, :3]), 1)
    assert clip.stamp_ns(3) == 100_000_000


def test_pointmap_is_the_depth_along_the_pixels_rays(clip):
    land = clip.parts[2] >= 0
    points = clip.points(2)
    projected = points[land] @ clip.K.T
    np.testing.assert_allclose(projected[:, :2] / projected[:, 2:], grid()[land], atol=1e-9)
    np.testing.assert_array_equal(points[..., 2], clip.depth[2])


def test_the_sky_follows_the_turn_of_the_camera_alone():
    clip = render_clip("traffic", seed=1, frames=3, size=SIZE, rate=2.5)
    sky = (clip.parts[0] < 0) & (clip.depth[0] == np.inf)
    turn = (np.linalg.inv(clip.world_from_cam[2]) @ clip.world_from_cam[0])[:3, :3]
    rays = np.concatenate([grid(), np.ones((*SIZE[::-1], 1))], axis=-1) @ np.linalg.inv(clip.K).T
    target = rays @ turn.T @ clip.K.T
    expected = target[..., :2] / target[..., 2:] - grid()
    np.testing.assert_allclose(clip.flow(0, 2)[sky], expected[sky], atol=1e-2)
    assert np.isfinite(clip.flow(0, 2)[sky]).all() and not clip.occluded(0, 0)[sky].any()


@pytest.mark.parametrize(
    ("preset", "least", "most", "peak"),
    [("traffic", 0.01, 0.2, 0.45), ("handheld", 0.03, 0.2, 0.35), ("crowd", 0.25, 0.5, 0.65)],
)
def test_movers_cover_what_the_preset_promises(preset, least, most, peak):
    for seed in range(2):
        scene = build_scene(preset, seed, 6.0)
        truths = list(iter_truths(scene, 18, (80, 60), rate=3.0))
        share = np.array([truth.mask.mean() for truth in truths])
        assert least < share.mean() < most and share.max() < peak
        assert (share > 0.002).mean() > 0.7  # most of the time somebody is there
        assert min(truth.depth.min() for truth in truths) > 0.4
        movers = scene.instance_of_part().max()
        assert movers == {"handheld": 1, "crowd": 5}.get(preset, movers) and 1 <= movers <= 5


def test_a_restless_hand_turns_the_camera_more_than_a_calm_one():
    def turns(preset: str) -> float:
        camera = build_scene(preset, 0, 3.0).camera
        poses = np.stack([camera.world_from_cam(t) for t in np.arange(0, 3, 1 / 30)])
        steps = np.linalg.inv(poses[:-1]) @ poses[1:]
        return float(np.degrees(np.arccos((np.trace(steps[:, :3, :3], axis1=1, axis2=2) - 1) / 2)).mean())

    assert turns("handheld") > 2.5 * turns("static")


@pytest.mark.parametrize("arguments", [("walkers", 0, 0), ("walkers", 0, 2, (4, 4)), ("walkers", 0, 2, SIZE, 0.0)])
def test_nothing_to_render(arguments):
    with pytest.raises(ValueError, match="nothing to render"):
        next(iter_frames(*arguments))


def test_unknown_preset_names_the_known():
    with pytest.raises(ValueError, match="walkers"):
        next(iter_frames("moon"))


def test_a_mover_turns_with_its_world_yaw():
    """Yaw is to the left (REP-103), and the optical frame has x to the right and y down."""
    world_from_cam = look_at(np.zeros(3), np.array([1.0, 0, 0]))
    np.testing.assert_allclose(world_from_cam[:3, :3], [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], atol=1e-12)
    np.testing.assert_allclose(pose(yaw=np.pi / 2)[:3, 0], [0, 1, 0], atol=1e-12)


def grey_room(things=()) -> Scene:
    """A room without any pattern; `things`: motions of balls of 30 cm."""
    grey = (speckle(np.random.default_rng(0), (0.5, 0.5, 0.5), contrast=0.0),)
    room = SceneObject("room", (Part(Room((3, 3, 2)), grey, Fixed(pose((3, 0, 1)))),))
    balls = [
        SceneObject("ball", (Part(Ellipsoid((0.3,) * 3), grey, at),), occluder=Occluder((0.3,) * 3, at))
        for at in things
    ]
    camera = SceneCamera(Fixed(look_at(np.array([0.5, 0, 1.0]), np.array([3.0, 0, -1.0]))), noise=0.0)
    return Scene((room, *balls), camera, Light((3.0, 0.0, 2.0)))


def test_light_falls_off_and_things_cast_soft_shadows():
    empty, full = (
        render_frame(scene, 0, 0.0, SIZE, np.random.default_rng(0))
        for scene in (grey_room(), grey_room([Fixed(pose((3, 0, -0.6)))]))
    )
    darker = empty.image.astype(int) - full.image
    on_floor = cv2.dilate((full.parts > 0).astype(np.uint8), None) == 0  # edge pixels see both
    assert darker[on_floor].max() > 30 and (darker[on_floor] >= 0).all()
    brightness = empty.image[..., 0].astype(float)
    assert brightness[60, 80] > brightness[-1, 0] + 10  # below the lamp, and far from it


def test_image_lies_on_the_pixel_grid_of_K():
    """A bright plate has its centroid where K projects its centre, as far as two samples per pixel can tell."""
    dark, bright = ((speckle(np.random.default_rng(0), (a,) * 3, contrast=0.0),) for a in (0.1, 0.9))
    room = SceneObject("room", (Part(Room((3, 3, 2)), dark, Fixed(pose((3, 0, 1)))),))
    centre = np.array([3.0, 0.43, 1.21])
    plate = SceneObject("plate", (Part(Box((0.001, 0.31, 0.22)), bright, Fixed(pose(centre))),))
    camera = SceneCamera(Fixed(look_at(np.array([0.5, 0, 1.0]), np.array([3.0, 0, 1.0]))), noise=0.0)
    light = Light((3.0, 0.0, 2.0), lamp=0.0)  # ambient light is even on walls
    empty, full = (
        render_frame(Scene(objects, camera, light), 0, 0.0, SIZE, np.random.default_rng(0))
        for objects in ((room,), (room, plate))
    )
    change = full.image[..., 0].astype(float) - empty.image[..., 0]
    centroid = [(change * axis).sum() / change.sum() for axis in np.indices(change.shape)]
    x, y, z = (np.linalg.inv(full.view.world_from_cam) @ [*centre, 1])[:3]
    fx, cx, cy = full.view.K[0, 0], full.view.K[0, 2], full.view.K[1, 2]
    np.testing.assert_allclose(centroid, [fx * y / z + cy, fx * x / z + cx], atol=0.15)


def test_the_sun_casts_shadows_that_follow_what_casts_them():
    def seen(x: float, shadow: float) -> np.ndarray:
        grey = (speckle(np.random.default_rng(0), (0.5, 0.5, 0.5), contrast=0.0),)
        ground = SceneObject("ground", (Part(Box((20, 20, 0.1)), grey, Fixed(pose((0, 0, -0.1)))),))
        at = Fixed(pose((x, 0, 1.5)))
        ball = SceneObject("ball", (Part(Ellipsoid((0.3,) * 3), grey, at),), occluder=Occluder((0.3,) * 3, at))
        camera = SceneCamera(Fixed(look_at(np.array([-1.0, 0, 3.0]), np.array([3.0, 0, 0.0]))), noise=0.0)
        sky = Sky(sun=(0.0, 0.6, 0.8), shadow=shadow, clouds=0.0)
        return render_frame(Scene((ground, ball), camera, sky), 0, 0.0, SIZE, np.random.default_rng(0))

    for x in (2.0, 3.0):
        without, with_shadow = seen(x, 0.0), seen(x, 1.0)
        darker = (without.image[..., 0].astype(float) - with_shadow.image[..., 0]) * (with_shadow.parts == 0)
        assert darker.max() > 40
        v, u = [(darker * axis).sum() / darker.sum() for axis in np.indices(darker.shape)]
        # The ball's centre is 1.5 m up; towards a sun at (0, 0.6, 0.8) its shadow lies 1.5 * 0.6 / 0.8 m to the right.
        ground = np.linalg.inv(with_shadow.view.world_from_cam) @ [x, -1.125, 0.0, 1.0]
        expected = (with_shadow.view.K @ ground[:3])[:2] / ground[2]
        np.testing.assert_allclose([u, v], expected, atol=1.5)


def test_open_scene_is_refused():
    scene = grey_room([Fixed(pose((3, 0, -0.6)))])
    with pytest.raises(ValueError, match="open"):
        render_frame(Scene(scene.objects[1:], scene.camera, scene.light), 0, 0.0, SIZE, np.random.default_rng(0))
