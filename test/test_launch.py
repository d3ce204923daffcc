"""The launch files against a stand-in for launch: which node they act on, and how a launch ends."""

import re
from pathlib import Path
from types import SimpleNamespace

import helpers_launch
import pytest
import yaml
from helpers_launch import FakeLaunch

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
CONFIGURE, ACTIVATE = 1, 3
STACK_NAMES = ("nvblox", "cuvslam", "stella_vslam", "dynosam", "rtabmap", "nav2")


@pytest.fixture
def bag(tmp_path) -> str:
    (tmp_path / "bag").mkdir()
    return str(tmp_path / "bag")


@pytest.fixture
def started(monkeypatch, bag, tmp_path):
    """(launch, module of rosbag.launch.py); ros2 bag is installed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    launch = FakeLaunch()
    helpers_launch.install(monkeypatch, launch, ("ros2bag",))
    return launch, helpers_launch.load(LAUNCH / "rosbag.launch.py")


def include(started, **values) -> FakeLaunch:
    launch, module = started
    launch.include(module.generate_launch_description(), **values)
    return launch


def activate(launch: FakeLaunch, node) -> None:
    launch.transition(node, "configuring", "inactive")
    launch.transition(node, "activating", "active")


def status(received: int, processed: int, latency_ms: float = 100.0):
    return SimpleNamespace(
        frames_received=received, frames_processed=processed, frames_dropped=0, processing_latency_ms=latency_ms
    )


def test_only_its_own_node_is_configured_and_activated(started, bag):
    launch = include(started, bag=bag, namespace="left")
    stranger = helpers_launch.LifecycleNode(name="lidar", namespace="", on_exit=None)
    launch.run([stranger])
    include(started, bag=bag, namespace="right")
    left, _, right = launch.nodes
    assert (left.node_name, right.node_name) == ("/left/easi3r", "/right/easi3r")
    assert left.transitions == right.transitions == [CONFIGURE]
    launch.transition(stranger, "configuring", "inactive")
    launch.transition(stranger, "activating", "active")
    assert not launch.processes and left.transitions == [CONFIGURE]
    activate(launch, left)
    assert left.transitions == [CONFIGURE, ACTIVATE] and right.transitions == [CONFIGURE]
    assert stranger.transitions == [] and len(launch.processes) == 1
    assert left.parameters == {"use_sim_time": True, "autostart": False}


def test_a_player_gets_the_arguments_of_its_own_include(started, bag, tmp_path):
    """Includes without a scope overwrite each other's arguments before the first node is active."""
    (tmp_path / "other").mkdir()
    launch = include(started, bag=bag, rate="2.0", image="cam/image", namespace="left")
    include(started, bag=str(tmp_path / "other"), rate="0.5", image="/rear/image", namespace="right")
    for node in launch.nodes:
        activate(launch, node)
    first, second = (process.cmd for process in launch.processes)
    assert first[:4] == ["ros2", "bag", "play", bag] and first[first.index("--rate") + 1] == "2.0"
    assert second[3] == str(tmp_path / "other") and second[second.index("--rate") + 1] == "0.5"
    qos = [yaml.safe_load(Path(command[-1]).read_text()) for command in (first, second)]
    assert set(qos[0]) == {"/left/cam/image", "/left/cam/image/compressed"}
    assert set(qos[1]) == {"/rear/image", "/rear/image/compressed"}


def test_a_pushed_namespace_counts(started, bag):
    launch = started[0]
    launch.pushed_namespace = "/robot"
    include(started, bag=bag, image="image")
    activate(launch, launch.nodes[0])
    assert set(yaml.safe_load(Path(launch.processes[0].cmd[-1]).read_text())) == {
        "/robot/image",
        "/robot/image/compressed",
    }
    assert launch.subscriptions[0][0] == "/robot/easi3r/status"


@pytest.mark.parametrize("end", ["player", "shutdown"])
def test_nothing_is_left_behind(started, bag, tmp_path, end):
    launch = include(started, bag=bag)
    activate(launch, launch.nodes[0])
    before = set(tmp_path.iterdir())
    assert len(before) == 2  # the bag and the file for the player
    if end == "player":
        launch.exits(launch.processes[0], 0)
    else:
        launch.shut_down()
        launch.exits(launch.processes[0], -2)
    assert [path.name for path in tmp_path.iterdir()] == ["bag"] and not launch.reasons


def test_a_bag_that_is_not_there_ends_the_launch_at_once(started, tmp_path):
    with pytest.raises(RuntimeError, match=r"there is no bag '.*nothing': bag:= names the folder"):
        include(started, bag=str(tmp_path / "nothing"))
    assert not started[0].nodes


