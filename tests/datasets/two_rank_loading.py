"""One of two ranks that load a data set under a Trainer: ``two_rank_loading.py <folder>``.

For `test_two_rank_loading.py`; writes the positions and images that the rank has seen.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from axialseg.datasets.datamodule import PanopticDataModule
from axialseg.datasets.generated.shapes import shapes_panoptic
from axialseg.datasets.targets import MaxDeepLabTargets
from axialseg.datasets.transforms import EvalTransform, TrainTransform

TRAIN_IMAGES, VAL_IMAGES = 12, 5
STEPS = 9  # of 2 ranks x 2 batches x 2 images: six epochs


class Recorder(pl.LightningModule):
    """Trains one number and keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.keys: list[tuple[int, int]] = []
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        assert batch["thing_id_class"].shape == (2, 4)
        self.keys += zip(batch["position"].tolist(), batch["index"].tolist(), strict=True)
        return self.weight * batch["image"].float().mean()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.validated += batch["image_id"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    counts = {"train_images": TRAIN_IMAGES, "val_images": VAL_IMAGES}
    module = PanopticDataModule(
        root=str(folder / "shapes"),
        train_dataset=partial(shapes_panoptic, split="train", **counts),
        val_dataset=partial(shapes_panoptic, split="val", **counts),
        train_transform=partial(TrainTransform, min_scale=1.0, max_scale=1.0),
        eval_transform=EvalTransform,
        crop_size=(33, 33),
        eval_size=(33, 33),
        targets=MaxDeepLabTargets(slots=4),
        batch_size=2,
        val_batch_size=1,
        num_workers=1,
        val_num_workers=0,
        cache=False,
        seed=0,
    )
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=STEPS,
        max_epochs=-1,
        accumulate_grad_batches=2,
        val_check_interval=2 * STEPS,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(recorder, datamodule=module)
    result = {"keys": recorder.keys, "validated": recorder.validated}
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
