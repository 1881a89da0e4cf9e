"""A fuzzer: whatever is broken in a data set, the doctor and training say so in a sentence, alike.

Each damage is drawn from a seed. CI tries 150; `AXIALSEG_DAMAGES=5000 pytest <this file>` more.
"""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from coco_tree import json_file, write_tree
from lightning.pytorch.trainer.states import TrainerFn
from numpy.random import Generator
from PIL import Image

from axialseg.commands.check_data import _compare_classes
from axialseg.data_check.check import check_split
from axialseg.data_check.page import page
from axialseg.data_check.report import summary_lines, write_findings, write_statistics
from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.datamodule import PanopticDataModule
from axialseg.datasets.targets import PanopticDeepLabTargets
from axialseg.datasets.transforms import EvalTransform, TrainTransform
from axialseg.errors import UserError

DAMAGES = int(os.environ.get("AXIALSEG_DAMAGES", "150"))
PARTS = 5
STRANGE: list[Any] = [
    *(None, float("nan"), float("inf"), "", "0", "1", "x", " ", -1, 0, 1, 2, 2**31, 2**70, 1.5),
    *(7.0, True, False, [], {}, [1, 2], {"id": 1}, 5000 * "n", "a\ud800", "a\udc80.jpg", "\0"),
    *("../../x.png", "/etc/passwd", "C:\\x.jpg", "sub\\x.png", ".", "..", "日本.jpg", -(2**63)),
    *(10**400, [[[[]]]], "1e999", [300, 0, 0], [2**70, 0, 0], ["1", "2", "3"], 70000, 90),
]


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def change_value(root: Path, split: str, rng: Generator) -> str:
    content = json.loads(json_file(root, split).read_text())
    every = list(places(content))
    # Rows of segments are most of all places; the rest is no less likely.
    rare = [path for path in every if "segments_info" not in path]
    path = (rare if rng.random() < 0.5 else every)[rng.integers(len(rare))]
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    how = rng.choice(["replace", "replace", "replace", "delete", "double", "swap"])
    if how == "replace":
        value = STRANGE[rng.integers(len(STRANGE))]
        parent[path[-1]] = value
        how = f"replace by {value!r:.40}"
    elif how == "delete":
        del parent[path[-1]]
    elif how == "double" and isinstance(parent, list):
        parent.append(parent[path[-1]])
    elif isinstance(parent, list):
        parent.reverse()
    json_file(root, split).write_text(json.dumps(content))
    return f"{split}: {path} {how}"


def change_json_text(root: Path, split: str, rng: Generator) -> str:
    path = json_file(root, split)
    how = rng.choice(["cut", "flip", "empty", "deep", "bytes"])
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[rng.integers(len(content)) :]
    elif how == "flip":
        content[rng.integers(len(content))] = rng.integers(256)
    elif how == "empty":
        content.clear()
    elif how == "deep":
        content = bytearray(b'{"images":' + 100_000 * b"[" + 100_000 * b"]" + b"}")
    else:
        content = bytearray(rng.integers(0, 256, 999, np.uint8).tobytes())
    path.write_bytes(content)
    return f"{path.name}: {how}"


def some_file(root: Path, split: str, rng: Generator) -> Path:
    folders = (f"{split}2017", f"annotations/panoptic_{split}2017")
    folder = root / folders[rng.integers(2)]
    files = sorted(folder.iterdir())
    return files[rng.integers(len(files))]


def change_bytes(root: Path, split: str, rng: Generator) -> str:
    path = some_file(root, split, rng)
    content = bytearray(path.read_bytes())
    how = rng.choice(["cut", "flip", "flip many", "empty", "text", "bomb", "zeros"])
    if how == "cut":
        del content[rng.integers(len(content)) :]
    elif how.startswith("flip"):
        for place in rng.integers(0, len(content), 1 if how == "flip" else 30):
            content[place] = rng.integers(256)
    elif how == "empty":
        content.clear()
    elif how == "text":
        content = bytearray(b"<html>404</html>")
    elif how == "bomb":
        content = bytearray(bomb())
    else:
        start = rng.integers(len(content))
        content[start : start + 99] = bytes(99)
    path.write_bytes(content)
    return f"{path.name}: {how}"


