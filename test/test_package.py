"""The package as others see it: manifests that agree with the code, messages, YAML and launch files, the wheel."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

import easi3r_ros
from easi3r_ros import libraries

ROOT = Path(__file__).resolve().parents[1]
MESSAGES = sorted((ROOT / "msg").glob("*.msg")) + sorted((ROOT / "underlay").glob("*/msg/*.msg"))
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
CONFIG_FILES = sorted((ROOT / "config").glob("*.yaml"))


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(name: str) -> set[str]:
    lines = (ROOT / name).read_text().splitlines()
    return {normalised(re.match(r"[\w.-]+", line)[0]) for line in lines if line and not line.startswith("#")}


def imported_modules(*folders: str) -> set[str]:
    """Top-level names of everything imported that is neither Python's own nor ours."""
    names: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"easi3r_ros"}


@pytest.fixture(scope="module")
def manifest():
    return pytest.importorskip("catkin_pkg.package").parse_package(str(ROOT))


@pytest.fixture(scope="module")
def run_dependencies(manifest) -> set[str]:
    return {dependency.name for dependency in manifest.exec_depends}


def test_manifest_is_valid(manifest):
    manifest.validate()
    assert manifest.package_format == 3
    assert manifest.get_build_type() == "ament_cmake"
    assert "rosidl_interface_packages" in {group.name for group in manifest.member_of_groups}
    assert (ROOT / manifest.licenses[0].file).read_text().lstrip().startswith("Apache License")


def test_one_version(manifest):
    assert manifest.version == easi3r_ros.__version__


def test_every_import_is_declared(run_dependencies):
    """The tables of libraries agree with the requirements and with package.xml: test_libraries.py."""
    with_torch = {"triton"}  # brought along by PyTorch for CUDA, and done without elsewhere
    for module in imported_modules("easi3r_ros", "launch", "scripts") - run_dependencies - with_torch:
        assert libraries.known(module), f"'{module}' is neither in easi3r_ros/libraries.py nor in package.xml"


def test_every_message_is_built():
    text = (ROOT / "CMakeLists.txt").read_text()
    for kind in ("msg", "srv"):
        built = set(re.findall(rf"{kind}/\w+\.{kind}", text))
        assert built == {f"{kind}/{path.name}" for path in (ROOT / kind).glob(f"*.{kind}")} != set()


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_every_field_has_a_comment(path: Path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# "), "say first what the message is"
    for before, line in zip([""] + lines, lines, strict=False):
        if line and not line.startswith("#"):
            assert before.startswith("# "), f"no comment above '{line}'"


def test_messages_have_the_fields_that_they_describe():
    """The built messages are those of this checkout, and a status takes all that a result knows."""
    messages = pytest.importorskip("easi3r_ros.msg", reason="the messages are not built: make setup")
    for path in (ROOT / "msg").glob("*.msg"):
        declared = re.findall(r"^[\w/]+(?:\[\d*\])? (\w+)$", path.read_text(), re.MULTILINE)
        assert list(getattr(messages, path.stem).get_fields_and_field_types()) == declared


def test_states_have_a_constant_each():
    from easi3r_ros.core.types import TrackingState

    messages = pytest.importorskip("easi3r_ros.msg", reason="the messages are not built: make setup")
    values = [getattr(messages.WindowStatus, f"STATE_{state.name}") for state in TrackingState]
    assert len(set(values)) == len(values)


def node_parameters(path: Path) -> dict:
    content = yaml.safe_load(path.read_text())
    assert list(content) == ["/**"]
    assert list(content["/**"]) == ["ros__parameters"]
    return content["/**"]["ros__parameters"]


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda path: path.stem)
def test_parameters_are_known_and_valid(path: Path):
    pytest.importorskip("rclpy")
    from easi3r_ros.ros.params import Settings

    Settings().updated(node_parameters(path))  # raises for an unknown name or a bad value


def test_yaml_repeats_the_defaults_or_says_why():
    pytest.importorskip("rclpy")
    from easi3r_ros.ros.params import Settings

    defaults = {name: value for name, _, value in Settings().items()}
    camera, bag = (node_parameters(ROOT / "config" / name) for name in ("camera.yaml", "rosbag.yaml"))
    assert camera == {name: defaults[name] for name in camera}
    assert bag == {"bag_mode": True}


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_file_declares_its_arguments(path: Path):
    pytest.importorskip("launch_ros", reason="launch comes with a full ROS 2 only")
    from launch import LaunchContext
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    description = get_launch_description_from_python_launch_file(str(path))
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    shared = {
        "image",
        "camera_info",
        "namespace",
        "params_file",
        "checkpoint",
        "device",
        "image_transport",
        "use_sim_time",
    }
    assert shared <= set(arguments)
    assert ("bag" in arguments) == (path.name == "rosbag.launch.py")
    assert all(argument.description for argument in arguments.values())
    context = LaunchContext()
    (yaml_file,) = {"".join(part.perform(context) for part in arguments["params_file"].default_value)}
    assert Path(yaml_file).name == ("rosbag.yaml" if path.name == "rosbag.launch.py" else "camera.yaml")
    assert Path(yaml_file).is_file()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel, built from a copy, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("easi3r_ros", "msg"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*"):
        if path.is_file():
            shutil.copy(path, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_wheel_holds_all_the_code(wheel: zipfile.ZipFile):
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "easi3r_ros").rglob("*") if path.is_file()}
    assert {name for name in code if "__pycache__" not in name} <= set(wheel.namelist())


def test_wheel_holds_the_message_definitions(wheel: zipfile.ZipFile):
    """Where no message is built, they are read: easi3r_ros/ros/stand_ins.py."""
    files = {name.partition("/data/")[2] for name in wheel.namelist()}
    assert {f"share/easi3r_ros/msg/{path.name}" for path in (ROOT / "msg").glob("*.msg")} <= files


