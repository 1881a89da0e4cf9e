"""Which data a run was trained on."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger

from axialseg.callbacks.scores import write_json
from axialseg.datasets.fingerprint import fingerprint


class DataFacts(pl.Callback):
    """Writes `data.json` into the folder of the run: images and fingerprint of each split.

    W&B has the same in the run's configuration, as ``data_set``.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks at the data, on rank 0: as long as reading 32 images takes."""
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        splits = {"train": data.train_dataset, "val": data.val_dataset}
        facts = {name: fingerprint(split) for name, split in splits.items() if split is not None}
        write_json(Path(trainer.default_root_dir) / "data.json", facts)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams({"data_set": facts})
