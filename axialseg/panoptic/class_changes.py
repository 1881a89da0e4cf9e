"""Other classes than a data set's own, without touching its files: dropped, merged, things named.

The classes are renumbered as the data set numbers them (void first, or last), in their old order; a
merged class has the place, colour and official id of the first of its members.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from axialseg.errors import UserError
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments


class ClassChanges:
    """What a user wants of the classes, by their names.

    Args:
        drop: classes whose pixels become void.
        merge: name of a new class -> the classes that become it.
        things: all classes that are things, the others are stuff; an empty list makes the task a
            semantic one. None leaves them as the data set has them.
    """

    def __init__(
        self,
        drop: Sequence[str] | None = None,
        merge: Mapping[str, Sequence[str]] | None = None,
        things: Sequence[str] | None = None,
    ) -> None:
        self.drop = tuple(drop or ())
        self.merge = {name: tuple(members) for name, members in (merge or {}).items()}
        self.things = None if things is None else tuple(things)

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return bool(self.drop or self.merge) or self.things is not None

    def of(self, categories: Categories) -> "ChangedClasses":
        """The change of a data set's classes.

        Raises:
            UserError: a name is none of the data set's, or is used twice; a merged class has both
                things and stuff; nothing is left.
        """
        new_name = self._new_names(categories)
        members: dict[str, list[int]] = {}
        for category in categories.classes:
            if category.name not in self.drop:
                name = new_name.get(category.name, category.name)
                members.setdefault(name, []).append(category.class_id)
        if not members:
            raise UserError("data.classes.drop names all classes; leave one of them.")
        _check_names(self.things or (), members, "things")
        first = 0 if categories.ignore_class >= categories.semantic_channels else 1
        classes, joined = [], []
        table = np.full(len(categories.is_thing_table), categories.ignore_class, np.int64)
        for class_id, (name, old) in enumerate(members.items(), start=first):
            kinds = {categories.by_class_id[number].is_thing for number in old}
            is_thing = self._is_thing(name, kinds)
            category = categories.by_class_id[old[0]]
            classes.append(replace(category, class_id=class_id, name=name, is_thing=is_thing))
            table[old] = class_id
            if not is_thing and (len(old) > 1 or True in kinds):
                joined.append(class_id)
        changed = Categories(tuple(classes), categories.ignore_class)
        return ChangedClasses(changed, table, frozenset(joined))

    def _new_names(self, categories: Categories) -> dict[str, str]:
        """Old name -> name of the class that it is merged into."""
        names = [category.name for category in categories.classes]
        _check_names(self.drop, names, "drop")
        new_name: dict[str, str] = {}
        for name, members in self.merge.items():
            _check_names(members, names, f"merge.{name}")
            for member in members:
                if member in self.drop or member in new_name:
                    raise UserError(
                        f"data.classes.merge.{name} names {member}, which is dropped or merged "
                        "already; name each class once."
                    )
                new_name[member] = name
        for name in self.merge:
            if name in names and name not in new_name:
                raise UserError(
                    f"data.classes.merge.{name} has the name of another class; choose another, or "
                    f"list {name} among its members."
                )
        return new_name

    def _is_thing(self, name: str, kinds: set[bool]) -> bool:
        if self.things is not None:
            return name in self.things
        if len(kinds) > 1:
            raise UserError(
                f"data.classes.merge.{name} has things and stuff; say what it is by listing all "
                "things in data.classes.things=[...]."
            )
        return kinds.pop()


class ChangedRows(NamedTuple):
    """What becomes of the segments of one image; S before, R after.

    Attributes:
        numbers: int32 ``[S + 1]``, new number of void and of each old segment; 0 is void.
        class_ids: int64 ``[R]``.
        is_crowd: bool ``[R]``.
    """

    numbers: NDArray[np.int32]
    class_ids: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]


class ChangedClasses(NamedTuple):
    """New classes, and how segments of the old ones become theirs.

    Attributes:
        categories: the new classes.
        table: int64, new class id of each old one; the ignore class where it is dropped.
        joined: new stuff classes that come from things, or from several classes: all their segments
            in an image are one, and none is a crowd.
    """

    categories: Categories
    table: NDArray[np.int64]
    joined: frozenset[int]

    def rows(self, class_ids: NDArray[np.int64], is_crowd: NDArray[np.bool_]) -> ChangedRows:
        """The new segments of an image with these, ``[S]``."""
        numbers = np.zeros(len(class_ids) + 1, np.int32)
        new: list[tuple[int, bool]] = []
        place: dict[int, int] = {}
        for row, old in enumerate(class_ids.tolist(), start=1):
            class_id = int(self.table[old])
            if class_id == self.categories.ignore_class:
                continue
            is_joined = class_id in self.joined
            if not is_joined or class_id not in place:
                new.append((class_id, bool(is_crowd[row - 1]) and not is_joined))
                place[class_id] = len(new)
            numbers[row] = place[class_id]
        return ChangedRows(
            numbers, np.array([c for c, _ in new], np.int64), np.array([f for _, f in new], bool)
        )

    def segments(self, segments: PanopticSegments) -> PanopticSegments:
        """A segmentation in the new classes."""
        rows = self.rows(segments.class_ids, segments.is_crowd)
        return PanopticSegments(rows.numbers[segments.id_map], rows.class_ids, rows.is_crowd)

    def presence(self, presence: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which new classes images hold, bool ``[N, C']``, of the old ones ``[N, C]``."""
        changed = np.zeros((len(presence), self.categories.semantic_channels), bool)
        for old, new in enumerate(self.table[: presence.shape[1]].tolist()):
            if new != self.categories.ignore_class:
                changed[:, new] |= presence[:, old]
        return changed


def _check_names(wanted: Iterable[str], known: Iterable[str], key: str) -> None:
    known = list(dict.fromkeys(known))
    for name in wanted:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known[:20])}"
            raise UserError(f"data.classes.{key} names {name}, which is not a class; {hint}")
