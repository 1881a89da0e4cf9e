"""`python -m axialseg import-data`: each kind of annotation becomes a data set that reads back."""

import base64
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from axialseg.commands import import_data
from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.sample import PanopticSample

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]
SIZE = (12, 20)


@pytest.fixture
def run(command: Command, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command, which must find no error in what it made; gives what it prints."""

    def imports(source: Path, to: Path, *arguments: str) -> str:
        command(import_data.main, [f"from={source}", f"to={to}", *arguments])
        text = capsys.readouterr().out
        assert "Training can start: no errors." in text
        return text

    return imports


def read(root: Path, split: str = "train") -> tuple[CocoPanoptic, dict[str, PanopticSample]]:
    name = f"annotations/panoptic_{split}2017"
    dataset = CocoPanoptic(root, f"{split}2017", f"{name}.json", name)
    samples = [dataset.read(index) for index in range(len(dataset))]
    return dataset, {sample.name: sample for sample in samples}


def class_map(sample: PanopticSample) -> list[list[int]]:
    return sample.segments.semantic_map(0).tolist()


def photograph(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def counts(root: Path) -> dict[str, int]:
    return json.loads((root / "import_report.json").read_text())["decided"]


# --- COCO instances ---


def instances() -> dict[str, Any]:
    mask = np.zeros(SIZE, np.uint8)
    mask[8:11, 12:18] = 1
    packed = coco_masks.encode(np.asfortranarray(mask))["counts"].decode()
    lengths = np.diff(np.flatnonzero(np.diff(np.concatenate(([2], mask.ravel("F"), [2])))))
    shapes = [
        ("1", 1, [[0, 0, 10, 0, 10, 6, 0, 6]]),
        (1, 1, [[2, 2, 6, 2, 6, 4, 2, 4]]),
        (1, 3, {"size": list(SIZE), "counts": packed}),
        (2, 3, {"size": list(SIZE), "counts": lengths.tolist()}),
        (2, "1", [[0, 0, 1, 1]]),
        (2, 1, []),
        (2, 3, [[0, 11, 20, 11, 20, 12, 0, 12]]),
    ]
    return {
        "images": [
            {"id": 1, "file_name": "a/rgb.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 2, "file_name": "b/rgb.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 3, "file_name": "gone.png"},
            {"id": 4, "file_name": "../../secret/bare.png"},
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "segmentation": drawn}
            | ({"iscrowd": "0"} if n == 0 else {"iscrowd": 0})
            for n, (image, category, drawn) in enumerate(shapes)
        ],
        "categories": [
            {"id": 0, "name": "root", "supercategory": "none"},
            {"id": 1, "name": "car"},
            {"id": 3, "name": "road"},
        ],
    }


def write_instances(folder: Path) -> Path:
    for number, name in enumerate(("a/rgb.png", "b/rgb.png", "bare.png")):
        photograph(folder / "images" / name, number)
    (folder / "instances.json").write_text(json.dumps(instances()))
    return folder / "instances.json"


def test_coco_instances(run: Callable[..., str], tmp_path: Path) -> None:
    file = write_instances(tmp_path / "source")
    text = run(file, tmp_path / "own", "things=[car]", "val_share=0")
    dataset, samples = read(tmp_path / "own")
    rows = [(c.name, c.is_thing, c.official_id) for c in dataset.categories.classes]
    assert rows == [("root", False, 0), ("car", True, 1), ("road", False, 3)]
    assert set(samples) == {"a/rgb.png", "b/rgb.png"}
    first, second = samples["a/rgb.png"], samples["b/rgb.png"]
    np.testing.assert_array_equal(first.image, photograph(tmp_path / "x.png", 0))
    assert first.segments.class_ids.tolist() == [2, 2, 3]
    assert first.segments.areas().tolist() == [60 - 8, 8, 18]
    assert second.segments.class_ids.tolist() == [3]
    assert second.segments.areas().tolist() == [18 + 20]
    assert counts(tmp_path / "own") == {
        "pixels in several shapes, given to the smaller one": 8,
        "polygons with fewer than three points or damaged masks, left out": 1,
        "shapes without pixels, left out": 1,
        "objects without a shape (a box alone), left out": 1,
        "images without a shape, left out": 2,
    }
    assert "8 pixels in several shapes, given to the smaller one" in text
    assert "1 of 3 classes are in no image: root" in text


def test_the_rest_may_be_a_class_and_images_be_split(
    run: Callable[..., str], tmp_path: Path
) -> None:
    file = write_instances(tmp_path / "source")
    run(file, tmp_path / "own", "rest=ground", "val_share=0.34", "seed=3")
    dataset, samples = read(tmp_path / "own")
    _, validation = read(tmp_path / "own", "val")
    assert len(samples) == 2
    assert len(validation) == 1
    # By its last part, below the folder of the images; what lies elsewhere is not opened.
    assert set(samples) | set(validation) == {"a/rgb.png", "b/rgb.png", "bare.png"}
    assert [c.is_thing for c in dataset.categories.classes] == [True, True, True, False]
    bare = (samples | validation)["bare.png"]
    assert bare.segments.class_ids.tolist() == [4]
    assert all((sample.segments.id_map > 0).all() for sample in samples.values())
    assert counts(tmp_path / "own")["photographs that are listed but not there, left out"] == 1


def test_an_export_with_splits(run: Callable[..., str], tmp_path: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        folder = tmp_path / "export" / split
        photograph(folder / f"{split}.png", number)
        content = instances()
        content["images"] = [content["images"][0] | {"file_name": f"{split}.png"}]
        content["annotations"] = content["annotations"][:3]
        (folder / "_annotations.coco.json").write_text(json.dumps(content))
    run(tmp_path / "export", tmp_path / "own")
    assert set(read(tmp_path / "own")[1]) == {"train.png"}
    assert set(read(tmp_path / "own", "val")[1]) == {"valid.png"}


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_turned_photographs(run: Callable[..., str], tmp_path: Path, orientation: int) -> None:
    """Annotated upright, as tools show them; of the stored size alone, as stored."""
    file = write_instances(tmp_path / "source")
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = photograph(tmp_path / "x.png", 0)
    stored = {1: upright, 3: np.rot90(upright, 2), 6: np.rot90(upright)}[orientation]
    for name in ("a/rgb.png", "b/rgb.png"):
        Image.fromarray(stored).save(tmp_path / "source" / "images" / name, exif=exif)
    content = json.loads(file.read_text())
    if orientation == 6:  # the second was annotated by a tool that does not turn
        content["images"][1] |= {"height": SIZE[1], "width": SIZE[0]}
        content["annotations"] = [
            row for row in content["annotations"] if not isinstance(row["segmentation"], dict)
        ]
        file.write_text(json.dumps(content))
    run(file, tmp_path / "own", "val_share=0")
    _, samples = read(tmp_path / "own")
    np.testing.assert_array_equal(samples["a/rgb.png"].image, upright)
    second = {1: upright, 3: upright, 6: stored}[orientation]
    np.testing.assert_array_equal(samples["b/rgb.png"].image, second)
    told = counts(tmp_path / "own")
    assert (
        told.get("photographs turned upright by their Exif data", 0)
        == {1: 0, 3: 2, 6: 1}[orientation]
    )


# --- label images ---


def write_labels(folder: Path, mode: str) -> np.ndarray:
    """Two people who do not touch, on background; one unknown pixel, one of VOC's void."""
    labels = np.zeros(SIZE, np.uint8)
    labels[1:5, 1:5] = labels[6:9, 10:15] = 15
    labels[0, 19], labels[11, 19] = 99, 255
    (folder / "labels").mkdir(parents=True)
    picture = Image.fromarray(labels)
    if mode == "P":
        picture.putpalette([channel for n in range(256) for channel in (n, 255 - n, 7)])
    if mode == "RGB":
        colors = np.full((256, 3), 77, np.uint8)
        colors[0], colors[15] = (0, 0, 0), (192, 128, 128)
        picture = Image.fromarray(colors[labels])
    picture.save(folder / "labels" / "a_labelIds.png")
    Image.fromarray(labels).save(folder / "labels" / "lonely.png")
    photograph(folder / "images" / "a.png")
    photograph(folder / "images" / "other.png")
    return labels


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_label_images(run: Callable[..., str], tmp_path: Path, mode: str) -> None:
    labels = write_labels(tmp_path / "in", mode)
    arguments = [f"images={tmp_path}/in/images", "classes=voc", "val_share=0"]
    run(tmp_path / "in/labels", tmp_path / "own", *arguments, "things=[person]")
    dataset, samples = read(tmp_path / "own")
    assert len(dataset.categories) == 21
    segments = samples["a.png"].segments
    assert segments.class_ids.tolist() == [1, 16, 16]
    assert segments.areas().tolist() == [SIZE[0] * SIZE[1] - 16 - 15 - 2, 16, 15]
    assert not segments.is_crowd.any()
    expected = np.where(labels == 15, 16, np.where(labels == 0, 1, 0))
    assert class_map(samples["a.png"]) == expected.tolist()
    told = counts(tmp_path / "own")
    assert told["things that are connected components of their class"] == 2
    assert told["label images without a photograph, left out"] == 1
    assert told["photographs without a label image, left out"] == 1
    assert told["pixels of a value that is not a class, made void"] == {"RGB": 2}.get(mode, 1)


def test_label_images_alone_are_a_semantic_task(run: Callable[..., str], tmp_path: Path) -> None:
    write_labels(tmp_path / "in", "L")
    (tmp_path / "classes.csv").write_text("id,name\n0,ground\n15,person\n")
    arguments = [f"images={tmp_path}/in/images", f"classes={tmp_path}/classes.csv", "val_share=0"]
    text = run(tmp_path / "in/labels", tmp_path / "own", *arguments)
    dataset, samples = read(tmp_path / "own")
    assert dataset.categories.thing_ids == ()
    assert samples["a.png"].segments.class_ids.tolist() == [1, 2]
    assert "none of the 2 classes is a thing" in text
    run(
        tmp_path / "in/labels",
        tmp_path / "more",
        *arguments,
        "things=[person]",
        "split_things=false",
    )
    segments = read(tmp_path / "more")[1]["a.png"].segments
    assert segments.is_crowd.tolist() == [False, True]
    assert counts(tmp_path / "more")["regions of things that were not told apart, made crowds"] == 1


def test_semantic_and_instance_images_of_cvat(run: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "cvat"
    labels = np.zeros((*SIZE, 3), np.uint8)
    labels[1:5, 1:9] = (0, 0, 142)
    labels[8:] = (128, 64, 128)
    objects = np.zeros((*SIZE, 3), np.uint8)
    objects[1:5, 1:4], objects[1:5, 4:8], objects[8:] = (9, 1, 1), (9, 2, 1), (9, 3, 1)
    for name, pixels in (("SegmentationClass", labels), ("SegmentationObject", objects)):
        (folder / name).mkdir(parents=True)
        Image.fromarray(pixels).save(folder / name / "a.png")
    photograph(folder / "JPEGImages" / "a.jpg")
    (folder / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:0,0,142::\nroad:128,64,128::\n"
    )
    run(folder, tmp_path / "own", "val_share=0", "things=[car]")
    dataset, samples = read(tmp_path / "own")
    assert [c.color for c in dataset.categories.classes][1] == (0, 0, 142)
    segments = samples["a.jpg"].segments
    # The last column of the cars has no object: a crowd.
    assert segments.class_ids.tolist() == [1, 2, 2, 2, 3]
    assert segments.is_crowd.tolist() == [False, True, False, False, False]
    assert segments.areas().tolist()[1:] == [4, 12, 16, 80]
    run(folder, tmp_path / "more", "val_share=0")
    things = [c.name for c in read(tmp_path / "more")[0].categories.classes if c.is_thing]
    assert things == ["car", "road"]  # what the instance images show


# --- labelme ---


def test_labelme(run: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "labelme"
    photograph(folder / "imgs" / "a.png", 0)
    inside = photograph(tmp_path / "b.png", 1)
    buffer = BytesIO()
    Image.fromarray(inside).save(buffer, "PNG")
    mask = np.full((3, 4), 255, np.uint8)
    mask[0, 0] = 0
    picture = BytesIO()
    Image.fromarray(mask).save(picture, "PNG")
    shapes = [
        ("car", "polygon", [[0, 0], [4, 0], [4, 3], [0, 3]], 1, None),
        ("car", "rectangle", [[8, 0], [12, 3]], 1, None),
        ("car", "circle", [[15, 8], [15, 10]], None, None),
        ("road", "mask", [[2, 8], [5, 10]], None, base64.b64encode(picture.getvalue()).decode()),
        ("road", "linestrip", [[0, 0], [1, 1]], None, None),
    ]
    rows = [
        {"label": label, "shape_type": kind, "points": points, "group_id": group, "mask": mask}
        for label, kind, points, group, mask in shapes
    ]
    sizes = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    content = {"shapes": rows, "imagePath": "..\\imgs\\a.png", "imageData": None} | sizes
    (folder / "json").mkdir()
    (folder / "json" / "a.json").write_text(json.dumps(content))
    data = base64.b64encode(buffer.getvalue()).decode()
    content |= {"imagePath": "/home/me/b.png", "imageData": data, "shapes": rows[:1]}
    (folder / "json" / "b.json").write_text(json.dumps(content))
    run(folder, tmp_path / "own", "things=[car]", "val_share=0")
    dataset, samples = read(tmp_path / "own")
    assert [(c.name, c.is_thing) for c in dataset.categories.classes] == [
        *(("car", True), ("road", False))
    ]
    assert set(samples) == {"imgs/a.png", "json/b.png"}
    segments = samples["imgs/a.png"].segments
    assert segments.class_ids.tolist() == [1, 1, 2]
    assert segments.areas().tolist()[0] == 24
    assert abs(segments.areas().tolist()[1] - np.pi * 4) < 4
    assert segments.areas().tolist()[2] == 11
    np.testing.assert_array_equal(samples["json/b.png"].image, inside)
    told = counts(tmp_path / "own")
    assert told["shapes united with others of their group_id"] == 1
    assert told["points and lines, which have no area, left out"] == 1
    assert told["photographs taken from the JSON file"] == 1


# --- refusals ---


def change(folder: Path, **parts: Any) -> None:
    file = folder / "instances.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["to=x"], "from is not set; give it as from=<value>"),
        (["from={in}/instances.json"], "to is not set; give it as to=<value>"),
        (["from={in}/none.json", "to=x"], "none.json does not exist; give what is to be imported"),
        (["from={in}/instances.json", "to=x", "thing=[car]"], "did you mean things"),
        (["from={in}/instances.json", "to=x", "things=car"], "it must be a list, as things=[car,p"),
        (["from={in}/instances.json", "to=x", "things=[cra]"], "names cra, but"),
        (["from={in}/instances.json", "to=x", "val_share=2"], "it must be 0 or more and less"),
        (["from={in}/instances.json", "to={in}"], "exists and is not empty; give a new folder"),
        (["from={in}/images", "to=x"], "holds no JSON file and no SegmentationClass"),
        (["from={in}/images", "to=x", "images={in}/images"], "need a list of their classes; give"),
        (["from={in}/images", "to=x", "classes=voc"], "need the folder of their photographs; give"),
    ],
)
def test_refusals(tmp_path: Path, refusal: Refusal, arguments: list[str], message: str) -> None:
    write_instances(tmp_path / "in")
    lines = [argument.replace("{in}", f"{tmp_path}/in") for argument in arguments]
    assert message in refusal(import_data.main, lines)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"images": 7}, "is not a COCO instance file"),
        ({"annotations": [{"segments_info": []}]}, "is in COCO's panoptic format already"),
        ({"annotations": [7]}, "annotation 1 has no image_id"),
        ({"categories": []}, "lists no category"),
        ({"categories": [{"id": 1, "name": None}]}, "category 1 has the name null; give a name"),
        ({"images": [{"id": 1, "file_name": "none.png"}]}, "no photograph of"),
        ({"images": [{"id": 1, "file_name": 7}]}, "image 1 has the file_name 7; give the name"),
    ],
)
def test_wrong_files(tmp_path: Path, refusal: Refusal, parts: dict, message: str) -> None:
    write_instances(tmp_path / "in")
    change(tmp_path / "in", **parts)
    arguments = [f"from={tmp_path}/in/instances.json", "to=x"]
    assert message in refusal(import_data.main, arguments)
