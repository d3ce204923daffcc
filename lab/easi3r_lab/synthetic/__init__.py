"""Procedural scenes with ground truth: for tests, the demo and training."""

from easi3r_lab.synthetic.clips import Clip, RenderedFrame, iter_frames, render_clip, stack_frames

__all__ = ["Clip", "RenderedFrame", "iter_frames", "render_clip", "stack_frames"]
