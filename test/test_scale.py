"""Metres per unit from odometry, depth and the ground: right, with an honest error, or not at all."""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers_io import make_result
from scipy.spatial.transform import Rotation

from easi3r_ros.core.config import PipelineConfig, with_settings
from easi3r_ros.core.types import ScaleState, TrackingState
from easi3r_ros.mapping import depth_scale, ground, odometry_scale
from easi3r_ros.mapping.level import CAMERA_LEVEL
from easi3r_ros.mapping.odometry_scale import OdometryWays
from easi3r_ros.mapping.placing import FromDepth, FromOdometry, Placing
from easi3r_ros.mapping.scale import KEPT, LockRule, Measurement, ScaleEstimator
from easi3r_ros.mapping.tf_tree import NotYet, TooOld

METRES = 2.5  # per unit
RULE = LockRule(fewest=6, shared=0.005)
BASE_FROM_CAM = np.eye(4)
BASE_FROM_CAM[:3, :3] = CAMERA_LEVEL
BASE_FROM_CAM[:3, 3] = [0.2, 0.0, 0.3]


def estimator(rule=RULE):
    return ScaleEstimator("odometry", rule, "waiting")


def fed(values, sigma=0.03, **options):
    out = estimator(**options)
    changes = [out.add(value if isinstance(value, Measurement) else Measurement(value, sigma)) for value in values]
    return out, [change for change in changes if change]


class TestEstimator:
    def test_waits_until_enough_agree(self):
        out, changes = fed([METRES] * 5)
        assert out.scale.state is ScaleState.UNLOCKED and not changes and "5 measurements" in out.scale.reason
        out, changes = fed([METRES] * 6)
        assert out.scale.state is ScaleState.LOCKED and out.scale.metres == pytest.approx(METRES)
        assert len(changes) == 1 and "one unit is 2.5 m" in changes[0] and out.scale.reason == ""

    def test_nothing_measured(self):
        scale = estimator().scale
        assert scale.state is ScaleState.UNLOCKED and math.isnan(scale.metres) and scale.reason == "waiting"

    @pytest.mark.parametrize("noise", [0.02, 0.05, 0.15])
    def test_the_error_is_what_it_says(self, noise):
        errors = []
        for seed in range(200):
            logs = noise * np.random.default_rng(seed).standard_normal(20)
            out, _ = fed(METRES * np.exp(logs), noise, rule=LockRule(6, 0.0, sigma=1.0))
            centre, sigma, _ = out._estimate()
            errors.append((centre - math.log(METRES)) / sigma)
        assert 0.6 < np.std(errors) < 1.25 and np.mean(np.abs(errors) < 3) > 0.98

    @pytest.mark.parametrize("share", [0.1, 0.25])
    def test_outliers_change_little(self, share):
        rng = np.random.default_rng(1)
        values = METRES * np.exp(0.03 * rng.standard_normal(KEPT))
        values[: int(share * KEPT)] *= 4
        out, _ = fed(rng.permutation(values))
        assert out.locked and out.scale.metres == pytest.approx(METRES, rel=0.03)

    @pytest.mark.parametrize("values", [[1, 8, 2, 20, 3, 40, 5, 90, 6, 200], [1.0, 2.0] * 10])
    def test_what_does_not_agree_never_locks(self, values):
        out, changes = fed(values)
        assert not out.locked and not changes and "agree" in out.scale.reason

    def test_contradictions_prevent_the_lock_and_say_why(self):
        wrong = Measurement(math.nan, reason="directions 90 degrees apart")
        out, _ = fed([METRES, wrong] * 10)
        assert not out.locked and "directions 90 degrees apart" in out.scale.reason

    @pytest.mark.parametrize("rule", [odometry_scale.RULE, depth_scale.RULE, ground.RULE])
    def test_a_lost_lock_can_be_found_again(self, rule):
        out, changes = fed([METRES] * KEPT + [METRES * 2] * (2 * KEPT), rule=rule)
        assert out.locked and len(changes) == 3 and out.scale.metres == pytest.approx(2 * METRES)

    def test_a_few_contradictions_do_not_end_the_lock(self):
        out, changes = fed([METRES] * 10 + [METRES * 3] * 4 + [METRES] * 3)
        assert out.locked and out.scale.metres == pytest.approx(METRES) and len(changes) == 1

    def test_a_jump_of_the_scale_is_told_withheld_and_found_again(self):
        out, changes = fed([METRES] * 20 + [METRES * 2] * 5)
        assert out.scale.state is ScaleState.UNLOCKED and len(changes) == 2
        assert "one unit was 2.5 m, and odometry now says 5 m" in changes[1] and "withheld" in changes[1]
        for _ in range(20):
            assert len(changes) == 2
            changes += [change for change in [out.add(Measurement(METRES * 2, 0.03))] if change]
            if out.locked:
                break
        assert out.locked and len(out._kept) == 3 * RULE.fewest and out.scale.metres == pytest.approx(2 * METRES)

    def test_drift_is_followed_in_steps(self):
        out = estimator()
        used = set()
        for k in range(200):
            out.add(Measurement(METRES * math.exp(0.001 * k), 0.03))
            used.add(out.scale.metres)
        assert out.locked and out.scale.metres == pytest.approx(METRES * math.exp(0.18), rel=0.04)
        assert len(used) < 15, "the unit of a map must not change with every image"

    def test_without_news_it_gets_less_sure(self):
        out, _ = fed([METRES] * 10)
        before = out.scale.sigma
        for _ in range(10_000):
            out.frame_passed()
        assert out.locked and out.scale.sigma > before + 0.01
        out.add(Measurement(METRES, 0.03))
        assert out.scale.sigma < before + 0.01


