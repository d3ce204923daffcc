"""The order of the stages, with a backbone that knows the truth of a rendered clip."""

import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from easi3r_lab.synthetic import render_clip
from easi3r_lab.synthetic.true_pairs import simulate_pair

from easi3r_ros.core.backbone import Backbone
from easi3r_ros.core.camera_maps import CameraMaps, StopWatch
from easi3r_ros.core.clouds import split_cloud, standing_depth
from easi3r_ros.core.config import CloudConfig, ConfigError, PipelineConfig, with_settings
from easi3r_ros.core.pipeline import FrameSizeChanged, Pipeline
from easi3r_ros.core.preprocess import to_camera
from easi3r_ros.core.types import (
    AlignedFrame,
    Features,
    Frame,
    ImageTransform,
    InputSpec,
    MotionEstimate,
    NetworkInput,
    PairEvidence,
    PairGeometry,
    PairMotion,
    Partners,
    TrackingState,
)

SIZE = (192, 144)


@pytest.fixture(scope="module")
def clip():
    return render_clip("walkers", seed=3, frames=12, size=SIZE, rate=10.0)


class Oracle(Backbone):
    """Answers every pair from the clip's truth; movers have 20 sigma, the rest none."""

    name, input_spec, default_partners = "oracle", InputSpec(192), Partners(steps=(1, 3))

    def __init__(self, clip):
        self.clip, self.rng, self.calls = clip, np.random.default_rng(0), []

    def encode(self, image):
        return Features(image, torch.zeros(1, 1), (1, 1))

    def decode(self, pairs, masks=None):
        self.calls.append(masks)
        return [self._answer(a.index, b.index) for a, b in pairs]

    def _answer(self, a, b):
        pair = simulate_pair(self.clip, a, b, self.rng)
        motion = PairMotion(*(torch.from_numpy(20.0 * self.clip.masks[i].astype(np.float32)) for i in (a, b)))
        fields = (pair.points_a, pair.points_b, pair.conf_a, pair.conf_b)
        return PairGeometry(a, b, *fields, PairEvidence(motion=motion))


