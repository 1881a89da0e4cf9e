"""Scores, pictures and predictions of a validation of classified images."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_classification import ToyData, ToyImages, toy_task
from toy_panoptic import toy_trainer

import axialseg.callbacks.classification_images as images_module
from axialseg.callbacks.classification_evaluation import ClassificationEvaluation
from axialseg.callbacks.classification_images import ClassificationImages
from axialseg.callbacks.classification_predictions import ClassificationPredictions
from axialseg.loggers.csv import CsvLogger, read_table
from axialseg.visualization.image_grid import RIGHT, WRONG, GuessedImage, image_grid


def validate(folder: Path, callback: Any, val_images: int = 8, **rest: Any) -> None:
    trainer = toy_trainer(folder, val_check_interval=1, callbacks=[callback], **rest)
    trainer.validate(toy_task(), ToyData(val_images), verbose=False)


def test_scores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "axialseg")
    evaluation = ClassificationEvaluation()
    validate(tmp_path, evaluation)
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record == evaluation.record
    assert (record["step"], record["images"]) == (0, 8)
    assert (record["top1"], record["top5"]) == (75.0, 100.0)  # images 3 and 7 are wrong
    assert [row["top1"] for row in record["classes"]] == pytest.approx([200 / 3, 200 / 3, 100.0])
    assert [row["images"] for row in record["classes"]] == [3, 3, 2]
    assert "Validation at step 0, 8 images" in caplog.text
    assert "green thing" in caplog.text


def test_each_validation_starts_from_zero(tmp_path: Path) -> None:
    evaluation = ClassificationEvaluation()
    trainer = toy_trainer(tmp_path, val_check_interval=1, callbacks=[evaluation])
    records = []
    for _ in range(2):
        trainer.validate(toy_task(), ToyData(), verbose=False)
        records.append(evaluation.record)
    assert records[0] == records[1]


def test_scalars_are_logged_at_the_optimiser_step(tmp_path: Path) -> None:
    trainer = toy_trainer(
        tmp_path,
        4,
        val_check_interval=2,
        log_every_n_steps=1,
        callbacks=[ClassificationEvaluation()],
        logger=[CsvLogger(tmp_path)],
    )
    trainer.fit(toy_task(4), datamodule=ToyData())
    rows = dict(read_table(tmp_path / "metrics.csv"))
    assert [step for step, row in rows.items() if "val/top1" in row] == [2, 4]
    assert rows[4]["val/top5"] == 100.0
    assert "train/cross_entropy" in rows[1]


def test_sanity_check_is_not_scored(tmp_path: Path) -> None:
    callbacks = [ClassificationEvaluation(), ClassificationImages(), ClassificationPredictions()]
    trainer = toy_trainer(
        tmp_path, 1, val_check_interval=5, num_sanity_val_steps=2, callbacks=callbacks
    )
    trainer.fit(toy_task(), datamodule=ToyData())
    assert list(tmp_path.iterdir()) == []


def test_pictures_come_from_all_over_the_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[GuessedImage] = []

    def draw(guesses: list[GuessedImage]) -> np.ndarray:
        drawn.extend(guesses)
        return image_grid(guesses)

    monkeypatch.setattr(images_module, "image_grid", draw)
    validate(tmp_path, ClassificationImages(3), 8)
    numbers = (0, 4, 7)  # evenly spaced, ends included
    dataset = ToyImages(8)
    names = ("red thing", "green thing", "blue thing")
    for number, guess in zip(numbers, drawn, strict=True):
        sample = dataset.read(number)
        np.testing.assert_array_equal(guess.image, sample.image)
        assert guess.true_name == names[sample.label]
        assert guess.is_right == (number != 7)
        assert (guess.guess_name == guess.true_name) == guess.is_right
        assert 0.9 < guess.probability <= 1
    with Image.open(tmp_path / "images" / "validation.png") as picture:
        assert picture.mode == "RGB"


def test_fewer_images_than_pictures(tmp_path: Path) -> None:
    validate(tmp_path, ClassificationImages(8), 2)
    assert (tmp_path / "images" / "validation.png").is_file()


def guess(side: int = 20, is_right: bool = True, name: str = "cat") -> GuessedImage:
    image = np.full((side, 2 * side, 3), 255, np.uint8)
    return GuessedImage(image, name, name, 0.876, is_right)


def test_grid_frames_tell_right_from_wrong() -> None:
    sheet = image_grid([guess(), guess(is_right=False)])
    colors = {tuple(color) for color in sheet.reshape(-1, 3).tolist()}
    assert {RIGHT, WRONG} <= colors
    left, right = np.array_split(sheet, 2, axis=1)
    assert (left == RIGHT).all(-1).any()
    assert not (left == WRONG).all(-1).any()
    assert (right == WRONG).all(-1).any()


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (4, (1, 4)), (5, (2, 4)), (9, (3, 4))])
def test_grid_has_four_images_a_row(count: int, shape: tuple[int, int]) -> None:
    one = image_grid([guess()])
    sheet = image_grid([guess()] * count)
    gap = 16
    for axis in (0, 1):
        assert sheet.shape[axis] - gap == (one.shape[axis] - gap) * shape[axis]


def test_long_names_stay_in_their_column() -> None:
    name = "a dog of a breed whose name is very long indeed, other name, yet another name"
    sheet = image_grid([guess(name=name), guess(name="b")])
    cell = (sheet.shape[1] - 16) // 2
    gutter = sheet[:, cell : cell + 16]
    assert (gutter == 255).all()


def test_predictions(tmp_path: Path) -> None:
    validate(tmp_path, ClassificationPredictions(), 5)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"{index:02d}.jpg" for index in range(5)]
    assert [row["class"] for row in rows] == ["n1", "n2", "n3", "n1", "n2"]
    assert [row["guess1"] for row in rows] == ["n1", "n2", "n3", "n2", "n2"]
    assert list(rows[0]) == ["image", "class", "guess1", "p1", "guess2", "p2", "guess3", "p3"]
    assert all(float(row["p1"]) > 0.9 for row in rows)
