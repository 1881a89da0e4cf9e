"""Scores after a validation: table, metrics.json, logged scalars."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_panoptic import CATEGORIES, Heads, ToyData, ToyNet, toy_segments, toy_task, toy_trainer

from axialseg.callbacks.panoptic_evaluation import PanopticEvaluation
from axialseg.loggers.csv import CsvLogger, read_table
from axialseg.metrics.panoptic_quality import PanopticQuality
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.panoptic_map import segments_from_panoptic_map


class ByColor(torch.nn.Module):
    """Knows the classes by their colours, but takes each third column for grass."""

    def forward(self, image: Tensor, valid: Tensor) -> Heads:
        colors = torch.tensor([[0.0, 0, 0], [200, 30, 30], [30, 200, 30], [30, 30, 200]])
        x = image.float().movedim(1, -1)[..., None, :]
        logits = -(x - colors).square().sum(-1).movedim(-1, 1)
        logits[:, 3, :, ::3] = 0
        return Heads(logits)


def validated(folder: Path, data: ToyData, **rest: Any) -> PanopticEvaluation:
    evaluation = PanopticEvaluation()
    task = toy_task()
    task.net = ByColor()
    trainer = toy_trainer(folder, val_check_interval=1, callbacks=[evaluation], **rest)
    trainer.validate(task, data, verbose=False)
    return evaluation


def test_scores_are_the_metric_of_all_images(tmp_path: Path) -> None:
    validated(tmp_path, ToyData(val_images=5))
    record = json.loads((tmp_path / "metrics.json").read_text())
    metric = PanopticQuality(CATEGORIES)
    for index in range(5):
        truth = toy_segments(index)
        semantic = truth.semantic_map(0).copy()
        semantic[:, ::3] = 3
        panoptic = semantic * 65536 + (np.isin(semantic, (1, 2)))
        metric.update(segment_overlap(segments_from_panoptic_map(panoptic, 0), truth))
    expected = metric.compute()
    assert record["PQ"] == 100 * expected.all.pq
    assert record["PQ_things"] == 100 * expected.things.pq
    assert record["PQ_stuff"] == 100 * expected.stuff.pq
    assert record["SQ"] == 100 * expected.all.sq
    assert record["RQ"] == 100 * expected.all.rq
    assert 0 < record["mIoU"] < 100
    assert (record["step"], record["images"]) == (0, 5)
    assert [row["name"] for row in record["classes"]] == ["cat", "dog", "grass"]
    assert [row["TP"] for row in record["classes"]] == [row.tp for row in expected.per_class]


def test_table_is_printed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "axialseg")
    record = validated(tmp_path, ToyData()).record
    assert record is not None
    assert "Validation at step 0, 3 images" in caplog.text
    assert f"{record['PQ']:.2f}" in caplog.text
    assert "grass" in caplog.text


def test_scalars_are_logged_at_the_optimiser_step(tmp_path: Path) -> None:
    trainer = toy_trainer(
        tmp_path,
        4,
        val_check_interval=2,
        log_every_n_steps=1,
        callbacks=[PanopticEvaluation()],
        logger=[CsvLogger(tmp_path)],
    )
    trainer.fit(toy_task(4), datamodule=ToyData())
    rows = dict(read_table(tmp_path / "metrics.csv"))
    assert [step for step, row in rows.items() if "val/PQ" in row] == [2, 4]
    assert {f"val/{name}" for name in ("PQ", "PQ_things", "PQ_stuff", "SQ", "RQ", "mIoU")} <= set(
        rows[4]
    )
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["step"] == 4
    assert rows[4]["val/PQ"] == pytest.approx(record["PQ"])


def test_images_without_ground_truth_are_not_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "axialseg")
    data = ToyData()
    read = data.val_dataset.read
    monkeypatch.setattr(data.val_dataset, "read", lambda index: read(index)._replace(segments=None))
    assert validated(tmp_path, data).record is None
    assert not (tmp_path / "metrics.json").exists()
    assert "No image has ground truth" in caplog.text


def test_each_validation_starts_from_zero(tmp_path: Path) -> None:
    evaluation = PanopticEvaluation()
    task = toy_task()
    task.net = ByColor()
    trainer = toy_trainer(tmp_path, val_check_interval=1, callbacks=[evaluation])
    records = []
    for _ in range(2):
        trainer.validate(task, ToyData(), verbose=False)
        records.append(evaluation.record)
    assert records[0] == records[1]


def test_sanity_check_is_not_scored(tmp_path: Path) -> None:
    trainer = toy_trainer(
        tmp_path,
        1,
        val_check_interval=5,
        num_sanity_val_steps=2,
        callbacks=[PanopticEvaluation()],
    )
    task = toy_task()
    assert isinstance(task.net, ToyNet)
    trainer.fit(task, datamodule=ToyData())
    assert not (tmp_path / "metrics.json").exists()
