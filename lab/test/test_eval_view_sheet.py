"""The picture of what the viewer shows."""

from dataclasses import replace

import numpy as np
import pytest
from easi3r_lab.eval.view_sheet import snapshots, view_sheet
from helpers_io import make_result

from easi3r_ros.core.config import CloudConfig
from easi3r_ros.core.types import TrackingState
from easi3r_ros.io.sources import SourceError


def results(count):
    return [make_result(index) for index in range(count)]


def test_the_world_grows_from_row_to_row():
    rows = snapshots(results(6), 3, CloudConfig(stride=4))
    assert [row.result.frame.index for row in rows] == [2, 3, 5]
    assert [len(row.path) for row in rows] == [3, 4, 6]
    sizes = [len(row.static_xyz) for row in rows]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert len(rows[0].static_rgb) == sizes[0]


def test_only_the_last_world_is_drawn_and_only_frames_with_a_pose():
    clip = results(4) + [replace(result, world=1) for result in results(4)]
    clip[-1] = make_result(3, TrackingState.LOST)
    rows = snapshots(clip, 9, CloudConfig())
    assert {row.result.world for row in rows} == {1} and max(len(row.path) for row in rows) == 3
    with pytest.raises(SourceError, match="no frame has a pose"):
        snapshots([make_result(0, TrackingState.INITIALISING)], 2, CloudConfig())


def test_the_picture_has_a_row_for_each():
    rows = snapshots(results(4), 2, CloudConfig())
    figure = view_sheet(rows, "clip")
    assert len([axis for axis in figure.axes if axis.get_images()]) == 8
    np.testing.assert_array_equal(figure.axes[0].get_images()[0].get_array(), rows[0].result.frame.image)
