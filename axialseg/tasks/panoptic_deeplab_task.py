"""Trains Axial-DeepLab: an axial backbone with the heads of Panoptic-DeepLab.

The models ``axial_deeplab_*`` and ``axial_swidernet_*`` are configurations (``conf/model/``) of
this task. So are the ResNet baselines ``panoptic_deeplab_*``, which have another backbone.

Sources: Wang et al. 2020, "Axial-DeepLab", sec. 3.3; Cheng et al. 2020, "Panoptic-DeepLab", sec. 3.
"""

from axialseg.tasks.panoptic_task import PanopticTask


class PanopticDeepLabTask(PanopticTask):
    """Semantic classes, instance centres, offsets to them; the arguments are `PanopticTask`'s."""
