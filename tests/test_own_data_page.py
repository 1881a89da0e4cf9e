"""The commands of docs/own_data.md work as they stand there, shortened."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coco_tree import write_tree
from hydra._internal.utils import get_args_parser
from PIL import Image

from axialseg.commands import check_data, evaluate, import_data, memory, predict, train
from axialseg.commands.command_line import check_command_line
from axialseg.config.schema import register_schemas

PAGE = Path(__file__).resolve().parents[1] / "docs/own_data.md"
COMMANDS = re.findall(r"^    (python .+)$", PAGE.read_text(), re.MULTILINE)
IMPORTS = re.findall(r"`(python -m axialseg import-data .+?)`", PAGE.read_text())
LAYOUTS = re.findall(r"`(python train.py .+?)`", PAGE.read_text())
CLASSES = "id,name\n1,road\n2,car\n3,person\n"
TRAINED = [line for line in COMMANDS if line.startswith("python train.py")]
FROM_CHECKPOINT = [line for line in TRAINED if "initial_checkpoint" in line]
SHORT = [
    "model.backbone.stage_blocks=[1,1,1,1]",
    "model.backbone.stage_channels=[16,16,32,32]",
    "hardware=cpu",
    "trainer.max_steps=2",
]

Command = Callable[[Callable[[], None], list[str]], None]


def arguments(line: str) -> list[str]:
    return shlex.split(line)[2:]


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tree(tmp_path / "photos", ("train",))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_is_one_of_these() -> None:
    others = [line for line in COMMANDS if line not in TRAINED]
    starts = sorted({" ".join(line.split()[:4]) for line in others})
    assert starts == [
        "python -m axialseg check-data",
        "python -m axialseg memory",
        "python -m axialseg predict",
        "python evaluate.py run=outputs/axial_hybrid_tiny_coco_format/<time>",
        "python evaluate.py run=outputs/axial_hybrid_tiny_coco_format/<time> images=holiday",
    ]
    assert len(FROM_CHECKPOINT) == 3
    assert len(LAYOUTS) == 2


@pytest.mark.usefixtures("photographs")
def test_check_data(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [line for line in COMMANDS if "check-data" in line]
    command(check_data.main, arguments(line)[2:])
    assert "Training can start: no errors." in capsys.readouterr().out


@pytest.mark.parametrize("line", IMPORTS)
def test_import(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    words = arguments(line)[2:]
    write_export(words[0].removeprefix("from="))
    command(import_data.main, words)
    content = json.loads(Path("photos/annotations/panoptic_train2017.json").read_text())
    classes = {row["name"]: row["isthing"] for row in content["categories"]}
    assert {name: classes[name] for name in ("road", "car")} == {"road": 0, "car": 1}
    assert len(content["images"]) == 2
    names = {row["id"]: row["name"] for row in content["categories"]}
    for row in content["annotations"]:
        found = sorted(names[segment["category_id"]] for segment in row["segments_info"])
        assert found == ["car", "car", *["person"] * ("labelme" in line), "road"]


def test_every_tool_is_tried() -> None:
    assert len(IMPORTS) == 6
    assert CLASSES.replace("\n", "\n    ").rstrip() in PAGE.read_text()


CARS = ((2, 2, 10, 8), (14, 2, 22, 8))  # x, y, x, y
ROAD = (0, 16, 40, 24)
PERSON = (30, 2, 33, 9)  # of labelme, which has no other list of classes


def write_export(folder: str) -> None:
    """What a tool exports: two photographs of two cars on a road; Roboflow's has a third."""
    place = Path(folder)
    names = ["a.jpg", "b.jpg"]
    where = {
        "cvat_export": "images/default",
        "label_studio_export": "images",
        "masks": "../pictures",
    }
    if folder == "roboflow_export":
        for split, part in (("train", names), ("valid", ["c.jpg"])):
            photograph(place / split, part)
            (place / split / "_annotations.coco.json").write_text(coco_instances(part))
        return
    photograph(place / where.get(folder, "JPEGImages" if folder == "cvat_masks" else ""), names)
    if folder == "cvat_export":
        (place / "annotations").mkdir()
        (place / "annotations/instances_default.json").write_text(coco_instances(names))
    elif folder == "label_studio_export":
        text = coco_instances([f"images\\{name}" for name in names])
        (place / "result.json").write_text(text)
    elif folder == "labelme_folder":
        for name in names:
            (place / name).with_suffix(".json").write_text(labelme(name))
    else:
        write_masks(place, names)


def photograph(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (40, 24), (90, 120, 60)).save(folder / name)


