"""cv_bridge and sensor_msgs_py are asked for what they do well, and for nothing where they are not fit for it."""

import logging
import re
import sys
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from test_convert import COLOURS, image

from easi3r_ros.cli import doctor
from easi3r_ros.core.types import PointCloud
from easi3r_ros.messages import ros_libraries
from easi3r_ros.messages.conversions import cloud_message, packed_points
from easi3r_ros.messages.images import layout_of, rgb_from_image
from easi3r_ros.messages.message_types import WITH_ROS, Header, PointCloud2
from easi3r_ros.messages.ros_libraries import CV_BRIDGE_ENCODINGS, RosLibrary, camera_image, point_cloud

ITS_OWN = sorted(CV_BRIDGE_ENCODINGS)
OTHERS = [row for row in COLOURS if row[0] not in CV_BRIDGE_ENCODINGS]


def plain(encoding, width=8, height=6):
    layout = layout_of(encoding)
    data = np.arange(width * height * layout.channels * layout.itemsize).astype(np.uint8)
    return image(encoding, width, height, data.tobytes())


@pytest.fixture
def use(monkeypatch):
    """Puts a library of that name in the place of the one that is installed or not."""
    ros_libraries.is_read_by_cv_bridge.cache_clear()
    yield lambda name, entry: monkeypatch.setattr(ros_libraries, name, lambda: RosLibrary(name, entry, "is not there"))
    ros_libraries.is_read_by_cv_bridge.cache_clear()


class Bridge:
    """A cv_bridge that notes what it is asked for."""

    def __init__(self):
        self.asked = []

    def imgmsg_to_cv2(self, message, desired_encoding):
        assert desired_encoding == "rgb8"
        self.asked.append(message.encoding)
        return rgb_from_image(message)


class TestWhoReads:
    @pytest.mark.parametrize("encoding", ITS_OWN)
    def test_cv_bridge_what_it_is_good_at(self, use, encoding):
        bridge = Bridge()
        use("cv_bridge", bridge)
        np.testing.assert_array_equal(camera_image(plain(encoding)), rgb_from_image(plain(encoding)))
        assert bridge.asked == [encoding]

    @pytest.mark.parametrize("row", OTHERS, ids=[row[0] for row in OTHERS])
    def test_own_code_the_rest_without_loading_cv_bridge(self, use, monkeypatch, row):
        encoding, width, height, data, _ = row
        monkeypatch.setattr(ros_libraries, "cv_bridge", lambda: pytest.fail("loaded for nothing"))
        message = image(encoding, width, height, data, step=width if encoding.startswith("nv") else None)
        np.testing.assert_array_equal(camera_image(message), rgb_from_image(message))

    @pytest.mark.parametrize("encoding", ITS_OWN)
    @pytest.mark.parametrize(
        "change",
        [
            lambda message: vars(message).update(is_bigendian=1),
            lambda message: vars(message).update(data=list(message.data)),
            lambda message: vars(message).update(data=message.data + b"surplus"),
            lambda message: vars(message).update(width=message.width - 1),  # the rest of each row is padding
        ],
        ids=["big-endian", "list", "surplus", "padding"],
    )
    def test_own_code_what_cv_bridge_gets_wrong(self, use, encoding, change):
        bridge = Bridge()
        use("cv_bridge", bridge)
        message = plain(encoding)
        change(message)
        np.testing.assert_array_equal(camera_image(message), rgb_from_image(message))
        assert bridge.asked == []

    def test_own_code_without_cv_bridge(self, use):
        use("cv_bridge", None)
        message = plain("bayer_rggb8")
        np.testing.assert_array_equal(camera_image(message), rgb_from_image(message))

    def test_the_log_says_once_who_reads(self, use, caplog):
        caplog.set_level(logging.DEBUG, "easi3r_ros")
        use("cv_bridge", Bridge())
        for encoding in ("rgb16", "rgb16", "mono8"):
            camera_image(plain(encoding))
        assert [record.getMessage() for record in caplog.records] == [
            "images of encoding 'rgb16' are read by cv_bridge",
            "images of encoding 'mono8' are read by this package's code",
        ]

    def test_the_log_says_why_cv_bridge_does_not(self, use, caplog):
        caplog.set_level(logging.DEBUG, "easi3r_ros")
        use("cv_bridge", None)
        camera_image(plain("rgb16"))
        assert "read by this package's code: cv_bridge is not there" in caplog.text

    def test_made_up_encodings_are_forgotten(self):
        for number in range(200):
            ros_libraries.is_read_by_cv_bridge(f"made up {number}")
        assert ros_libraries.is_read_by_cv_bridge.cache_info().currsize <= 64


