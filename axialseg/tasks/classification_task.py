"""Classification of whole images, which pre-trains the Axial-ResNets.

The models ``axial_resnet_*`` are configurations (``conf/model/``) of this task.

Source: Wang et al. 2020, "Axial-DeepLab", sec. 4.1.
"""

from typing import Any

import torch
from torch import Tensor

from axialseg.layers.full_precision import widened
from axialseg.losses.losses import Losses
from axialseg.tasks.training_task import TrainingTask


class ClassificationTask(TrainingTask):
    """One class for each image; the arguments are `TrainingTask`'s.

    The net maps images ``[B, 3, H, W]`` in 0..255 to logits ``[B, C]``.
    """

    def training_losses(self, batch: dict[str, Any]) -> Losses:
        """The term ``cross_entropy``."""
        logits = self.net(batch["image"])
        with torch.autocast(self.device.type, enabled=False):
            return self.loss(widened(logits), batch)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Logits, float32 or wider, ``[B, C]`` of the batch."""
        return widened(self.net(self.ordered(batch)["image"]))
