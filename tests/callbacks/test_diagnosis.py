"""Why it failed: the table of images and the sentences."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy_panoptic import CATEGORIES, ToyData, toy_task, toy_trainer

from axialseg.callbacks.diagnosis import Diagnosis, sentences
from axialseg.callbacks.panoptic_evaluation import PanopticEvaluation
from axialseg.evaluation.image_score import ImageScore
from axialseg.metrics.image_quality import ImageQuality, image_quality
from axialseg.metrics.segment_overlap import SegmentOverlap, segment_overlap
from axialseg.panoptic.panoptic_map import PanopticSegments


def test_table_has_the_worst_images_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "axialseg")
    trainer = toy_trainer(
        tmp_path, 2, callbacks=[PanopticEvaluation(), Diagnosis()], val_check_interval=1
    )
    trainer.fit(toy_task(2), datamodule=ToyData(val_images=5))
    with (tmp_path / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["PQ", "found", "missed", "false", "image"]
    assert len(rows) == 5
    assert [float(row["PQ"]) for row in rows] == sorted(float(row["PQ"]) for row in rows)
    # Said once, after the last validation.
    worst = [message for message in caplog.messages if message.startswith("Worst images by PQ")]
    assert len(worst) == 1
    assert Path(rows[0]["image"]).name in worst[0]


def scored(true: list[int], predicted: list[int], **removed: dict[int, int]) -> ImageScore:
    pixels = np.ones((len(true) + 1, len(predicted) + 1), np.int64)
    overlap = SegmentOverlap(pixels, np.array(true), np.zeros(len(true), bool), np.array(predicted))
    return ImageScore(0, "a", overlap, np.zeros((3, 0), np.int64), removed=removed)


def test_sentences_name_classes_and_limits() -> None:
    images = [
        scored([1, 2, 3], [2], stuff_area_limit={3: 12}, keep_centers={}),
        scored([2, 3], [2, 3], stuff_area_limit={3: 2}, keep_centers={2: 1000}),
        scored([2], [2], center_threshold={1: 1}),
    ]
    merge = SimpleNamespace(stuff_area_limit=2048)  # of mask transformers
    postprocess: Any = SimpleNamespace(merge=merge, keep_centers=20)
    assert sentences(images, CATEGORIES, postprocess) == [
        "Classes in the images that were never predicted: cat",
        "stuff_area_limit=2048 removed 14 segments of `grass`, and nothing of it is left in "
        "1 image with it",
        "keep_centers=20 removed 1,000 segments of `dog`",
        "center_threshold removed 1 segment of `cat`",
    ]
    assert sentences([scored([2], [2])], CATEGORIES, postprocess) == []


def test_quality_of_an_image() -> None:
    ids = np.zeros((4, 4), np.int32)
    ids[:2], ids[2:] = 1, 2
    truth = PanopticSegments(ids, np.array([1, 3]), np.zeros(2, bool))
    assert image_quality(segment_overlap(truth, truth)) == ImageQuality(1.0, 2, 0, 0)
    # The cat is called a dog: cat and dog have 0, grass has 1.
    wrong = truth._replace(class_ids=np.array([2, 3]))
    assert image_quality(segment_overlap(wrong, truth)) == ImageQuality(
        pytest.approx(1 / 3), 1, 1, 1
    )
    void = PanopticSegments(np.zeros_like(ids), np.zeros(0, np.int64), np.zeros(0, bool))
    assert image_quality(segment_overlap(void, truth)) == ImageQuality(0.0, 0, 0, 2)
    assert image_quality(segment_overlap(void, void)).pq == 1.0
