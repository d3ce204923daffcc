"""The geometry cue: evidence of pairs in, absolute probability and mask out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_classical import ROOM, WALKER, network_input, pose, render

from easi3r_ros.core.classical import ClassicalBackbone
from easi3r_ros.core.config import MotionConfig, PipelineConfig
from easi3r_ros.core.motion import MotionCue, build_cue
from easi3r_ros.core.motion.odds import EdgeLines, GeometryOdds, fused_log_odds, on_pixels, without_specks
from easi3r_ros.core.pipeline import Pipeline
from easi3r_ros.core.types import Features, PairEvidence, PairMotion

SHAPE = (96, 128)
BLOCK = (slice(30, 60), slice(40, 80))


def features(*indices: int, image: np.ndarray | None = None) -> dict[int, Features]:
    image = np.full((*SHAPE, 3), 100, np.uint8) if image is None else image
    return {i: Features(network_input(image, i), torch.zeros(1, 1), (1, 1)) for i in indices}


def noise(seed: int) -> torch.Tensor:
    """What a static scene gives: errors of unit deviation, some of them large."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.abs(rng.standard_t(4, SHAPE)).astype(np.float32))


def with_block(seed: int, sigmas: float = 30.0) -> torch.Tensor:
    evidence = noise(seed)
    evidence[BLOCK] += sigmas
    return evidence


def pair(a: torch.Tensor, b: torch.Tensor) -> PairEvidence:
    return PairEvidence(motion=PairMotion(a, b))


def geometry_cue(**settings) -> MotionCue:
    return build_cue(MotionConfig(cue="geometry", **settings), has_attention=False)


def overlap(mask: torch.Tensor, truth: np.ndarray) -> float:
    return float((mask.numpy() & truth).sum() / (mask.numpy() | truth).sum())


def block_mask() -> np.ndarray:
    truth = np.zeros(SHAPE, bool)
    truth[BLOCK] = True
    return truth


def test_a_static_scene_has_an_empty_mask():
    cue = geometry_cue()
    evidence = {(1, 0): pair(noise(1), noise(2)), (2, 0): pair(noise(3), noise(4)), (2, 1): pair(noise(5), noise(6))}
    for estimate in cue.estimate(features(0, 1, 2), evidence).values():
        assert not estimate.mask.any()
        assert estimate.probability.max() < 0.5


def test_a_mover_is_masked_where_it_is():
    estimate = geometry_cue().estimate(features(0, 1), {(1, 0): pair(with_block(1), noise(2))})
    assert overlap(estimate[1].mask, block_mask()) > 0.85
    assert not estimate[0].mask.any()
    assert estimate[1].probability.min() >= 0 and estimate[1].probability.max() <= 1
    assert estimate[1].mask.shape == SHAPE and estimate[1].evidence.keys() == {"geometry"}


def test_at_least_half_of_the_pairs_must_see_it():
    def fused(moving: int, still: int) -> float:
        maps = [with_block(i).numpy() for i in range(moving)] + [noise(10 + i).numpy() for i in range(still)]
        return float(np.median(fused_log_odds([(sigmas, None) for sigmas in maps])[20:25, 25:35]))

    assert fused(1, 0) > 1 and fused(1, 1) > 1 and fused(2, 2) > 1 and fused(2, 1) > 1
    assert fused(1, 2) < -1 and fused(1, 3) < -1