def coco_instances(names: list[str]) -> str:
    boxes = [(2, box) for box in CARS] + [(1, ROAD)]
    rows = [
        {
            "id": 10 * image + number,
            "image_id": image,
            "category_id": category,
            "iscrowd": 0,
            "segmentation": [[x, y, right, y, right, bottom, x, bottom]],
        }
        for image in range(len(names))
        for number, (category, (x, y, right, bottom)) in enumerate(boxes)
    ]
    images = [
        {"id": n, "file_name": name, "height": 24, "width": 40} for n, name in enumerate(names)
    ]
    classes = [{"id": 1, "name": "road"}, {"id": 2, "name": "car"}, {"id": 3, "name": "person"}]
    return json.dumps({"images": images, "annotations": rows, "categories": classes})


def labelme(name: str) -> str:
    shapes = [
        {"label": label, "shape_type": "rectangle", "points": [box[:2], box[2:]]}
        for label, box in (("road", ROAD), ("person", PERSON), *(("car", box) for box in CARS))
    ]
    size = {"imageHeight": 24, "imageWidth": 40}
    return json.dumps({"shapes": shapes, "imagePath": name, "imageData": None, **size})


def write_masks(place: Path, names: list[str]) -> None:
    labels, objects = (np.zeros((24, 40), np.uint8) for _ in range(2))
    for number, (x, y, right, bottom) in enumerate([ROAD, *CARS]):
        labels[y:bottom, x:right] = 1 if number == 0 else 2
        objects[y:bottom, x:right] = number + 1
    if place.name == "masks":
        Path("classes.csv").write_text(CLASSES)
        place.mkdir(exist_ok=True)
        for name in names:
            Image.fromarray(labels).save(place / name.replace(".jpg", ".png"))
        return
    colors = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142)], np.uint8)
    lines = ["# label:color_rgb:parts:actions", "road:128,64,128::", "car:0,0,142::"]
    (place / "labelmap.txt").write_text("\n".join([*lines, "person:220,20,60::", ""]))
    for part, pixels in (
        ("SegmentationClass", colors[labels]),
        ("SegmentationObject", np.stack([objects * 50] * 3, -1)),
    ):
        (place / part).mkdir()
        for name in names:
            Image.fromarray(pixels).save(place / part / name.replace(".jpg", ".png"))


@pytest.mark.parametrize("line", [line for line in TRAINED if line not in FROM_CHECKPOINT])
def test_training(line: str, photographs: Path, command: Command) -> None:
    given = [a for a in arguments(line) if not a.startswith("trainer.max_steps")]
    command(train.main, [*given, *SHORT])
    (run,) = (photographs / "outputs/axial_hybrid_tiny_coco_format").iterdir()
    assert (run / "checkpoints/last.ckpt").is_file()
    is_validated = "val_dataset=null" not in line
    for name in ("images.csv", "metrics.json", "checkpoints/best.ckpt", "images/worst"):
        assert (run / name).exists() == is_validated, name
    if line == TRAINED[0]:
        (photographs / "photos").rename(photographs / "holiday")
        used = [line for line in COMMANDS if "<time>" in line]
        scored, segmented = (
            [shlex.split(line.replace("<time>", run.name)) for line in used if start in line]
            for start in ("evaluate.py", "axialseg predict")
        )
        command(evaluate.main, scored[1][2:])
        command(predict.main, segmented[0][4:])
        names = {f"train2017/{n:012d}" for n in range(5)}
        table = json.loads((run / "pictures/holiday/predictions.json").read_text())
        assert names < {row["id"] for row in table["images"]}
        for name in names:
            assert (photographs / f"holiday_segmented/{name}_overlay.jpg").is_file()
        (photographs / "holiday").rename(photographs / "photos")
        command(evaluate.main, scored[0][2:])
        assert (run / "evaluation/metrics.json").is_file()


@pytest.mark.usefixtures("photographs")
@pytest.mark.parametrize("line", [*FROM_CHECKPOINT, *LAYOUTS])
def test_fine_tuning_and_other_layouts_are_valid_commands(line: str) -> None:
    register_schemas()
    args = get_args_parser().parse_args(arguments(line))
    check_command_line("train", args, train.check_training)


@pytest.mark.parametrize("line", [line for line in COMMANDS if "axialseg memory" in line])
def test_planner(line: str, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    counted = []
    monkeypatch.setattr(memory, "_plan", lambda *rest: counted.append(rest[1]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):  # the count itself takes long
        command(memory.main, arguments(line)[2:])
    assert len(counted) == 1
