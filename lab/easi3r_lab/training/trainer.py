"""The training loop, which can be stopped at any time and goes on where it was, and the checkpoint that comes of it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch.nn.attention import SDPBackend, sdpa_kernel

from easi3r_lab.training.held_out import network_figures
from easi3r_lab.training.loader import batches
from easi3r_lab.training.losses import answer, losses
from easi3r_lab.training.matching import start_as_similarity
from easi3r_lab.training.pairs import TrainingPairs
from easi3r_lab.training.plan import PlanError, Progress, TrainingPlan
from easi3r_ros.core.dust3r.checkpoints import constructor_arguments
from easi3r_ros.core.dust3r.network import Dust3rNetwork

log = logging.getLogger(__name__)

STATE = "state.pt"
LOG = "log.jsonl"
WEIGHTS_FILE = "model.safetensors"


class Trainer:
    """Holds the network, its optimisers and how far it is; `run` trains until the plan's time is over."""

    def __init__(self, plan: TrainingPlan, folder: Path, device: torch.device, workers: int, compiled: bool = False):
        """Goes on from `folder` if a training was begun there. Raises PlanError if that one was of another network.

        compiled: by torch.compile, minutes for each of the three image shapes, and half as fast again from then on.
        """
        self.plan, self.folder, self.device, self.workers = plan, folder, device, workers
        compile_or_not = partial(torch.compile, disable=not compiled, dynamic=False)
        self._answer, self._losses = compile_or_not(answer), compile_or_not(losses)
        torch.manual_seed(plan.seed)
        self.network = Dust3rNetwork(plan.network).to(device)
        start_as_similarity(self.network)
        self.optimizers = _optimizers(self.network, plan)
        self.progress = Progress()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE).exists():
            self._resume()

    def run(self, report: Callable[[dict[str, float]], None], report_every: float = 120.0) -> None:
        """report: gets the figures of the held-out pairs every so many seconds, and at the end."""
        plan, progress = self.plan, self.progress
        budget, reported = plan.minutes * 60, progress.seconds
        sums: dict[str, float] = {}
        steps = 0
        while progress.seconds < budget:
            stage = plan.stage_at(progress.seconds / budget)
            source = batches(plan, stage, progress.shard, self.device, self.workers)
            while progress.seconds < budget and plan.stage_at(progress.seconds / budget) is stage:
                start = time.monotonic()
                shard, pairs = next(source)
                parts = self._step(pairs.to(self.device))
                progress.step += 1
                progress.pairs += 2 * len(pairs)
                progress.shard = max(progress.shard, shard + 1)
                progress.seconds += time.monotonic() - start
                sums = {name: sums.get(name, 0.0) + float(value) for name, value in parts.items()}
                steps += 1
                if progress.seconds - reported >= report_every:
                    self._report(stage.long_side, {name: value / steps for name, value in sums.items()}, report)
                    reported, sums, steps = progress.seconds, {}, 0
        self._report(plan.stages[-1].long_side, {name: value / max(steps, 1) for name, value in sums.items()}, report)

    def _step(self, pairs: TrainingPairs) -> dict[str, torch.Tensor]:
        share = self.plan.rate_share(self.progress.seconds / (self.plan.minutes * 60), self.progress.step)
        # On a CPU the fused attention's backward pass takes twice as long as the plain one at these sizes.
        kernels = sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()
        with torch.autocast(self.device.type, torch.bfloat16), kernels:
            answers = self._answer(self.network, pairs)
        total, parts = self._losses(answers, pairs, self.plan)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip_norm)
        if not norm.isfinite():
            log.warning("step %d: the gradient is not finite, skipped", self.progress.step)
            return parts
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * group["peak"]
            optimizer.step()
        return parts

    def _report(self, long_side: int, parts: dict[str, float], report: Callable[[dict[str, float]], None]) -> None:
        self.network.eval()
        figures = network_figures(self.network, long_side, self.device)
        self.network.train()
        progress = self.progress
        row = {"step": progress.step, "pairs": progress.pairs, "minutes": round(progress.seconds / 60, 1)}
        row |= {"size": long_side} | {f"loss_{name}": round(value, 4) for name, value in parts.items()} | figures
        progress.history.append(row)
        with (self.folder / LOG).open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._save()
        report(row)

    def _save(self) -> None:
        state = {
            "plan": asdict(self.plan),
            "progress": asdict(self.progress),
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        unfinished = self.folder / f"{STATE}.part"
        torch.save(state, unfinished)
        unfinished.replace(self.folder / STATE)  # whole or not at all, whenever we are stopped

    def _resume(self) -> None:
        state = torch.load(self.folder / STATE, map_location=self.device, weights_only=True)
        if state["plan"]["network"] != asdict(self.plan.network):
            raise PlanError(f"{self.folder} holds a training of another network: choose another folder")
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])


def training_device(name: str) -> torch.device:
    """Raises PlanError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise PlanError(f"device '{name}' is not available: use auto, cpu or cuda") from error


def _optimizers(network: Dust3rNetwork, plan: TrainingPlan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest, with steps of the same size."""
    blocks = ("enc_blocks.", "dec_blocks.", "dec_blocks2.", "decoder_embed.")
    matrices, others = [], []
    for name, parameter in network.named_parameters():
        if name == "mask_token":  # never read
            continue
        (matrices if parameter.ndim == 2 and name.startswith(blocks) else others).append(parameter)
    rates = plan.matrix_rate, plan.learning_rate
    groups = [
        [{"params": parameters, "peak": rate}] for parameters, rate in zip((matrices, others), rates, strict=True)
    ]
    return [
        torch.optim.Muon(groups[0], weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups[1], betas=(0.9, 0.95), weight_decay=plan.weight_decay),
    ]


def export(network: Dust3rNetwork, folder: Path) -> Path:
    """Write a folder that `backbone.checkpoint` takes: config.json, and the weights in float16, whose path is returned.

    Raises OverflowError for a weight beyond float16.
    """
    state = {
        name: tensor.detach().cpu().to(torch.float16).contiguous() for name, tensor in network.state_dict().items()
    }
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise OverflowError(f"these weights are not finite in float16: {', '.join(broken)}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(constructor_arguments(network.config), indent=2) + "\n")
    (folder / WEIGHTS_FILE).write_bytes(save(state))
    return folder / WEIGHTS_FILE
