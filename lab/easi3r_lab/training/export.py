"""The trained network as a folder that `backbone.checkpoint` takes: config.json and model.safetensors in float16."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save

from easi3r_ros.core.dust3r.checkpoints import constructor_arguments
from easi3r_ros.core.dust3r.network import Dust3rNetwork

WEIGHTS = "model.safetensors"


def export(network: Dust3rNetwork, folder: Path) -> Path:
    """Writes the folder and returns the path of the weights. Raises OverflowError for a weight beyond float16."""
    state = {
        name: tensor.detach().cpu().to(torch.float16).contiguous() for name, tensor in network.state_dict().items()
    }
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise OverflowError(f"these weights are not finite in float16: {', '.join(broken)}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(constructor_arguments(network.config), indent=2) + "\n")
    (folder / WEIGHTS).write_bytes(save(state))
    return folder / WEIGHTS