def test_wheel_needs_the_requirements_and_gives_the_command(wheel: zipfile.ZipFile):
    info = f"easi3r_ros-{easi3r_ros.__version__}.dist-info"
    lines = re.findall(r"^Requires-Dist: ([\w.-]+)(.*)", wheel.read(f"{info}/METADATA").decode(), re.MULTILINE)
    needed = {normalised(name) for name, rest in lines if "extra ==" not in rest}
    optional = {normalised(name) for name, rest in lines if 'extra == "all"' in rest}
    assert (needed, optional) == (requirements("requirements.txt"), requirements("requirements-optional.txt"))
    assert "easi3r = easi3r_ros.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_relocation_touches_only_the_builders_python():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from relocate_wheels import relocated
    finally:
        sys.path.pop(0)
    builder = "/opt/python/cp311-cp311"
    text = f'"{builder}/include/python3.11;{builder}/lib/python3.11/site-packages/numpy/x;/opt/a"'
    include, purelib = sysconfig.get_path("include"), sysconfig.get_path("purelib")
    assert relocated(text) == f'"{include};{purelib}/numpy/x;/opt/a"'


# Just enough of ament and rosidl for CMake to run the install rules of this package alone.
AMENT = {
    "ament_cmake": "set(PYTHON_INSTALL_DIR lib/python)\nmacro(ament_export_dependencies)\nendmacro()\n"
    "macro(ament_package)\nendmacro()\n",
    "rosidl_default_generators": "macro(rosidl_generate_interfaces)\nendmacro()\n",
    "builtin_interfaces": "",
    "geometry_msgs": "",
    "std_msgs": "",
}


@pytest.fixture
def install(tmp_path):
    """Call it to run CMake; answers the install space, the files in it (relative), and what CMake said."""
    if shutil.which("cmake") is None:
        pytest.skip("no CMake here")
    for name, content in AMENT.items():
        (tmp_path / "ament" / name).mkdir(parents=True)
        (tmp_path / "ament" / name / f"{name}Config.cmake").write_text(content)

    def call(python: str = sys.executable) -> tuple[Path, set[str], str]:
        build, prefix = tmp_path / "build", tmp_path / "install"
        settings = (
            f"-DCMAKE_PREFIX_PATH={tmp_path / 'ament'}",
            f"-DCMAKE_INSTALL_PREFIX={prefix}",
            "-DBUILD_TESTING=OFF",
        )
        said = ""
        for command in (
            ("cmake", "-S", ROOT, "-B", build, f"-DPython3_EXECUTABLE={python}", *settings),
            ("cmake", "--build", build, "--target", "install"),
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            said += done.stdout + done.stderr
            assert done.returncode == 0, said
        return prefix, {str(path.relative_to(prefix)) for path in prefix.rglob("*") if path.is_file()}, said

    return call


def test_colcon_installs_the_product_and_nothing_else(install):
    _, installed, said = install()
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "easi3r_ros").rglob("*") if path.is_file()}
    folders = [ROOT / name for name in ("config", "foxglove", "launch", "rviz")]
    shared = {str(path.relative_to(ROOT)) for folder in folders for path in folder.rglob("*.*")}
    expected = {f"lib/python/{name}" for name in code} | {f"share/easi3r_ros/{name}" for name in shared}
    expected |= {"lib/easi3r_ros/node", "lib/easi3r_ros/easi3r", "bin/easi3r"}
    assert installed == {name for name in expected if "__pycache__" not in name}
    assert "Deprecat" not in said, said


def test_installed_programs_run_in_the_python_that_built_them(install):
    """So that `ros2 launch` and systemd need no activated environment."""
    prefix, _, _ = install()
    for name in ("bin/easi3r", "lib/easi3r_ros/easi3r", "lib/easi3r_ros/node"):
        lines = (prefix / name).read_text().splitlines()
        assert lines[0] == f"#!{sys.executable}"
        assert lines[1:] == (ROOT / "scripts" / Path(name).name).read_text().splitlines()[1:]
        # What `colcon build --symlink-install` links to.
        assert os.access(prefix.parent / "build" / "programs" / Path(name).name, os.X_OK)
    environment = {"PYTHONPATH": str(prefix / "lib" / "python"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([prefix / "bin" / "easi3r", "--version"], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == easi3r_ros.__version__, done.stderr


def test_a_python_that_no_program_can_name_is_said(install, tmp_path):
    python = tmp_path / "a folder" / "python3"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    prefix, _, said = install(str(python))
    assert "has spaces or is too long" in said
    assert (prefix / "bin" / "easi3r").read_text().startswith("#!/usr/bin/env python3\n")


def test_github_and_docker_cover_the_distributions_that_are_named():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    jobs = workflow["jobs"]
    assert jobs["ros"]["strategy"]["matrix"]["distribution"] == ["humble", "jazzy", "kilted", "lyrical"]
    assert {"humble", "jazzy", "lyrical"} <= set(jobs["image"]["strategy"]["matrix"]["distribution"])
    assert any(step.get("run") == ".ci/run" for step in jobs["wheels"]["steps"])
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (\S+) src/", dockerfile, re.MULTILINE)
    assert {"package.xml", "."} <= set(copied) and all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {"docker", "package.xml", "requirements-optional.txt", "easi3r_ros", "msg", "scripts"} & set(ignored)
    entrypoint = ROOT / "docker" / "entrypoint"
    assert os.access(entrypoint, os.X_OK) and entrypoint.read_text().rstrip().endswith('exec "$@"')
