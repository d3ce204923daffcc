"""Every layout: what was written is read, in our axes and units; and what is missing is said."""

import helpers_datasets as trees
import numpy as np
import pytest
from easi3r_lab.cli import main
from easi3r_lab.datasets import handheld_sets, kitti, mask_sets, rendered_sets, rgbd
from easi3r_lab.datasets.recorded import DataSetError

FRAMES = 8
RECORDINGS = {
    "tum-rgbd": (trees.write_tum, rgbd.find_tum),
    "bonn": (trees.write_bonn, rgbd.find_bonn),
    "sintel": (trees.write_sintel, rendered_sets.find_sintel),
    "tartanair": (trees.write_tartanair, rendered_sets.find_tartanair),
    "kitti-odometry": (trees.write_kitti, kitti.find_kitti),
    "dycheck": (trees.write_dycheck, handheld_sets.find_dycheck),
    "adt": (trees.write_adt, handheld_sets.find_adt),
}
OWN_CAMERA = {"tum-rgbd", "bonn", "tartanair"}  # the calibration is that of the real cameras
DAMAGES = [
    ("tum-rgbd", "rgbd_dataset_freiburg3_walking_xyz/groundtruth.txt", "groundtruth.txt is missing"),
    ("tum-rgbd", "rgbd_dataset_freiburg3_walking_xyz/rgb.txt", "holds a rgb.txt"),
    ("bonn", "rgbd_bonn_balloon/depth/1305031453.354000.png", "1305031453.354000.png is missing"),
    ("sintel", "training/depth", "unpack Sintel's archive of depth"),
    ("sintel", "training/camdata_left/alley_1/frame_0003.cam", "8 images, 7 cameras, 8 depth maps"),
    ("tartanair", "office/office/Easy/P001/pose_left.txt", "no pose_left.txt"),
    ("kitti-odometry", "poses/07.txt", "has its poses in"),
    ("kitti-odometry", "sequences/07/velodyne/000002.bin", "8 images, 7 clouds"),
    ("kitti-odometry", "sequences/07/calib.txt", "calib.txt is missing"),
    ("dycheck", "apple/camera/0_00004.json", "0_00004.json is missing"),
    ("dycheck", "apple/depth/1x/0_00004.npy", "8 images, 7 depth maps"),
    ("adt", "Apartment_seq100_0.npz", "no .npz file"),
    ("segtrackv2", "GroundTruth", "GroundTruth is missing"),
    ("segtrackv2", "GroundTruth/walk/2/00001.png", "8 images and 7 annotations"),
    ("fbms", "Testset/walk/GroundTruth", "GroundTruth is missing"),
]


@pytest.fixture(scope="module")
def still():
    return trees.clip(FRAMES)


@pytest.fixture(scope="module")
def moving():
    return trees.clip(FRAMES, "walkers")


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["eval", *map(str, arguments)])
    return end.value.code


@pytest.mark.parametrize("name", RECORDINGS)
def test_camera_and_depth_are_those_that_were_written(name, still, tmp_path):
    write, find = RECORDINGS[name]
    write(tmp_path, still)
    (video,) = find(tmp_path)
    truth = np.stack([frame.view.world_from_cam for frame in still])
    np.testing.assert_allclose(video.world_from_cam, truth, atol=2e-6)
    if name not in OWN_CAMERA:
        np.testing.assert_allclose(video.K, still[0].view.K, rtol=1e-6)
    frames = list(video.frames())
    assert len(video) == len(frames) == FRAMES
    assert np.diff(video.stamps_ns).min() > 0
    assert np.abs(frames[3].image.astype(int) - still[3].image).mean() < 6  # JPEG
    assert frames[3].K is video.K and next(video.frames(with_K=False)).K is None
    assert video.has_depth == (name != "adt")
    if video.has_depth:
        depth = np.nan_to_num(video.depth(5))
        there = depth > 0
        np.testing.assert_array_equal(there, np.isfinite(still[5].depth))
        np.testing.assert_allclose(depth[there], still[5].depth[there], rtol=1e-3)


def test_every_nth_frame_keeps_its_truth(still, tmp_path):
    trees.write_sintel(tmp_path, still)
    thin = rendered_sets.find_sintel(tmp_path)[0].thinned(3, 2)
    assert len(thin) == 2
    np.testing.assert_allclose(thin.world_from_cam[1], still[3].view.world_from_cam, atol=1e-9)
    np.testing.assert_allclose(thin.depth(1), trees.finite(still[3].depth), rtol=1e-6)
    np.testing.assert_array_equal(list(thin.frames())[1].image, still[3].image)


def test_a_pose_too_far_in_time_is_none(still, tmp_path):
    folder = trees.write_rgbd(tmp_path, still, "rgbd_dataset_freiburg3_walking_xyz")
    lines = (folder / "groundtruth.txt").read_text().splitlines()
    (folder / "groundtruth.txt").write_text("\n".join(lines[:4]))  # three poses
    (video,) = rgbd.find_tum(tmp_path)
    assert np.isfinite(video.world_from_cam[:, 0, 0]).tolist() == [True] * 3 + [False] * 5


def test_only_sequences_with_movers_are_taken_from_tum(still, tmp_path):
    for name in ("rgbd_dataset_freiburg1_xyz", "rgbd_dataset_freiburg3_sitting_xyz"):
        trees.write_rgbd(tmp_path, still, name)
    assert [video.name for video in rgbd.find_tum(tmp_path)] == ["rgbd_dataset_freiburg3_sitting_xyz"]


def test_objects_together_are_the_foreground(moving, tmp_path):
    trees.write_segtrack(tmp_path, moving)
    (video,) = mask_sets.find_segtrackv2(tmp_path)
    np.testing.assert_array_equal(video.mask(4), moving[4].mask)
    assert moving[4].mask.any()


@pytest.mark.parametrize("background", [0, 255])
def test_fbms_is_annotated_in_some_frames(moving, tmp_path, background):
    trees.write_fbms(tmp_path, moving, background)
    (video,) = mask_sets.find_fbms(tmp_path)
    np.testing.assert_array_equal(video.mask(4), moving[4].mask)
    assert [video.mask(index) is not None for index in range(5)] == [True, False, False, False, True]


WRITERS = {name: write for name, (write, _) in RECORDINGS.items()} | {
    "segtrackv2": trees.write_segtrack,
    "fbms": trees.write_fbms,
}


@pytest.mark.parametrize(("name", "victim", "words"), DAMAGES)
def test_what_is_missing_is_said(name, victim, words, moving, tmp_path, capsys):
    root = tmp_path / "data"
    WRITERS[name](root, moving)
    (root / victim).rename(tmp_path / "elsewhere")
    assert run(name, root) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert words in error and "Traceback" not in error


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_is_not_there_is_said(name, tmp_path, capsys):
    assert run(name, tmp_path / "nowhere") == 2
    assert f"there is no folder {tmp_path / 'nowhere'}" in " ".join(capsys.readouterr().err.split())


def test_broken_files_are_named(still, tmp_path):
    trees.write_sintel(tmp_path / "sintel", still)
    path = tmp_path / "sintel/training/depth/alley_1/frame_0002.dpt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataSetError, match="frame_0002.dpt is no depth map"):
        rendered_sets.find_sintel(tmp_path / "sintel")[0].depth(1)
    trees.write_adt(tmp_path / "adt", still)
    path = tmp_path / "adt/Apartment_seq100_0.npz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataSetError, match="cannot be read"):
        handheld_sets.find_adt(tmp_path / "adt")
