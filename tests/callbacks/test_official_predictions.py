"""Official predictions of a validation."""

import json
from pathlib import Path

import pytest
from toy_panoptic import CATEGORIES, ToyData, toy_task, toy_trainer

from axialseg.callbacks.official_predictions import OfficialPredictions
from axialseg.formats.id_png import read_id_png
from axialseg.tasks.panoptic_deeplab_task import PanopticDeepLabTask


def test_writes_one_png_and_one_row_for_each_image(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, val_check_interval=1, callbacks=[OfficialPredictions()])
    trainer.validate(toy_task(), ToyData(val_images=5), verbose=False)
    content = json.loads((tmp_path / "predictions.json").read_text())
    assert [row["image_id"] for row in content["annotations"]] == [0, 1, 2, 3, 4]
    official = {category.official_id for category in CATEGORIES.classes}
    for row in content["annotations"]:
        ids = read_id_png(tmp_path / "predictions" / row["file_name"])
        assert set(ids.ravel()) - {0} == {segment["id"] for segment in row["segments_info"]}
        assert {segment["category_id"] for segment in row["segments_info"]} <= official


def test_folder_may_be_chosen(tmp_path: Path) -> None:
    callback = OfficialPredictions(str(tmp_path / "elsewhere"))
    trainer = toy_trainer(tmp_path, val_check_interval=1, callbacks=[callback])
    trainer.validate(toy_task(), ToyData(), verbose=False)
    assert (tmp_path / "elsewhere/predictions.json").exists()


def test_a_broken_validation_leaves_the_earlier_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = toy_trainer(tmp_path, val_check_interval=1, callbacks=[OfficialPredictions()])
    trainer.validate(toy_task(), ToyData(val_images=5), verbose=False)
    earlier = (tmp_path / "predictions.json").read_text()
    original = PanopticDeepLabTask.validation_step

    def broken(task: PanopticDeepLabTask, batch: dict, batch_idx: int) -> list:
        if batch_idx == 1:
            raise RuntimeError("broken")
        return original(task, batch, batch_idx)

    monkeypatch.setattr(PanopticDeepLabTask, "validation_step", broken)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.validate(toy_task(), ToyData(), verbose=False)
    assert (tmp_path / "predictions.json").read_text() == earlier
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["predictions", "predictions.json"]
