"""The text table and the record of PQ and mIoU."""

import json

from axialseg.metrics.panoptic_quality import ClassQuality, GroupQuality, PanopticQualityResult
from axialseg.metrics.panoptic_report import metrics_record, metrics_table
from axialseg.metrics.semantic_iou import ClassIoU, SemanticIoUResult

QUALITY = PanopticQualityResult(
    all=GroupQuality(1 / 3, 0.75, 0.5, 2),
    things=GroupQuality(0.25, 0.8, 0.4, 1),
    stuff=GroupQuality(0.5, 0.7, 0.6, 1),
    per_class=(
        ClassQuality(1, "cat", True, 0.9, 1, 2, 0, 0.25, 0.8, 0.4),
        ClassQuality(2, "unicorn", True, 0.0, 0, 0, 0, 0.0, 0.0, 0.0),
        ClassQuality(3, "grass", False, 0.8, 1, 0, 1, 0.5, 0.7, 0.6),
    ),
)
SEMANTIC = SemanticIoUResult(
    0.625,
    (
        ClassIoU(1, "cat", 0.5, True),
        ClassIoU(2, "unicorn", 0.0, False),
        ClassIoU(3, "grass", 0.75, True),
    ),
)


def test_record_is_in_per_cent_and_unrounded() -> None:
    record = metrics_record(QUALITY, SEMANTIC)
    assert json.loads(json.dumps(record)) == record
    headline = {name: record[name] for name in ("PQ", "PQ_things", "PQ_stuff", "SQ", "RQ", "mIoU")}
    assert headline == {
        "PQ": 100 * (1 / 3),
        "PQ_things": 25.0,
        "PQ_stuff": 50.0,
        "SQ": 75.0,
        "RQ": 50.0,
        "mIoU": 62.5,
    }
    assert record["SQ_things"] == 80.0
    assert record["RQ_stuff"] == 60.0
    assert record["classes"][0] == {
        "class_id": 1,
        "name": "cat",
        "is_thing": True,
        "PQ": 25.0,
        "SQ": 80.0,
        "RQ": 40.0,
        "TP": 1,
        "FP": 2,
        "FN": 0,
        "IoU": 50.0,
    }


def test_table_lines_up() -> None:
    lines = metrics_table(QUALITY, SEMANTIC).splitlines()
    assert lines == [
        "class    kind      PQ     SQ     RQ  TP  FP  FN    IoU",
        "cat      thing  25.00  80.00  40.00   1   2   0  50.00",
        "unicorn  thing      -      -      -   0   0   0      -",
        "grass    stuff  50.00  70.00  60.00   1   0   1  75.00",
        "",
        "           PQ     SQ     RQ  N",
        "All     33.33  75.00  50.00  2",
        "Things  25.00  80.00  40.00  1",
        "Stuff   50.00  70.00  60.00  1",
        "mIoU    62.50",
    ]
