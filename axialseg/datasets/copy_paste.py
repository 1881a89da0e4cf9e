"""Panoptic copy-paste: things and some of the stuff of one crop, put onto another.

Source: Yu et al. 2022, "k-means Mask Transformer" (arXiv 2207.04044), sec. 4.1, after Ghiasi et al.
2021, "Simple Copy-Paste" (arXiv 2012.07177); deeplab2 ``data/``. Difference: the second image is
drawn anew for each sample, not from a second shuffled order of the data set.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from axialseg.datasets.transforms import TrainingCrop
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments, runs

_PADDING = -1


def paste(
    crop: TrainingCrop, pasted: TrainingCrop, categories: Categories, rng: Generator
) -> TrainingCrop:
    """Puts pixels of a second crop of the same size over those of the first, without blending.

    All things are pasted, crowds of things too. Each class of stuff is pasted by chance. Void and
    padding are not pasted. A segment of one crop never becomes a part of a segment of the other.

    Args:
        crop: what is pasted onto; stays as it is.
        pasted: what is pasted; stays as it is.
        categories: the classes of both.
        rng: all chance comes from it.
    """
    labels = labels_in_order(pasted, categories)
    return paste_labels(crop, pasted, categories, labels[drawn(len(labels), rng)])


def labels_in_order(crop: TrainingCrop, categories: Categories) -> NDArray[np.int64]:
    """The labels that a crop shows, in the order in which they appear, row by row; int64 ``[L]``.

    A label is a segment's id. The segments of one class of stuff share the label of the first one,
    and so do the crowds of one class of things. Void is 0, padding -1.
    """
    ids = _seen(crop).ravel()
    labels = _label_table(crop.segments, categories)[ids[runs(ids[None])[0]]]
    unique, first = np.unique(labels, return_index=True)
    return unique[np.argsort(first)]


def drawn(count: int, rng: Generator) -> NDArray[np.bool_]:
    """So many labels of `count` as a number says that is uniform in 0 .. count; ``[count]``."""
    chosen = np.arange(count) < rng.integers(count + 1)
    rng.shuffle(chosen)
    return chosen


def paste_labels(
    crop: TrainingCrop,
    pasted: TrainingCrop,
    categories: Categories,
    chosen: NDArray[np.int64],
) -> TrainingCrop:
    """As `paste`, where `chosen` of `labels_in_order` says which stuff comes over."""
    segments = pasted.segments
    ids = _seen(pasted)
    comes = np.isin(_label_table(segments, categories), chosen)
    comes[1:-1] |= categories.is_thing_table[segments.class_ids]
    comes[0] = comes[-1] = False
    mask = comes[ids]
    joined = PanopticSegments(
        np.where(mask, ids + np.int32(len(crop.segments.class_ids)), crop.segments.id_map),
        np.concatenate((crop.segments.class_ids, segments.class_ids)),
        np.concatenate((crop.segments.is_crowd, segments.is_crowd)),
    )
    image = np.where(mask[..., None], pasted.image, crop.image)
    return TrainingCrop(image, crop.valid | mask, joined)


def _seen(crop: TrainingCrop) -> NDArray[np.int32]:
    """Ids of the segments, int32 ``[h, w]``, and `_PADDING`."""
    return np.where(crop.valid, crop.segments.id_map, np.int32(_PADDING))


def _label_table(segments: PanopticSegments, categories: Categories) -> NDArray[np.int64]:
    """Label of each id, int64 ``[S + 2]``: entry 0 is void, entry k segment k, the last padding."""
    labels = np.arange(len(segments.class_ids) + 2)
    labels[-1] = _PADDING
    is_instance = categories.is_thing_table[segments.class_ids] & ~segments.is_crowd
    others = np.flatnonzero(~is_instance)
    _, first, of_class = np.unique(
        segments.class_ids[others], return_index=True, return_inverse=True
    )
    labels[1 + others] = 1 + others[first[of_class]]
    return labels
