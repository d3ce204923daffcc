"""Settings: every leaf described, limits enforced, mistakes named."""

import pytest

from easi3r_ros.core.config import ConfigError, PipelineConfig, settings, validate, with_settings


def test_every_setting_is_described_and_its_default_is_valid():
    validate(PipelineConfig())
    for name, item, _ in settings(PipelineConfig()):
        assert len(item.metadata["description"]) > 10, name


def test_dotted_names_replace_leaves_and_leave_the_rest():
    config = with_settings(
        PipelineConfig(), {"window.offsets": [1, 4], "motion.threshold": 1, "backbone.device": "cpu"}
    )
    assert config.window.offsets == (1, 4)
    assert config.motion.threshold == 1.0 and isinstance(config.motion.threshold, float)
    assert config.alignment == PipelineConfig().alignment


@pytest.mark.parametrize(
    "values, message",
    [
        ({"window.sise": 3}, "unknown setting 'window.sise'"),
        ({"window.size": 1}, r"'window.size' is 1, must be in \[2"),
        ({"window.size": 4.5}, "must be int, got float"),
        ({"window.size": True}, "must be int, got bool"),
        ({"backbone.name": "tinny"}, "must be one of: auto, classical"),
        ({"motion.threshold": float("nan")}, "must be in"),
        ({"window.offsets": [0, 1]}, "positive whole numbers"),
        ({"alignment.static_weighting": "yes"}, "must be bool, got str"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        with_settings(PipelineConfig(), values)
