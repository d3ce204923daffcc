"""What a golden file of one image pair records (small and full-size networks), recomputed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from easi3r_ros.core.dust3r.checkpoints import network_config
from easi3r_ros.core.dust3r.generated import generated_network
from easi3r_ros.core.dust3r.inference import normalised_image, token_mask
from easi3r_ros.core.dust3r.network import CrossAttention, DecodedPairs, Dust3rNetwork, NetworkConfig

INPUTS = frozenset({"img1_u8", "img2_u8", "mask1", "mask2", "salt", "config_json"})
FULL_DPT = NetworkConfig()
FULL_LINEAR = NetworkConfig(head="linear", image_size=(224, 224))

Logits = dict[tuple[int, int], Tensor]  # (branch, layer) -> (heads, N, N)


def recognises(recorded: Mapping[str, np.ndarray]) -> bool:
    return {"img1_u8", "img2_u8", "mask1", "mask2"} <= recorded.keys()


def recorded_config(recorded: Mapping[str, np.ndarray]) -> NetworkConfig:
    """The network of a file; one without a description is of a published full-size network.

    Only the linear 224 model sees square images: the 512 models crop them to 4:3 (METHOD 1).
    """
    if "config_json" in recorded:
        return network_config(json.loads(str(recorded["config_json"])))
    height, width = recorded["img1_u8"].shape[:2]
    return FULL_LINEAR if height == width else FULL_DPT


@torch.no_grad()
def recompute(recorded: Mapping[str, np.ndarray], tolerance: float, device: str = "cpu") -> dict[str, np.ndarray]:
    """Our values, complete, under the recorded names without their sub-sampling."""
    network = generated_network(recorded_config(recorded), str(recorded.get("salt", ""))).to(device)
    images = [normalised_image(torch.from_numpy(recorded[f"img{view}_u8"]).to(device)) for view in (1, 2)]
    grid = tuple(side // network.config.patch_size for side in images[0].shape[1:])
    tokens = [network.encode(image[None]) for image in images]
    pixels = (torch.from_numpy(recorded[f"mask{view}"]).to(device) for view in (1, 2))
    masks = tuple(token_mask(mask, network.config.patch_size) for mask in pixels)
    ours = {f"img{view}": image for view, image in enumerate(images, 1)}
    ours |= {f"enc_{view}": x[0] for view, x in enumerate(tokens, 1)}
    ours |= {f"tokmask{view}": mask for view, mask in enumerate(masks, 1)}
    for number, pass_masks in ((1, None), (2, (masks[0][None], masks[1][None]))):
        with recorded_logits(network, _layers(recorded, r"p\d_cross_logits_\d_l(\d+)")) as logits:
            decoded = network.decode(*tokens, grid, pass_masks, {*network.config.head_layers, *_dec_layers(recorded)})
        ours |= {f"p{number}_{name}": value for name, value in _pass_quantities(network, decoded, logits).items()}
    return {name: value.cpu().numpy() for name, value in ours.items()} | _weights(network)


def _pass_quantities(network: Dust3rNetwork, decoded: DecodedPairs, logits: Logits) -> dict[str, Tensor]:
    points_a, points_b, conf_a, conf_b = network.pointmaps(decoded)
    branches = (
        (1, points_a, conf_a, decoded.source, decoded.tokens_a),
        (2, points_b, conf_b, decoded.reference, decoded.tokens_b),
    )
    ours = {"match_feature_1": decoded.tokens_a[0][0].unflatten(0, decoded.grid)}  # (N, C) -> (gh, gw, C)
    for branch, points, conf, statistic, tokens in branches:
        ours |= {f"pts3d_{branch}": points[0], f"conf_{branch}": conf[0], f"cross_attn_k_{branch}": statistic[0]}
        ours |= {f"dec{branch}_l{layer:02}": x[0] for layer, x in tokens.items()}
    return ours | {f"cross_logits_{branch}_l{layer:02}": x for (branch, layer), x in logits.items()}


@contextmanager
def recorded_logits(network: Dust3rNetwork, layers: Iterable[int]) -> Iterator[Logits]:
    """Collects full cross-attention logits while the network decodes; the network itself never makes them."""
    logits: Logits = {}

    def recorder(key: tuple[int, int]) -> Callable[..., None]:
        def record(module: CrossAttention, inputs: tuple, output: object) -> None:
            q, k = module.queries_and_keys(*inputs[:3])
            logits[key] = (q @ k.mT * q.shape[-1] ** -0.5)[0]

        return record

    towers = {1: network.dec_blocks, 2: network.dec_blocks2}
    hooks = [
        tower[layer].cross_attn.register_forward_hook(recorder((branch, layer)))
        for branch, tower in towers.items()
        for layer in layers
    ]
    try:
        yield logits
    finally:
        for hook in hooks:
            hook.remove()


def _dec_layers(recorded: Iterable[str]) -> set[int]:
    return _layers(recorded, r"p\d_dec\d_l(\d+)(?:_sub\d+)?")


def _layers(recorded: Iterable[str], pattern: str) -> set[int]:
    return {int(match[1]) for name in recorded if (match := re.fullmatch(pattern, name))}


def _weights(network: Dust3rNetwork) -> dict[str, np.ndarray]:
    state = {name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()}
    first = np.zeros((len(state), 4), np.float32)
    for row, tensor in zip(first, state.values(), strict=True):
        values = tensor.ravel()[:4]
        row[: len(values)] = values
    norms = np.array([np.linalg.norm(tensor.astype(np.float64)) for tensor in state.values()])
    return {"weight_keys": np.array(list(state)), "weight_first4": first, "weight_l2norm": norms}
