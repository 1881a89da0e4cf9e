"""The text table and the record of PQ and mIoU."""

import json
import math

from axialseg.evaluation.summary import Summary
from axialseg.evaluation.tables import metrics_record, metrics_table, warnings
from axialseg.metrics.average_precision import AveragePrecision
from axialseg.metrics.panoptic_quality import ClassQuality, GroupQuality, PanopticQualityResult
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
    by_size=(
        GroupQuality(0.0, 0.0, 0.0, 0),
        GroupQuality(0.125, 0.5, 0.25, 2),
        GroupQuality(0.5, 0.7, 0.6, 1),
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


PRECISION = AveragePrecision(0.3, 0.5, 0.25, math.nan, 0.2, 0.4, (0.3, math.nan))
SUMMARY = Summary(5, QUALITY, SEMANTIC)


def test_record_is_in_per_cent_and_unrounded() -> None:
    record = metrics_record(SUMMARY)
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
    assert record["PQ_medium"] == 12.5
    assert "AP" not in record
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


def test_what_does_not_exist_is_no_zero() -> None:
    record = metrics_record(SUMMARY._replace(precision=PRECISION))
    assert record["PQ_small"] is record["SQ_small"] is record["RQ_small"] is None
    assert record["AP_small"] is None
    assert (record["AP"], record["AP50"], record["AP75"]) == (30.0, 50.0, 25.0)
    unicorn = record["classes"][1]
    assert [unicorn[name] for name in ("PQ", "SQ", "RQ", "IoU", "AP")] == [None] * 5
    assert record["classes"][2]["AP"] is None
    nothing = GroupQuality(0.0, 0.0, 0.0, 0)
    quality = QUALITY._replace(things=nothing)
    semantic = SemanticIoUResult(0.0, (ClassIoU(1, "cat", 0.0, False),) * 3)
    summary = Summary(1, quality, semantic)
    assert metrics_record(summary)["PQ_things"] is None
    assert metrics_record(summary)["mIoU"] is None
    assert "Things      -      -      -  0" in metrics_table(summary)
    assert "mIoU        -" in metrics_table(summary)


def test_table_lines_up() -> None:
    lines = metrics_table(SUMMARY).splitlines()
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
        "Small       -      -      -  0",
        "Medium  12.50  50.00  25.00  2",
        "Large   50.00  70.00  60.00  1",
        "mIoU    62.50",
    ]


def test_all_that_can_be_counted_has_its_line() -> None:
    summary = SUMMARY._replace(
        precision=PRECISION,
        boundary=QUALITY,
        boundary_iou=0.4,
        removed={"stuff_area_limit": {3: 2, 4: 1}, "class_threshold": {1: 1}},
        crowded=2,
    )
    text = metrics_table(summary)
    assert "          AP   AP50   AP75  small  medium  large" in text
    assert "Masks  30.00  50.00  25.00      -   20.00  40.00" in text
    assert "Boundary     PQ     SQ     RQ  N\nAll       33.33" in text
    assert "IoU       40.00" in text
    assert "removed: 1 by class_threshold, 3 by stuff_area_limit" in text
    assert "2 of 5 images hold more things" in warnings(summary)[0]
    assert metrics_record(summary)["boundary_PQ_things"] == 25.0
    assert warnings(SUMMARY) == []
