"""Motion cues behind one interface; `build_cue` makes the one that the configuration asks for."""

from __future__ import annotations

from easi3r_ros.core.config import ConfigError, MotionConfig
from easi3r_ros.core.motion.base import MotionCue

__all__ = ["MotionCue", "build_cue"]


def build_cue(config: MotionConfig, has_attention: bool) -> MotionCue:
    """has_attention: the backbone's pairs carry attention statistics (networks) rather than measured motion.

    Raises ConfigError for a cue that the backbone gives no evidence for.
    """
    available = "attention" if has_attention else "geometry"
    name = available if config.cue == "auto" else config.cue
    if name != available:
        raise ConfigError(f"motion.cue '{name}' has no evidence with this backbone: use '{available}' or 'auto'")
    if name == "attention":
        from easi3r_ros.core.motion.attention import AttentionCue

        return AttentionCue(config)
    from easi3r_ros.core.motion.geometry import GeometryCue

    return GeometryCue(config)
