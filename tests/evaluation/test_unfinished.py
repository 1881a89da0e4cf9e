"""What is kept of an evaluation that does not end."""

import json
from pathlib import Path

import numpy as np
import pytest
from scoring_cases import SMALL, random_pair

from axialseg.errors import UserError
from axialseg.evaluation.image_score import ImageScore, score_image, score_runs
from axialseg.evaluation.summary import summarize
from axialseg.evaluation.tables import metrics_record
from axialseg.evaluation.unfinished import (
    Journal,
    finished_images,
    open_unfinished,
    unfinished_folder,
    writing,
)


def scores(count: int) -> list[ImageScore]:
    images = []
    for number in range(count):
        rng = np.random.default_rng(number)
        prediction, target = random_pair(rng, (30, 40), (1, 2, 3), 5)
        image = score_image(
            number, f"{number}.jpg", prediction, prediction.semantic_map(0), target, SMALL, True
        )
        values = rng.random(len(prediction.class_ids))
        images.append(image._replace(scores=values, removed={"a": {2: 1}}, capacity=3))
    return images


def test_an_image_survives_json() -> None:
    for image in [*scores(3), scores(1)[0]._replace(scores=None, boundary=None)]:
        again = ImageScore.from_json(json.loads(json.dumps(image.to_json())))
        assert again.to_json() == image.to_json()
        for one, other in zip(again.overlap, image.overlap, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_classes_follow_from_the_segments() -> None:
    for number, image in enumerate(scores(6)):
        prediction, target = random_pair(np.random.default_rng(number), (30, 40), (1, 2, 3), 5)
        fast = score_runs(number, image.file_name, prediction.to_runs(), target.to_runs(), SMALL)
        np.testing.assert_array_equal(fast.confusion, image.confusion)
        np.testing.assert_array_equal(fast.overlap.pixels, image.overlap.pixels)


def test_the_order_of_images_changes_no_bit() -> None:
    images = scores(12)
    first = metrics_record(summarize(images, SMALL))
    shuffled = [images[n] for n in np.random.default_rng(0).permutation(12)]
    again = [ImageScore.from_json(json.loads(json.dumps(i.to_json()))) for i in shuffled]
    assert json.dumps(metrics_record(summarize(again, SMALL))) == json.dumps(first)
    assert first["removed_segments"] == {"a": 12}


def test_journals_of_all_ranks_are_read(tmp_path: Path) -> None:
    folder = open_unfinished(tmp_path, "settings")
    for rank in (0, 1):
        journal = Journal(folder, "scores", rank)
        journal.add(rank, {"rank": rank})
        journal.add(rank + 2, None)
        journal.close()
    exports = Journal(folder, "exports")
    for index in (0, 1, 2):
        exports.add(index, [])
    exports.close()
    assert Journal(folder, "scores").rows == {0: {"rank": 0}, 1: {"rank": 1}, 2: None, 3: None}
    assert finished_images(folder) == {0, 1, 2}


def test_half_a_line_is_no_image(tmp_path: Path) -> None:
    folder = open_unfinished(tmp_path, "settings")
    journal = Journal(folder, "scores")
    journal.add(0, "done")
    journal.close()
    path = folder / "scores.0.jsonl"
    path.write_bytes(path.read_bytes() + b'[1, "do')
    assert finished_images(folder) == {0}
    journal = Journal(folder, "scores")
    assert journal.rows == {0: "done"}
    journal.add(2, "done")
    journal.close()
    assert finished_images(folder) == {0, 2}


def test_other_settings_begin_anew(tmp_path: Path) -> None:
    assert unfinished_folder(tmp_path) is None
    folder = open_unfinished(tmp_path, "one")
    Journal(folder, "scores").add(0, None)
    assert open_unfinished(tmp_path, "one") == unfinished_folder(tmp_path) == folder
    assert finished_images(folder) == {0}
    assert finished_images(open_unfinished(tmp_path, "other")) == set()


def test_a_full_disk_is_told_with_its_cure(tmp_path: Path) -> None:
    def fill() -> None:
        with writing(tmp_path):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"No space left on device.*The same command goes on"):
        fill()
