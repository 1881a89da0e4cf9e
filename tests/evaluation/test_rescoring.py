"""Scoring files on several processes."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from scoring_cases import SMALL, random_pair

from axialseg.datasets.coco import CocoPanoptic
from axialseg.errors import UserError
from axialseg.evaluation import rescoring
from axialseg.evaluation.image_score import score_image
from axialseg.evaluation.rescoring import PredictionFiles, ReadPrediction, rescore
from axialseg.formats.coco_panoptic import (
    color_like_ids,
    official_categories,
    segments_info,
    write_id_png,
)

IMAGES = 10


@pytest.fixture(params=[IMAGES, IMAGES + 1], ids=["two processes", "one process"])
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of 10 images and predictions."""
    monkeypatch.setattr(rescoring, "FEW_IMAGES", request.param)
    monkeypatch.setattr(rescoring, "IMAGES_PER_TASK", 3)
    monkeypatch.setattr(rescoring, "cpu_count", lambda: 2)
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    pairs = [random_pair(rng, (20, 30), SMALL.class_ids, 6) for _ in range(IMAGES)]
    listed = [{"id": n, "file_name": f"{n}.jpg", "height": 20, "width": 30} for n in range(IMAGES)]
    for which, name in enumerate(("predictions", "truth")):
        (tmp_path / name).mkdir()
        annotations = []
        for number, pair in enumerate(pairs):
            ids = color_like_ids(pair[which].class_ids, SMALL)
            write_id_png(tmp_path / name / f"{number}.png", pair[which], ids)
            rows = segments_info(pair[which], ids, SMALL)
            row = {"image_id": number, "file_name": f"{number}.png", "segments_info": rows}
            annotations.append(row)
        content = {"images": listed, "annotations": annotations}
        content["categories"] = official_categories(SMALL)
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def data_set(files: Path) -> CocoPanoptic:
    return CocoPanoptic(files, "images", "truth.json", "truth", SMALL)


def test_processes_count_what_maps_count(files: Path) -> None:
    dataset, told = data_set(files), []
    predictions = PredictionFiles(files / "predictions.json", SMALL)
    images = rescore(dataset, predictions, progress=told.append)
    assert told == [3, 6, 9, 10]
    assert [image.position for image in images] == list(range(IMAGES))
    for image in images:
        place = image.position
        target = dataset.read_truth(place).segments
        assert target is not None
        found = predictions.read(place, "", target.size).segments.paint()
        semantic = found.semantic_map(SMALL.ignore_class)
        expected = score_image(place, "", found, semantic, target.paint(), SMALL)
        np.testing.assert_array_equal(image.overlap.pixels, expected.overlap.pixels)
        np.testing.assert_array_equal(image.confusion, expected.confusion)
    boundary = rescore(dataset, predictions, with_boundary=True)
    assert all(image.boundary is not None for image in boundary)


def test_a_mistake_in_a_process_is_one_sentence(files: Path) -> None:
    (files / "predictions" / "7.png").unlink()
    predictions = PredictionFiles(files / "predictions.json", SMALL)
    with pytest.raises(UserError, match=r"7\.png does not exist; unpack the panoptic PNGs"):
        rescore(data_set(files), predictions)


def test_ctrl_c_ends_the_processes_soon(files: Path) -> None:
    """Shares that have begun, or wait in the queue of the processes, are not scored to the end."""

    class Slow(PredictionFiles):
        def read(
            self, image_id: int | str, file_name: str, size: tuple[int, ...]
        ) -> ReadPrediction:
            while int(image_id) >= 3 and not (files / "stopped").exists():
                time.sleep(0.01)
            time.sleep(0.05)
            (files / f"{image_id}.read").touch()
            return super().read(image_id, file_name, size)

    def press_ctrl_c(done: int) -> None:
        (files / "stopped").touch()
        raise KeyboardInterrupt

    predictions = Slow(files / "predictions.json", SMALL)
    with pytest.raises(KeyboardInterrupt):
        rescore(data_set(files), predictions, progress=press_ctrl_c)
    assert 3 <= len(list(files.glob("*.read"))) < IMAGES


def test_ap_is_left_out_aloud_where_scores_are_missing(
    files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = files / "predictions.json"
    content = json.loads(path.read_text())
    rows = [row for image in content["annotations"] for row in image["segments_info"]]
    rows[0]["score"], rows[1]["score"], rows[2]["score"] = 0.5, "high", float("nan")
    path.write_text(json.dumps(content))
    image = PredictionFiles(path, SMALL).read(0, "", data_set(files).read_truth(0).segments.size)
    assert image.scores is None
    assert f"the score of {len(rows) - 1} of {len(rows)} segments is missing" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04\x14", "is packed; unpack it"),
        (b"[]", "it holds no such object; results of instances are a list"),
    ],
)
def test_other_files_are_told_apart(files: Path, content: bytes, words: str) -> None:
    path = files / "predictions.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        PredictionFiles(path, SMALL)


def test_wrong_predictions_get_no_advice_for_data_sets(files: Path) -> None:
    path = files / "predictions.json"
    content = json.loads(path.read_text())
    rows = next(a["segments_info"] for a in content["annotations"] if a["segments_info"])
    rows[0]["category_id"] = 999
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as refused:
        PredictionFiles(path, SMALL)
    assert "category id 999" in str(refused.value)
    assert "skip_invalid" not in str(refused.value)
