"""How sure a network is of each segment, as deeplab2 scores instances for mask AP.

Source: deeplab2 ``utils/panoptic_instances.py`` (``combined_instance_scores``): the mean
probability of the segment's class over its pixels, times the mean score of its instance.
"""

import numpy as np
from numpy.typing import NDArray

from axialseg.panoptic.panoptic_map import CLASS_DIVISOR, runs


def segment_scores(
    panoptic: NDArray[np.integer],
    class_score: NDArray[np.floating],
    instance_score: NDArray[np.floating],
    ignore_class: int,
) -> NDArray[np.float64]:
    """Scores ``[P]`` of the segments of a panoptic map, ascending in their values, without void.

    Args:
        panoptic: ``[H, W]``, class * CLASS_DIVISOR + instance.
        class_score: ``[H, W]``, probability of each pixel's class.
        instance_score: ``[H, W]``, score of each pixel's instance.
        ignore_class: class of void.
    """
    starts, lengths = runs(panoptic)
    values, segment = np.unique(panoptic.ravel()[starts], return_inverse=True)
    area = np.bincount(segment, lengths)
    means = [
        np.bincount(segment, np.add.reduceat(score.ravel().astype(np.float64), starts)) / area
        for score in (class_score, instance_score)
    ]
    return (means[0] * means[1])[values // CLASS_DIVISOR != ignore_class]
