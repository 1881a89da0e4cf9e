"""Panoptic quality and mIoU of a data set as text, and as the record that `metrics.json` keeps."""

from typing import Any

from axialseg.metrics.panoptic_quality import PanopticQualityResult
from axialseg.metrics.semantic_iou import SemanticIoUResult


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
    """Two text tables, in per cent: All, Things and Stuff with mIoU; and each class.

    A class that neither occurs nor is predicted has dashes, and counts in no average.
    """
    groups = (("All", quality.all), ("Things", quality.things), ("Stuff", quality.stuff))
    lines = [f"{'':8}{'PQ':>7}{'SQ':>7}{'RQ':>7}{'N':>5}"]
    for name, group in groups:
        percents = "".join(f"{100 * value:7.2f}" for value in (group.pq, group.sq, group.rq))
        lines.append(f"{name:8}{percents}{group.n:>5}")
    lines += [f"{'mIoU':8}{100 * semantic.miou:7.2f}", ""]

    width = max(len("class"), *(len(row.name) for row in quality.per_class))
    heads = "".join(f"{head:>7}" for head in ("PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU"))
    lines.append(f"{'class':{width}}  {'kind':5}{heads}")
    for row, overlap in zip(quality.per_class, semantic.per_class, strict=True):
        seen = row.tp + row.fp + row.fn > 0
        percents = "".join(_percent(value, seen) for value in (row.pq, row.sq, row.rq))
        counts = f"{row.tp:>7}{row.fp:>7}{row.fn:>7}"
        kind = "thing" if row.is_thing else "stuff"
        iou = _percent(overlap.iou, overlap.occurs)
        lines.append(f"{row.name:{width}}  {kind:5}{percents}{counts}{iou}")
    return "\n".join(lines)


def _percent(fraction: float, is_known: bool) -> str:
    return f"{100 * fraction:7.2f}" if is_known else f"{'-':>7}"
