"""`python evaluate.py`: its files, other views of the images, interruptions, anyone's files."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from terminal import unwrapped

from axialseg.callbacks.official_predictions import OfficialPredictions
from axialseg.commands import evaluate, train
from axialseg.errors import UserError
from axialseg.evaluation import exports
from axialseg.evaluation.exports import PanopticExport

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]


@pytest.fixture(scope="module")
def run_folder(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which shows all that it guesses: four steps teach little."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    with pytest.MonkeyPatch.context() as patch:
        limits = ["model.postprocess.stuff_area_limit=1", "model.postprocess.center_threshold=0"]
        patch.setattr("sys.argv", ["train.py", *tiny_run, *limits, f"hydra.run.dir={folder}"])
        train.main()
    return folder


@pytest.fixture(scope="module")
def evaluated(run_folder: Path) -> Path:
    """Its evaluation, with every format."""
    output = run_folder / "evaluation"
    formats = "[panoptic,coco_instances,cityscapes_labels,cityscapes_instances]"
    arguments = [f"run={run_folder}", f"+callbacks.predictions.formats={formats}"]
    arguments += ["+callbacks.evaluation.boundary=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["evaluate.py", *arguments])
        evaluate.main()
    return output


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def data_of(tiny_run: list[str]) -> list[str]:
    """The overrides that say which data."""
    return ["data=shapes", *(line for line in tiny_run if "data." in line)]


def test_all_metrics_and_files_in_one_pass(evaluated: Path) -> None:
    record = record_of(evaluated)
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "boundary_PQ")
    names += ("boundary_IoU", "PQ_small", "PQ_medium", "PQ_large", "removed_segments")
    assert set(names) <= set(record)
    assert record["boundary_PQ"] <= record["PQ"]
    limits = {"stuff_area_limit", "center_threshold", "keep_centers"}
    assert set(record["removed_segments"]) == limits
    found = {path.name for path in evaluated.iterdir()}
    files = {"metrics.json", "report.html", "classes.csv", "images", "predictions"}
    files |= {"predictions.json", "coco_instances.json", "cityscapes_labels"}
    assert files | {"cityscapes_instances"} <= found
    assert not found & {"unfinished", ".predictions"}
    assert len(list((evaluated / "cityscapes_labels").glob("*.png"))) == 4


def test_scoring_the_written_files_gives_the_same(
    evaluated: Path, tiny_run: list[str], tmp_path: Path, command: Command
) -> None:
    content = json.loads((evaluated / "predictions.json").read_text())
    del content["images"], content["categories"]  # as official scorers allow
    bare = tmp_path / "bare"
    shutil.copytree(evaluated / "predictions", bare)
    (tmp_path / "bare.json").write_text(json.dumps(content))
    for number, named in enumerate((evaluated, bare)):
        output = tmp_path / str(number)
        arguments = [f"predictions={named}", *data_of(tiny_run), f"output={output}"]
        command(evaluate.main, [*arguments, "+callbacks.evaluation.boundary=true"])
        before, after = record_of(evaluated), record_of(output)
        same = [
            name for name in after if name not in ("mIoU", "boundary_IoU", "classes", "predictions")
        ]
        same = [name for name in same if name != "removed_segments"]
        assert {n: after[n] for n in same} == {n: before[n] for n in same}
        assert {"PQ", "AP", "PQ_things", "AP50", "images", "boundary_PQ"} <= set(same)
        assert (output / "report.html").is_file()


def test_files_that_do_not_fit_are_refused(
    evaluated: Path,
    tiny_run: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(change: Callable[[dict], object]) -> str:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copytree(evaluated / "predictions", folder / "predictions")
        content = json.loads((evaluated / "predictions.json").read_text())
        change(content)
        (folder / "predictions.json").write_text(json.dumps(content))
        arguments = [f"predictions={folder}", *data_of(tiny_run), f"output={tmp_path / 'out'}"]
        monkeypatch.setattr("sys.argv", ["evaluate.py", *arguments])
        with pytest.raises(SystemExit) as stopped:
            evaluate.main()
        message = unwrapped(capsys.readouterr().err)
        assert stopped.value.code == 2
        assert message.startswith("error: ")
        assert message.count("\n") == 1
        return message

    def first_segment(content: dict) -> dict:
        return next(s for a in content["annotations"] for s in a["segments_info"])

    assert "has no prediction for the image" in refused(lambda c: c["annotations"].pop())
    unknown = refused(lambda c: first_segment(c).update(category_id=77))
    assert "category id 77" in unknown
    assert "which" in refused(lambda c: first_segment(c).update(id=1234567))
    extra = {"id": 5, "category_id": 1}
    absent = refused(lambda c: c["annotations"][0]["segments_info"].append(extra))
    assert "not in its PNG" in absent or "category id" in absent

    def shrink(content: dict) -> None:
        path = tmp_path / "changed" / "predictions" / content["annotations"][0]["file_name"]
        Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(path)

    assert "is 4 x 3 pixels but its image" in refused(shrink)
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "predictions=<JSON file or folder>"),
        (["predictions=nowhere", "data=shapes"], "predictions=nowhere does not exist"),
        (["predictions=nowhere"], "data=<data set>"),
        (["predictions=a", "run=b", "data=shapes"], "run=b"),
        (["predictions=.", "data=shapes", "tile=[65,65]"], "leave out scales, flip and tile"),
        (
            ["predictions=.", "data=shapes", "+callbacks.evaluation.bondary=true"],
            "did you mean callbacks.evaluation.boundary?",
        ),
    ],
)
def test_unclear_commands_are_refused(arguments: list[str], words: str, refusal: Refusal) -> None:
    assert words in refusal(evaluate.main, arguments)


@pytest.mark.parametrize(
    "view", [["+tta=ms_flip", "scales=[0.5,1]"], ["flip=true", "tile=[65,65]"]]
)
def test_other_views_of_the_images(
    view: list[str], run_folder: Path, tmp_path: Path, command: Command
) -> None:
    command(evaluate.main, [f"run={run_folder}", *view, f"output={tmp_path}"])
    assert 0.0 <= record_of(tmp_path)["PQ"] <= 100.0
    assert record_of(tmp_path)["images"] == 4


def test_an_interrupted_evaluation_goes_on(
    run_folder: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [f"run={run_folder}", f"output={tmp_path}", "data.val_batch_size=1"]
    command(evaluate.main, arguments)
    expected = {f: (tmp_path / f).read_bytes() for f in ("metrics.json", "predictions.json")}
    pngs = {f.name: f.read_bytes() for f in (tmp_path / "predictions").iterdir()}
    write, calls = PanopticExport.write, []

    def full(export: PanopticExport, folder: Path, image: Any) -> Any:
        calls.append(image.position)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return write(export, folder, image)

    monkeypatch.setattr(PanopticExport, "write", full)
    monkeypatch.setattr("sys.argv", ["evaluate.py", *arguments])
    with pytest.raises(SystemExit):
        evaluate.main()
    # What an earlier evaluation has written is as it was.
    for name, content in expected.items():
        assert (tmp_path / name).read_bytes() == content
    log = tmp_path / "evaluate.log"
    assert "Stopped after 2 of 4 images" in log.read_text()
    command(evaluate.main, arguments)
    assert "2 of 4 images are done already" in log.read_text()
    assert sorted(calls) == [0, 1, 2, 2, 3]
    for name, content in expected.items():
        assert (tmp_path / name).read_bytes() == content
    assert {f.name: f.read_bytes() for f in (tmp_path / "predictions").iterdir()} == pngs
    assert not (tmp_path / "unfinished").exists()


def test_an_unreadable_image_is_named_and_the_others_are_kept(
    run_folder: Path,
    tiny_run: list[str],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = next(line for line in tiny_run if line.startswith("data.root=")).partition("=")[2]
    shutil.copytree(root, tmp_path / "data")
    image = sorted((tmp_path / "data" / "val2017").iterdir())[3]
    whole = image.read_bytes()
    arguments = [f"run={run_folder}", f"data.root={tmp_path / 'data'}", "data.cache=false"]
    arguments += ["data.val_batch_size=1", f"output={tmp_path / 'out'}"]
    arguments += ["callbacks.images=null", "callbacks.diagnosis=null"]
    image.write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr("sys.argv", ["evaluate.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        evaluate.main()
    assert stopped.value.code == 2
    assert f"error: {image} cannot be read" in " ".join(capsys.readouterr().err.split())
    log = tmp_path / "out" / "evaluate.log"
    assert re.search(r"Stopped after [123] of 4 images; no scores were written", log.read_text())
    assert not (tmp_path / "out" / "metrics.json").exists()
    image.write_bytes(whole)
    command(evaluate.main, arguments)
    assert re.search(r"[123] of 4 images are done already", log.read_text())
    assert record_of(tmp_path / "out")["images"] == 4


def test_files_stay_whole_if_an_evaluation_ends_after_they_are_in_place(
    evaluated: Path, run_folder: Path, tmp_path: Path, command: Command
) -> None:
    formats = "panoptic,coco_instances,cityscapes_labels,cityscapes_instances"
    arguments = [f"run={run_folder}", f"output={tmp_path}", "callbacks.images=null"]
    arguments += [f"+callbacks.predictions.formats=[{formats}]"]
    original = OfficialPredictions._finish

    def then_broken(callback: OfficialPredictions, *what: Any) -> None:
        original(callback, *what)
        raise UserError("broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OfficialPredictions, "_finish", then_broken)
        patch.setattr("sys.argv", ["evaluate.py", *arguments])
        with pytest.raises(SystemExit):
            evaluate.main()
    assert "All 4 images are done, but not all" in (tmp_path / "evaluate.log").read_text()
    command(evaluate.main, arguments)
    folders = ("predictions", "cityscapes_labels", "cityscapes_instances")
    for name in ("predictions.json", "coco_instances.json", *folders):
        files = (
            [name]
            if name.endswith("json")
            else sorted(
                str(file.relative_to(evaluated)) for file in (evaluated / name).rglob("*.*")
            )
        )
        assert files
        for file in files:
            assert (tmp_path / file).read_bytes() == (evaluated / file).read_bytes()


def test_other_settings_start_anew(
    run_folder: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def broken(export: PanopticExport, folder: Path, image: Any) -> Any:
        calls.append(image.position)
        raise UserError("broken")

    arguments = [f"run={run_folder}", f"output={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(exports.PanopticExport, "write", broken)
        patch.setattr("sys.argv", ["evaluate.py", *arguments])
        with pytest.raises(SystemExit):
            evaluate.main()
    assert (tmp_path / "unfinished").is_dir()
    command(evaluate.main, [*arguments, "flip=true"])
    assert record_of(tmp_path)["images"] == 4
    assert not (tmp_path / "unfinished").exists()


def test_part_of_the_images_is_no_score_of_the_data_set(
    run_folder: Path, tmp_path: Path, command: Command
) -> None:
    limited = ["trainer.limit_val_batches=1", f"output={tmp_path}"]
    command(evaluate.main, [f"run={run_folder}", *limited])
    record = record_of(tmp_path)
    assert (record["images"], record["images_of_data_set"]) == (2, 4)
    assert "2 of 4 images" in (tmp_path / "evaluate.log").read_text()
    assert "2 of 4 images" in (tmp_path / "report.html").read_text()


def test_pictures_without_annotation(
    run_folder: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "мои=1"
    for number, name in enumerate(("a.jpg", "x/a.jpg", "x y/b.PNG", "x/a.png", ".hidden/c.jpg")):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50 + number, 40), (number * 40, 90, 200)).save(pictures / name)
    (pictures / "notes.txt").touch()
    before = record_of(run_folder / "evaluation") if (run_folder / "evaluation").exists() else None
    # The data of the run are gone: its checkpoint knows the classes.
    gone = f"data.root={tmp_path / 'gone'}"
    command(evaluate.main, [f"run={run_folder}", f"images='{pictures}'", gone])
    written = run_folder / "pictures/мои=1"
    table = json.loads((written / "predictions.json").read_text())
    names = ["a.jpg", "x y/b.PNG", "x/a.jpg", "x/a.png"]
    assert [row["file_name"] for row in table["images"]] == names
    assert [row["width"] for row in table["images"]] == [50, 52, 51, 53]
    for row, image in zip(table["annotations"], table["images"], strict=True):
        with Image.open(written / "predictions" / row["file_name"]) as ids:
            assert ids.size == (image["width"], 40)
    drawn = {str(path.relative_to(written / "images")) for path in written.rglob("images/**/*.png")}
    assert drawn == {"a.png", "x y/b.png", "x/a.png", "x/a.png.png"}
    assert not (written / "metrics.json").exists()
    assert "nothing is scored" in capsys.readouterr().out
    if before is not None:
        assert record_of(run_folder / "evaluation") == before


def test_a_checkpoint_without_its_run_tells_model_and_classes(
    run_folder: Path, tmp_path: Path, command: Command
) -> None:
    ckpt = tmp_path / "moved.ckpt"
    shutil.copy(run_folder / "checkpoints/last.ckpt", ckpt)
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "pictures/a.png")
    output = tmp_path / "out"
    images = f"images={tmp_path / 'pictures'}"
    command(evaluate.main, [f"ckpt={ckpt}", images, f"output={output}", "hardware=cpu"])
    assert (output / "images/a.png").is_file()


def test_pictures_that_cannot_be_meant(run_folder: Path, tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "a").mkdir()
    picture = tmp_path / "a/b.png"
    Image.new("RGB", (40, 40)).save(picture)
    run = f"run={run_folder}"
    assert "is not a folder; give one" in refusal(evaluate.main, [run, f"images={picture}"])
    said = refusal(evaluate.main, [run, f"images={tmp_path}", f"output={tmp_path / 'a/out'}"])
    assert "results would be taken for pictures" in said
    said = refusal(evaluate.main, [run, f"images={tmp_path}", "tolerance=0.3"])
    assert "no ground truth to score; leave out tolerance" in said


def test_two_ranks_give_the_same_to_the_last_bit(
    run_folder: Path, tmp_path: Path, command: Command
) -> None:
    arguments = [f"run={run_folder}", "data.val_batch_size=1"]
    # A folder of its own: what replaces the data set of the other tests may not be replaced again.
    arguments += ["++data.val_dataset.val_images=3", f"data.root={tmp_path / 'three'}"]
    for devices in (1, 2):
        options = [
            f"trainer.devices={devices}",
            "hardware=cpu",
            f"output={tmp_path / str(devices)}",
        ]
        command(evaluate.main, [*arguments, *options])
    one, two = (tmp_path / name for name in "12")
    assert record_of(one)["images"] == 3
    for name in ("metrics.json", "predictions.json", "classes.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
