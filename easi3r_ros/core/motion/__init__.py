"""Motion cues behind one interface; `build_cue` makes the one that the configuration asks for."""

from __future__ import annotations

from easi3r_ros.core.config import ConfigError, MotionConfig
from easi3r_ros.core.motion.carried import carried_motion
from easi3r_ros.core.motion.odds import GeometryOdds, MotionCue, OddsCue, OddsSource
from easi3r_ros.core.motion.residual import MotionMeter

__all__ = ["MotionCue", "MotionMeter", "build_cue", "carried_motion"]


def build_cue(config: MotionConfig, has_attention: bool) -> MotionCue:
    """has_attention: whether the backbone's pairs carry it; `MotionMeter` measures motion for all of them.

    Raises ConfigError for a cue that the backbone gives no evidence for.
    """
    available = ["geometry", "attention", "fused"] if has_attention else ["geometry"]
    name = available[-1] if config.cue == "auto" else config.cue
    if name not in available:
        usable = " or ".join(f"'{cue}'" for cue in available)
        raise ConfigError(f"motion.cue '{name}' has no evidence with this backbone: use {usable}")
    if name == "attention":
        from easi3r_ros.core.motion.attention import AttentionCue

        return AttentionCue(config)
    names = ["geometry", "attention"] if name == "fused" else [name]
    return OddsCue(name, config, [_source(source, config) for source in names])


def _source(name: str, config: MotionConfig) -> OddsSource:
    if name == "attention":
        # Not at the top: clustering imports scikit-learn and scikit-image, a second on a robot that never uses them.
        from easi3r_ros.core.motion.attention import AttentionOdds

        return AttentionOdds(config)
    return GeometryOdds()