def test_a_pair_whose_flow_is_lost_has_no_vote_against_motion():
    """A fast mover: only the nearest frame shows it, over a longer time its flow is lost."""
    flow = np.zeros((2, SHAPE[0] // 2, SHAPE[1] // 2), np.float32)
    lost = np.where(block_mask()[::2, ::2], np.nan, flow).astype(np.float32)
    near, far = with_block(1).numpy(), [noise(2).numpy(), noise(3).numpy()]
    seen = fused_log_odds([(near, flow), *((sigmas, flow) for sigmas in far)])
    unseen = fused_log_odds([(near, flow), *((sigmas, lost) for sigmas in far)])
    assert np.median(seen[20:25, 25:35]) < -1 and np.median(unseen[20:25, 25:35]) > 1
    np.testing.assert_array_equal(seen[:10], unseen[:10])


def test_a_slow_mover_shows_over_the_longer_times():
    maps = [with_block(1, sigmas=2.0), with_block(2, sigmas=12.0), with_block(3, sigmas=20.0)]
    assert np.median(fused_log_odds([(m.numpy(), None) for m in maps])[20:25, 25:35]) > 0.5


def test_more_evidence_is_more_probable():
    odds = [fused_log_odds([(np.full(SHAPE, s, np.float32), None)]).mean() for s in (0.0, 1.0, 3.0, 7.0, 15.0, 1e6)]
    assert odds == sorted(odds)
    assert odds[3] == pytest.approx(0, abs=1e-3)
    assert odds[0] < -3 and odds[-1] == 4.0


def test_specks_and_doubtful_regions_are_dropped():
    probability = np.zeros(SHAPE, np.float32)
    probability[BLOCK] = 0.9
    probability[5:7, 5:7] = 0.95  # tiny
    probability[70:90, 90:120] = 0.6  # nowhere certain
    kept = without_specks(probability, 0.5) > 0.5
    np.testing.assert_array_equal(kept, block_mask())


def test_borders_follow_the_image():
    guide = np.where(block_mask(), 230, 25).astype(np.uint8)
    smeared = np.zeros((SHAPE[0] // 2, SHAPE[1] // 2), np.float32)
    smeared[13:32, 18:42] = 1.0  # two cells too far on every side
    lines = EdgeLines.fit(smeared, guide)
    planes = torch.from_numpy(np.stack([lines.slope, lines.offset]))
    followed = on_pixels(planes, torch.from_numpy(guide)) > 0.5
    raw = torch.from_numpy(np.kron(smeared, np.ones((2, 2))) > 0.5)
    assert overlap(followed, block_mask()) > overlap(raw, block_mask()) + 0.1


def test_pixels_are_the_same_on_every_device():
    """OpenCV on a CPU, PyTorch elsewhere."""
    rng = np.random.default_rng(0)
    guide = torch.from_numpy(rng.integers(0, 256, (97, 131), np.uint8))
    lines = torch.from_numpy(rng.normal(0, 1, (2, 48, 65)).astype(np.float32))

    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

    ours = on_pixels(lines.as_subclass(Elsewhere), guide).as_subclass(torch.Tensor)
    torch.testing.assert_close(ours, on_pixels(lines, guide), atol=1e-4, rtol=0)


def test_threshold_is_the_configured_one():
    evidence = {(1, 0): pair(with_block(1, sigmas=14.0), noise(2))}
    areas = [
        float(geometry_cue(threshold=t).estimate(features(0, 1), evidence)[1].mask.float().mean())
        for t in (0.3, 0.5, 0.95)
    ]
    assert areas[0] >= areas[1] > 0 == areas[2]


def test_both_orders_of_a_pair_count_once():
    mine, other = with_block(1), noise(2)
    evidence = {(1, 0): pair(mine, other), (0, 1): pair(other, mine), (2, 0): pair(other, other)}
    votes = GeometryOdds().votes(1, evidence)
    assert len(votes) == 1 and votes[0][0] is mine


def test_frames_without_evidence_are_absent():
    cue = geometry_cue()
    assert cue.estimate(features(0), {}) == {}
    assert cue.estimate(features(0, 1), {(1, 0): PairEvidence()}) == {}
    assert set(cue.estimate(features(0, 1, 2), {(1, 0): pair(noise(1), noise(2))})) == {0, 1}


def test_only_new_evidence_is_computed_again():
    cue = geometry_cue()
    evidence = {(1, 0): pair(noise(1), noise(2))}
    before = cue.estimate(features(0, 1), evidence)
    evidence[2, 1] = pair(with_block(3), with_block(4))
    after = cue.estimate(features(0, 1, 2), evidence)
    assert after[0] is before[0]
    assert after[1].mask.any() and after[2].mask.any()
    evidence[2, 1] = pair(noise(3), noise(4))  # the second pass replaces it
    assert not cue.estimate(features(0, 1, 2), evidence)[2].mask.any()
    cue.reset()
    assert cue.estimate(features(0, 1), evidence)[0] is not before[0]


@pytest.mark.parametrize("speed", [0.0, 0.07])
def test_with_the_classical_backbone(speed):
    """A walker in front of a moving camera is masked; standing still, it is not."""
    backbone, cue = ClassicalBackbone(), geometry_cue()
    window, evidence = {}, {}
    for i in range(4):
        image, _, seen = render(
            (*ROOM, WALKER.moved(-speed * i, -0.4 * speed * i, 0)), pose((0.06 * i, 0, 0.02 * i)), i
        )
        window[i] = backbone.encode(network_input(image, i))
        for partner in {max(i - 1, 0), 0} - {i}:
            evidence[i, partner] = backbone.decode([(window[i], window[partner])])[0].evidence
    mask = cue.estimate(window, evidence)[3].mask
    if speed:
        assert overlap(mask, seen == len(ROOM)) > 0.55
    else:
        assert mask.float().mean() < 0.002


def test_a_mover_that_stops_fades_within_half_a_second():
    """With the memory that is on by default, classical backbone and pipeline, 10 Hz."""
    pipeline, share = Pipeline(PipelineConfig()), []
    for i in range(11):
        steps = min(i, 5)
        walker = WALKER.moved(-0.07 * steps, -0.04 * steps, 0)
        image, _, seen = render((*ROOM, walker), pose((0.06 * i, 0, 0.02 * i)), i)
        result = pipeline.push(replace(network_input(image, i).frame, stamp_ns=i * 100_000_000))
        share.append(float(result.mask[seen == len(ROOM)].mean()))
    assert max(share[3:6]) > 0.5, share
    assert share[10] < 0.05, share