def drive(steps, turn=0.0, metres=METRES, noise=0.0, wheels=None, seed=0):
    """(stamp, world_from_cam, odom_from_cam) of a base that goes `steps` (metres each); wheels: what odometry says."""
    rng, base, odometry = np.random.default_rng(seed), np.eye(4), np.eye(4)
    out, first = [], None
    for k, (step, wheel) in enumerate(zip(steps, steps if wheels is None else wheels, strict=True)):
        for pose, length in ((base, step), (odometry, wheel)):
            move = np.eye(4)
            move[:3, :3] = Rotation.from_euler("z", turn).as_matrix()
            move[0, 3] = length
            pose[:] = pose @ move
        cam = base @ BASE_FROM_CAM
        first = cam if first is None else first
        seen = np.linalg.inv(first) @ cam
        seen[:3, 3] = seen[:3, 3] / metres + noise / metres * rng.standard_normal(3)
        out.append((k * 100_000_000, seen, odometry @ BASE_FROM_CAM))
    return out


def measured(track, sigma=1e-3, known=None):
    ways = OdometryWays()
    found = [ways.add(*item, sigma, known) for item in track]
    return [item for item in found if item is not None], ways.notes


class TestOdometry:
    @pytest.mark.parametrize("turn", [0.0, 0.02, -0.05])
    def test_a_robot_that_drives(self, turn):
        found, _ = measured(drive([0.05] * 100, turn))
        assert len(found) > 15
        assert [item.metres for item in found] == pytest.approx([METRES] * len(found), rel=1e-6)

    def test_noise(self):
        found, _ = measured(drive([0.05] * 150, 0.01, noise=0.005), sigma=0.005 / METRES)
        out, _ = fed(found)
        assert out.locked and out.scale.metres == pytest.approx(METRES, rel=max(0.03, 3 * out.scale.sigma))
        assert out.scale.sigma < 0.03

    def test_standing_still_says_nothing(self):
        found, notes = measured(drive([0.0] * 300, noise=0.002), sigma=0.002 / METRES)
        assert not found and notes == {"slip": 0, "lift": 0, "turn": 0}

    def test_wheels_that_slip_on_the_spot_say_nothing(self):
        found, notes = measured(drive([0.0] * 100, wheels=[0.05] * 100))
        assert not found and notes["slip"] > 10
        _, notes = measured(drive([0.002] * 100, wheels=[0.05] * 100), known=METRES)
        assert notes["slip"] > 10, "known metres tell that it hardly moves"

    def test_some_slip_does_not_matter(self):
        wheels = [0.05 * (3 if k % 10 == 0 else 1) for k in range(200)]
        out, _ = fed(measured(drive([0.05] * 200, wheels=[0.05] * 200))[0])
        slipping, _ = fed([m for m in measured(drive([0.05] * 200, wheels=wheels))[0]])
        assert out.scale.metres == pytest.approx(METRES, rel=0.01)
        assert not slipping.locked or slipping.scale.metres == pytest.approx(METRES, rel=0.35)

    def test_slip_for_long_ends_the_lock(self):
        good = measured(drive([0.05] * 60))[0]
        slip = measured(drive([0.05] * 60, wheels=[0.1] * 60), known=METRES)[0]
        out, changes = fed(good + slip[:8])
        assert not out.locked and "not known any more" in changes[-1]

    def test_a_lift_says_nothing(self):
        """Odometry stands still while the world moves."""
        track = drive([0.05] * 100, wheels=[0.0] * 100)
        assert not measured(track)[0], "metres not known yet"
        found, notes = measured(track, known=METRES)
        assert not found and notes["lift"] > 5
        out, changes = fed(measured(drive([0.05] * 60))[0] + found)
        assert out.locked and len(changes) == 1 and out.scale.metres == pytest.approx(METRES)

    def test_turning_on_the_spot_says_nothing(self):
        """The arm from the wheels to the camera sweeps a length, of which its error is a large part."""
        found, notes = measured(drive([0.0] * 300, turn=0.1))
        assert not found and notes["turn"] > 10

    def test_a_camera_that_is_mounted_otherwise_than_tf_says(self):
        turned = np.eye(4)
        turned[:3, :3] = Rotation.from_euler("y", 60, degrees=True).as_matrix()
        track = [(stamp, seen, driven @ turned) for stamp, seen, driven in drive([0.05] * 60)]
        found, _ = measured(track)
        assert found and all(math.isnan(item.metres) and "60 degrees apart" in item.reason for item in found)
        out, _ = fed(found)
        assert not out.locked and "check the TF" in out.scale.reason

    def test_crawling_is_mostly_drift(self):
        assert not measured(drive([0.001] * 500))[0]


