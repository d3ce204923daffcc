"""Optical flow, occlusion and the flow-based dynamic mask, against the truth of rendered clips."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from easi3r_lab.synthetic import Clip, render_clip

from easi3r_ros.core.alignment import flow as optical_flow
from easi3r_ros.core.alignment.flow import DisFlow, RaftFlow, camera_flow, dynamic_mask, flows_of_pairs, occlusion_mask
from easi3r_ros.core.geometry import invert_se3

A, B = 0, 1


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip("walkers", seed=1, frames=2, size=(320, 240), rate=20.0)


def true_flow(clip: Clip, i: int, j: int) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(clip.flow(i, j), -1, 0)).float()


def b_from_a(clip: Clip, a: int, b: int) -> torch.Tensor:
    poses = torch.from_numpy(clip.world_from_cam)
    return invert_se3(poses[b]) @ poses[a]


def camera_flow_of(clip: Clip) -> torch.Tensor:
    return camera_flow(torch.from_numpy(clip.depth[A]), torch.from_numpy(clip.K), b_from_a(clip, A, B))


def iou(ours: torch.Tensor, truth: np.ndarray) -> float:
    ours = ours.numpy()
    return float((ours & truth).sum() / (ours | truth).sum())


def test_dis_finds_the_flow(clip):
    flow, truth = DisFlow()(clip.images[A], clip.images[B]), true_flow(clip, A, B)
    assert flow.shape == (2, 240, 320) and flow.dtype == torch.float32
    error = (flow - truth).norm(dim=0)[torch.from_numpy(~clip.occluded(A, B))]
    assert error.median() < 0.3 < truth.norm(dim=0).median()


def test_flow_of_pairs_goes_both_ways_and_each_way_once(clip):
    asked = []

    def estimate(source: np.ndarray, target: np.ndarray) -> torch.Tensor:
        asked.append(1)
        return torch.full((2, 4, 4), float(source.mean() - target.mean()))

    images = [np.full((4, 4, 3), value, np.uint8) for value in (0, 10, 30)]
    there, back = flows_of_pairs(images, [(0, 1), (1, 0), (0, 2)], estimate)
    assert there[:, 0, 0, 0].tolist() == [-10, 10, -30]
    assert back[:, 0, 0, 0].tolist() == [10, -10, 30]
    assert len(asked) == 4


def test_camera_flow_is_the_true_flow_of_what_stands_still(clip):
    static = torch.from_numpy(~clip.masks[A])
    error = (camera_flow_of(clip) - true_flow(clip, A, B)).norm(dim=0)
    assert error[static].max() < 1e-2
    assert error[~static].median() > 1.0


def test_camera_flow_with_another_focal_length_and_unknown_depth():
    K, K_b = torch.diag(torch.tensor([10.0, 10, 1])), torch.diag(torch.tensor([20.0, 20, 1]))
    depth = torch.tensor([[1.0, 2.0, torch.nan, -1.0]])
    flow = camera_flow(depth, K, torch.eye(4), K_b)
    torch.testing.assert_close(flow[0, 0, :2], torch.tensor([0.0, 1.0]))  # twice as far from the principal point
    assert flow[:, 0, 2:].isnan().all()


def test_occlusion_of_true_flow(clip):
    found = occlusion_mask(true_flow(clip, A, B), true_flow(clip, B, A), tolerance=1.0)
    hidden = clip.occluded(A, B)
    assert iou(found, hidden) > 0.6
    assert found.numpy()[~hidden].mean() < 0.06  # interpolation across edges of the other flow


def test_occlusion_out_of_view_and_unknown():
    still = torch.zeros(2, 5, 6)
    assert not occlusion_mask(still, still).any()
    right = still.clone()
    right[0] = 2.0
    out = occlusion_mask(right, -right)
    assert out[:, -2:].all() and not out[:, :-2].any()
    assert occlusion_mask(torch.full_like(still, torch.nan), still).all()
    assert occlusion_mask(still, still + 4.0).all()


def test_dynamic_mask_of_estimated_flow(clip):
    there, back = flows_of_pairs(clip.images, [(A, B)])
    moving = dynamic_mask(there[0], camera_flow_of(clip), occlusion_mask(there[0], back[0]))
    assert iou(moving, clip.masks[A] & ~clip.occluded(A, B)) > 0.6
    assert iou(dynamic_mask(true_flow(clip, A, B), camera_flow_of(clip), tau=0.3), clip.masks[A]) > 0.9


def test_what_is_not_known_does_not_move():
    flow = torch.zeros(2, 1, 3)
    camera = torch.tensor([[[9.0, 9.0, torch.nan]], [[0.0, 0.0, 0.0]]])
    occluded = torch.tensor([[False, True, False]])
    assert dynamic_mask(flow, camera, occluded).tolist() == [[True, False, False]]


def test_images_of_different_sizes():
    with pytest.raises(ValueError, match="one size"):
        DisFlow()(np.zeros((20, 20, 3), np.uint8), np.zeros((20, 24, 3), np.uint8))


def test_raft_without_torchvision_says_what_to_do(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("torchvision"):
            raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RuntimeError, match="pip install torchvision"):
        RaftFlow("weights.pth")


def test_raft_weights(tmp_path):
    pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match="no weights"):
        RaftFlow(tmp_path / "none.pth")
    torch.save({"wrong": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match="no state dict"):
        RaftFlow(tmp_path / "wrong.pth")
    from torchvision.models.optical_flow import raft_large

    torch.save(raft_large(weights=None).state_dict(), tmp_path / "random.pth")
    image = np.zeros((120, 161, 3), np.uint8)
    flow = RaftFlow(tmp_path / "random.pth")(image, image)
    assert flow.shape == (2, 120, 161) and optical_flow.RAFT_SMALLEST > 120
