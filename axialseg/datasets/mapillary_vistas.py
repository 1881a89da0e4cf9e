"""Mapillary Vistas 1.2 and 2.0, straight from the official files.

Layout::

    config_v2.0.json
    training/images/<key>.jpg
    training/v2.0/panoptic/<key>.png
    training/v2.0/panoptic/panoptic_2020.json

and for version 1.2 `config_v1.2.json`, `v1.2` and `panoptic_2018.json`. `instances`, `labels` and
`polygons` hold the same annotation in other forms and are not read. Classes, names, colours and
which are things are what the config says. `testing` has images alone.
"""

from pathlib import Path

from axialseg.datasets.annotation_index import indexed_table
from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.image_folder import ImageFolder
from axialseg.datasets.inspection.inspector import Inspector
from axialseg.datasets.paths import check_paths
from axialseg.errors import UserError
from axialseg.formats.coco_annotations import CocoPanopticAnnotations
from axialseg.formats.mapillary import (
    MapillaryLabels,
    check_category_names,
    mapillary_annotations,
    read_labels,
)
from axialseg.formats.panoptic_table import PanopticTable

PANOPTIC_FILES = {"v1.2": "panoptic_2018.json", "v2.0": "panoptic_2020.json"}
SPLITS = ("training", "validation", "testing")


def mapillary_vistas(
    root: str | Path,
    split: str,
    version: str = "v2.0",
    apply_exif: bool = False,
    skip_invalid: bool = False,
) -> "MapillaryVistas | ImageFolder":
    """Opens a split; samples of `testing` have no ground truth.

    Args:
        root: folder that holds the splits and the config.
        split: `training`, `validation` or `testing`.
        version: `v1.2` (65 scored classes) or `v2.0` (more, and finer ones).
        apply_exif: see `CocoPanoptic`.
        skip_invalid: see `CocoPanoptic`.

    Raises:
        UserError: an argument is none of these, or a file or folder is missing.
    """
    if split not in SPLITS:
        raise UserError(
            f"data=mapillary_vistas has no split '{split}'; use one of {', '.join(SPLITS)}."
        )
    if version not in PANOPTIC_FILES:
        raise UserError(
            f"Mapillary Vistas has no version '{version}'; give one of "
            f"{', '.join(PANOPTIC_FILES)} as data.train_dataset.version."
        )
    root = Path(root)
    config = f"config_{version}.json"
    check_paths(root, [f"{split}/images"], [config])
    labels = read_labels(root / config)
    if split == "testing":
        return ImageFolder(root / split / "images", labels.categories, apply_exif=apply_exif)
    return MapillaryVistas(root, split, version, labels, apply_exif, skip_invalid)


class MapillaryVistas(CocoPanoptic):
    """An annotated split; its files have COCO's format."""

    def __init__(
        self,
        root: str | Path,
        split: str,
        version: str,
        labels: MapillaryLabels,
        apply_exif: bool = False,
        skip_invalid: bool = False,
    ) -> None:
        """Finds the files.

        Args:
            root: folder that holds the splits.
            split: `training` or `validation`.
            version: key of `PANOPTIC_FILES`.
            labels: of that version.
            apply_exif: see `CocoPanoptic`.
            skip_invalid: see `CocoPanoptic`.

        Raises:
            UserError: one of the paths does not exist.
        """
        folder = f"{split}/{version}/panoptic"
        self.folder = Path(root) / folder
        super().__init__(
            root,
            image_folder=f"{split}/images",
            annotation_file=f"{folder}/{PANOPTIC_FILES[version]}",
            panoptic_folder=folder,
            categories=labels.categories,
            apply_exif=apply_exif,
            skip_invalid=skip_invalid,
        )
        self._labels = labels

    def _judge(self, table: PanopticTable) -> CocoPanopticAnnotations:
        return mapillary_annotations(table, self._labels, self.skip_invalid)

    def inspector(self) -> Inspector:
        """What checks all files, see `inspection.Inspector`.

        Raises:
            UserError: the JSON file cannot be read, or numbers its categories otherwise.
        """
        table = indexed_table(self.annotation_file)
        check_category_names(table, self._labels)
        categories, void = self._labels.categories, self._labels.void_categories
        return self._inspector_of(table, self.folder, categories, void)
