"""The losses with the authors' factors, as in conf/, and their terms as the goldens have them."""

from torch import Tensor

from axialseg.losses.losses import Losses
from axialseg.losses.max_deeplab_loss import MaxDeepLabLoss
from axialseg.losses.panoptic_deeplab_loss import PanopticDeepLabLoss

PANOPTIC_DEEPLAB = {
    "semantic_weight": 1.0,
    "semantic_top_k": 0.2,
    "center_weight": 200.0,
    "offset_weight": 0.01,
}
MAX_DEEPLAB = {
    "pq_weight": 3.0,
    "mask_id_weight": 0.3,
    "instance_discrimination_weight": 1.0,
    "semantic_weight": 1.0,
    "matched_share": 0.75,
    "temperature": 0.3,
}


def weighted_terms(loss: PanopticDeepLabLoss | MaxDeepLabLoss, losses: Losses) -> dict[str, Tensor]:
    """Each term with its factor, as the goldens have them."""
    return {name: loss.weights[name] * term for name, term in losses.terms.items()}
