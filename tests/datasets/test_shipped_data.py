"""Every shipped data configuration, from official files to batches and to a net that fits them."""

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import cityscapes_tree
import mapillary_tree
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from axialseg.build import (
    build_evaluation_data,
    build_net_on_meta,
    build_task,
    build_training_data,
)
from axialseg.commands.train import check_training
from axialseg.config.auto import without_auto
from axialseg.config.schema import conf_dir, register_schemas
from axialseg.errors import UserError
from axialseg.panoptic.coco_classes import COCO

SAMPLE = Path(
    os.environ.get("COCO_SAMPLE", Path(__file__).resolve().parents[3] / "shared/coco_sample")
)
SMALL = ("data.num_workers=0", "data.val_num_workers=0", "schedule=coco", "schedule.batch_size=2")
# What your own data has: ids with gaps, things last, text ids of images, PNG images.
OWN_CATEGORIES = [(7, "sky", 0), (3, "road", 0), (40, "cone", 1), (41, "barrow", 1), (90, "cat", 1)]


def composed(data: str, root: Path, *overrides: str) -> DictConfig:
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        lines = [f"data={data}", f"data.root={root}", *SMALL, *overrides]
        return without_auto(compose("train", lines))


def check_batches(cfg: DictConfig) -> Any:
    """Opens the data, draws two training batches and all validation images."""
    module = build_training_data(cfg, world_size=1)
    module.setup("fit")
    crop = tuple(cfg.data.crop_size)
    known = {module.categories.ignore_class, *module.categories.class_ids}
    for batch in islice(module.train_dataloader(), 2):
        assert batch["image"].shape == (2, 3, *crop)
        assert set(batch["semantic"].unique().tolist()) <= known
        assert (batch["semantic"] != module.categories.ignore_class).any()
    for batch in module.val_dataloader():
        sides = zip(batch["image"].shape[2:], cfg.data.eval_size, strict=True)
        assert all(side >= least for side, least in sides)
        for segments, size in zip(batch["segments"], batch["original_size"], strict=True):
            assert segments.id_map.shape == size
    return module


def out_channels(cfg: DictConfig, module: Any) -> int:
    """Channels of the semantic head of the net that the commands would build."""
    net: Any = build_net_on_meta(cfg.model, module.categories.semantic_channels)
    image = torch.zeros(1, 3, 33, 33, device="meta")
    return net(image, None).semantic.shape[1]


def test_cityscapes(tmp_path: Path) -> None:
    cityscapes_tree.write_tree(tmp_path)
    cfg = composed("cityscapes", tmp_path, "data.crop_size=[65,97]", "data.eval_size=[33,65]")
    module = check_batches(cfg)
    assert out_channels(cfg, module) == 19
    assert cfg.data.train_transform.color.magnitude_scale == 0.2


def test_cityscapes_test_images(tmp_path: Path) -> None:
    cityscapes_tree.write_tree(tmp_path)
    cfg = composed("cityscapes", tmp_path, "data.val_dataset.splits=[test]")
    module = build_evaluation_data(cfg)
    (batch,) = module.val_dataloader()
    assert batch["segments"] == [None]
    assert batch["image"].shape == (1, 3, 1025, 2049)


def test_training_on_images_without_ground_truth_is_refused(tmp_path: Path) -> None:
    cityscapes_tree.write_tree(tmp_path)
    cfg = composed("cityscapes", tmp_path, "data.train_dataset.splits=[test]")
    module = build_training_data(cfg, world_size=1)
    module.setup("fit")
    with pytest.raises(UserError, match=r"berlin.*\.png has no ground truth; give another split"):
        next(iter(module.train_dataloader()))


@pytest.mark.parametrize(("version", "channels"), [("v1.2", 5), ("v2.0", 6)])
def test_mapillary_vistas(tmp_path: Path, version: str, channels: int) -> None:
    mapillary_tree.write_tree(tmp_path)
    small = ["data.crop_size=[65,65]", "data.eval_size=[49,49]"]
    small += ["data.train_transform.resize_range=[49,49]"]
    cfg = composed("mapillary_vistas", tmp_path, *small, f"data.train_dataset.version={version}")
    assert cfg.data.val_dataset.version == version
    module = check_batches(cfg)
    assert out_channels(cfg, module) == channels


