"""Cues that add up log odds: which there are, how they are fused, what is remembered."""

import numpy as np
import pytest
import torch
from easi3r_lab.synthetic import render_clip
from helpers_classical import network_input
from helpers_motion import SimulatedNetwork, frame_of

from easi3r_ros.core.config import ConfigError, MotionConfig, PipelineConfig, with_settings
from easi3r_ros.core.motion import build_cue
from easi3r_ros.core.motion.attention import AttentionCue, AttentionOdds
from easi3r_ros.core.motion.odds import MOST_LOG_ODDS, OddsCue, OddsSource, carried_along, flow_to_earlier
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import Features, PairEvidence, PairMotion

SHAPE, CELLS = (96, 128), (48, 64)
BLOCK = (slice(16, 32), slice(20, 40))  # cells
INSIDE = (slice(19, 29), slice(23, 37))  # cells of the block that its border does not touch


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def features(*indices: int) -> dict[int, Features]:
    image = np.full((*SHAPE, 3), 100, np.uint8)
    return {i: Features(network_input(image, i), torch.zeros(1, 1), (1, 1)) for i in indices}


def block(inside: float, outside: float) -> np.ndarray:
    odds = np.full(CELLS, outside, np.float32)
    odds[BLOCK] = inside
    return odds


class Says(OddsSource):
    """A source with fixed answers by frame."""

    def __init__(self, name, answers, limits=(-MOST_LOG_ODDS, MOST_LOG_ODDS)):
        self.name, self.answers, self.limits = name, answers, limits

    def log_odds(self, features, evidence, again=False):
        return {index: self.answers[index] for index in features if index in self.answers}

    def reset(self):
        self.answers = {}


def covered(cue, evidence=None, *, index=0) -> float:
    """Share of the inside of the block that is masked."""
    mask = cue.estimate(features(*range(index + 1)), evidence or {})[index].mask.numpy()
    return float(mask[::2, ::2][INSIDE].mean())


class TestChoice:
    @pytest.mark.parametrize(
        ("attention", "name", "sources"),
        [(False, "geometry", ["geometry"]), (True, "fused", ["geometry", "attention"])],
    )
    def test_auto(self, attention, name, sources):
        cue = build_cue(MotionConfig(), attention)
        assert cue.name == name and isinstance(cue, OddsCue) and cue.needs_motion
        assert [source.name for source in cue._sources] == sources

    def test_attention_alone_is_the_paper(self):
        cue = build_cue(MotionConfig(cue="attention"), has_attention=True)
        assert isinstance(cue, AttentionCue) and not cue.needs_motion

    @pytest.mark.parametrize("cue", ["attention", "fused"])
    def test_no_evidence(self, cue):
        with pytest.raises(ConfigError, match=f"'{cue}' has no evidence.*use 'geometry'"):
            build_cue(MotionConfig(cue=cue), has_attention=False)


class TestFusion:
    def fused(self, geometry: float, attention: float) -> OddsCue:
        sources = [
            Says("geometry", {0: block(geometry, -4.0)}),
            Says("attention", {0: block(attention, -4.0)}, AttentionOdds.limits),
        ]
        return OddsCue("fused", MotionConfig(), sources)

    def test_attention_alone_makes_no_mask(self):
        assert covered(self.fused(geometry=-4.0, attention=7.0)) == 0

    def test_attention_lowers_the_threshold(self):
        assert covered(self.fused(geometry=0.2, attention=-7.0)) == 0
        assert covered(self.fused(geometry=0.2, attention=7.0)) > 0.9

    def test_what_attention_misses_is_kept_if_it_moves_clearly(self):
        assert covered(self.fused(geometry=4.0, attention=-7.0)) > 0.9

    def test_each_cue_is_there_to_be_looked_at(self):
        evidence = self.fused(0.5, 7.0).estimate(features(0), {})[0].evidence
        assert set(evidence) == {"geometry", "attention", "fused"}
        assert evidence["attention"].max() == 7.0 and evidence["fused"].max() == 2.0

    def test_the_first_source_is_needed_the_others_are_not(self):
        silent = Says("attention", {})
        assert covered(OddsCue("fused", MotionConfig(), [Says("geometry", {0: block(4.0, -4.0)}), silent])) > 0.9
        assert (
            OddsCue("fused", MotionConfig(), [silent, Says("geometry", {0: block(4.0, -4.0)})]).estimate(
                features(0), {}
            )
            == {}
        )


def motion(flow: tuple[float, float]) -> PairMotion:
    """Of pair (1, 0): everything went by `flow` pixels from frame 1 to frame 0."""
    there = np.broadcast_to(np.float32(flow)[:, None, None], (2, *CELLS)).copy()
    nothing = torch.zeros(SHAPE)
    return PairMotion(nothing, nothing, torch.from_numpy(there), torch.from_numpy(-there))