NUMPY_1 = b"\x7fELF numpy.core._multiarray_umath \0"
NUMPY_2 = b"\x7fELF numpy._core._multiarray_umath \0 numpy.core._multiarray_umath \0"
GOOD_BRIDGE = """
class CvBridge:
    def imgmsg_to_cv2(self, message, desired_encoding):
        from easi3r_ros.messages.images import rgb_from_image
        return rgb_from_image(message)
"""
RAISING_BRIDGE = GOOD_BRIDGE.replace("return", "raise TypeError('no')\n        return")


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Writes a package that is found before all others of its name; as if nothing of that name was imported yet."""
    monkeypatch.syspath_prepend(str(tmp_path))
    hidden = {}

    def write(name, files):
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            hidden[module] = sys.modules.pop(module)
        for file, content in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    yield write
    for module in [module for module in sys.modules if module.partition(".")[0] in ("cv_bridge", "sensor_msgs_py")]:
        del sys.modules[module]
    sys.modules.update(hidden)


class TestFitness:
    """Of whatever is installed under the name of cv_bridge."""

    def found(self):
        return ros_libraries.cv_bridge.__wrapped__()  # what is cached is the state of this machine

    def test_fit(self, install, caplog):
        install("cv_bridge", {"__init__.py": GOOD_BRIDGE, "boost/cv_bridge_boost.so": NUMPY_2})
        assert self.found().entry is not None and not caplog.records

    @pytest.mark.parametrize(("numpy", "fit"), [("1.26.4", True), ("2.0.0", False), ("2.4.6", False)])
    def test_compiled_for_numpy_1(self, install, monkeypatch, caplog, numpy, fit):
        """With NumPy 2 it would end the process, so it must not even be imported."""
        monkeypatch.setattr(np, "__version__", numpy)
        code = GOOD_BRIDGE if fit else "raise SystemExit('imported')"
        install("cv_bridge", {"__init__.py": code, "boost/cv_bridge_boost.so": NUMPY_1})
        library = self.found()
        assert (library.entry is not None) == fit
        if not fit:
            assert library.broken and library.why_not == f"was compiled for NumPy 1, and this is NumPy {numpy}"
            assert "this package's own code stands in" in caplog.text

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ("import no_such_library", "failed its test with ModuleNotFoundError: No module named 'no_such_library'"),
            ("", "failed its test with AttributeError"),
            (RAISING_BRIDGE, "failed its test with TypeError: no"),
            (GOOD_BRIDGE + "[..., ::-1]", "SyntaxError"),
            (GOOD_BRIDGE.rstrip() + "[..., ::-1]", r"reads a pixel of 'bayer_bggr16' wrong by \d+"),
        ],
        ids=["import fails", "another package", "raises", "broken file", "swaps colours"],
    )
    def test_unfit(self, install, caplog, code, reason):
        install("cv_bridge", {"__init__.py": code})
        library = self.found()
        assert library.entry is None and library.broken
        assert re.search(reason, library.why_not)
        assert [record.levelname for record in caplog.records] == ["WARNING"]

    def test_not_installed(self, monkeypatch, caplog):
        monkeypatch.setattr(ros_libraries.importlib.util, "find_spec", lambda name: None)
        assert self.found() == RosLibrary("cv_bridge", None, "is not installed") and not caplog.records


CLOUD = PointCloud(
    np.array([[1, 2, 3], [np.nan, -5, np.inf]], np.float32),
    np.array([[255, 128, 1], [0, 0, 255]], np.uint8),
    np.array([1.5, np.nan], np.float32),
)
HUMBLES_CLOUDS = """
import array
from sensor_msgs.msg import PointCloud2
calls = []
def create_cloud(header, fields, points):
    calls.append(len(points))
    cloud = PointCloud2(header=header, height=1, width=len(points), fields=fields, is_dense=False, is_bigendian=False,
                        point_step=points.dtype.itemsize, row_step=points.nbytes)
    cloud.data = array.array("B", points.tobytes())
    return cloud