def test_a_home_folder_is_found(started, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    launch = include(started, bag="~/bag")  # the shell leaves this as it is after :=
    activate(launch, launch.nodes[0])
    assert launch.processes[0].cmd[3] == str(tmp_path / "bag")


def test_a_player_that_fails_ends_the_launch_with_its_reason(started, bag):
    launch = include(started, bag=bag)
    activate(launch, launch.nodes[0])
    with pytest.raises(RuntimeError, match=f"the player of '{bag}' failed with exit status 3"):
        launch.exits(launch.processes[0], 3)


@pytest.mark.parametrize(
    "begun, reached",
    [("configuring", "unconfigured"), ("configuring", "errorprocessing"), ("activating", "inactive")],
)
def test_a_node_that_cannot_start_ends_the_launch(started, bag, begun, reached):
    launch = include(started, bag=bag)
    with pytest.raises(RuntimeError, match="is not played: the node could not start"):
        launch.transition(launch.nodes[0], begun, reached)


def played(started, bag, monkeypatch, **values):
    """(launch, clock, callback of the status) with the player's end just reached."""
    launch = include(started, bag=bag, **values)
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(started[1].time, "monotonic", lambda: clock.now)
    activate(launch, launch.nodes[0])
    callback = launch.subscriptions[0][1]
    return launch, clock, callback


def test_the_end_waits_for_what_the_node_still_has_to_do(started, bag, monkeypatch):
    launch, clock, came = played(started, bag, monkeypatch)
    came(status(6, 2))
    launch.exits(launch.processes[0], 0)
    for processed in range(3, 7):  # two seconds each, long after the player ended
        for _ in range(2):
            clock.now += 1.0
            launch.time_passes()
        assert launch.timers, "given up although images wait"
        came(status(6, processed, latency_ms=2000.0))
    clock.now += 6.0
    launch.time_passes()
    assert launch.timers  # another image might be in hand for as long as the last one
    clock.now += 2.0
    launch.time_passes()
    assert not launch.timers and "the node is done: 5 results" in launch.log[-1]
    assert not launch.reasons  # its own node was stopped, the rest of the launch goes on


def test_the_end_of_the_node_itself_still_ends_the_launch(started, bag):
    launch = include(started, bag=bag)
    launch.exits(launch.nodes[0], 1)
    assert launch.reasons == ["the node ended"]


def test_images_that_fail_do_not_hold_the_end_up_for_ever(started, bag, monkeypatch):
    launch, clock, came = played(started, bag, monkeypatch)
    came(status(6, 5))  # the sixth one failed, which no status says
    launch.exits(launch.processes[0], 0)
    for _ in range(30):
        clock.now += 1.0
        launch.time_passes()
    assert not launch.timers


def test_a_wrong_topic_is_named_at_the_end(started, bag, monkeypatch):
    launch, clock, _ = played(started, bag, monkeypatch, image="/wrong")
    launch.exits(launch.processes[0], 0)
    for _ in range(20):
        clock.now += 1.0
        launch.time_passes()
    assert "the node gave no result: is '/wrong' the topic of images" in launch.log[-1]


@pytest.mark.parametrize("returncode, words", [(0, "is over. The node runs on"), (1, "failed with exit status 1")])
def test_the_node_runs_on_where_that_is_asked_for(started, bag, returncode, words):
    launch = include(started, bag=bag, exit_at_end="false")
    activate(launch, launch.nodes[0])
    launch.exits(launch.processes[0], returncode)
    assert words in launch.log[-1] and not launch.timers and not launch.reasons


def test_activating_again_plays_nothing_again(started, bag):
    launch = include(started, bag=bag)
    activate(launch, launch.nodes[0])
    launch.transition(launch.nodes[0], "activating", "active")
    assert len(launch.processes) == 1


def test_without_ros2_bag_our_own_player_plays(monkeypatch, bag):
    launch = FakeLaunch()
    helpers_launch.install(monkeypatch, launch)
    include((launch, helpers_launch.load(LAUNCH / "rosbag.launch.py")), bag=bag)
    activate(launch, launch.nodes[0])
    assert launch.processes[0].cmd[:3] == ["easi3r_ros/easi3r", "play", bag]


def test_the_camera_s_launch_starts_one_node(monkeypatch):
    launch = FakeLaunch()
    helpers_launch.install(monkeypatch, launch, ("ros2bag",))
    description = helpers_launch.load(LAUNCH / "camera.launch.py").generate_launch_description()
    launch.include(description, image="/cam/image_rect", autostart="false", device="cpu")
    (node,) = launch.nodes
    assert node.parameters == {"backbone.device": "cpu", "use_sim_time": False, "autostart": False}
    assert ("camera_info", "/cam/camera_info") in node.rest["remappings"]
    launch.exits(node, 0)
    assert launch.reasons == ["the node ended"]


@pytest.mark.parametrize("name", ["camera", "rosbag", "usb_camera", "realsense", "zed", "oak", *STACK_NAMES])
def test_every_argument_is_explained(monkeypatch, name):
    helpers_launch.install(monkeypatch, FakeLaunch())
    description = helpers_launch.load(LAUNCH / f"{name}.launch.py").generate_launch_description()
    declared = [item for item in description.entities if isinstance(item, helpers_launch.DeclareLaunchArgument)]
    assert all(argument.description for argument in declared)
    assert {"image", "namespace", "params_file"} <= {argument.name for argument in declared}
    assert ({"bag", "rate", "exit_at_end"} <= {argument.name for argument in declared}) == (name == "rosbag")


DRIVERS = {
    "usb_camera": ("v4l2_camera", "/camera/image_raw", {"video_device": "/dev/video0", "image_size": [640, 480]}),
    "realsense": ("realsense2_camera", "/camera/camera/color/image_raw", {"align_depth.enable": "true"}),
    "zed": ("zed_wrapper", "/zed/zed_node/rgb/color/rect/image", {"camera_model": "zed2i", "publish_map_tf": "false"}),
    "oak": ("depthai_ros_driver", "/oak/rgb/image_rect", {"rectify_rgb": "true"}),
}


class TestCameras:
    def start(self, monkeypatch, name, packages, **values):
        launch = FakeLaunch()
        helpers_launch.install(monkeypatch, launch, packages)
        module = helpers_launch.load(LAUNCH / f"{name}.launch.py")
        launch.include(module.generate_launch_description(), **values)
        return launch

    @pytest.mark.parametrize("name", DRIVERS)
    def test_the_driver_and_the_node_on_its_images(self, monkeypatch, name):
        monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
        package, image, arguments = DRIVERS[name]
        launch = self.start(monkeypatch, name, (package,))
        (node,), (driver,) = launch.nodes, launch.drivers
        assert ("image", image) in node.rest["remappings"]
        assert ("camera_info", image.rpartition("/")[0] + "/camera_info") in node.rest["remappings"]
        assert {key: driver.arguments[key] for key in arguments} == arguments
        assert package in str(getattr(driver, "file", getattr(driver, "package", "")))
        profile = "share/easi3r_ros/config/fastdds.xml"
        for environment in (launch.environment, node.rest["additional_env"]):
            assert (
                environment["FASTRTPS_DEFAULT_PROFILES_FILE"] == environment["FASTDDS_DEFAULT_PROFILES_FILE"] == profile
            )

    @pytest.mark.parametrize("name", DRIVERS)
    def test_without_its_driver(self, monkeypatch, name):
        with pytest.raises(RuntimeError, match=f"'{DRIVERS[name][0]}' is not installed: .*driver:=false"):
            self.start(monkeypatch, name, ())
        launch = self.start(monkeypatch, name, (), driver="false", image="/other/image")
        assert launch.drivers == [] and ("image", "/other/image") in launch.nodes[0].rest["remappings"]

    def test_the_other_driver_of_usb_cameras(self, monkeypatch):
        launch = self.start(monkeypatch, "usb_camera", ("usb_cam",), width="1280", camera_info_url="file:///k.yaml")
        (driver,) = launch.drivers
        assert (driver.package, driver.executable) == ("usb_cam", "usb_cam_node_exe")
        assert (driver.arguments["image_width"], driver.arguments["camera_info_url"]) == (1280, "file:///k.yaml")

    def test_a_profile_of_the_user_counts(self, monkeypatch):
        monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/mine.xml")
        launch = self.start(monkeypatch, "oak", ("depthai_ros_driver",))
        assert launch.environment == {} == launch.nodes[0].rest["additional_env"]


STACKS = {  # package, and what goes where: its input -> topic under ~/
    "nvblox": (
        "nvblox_ros",
        {
            "camera_0/depth/image": "sync/depth",
            "camera_0/color/image": "sync/image",
            "camera_0/mask/image": "mask",
            "camera_0/mask/camera_info": "mask/camera_info",
        },
    ),
    "cuvslam": ("isaac_ros_visual_slam", {"visual_slam/image_0": "sync/image", "visual_slam/mask_0": "mask"}),
    "stella_vslam": ("stella_vslam_ros", {"camera/image_raw": "image_static"}),
    "dynosam": ("dynosam_ros", {"rgb_cam_topic": "sync/image", "mask_cam_topic": "instances"}),
    "rtabmap": ("rtabmap_launch", {"rgb_topic": "sync/image", "depth_topic": "depth_static"}),
    "nav2": ("depth_image_proc", {"image_rect": "depth_static", "camera_info": "sync/camera_info"}),
}


class TestStacks:
    def start(self, monkeypatch, name, packages, **values):
        launch = FakeLaunch()
        helpers_launch.install(monkeypatch, launch, packages)
        module = helpers_launch.load(LAUNCH / f"{name}.launch.py")
        launch.include(module.generate_launch_description(), vocabulary="v.fbow", config="c.yaml", **values)
        return launch

    @pytest.mark.parametrize("namespace", ["", "robot"])
    @pytest.mark.parametrize("name", STACKS)
    def test_it_is_given_what_it_reads(self, monkeypatch, name, namespace):
        package, expected = STACKS[name]
        launch = self.start(monkeypatch, name, (package,), namespace=namespace, depth="/cam/depth", image="/cam/image")
        (node,), (stack,) = launch.nodes, launch.drivers
        assert {("image", "/cam/image"), ("depth", "/cam/depth")} <= set(node.rest["remappings"])
        assert package in str(getattr(stack, "file", getattr(stack, "package", "")))
        given = getattr(stack, "remappings", None) or stack.arguments
        place = "/robot/easi3r/" if namespace else "/easi3r/"
        assert {key: given[key] for key in expected} == {key: place + topic for key, topic in expected.items()}

    @pytest.mark.parametrize("name", STACKS)
    def test_without_it(self, monkeypatch, name):
        with pytest.raises(RuntimeError, match=f"'{STACKS[name][0]}' is not installed: .*stack:=false"):
            self.start(monkeypatch, name, ())
        launch = self.start(monkeypatch, name, (), stack="false")
        assert launch.drivers == [] and len(launch.nodes) == 1

    def test_stella_vslam_without_its_files(self, monkeypatch):
        with pytest.raises(RuntimeError, match="needs vocabulary:="):
            launch = FakeLaunch()
            helpers_launch.install(monkeypatch, launch, ("stella_vslam_ros",))
            launch.include(helpers_launch.load(LAUNCH / "stella_vslam.launch.py").generate_launch_description())


class TestRViz:
    def start(self, monkeypatch, packages=(), **values):
        launch = FakeLaunch()
        helpers_launch.install(monkeypatch, launch, packages)
        module = helpers_launch.load(LAUNCH / "camera.launch.py")
        launch.include(module.generate_launch_description(), **values)
        return launch, module

    def test_only_where_it_is_asked_for(self, monkeypatch):
        assert self.start(monkeypatch, ("rviz2",))[0].drivers == []
        launch, _ = self.start(monkeypatch, ("rviz2",), rviz="true", map_frame="world")
        (rviz,) = launch.drivers
        assert rviz.command == ["-d", "share/easi3r_ros/rviz/easi3r.rviz", "-f", "world"] and rviz.remappings == {}

    def test_where_it_is_not_installed(self, monkeypatch):
        with pytest.raises(RuntimeError, match="RViz is not installed: .*rviz2, or leave rviz:=true out"):
            self.start(monkeypatch, rviz="true")

    def test_the_layout_s_topics_follow_the_namespace(self, monkeypatch):
        launch, module = self.start(monkeypatch, ("rviz2",), rviz="true", namespace="robot")
        (rviz,) = launch.drivers
        layout = (LAUNCH.parent / "rviz" / "easi3r.rviz").read_text()
        shown = set(re.findall(r"Value: (/easi3r/[a-z_/]+)", layout))
        assert shown == set(rviz.remappings) == {f"/easi3r/{name}" for name in module.SHOWN}
        assert set(rviz.remappings.values()) == {f"/robot{name}" for name in shown}


@pytest.mark.parametrize("name", [*DRIVERS, *STACKS, "camera"])
def test_what_is_missing_is_said_before_anything_is_started(monkeypatch, name):
    """launch may leave a process running that it started just before an exception."""
    launch = FakeLaunch()
    helpers_launch.install(monkeypatch, launch)
    description = helpers_launch.load(LAUNCH / f"{name}.launch.py").generate_launch_description()
    with pytest.raises(RuntimeError, match="is not installed"):
        launch.include(description, rviz=str(name == "camera"))
    assert launch.nodes == launch.drivers == []