class TestMemory:
    def cue(self, now: float, memory: float = 0.6) -> OddsCue:
        answers = {0: block(4.0, -4.0), 1: block(now, -4.0)}
        return OddsCue("geometry", MotionConfig(memory=memory), [Says("geometry", answers)])

    def evidence(self, flow=(0.0, 0.0)):
        return {(1, 0): PairEvidence(motion=motion(flow))}

    def test_a_doubtful_mover_is_kept(self):
        assert covered(self.cue(0.5), self.evidence(), index=1) > 0.9
        assert covered(self.cue(0.5, memory=0.0), self.evidence(), index=1) == 0

    def test_what_stopped_is_let_go_at_once(self):
        assert covered(self.cue(-4.0), self.evidence(), index=1) == 0

    def test_it_is_carried_along_the_flow(self):
        old = block(4.0, -4.0)
        flow = motion((-8.0, 4.0)).flow_a.numpy()  # 4 cells to the left and 2 down, where it was
        moved = carried_along(old, flow)
        assert (moved[14:30, 24:44] == 4.0).all() and np.count_nonzero(moved) == 16 * 20
        flow[:, 20, 30] = np.nan
        assert carried_along(old, flow)[20, 30] == 0

    def test_a_new_mover_does_not_wait(self):
        answers = {0: block(-4.0, -4.0), 1: block(1.5, -4.0)}
        cue = OddsCue("geometry", MotionConfig(memory=0.9), [Says("geometry", answers)])
        assert covered(cue, self.evidence(), index=1) > 0.9

    def test_from_the_nearest_earlier_frame(self):
        evidence = {(3, 1): PairEvidence(motion=motion((1, 1))), (2, 3): PairEvidence(motion=motion((2, 2)))}
        evidence[4, 3] = PairEvidence(motion=motion((3, 3)))
        index, flow = flow_to_earlier(3, evidence, {1, 2, 4})
        assert index == 2 and flow[0, 0, 0] == -2.0  # frame 3 is view b of that pair
        assert flow_to_earlier(3, evidence, {4}) is None

    def test_reset(self):
        cue = self.cue(0.5)
        covered(cue, self.evidence(), index=1)
        cue.reset()
        assert cue.estimate(features(0, 1), self.evidence()) == {}


class TestLiveSettings:
    """What was learned stays; a frame that is computed again inherits what it inherited at first."""

    def cue(self) -> OddsCue:
        answers = {0: block(4.0, -4.0), 1: block(0.5, -4.0), 2: block(0.5, -4.0)}
        return OddsCue("geometry", MotionConfig(threshold=0.5, memory=0.6), [Says("geometry", answers)])

    def evidence(self):
        return {(i + 1, i): PairEvidence(motion=motion((0.0, 0.0))) for i in range(2)}

    def test_a_threshold_counts_for_all_frames_and_beliefs_stay(self):
        cue = self.cue()
        assert covered(cue, self.evidence(), index=1) > 0.9
        before = cue.estimate(features(0, 1), self.evidence())
        cue.reconfigure(MotionConfig(threshold=0.97, memory=0.6))
        after = cue.estimate(features(0, 1), self.evidence())
        assert before[1].mask.any() and not after[1].mask.any(), "odds of 2.9, needed are 3.5"
        for index in (0, 1):
            assert torch.equal(after[index].evidence["geometry"], before[index].evidence["geometry"])
        cue.reconfigure(MotionConfig(threshold=0.5, memory=0.6))
        again = cue.estimate(features(0, 1), self.evidence())
        assert all(torch.equal(again[i].mask, before[i].mask) for i in (0, 1))

    def test_the_next_frame_still_inherits(self):
        cue = self.cue()
        covered(cue, self.evidence(), index=1)
        cue.reconfigure(MotionConfig(threshold=0.51, memory=0.6))
        assert covered(cue, self.evidence(), index=2) > 0.9, "0.5 alone is too little: the region is nowhere certain"

    def test_frames_out_of_the_evidence_s_reach_keep_their_belief(self):
        """A window without the frame's own first pair could not tell any more what it had inherited."""
        cue = self.cue()
        covered(cue, self.evidence(), index=1)
        cue.reconfigure(MotionConfig(threshold=0.51, memory=0.6))
        assert cue.estimate(features(0, 1), {})[1].mask.any()

    def test_memory_switched_on_and_off(self):
        cue = OddsCue("attention", MotionConfig(memory=0.0), [Says("attention", {0: block(4.0, -4.0)})])
        assert not cue.needs_motion
        cue.reconfigure(MotionConfig(memory=0.5))
        assert cue.needs_motion
        cue = self.cue()
        covered(cue, self.evidence(), index=1)
        cue.reconfigure(MotionConfig(threshold=0.5, memory=0.0))
        assert covered(cue, self.evidence(), index=2) == 0


def masks_of(clip, cue: str, **network) -> list[np.ndarray]:
    pipeline = Pipeline(with_settings(PipelineConfig(), {"motion.cue": cue}), SimulatedNetwork(clip, **network))
    return [pipeline.push(frame_of(clip, i)).mask for i in range(len(clip))]


@pytest.mark.parametrize("cue", ["geometry", "fused"])
def test_a_static_scene_stays_empty_whatever_attention_says(static_clip, cue):
    masks = masks_of(static_clip, cue, noise=0.05)
    assert np.mean(masks) < 0.005


def test_the_published_mask_of_a_static_scene_is_not_empty(static_clip):
    """Why there is a gate at all."""
    assert np.mean(masks_of(static_clip, "attention")) > 0.01


@pytest.mark.parametrize("cue", ["geometry", "fused"])
def test_movers_are_masked(moving_clip, cue):
    masks, truth = masks_of(moving_clip, cue, noise=0.02), moving_clip.masks
    overlap = [(m & t).sum() / (m | t).sum() for m, t in zip(masks[4:], truth[4:], strict=True)]
    assert np.mean(overlap) > 0.5


@pytest.fixture(scope="module")
def static_clip():
    return render_clip("static", seed=1, frames=7, size=(256, 192), rate=15.0)


@pytest.fixture(scope="module")
def moving_clip():
    return render_clip("tabletop", seed=0, frames=8, size=(256, 192), rate=15.0)
