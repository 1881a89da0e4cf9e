"""MaX-DeepLab = an axial backbone + a memory path + mask and class heads; this task trains it.

The models ``max_deeplab_s``, ``max_deeplab_l`` and ``max_deeplab_tiny`` are configurations
(``conf/model/``) of it. (``max_deeplab_*_backbone`` are Panoptic-DeepLab on the same backbones.)

Source: Wang et al. 2021, "MaX-DeepLab" (arXiv 2012.00759), sec. 3.
"""

from typing import Any

import torch
from torch import Tensor

from axialseg.tasks.panoptic_task import PanopticTask, in_float32


class MaxDeepLabTask(PanopticTask):
    """Masks with classes, and auxiliary terms; the arguments are `PanopticTask`'s."""

    def training_losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The terms of `axialseg.losses.max_deeplab_loss.MaxDeepLabLoss`."""
        outputs = self.net(batch["image"], batch["valid"])
        # The matching and sums over all pixels: half precision would lose or overflow them.
        with torch.autocast(self.device.type, enabled=False):
            return self.loss(in_float32(outputs), batch)
