"""Panoptic quality and mIoU of a data set as text, and as the record that `metrics.json` keeps."""

from typing import Any

from axialseg.metrics.panoptic_quality import PanopticQualityResult
from axialseg.metrics.semantic_iou import SemanticIoUResult
from axialseg.visualization.text_table import text_table


def metrics_record(quality: PanopticQualityResult, semantic: SemanticIoUResult) -> dict[str, Any]:
    """All numbers by name, in per cent and unrounded; counts as they are.

    Returns:
        The headline numbers at the top level: ``PQ``, ``PQ_things``, ``PQ_stuff``, ``SQ``, ``RQ``,
        ``mIoU``, and SQ and RQ of things and stuff; then ``classes``, one record for each class in
        the order of class ids.
    """
    groups = {"": quality.all, "_things": quality.things, "_stuff": quality.stuff}
    headline = {
        f"{name}{suffix}": 100.0 * getattr(group, name.lower())
        for name in ("PQ", "SQ", "RQ")
        for suffix, group in groups.items()
    }
    classes = [
        {
            "class_id": row.class_id,
            "name": row.name,
            "is_thing": row.is_thing,
            "PQ": 100.0 * row.pq,
            "SQ": 100.0 * row.sq,
            "RQ": 100.0 * row.rq,
            "TP": row.tp,
            "FP": row.fp,
            "FN": row.fn,
            "IoU": 100.0 * overlap.iou,
        }
        for row, overlap in zip(quality.per_class, semantic.per_class, strict=True)
    ]
    return {**headline, "mIoU": 100.0 * semantic.miou, "classes": classes}


def metrics_table(quality: PanopticQualityResult, semantic: SemanticIoUResult) -> str:
    """Two text tables, in per cent: each class; then All, Things and Stuff with mIoU.

    The summary comes last, so that hundreds of classes do not push it off the screen.
    A class that neither occurs nor is predicted has dashes, and counts in no average.
    """
    groups = (("All", quality.all), ("Things", quality.things), ("Stuff", quality.stuff))
    means: list[tuple[str, ...]] = [("", "PQ", "SQ", "RQ", "N")]
    for name, group in groups:
        means.append((name, *_percents(group.pq, group.sq, group.rq), str(group.n)))
    means.append(("mIoU", *_percents(semantic.miou), "", "", ""))

    heads = ("class", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU")
    classes: list[tuple[str, ...]] = [heads]
    for row, overlap in zip(quality.per_class, semantic.per_class, strict=True):
        counts = (row.tp, row.fp, row.fn)
        percents = _percents(row.pq, row.sq, row.rq) if any(counts) else ["-"] * 3
        iou = _percents(overlap.iou) if overlap.occurs else ["-"]
        kind = "thing" if row.is_thing else "stuff"
        classes.append((row.name, kind, *percents, *map(str, counts), *iou))
    return f"{text_table(classes, left=2)}\n\n{text_table(means)}"


def _percents(*fractions: float) -> list[str]:
    return [f"{100 * fraction:.2f}" for fraction in fractions]
