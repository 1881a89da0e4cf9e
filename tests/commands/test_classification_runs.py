"""Classification from end to end, with the real classes in their smallest form."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from imagenet_tree import CLASSES, flatten_val, write_devkit, write_tree
from PIL import Image
from terminal import unwrapped

from axialseg.commands import attention, evaluate, train
from axialseg.loggers.csv import read_table

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]

SMALL_NET = [
    "model.backbone.stage_blocks=[1,1,1,1]",
    "model.backbone.stage_channels=[16,16,32,32]",
    "hardware=cpu",
]


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training and 6 validation images of three classes that differ in colour."""
    return write_tree(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="session")
def tiny_classification(tree: Path) -> list[str]:
    """Overrides for a run that takes a second or two."""
    return [
        *SMALL_NET,
        "model=axial_resnet_tiny",
        "data=imagenet",
        f"data.root={tree}",
        "data.crop_size=[32,32]",
        "data.val_batch_size=4",
        "data.num_workers=0",
        "data.val_num_workers=0",
        "schedule=patterns",
        "schedule.batch_size=4",
        "schedule.warmup_steps=1",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
    ]


@pytest.fixture(scope="module")
def run_folder(tiny_classification: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", *tiny_classification, f"hydra.run.dir={folder}"])
        train.main()
    return folder


def test_learns(tiny_classification: list[str], tmp_path: Path, command: Command) -> None:
    longer = ["schedule.batch_size=12", "schedule.lr=1e-2", "trainer.max_steps=25"]
    longer += ["trainer.val_check_interval=25", "trainer.log_every_n_steps=1"]
    command(train.main, [*tiny_classification, *longer, f"hydra.run.dir={tmp_path}"])
    rows = [row for _, row in read_table(tmp_path / "metrics.csv")]
    losses = [row["train/cross_entropy"] for row in rows if "train/cross_entropy" in row]
    assert len(losses) == 25
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert json.loads((tmp_path / "metrics.json").read_text())["top1"] == 100.0


def test_run_leaves_what_it_promises(run_folder: Path) -> None:
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert (metrics["step"], metrics["images"]) == (4, 6)
    assert 0.0 <= metrics["top1"] <= metrics["top5"] == 100.0  # three classes
    assert [row["class_id"] for row in metrics["classes"]] == list(CLASSES)
    assert sum(row["images"] for row in metrics["classes"]) == 6
    rows = dict(read_table(run_folder / "metrics.csv"))
    assert [step for step, row in rows.items() if "val/top1" in row] == [2, 4]
    assert rows[4]["val/top1"] == pytest.approx(metrics["top1"])
    for name in ("curves.png", "images/validation.png"):
        with Image.open(run_folder / name) as picture:
            assert min(picture.size) > 200
    log = (run_folder / "train.log").read_text()
    assert "Validation at step 4, 6 images" in log
    assert re.search(r"top-1 +\d", log)
    assert re.search(r"cross_entropy \d", log)
    shown = re.search(r"python evaluate.py run=(\S+)", log)
    assert shown
    assert Path(shown[1]).resolve() == run_folder.resolve()


def test_evaluation_repeats_the_metrics_to_the_last_digit(
    run_folder: Path, tmp_path: Path, command: Command
) -> None:
    command(evaluate.main, [f"run={run_folder}", f"output={tmp_path}"])
    assert (tmp_path / "metrics.json").read_bytes() == (run_folder / "metrics.json").read_bytes()
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(
        f"{name}/{name}_{number}.JPEG" for name in CLASSES for number in range(2)
    )
    hits = [row["class"] == row["guess1"] for row in rows]
    top1 = json.loads((tmp_path / "metrics.json").read_text())["top1"]
    assert top1 == pytest.approx(100 * sum(hits) / 6)
    for row in rows:
        assert row["image"].startswith(row["class"])
        probabilities = [float(row[f"p{place}"]) for place in (1, 2, 3)]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-5)
        assert {row[f"guess{place}"] for place in (1, 2, 3)} == set(CLASSES)
    assert (tmp_path / "images/validation.png").is_file()


