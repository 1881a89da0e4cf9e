"""Label images of semantic segmentation, alone or with images of instance numbers.

A label image has one value a pixel (grey or palette) or one colour a pixel (CVAT's masks). Where
there are instance images, each value but 0 is one object in its class; of a thing class, pixels of
the value 0 are a crowd. Without them, the things are the connected components of their class (8
neighbours), or with `split_things=false` one crowd.

Values of no class are void and counted.
"""

from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from axialseg.data_import.class_lists import ListedClass, categories_of_list
from axialseg.data_import.source import SUFFIXES, SourceImage, refuse_without_images
from axialseg.errors import UserError
from axialseg.formats.damaged_image import image_reading
from axialseg.formats.id_png import ids_from_rgb
from axialseg.formats.whole_file import read_file
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments

UNKNOWN = "pixels of a value that is not a class, made void"
NO_PHOTOGRAPH = "label images without a photograph, left out"
NO_LABELS = "photographs without a label image, left out"
NO_INSTANCES = "label images without an instance image, left out"
CROWDS = "regions of things that were not told apart, made crowds"
COMPONENTS = "things that are connected components of their class"
OTHER_SIZE = "instance images of another size than their label image, left out"
VOID_VALUE = 255


class _Pair(NamedTuple):
    labels: Path
    instances: Path | None


class LabelImages:
    """A folder of label images, one of photographs, and perhaps one of instance images."""

    def __init__(
        self,
        labels: Path,
        photographs: Path,
        instances: Path | None,
        classes: Sequence[ListedClass],
        things: Sequence[str] | None,
        split_things: bool,
    ) -> None:
        """Pairs the files by their names.

        Args:
            labels: folder of the label images.
            photographs: folder of the photographs.
            instances: folder of the instance images; None if there are none.
            classes: what the values or colours stand for.
            things: names of the things; None: as the list says, else those that have instance
                images show, else none.
            split_things: see the top.

        Raises:
            UserError: no image has both, or a name is unknown.
        """
        self.counts: Counter[str] = Counter()
        self.classes = list(classes)
        self.split_things = split_things
        self.images: list[SourceImage] = []
        self._pairs: list[_Pair] = []
        self._pair(labels, photographs, instances)
        refuse_without_images(self.images, labels, "")
        self.categories = categories_of_list(self.classes, self._things(things))

    def segments(self, index: int, size: tuple[int, int]) -> PanopticSegments | None:
        """The segments of image `index`; None if label and instance image differ in size."""
        pair = self._pairs[index]
        places = self._places(pair.labels)
        if places.shape != size:
            return None
        ids = np.array([self.categories.by_official_id[c.value + 1].class_id for c in self.classes])
        class_map = np.where(places < 0, self.categories.ignore_class, ids[places])
        self.counts[UNKNOWN] += int((places == UNKNOWN_PLACE).sum())
        if pair.instances is not None:
            numbers = _instance_values(pair.instances)
            if numbers.shape != size:
                self.counts[OTHER_SIZE] += 1
                return None
        else:
            numbers = self._components(class_map)
        return _segments(class_map, numbers, self.categories, self.counts)

    def _pair(self, labels: Path, photographs: Path, instances: Path | None) -> None:
        by_stem = _by_stem(photographs)
        numbered = {} if instances is None else _by_stem(instances)
        used = set()
        for stem, path in _by_stem(labels).items():
            own = _matching(stem, by_stem)
            if own is None:
                self.counts[NO_PHOTOGRAPH] += 1
                continue
            used.add(own)
            number = None
            if instances is not None:
                other = stem if stem in numbered else _matching(own, numbered, is_prefix=True)
                if other is None:
                    self.counts[NO_INSTANCES] += 1
                    continue
                number = numbered[other]
            file = by_stem[own]
            with image_reading(path, "the label images"), Image.open(path) as image:
                size = (image.height, image.width)
            name = file.relative_to(photographs).as_posix()
            self.images.append(SourceImage(name, file, None, size, None))
            self._pairs.append(_Pair(path, number))
        self.counts[NO_LABELS] += len(by_stem.keys() - used)

    def _things(self, things: Sequence[str] | None) -> set[str]:
        names = [listed.name for listed in self.classes]
        if things is not None:
            for name in things:
                if name not in names:
                    raise UserError(
                        f"things=[...] names {name}, but the classes are {', '.join(names)}."
                    )
            return set(things)
        if any(listed.is_thing is not None for listed in self.classes):
            return {listed.name for listed in self.classes if listed.is_thing}
        found: set[str] = set()
        for pair in self._pairs:
            if pair.instances is not None:
                places, numbers = self._places(pair.labels), _instance_values(pair.instances)
                if places.shape == numbers.shape:
                    seen = np.unique(places[(numbers > 0) & (places >= 0)]).tolist()
                    found |= {names[place] for place in seen}
        return found

    def _places(self, path: Path) -> NDArray[np.int64]:
        """Place in the class list of each pixel; -1 is void, -2 no class."""
        with image_reading(path, "the label images"):
            content = read_file(path)
            with Image.open(BytesIO(content)) as image:
                return _places(image, self.classes, path)

    def _components(self, class_map: NDArray[np.int64]) -> NDArray[np.int32]:
        """Number of its component at each pixel of a thing, 0 elsewhere and where not wanted."""
        numbers = np.zeros(class_map.shape, np.int32)
        if not self.split_things:
            return numbers
        for class_id in self.categories.thing_ids:
            mask = class_map == class_id
            if mask.any():
                components, count = ndimage.label(mask, np.ones((3, 3)))
                numbers[mask] = components[mask]
                self.counts[COMPONENTS] += count
        return numbers


