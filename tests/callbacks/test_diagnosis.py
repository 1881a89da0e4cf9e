"""Why it failed: the table of images and the sentences."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy_panoptic import CATEGORIES, ToyData, toy_task, toy_trainer

from axialseg.callbacks.diagnosis import Diagnosis, _Seen, sentences
from axialseg.metrics.image_quality import ImageQuality, image_quality
from axialseg.panoptic.panoptic_map import PanopticSegments

QUALITY = ImageQuality(0.5, 1, 0, 0)


def test_table_has_the_worst_images_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "axialseg")
    trainer = toy_trainer(tmp_path, 2, callbacks=[Diagnosis()], val_check_interval=1)
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


def test_sentences_name_classes_and_limits() -> None:
    seen = [
        _Seen("a", QUALITY, true=[1, 2, 3], predicted=[2], lost=[3]),
        _Seen("b", QUALITY, true=[3], predicted=[2], lost=[3, 1]),
    ]
    postprocess: Any = SimpleNamespace(stuff_area_limit=2048, center_threshold=0.1)
    assert sentences(seen, CATEGORIES, postprocess) == [
        "Classes in the images that were never predicted: cat, grass",
        "stuff_area_limit=2048 removed all of `grass` in 2 images",
        "center_threshold=0.1 removed all of `cat` in 1 image",
    ]
    masks: Any = SimpleNamespace(
        class_threshold=0.7, pixel_threshold=0.4,
        merge=SimpleNamespace(thing_area_limit=100, stuff_area_limit=1600),
    )  # fmt: skip
    said = sentences(seen[:1], CATEGORIES, masks)
    assert said[1] == (
        "class_threshold=0.7 or pixel_threshold=0.4 or stuff_area_limit=1600 removed all of "
        "`grass` in 1 image"
    )
    assert sentences([seen[0]._replace(true=[2], lost=[])], CATEGORIES, postprocess) == []


def test_quality_of_an_image() -> None:
    ids = np.zeros((4, 4), np.int32)
    ids[:2], ids[2:] = 1, 2
    truth = PanopticSegments(ids, np.array([1, 3]), np.zeros(2, bool))
    assert image_quality(truth, truth) == ImageQuality(1.0, 2, 0, 0)
    # The cat is called a dog: cat and dog have 0, grass has 1.
    wrong = truth._replace(class_ids=np.array([2, 3]))
    assert image_quality(wrong, truth) == ImageQuality(pytest.approx(1 / 3), 1, 1, 1)
    void = PanopticSegments(np.zeros_like(ids), np.zeros(0, np.int64), np.zeros(0, bool))
    assert image_quality(void, truth) == ImageQuality(0.0, 0, 0, 2)
    assert image_quality(void, void).pq == 1.0
