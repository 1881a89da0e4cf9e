"""Exported files, read by who they are for: the official scripts and our own reader."""

import contextlib
import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instance_script
from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as panoptic_script
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as pixel_script
from cityscapesscripts.evaluation.instances2dict import instances2dict
from hotcoco.panoptic import pq_compute
from mapillary_tree import write_tree
from PIL import Image
from pycocotools.coco import COCO as CocoFile
from pycocotools.cocoeval import COCOeval
from scoring_cases import SMALL, Pair, drop_empty, exported, random_pair

from axialseg.datasets.mapillary_vistas import mapillary_vistas
from axialseg.evaluation.exports import (
    distinct_names,
    put_in_place,
    write_zip,
)
from axialseg.formats.coco_annotations import read_annotations, read_segments
from axialseg.formats.coco_panoptic import color_like_ids, segments_info, write_id_png
from axialseg.metrics.panoptic_quality import PanopticQuality
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.cityscapes_classes import CITYSCAPES


@pytest.fixture
def pairs() -> list[Pair]:
    rng = np.random.default_rng(1)
    return [random_pair(rng, (40, 50), (1, 2, 3, 4), int(rng.integers(0, 9))) for _ in range(7)]


def write_truth(folder: Path, pairs: list[Pair], categories: Categories, ids: list) -> Path:
    """A panoptic JSON file with its PNGs."""
    (folder / "truth").mkdir(parents=True)
    images, annotations = [], []
    for number, (image_id, (_, target)) in enumerate(zip(ids, pairs, strict=True)):
        colors = color_like_ids(target.class_ids, categories)
        write_id_png(folder / "truth" / f"{number}.png", target, colors)
        rows = segments_info(target, colors, categories)
        annotations.append(
            {"image_id": image_id, "file_name": f"{number}.png", "segments_info": rows}
        )
        height, width = target.id_map.shape
        images.append(
            {"id": image_id, "file_name": f"{number}.jpg", "height": height, "width": width}
        )
    listed = [
        {"id": c.official_id, "name": c.name, "isthing": int(c.is_thing)}
        for c in categories.classes
    ]
    content = {"images": images, "annotations": annotations, "categories": listed}
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


def test_an_outside_scorer_agrees_on_the_panoptic_files(tmp_path: Path, pairs: list[Pair]) -> None:
    files = [f"some/where/{number:03d}.jpg" for number in range(len(pairs))]
    results, summary = exported(tmp_path, "panoptic", pairs, SMALL, files)
    assert results == ["predictions", "predictions.json"]
    truth = write_truth(tmp_path / "gt", pairs, SMALL, [100 + n for n in range(len(pairs))])
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = pq_compute(str(truth), str(tmp_path / "predictions.json"))
    for name, group in (("All", "all"), ("Things", "things"), ("Stuff", "stuff")):
        assert theirs[name]["pq"] == pytest.approx(getattr(summary.quality, group).pq, abs=1e-12)
    assert summary.quality.all.pq > 0.1


def test_our_reader_gives_back_the_panoptic_files(tmp_path: Path, pairs: list[Pair]) -> None:
    files = ["one/a.jpg", "two/a.jpg", *(f"one/{number}.jpg" for number in range(5))]
    exported(tmp_path, "panoptic", pairs, SMALL, files)
    annotations = read_annotations(tmp_path / "predictions.json")
    assert annotations.categories == SMALL
    assert annotations.png_files.tolist()[:3] == ["one/a.png", "two/a.png", "one/0.png"]
    for number, (prediction, _) in enumerate(pairs):
        segments = read_segments(annotations, number, tmp_path / "predictions", (40, 50))
        np.testing.assert_array_equal(segments.id_map, prediction.id_map)
        np.testing.assert_array_equal(segments.class_ids, prediction.class_ids)