def bomb() -> bytes:
    """A PNG that says it is 40000 x 40000."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        content += struct.pack(">I", len(data)) + kind + data + checksum
    return content


def change_kind(root: Path, split: str, rng: Generator) -> str:
    path = some_file(root, split, rng)
    how = rng.choice(["gone", "folder", "pipe", "dangling", "loop", "device", "all dangling"])
    for place in path.parent.iterdir() if how == "all dangling" else [path]:
        place.unlink()
        if how == "folder":
            place.mkdir()
        elif how == "pipe":
            os.mkfifo(place)
        elif how == "device":
            place.symlink_to("/dev/zero")
        elif how != "gone":
            place.symlink_to(place.name if how == "loop" else "nowhere")
    return f"{path.name}: {how}"


def change_picture(root: Path, split: str, rng: Generator) -> str:
    path = some_file(root, split, rng)
    how = rng.choice(["L", "P", "RGBA", "I;16", "1", "CMYK", "small", "turned", "void"])
    with Image.open(path) as image:
        image.load()
    if how == "small":
        image = image.resize((7, 5))
    elif how == "void":
        image = Image.new("RGB", image.size)
    elif how == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200)
    elif how != "turned":
        image = image.convert(how)
    exif = Image.Exif()
    exif[0x0112] = 6 if how == "turned" else 1
    image.save(path, "TIFF" if how == "CMYK" else "PNG", exif=exif)
    return f"{path.name}: {how}"


def change_tree(root: Path, split: str, rng: Generator) -> str:
    how = rng.choice(["no images", "no pngs", "no json", "json is a folder", "extra"])
    if how == "no images":
        shutil.rmtree(root / f"{split}2017")
    elif how == "no pngs":
        shutil.rmtree(root / f"annotations/panoptic_{split}2017")
    elif how == "extra":
        Image.new("RGB", (2, 2)).save(os.fsencode(root / f"{split}2017") + b"/\xff\n.png")
    else:
        json_file(root, split).unlink()
        if how == "json is a folder":
            json_file(root, split).mkdir()
    return f"{split}: {how}"


CHANGES: tuple[Callable[[Path, str, Generator], str], ...] = (
    *(change_value, change_value, change_value, change_value, change_json_text),
    *(change_bytes, change_bytes, change_kind, change_picture, change_tree),
)


def reader(root: str | Path, split: str) -> CocoPanoptic:
    names = f"annotations/panoptic_{split}2017"
    return CocoPanoptic(root, f"{split}2017", f"{names}.json", names)


def doctor_finds_errors(root: Path, output: Path, draws: bool) -> bool:
    """Runs the doctor as the command does."""
    try:
        datasets = {split: reader(root, split) for split in ("train", "val")}
    except UserError as error:
        say(str(error))
        return True
    reports = [check_split(name, dataset, 0, say) for name, dataset in datasets.items()]
    _compare_classes(reports)
    for report in reports:
        say("\n".join(summary_lines(report, output)))
    write_findings(reports, output / "findings.csv")
    write_statistics(reports, output / "statistics.json")
    if draws:
        (output / "index.html").write_text(page("x", reports, 1, "findings.csv"), "utf-8")
    return any(report.errors for report in reports)


def training_fails(root: Path) -> bool:
    """Goes once through all data as a training does."""
    try:
        module = PanopticDataModule(
            str(root),
            train_dataset=partial(reader, split="train"),
            val_dataset=partial(reader, split="val"),
            train_transform=partial(TrainTransform, min_scale=1.0, max_scale=1.0),
            eval_transform=partial(EvalTransform, stride=8),
            crop_size=(24, 40),
            eval_size=(25, 41),
            targets=PanopticDeepLabTargets(sigma=2.0),
            batch_size=5,
            val_batch_size=2,
            num_workers=0,
            val_num_workers=0,
            cache=False,
            seed=0,
        )
        facts = {"global_rank": 0, "world_size": 1, "global_step": 0, "accumulate_grad_batches": 1}
        module.trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING), **facts)
        module.prepare_data()
        module.setup("fit")
        next(iter(module.train_dataloader()))  # all images once
        list(module.val_dataloader())
    except UserError as error:
        say(str(error))
        return True
    return False


def say(text: str) -> None:
    """What is printed must be text, of a length that a person reads."""
    text.encode()
    assert max(map(len, text.split("\n"))) < 2000


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "data"
    write_tree(root)
    return root


@pytest.mark.parametrize("part", range(PARTS))
def test_no_damage_ends_in_a_trace(template: Path, tmp_path: Path, part: int) -> None:
    told = 0
    for number in range(part, DAMAGES, PARTS):
        rng = np.random.default_rng([15, number])
        root = tmp_path / f"data{number}"
        shutil.copytree(template, root)
        change = CHANGES[rng.integers(len(CHANGES))]
        words = change(root, str(rng.choice(["train", "val"])), rng)
        try:
            found, fails = (
                doctor_finds_errors(root, tmp_path, number % 5 == 0),
                training_fails(root),
            )
        except BaseException as error:
            raise AssertionError(f"damage {number}: {words}") from error
        assert found is fails, f"damage {number}: {words}: doctor {found}, training {fails}"
        told += found
        shutil.rmtree(root)
    assert told > DAMAGES // PARTS // 3  # most of them are damage