def flat(height=1.2, pitch=0.0, unit=METRES, noise=0.0, wall=8.0, roll=0.0):
    """A result that looks at a floor `height` metres below and a wall; pitch: radians downwards."""
    base = make_result(0, size=(160, 120))
    K = np.array([[120.0, 0, 80], [0, 120, 60], [0, 0, 1]])
    v, u = np.mgrid[:120, :160]
    rays = np.stack([(u - 80) / 120, (v - 60) / 120, np.ones(u.shape)], -1)
    turn = Rotation.from_euler("zx", [roll, -pitch]).as_matrix()  # level_from_cam, y down
    level = rays @ turn.T
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.minimum(np.where(level[..., 1] > 1e-3, height / level[..., 1], np.inf), wall / level[..., 2])
    depth *= np.exp(noise * np.random.default_rng(0).standard_normal(depth.shape)) / unit
    return replace(
        base,
        depth=depth.astype(np.float32),
        confidence=np.full(depth.shape, 3.0, np.float32),
        mask=np.zeros(depth.shape, bool),
        K=K,
        frame=replace(base.frame, image=np.zeros((120, 160, 3), np.uint8)),
    ), turn.T @ [0, -1.0, 0]


class TestGround:
    @pytest.mark.parametrize("pitch", [0.0, 0.35])
    @pytest.mark.parametrize("noise", [0.0, 0.01])
    def test_height(self, pitch, noise):
        result, up = flat(pitch=pitch, noise=noise)
        found = ground.height_ratio(result, up, math.radians(8), 1.2)
        assert found.metres == pytest.approx(METRES, rel=0.02)

    def test_a_tilt_that_nobody_measured(self):
        """The ground's normal is found, though up is 17 degrees off."""
        result, _ = flat(pitch=0.3)
        found = ground.height_ratio(result, np.array([0, -1.0, 0]), math.radians(30), 1.2)
        assert found.metres == pytest.approx(METRES, rel=0.02)

    def test_movers_and_unknown_pixels_do_not_count(self):
        result, up = flat()
        depth, mask = result.depth.copy(), result.mask.copy()
        mask[70:120, 40:90] = True
        depth[70:120, 40:90] = 0.3
        depth[:, ::7] = np.nan
        found = ground.height_ratio(replace(result, depth=depth, mask=mask), up, math.radians(8), 1.2)
        assert found.metres == pytest.approx(METRES, rel=0.02)

    def test_a_table_is_not_the_ground(self):
        """A plane with much below it."""
        result, up = flat(height=1.2, pitch=0.4)
        depth = result.depth.copy()
        depth[90:, 40:120] *= 0.5
        found = ground.height_ratio(replace(result, depth=depth), up, math.radians(8), 1.2)
        assert found is None or found.metres == pytest.approx(METRES, rel=0.03)

    def test_a_wall_alone_and_nothing_at_all(self):
        result, up = flat(wall=0.4)
        assert ground.height_ratio(result, up, math.radians(8), 1.2) is None
        nothing = replace(result, depth=np.full_like(result.depth, np.nan))
        assert ground.height_ratio(nothing, up, math.radians(8), 1.2) is None


