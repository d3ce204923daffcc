"""Batches of training pairs without end, rendered by worker processes beside the training or on its own device."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from easi3r_lab.synthetic.training_views import training_views
from easi3r_lab.training.pairs import TrainingPairs, joined, mirrored, training_pairs
from easi3r_lab.training.plan import EVALUATION_SEED, Stage, TrainingPlan

T = TypeVar("T")
SHAPES = ((1.0, 0.75, 0.6), (1.0, 0.5625, 0.25), (0.75, 1.0, 0.15))  # width and height in long sides, share


class Shards(IterableDataset):
    """Shard number n holds the same pairs in the same order whenever it is made."""

    def __init__(self, plan: TrainingPlan, stage: Stage, first: int, device: torch.device):
        self.plan, self.stage, self.first, self.device = plan, stage, first, device

    def __iter__(self) -> Iterator[tuple[int, TrainingPairs]]:
        """(shard number, batch)."""
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None:
            torch.set_num_threads(1)
        shard = self.first + start
        while True:
            pairs = self._shard(shard)
            order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(shard)).to(pairs.K.device)
            for rows in order.split(self.stage.batch):
                if len(rows) == self.stage.batch:
                    yield shard, pairs.select(rows)
            shard += step

    @torch.no_grad()
    def _shard(self, shard: int) -> TrainingPairs:
        plan = self.plan
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + shard)
        size = image_size(self.stage.long_side, plan.network.patch_size, generator)
        seed = int(torch.randint(EVALUATION_SEED, (), generator=generator))
        views = training_views(seed, plan.scenes_per_shard, plan.views_per_scene, size, device=self.device)
        edges: list[tuple[int, int]] = []
        for _ in range(plan.rounds_per_shard):
            order = torch.randperm(plan.views_per_scene, generator=generator).tolist()
            edges += zip(order[::2], order[1::2], strict=True)
        pairs = training_pairs(views, edges, plan.network.patch_size)
        return joined([pairs, mirrored(pairs, plan.network.patch_size)])


def image_size(long_side: int, patch: int, generator: torch.Generator) -> tuple[int, int]:
    """(w, h) of a random aspect ratio, in whole patches."""
    shares = torch.tensor([share for *_, share in SHAPES])
    width, height, _ = SHAPES[int(torch.multinomial(shares, 1, generator=generator))]
    return round(width * long_side / patch) * patch, round(height * long_side / patch) * patch


def batches(
    plan: TrainingPlan, stage: Stage, first: int, device: torch.device, workers: int
) -> Iterator[tuple[int, TrainingPairs]]:
    """(shard number, batch) from shard `first` on. workers: rendering processes; 0: render in this one, on `device`."""
    source = Shards(plan, stage, first, torch.device("cpu") if workers else device)
    if workers:
        source = DataLoader(source, batch_size=None, num_workers=workers, prefetch_factor=6)
    return mixed(iter(source), plan.mixed_batches, first)


def mixed(source: Iterator[T], size: int, seed: int) -> Iterator[T]:
    """All of `source`, each item waiting among `size` others for its turn to be drawn.

    A shard's batches show the same few scenes; steps in a row should not.
    """
    generator = torch.Generator().manual_seed(seed)
    waiting = list(islice(source, size))
    for item in source:
        drawn = int(torch.randint(size, (), generator=generator))
        yield waiting[drawn]
        waiting[drawn] = item
    yield from waiting
