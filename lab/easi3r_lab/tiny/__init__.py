"""A small checkpoint of DUSt3R's architecture, made by `easi3r-lab train`: the network path with nothing downloaded.

An ordinary checkpoint: `backbone.checkpoint:=.../easi3r_lab/tiny/weights` (lab/docs/tiny.md).
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"  # a folder with config.json and model.safetensors, as `export` writes it
