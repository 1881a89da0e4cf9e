"""The page of an evaluation, in a real browser."""

import csv
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from scoring_cases import SMALL, Pair, exported, random_pair

from axialseg.datasets.sample import PanopticSample
from axialseg.evaluation.image_score import ImageScore, score_image
from axialseg.evaluation.report import write_report
from axialseg.evaluation.rescoring import PredictionFiles, rescore
from axialseg.evaluation.summary import called_instead, summarize
from axialseg.evaluation.tables import metrics_record
from axialseg.panoptic.panoptic_map import PanopticSegments

SHAPE = (60, 80)


class Pairs:
    """A data set in memory."""

    categories = SMALL

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> PanopticSample:
        target = self.pairs[index][1]
        image = np.repeat((target.id_map * 40 % 256).astype(np.uint8)[..., None], 3, -1)
        name = f"{index:03d}.jpg"
        return PanopticSample(image, target, 100 + index, f"some/{name}", name)


SOURCE = "some <run>" + "/with_a_long_path" * 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report on 15 images, of which 2 were not scored."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(3)
    pairs = [random_pair(rng, SHAPE, (1, 2, 3), int(rng.integers(1, 9))) for _ in range(15)]
    exported(folder, "panoptic", pairs, SMALL, [f"{number:03d}.jpg" for number in range(15)])
    dataset = Pairs(pairs)
    predictions = PredictionFiles(folder, SMALL)
    images = rescore(dataset, predictions)[:13]
    record = metrics_record(summarize(images, SMALL)) | {"images": 13, "images_of_data_set": 15}
    write_report(folder, record, images, dataset, predictions, {"PQ": 50.0}, SOURCE)
    return folder


def test_works_in_a_browser(folder: Path) -> None:
    with Browser() as browser:
        browser.open((folder / "report.html").as_uri())
        rows = browser.evaluate(
            "['groups', 'classes', 'missed'].map("
            "name => document.getElementById(name).querySelectorAll('tr').length)"
        )
        assert rows[0] == 1 + 6
        assert rows[1] == 1 + 4
        assert rows[2] > 3
        text = browser.evaluate("document.body.innerText")
        assert f"{SOURCE}: 13 of 15 images" in text
        assert "expected 50.00" in text
        assert "Worst images" in text
        # sky does not occur, and nothing of it is a zero
        sky = browser.evaluate("[...document.querySelectorAll('#classes tr')].at(-1).innerText")
        assert sky.split()[:3] == ["sky", "stuff", "-"]
        clicked = """(heading => {
            const table = document.querySelector('#classes');
            [...table.rows[0].cells].find(cell => cell.innerText == heading).click();
            return [...table.rows].slice(1).map(row => row.cells[0].innerText);
        })"""
        assert browser.evaluate(f"{clicked}('class')") == ["cat", "dog", "grass", "sky"]
        assert browser.evaluate(f"{clicked}('class')") == ["sky", "grass", "dog", "cat"]
        quality = "[...document.querySelectorAll('#classes td:nth-child(4)')].map(c => c.innerText)"
        for sign in (-1, 1):
            browser.evaluate(f"{clicked}('PQ')")
            *known, absent = browser.evaluate(quality)
            assert absent == "-"
            assert [float(value) for value in known] == sorted(
                map(float, known), key=lambda v: sign * v
            )
        viewers = browser.evaluate("document.querySelectorAll('.viewer').length")
        assert 24 <= viewers <= 36
        complete = "[...document.images].every(image => image.naturalWidth > 300)"
        assert browser.evaluate(complete)

        opacities = """(value => {
            const viewer = document.querySelector('.viewer');
            const slider = viewer.querySelector('input');
            slider.value = value;
            slider.dispatchEvent(new Event('input'));
            const images = [...viewer.querySelectorAll('img')];
            return images.map(image => Number(getComputedStyle(image).opacity));
        })"""
        assert browser.evaluate(f"{opacities}(0)") == [1, 0, 0, 0]
        assert browser.evaluate(f"{opacities}(1)") == [1, 1, 0, 0]
        assert browser.evaluate(f"{opacities}(2.5)") == [1, 1, 1, 0.5]
        assert browser.evaluate(f"{opacities}(3)") == [1, 1, 1, 1]
        browser.evaluate("document.querySelector('.viewer button').click()")
        assert browser.evaluate("document.querySelector('.viewer input').value") == "0"
        assert browser.errors == []
        assert browser.requests == []


def test_fits_a_narrow_window(folder: Path) -> None:
    with Browser(width=500) as browser:
        browser.open((folder / "report.html").as_uri())
        width = browser.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert width[0] <= width[1]


def test_table_of_classes(folder: Path) -> None:
    with (folder / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["cat", "dog", "grass", "sky"]
    assert float(rows[0]["PQ"]) > 0
    assert rows[3]["PQ"] == ""


def counted(prediction: PanopticSegments, target: PanopticSegments) -> ImageScore:
    return score_image(0, "a.jpg", prediction, prediction.semantic_map(0), target, SMALL)


def test_what_a_missed_segment_was_called() -> None:
    rng = np.random.default_rng(0)
    prediction, target = random_pair(rng, SHAPE, (1,), 1)
    one = prediction._replace(class_ids=np.array([2]), id_map=np.ones(SHAPE, np.int32))
    truth = target._replace(
        class_ids=np.array([1]), is_crowd=np.zeros(1, bool), id_map=np.ones(SHAPE, np.int32)
    )
    assert called_instead(counted(one, truth), SMALL) == [(1, 2)]
    half = one._replace(id_map=(np.arange(80) < 40)[None].repeat(60, 0).astype(np.int32))
    assert called_instead(counted(half, truth), SMALL) == [(1, None)]