"""


@pytest.mark.skipif(not WITH_ROS, reason="sensor_msgs_py needs the messages of ROS 2: `make test` sets it up")
class TestClouds:
    def found(self):
        return ros_libraries.sensor_msgs_py.__wrapped__()

    def test_made_by_humbles_signature(self, install, use):
        install("sensor_msgs_py", {"__init__.py": "", "point_cloud2.py": HUMBLES_CLOUDS})
        library = self.found()
        assert not library.why_not
        use("sensor_msgs_py", library.entry)
        made = point_cloud(CLOUD, Header(frame_id="cam"))
        assert library.entry.calls[-1] == 2 and made.header.frame_id == "cam"
        assert bytes(made.data) == packed_points(CLOUD).tobytes() and not made.is_dense

    def test_own_code_without_it(self, use):
        use("sensor_msgs_py", None)
        assert bytes(point_cloud(CLOUD, Header()).data) == packed_points(CLOUD).tobytes()

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (HUMBLES_CLOUDS.replace("array.array(", "array.array('B', b'?') or array.array("), "other bytes or fields"),
            (HUMBLES_CLOUDS.replace("fields=fields", "fields=[]"), "other bytes or fields"),
            ("from numpy import no_such_name", "failed its test with ImportError"),
            ("", "failed its test with AttributeError"),
        ],
        ids=["bytes", "fields", "import fails", "another package"],
    )
    def test_unfit(self, install, caplog, code, reason):
        install("sensor_msgs_py", {"__init__.py": "", "point_cloud2.py": code})
        library = self.found()
        assert library.entry is None and library.broken and reason in library.why_not
        assert "this package's own code stands in" in caplog.text

    def test_not_without_ros(self, install, monkeypatch):
        install("sensor_msgs_py", {"__init__.py": "raise SystemExit('imported')"})
        monkeypatch.setattr(ros_libraries, "WITH_ROS", False)
        assert self.found().entry is None and not self.found().broken


class TestDoctor:
    @pytest.mark.parametrize(("check", "name"), [(doctor.images, "cv_bridge"), (doctor.clouds, "sensor_msgs_py")])
    @pytest.mark.parametrize(
        ("library", "status", "text"),
        [
            (RosLibrary("", object()), doctor.OK, "{name} "),
            (RosLibrary("", None, "is not installed"), doctor.OK, "{name} is not installed: own code "),
            (RosLibrary("", None, "is bad", broken=True), doctor.WARN, "{name} is bad: own code "),
        ],
        ids=["used", "not there", "unfit"],
    )
    def test_says_who_does_it(self, monkeypatch, check, name, library, status, text):
        monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda module: SimpleNamespace(origin=module))
        monkeypatch.setattr(ros_libraries, name, lambda: library)
        finding = check()
        assert finding.status == status and finding.detail.startswith(text.format(name=name))
        assert bool(finding.advice) == (status == doctor.WARN)


def test_clouds_are_messages_of_this_home():
    assert type(point_cloud(CLOUD, Header())) is type(cloud_message(CLOUD, Header())) is PointCloud2


def test_the_node_says_at_debug_who_reads():
    helpers = pytest.importorskip("helpers_ros")  # skips where no ROS 2 is
    node, client = helpers.NodeProcess(arguments=("--log-level", "easi3r:=debug")), helpers.Client()
    try:
        node.wait_for("waiting for images on")
        said = "images of encoding 'rgb8' are read by this package's code"
        for second in range(1, 20):  # what is sent before both sides have found each other is lost
            client.send(helpers.rgb_image(second * 10**9))
            with suppress(AssertionError):
                helpers.wait_until(lambda: node.said(said), said, patience=2.0)
                break
        assert node.said(said) == 1
    finally:
        client.close()
        node.close()
