"""Where Cityscapes' files lie, and which belong together."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.inspection.inspector import Finding, list_files
from axialseg.datasets.paths import check_paths
from axialseg.errors import UserError

IMAGES = "leftImg8bit"
# Its annotations are not published; the files of that name show the car's bonnet alone.
TEST_SPLIT = "test"


class Item(NamedTuple):
    """One image: its split, city, and official id, such as `aachen_000000_000019`."""

    split: str
    city: str
    image_id: str


class CityscapesFiles:
    """The images of some splits, listed, with the paths of their annotations."""

    def __init__(self, root: str | Path, splits: Sequence[str], annotation_folder: str) -> None:
        """Lists the images.

        Args:
            root: folder that holds `leftImg8bit`.
            splits: `train`, `val`, `test`, `train_extra`; in order, images sorted by city and
                number.
            annotation_folder: `gtFine` or `gtCoarse`.

        Raises:
            UserError: a folder of images is missing or empty.
        """
        self.root = Path(root)
        self.annotation_folder = annotation_folder
        self.splits = tuple(splits)
        check_paths(self.root, [f"{IMAGES}/{split}" for split in self.splits], [])
        items = [item for split in self.splits for item in self._images_of(split)]
        # Not as objects, which loader processes would copy one by one.
        self._items: NDArray[np.str_] = np.array(items, np.str_)

    @property
    def labelled_splits(self) -> list[str]:
        """The splits that have annotations."""
        return [split for split in self.splits if split != TEST_SPLIT]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._items)

    def item(self, index: int) -> Item:
        """Image `index`."""
        return Item(*self._items[index].tolist())

    def items(self, split: str) -> Iterator[Item]:
        """The images of a split."""
        return (Item(*row) for row in self._items[self._items[:, 0] == split].tolist())

    def image(self, item: Item) -> Path:
        """Path of an image."""
        return self.root / IMAGES / item.split / item.city / f"{item.image_id}_{IMAGES}.png"

    def instance_ids(self, item: Item) -> Path:
        """Path of its instance ids."""
        folder = self.root / self.annotation_folder / item.split / item.city
        return folder / f"{item.image_id}_{self.annotation_folder}_instanceIds.png"

    def panoptic(self, split: str) -> Path:
        """Path of the official panoptic JSON file of a split; the PNGs' folder lies beside it."""
        return self.root / self.annotation_folder / f"cityscapes_panoptic_{split}.json"

    def pair_findings(self) -> Iterator[Finding]:
        """Images without instance ids, and the other way round."""
        suffix = f"_{self.annotation_folder}_instanceIds.png"
        for split in self.labelled_splits:
            images = set(self.items(split))
            annotated = set(_list_items(self.root / self.annotation_folder, split, suffix))
            for item in sorted(images - annotated):
                yield missing(
                    self.instance_ids(item),
                    f"unpack all of {self.annotation_folder}, or remove {self.image(item)}",
                )
            for item in sorted(annotated - images):
                yield missing(
                    self.image(item),
                    f"unpack all of {IMAGES}, or remove {self.instance_ids(item)}",
                )

    def _images_of(self, split: str) -> list[Item]:
        items = _list_items(self.root / IMAGES, split, f"_{IMAGES}.png")
        if not items:
            raise UserError(
                f"{self.root / IMAGES / split} holds no <city>/*_{IMAGES}.png; unpack "
                f"{IMAGES}_trainvaltest.zip (for train_extra {IMAGES}_trainextra.zip) there."
            )
        return items


def missing(path: Path, cure: str) -> Finding:
    """A file that must be there."""
    return Finding("missing file", True, str(path), f"{path} does not exist; {cure}.")


def _list_items(folder: Path, split: str, suffix: str) -> list[Item]:
    """Files ``<split>/<city>/<image id><suffix>``, sorted."""
    names = (name.rpartition("/") for name in list_files(folder / split, [suffix]))
    return sorted(Item(split, city, name.removesuffix(suffix)) for city, _, name in names if city)