class Doubtful(Oracle):
    """Is sure of the first frames' movers, and in doubt later; there is no flow."""

    default_partners = Partners(steps=(1, 2))

    def _answer(self, a, b):
        geometry = super()._answer(a, b)
        certainty = 20.0 if max(a, b) < 3 else 7.5  # standard deviations; even odds at 7
        flow = torch.zeros(2, SIZE[1] // 2, SIZE[0] // 2)
        sigmas = (torch.from_numpy(certainty * self.clip.masks[0].astype(np.float32)) for _ in range(2))
        return replace(geometry, evidence=PairEvidence(motion=PairMotion(*sigmas, flow, flow)))


def frame_of(clip, index, **changes):
    values = dict(index=index, stamp_ns=clip.stamp_ns(index), frame_id="camera", image=clip.images[index], K=clip.K)
    return Frame(**values | changes)


def test_one_result_per_frame_from_the_first_on(clip):
    oracle = Oracle(clip)
    pipeline = Pipeline(PipelineConfig(), oracle)
    results = [pipeline.push(frame_of(clip, i)) for i in range(len(clip))]
    assert [r.frame.index for r in results] == list(range(len(clip)))
    assert results[0].state is TrackingState.INITIALISING
    assert not results[0].mask.any() and results[-1].state is TrackingState.TRACKING
    last = results[-1]
    assert last.mask.shape == last.depth.shape == last.probability.shape == SIZE[::-1]
    overlap = (last.mask & clip.masks[11]).sum() / (last.mask | clip.masks[11]).sum()
    assert overlap > 0.7  # the cue takes off a margin that real flow smears and the oracle does not
    assert last.window == tuple(range(2, 12))
    assert last.dynamic_fraction == pytest.approx(last.mask.mean())
    assert set(last.latency_ms) == {
        *("preprocess", "encode", "decode", "motion", "decode_masked", "motion_masked", "pointmaps"),
        *("alignment", "output"),
    }


def test_the_world_is_built_on_what_the_second_pass_says(clip, monkeypatch):
    """Masks and pairs: the first pass thinks that a block moves which does not, and its points are all too far."""

    class Mistaken(Oracle):
        def decode(self, pairs, masks=None):
            answers = super().decode(pairs, masks)
            if masks is not None:
                return answers
            block = torch.zeros(SIZE[::-1])
            block[20:60, 20:60] = 20.0
            wrong = PairEvidence(motion=PairMotion(block, block))
            return [replace(pair, points_a=9 * pair.points_a, evidence=wrong) for pair in answers]

    pipeline, aligned, learned = Pipeline(PipelineConfig(), Mistaken(clip)), [], []
    update = pipeline._aligner.update
    monkeypatch.setattr(pipeline._aligner, "update", lambda *args: aligned.append(args) or update(*args))
    pipeline._journal = SimpleNamespace(add=lambda *args, **options: learned.append(args))
    results = [pipeline.push(frame_of(clip, i)) for i in range(4)]
    for (index, pairs, masks, *_), (journal_pairs, journal_masks, _), result in zip(
        aligned[1:], learned[1:], results[1:], strict=True
    ):
        assert not masks[index][25:55, 25:55].any() and masks[index].any()
        np.testing.assert_array_equal(masks[index].numpy(), result.mask)
        assert all(pair.points_a[..., 2].median() < 20 for pair in pairs)
        assert journal_masks is masks and journal_pairs is pairs
    # What is remembered of a pair for later frames is what its second pass said.
    assert not any(evidence.motion.a[25:55, 25:55].any() for evidence in pipeline._window.evidence.values())


def test_passes_see_the_masks_of_both_frames_and_a_single_one_those_of_earlier_frames(clip):
    oracle = Oracle(clip)
    pipeline = Pipeline(PipelineConfig(), oracle)
    pipeline.push(frame_of(clip, 0))
    pipeline.push(frame_of(clip, 1))
    assert oracle.calls[0] is None and set(oracle.calls[1]) == {0, 1}
    once = Oracle(clip)
    pipeline = Pipeline(with_settings(PipelineConfig(), {"motion.passes": 1}), once)
    for i in range(3):
        pipeline.push(frame_of(clip, i))
    assert [masks if masks is None else set(masks) for masks in once.calls] == [None, {0, 1}]  # frame 0 has no pairs
    assert once.calls[1][0].shape == SIZE[::-1]


def test_live_settings_apply_without_a_new_world(clip):
    oracle = Oracle(clip)
    pipeline = Pipeline(PipelineConfig(), oracle)
    for i in range(4):
        before = pipeline.push(frame_of(clip, i))
    pipeline.reconfigure(with_settings(PipelineConfig(), {"motion.passes": 1}))
    oracle.calls.clear()
    after = pipeline.push(frame_of(clip, 4))
    assert [set(masks) for masks in oracle.calls] == [{1, 3}] and after.window == (*before.window, 4)
    assert after.state is TrackingState.TRACKING


@pytest.mark.parametrize("name", ["motion.passes", "motion.memory", "motion.threshold"])
def test_a_live_change_of_motion_keeps_what_the_cue_learned(clip, monkeypatch, name):
    """There and back between two frames: as if nothing had been."""
    other = {"motion.passes": 1, "motion.memory": 0.2, "motion.threshold": 0.8}[name]
    usual = with_settings(PipelineConfig(), {"window.size": 3, "motion.memory": 0.9})
    results = []
    for configs in ((), (with_settings(usual, {name: other}), usual)):
        pipeline = Pipeline(usual, Doubtful(clip))
        for i in range(6):
            pipeline.push(frame_of(clip, i))
        for config in configs:
            pipeline.reconfigure(config)
        results.append(pipeline.push(frame_of(clip, 6)))
    undisturbed, changed = results
    assert undisturbed.mask.mean() > 0.05, "what is doubtful is masked because of frames that have left the window"
    assert np.array_equal(changed.mask, undisturbed.mask)
    assert np.array_equal(changed.probability, undisturbed.probability)


def test_maps_of_the_camera_s_size_are_computed_when_they_are_read(clip, monkeypatch):
    names = ("mask", "probability", "depth", "confidence")
    pipeline, read_at_once = Pipeline(PipelineConfig(), Oracle(clip)), Pipeline(PipelineConfig(), Oracle(clip))
    warps, standing = [], []

    def counted(calls, work):
        return lambda *args, **options: calls.append(1) or work(*args, **options)

    expected = []
    for i in range(6):
        result = read_at_once.push(frame_of(clip, i))
        expected.append({name: getattr(result, name).copy() for name in names})
    monkeypatch.setattr("easi3r_ros.core.camera_maps.to_camera", counted(warps, to_camera))
    monkeypatch.setattr("easi3r_ros.core.camera_maps.standing_depth", counted(standing, standing_depth))
    results = [pipeline.push(frame_of(clip, i)) for i in range(6)]
    pipeline.reconfigure(with_settings(PipelineConfig(), {"clouds.movers": "measured"}))
    assert warps == [] and standing == []
    before = results[-1].latency_ms["output"]
    for result, maps in zip(results, expected, strict=True):  # whatever became of the pipeline since
        for name in names:
            np.testing.assert_array_equal(getattr(result, name), maps[name])
            assert getattr(result, name) is getattr(result, name)
    assert len(warps) == 6 * 4 and len(standing) == 5, "each once; the first frame has no depth"
    assert results[-1].latency_ms["output"] > before, "who reads them pays, and it is counted"


def test_a_result_can_be_copied_changed_and_sent_elsewhere(clip):
    pipeline = Pipeline(PipelineConfig(), Oracle(clip))
    for i in range(4):
        result = pipeline.push(frame_of(clip, i))
    there = pickle.loads(pickle.dumps(result))
    changed = replace(result, depth=2 * result.depth)
    for name in ("mask", "probability", "confidence"):
        np.testing.assert_array_equal(getattr(there, name), getattr(result, name))
        assert getattr(changed, name) is getattr(result, name)
    np.testing.assert_array_equal(changed.depth, 2 * there.depth)
    assert set(there.evidence) == {"geometry"}


@pytest.mark.parametrize(
    ("camera", "network", "seen"),
    [((96, 48), (48, 48), (slice(None), slice(24, 72))), ((48, 96), (48, 32), (slice(32, 64), slice(None)))],
)
def test_what_the_crop_removed_is_unknown(camera, network, seen):
    """Not a surface at the lens: depth is NaN there, and everything else says nothing."""
    (W, H), (w, h) = camera, network
    image = NetworkInput(
        Frame(0, 0, "camera", np.zeros((H, W, 3), np.uint8)),
        np.zeros((h, w, 3), np.uint8),
        None,
        ImageTransform(camera, camera, ((W - w) // 2, (H - h) // 2), network),
    )
    maps = CameraMaps(
        image,
        MotionEstimate(0, torch.full((h, w), 0.75), torch.ones(h, w, dtype=torch.bool)),
        AlignedFrame(
            0, np.eye(4), np.eye(6), np.eye(3), torch.full((h, w), 5.0), torch.full((h, w), 2.0), 0.0,
            TrackingState.TRACKING,
        ),
        CloudConfig(movers="measured"),
        StopWatch(),
    )  # fmt: skip
    outside = np.ones((H, W), bool)
    outside[seen] = False
    assert np.isnan(maps.depth()[outside]).all() and (maps.depth()[~outside] == 5).all()
    assert (maps.confidence()[outside] == 1).all() and (maps.confidence()[~outside] == 2).all()
    assert (maps.probability()[outside] == 0).all() and (maps.probability()[~outside] == 0.75).all()
    assert not maps.mask()[outside].any() and maps.mask()[~outside].all()


def test_the_moving_share_is_that_of_the_camera_s_pixels(clip):
    """Also where the network sees a part of the image alone, and nobody asks for the mask."""

    class Square(Oracle):
        input_spec = InputSpec(96, 16, square=True)

        def decode(self, pairs, masks=None):
            everything = PairMotion(*[torch.full((96, 96), 20.0)] * 2)
            nothing, points = torch.ones(96, 96), torch.ones(96, 96, 3)
            fields = (points, points, nothing, nothing, PairEvidence(motion=everything))
            return [PairGeometry(a.index, b.index, *fields) for a, b in pairs]

    pipeline = Pipeline(PipelineConfig(), Square(clip))
    for i in range(2):
        result = pipeline.push(frame_of(clip, i))
    assert result.dynamic_fraction == pytest.approx(0.75, abs=0.01)  # the middle 144 of 192 columns
    assert result.mask.mean() == pytest.approx(result.dynamic_fraction, abs=0.01)


def test_reset_starts_a_new_world(clip):
    pipeline = Pipeline(PipelineConfig(), Oracle(clip))
    first = [pipeline.push(frame_of(clip, i)) for i in range(4)]
    pipeline.reset()
    again = pipeline.push(frame_of(clip, 0))
    assert np.array_equal(again.world_from_cam, first[0].world_from_cam) and again.window == (0,)


def test_a_new_image_size_is_an_error_until_reset(clip):
    pipeline = Pipeline(PipelineConfig(), Oracle(clip))
    pipeline.push(frame_of(clip, 0))
    other = frame_of(clip, 1, image=np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(FrameSizeChanged, match="192 x 144 to 64 x 48"):
        pipeline.push(other)
    pipeline.reset()
    assert pipeline.push(other).mask.shape == (48, 64)


@pytest.mark.parametrize("image", [np.zeros((48, 64), np.uint8), np.zeros((48, 64, 3), np.float32)])
def test_other_images_are_refused(clip, image):
    with pytest.raises(ValueError, match="uint8 RGB"):
        Pipeline(PipelineConfig(), Oracle(clip)).push(frame_of(clip, 0, image=image))


def test_a_cue_without_evidence_is_refused(clip):
    with pytest.raises(ConfigError, match="use 'geometry'"):
        Pipeline(with_settings(PipelineConfig(), {"motion.cue": "attention"}), Oracle(clip))


def test_clouds_lie_on_the_surfaces_and_split_by_the_mask(clip):
    pipeline = Pipeline(PipelineConfig(), Oracle(clip))
    for i in range(6):
        result = pipeline.push(frame_of(clip, i))
    static, dynamic = split_cloud(result, CloudConfig(stride=3))
    pixels = static.xyz[:, :2] / static.xyz[:, 2:] * clip.K[[0, 1], [0, 1]] + clip.K[:2, 2]
    u, v = pixels.round().astype(int).T
    assert np.abs(pixels - pixels.round()).max() < 1e-2 and set(u % 3) == {1}
    assert not result.mask[v, u].any() and np.array_equal(static.rgb, result.frame.image[v, u])
    assert np.allclose(static.xyz[:, 2], result.depth[v, u])
    assert len(dynamic.xyz) > 0 and np.isfinite(dynamic.xyz).all()
    near, _ = split_cloud(result, CloudConfig(stride=3, max_depth=float(np.nanmedian(result.depth))))
    assert 0 < len(near.xyz) < len(static.xyz)


def test_what_others_know_of_movers_counts_for_mask_and_alignment(clip, monkeypatch):
    """A block that is said to be the robot's arm; at the camera's size it comes out as it came in."""
    excluded = np.zeros(SIZE[::-1], bool)
    excluded[31:70, 33:71] = True
    pipeline, given = Pipeline(PipelineConfig(), Oracle(clip)), []
    update = pipeline._aligner.update
    monkeypatch.setattr(pipeline._aligner, "update", lambda *args: given.append(args[2]) or update(*args))
    plain = Pipeline(PipelineConfig(), Oracle(clip))
    for index in range(3):
        result = pipeline.push(frame_of(clip, index, excluded=excluded))
        without = plain.push(frame_of(clip, index))
        np.testing.assert_array_equal(result.mask, without.mask | excluded)
        assert (result.probability[excluded] == 1).all()
        if index:  # before the first pair nothing is aligned
            assert given[-1][index][excluded].all(), "the camera is not placed by the arm"
    assert result.mask.any() and set(given[-1]) == {0, 1, 2}