def test_mapillary_vistas_longest_side() -> None:
    cfg = composed("mapillary_vistas", Path("somewhere"))
    for transform in (cfg.data.train_transform, cfg.data.eval_transform):
        assert list(transform.resize_range) == [2177, 2177]


def write_own_data(root: Path) -> None:
    """Two splits in COCO's format, under folders of one's own."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / "pictures" / split).mkdir(parents=True)
        (root / "masks" / split).mkdir(parents=True)
        rows, images = [], []
        for n in range(3):
            size = (30 + n, 44)
            image = rng.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(image).save(root / "pictures" / split / f"{n}.png")
            ids = np.repeat(np.arange(1, 6), 9)[:44] * np.ones((size[0], 1), int)
            colors = np.stack([ids, ids * 0, ids * 0], -1).astype(np.uint8)
            Image.fromarray(colors).save(root / "masks" / split / f"{n}.png")
            segments = [
                {"id": i, "category_id": row[0], "iscrowd": 0}
                for i, row in enumerate(OWN_CATEGORIES, start=1)
            ]
            images.append({"id": f"{split}-{n}", "file_name": f"{n}.png"})
            rows.append(
                {"image_id": f"{split}-{n}", "file_name": f"{n}.png", "segments_info": segments}
            )
        categories = [
            {"id": i, "name": name, "isthing": thing, "color": [i, 0, 0]}
            for i, name, thing in OWN_CATEGORIES
        ]
        content = {"images": images, "annotations": rows, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(content))


OWN_FOLDERS = [
    f"data.{half}_dataset.{key}={value}"
    for half in ("train", "val")
    for key, value in (
        ("image_folder", f"pictures/{half}"),
        ("annotation_file", f"{half}.json"),
        ("panoptic_folder", f"masks/{half}"),
    )
]


@pytest.mark.parametrize("model", ["axial_deeplab_tiny", "axial_hybrid_tiny"])
def test_heads_follow_your_own_data(tmp_path: Path, model: str) -> None:
    write_own_data(tmp_path)
    small = ["data.crop_size=[65,65]", f"model={model}"]
    cfg = composed("coco_format", tmp_path, *small, *OWN_FOLDERS)
    module = check_batches(cfg)
    assert [(c.name, c.is_thing) for c in module.categories.classes] == [
        ("road", False),
        ("sky", False),
        ("cone", True),
        ("barrow", True),
        ("cat", True),
    ]
    assert out_channels(cfg, module) == 6


@pytest.mark.parametrize("data", ["cityscapes", "coco_format"])
def test_max_deeplab_follows_the_classes(tmp_path: Path, data: str) -> None:
    overrides = ["model=max_deeplab_tiny", "data.crop_size=[65,65]", "data.eval_size=[33,65]"]
    overrides += [f"model.postprocess.{limit}_area_limit=0" for limit in ("thing", "stuff")]
    overrides += [f"model.postprocess.{kind}_threshold=0" for kind in ("class", "pixel")]
    if data == "cityscapes":
        cityscapes_tree.write_tree(tmp_path)
    else:
        write_own_data(tmp_path)
        overrides += OWN_FOLDERS
    cfg = composed(data, tmp_path, *overrides, "logger=none")
    module = build_training_data(cfg, world_size=1)
    module.setup("fit")
    categories = module.categories
    task = build_task(cfg, categories)
    batch = next(iter(module.train_dataloader()))
    heads = task.get_submodule("net")(batch["image"], batch["valid"])
    assert heads.semantic.shape[1] == categories.semantic_channels
    assert heads.class_logits.shape[-1] == len(categories) + 1
    total, terms = task.training_losses(batch)
    assert total.isfinite().all()
    assert len(terms) == 5
    assert all(term.shape == (2,) and term.isfinite().all() for term in terms.values())
    predictions = task.eval().validation_step(next(iter(module.val_dataloader())), 0)
    known = set(categories.class_ids)
    for prediction in predictions:
        assert set(np.unique(prediction.panoptic >> 16)) <= known  # every pixel has a class
        assert set(np.unique(prediction.semantic)) <= known


def test_coco_test_dev(tmp_path: Path) -> None:
    (tmp_path / "test2017").mkdir()
    (tmp_path / "annotations").mkdir()
    rows = []
    for number in (581918, 16):
        name = f"{number:012d}.jpg"
        Image.new("RGB", (40, 30), (number % 256, 0, 0)).save(tmp_path / "test2017" / name)
        rows.append({"id": number, "file_name": name, "height": 30, "width": 40, "license": 1})
    # As published: it lists the 80 instance categories, which are not ours.
    content = {"info": {}, "images": rows, "licenses": [], "categories": [{"id": 1, "name": "x"}]}
    path = tmp_path / "annotations/image_info_test-dev2017.json"
    path.write_text(json.dumps(content))
    module = build_evaluation_data(composed("coco_test_dev", tmp_path))
    assert module.categories == COCO
    batches = list(module.val_dataloader())
    assert [batch["image_id"] for batch in batches] == [[581918], [16]]
    assert all(batch["segments"] == [None] for batch in batches)
    assert batches[0]["image"].shape == (1, 3, 641, 641)


@pytest.mark.external_data
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no COCO sample; COCO_SAMPLE=<folder> names one")
def test_real_coco_images() -> None:
    cfg = composed("coco", SAMPLE, "data.crop_size=[129,129]")
    module = check_batches(cfg)
    assert out_channels(cfg, module) == 134
    for index, row in enumerate(module.val_dataset.class_presence()):
        segments = module.val_dataset.read(index).segments
        assert set(np.flatnonzero(row)) == set(segments.class_ids.tolist())
        assert (segments.areas() > 0).all()
        assert (segments.id_map == 0).mean() < 0.2


@pytest.mark.parametrize(
    ("data", "overrides"),
    [
        (
            "cityscapes",
            [
                "data.train_dataset._target_=axialseg.datasets.cityscapes.CityscapesPanoptic",
                "data.val_dataset._target_=axialseg.datasets.cityscapes.CityscapesPanoptic",
            ],
        ),
        (
            "cityscapes",
            [
                "+data.train_dataset.annotation_folder=gtCoarse",
                "data.train_dataset.splits=[train_extra]",
            ],
        ),
        ("cityscapes", ["data.train_dataset.splits=[train,val]", "data.val_dataset.splits=[test]"]),
        ("coco", ["data/augmentation=none", "data.repeat_threshold=0.001"]),
        ("coco", ["data/augmentation=strong_color"]),
        ("shapes", ["data/augmentation=deeplab"]),
        ("coco", ["data.train_transform.transforms=[{_target_: albumentations.CLAHE, p: 0.1}]"]),
        ("mapillary_vistas", ["data.train_transform.resize_range=null"]),
        ("mapillary_vistas", ["data.val_dataset.split=testing"]),
    ],
)
def test_documented_options_are_right(data: str, overrides: list[str]) -> None:
    check_training(composed(data, Path("somewhere"), *overrides))


def test_official_panoptic_files_and_rare_classes_by_options(tmp_path: Path) -> None:
    cityscapes_tree.write_tree(tmp_path)
    for split in ("train", "val"):
        cityscapes_tree.create_panoptic_images(tmp_path, split)
    target = "axialseg.datasets.cityscapes.CityscapesPanoptic"
    small = ["data.crop_size=[65,97]", "data.eval_size=[33,65]", "data.repeat_threshold=0.9"]
    own = check_batches(composed("cityscapes", tmp_path, *small))
    options = [f"data.{half}_dataset._target_={target}" for half in ("train", "val")]
    official = check_batches(composed("cityscapes", tmp_path, *small, *options))
    assert torch.equal(own.repeat_factors, official.repeat_factors)
    one, other = next(iter(own.train_dataloader())), next(iter(official.train_dataloader()))
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
