"""Depth of a new frame: what pairs say, what is carried along, and which of them is believed. Flat worlds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from easi3r_ros.core.alignment import depth_fusion
from easi3r_ros.core.alignment.depth_fusion import (
    AGREEMENT,
    MAX_INFORMATION,
    AnchoredPair,
    DepthView,
    NewFrame,
    carry,
    fuse,
    hold_scale,
    occluded,
    pair_scale,
    relative_residual,
)
from easi3r_ros.core.alignment.placement import Anchor, information, take_samples
from easi3r_ros.core.geometry import intrinsics, transform, unproject
from easi3r_ros.core.types import AlignedFrame, PairEvidence, PairGeometry, TrackingState

H, W = 48, 64
K = intrinsics(60.0, (W - 1, H - 1))
KT = torch.from_numpy(K)
FORWARD = 0.5  # the new camera is so much nearer to the wall than the anchor
WALL = 4.0  # from the anchor
SURE, UNSURE = 3.0, 1.3  # confidence


def moved(z: float) -> torch.Tensor:
    pose = torch.eye(4, dtype=torch.float64)
    pose[2, 3] = z
    return pose


def anchor(depth: torch.Tensor | float = WALL, static: torch.Tensor | None = None, confidence=SURE, z=0.0) -> Anchor:
    depth = depth if isinstance(depth, torch.Tensor) else torch.full((H, W), depth)
    frame = AlignedFrame(
        index=0,
        world_from_cam=moved(z).numpy(),
        covariance=np.eye(6),
        K=K,
        depth=depth,
        confidence=torch.full((H, W), confidence),
        residual=0.0,
        state=TrackingState.TRACKING,
    )
    return Anchor(frame, torch.ones(H, W) if static is None else static, known=True)


def anchored(pair: PairGeometry, anchor: Anchor) -> AnchoredPair:
    samples = take_samples([pair], {anchor.frame.index: anchor})
    return AnchoredPair(pair, anchor, samples.pairs[0], samples.anchors[anchor.frame.index])


def from_new(new: NewFrame, pair: PairGeometry, anchor: Anchor) -> DepthView:
    return depth_fusion.from_new(new, anchored(pair, anchor))


def from_anchor(new: NewFrame, pair: PairGeometry, anchor: Anchor) -> DepthView:
    return depth_fusion.from_anchor(new, anchored(pair, anchor))


def depth_of_frame(new: NewFrame, pairs: list[tuple[PairGeometry, Anchor]]) -> tuple:
    return depth_fusion.depth_of_frame(new, [anchored(*pair) for pair in pairs])


def new_frame(static: torch.Tensor | None = None, z: float = FORWARD) -> NewFrame:
    return NewFrame(1, moved(-z), torch.ones(H, W) if static is None else static, 1.2)


def pair_of(scale: float = 2.0, confidence: float = SURE, wall=WALL, a: int = 0) -> PairGeometry:
    """Of the wall seen from the anchor (0) and from the new frame (1), in units of 1 / scale."""
    from_0 = unproject(torch.full((H, W), wall), KT)
    from_1 = unproject(torch.full((H, W), wall - FORWARD), KT)
    views = (from_0, transform(moved(FORWARD).float(), from_1))  # both in camera 0
    if a == 1:
        views = (from_1, transform(moved(-FORWARD).float(), from_0))
    sure = torch.full((H, W), confidence)
    return PairGeometry(a, 1 - a, views[0] / scale, views[1] / scale, sure, sure, PairEvidence())


def close(depth: torch.Tensor, expected: float, tolerance: float = 1e-4) -> bool:
    known = depth[torch.isfinite(depth)]
    return len(known) > 0.5 * depth.numel() and bool(((known / expected - 1).abs() < tolerance).all())


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_both_orders_of_a_pair_come_to_the_world_s_scale(scale):
    forth = from_new(new_frame(), pair_of(scale, a=1), anchor())
    assert close(forth.estimates[0][0], WALL - FORWARD) and forth.residual == pytest.approx(0, abs=1e-5)
    back = from_anchor(new_frame(), pair_of(scale), anchor())
    assert close(back.estimates[0][0], WALL - FORWARD) and back.residual == pytest.approx(0, abs=1e-5)
    assert close(back.carried, WALL - FORWARD)


def test_the_anchor_s_own_pose_counts():
    """Anchor and new frame further along in the world: only what lies between them matters."""
    view = from_anchor(new_frame(z=7 + FORWARD), pair_of(), anchor(z=7.0))
    assert close(view.carried, WALL - FORWARD) and close(view.estimates[0][0], WALL - FORWARD)
    assert close(from_new(new_frame(z=7 + FORWARD), pair_of(a=1), anchor(z=7.0)).estimates[0][0], WALL - FORWARD)


def test_information_is_the_confidence_of_the_pixels_that_the_depth_is_of():
    pair = replace(pair_of(a=1), conf_b=torch.full((H, W), 9.0))
    assert torch.allclose(from_new(new_frame(), pair, anchor()).estimates[0][1], information(pair.conf_a))
    pair = replace(pair_of(), conf_a=torch.full((H, W), 9.0))
    assert torch.allclose(from_anchor(new_frame(), pair, anchor()).estimates[0][1], information(pair.conf_b))


class TestCarried:
    def test_fades(self):
        _, faded = from_anchor(new_frame(), pair_of(), anchor()).estimates[1]
        share = faded[8:-8, 8:-8] / np.log(SURE)
        assert bool((share < 0.99).all()) and bool((share > 0.9).all())

    def test_old_mistakes_give_way(self):
        """A still camera and weak pairs: a patch surely believed to be at 3.7 becomes the wall at 4 that they see."""
        depth, patch = torch.full((H, W), WALL), (slice(20, 30), slice(20, 30))
        depth[patch] = 3.7
        here, wall = anchor(depth), unproject(torch.full((H, W), WALL), KT)
        weak = torch.full((H, W), 1.01)
        pairs = [PairGeometry(a, 1 - a, wall, wall, weak, weak, PairEvidence()) for a in (1, 0)]
        for _ in range(60):
            depth, confidence, _ = depth_of_frame(new_frame(z=0.0), [(pair, here) for pair in pairs])
            here = Anchor(replace(here.frame, depth=depth, confidence=confidence), here.static, known=True)
        assert close(depth[:20], WALL)
        assert 0 < WALL - float(depth[patch].median()) < 0.3 * (WALL - 3.7)  # 0.24; 0.48 if belief did not fade

    def test_not_what_moves(self):
        moving = torch.ones(H, W)
        moving[:, :32] = 0
        there = from_anchor(new_frame(), pair_of(), anchor(static=moving)).carried
        assert not torch.isfinite(there[:, :20]).any() and torch.isfinite(there[8:-8, 44:-8]).all()
        here = from_anchor(new_frame(static=moving), pair_of(), anchor()).carried
        assert not torch.isfinite(here[:, :32]).any() and torch.isfinite(here[8:-8, 32:-8]).all()

    def test_not_what_another_surface_hides(self):
        """Something at 2, before the wall at 4: the wall that was seen there is carried no further."""
        points = pair_of().points_b.clone()
        hidden = (slice(10, 30), slice(20, 40))
        points[hidden] *= 2.0 / 2.0 / points[hidden][..., 2:]  # pair units are half of the world's
        view = from_anchor(new_frame(), replace(pair_of(), points_b=points), anchor())
        assert not torch.isfinite(view.carried[hidden]).any()
        assert close(view.estimates[0][0][hidden], 2.0 - FORWARD)
        depth, _ = fuse(view.estimates)
        assert close(depth[hidden], 2.0 - FORWARD)
        unsure = pair_of().conf_b.clone()
        unsure[hidden] = 1.1  # says nothing
        view = from_anchor(new_frame(), replace(pair_of(), points_b=points, conf_b=unsure), anchor())
        assert torch.isfinite(view.carried[hidden]).all()

    def test_occlusion_is_a_matter_of_relative_depth_and_confidence(self):
        carried, sure = torch.tensor([[4.0, 4.0, 4.0, 4.0]]), torch.tensor([[2.0, 2.0, 2.0, 1.1]])
        measured = torch.tensor([[4.0, 4.0 / (1 + 0.9 * AGREEMENT), 4.0 / (1 + 1.1 * AGREEMENT), 1.0]])
        assert occluded(carried, measured, sure, 1.2).tolist() == [[False, False, True, False]]

    def test_without_parallax_only_the_carried_is_left(self):
        pair = replace(pair_of(), conf_a=torch.ones(H, W), conf_b=torch.ones(H, W))
        view = from_anchor(new_frame(), pair, anchor())
        assert len(view.estimates) == 1 and close(view.carried, WALL - FORWARD) and view.residual is None
        none = from_new(new_frame(), replace(pair_of(a=1), conf_b=torch.ones(H, W)), anchor())
        assert none.estimates == [] and none.residual is None
        assert np.isnan(depth_of_frame(new_frame(), [(pair, anchor())])[2])

    def test_depth_moves_with_the_pixels(self):
        """A step in depth, seen two and a half pixels further left in the new frame."""
        depth = torch.full((H, W), 4.0)
        depth[:, 30:] = 8.0
        lookup = unproject(torch.ones(H, W), KT)
        lookup[..., 0] += 2.5 / 60.0
        carried, informed = carry(depth, depth, depth > 0, lookup, KT)
        row = carried[5]
        assert torch.allclose(row[:27], torch.tensor(4.0)) and torch.allclose(row[28:61], torch.tensor(8.0))
        assert min(abs(float(row[27]) - surface) for surface in (4.0, 8.0)) < 1e-4, "nothing between two surfaces"
        assert not torch.isfinite(carried[:, 61:]).any() and (informed[:, 61:] == 0).all()

    def test_what_is_behind_the_new_camera_is_not_carried(self):
        lookup = unproject(torch.ones(H, W), KT)
        z = torch.full((H, W), 4.0)
        z[20:30] = -1.0
        carried, _ = carry(z, torch.ones(H, W), torch.ones(H, W, dtype=torch.bool), lookup, KT)
        assert not torch.isfinite(carried[21:29]).any() and (carried[:19] == 4.0).all()
        on_the_axis = torch.tensor([0.0, 0.0, -1.0]).expand(H, W, 3)
        for behind_the_earlier_one in (-lookup, on_the_axis):
            assert not torch.isfinite(carry(z.abs(), z.abs(), z != 0, behind_the_earlier_one, KT)[0]).any()


class TestScale:
    def test_it_is_held_by_the_carried_depth(self):
        depth = torch.full((H, W), 2.0)
        depth[:10] = torch.nan
        carried = torch.full((H, W), 3.0)
        carried[:, :20] = 30.0  # less than half of it is another surface
        assert torch.allclose(hold_scale(depth, [carried])[10:], torch.tensor(3.0))
        assert hold_scale(depth, []) is depth
        assert torch.equal(hold_scale(depth, [torch.full((H, W), torch.nan)])[10:], depth[10:])

    def test_a_frame_keeps_it_though_its_pairs_are_biased(self):
        """Both pairs put everything 3 % too near against what they have in common with the anchor."""
        forth, back = pair_of(a=1), pair_of()
        nearer = torch.tensor([0.97, 0.97, 0.97])
        forth = replace(forth, points_a=forth.points_a * nearer)
        back = replace(back, points_b=transform(moved(FORWARD / 2).float(), 0.97 * forth.points_a / 0.97))
        depth, _, _ = depth_of_frame(new_frame(), [(forth, anchor()), (back, anchor())])
        assert float(depth.nanmedian()) == pytest.approx(WALL - FORWARD, rel=1e-3)
        unheld, _ = fuse(
            [
                *from_new(new_frame(), forth, anchor()).estimates,
                *from_anchor(new_frame(), back, anchor()).estimates,
            ]
        )
        assert float(unheld.nanmedian()) < 0.995 * (WALL - FORWARD), "the pairs alone would shrink the world"

    def test_median_of_the_ratio(self):
        world, pair = torch.full((H, W), 6.0), torch.full((H, W), 2.0)
        world[:15] = 60.0  # movers, less than half
        pair[30:35], world[35:40] = -1.0, torch.nan
        assert pair_scale(world, pair, torch.ones(H, W)) == 3.0
        weights = torch.zeros(H, W)
        weights[:3] = 1.0
        assert pair_scale(world, pair, weights) == 30.0
        with pytest.raises(ValueError):
            pair_scale(world, -pair.abs(), torch.ones(H, W))

    def test_movers_do_not_set_it(self):
        """Two thirds of the anchor move, and are twice as far in the pair."""
        static = torch.ones(H, W)
        static[:32] = 0
        points = pair_of(a=1).points_b.clone()
        points[:32] *= 2
        view = from_new(new_frame(), replace(pair_of(a=1), points_b=points), anchor(static=static))
        assert close(view.estimates[0][0], WALL - FORWARD)
        points = pair_of().points_a.clone()
        points[:32] *= 2
        view = from_anchor(new_frame(), replace(pair_of(), points_a=points), anchor(static=static))
        assert close(view.estimates[0][0], WALL - FORWARD)


class TestFusion:
    def maps(self, *values: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(depth, information) of one pixel each."""
        return [(torch.tensor([[d]]), torch.tensor([[w]])) for d, w in zip(values[::2], values[1::2], strict=True)]

    def test_mean_of_the_logarithm(self):
        depth, confidence = fuse(self.maps(4.0, 1.0, 4.4, 3.0))
        assert float(depth) == pytest.approx(np.exp((np.log(4.0) + 3 * np.log(4.4)) / 4), rel=1e-3)
        assert float(confidence) == pytest.approx(np.exp(4.0), rel=1e-3)

    def test_surfaces_are_not_mixed(self):
        depth, confidence = fuse(self.maps(4.0, 1.0, 8.0, 1.5, 4.1, 1.0))
        assert float(depth) == pytest.approx(8.0) and float(confidence) == pytest.approx(np.exp(1.5), rel=1e-3)

    def test_what_is_unknown_does_not_count(self):
        depth, _ = fuse(self.maps(torch.nan, 9.0, -1.0, 9.0, 5.0, 0.1))
        assert float(depth) == pytest.approx(5.0)
        depth, confidence = fuse(self.maps(torch.nan, 9.0, 0.0, 9.0))
        assert not torch.isfinite(depth).any() and float(confidence) == 1.0

    def test_nobody_is_sure_for_ever(self):
        _, confidence = fuse(self.maps(*[5.0, 3.0] * 4))
        assert float(confidence) == pytest.approx(np.exp(MAX_INFORMATION))


def test_residual_is_relative_to_the_world():
    estimate, reference = torch.full((H, W), 5.0), torch.full((H, W), 4.0)
    reference[:5] = torch.nan
    assert relative_residual(estimate, reference, torch.ones(H, W)) == pytest.approx(0.25)
    assert np.isnan(relative_residual(estimate, reference, torch.zeros(H, W))), "not a perfect fit"


def test_the_frame_s_residual_is_the_mean_of_its_pairs():
    wrong = replace(pair_of(), points_a=pair_of().points_a * torch.linspace(0.8, 1.2, W)[:, None])
    views = [from_new(new_frame(), pair_of(a=1), anchor()), from_anchor(new_frame(), wrong, anchor())]
    expected = (views[0].residual + views[1].residual) / 2
    found = depth_of_frame(new_frame(), [(pair_of(a=1), anchor()), (wrong, anchor())])[2]
    assert found == pytest.approx(expected) and found > 0.02