VOID_PLACE, UNKNOWN_PLACE = -1, -2


def _places(image: Image.Image, classes: Sequence[ListedClass], path: Path) -> NDArray[np.int64]:
    values = np.array([listed.value for listed in classes])
    has_colors = all(listed.color is not None for listed in classes)
    readings = []
    if image.mode in ("L", "P") or image.mode.startswith("I"):
        readings.append(_looked_up(np.asarray(image).astype(np.int64), values, VOID_VALUE))
    if image.mode in ("RGB", "RGBA", "P") and has_colors:
        rgb = [listed.color for listed in classes if listed.color is not None]
        colors = ids_from_rgb(np.array(rgb, np.uint8))
        pixels = ids_from_rgb(np.asarray(image.convert("RGB"))).astype(np.int64)
        readings.append(_looked_up(pixels, colors.astype(np.int64), None))
    if image.mode in ("RGB", "RGBA") and not has_colors:
        channels = np.asarray(image.convert("RGB")).astype(np.int64)
        if (channels == channels[..., :1]).all():  # a grey image, stored with three channels
            readings.append(_looked_up(channels[..., 0], values, VOID_VALUE))
    if not readings:
        raise UserError(
            f"{path} has colours ({image.mode}), and the class list has none; give a list with the "
            "colour of each class as classes=<file>."
        )
    return min(readings, key=lambda places: int((places == UNKNOWN_PLACE).sum()))


def _looked_up(
    pixels: NDArray[np.int64], known: NDArray[np.int64], void: int | None
) -> NDArray[np.int64]:
    """Place of each pixel's value among the known ones."""
    order = np.argsort(known)
    place = np.searchsorted(known, pixels, sorter=order).clip(max=len(known) - 1)
    places = order[place]
    places = np.where(known[places] == pixels, places, UNKNOWN_PLACE)
    if void is not None:
        places[(places == UNKNOWN_PLACE) & (pixels == void)] = VOID_PLACE
    return np.asarray(places, np.int64)


def _instance_values(path: Path) -> NDArray[np.int32]:
    """Number of the instance at each pixel; colours count as ids."""
    with image_reading(path, "the instance images"):
        content = read_file(path)
        with Image.open(BytesIO(content)) as image:
            if image.mode in ("L", "P", "1") or image.mode.startswith("I"):
                return np.asarray(image).astype(np.int32)
            return ids_from_rgb(np.asarray(image.convert("RGB")))


def _segments(
    class_map: NDArray[np.int64],
    numbers: NDArray[np.int32],
    categories: Categories,
    counts: Counter[str],
) -> PanopticSegments:
    """Each stuff class is one segment, each (thing class, number) one, number 0 a crowd."""
    is_thing = categories.is_thing_table[class_map]
    keys = class_map * 2**32 + np.where(is_thing, numbers, 0)
    values, inverse = np.unique(keys, return_inverse=True)
    class_ids = values // 2**32
    is_kept = class_ids != categories.ignore_class
    rows = np.where(is_kept, np.cumsum(is_kept), 0).astype(np.int32)
    is_crowd = categories.is_thing_table[class_ids] & (values % 2**32 == 0)
    counts[CROWDS] += int((is_crowd & is_kept).sum())
    id_map = rows[inverse].reshape(class_map.shape)
    return PanopticSegments(id_map, class_ids[is_kept], is_crowd[is_kept])


def _by_stem(folder: Path) -> dict[str, Path]:
    """Path below a folder without its suffix -> the image."""
    files = sorted(folder.rglob("*"))
    found = {}
    for path in files:
        if path.suffix.lower() in SUFFIXES and path.is_file():
            found[path.relative_to(folder).with_suffix("").as_posix()] = path
    return found


def _matching(stem: str, others: dict[str, Path], is_prefix: bool = False) -> str | None:
    """The name of the same image: the same stem, or one with an ending such as ``_labels``.

    Args:
        stem: of a file.
        others: those that it may belong to.
        is_prefix: the others have the ending; else the stem has it.
    """
    if stem in others:
        return stem
    longer = [other for other in others if _continues(other, stem)]
    shorter = [other for other in others if _continues(stem, other)]
    found = longer if is_prefix else shorter
    return max(found, key=len) if found and (not is_prefix or len(found) == 1) else None


def _continues(longer: str, shorter: str) -> bool:
    return longer.startswith(shorter) and longer[len(shorter) :][:1] in ("_", "-", ".")