def test_evaluates_on_the_official_validation_layout(
    run_folder: Path, tree: Path, tmp_path: Path, command: Command
) -> None:
    root = tmp_path / "official"
    shutil.copytree(tree, root)
    write_devkit(root, flatten_val(root))
    shutil.rmtree(root / "train")
    arguments = [f"run={run_folder}", f"data.root={root}", f"output={tmp_path / 'out'}"]
    command(evaluate.main, arguments)
    ours = json.loads((tmp_path / "out/metrics.json").read_text())
    theirs = json.loads((run_folder / "metrics.json").read_text())
    assert (ours["top1"], ours["images"]) == (theirs["top1"], theirs["images"])
    assert ours["classes"][0]["name"] == "name 0, other name"


def test_interrupted_and_uninterrupted_weights_are_equal(
    tiny_classification: list[str], run_folder: Path, tmp_path: Path, command: Command
) -> None:
    longer = [*tiny_classification, "trainer.max_steps=6", "schedule.curve.max_steps=4"]
    command(train.main, [*longer, f"hydra.run.dir={tmp_path / 'whole'}"])
    command(train.main, [*longer, f"resume={run_folder}", f"hydra.run.dir={tmp_path / 'rest'}"])
    assert "from step 4 to 6" in (tmp_path / "rest/train.log").read_text()
    whole, rest = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "rest")
    )
    assert whole.keys() == rest.keys()
    assert all(torch.equal(value, rest[name]) for name, value in whole.items())
    metrics = [(tmp_path / name / "metrics.json").read_bytes() for name in ("whole", "rest")]
    assert metrics[0] == metrics[1]


def test_several_devices_score_each_image_once(
    tiny_classification: list[str], tmp_path: Path, command: Command
) -> None:
    arguments = [*tiny_classification, "trainer.devices=2", "trainer.max_steps=1"]
    arguments += ["+callbacks.predictions._target_=${model.callbacks.predictions}"]
    command(train.main, [*arguments, f"hydra.run.dir={tmp_path}"])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["images"] == 6
    assert [row["images"] for row in metrics["classes"]] == [2, 2, 2]
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["image"] for row in rows}) == len(rows) == 6
    hits = sum(row["class"] == row["guess1"] for row in rows)
    assert metrics["top1"] == pytest.approx(100 * hits / 6)


def test_logs_to_wandb(tiny_classification: list[str], tmp_path: Path, command: Command) -> None:
    arguments = [*tiny_classification, "trainer.max_steps=1", "logger=wandb_offline"]
    command(train.main, [*arguments, f"hydra.run.dir={tmp_path}"])
    (folder,) = (tmp_path / "wandb").glob("offline-run-*/files/media")
    assert list(folder.glob("images/val/images_*.png"))
    assert list(folder.glob("table/classes/table_*.table.json"))


def test_attention_of_a_classifier(
    run_folder: Path, tree: Path, tmp_path: Path, command: Command, refusal: Refusal
) -> None:
    image = next((tree / "val").glob("*/*.JPEG"))  # 40 x 48
    arguments = [f"ckpt={run_folder / 'checkpoints/last.ckpt'}", f"image={image}", "layer=stage3.0"]
    output = tmp_path / "drawn.png"
    command(attention.main, [*arguments, "query=[20,24]", f"output={output}"])
    assert output.is_file()
    message = refusal(attention.main, [*arguments, "query=[20,0]"])
    assert "query=[20,0] lies outside the middle of" in message


def segmentation(shapes: list[str], checkpoint: Path, folder: Path, *overrides: str) -> str:
    """Trains a segmentation model of the same backbone for no step's worth; gives the log."""
    arguments = [*shapes, *overrides, f"model.initial_checkpoint={checkpoint}", "schedule.lr=0"]
    with pytest.MonkeyPatch.context() as patch:
        run = [*arguments, "trainer.max_steps=1", f"hydra.run.dir={folder}"]
        patch.setattr("sys.argv", ["train.py", *run])
        train.main()
    return (folder / "train.log").read_text()


def kernels(file: Path) -> dict[str, torch.Tensor]:
    state = torch.load(file, weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if value.ndim in (2, 4)}


