"""SAM 2 (Ravi et al. 2024, package `sam2`, Apache-2.0) as a MaskTracker: one object, memory across images, no file.

The package's predictor wants a whole video. Here it gets one that grows: each image is the next frame, and what its
memory no longer reads is removed, so that it takes the same memory for ever. Our mask goes in as a prompt, not as the
answer, so that the first image is refined, too.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from easi3r_ros.core.config import ConfigError, MotionConfig
from easi3r_ros.libraries import needed

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the images that it was trained on
OBJECT = 1
ENDLESS = 1 << 30  # frames of the video
PROMPTS, TRACKED = 4, 16  # frames that its memory reads at most
SIZES = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}


def load_sam2(config: MotionConfig, device: torch.device) -> Sam2Tracker:
    """Raises MissingLibrary without the package, ConfigError for a checkpoint or configuration that cannot be used."""
    path = Path(config.sam2_checkpoint).expanduser()
    if not config.sam2_checkpoint:
        raise ConfigError("'motion.refine' is sam2: 'motion.sam2_checkpoint' must name its checkpoint (a .pt file)")
    if not path.is_file():
        raise ConfigError(f"'motion.sam2_checkpoint': there is no file '{path}'; nothing is downloaded")
    name = config.sam2_config or config_of(path)
    with needed("sam2"):
        from sam2 import sam2_video_predictor
        from sam2.build_sam import build_sam2_video_predictor
        from sam2.utils import misc
    for module in (sam2_video_predictor, misc):  # each draws a bar for every call
        module.tqdm = lambda items, **_: items
    overrides = ["++model.use_mask_input_as_output_without_sam=false"]
    try:
        predictor = build_sam2_video_predictor(
            name, str(path), str(device), hydra_overrides_extra=overrides, apply_postprocessing=False
        )
    except Exception as error:  # hydra's, torch's, or the package's own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"SAM 2 cannot be loaded from '{path}' with 'motion.sam2_config' {name}: {first}") from error
    return Sam2Tracker(predictor)


def config_of(checkpoint: Path) -> str:
    """The package's configuration for a file named as it is distributed. Raises ConfigError for any other name."""
    found = re.fullmatch(r"(sam2(?:\.1)?)_hiera_(tiny|small|base_plus|large)", checkpoint.stem)
    if found is None:
        raise ConfigError(
            f"'motion.sam2_config' must be set, such as configs/sam2.1/sam2.1_hiera_t.yaml: the name "
            f"'{checkpoint.name}' does not say which it is"
        )
    family, size = found.groups()
    return f"configs/{family}/{family}_hiera_{SIZES[size]}.yaml"


class Sam2Tracker:
    """One object through an endless video. predictor: a SAM2VideoPredictor."""

    def __init__(self, predictor: Any):
        self._predictor = predictor
        self._state: dict[str, Any] | None = None
        self._next = 0

    @torch.inference_mode()
    def prompt(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        number = self._add(image)
        with self._precision():
            _, _, logits = self._predictor.add_new_mask(self._state, number, OBJECT, torch.from_numpy(mask))
            self._predictor.propagate_in_video_preflight(self._state)  # into the memory
        self._trim(number)
        return _as_mask(logits)

    @torch.inference_mode()
    def track(self, image: np.ndarray) -> np.ndarray:
        number = self._add(image)
        with self._precision():
            steps = self._predictor.propagate_in_video(self._state, number, max_frame_num_to_track=0)
            _, _, logits = next(iter(steps))
        self._trim(number)
        return _as_mask(logits)

    def forget(self) -> None:
        self._state, self._next = None, 0

    def _add(self, image: np.ndarray) -> int:
        """The number of the next frame, which is `image`."""
        if self._state is None:
            self._state = self._begin(image)
        number, self._next = self._next, self._next + 1
        size = self._predictor.image_size
        resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        pixels = (resized - np.float32(MEAN)) / np.float32(SPREAD)
        self._state["images"][number] = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        return number

    def _begin(self, image: np.ndarray) -> dict[str, Any]:
        """The predictor's own state, of a video of one frame, which then is made endless."""
        with tempfile.TemporaryDirectory() as folder, self._precision():
            cv2.imwrite(str(Path(folder) / "0.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            state = self._predictor.init_state(folder)
        state["images"], state["num_frames"] = {}, ENDLESS
        state["cached_features"].clear()  # of the JPEG
        return state

    def _trim(self, number: int) -> None:
        """Remove what the memory does not read any more."""
        state = self._state
        state["images"] = {number: state["images"][number]}
        outputs = state["output_dict_per_obj"][0]
        for kind, count in (("cond_frame_outputs", PROMPTS), ("non_cond_frame_outputs", TRACKED)):
            for old in sorted(outputs[kind])[:-count]:
                del outputs[kind][old]
        kept = {*outputs["cond_frame_outputs"], *outputs["non_cond_frame_outputs"]}
        for name in ("mask_inputs_per_obj", "frames_tracked_per_obj"):
            for old in state[name][0].keys() - kept:
                del state[name][0][old]

    def _precision(self) -> Any:
        device = torch.device(self._predictor.device)
        return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _as_mask(logits: torch.Tensor) -> np.ndarray:
    """(1, 1, H, W) -> (H, W) bool."""
    return (logits[0, 0] > 0).cpu().numpy()
