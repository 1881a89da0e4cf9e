"""The classes of a data set: names, colours, thing or stuff, and official ids."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMED = 5  # classes that a message names


@dataclass(frozen=True)
class Category:
    """One class.

    Attributes:
        class_id: contiguous id that labels, models and metrics use.
        name: human-readable name.
        is_thing: True for countable objects, False for stuff.
        official_id: id in the data set's own files.
        color: RGB, each 0..255.
    """

    class_id: int
    name: str
    is_thing: bool
    official_id: int
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Categories:
    """All classes of a data set, ascending in `class_id`, and the id of void.

    Attributes:
        classes: the classes that are scored.
        ignore_class: class id of void; it is no member of `classes`.
    """

    classes: tuple[Category, ...]
    ignore_class: int

    def __len__(self) -> int:
        """Number of scored classes (COCO 133, Cityscapes 19)."""
        return len(self.classes)

    @property
    def semantic_channels(self) -> int:
        """Channels of a semantic head: largest class id + 1 (COCO 134, Cityscapes 19)."""
        return self.classes[-1].class_id + 1

    @cached_property
    def class_ids(self) -> tuple[int, ...]:
        """Class ids, ascending."""
        return tuple(category.class_id for category in self.classes)

    @cached_property
    def thing_ids(self) -> tuple[int, ...]:
        """Class ids of the things, ascending."""
        return tuple(category.class_id for category in self.classes if category.is_thing)

    @cached_property
    def stuff_ids(self) -> tuple[int, ...]:
        """Class ids of the stuff, ascending."""
        return tuple(category.class_id for category in self.classes if not category.is_thing)

    @cached_property
    def by_class_id(self) -> dict[int, Category]:
        """Class id -> class."""
        return {category.class_id: category for category in self.classes}

    @cached_property
    def by_official_id(self) -> dict[int, Category]:
        """Official id -> class."""
        return {category.official_id: category for category in self.classes}

    @cached_property
    def is_thing_table(self) -> NDArray[np.bool_]:
        """True at thing ids; bool ``[max(class ids, ignore_class) + 1]``."""
        table = np.zeros(max(self.semantic_channels, self.ignore_class + 1), bool)
        table[list(self.thing_ids)] = True
        return table

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Categories":
        """What `dataclasses.asdict` has made plain, as checkpoints store it."""
        classes = tuple(Category(**{**c, "color": tuple(c["color"])}) for c in plain["classes"])
        return cls(classes, plain["ignore_class"])

    def positions(self, class_ids: NDArray[np.integer]) -> NDArray[np.intp]:
        """Positions ``[S]`` in `classes` of class ids ``[S]``.

        Raises:
            ValueError: an id is none of them.
        """
        known = np.asarray(self.class_ids)
        positions = np.searchsorted(known, class_ids)
        wrong = known[np.minimum(positions, len(known) - 1)] != class_ids
        if wrong.any():
            raise ValueError(f"class id {class_ids[wrong][0]} is none of the data set's classes")
        return positions


def contiguous_categories(
    official: Iterable[tuple[int, str, bool, tuple[int, int, int]]],
) -> Categories:
    """Numbers the classes 1..n in ascending order of their official ids; void is 0, as for COCO.

    Args:
        official: (official id, name, is thing, RGB colour) of each class, in any order.
    """
    ordered = sorted(official)
    return Categories(
        tuple(
            Category(number, name, is_thing, official_id, color)
            for number, (official_id, name, is_thing, color) in enumerate(ordered, start=1)
        ),
        ignore_class=0,
    )


def read_class_table(path: Path) -> Iterator[tuple[int, str, bool, tuple[int, int, int]]]:
    """Yields (official id, name, is thing, RGB colour) of each row of one of our class tables."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            color = int(row["red"]), int(row["green"]), int(row["blue"])
            yield int(row["official_id"]), row["name"], row["kind"] == "thing", color


def difference(training: Categories, validation: Categories) -> str | None:
    """What two lists of classes differ in: ids, names, things; None if in nothing of that.

    Order and colours may differ.
    """
    lists = [
        {(c.official_id, c.name, c.is_thing) for c in categories.classes}
        for categories in (training, validation)
    ]
    if lists[0] == lists[1]:
        return None
    names = ("training", "validation")
    parts = []
    for name, own, other in zip(names, lists, reversed(lists), strict=True):
        rows = [f"{n} {text} ({'thing' if thing else 'stuff'})" for n, text, thing in own - other]
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        if rows:
            parts.append(f"only the {name} file has {', '.join(sorted(rows)[:NAMED])}{more}")
    return "; ".join(parts)
