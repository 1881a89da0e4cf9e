"""Accuracy of a data set as text, and as the record that `metrics.json` keeps."""

from collections.abc import Sequence
from typing import Any

from axialseg.metrics.top_accuracy import ClassAccuracy, TopAccuracyResult
from axialseg.visualization.text_table import text_table

SHOWN_CLASSES = 20
NAME_WIDTH = 40


def accuracy_record(
    accuracy: TopAccuracyResult, ids: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    """All numbers by name, in per cent and unrounded; counts as they are.

    Args:
        accuracy: of the data set.
        ids: of the classes in its files.
        names: of the classes.

    Returns:
        ``top1`` and ``top5``, then ``classes``, one record for each class in the order of labels;
        a class without images has None for its accuracies.
    """
    classes = [
        {
            "class_id": class_id,
            "name": name,
            "images": row.images,
            "top1": _percent(row.top1, row.images),
            "top5": _percent(row.top5, row.images),
        }
        for class_id, name, row in zip(ids, names, accuracy.per_class, strict=True)
    ]
    return {"top1": 100.0 * accuracy.top1, "top5": 100.0 * accuracy.top5, "classes": classes}


def accuracy_table(accuracy: TopAccuracyResult, names: Sequence[str]) -> str:
    """Text tables, in per cent: top-1 and top-5, and those of each class.

    Of more than 20 classes, those with the lowest top-1 are shown.
    """
    means = text_table(
        [("top-1", f"{100 * accuracy.top1:.2f}"), ("top-5", f"{100 * accuracy.top5:.2f}")]
    )
    lines = [means, ""]
    rows = [(name, row) for name, row in zip(names, accuracy.per_class, strict=True) if row.images]
    if len(rows) > SHOWN_CLASSES:
        lines.append(f"The {SHOWN_CLASSES} of {len(rows)} classes with the lowest top-1:")
        rows = sorted(rows, key=lambda row: row[1].top1 / row[1].images)[:SHOWN_CLASSES]
    cells = [("class", "top-1", "top-5", "images")]
    cells += [_cells(name, row) for name, row in rows]
    return "\n".join([*lines, text_table(cells)])


def _cells(name: str, row: ClassAccuracy) -> tuple[str, str, str, str]:
    shown = name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 3]}..."
    top1, top5 = (100 * hits / row.images for hits in (row.top1, row.top5))
    return shown, f"{top1:.2f}", f"{top5:.2f}", str(row.images)


def _percent(hits: int, images: int) -> float | None:
    return 100.0 * hits / images if images else None
