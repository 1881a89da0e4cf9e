"""Trains MaX-DeepLab: an axial backbone, a memory path, and heads for masks and classes.

The models ``max_deeplab_s``, ``max_deeplab_l`` and ``max_deeplab_tiny`` are configurations
(``conf/model/``) of it. (``max_deeplab_*_backbone`` are Panoptic-DeepLab on the same backbones.)

Source: Wang et al. 2021, "MaX-DeepLab" (arXiv 2012.00759), sec. 3.
"""

from axialseg.tasks.panoptic_task import PanopticTask


class MaxDeepLabTask(PanopticTask):
    """Masks with classes, and auxiliary terms; the arguments are `PanopticTask`'s."""