def test_checkpoint_starts_a_segmentation_model(
    run_folder: Path, tiny_run: list[str], tmp_path: Path
) -> None:
    checkpoint = run_folder / "checkpoints/last.ckpt"
    log = segmentation(tiny_run, checkpoint, tmp_path)
    assert re.search(r"last\.ckpt: \d+ of the model's \d+ tensors are loaded", log)
    assert re.search(r"loaded: backbone\.stem \d+, backbone\.stages \d+\n", log)
    left = re.search(
        r"left at initialisation: \d+ tensors \(nothing of it is in the file\): (.*)", log
    )
    assert left
    parts = {part.split()[0] for part in left[1].split(", ")}
    assert parts == {
        "semantic_decoder", "instance_decoder", "semantic_head", "center_head", "offset_head",
    }  # fmt: skip
    taken = "classifier.weight, classifier.bias (the model has no such part)"
    assert f"not taken from the file: {taken}" in log
    before, after = kernels(checkpoint), kernels(tmp_path / "checkpoints/last.ckpt")
    backbone = [name for name in after if name.startswith("net.backbone.")]
    assert len(backbone) > 20
    assert all(torch.equal(before[name], after[name]) for name in backbone)


def test_checkpoint_with_another_stem_starts_a_segmentation_model(
    run_folder: Path, tiny_run: list[str], tmp_path: Path
) -> None:
    checkpoint = run_folder / "checkpoints/last.ckpt"
    stem = ["model/stem@model.backbone.stem=conv", "model.backbone.stem.channels=96"]
    log = segmentation(tiny_run, checkpoint, tmp_path, *stem)
    assert re.search(r"loaded: backbone\.stages \d+\n", log)
    assert "(the file has another kind of stem): backbone.stem 5" in log
    readers = [
        "backbone.stages.stage2.0.branch.conv1.conv.weight",
        "backbone.stages.stage2.0.shortcut.conv.weight",
    ]
    reason = "it reads the stem, which is of another kind in the file"
    assert f"left at initialisation: {', '.join(readers)} ({reason})" in log
    before, after = kernels(checkpoint), kernels(tmp_path / "checkpoints/last.ckpt")
    stages = [name for name in after if name.startswith("net.backbone.stages.")]
    same = {name for name in stages if before[name].shape == after[name].shape}
    assert {name.removeprefix("net.") for name in set(stages) - same} == set(readers)
    assert all(torch.equal(before[name], after[name]) for name in same)


def test_a_classifier_of_another_width_is_refused(
    run_folder: Path, tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wider = ["model.backbone.stage_channels=[16,16,32,64]"]
    with pytest.raises(SystemExit):
        segmentation(tiny_run, run_folder / "checkpoints/last.ckpt", tmp_path, *wider)
    message = unwrapped(capsys.readouterr().err)
    assert "is of another architecture than the model: backbone.stages" in message


def test_checkpoint_of_other_classes_starts_a_classifier(
    run_folder: Path, tiny_classification: list[str], tmp_path: Path, command: Command
) -> None:
    root = write_tree(tmp_path / "two")
    for split in ("train", "val"):
        shutil.rmtree(root / split / CLASSES[0])
    start = [f"model.initial_checkpoint={run_folder / 'checkpoints/last.ckpt'}"]
    start += [f"data.root={root}", "trainer.max_steps=1", f"hydra.run.dir={tmp_path / 'run'}"]
    command(train.main, [*tiny_classification, *start])
    log = (tmp_path / "run/train.log").read_text()
    assert "another number of classes, [3] in the file, [2] in the model" in log


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data=imagenet"], "segments images, but the data have one class for each whole image"),
        (["model=axial_resnet_50_s"], "classifies whole images, but the data are panoptic"),
        (["model=axial_resnet_tiny", "data=coco"], "choose data=imagenet or another data set"),
        (["model=max_deeplab_s", "data=patterns"], "choose a classifier, as model=axial"),
        (["-m", "model=axial_resnet_tiny", "data=patterns,shapes"], "data are panoptic"),
    ],
)
def test_model_and_data_must_fit(arguments: list[str], sentence: str, refusal: Refusal) -> None:
    message = refusal(train.main, [*arguments, "data.root=/none"])
    assert sentence in message


def test_model_and_data_must_fit_in_an_evaluation(run_folder: Path, refusal: Refusal) -> None:
    message = refusal(evaluate.main, [f"run={run_folder}", "data=coco", "data.root=/none"])
    assert "the model axial_resnet_tiny classifies whole images" in message
