"""Writes the predictions of a validation in the official COCO panoptic format."""

import logging
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from axialseg.formats.coco_panoptic import CocoPanopticWriter
from axialseg.inference.predict import PanopticPrediction

log = logging.getLogger(__name__)


class _Packed(NamedTuple):
    """A prediction on its way to rank 0; panoptic maps shrink to some kilobytes."""

    panoptic: bytes
    shape: tuple[int, ...]
    image_id: int | str
    file_name: str

    def unpack(self) -> NDArray[np.int32]:
        """The panoptic map."""
        return np.frombuffer(zlib.decompress(self.panoptic), np.int32).reshape(self.shape)


class OfficialPredictions(pl.Callback):
    """Writes `predictions.json` and `predictions/*.png` as the official scorer takes them.

    Rank 0 writes its own predictions as they come, and those of the other ranks at the end.

    Args:
        folder: None is the folder of the run.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._writer: CocoPanopticWriter | None = None
        self._packed: list[_Packed] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the files."""
        self._packed = []
        if trainer.is_global_zero and not trainer.sanity_checking:
            folder = Path(self.folder or trainer.default_root_dir)
            categories = trainer.datamodule.categories  # type: ignore[attr-defined]
            self._writer = CocoPanopticWriter(folder, categories)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: list[PanopticPrediction],  # type: ignore[override]
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the images of a batch."""
        for prediction in outputs:
            if self._writer is not None:
                self._writer.write(prediction.panoptic, prediction.image_id, prediction.file_name)
            elif trainer.world_size > 1:
                panoptic = np.ascontiguousarray(prediction.panoptic, np.int32)
                self._packed.append(
                    _Packed(
                        zlib.compress(panoptic.tobytes(), 1),
                        panoptic.shape,
                        prediction.image_id,
                        prediction.file_name,
                    )
                )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collects the other ranks' and closes the files."""
        if trainer.sanity_checking:
            return
        ranks: list[list[_Packed]] = [[]] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(ranks, self._packed)
        if self._writer is None:
            return
        for packed in (prediction for rank in ranks for prediction in rank):
            self._writer.write(packed.unpack(), packed.image_id, packed.file_name)
        log.info("Official predictions: %s", self._writer.close())
        self._writer = None

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leaves an earlier result as it was."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None
