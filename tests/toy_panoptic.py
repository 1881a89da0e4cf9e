"""A panoptic task in miniature: a net of two convolutions and images of 16 x 16 pixels.

Its parts keep the interfaces of the real ones, so that tasks, callbacks and loggers run under a
Trainer within milliseconds a step.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from axialseg.datasets.sample import PanopticSample
from axialseg.datasets.sampler import CounterSampler, SampleKey, ShardSampler
from axialseg.losses.losses import Losses
from axialseg.optim.adam import Adam
from axialseg.optim.param_groups import parameter_groups
from axialseg.optim.poly_schedule import PolySchedule
from axialseg.panoptic.categories import Categories, Category
from axialseg.panoptic.panoptic_map import CLASS_DIVISOR, PanopticSegments
from axialseg.tasks.panoptic_deeplab_task import PanopticDeepLabTask

SIZE = 16
CATEGORIES = Categories(
    (
        Category(1, "cat", True, 17, (200, 30, 30)),
        Category(2, "dog", True, 18, (30, 200, 30)),
        Category(3, "grass", False, 193, (30, 30, 200)),
    ),
    ignore_class=0,
)


class Heads(NamedTuple):
    """Semantic logits ``[B, 4, H, W]`` alone; the other heads are None, as a method may have it."""

    semantic: Tensor
    center: Tensor | None = None


class ToyNet(nn.Module):
    """Convolution, batch norm, dropout, convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.ReLU(), nn.Conv2d(4, 4, 1))

    def forward(self, image: Tensor, valid: Tensor) -> Heads:
        x = (image.float() / 127.5 - 1.0) * valid[:, None]
        return Heads(self.head(self.backbone(x)))


def toy_loss(outputs: Heads, batch: dict[str, Any]) -> Losses:
    """Cross-entropy, and a term that is NaN where the batch says so."""
    assert outputs.semantic.dtype == torch.float32
    semantic = F.cross_entropy(outputs.semantic, batch["semantic"].long(), reduction="none")
    extra = outputs.semantic.square().mean((1, 2, 3)) + batch.get("poison", 0.0)
    terms = {"semantic": semantic.mean((1, 2)), "extra": extra}
    return Losses.weighted(terms, {"semantic": 1.0, "extra": 0.01})