class TestDepth:
    @pytest.mark.parametrize("shape", [(120, 160), (60, 80), (240, 320)])
    def test_ratio(self, shape):
        result, _ = flat(pitch=0.3)
        rows = (np.arange(shape[0]) * 120 / shape[0]).astype(int)
        columns = (np.arange(shape[1]) * 160 / shape[1]).astype(int)
        sensor = METRES * result.depth[rows][:, columns]
        found = depth_scale.depth_ratio(result, sensor)
        assert found.metres == pytest.approx(METRES, rel=0.02) and found.sigma < 0.02

    def test_holes_outliers_and_movers(self):
        result, _ = flat(pitch=0.3)
        rng, sensor = np.random.default_rng(0), METRES * result.depth
        sensor[rng.random(sensor.shape) < 0.3] = 0
        sensor[rng.random(sensor.shape) < 0.2] = np.nan
        sensor[rng.random(sensor.shape) < 0.2] *= 5  # flying pixels, reflections
        mask = np.zeros(sensor.shape, bool)
        mask[:, :50] = True
        sensor[mask] = 0.7
        found = depth_scale.depth_ratio(replace(result, mask=mask), sensor)
        assert found.metres == pytest.approx(METRES, rel=0.02)

    def test_an_image_that_is_not_aligned_is_no_measurement(self):
        result, _ = flat(pitch=0.3)
        found = depth_scale.depth_ratio(result, (METRES * result.depth)[::-1, ::-1] ** 2)
        assert found is None or math.isnan(found.metres) or "aligned" in found.reason

    def test_too_little(self):
        result, _ = flat()
        assert depth_scale.depth_ratio(result, np.zeros((120, 160))) is None


def place_all(placing, results):
    return [placing.place(item) for item in results]


