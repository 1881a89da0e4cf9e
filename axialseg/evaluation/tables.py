"""The scores of a data set as text, and as the record that `metrics.json` keeps.

What does not exist (PQ of things where there are none, AP without scores) is a dash in the text
and None in the record; it never is a zero.
"""

import math
from collections.abc import Sequence
from typing import Any

from axialseg.evaluation.summary import Summary
from axialseg.metrics.panoptic_quality import SIZES, GroupQuality, PanopticQualityResult
from axialseg.visualization.text_table import text_table

AP_PARTS = ("ap", "ap50", "ap75", "small", "medium", "large")


def metrics_record(summary: Summary) -> dict[str, Any]:
    """All numbers by name, in per cent and unrounded; counts as they are.

    Returns:
        The headline numbers at the top level: ``PQ``, ``SQ``, ``RQ``, alone and with ``_things``,
        ``_stuff``, ``_small``, ``_medium``, ``_large``; ``mIoU``; where there are scores ``AP``,
        ``AP50``, ``AP75``, ``AP_small``, ``AP_medium``, ``AP_large``; where they were counted
        ``boundary_PQ`` with things and stuff, and ``boundary_IoU``; ``removed_segments`` by the
        name of the limit. Then ``classes``, one record for each class in the order of class ids.
    """
    record: dict[str, Any] = dict(_groups(summary.quality))
    for size, group in zip(SIZES, summary.quality.by_size, strict=True):
        record |= {f"{name.upper()}_{size}": _share(group, name) for name in ("pq", "sq", "rq")}
    occurs = any(row.occurs for row in summary.semantic.per_class)
    record["mIoU"] = _percent(summary.semantic.miou) if occurs else None
    if summary.precision is not None:
        for part in AP_PARTS:
            name = part.upper() if part.startswith("ap") else f"AP_{part}"
            record[name] = _percent(getattr(summary.precision, part))
    if summary.boundary is not None and summary.boundary_iou is not None:
        record |= {f"boundary_{name}": v for name, v in _groups(summary.boundary).items()}
        record["boundary_IoU"] = _percent(summary.boundary_iou)
    record["removed_segments"] = {
        limit: sum(counts.values()) for limit, counts in summary.removed.items()
    }
    return record | {"classes": _class_records(summary)}


def metrics_table(summary: Summary) -> str:
    """Text tables, in per cent: each class; then groups, sizes, mIoU and AP, and the limits.

    The summary comes last, so that hundreds of classes do not push it off the screen. A class that
    neither occurs nor is predicted has dashes, and counts in no average.
    """
    quality = summary.quality
    record = metrics_record(summary)
    groups = [("All", quality.all), ("Things", quality.things), ("Stuff", quality.stuff)]
    groups += zip(("Small", "Medium", "Large"), quality.by_size, strict=True)
    means = _group_lines("", groups)
    means.append(("mIoU", _cell(record["mIoU"]), "", "", ""))
    blocks = [text_table(_class_lines(record["classes"]), left=2), text_table(means)]
    if summary.precision is not None:
        heads = ("", "AP", "AP50", "AP75", "small", "medium", "large")
        parts = (_cell(_percent(getattr(summary.precision, part))) for part in AP_PARTS)
        blocks.append(text_table([heads, ("Masks", *parts)]))
    if summary.boundary is not None:
        names = ("all", "things", "stuff")
        groups = [(name.capitalize(), getattr(summary.boundary, name)) for name in names]
        lines = _group_lines("Boundary", groups)
        lines.append(("IoU", _cell(record["boundary_IoU"]), "", "", ""))
        blocks.append(text_table(lines))
    totals = sorted(record["removed_segments"].items())
    removed = [f"{count} by {name}" for name, count in totals if count]
    if removed:
        blocks.append(f"Segments that limits have removed: {', '.join(removed)}")
    return "\n\n".join(blocks)


def warnings(summary: Summary) -> list[str]:
    """Sentences on what makes the scores smaller than the model could be."""
    if not summary.crowded:
        return []
    return [
        f"{summary.crowded} of {summary.images} images hold more things than the model can predict "
        "for one image; the others of their things are missed."
    ]


def _class_lines(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    names = ["PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU", *(["AP"] if "AP" in rows[0] else [])]
    lines: list[tuple[str, ...]] = [("class", "kind", *names)]
    for row in rows:
        kind = "thing" if row["is_thing"] else "stuff"
        lines.append((row["name"], kind, *(_cell(row[name]) for name in names)))
    return lines


def _class_records(summary: Summary) -> list[dict[str, Any]]:
    records = []
    things = 0
    for row, overlap in zip(summary.quality.per_class, summary.semantic.per_class, strict=True):
        seen = row.tp + row.fp + row.fn > 0
        record: dict[str, Any] = {
            "class_id": row.class_id,
            "name": row.name,
            "is_thing": row.is_thing,
            "PQ": _percent(row.pq) if seen else None,
            "SQ": _percent(row.sq) if seen else None,
            "RQ": _percent(row.rq) if seen else None,
            "TP": row.tp,
            "FP": row.fp,
            "FN": row.fn,
            "IoU": _percent(overlap.iou) if overlap.occurs else None,
        }
        if summary.precision is not None:
            values = summary.precision.per_class
            record["AP"] = _percent(values[things]) if row.is_thing else None
        things += row.is_thing
        records.append(record)
    return records


def _groups(quality: PanopticQualityResult) -> dict[str, float | None]:
    groups = {"": quality.all, "_things": quality.things, "_stuff": quality.stuff}
    return {
        f"{name}{suffix}": _share(group, name.lower())
        for name in ("PQ", "SQ", "RQ")
        for suffix, group in groups.items()
    }


def _share(group: GroupQuality, name: str) -> float | None:
    """A quality in per cent; None if no class of the group occurs."""
    return _percent(getattr(group, name)) if group.n else None


def _percent(fraction: float) -> float | None:
    return None if math.isnan(fraction) else 100.0 * fraction


def _group_lines(title: str, groups: Sequence[tuple[str, GroupQuality]]) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [(title, "PQ", "SQ", "RQ", "N")]
    for name, group in groups:
        cells = (_cell(_share(group, quality)) for quality in ("pq", "sq", "rq"))
        lines.append((name, *cells, str(group.n)))
    return lines


def _cell(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2f}"