class ToyMaps(NamedTuple):
    """Label maps of one image."""

    panoptic: Tensor
    semantic: Tensor
    removed: dict[str, Tensor]
    capacity: int | None

    def score_maps(self, panoptic: Tensor, resized: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Cats are surer than dogs."""
        return 1.0 / (1 + panoptic // CLASS_DIVISOR), torch.ones(panoptic.shape)


class ToyPostProcess:
    """Arg-max; all pixels of a thing class are one instance."""

    ignore_class = 0

    def __call__(self, outputs: Heads, size: tuple[int, int]) -> list[ToyMaps]:
        semantic = outputs.semantic.argmax(1).int()
        panoptic = semantic * CLASS_DIVISOR + ((semantic == 1) | (semantic == 2)).int()
        removed = {"toy_limit": torch.tensor([0, 1])}
        return [ToyMaps(p, s, removed, 1) for p, s in zip(panoptic, semantic, strict=True)]


def toy_segments(index: int) -> PanopticSegments:
    """Grass with a cat at the top left and a dog at the bottom right."""
    id_map = np.ones((SIZE, SIZE), np.int32)
    id_map[2 : 6 + index % 3, 2:8] = 2
    id_map[10:14, 9:15] = 3
    id_map[0, :4] = 0
    return PanopticSegments(id_map, np.array([3, 1, 2]), np.zeros(3, bool))


def toy_image(index: int) -> np.ndarray:
    """The segments in their colours, with noise, uint8 ``[16, 16, 3]``."""
    rng = np.random.default_rng(index)
    colors = np.array([(0, 0, 0), (30, 30, 200), (200, 30, 30), (30, 200, 30)])
    noise = rng.integers(-30, 30, (SIZE, SIZE, 3))
    return (colors[toy_segments(index).id_map] + noise).clip(0, 255).astype(np.uint8)


class ToyDataset:
    """Images in memory, by the interface of the real data sets."""

    categories = CATEGORIES

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> PanopticSample:
        name = f"{index:03d}.jpg"
        return PanopticSample(toy_image(index), toy_segments(index), index, f"toy/{name}", name)


class _TrainingItems(Dataset):
    def __init__(self, dataset: ToyDataset, poisoned: Sequence[int]) -> None:
        self.dataset = dataset
        self.poisoned = poisoned

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        position, item = key
        sample = self.dataset.read(item)
        return {
            "image": sample.image.transpose(2, 0, 1).copy(),
            "valid": np.ones((SIZE, SIZE), bool),
            "semantic": sample.segments.semantic_map(CATEGORIES.ignore_class),
            "poison": np.float32(np.nan if position in self.poisoned else 0.0),
            "position": position,
            "index": item,
        }


class ToyData(pl.LightningDataModule):
    """Endless training batches of 2 in a fixed order; `val_images` validation images, 2 at a time.

    Args:
        poisoned: positions of the training order whose loss is NaN.
        val_images: number of validation images.
    """

    categories = CATEGORIES

    def __init__(self, poisoned: Sequence[int] = (), val_images: int = 3) -> None:
        super().__init__()
        self.poisoned = poisoned
        self.train_dataset = ToyDataset(6)
        self.val_dataset = ToyDataset(val_images)
        self.val_indices: Sequence[int] | None = None

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        start = trainer.global_step * 2 * trainer.world_size * trainer.accumulate_grad_batches
        sampler = CounterSampler(6, 0, start, trainer.global_rank, trainer.world_size)
        items = _TrainingItems(self.train_dataset, self.poisoned)
        return DataLoader(items, batch_size=2, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        count = len(self.val_dataset)
        indices = range(count) if self.val_indices is None else self.val_indices
        items = [(index, self.val_dataset.read(index)) for index in indices]
        sampler = ShardSampler(len(items), self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(items, batch_size=2, sampler=sampler, collate_fn=collate)


def collate(items: list[tuple[int, PanopticSample]]) -> dict[str, Any]:
    """An evaluation batch: the images padded by 4 pixels at the bottom and the right."""
    indices, samples = zip(*items, strict=True)
    image = torch.zeros((len(samples), 3, SIZE + 4, SIZE + 4), dtype=torch.uint8)
    valid = torch.zeros((len(samples), SIZE + 4, SIZE + 4), dtype=torch.bool)
    for position, sample in enumerate(samples):
        image[position, :, :SIZE, :SIZE] = torch.from_numpy(sample.image.copy()).permute(2, 0, 1)
        valid[position, :SIZE, :SIZE] = True
    return {
        "image": image,
        "valid": valid,
        "segments": [sample.segments for sample in samples],
        "image_id": [sample.image_id for sample in samples],
        "file_name": [sample.name for sample in samples],
        "index": list(indices),
        "original_size": [(SIZE, SIZE)] * len(samples),
        "resized_size": [(SIZE, SIZE)] * len(samples),
    }


def toy_task(max_steps: int = 10, lr: float = 0.02, **arguments: Any) -> PanopticDeepLabTask:
    """The task on the toy net, always with the same initial weights."""
    torch.manual_seed(0)
    return PanopticDeepLabTask(
        ToyNet(),
        toy_loss,
        ToyPostProcess(),
        optimizer=partial(Adam),
        parameter_groups=partial(parameter_groups, lr=lr),
        curve=PolySchedule(max_steps, warmup_steps=2),
        **arguments,
    )


def toy_trainer(folder: Path, max_steps: int = 10, **arguments: Any) -> pl.Trainer:
    """A quiet Trainer on the CPU; no validation unless `val_check_interval` is given."""
    callbacks = arguments.get("callbacks", [])
    defaults: dict[str, Any] = {
        "default_root_dir": folder,
        "max_steps": max_steps,
        "max_epochs": -1,
        "accelerator": "cpu",
        "devices": 1,
        "limit_val_batches": None if "val_check_interval" in arguments else 0,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks),
        "use_distributed_sampler": False,
    }
    return pl.Trainer(**{**defaults, **arguments})
