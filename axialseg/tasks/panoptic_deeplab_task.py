"""Axial-DeepLab = an axial backbone + the heads of Panoptic-DeepLab; this task trains all of them.

The models ``axial_deeplab_*`` and ``axial_swidernet_*`` are configurations (``conf/model/``) of
this task, and so are the ResNet baselines ``panoptic_deeplab_*``: they differ in the backbone.

Sources: Wang et al. 2020, "Axial-DeepLab", sec. 3.3; Cheng et al. 2020, "Panoptic-DeepLab", sec. 3.
"""

from typing import Any

import torch
from torch import Tensor

from axialseg.tasks.panoptic_task import PanopticTask, in_float32


class PanopticDeepLabTask(PanopticTask):
    """Semantic classes, instance centres, offsets to them; the arguments are `PanopticTask`'s."""

    def training_losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The terms ``semantic``, ``center`` and ``offset``."""
        outputs = self.net(batch["image"], batch["valid"])
        # Sums over all pixels: half precision would lose or overflow them.
        with torch.autocast(self.device.type, enabled=False):
            return self.loss(in_float32(outputs), batch)
