"""Mapillary Vistas' class list, and its panoptic JSON files.

`config_v1.2.json` and `config_v2.0.json` list the labels: `name` (object--vehicle--car),
`readable` (Car), `color`, `instances` (is it a thing), `evaluate` (is it scored). Label n of that
list has the id n + 1 in the panoptic JSON files, whose format is COCO's; 0 is void there.

Source: the data set's own demo.py and README. Not checked on the files of a download, which needs
a registration: that version 2.0 numbers its categories in the same way as 1.2. The names are
compared, so that another numbering is refused and not misread.
"""

from pathlib import Path
from typing import Any, NamedTuple

from axialseg.errors import UserError
from axialseg.formats.coco_annotations import CocoPanopticAnnotations, annotations_of
from axialseg.formats.json_file import read_json
from axialseg.formats.panoptic_table import PanopticTable
from axialseg.formats.strict_values import StrictValues
from axialseg.panoptic.categories import Categories, contiguous_categories


class MapillaryLabels(NamedTuple):
    """The labels of a version of the data set.

    Attributes:
        path: the file that lists them, for messages.
        categories: the scored ones, with their readable names; official ids as in the panoptic
            JSON files, class ids contiguous from 1, void is 0.
        void_categories: official ids of those that are not scored (Unlabeled, ...).
        names: (name, readable name) of all, in the file's order.
    """

    path: Path
    categories: Categories
    void_categories: frozenset[int]
    names: list[tuple[str, str]]


def read_labels(path: str | Path) -> MapillaryLabels:
    """Reads a `config_v*.json`.

    Raises:
        UserError: the file is missing, no JSON, or lists no labels.
    """
    path = Path(path)
    content = read_json(path)
    values = StrictValues(path)
    try:
        rows = list(enumerate(content["labels"], start=1))
        scored = [
            (
                number,
                values.text(row["readable"], "readable", f"label {number}"),
                values.flag(row["instances"], "instances", f"label {number}"),
                _color(row["color"]),
            )
            for number, row in rows
            if values.flag(row.get("evaluate", True), "evaluate", f"label {number}")
        ]
        names = [(row["name"], row["readable"]) for _, row in rows]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _no_config(path, f"{type(error).__name__}: {error}") from error
    if not scored:
        raise _no_config(path, "it lists no label")
    void = frozenset(range(1, len(rows) + 1)) - {number for number, *_ in scored}
    return MapillaryLabels(path, contiguous_categories(scored), void, names)


def mapillary_annotations(
    table: PanopticTable, labels: MapillaryLabels, skip_invalid: bool = False
) -> CocoPanopticAnnotations:
    """What a `panoptic_20*.json` says; segments of labels that are not scored are void.

    Raises:
        UserError: the file names an unknown category, or its categories are not those of the
            labels.
    """
    check_category_names(table, labels)
    return annotations_of(table, labels.categories, labels.void_categories, skip_invalid)


def check_category_names(table: PanopticTable, labels: MapillaryLabels) -> None:
    """Raises a UserError if a category of a panoptic JSON file is not the label of its number."""
    numbered: dict[Any, tuple[str, ...]] = dict(enumerate(labels.names, start=1))
    for row in table.categories or []:
        # Version 1.2 writes the long name into `supercategory`; `name` is the readable one.
        names = {row.get("name"), row.get("supercategory")}
        if names.isdisjoint(numbered.get(row.get("id"), ())):
            raise UserError(
                f"{table.path}: category {row.get('id')} is named {row.get('name')}, which is not "
                f"label {row.get('id')} of {labels.path}; take both from the same download."
            )


def _color(value: list[int]) -> tuple[int, int, int]:
    red, green, blue = value
    return int(red), int(green), int(blue)


def _no_config(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is not a Mapillary Vistas class list ({reason}); unpack the config_v*.json of the "
        "download there."
    )
