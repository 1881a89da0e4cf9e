"""`python -m axialseg check-data`: its report, its exit codes, and training's own first look."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cityscapes_tree
import pytest
from coco_tree import COUNT, change_json, json_file, write_tree
from terminal import unwrapped

from axialseg.commands import check_data, train

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]
IMAGE = "000000000002.jpg"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tree(tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def run(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the command; gives its exit code and what it prints."""

    def check(*arguments: str) -> tuple[int, str]:
        code = 0
        try:
            command(check_data.main, [*arguments, "workers=0", f"output={tmp_path / 'report'}"])
        except SystemExit as stopped:
            code = stopped.code
        return code, capsys.readouterr().out

    return check


def test_faultless_data(root: Path, run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, text = run("data=coco_format", f"data.root={root}", "samples=2")
    assert code == 0
    assert "train: 5 of 5 images (100 %), 0 errors, 0 warnings" in text
    assert "val: 5 images, 20 segments, 5 crowds; 0 errors, 0 warnings" in text
    assert "Training can start: no errors." in text
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"index.html", "findings.csv", "statistics.json"}
    numbers = json.loads((tmp_path / "report" / "statistics.json").read_text())
    assert [split["images"] for split in numbers.values()] == [COUNT, COUNT]
    assert (tmp_path / "report" / "index.html").read_text().count("<figure>") == 4


def test_errors_end_with_code_1(
    root: Path, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (root / "train2017" / IMAGE).unlink()
    change_json(root, lambda c: c["annotations"][0]["segments_info"][1].update(area=1), "val")
    code, text = run("data=coco_format", f"data.root={root}")
    assert code == 1
    assert f"{root}/train2017/{IMAGE} does not exist; unpack the images into" in text
    assert "warning: wrong area, 1" in text
    assert "Training would fail: 1 error." in text
    with (tmp_path / "report" / "findings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["severity"], row["kind"]) for row in rows] == [
        ("train", "error", "missing file"),
        ("val", "warning", "wrong area"),
    ]
    assert rows[0]["file"] == f"{root}/train2017/{IMAGE}"
    assert run("data=coco_format", f"data.root={root}", "split=val")[0] == 0


def test_other_classes_in_the_other_half(root: Path, run: Callable[..., tuple[int, str]]) -> None:
    change_json(root, lambda c: c["categories"].pop(0), "val")
    change_json(root, lambda c: [a["segments_info"].pop() for a in c["annotations"]], "val")
    code, text = run("data=coco_format", f"data.root={root}")
    assert code == 1
    assert "training and validation files list different categories" in text


def test_data_set_without_boxes_or_areas(root: Path, run: Callable[..., tuple[int, str]]) -> None:
    for split in ("train", "val"):
        change_json(
            root,
            lambda content: [
                segment.pop(key)
                for annotation in content["annotations"]
                for segment in annotation["segments_info"]
                for key in ("area", "bbox")
            ],
            split,
        )
    code, text = run("data=coco_format", f"data.root={root}")
    assert (code, text.count("0 errors, 0 warnings (")) == (0, 2)


def test_cityscapes(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    cityscapes_tree.write_tree(tmp_path / "city")
    code, text = run("data=cityscapes", f"data.root={tmp_path / 'city'}")
    assert code == 0
    assert "train: 2 images" in text
    assert "val: 1 images" in text


def test_user_mistakes_end_with_code_2(refusal: Refusal, root: Path) -> None:
    own = ["data=coco_format", f"data.root={root}"]
    assert "/none does not exist" in refusal(check_data.main, ["data=coco", "data.root=/none"])
    assert "split=trian does not exist; there are: all, train, val" in refusal(
        check_data.main, [*own, "split=trian"]
    )
    assert "workers=-1" in refusal(check_data.main, [*own, "workers=-1"])
    assert "splt" in refusal(check_data.main, [*own, "splt=val"])
    assert "data=cocoo does not exist" in refusal(check_data.main, ["data=cocoo"])
    json_file(root).unlink()
    assert "panoptic_train2017.json does not exist" in refusal(check_data.main, own)


def test_output_that_can_not_be_written(refusal: Refusal, root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["data=coco_format", f"data.root={root}", "workers=0"]
    message = refusal(check_data.main, [*arguments, f"output={tmp_path / 'file' / 'report'}"])
    assert "cannot be written" in message


def test_training_says_the_same_before_it_starts(
    tiny_run: list[str],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shapes = ("dataset", "data.root")
    arguments = [line for line in tiny_run if not any(name in line for name in shapes)]
    arguments += ["data=coco_format", f"data.root={root}", "schedule=shapes"]
    arguments += [f"hydra.run.dir={tmp_path / 'run'}", "data.eval_size=[33,33]"]
    # Not the images of the first batches, which reading alone would stumble over.
    for name in ("000000000000.jpg", "000000000001.jpg"):
        (root / "val2017" / name).unlink()
    monkeypatch.setattr("sys.argv", ["train", *arguments, "data.val_num_workers=0"])
    with pytest.raises(SystemExit) as stopped:
        train.main()
    message = unwrapped(capsys.readouterr().err)
    assert stopped.value.code == 2
    assert message == (
        f"error: {root}/val2017/000000000000.jpg does not exist; unpack the images into "
        f"{root}/val2017 (1 more like it: python -m axialseg check-data names them all).\n"
    )
    assert not (tmp_path / "run" / "metrics.json").exists()