class TestPlacing:
    """The whole way, from results to withheld or metric ones."""

    def odometry(self, track, lookup=None, said=None):
        said = [] if said is None else said
        drive_of = {stamp: driven for stamp, _, driven in track}
        clock = iter(np.arange(0, 1e6, 0.1))
        source = FromOdometry(lookup or (lambda r, last: drive_of[r.frame.stamp_ns]), lambda: next(clock))
        placing = Placing("camera", "odometry", PipelineConfig().scale, source, warn=said.append)
        results = []
        for index, (stamp, seen, _) in enumerate(track):
            item = make_result(index)
            results.append(
                replace(
                    item,
                    frame=replace(item.frame, stamp_ns=stamp),
                    world_from_cam=seen,
                    covariance=np.eye(6) * 1e-6,
                )
            )
        return placing, results

    def test_withheld_until_it_locks_then_metres(self):
        track = drive([0.05] * 60)
        placing, results = self.odometry(track)
        placed = place_all(placing, results)
        states = [item.scale.state for item in placed]
        lock = states.index(ScaleState.LOCKED)
        assert 10 < lock < 40 and set(states[lock:]) == {ScaleState.LOCKED}
        assert all(item.withheld and not item.metric for item in placed[:lock])
        assert placed[-1].metric and placed[-1].world_from_cam[0, 3] == pytest.approx(0.05 * 59, rel=1e-3)
        assert placed[-1].scale.source == "odometry" and 0 < placed[-1].scale.sigma < 0.03

    def test_odometry_that_comes_late_is_waited_for(self):
        track = drive([0.05] * 60)
        drive_of = {stamp: driven for stamp, _, driven in track}
        newest = {"stamp": 0}

        def lookup(result, last):
            if result.frame.stamp_ns > newest["stamp"] - 300_000_000:
                raise NotYet("3 images late")
            return drive_of[result.frame.stamp_ns]

        placing, results = self.odometry(track, lookup)
        for item in results:
            newest["stamp"] = item.frame.stamp_ns
            placed = placing.place(item)
        assert placed.scale.state is ScaleState.LOCKED and placed.scale.metres == pytest.approx(METRES, rel=1e-3)

    def test_no_odometry_is_said(self):
        def lookup(result, last):
            raise NotYet("nobody broadcasts a transform of 'odom'")

        placing, results = self.odometry(drive([0.05] * 60), lookup)
        placed = place_all(placing, results)[-1]
        assert placed.withheld and "nobody broadcasts a transform of 'odom'" in placed.scale.reason

    def test_too_old_odometry_is_left_out(self):
        def lookup(result, last):
            raise TooOld("forgotten")

        placing, results = self.odometry(drive([0.05] * 20), lookup)
        assert place_all(placing, results)[-1].withheld

    def test_a_reset_and_a_new_world_begin_again(self):
        """Another unit after the reset: what was known must not be used for it."""
        first, second = drive([0.05] * 60), drive([0.05] * 60, metres=4.0)
        placing, results = self.odometry(first)
        assert place_all(placing, results)[-1].metric
        placing.restart()
        _, results = self.odometry(second)
        placed = place_all(placing, results)
        assert placed[0].withheld and placed[-1].scale.metres == pytest.approx(4.0, rel=1e-3)
        placed = place_all(placing, [replace(results[-1], world=1)])
        assert placed[0].withheld and "new world" in placed[0].scale.reason

    def test_lost_images_are_not_measured(self):
        placing, results = self.odometry(drive([0.05] * 60))
        lost = [replace(item, state=TrackingState.LOST) for item in results]
        assert place_all(placing, lost)[-1].withheld

    def test_depth(self):
        result, _ = flat(pitch=0.3)
        asked = []
        source = FromDepth(lambda r: asked.append(r) or METRES * r.depth)
        placing = Placing("camera", "depth", PipelineConfig().scale, source)
        placed = place_all(placing, [result] * 30)
        assert [item.metric for item in placed].index(True) == depth_scale.RULE.fewest - 1
        assert placed[-1].scale.metres == pytest.approx(METRES, rel=0.01)
        assert len(asked) < 20, "once it is sure, not every image is compared"

    def test_depth_follows_a_scale_that_changes_though_it_looks_seldom_by_then(self):
        result, _ = flat(pitch=0.3)
        metres = [METRES]
        placing = Placing("camera", "depth", PipelineConfig().scale, FromDepth(lambda r: metres[0] * r.depth))
        place_all(placing, [result] * 30)
        metres[0] *= 1.3
        states = [item.scale.state for item in place_all(placing, [result] * 10)]
        assert states[-1] is ScaleState.UNLOCKED, "withheld, rather than wrong by 30 %"
        assert place_all(placing, [result] * 40)[-1].scale.metres == pytest.approx(1.3 * METRES, rel=0.01)

    def test_camera_height(self):
        config = with_settings(PipelineConfig(), {"scale.source": "camera_height", "scale.camera_height": 1.2})
        result, _ = flat(pitch=0.2)
        placed = place_all(Placing("camera", "camera_height", config.scale), [result] * 20)
        assert placed[0].withheld and placed[-1].metric
        assert placed[-1].scale.metres == pytest.approx(METRES, rel=0.02)


def test_rules_can_be_met():
    for rule in (odometry_scale.RULE, depth_scale.RULE, ground.RULE):
        assert 3 <= rule.fewest <= KEPT and rule.shared < rule.sigma < 0.15 and 0.5 < rule.agreeing < 1