def test_pycocotools_agrees_on_the_instances(tmp_path: Path, pairs: list[Pair]) -> None:
    files = [f"{number}.jpg" for number in range(len(pairs))]
    results, summary = exported(tmp_path, "coco_instances", pairs, SMALL, files)
    assert results == ["coco_instances.json"]
    annotations = []
    for number, (_, target) in enumerate(pairs):
        for row, class_id in enumerate(target.class_ids.tolist()):
            if class_id in SMALL.thing_ids:
                mask = np.asfortranarray(target.id_map == row + 1, np.uint8)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 100 + number,
                        "category_id": SMALL.by_class_id[class_id].official_id,
                        "segmentation": instance_mask(mask),
                        "area": int(mask.sum()),
                        "iscrowd": int(target.is_crowd[row]),
                    }
                )
    truth = CocoFile()
    truth.dataset = {
        "images": [{"id": 100 + n, "height": 40, "width": 50} for n in range(len(pairs))],
        "categories": [{"id": 3}, {"id": 8}],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes(str(tmp_path / results[0]))
        evaluation = COCOeval(truth, found, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert summary.precision is not None
    assert evaluation.stats[0] == summary.precision.ap
    assert evaluation.stats[1] == summary.precision.ap50
    assert summary.precision.ap > 0.01


def instance_mask(mask: np.ndarray) -> dict:
    from pycocotools import mask as rle

    return rle.encode(mask)


def cityscapes_pairs() -> list[Pair]:
    rng = np.random.default_rng(2)
    classes = (0, 1, 8, 11, 13)
    return [random_pair(rng, (40, 60), classes, int(rng.integers(2, 9))) for _ in range(4)]


def cityscapes_names(pairs: list[Pair]) -> list[str]:
    return [f"ulm_000000_{n:06d}_leftImg8bit.png" for n in range(len(pairs))]


def test_cityscapes_scripts_agree_on_the_label_ids(tmp_path: Path) -> None:
    pairs = cityscapes_pairs()
    files = cityscapes_names(pairs)
    results, summary = exported(tmp_path, "cityscapes_labels", pairs, CITYSCAPES, files)
    table = np.zeros(256, np.uint8)
    for category in CITYSCAPES.classes:
        table[category.class_id] = category.official_id
    truths, predictions = [], []
    for number, (_, target) in enumerate(pairs):
        path = tmp_path / f"ulm_000000_{number:06d}_gtFine_labelIds.png"
        Image.fromarray(table[target.semantic_map(255)]).save(path)
        truths.append(str(path))
        predictions.append(str(tmp_path / results[0] / f"ulm_000000_{number:06d}_leftImg8bit.png"))
    arguments = pixel_script.CArgs()
    vars(arguments).update(vars(pixel_script.args))
    arguments.quiet, arguments.evalInstLevelScore, arguments.JSONOutput = True, False, False
    arguments.evalPixelAccuracy = False
    with contextlib.redirect_stdout(io.StringIO()):
        result = pixel_script.evaluateImgLists(predictions, truths, arguments)
    ious = {row.name: row.iou for row in summary.semantic.per_class if row.occurs}
    theirs = {n: v for n, v in result["classScores"].items() if not np.isnan(v)}
    assert theirs == pytest.approx(ious, abs=1e-12)
    assert max(ious.values()) > 0.3


def test_cityscapes_scripts_agree_on_the_instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    pairs = [(p, t._replace(is_crowd=np.zeros_like(t.is_crowd))) for p, t in cityscapes_pairs()]
    files = cityscapes_names(pairs)
    results, summary = exported(tmp_path, "cityscapes_instances", pairs, CITYSCAPES, files)
    truths, predictions = [], []
    for number, (_, target) in enumerate(pairs):
        ids = np.zeros(target.id_map.shape, np.uint16)
        for row, class_id in enumerate(target.class_ids.tolist()):
            label = CITYSCAPES.by_class_id[class_id].official_id
            thing = class_id in CITYSCAPES.thing_ids
            ids[target.id_map == row + 1] = 1000 * label + row if thing else label
        path = tmp_path / f"ulm_000000_{number:06d}_gtFine_instanceIds.png"
        Image.fromarray(ids).save(path)
        truths.append(str(path))
        predictions.append(str(tmp_path / results[0] / f"ulm_000000_{number:06d}_leftImg8bit.txt"))
    arguments = SimpleNamespace(**vars(instance_script.args))
    arguments.quiet, arguments.predictionPath = True, str(tmp_path / results[0])
    instance_script.setInstanceLabels(arguments)
    matches = instance_script.matchGtWithPreds(
        predictions, truths, instances2dict(truths), arguments
    )
    table = instance_script.evaluateMatches(matches, arguments)
    assert summary.precision is not None
    averages = instance_script.computeAverages(table, arguments)
    assert averages["allAp"] == pytest.approx(summary.precision.ap, rel=1e-12)
    assert averages["allAp50%"] == pytest.approx(summary.precision.ap50, rel=1e-12)
    assert summary.precision.ap > 0.01


def test_cityscapes_scripts_agree_on_the_panoptic_files(tmp_path: Path) -> None:
    pairs = cityscapes_pairs()
    files = cityscapes_names(pairs)
    _, summary = exported(tmp_path, "panoptic", pairs, CITYSCAPES, files)
    ids = [Path(file).stem for file in files]
    truth = write_truth(tmp_path / "gt", pairs, CITYSCAPES, ids)
    with contextlib.redirect_stdout(io.StringIO()):
        result = panoptic_script.evaluatePanoptic(
            str(truth),
            str(tmp_path / "gt" / "truth"),
            str(tmp_path / "predictions.json"),
            str(tmp_path / "predictions"),
            str(tmp_path / "result.json"),
        )
    assert result["All"]["pq"] == pytest.approx(summary.quality.all.pq, abs=1e-12)
    assert result["Things"]["pq"] == pytest.approx(summary.quality.things.pq, abs=1e-12)


def test_an_outside_scorer_agrees_on_mapillarys_files(tmp_path: Path) -> None:
    """Judged by the script for Cityscapes, which knows no classes but those of the files."""
    write_tree(tmp_path)
    pairs: list[Pair] = []
    files: list[str] = []
    for split in ("training", "validation"):
        dataset = mapillary_vistas(tmp_path, split, "v1.2")
        for position in range(len(dataset)):
            sample = dataset.read(position)
            assert sample.segments is not None
            moved = np.roll(sample.segments.id_map, 1, axis=(0, 1))
            prediction = sample.segments._replace(
                id_map=moved, is_crowd=np.zeros_like(sample.segments.is_crowd)
            )
            pairs.append((drop_empty(prediction), sample.segments))
            files.append(sample.name)
    (tmp_path / "out").mkdir()
    exported(tmp_path / "out", "panoptic", pairs, dataset.categories, files)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    # Each pixel by itself: the id of its colour, the label of its id.
    for row, image, (prediction, _) in zip(
        content["annotations"], content["images"], pairs, strict=True
    ):
        assert row["file_name"] == f"{row['image_id']}.png"
        assert image["file_name"] == f"{image['id']}.jpg"
        with Image.open(tmp_path / "out" / "predictions" / row["file_name"]) as png:
            red, green, blue = np.asarray(png).astype(np.int64).transpose(2, 0, 1)
        labels = {0: 0} | {s["id"]: s["category_id"] for s in row["segments_info"]}
        found = np.vectorize(labels.get)(red + 256 * green + 65536 * blue)
        official = [
            0,
            *(dataset.categories.by_class_id[c].official_id for c in prediction.class_ids),
        ]
        np.testing.assert_array_equal(found, np.array(official)[prediction.id_map])
    for number, split in enumerate(("training", "validation")):
        folder = tmp_path / split / "v1.2" / "panoptic"
        with contextlib.redirect_stdout(io.StringIO()):
            result = panoptic_script.evaluatePanoptic(
                str(folder / "panoptic_2018.json"),
                str(folder),
                str(tmp_path / "out" / "predictions.json"),
                str(tmp_path / "out" / "predictions"),
                str(tmp_path / "result.json"),
            )
        of_split = slice(0, 2) if number == 0 else slice(2, 3)
        metric = PanopticQuality(dataset.categories)
        for prediction, target in pairs[of_split]:
            metric.update(segment_overlap(prediction, target))
        assert result["All"]["pq"] == pytest.approx(metric.compute().all.pq, abs=1e-12)
        assert result["All"]["pq"] > 0.1


def test_images_of_one_name_keep_their_folders() -> None:
    files = ["a.jpg", "a.png", r"sub\a.jpg", "../../b.jpg", "/c/d.jpg", "sub/a.jpeg"]
    assert distinct_names(files) == ["a", "a_2", "sub/a", "b", "c/d", "sub/a_2"]
    assert distinct_names([]) == []


def test_a_killed_process_has_lost_nothing(tmp_path: Path, pairs: list[Pair]) -> None:
    files = [f"{number}.jpg" for number in range(len(pairs))]
    draft, output = tmp_path / "draft", tmp_path / "out"
    draft.mkdir()
    output.mkdir()
    (output / "predictions").mkdir()
    (output / "predictions" / "old.png").touch()
    results, _ = exported(draft, "panoptic", pairs, SMALL, files)
    # Killed after the folder was in place and before the table was: it is all done once more.
    put_in_place(draft, output, ["predictions"])
    put_in_place(draft, output, results)
    assert (output / "predictions.json").is_file()
    assert len(list((output / "predictions").glob("*.png"))) == len(pairs)
    assert not (output / "predictions" / "old.png").exists()


def test_zip_for_the_server(tmp_path: Path, pairs: list[Pair]) -> None:
    files = [f"{number}.jpg" for number in range(len(pairs))]
    results, _ = exported(tmp_path, "panoptic", pairs, SMALL, files)
    path = tmp_path / "panoptic_test-dev2017_axial_results.zip"
    write_zip(path, tmp_path, results)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert "panoptic_test-dev2017_axial_results.json" in names
    assert "panoptic_test-dev2017_axial_results/0.png" in names
    assert len(names) == 1 + len(pairs)
