"""Settings from the node's parameter files, plain YAML and NAME=VALUE texts."""

from pathlib import Path

import pytest

from easi3r_ros.core.config import ConfigError, PipelineConfig, with_settings
from easi3r_ros.io.parameters import parse_assignments, read_parameters

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "config").glob("*.yaml"))


def read(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return read_parameters(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_file_is_understood(path):
    values, of_node = read_parameters(path)
    with_settings(PipelineConfig(), values)
    assert of_node


def test_ros_files_nest_or_dot_and_later_entries_win(tmp_path):
    values, of_node = read(
        tmp_path,
        """
        /**:
          ros__parameters: {tf_mode: none, window: {size: 8, offsets: [1]}, motion.threshold: 0.4}
        camera_driver:
          ros__parameters: {exposure: 3}
        easi3r:
          ros__parameters: {window: {size: 9}, qos_overrides./image.subscription.depth: 3}
        """,
    )
    assert values == {"window.size": 9, "window.offsets": [1], "motion.threshold": 0.4}
    assert of_node == ["qos_overrides./image.subscription.depth", "tf_mode"]


def test_plain_yaml_will_do(tmp_path):
    assert read(tmp_path, "window: {offsets: [1, 3]}\nbackbone.device: cpu")[0] == {
        "window.offsets": [1, 3],
        "backbone.device": "cpu",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "is not YAML"),
        ("just words", "holds no parameters"),
        ("other:\n  ros__parameters: {window.size: 3}", "has parameters for other only"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot read '.*nothing.yaml': No such file"):
        read_parameters(tmp_path / "nothing.yaml")


def test_assignments_get_the_type_of_their_setting():
    values = parse_assignments(
        [
            "window.size=8",
            "motion.threshold=0.25",
            "motion.passes=1",
            "window.offsets=[1, 3]",
            "backbone.device=1",
        ]
    )
    config = with_settings(PipelineConfig(), values)
    assert (config.window.size, config.motion.threshold, config.motion.passes) == (8, 0.25, 1)
    assert (config.window.offsets, config.backbone.device) == ((1, 3), "1")


@pytest.mark.parametrize(
    ("text", "words"),
    [("window.size", "must be NAME=VALUE"), ("window.size=[", "cannot be read"), ("window.sise=8", "unknown setting")],
)
def test_wrong_assignments_are_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        with_settings(PipelineConfig(), parse_assignments([text]))


@pytest.mark.parametrize("key", ["/robot1/easi3r", "robot1/easi3r", "/robot1/**", "/*/easi3r", "/**/easi3r", "easi3r"])
def test_a_file_for_a_node_in_any_namespace(tmp_path, key):
    path = tmp_path / "parameters.yaml"
    path.write_text(f"'{key}':\n  ros__parameters:\n    motion.threshold: 1\n")
    assert with_settings(PipelineConfig(), read_parameters(path)[0]).motion.threshold == 1.0


def test_two_nodes_in_one_file(tmp_path, caplog):
    path = tmp_path / "parameters.yaml"
    path.write_text(
        "/a/easi3r:\n  ros__parameters: {window.size: 5}\n/b/easi3r:\n  ros__parameters: {window.size: 6}\n"
        "/other:\n  ros__parameters: {window.size: 7}\n"
    )
    assert read_parameters(path)[0] == {"window.size": 6} and "/a/easi3r, /b/easi3r" in caplog.text


@pytest.mark.parametrize("text", ["1e-1", "1.e-1", "0.1", "1.0e-1", "+.1"])
def test_numbers_as_people_write_them(tmp_path, text):
    assert parse_assignments([f"motion.threshold={text}"]) == {"motion.threshold": 0.1}
    path = tmp_path / "parameters.yaml"
    path.write_text(f"motion:\n  threshold: {text}\n")
    assert read_parameters(path)[0] == {"motion.threshold": 0.1}
