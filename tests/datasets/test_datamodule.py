"""Batches: what they hold, and that they follow from seed and step alone."""

from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from coco_tree import SIZE, change_json, write_ids, write_tree
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch.trainer.states import TrainerFn

from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.datamodule import PanopticDataModule
from axialseg.datasets.generated.shape_scenes import CATEGORIES
from axialseg.datasets.generated.shapes import shapes_panoptic
from axialseg.datasets.loaders import ImageDataModule
from axialseg.datasets.targets import PanopticDeepLabTargets
from axialseg.datasets.transforms import EvalTransform, TrainTransform
from axialseg.errors import UserError
from axialseg.panoptic.class_changes import ClassChanges
from axialseg.panoptic.coco_classes import COCO

CROP = (65, 81)
CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    shapes_panoptic(folder, "train", train_images=10, val_images=5)
    return folder


def make(root: Path, num_workers: int = 0, **changes: Any) -> PanopticDataModule:
    opened = {"train_images": 10, "val_images": 5}
    arguments: dict[str, Any] = {
        "root": str(root),
        "train_dataset": partial(shapes_panoptic, split="train", **opened),
        "val_dataset": partial(shapes_panoptic, split="val", **opened),
        "train_transform": partial(TrainTransform, min_scale=0.75, max_scale=1.25),
        "eval_transform": partial(EvalTransform, stride=16),
        "crop_size": CROP,
        "eval_size": (129, 129),
        "targets": PanopticDeepLabTargets(),
        "batch_size": 4,
        "val_batch_size": 2,
        "num_workers": num_workers,
        "val_num_workers": num_workers,
        "cache": False,
        "seed": 0,
    } | changes
    module = PanopticDataModule(**arguments)
    module.setup("fit")
    return module


def train_batches(module: PanopticDataModule, count: int) -> list[dict[str, torch.Tensor]]:
    return list(islice(module.train_dataloader(), count))


def assert_equal(a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key]), key


def test_training_batch(root: Path) -> None:
    module = make(root)
    assert module.categories == CATEGORIES
    (batch,) = train_batches(module, 1)
    shapes = {key: (str(value.dtype)[6:], tuple(value.shape)) for key, value in batch.items()}
    assert shapes == {
        "image": ("uint8", (4, 3, *CROP)),
        "valid": ("bool", (4, *CROP)),
        "semantic": ("uint8", (4, *CROP)),
        "semantic_pixel_weights": ("float32", (4, *CROP)),
        "center": ("float32", (4, *CROP)),
        "center_pixel_weights": ("bool", (4, *CROP)),
        "offset": ("int16", (4, 2, *CROP)),
        "offset_pixel_weights": ("bool", (4, *CROP)),
        "position": ("int64", (4,)),
        "index": ("int64", (4,)),
    }
    assert batch["position"].tolist() == [0, 1, 2, 3]
    assert (batch["semantic"][~batch["valid"]] == CATEGORIES.ignore_class).all()
    assert (batch["center"].amax((1, 2)) == 1).all()


@pytest.mark.parametrize("changes", [{"num_workers": 2}, {"cache": True}])
def test_batches_depend_neither_on_workers_nor_on_the_cache(
    root: Path, changes: dict[str, Any]
) -> None:
    assert_equal(train_batches(make(root), 6), train_batches(make(root, **changes), 6))


def test_epochs_differ_in_order_and_augmentation(root: Path) -> None:
    batches = train_batches(make(root, batch_size=10), 2)
    first, second = (dict(zip(b["index"].tolist(), b["image"], strict=True)) for b in batches)
    assert list(first) != list(second)
    assert set(first) == set(second) == set(range(10))
    assert not any(torch.equal(first[i], second[i]) for i in range(10))


def test_another_seed_gives_other_batches(root: Path) -> None:
    (a,) = train_batches(make(root), 1)
    (b,) = train_batches(make(root, seed=1), 1)
    assert a["index"].tolist() != b["index"].tolist()


def test_loading_leaves_the_random_numbers_of_the_run_alone(root: Path) -> None:
    module = make(root)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    train_batches(module, 2)
    list(module.val_dataloader())
    assert torch.equal(torch.rand(3), expected)


def test_resumed_and_sharded_batches_continue_the_order(root: Path) -> None:
    whole = train_batches(make(root, batch_size=2), 12)
    images = {int(p): i for b in whole for p, i in zip(b["position"], b["image"], strict=True)}
    for rank in range(2):
        module = make(root, batch_size=2)
        module.trainer = SimpleNamespace(  # 2 steps done, of 2 x 2 x 2 samples each
            global_step=2, accumulate_grad_batches=2, world_size=2, global_rank=rank
        )
        (batch,) = train_batches(module, 1)
        assert batch["position"].tolist() == [16 + rank, 18 + rank]
        for position, image in zip(batch["position"].tolist(), batch["image"], strict=True):
            assert torch.equal(image, images[position])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_validation_sees_each_image_once_with_its_ground_truth(
    root: Path, num_workers: int
) -> None:
    module = make(root, num_workers)
    batches = list(module.val_dataloader())
    assert [len(batch["image_id"]) for batch in batches] == [2, 2, 1]
    assert [i for batch in batches for i in batch["image_id"]] == [1, 2, 3, 4, 5]
    for number, batch in enumerate(batches):
        assert batch["image"].shape == (len(batch["image_id"]), 3, 129, 129)
        assert batch["image"].dtype == torch.uint8
        for k in range(len(batch["image_id"])):
            sample = module.val_dataset.read(2 * number + k)
            height, width = sample.image.shape[:2]
            assert batch["original_size"][k] == batch["resized_size"][k] == (height, width)
            assert batch["file_name"][k] == sample.name
            own = batch["image"][k, :, :height, :width].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(own, sample.image)
            assert batch["valid"][k, :height, :width].all()
            assert batch["valid"][k].sum() == height * width
            for got, expected in zip(batch["segments"][k], sample.segments, strict=True):
                np.testing.assert_array_equal(got, expected)


def test_validation_is_shared_without_padding(root: Path) -> None:
    seen = []
    for rank in range(2):
        module = make(root)
        module.trainer = SimpleNamespace(world_size=2, global_rank=rank)
        seen.append([i for batch in module.val_dataloader() for i in batch["image_id"]])
    assert seen == [[1, 3, 5], [2, 4]]


def test_images_of_a_batch_are_padded_to_the_largest(root: Path) -> None:
    module = make(root, eval_size=(97, 97), val_batch_size=5)
    (batch,) = module.val_dataloader()
    sizes = batch["original_size"]
    assert len(set(sizes)) > 1
    padded = [tuple(97 if n <= 97 else -(-(n - 1) // 16) * 16 + 1 for n in size) for size in sizes]
    largest = tuple(max(column) for column in zip(*padded, strict=True))
    assert tuple(batch["image"].shape[2:]) == largest
    assert batch["valid"].sum((1, 2)).tolist() == [h * w for h, w in sizes]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("half", ["train", "val"])
def test_a_broken_file_is_one_sentence_from_any_process(
    tmp_path: Path, num_workers: int, half: str
) -> None:
    root = tmp_path / "shapes"
    module = make(root, num_workers)
    broken = root / f"{half}2017" / "000000000003.png"
    broken.unlink()
    loader = module.train_dataloader() if half == "train" else module.val_dataloader()
    with pytest.raises(UserError) as caught:
        list(islice(loader, 5))
    assert str(caught.value) == f"{broken} does not exist; unpack the images into {broken.parent}."


def test_evaluation_needs_no_training_data(root: Path, tmp_path: Path) -> None:
    def fail(root: str | Path) -> CocoPanoptic:
        raise AssertionError

    module = PanopticDataModule(
        root=str(root),
        train_dataset=fail,
        val_dataset=partial(shapes_panoptic, split="val", train_images=10, val_images=5),
        train_transform=partial(TrainTransform, min_scale=1.0, max_scale=1.0),
        eval_transform=EvalTransform,
        crop_size=CROP,
        eval_size=CROP,
        targets=None,
        batch_size=1,
        val_batch_size=1,
        num_workers=0,
        val_num_workers=0,
        cache=True,
        seed=0,
    )
    module.setup("validate")
    assert len(list(module.val_dataloader())) == 5


def test_halves_with_different_categories_are_refused(root: Path) -> None:
    def with_other_classes(root: str | Path) -> Any:
        return SimpleNamespace(categories=COCO)

    message = "different categories: only the training file has .* and 128 more; only the valid"
    with pytest.raises(UserError, match=message):
        make(root, train_dataset=with_other_classes)


@pytest.mark.parametrize(("name", "classes"), [("shapes", 9), ("coco", 133), ("coco_format", 9)])
def test_shipped_configurations_open_their_data(root: Path, name: str, classes: int) -> None:
    overrides = [f"+data={name}", "+seed=0", f"data.root={root}"]
    overrides += ["data.num_workers=0", "data.val_num_workers=0"]
    if name == "shapes":  # as many as the fixture made
        for half in ("train_dataset", "val_dataset"):
            overrides += [f"+data.{half}.train_images=10", f"+data.{half}.val_images=5"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(None, overrides)
    module = instantiate(config.data, _partial_=True)(
        targets=PanopticDeepLabTargets(), batch_size=2
    )
    assert len(module.categories) == classes
    if name != "coco":  # the generated classes are none of COCO's
        module.setup("fit")
        (batch,) = train_batches(module, 1)
        assert tuple(batch["image"].shape[2:]) == tuple(config.data.crop_size)
        (first, *_) = module.val_dataloader()
        assert first["image"].shape[2] >= config.data.eval_size[0]


def test_images_of_a_training_batch_are_the_crops(root: Path) -> None:
    module = make(root, seed=3)
    (batch,) = train_batches(module, 1)
    for k in range(4):
        sample = module.train_dataset.read(int(batch["index"][k]))
        rng = np.random.default_rng([3, int(batch["position"][k])])
        crop = module.train_transform(sample, rng)
        np.testing.assert_array_equal(batch["image"][k].permute(1, 2, 0).numpy(), crop.image)
        np.testing.assert_array_equal(batch["valid"][k].numpy(), crop.valid)


# --- the look at all names and the first images, before training ---


@pytest.fixture
def own_root(tmp_path: Path) -> Path:
    write_tree(tmp_path)
    return tmp_path


def make_own(root: Path, fn: TrainerFn, **changes: Any) -> PanopticDataModule:
    def opened(split: str) -> partial[CocoPanoptic]:
        return partial(
            CocoPanoptic,
            image_folder=f"{split}2017",
            annotation_file=f"annotations/panoptic_{split}2017.json",
            panoptic_folder=f"annotations/panoptic_{split}2017",
        )

    module = make(root, train_dataset=opened("train"), val_dataset=opened("val"), **changes)
    module.trainer = SimpleNamespace(state=SimpleNamespace(fn=fn))
    return module


def test_faultless_data_may_be_trained_on(own_root: Path) -> None:
    make_own(own_root, TrainerFn.FITTING).prepare_data()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("folder", ["{}2017", "annotations/panoptic_{}2017"])
def test_missing_files_are_named_before_training(own_root: Path, split: str, folder: str) -> None:
    *_, last = sorted((own_root / folder.format(split)).iterdir())
    module = make_own(own_root, TrainerFn.FITTING)
    last.unlink()
    with pytest.raises(UserError, match=f"{last} does not exist; unpack the") as caught:
        module.prepare_data()
    assert "more like it" not in str(caught.value)


def test_evaluation_looks_at_its_own_files_alone(own_root: Path) -> None:
    (own_root / "train2017" / "000000000004.jpg").unlink()
    make_own(own_root, TrainerFn.VALIDATING).prepare_data()
    (own_root / "val2017" / "000000000004.jpg").unlink()
    with pytest.raises(UserError, match=r"val2017/000000000004\.jpg does not exist"):
        make_own(own_root, TrainerFn.VALIDATING).prepare_data()


def test_the_first_images_are_read_before_training(own_root: Path) -> None:
    module = make_own(own_root, TrainerFn.FITTING)
    (batch,) = train_batches(make(own_root, **vars_of(module)), 1)
    first = int(batch["index"][0])
    image = own_root / "train2017" / f"{first:012d}.jpg"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(UserError, match=f"{image} cannot be read"):
        module.prepare_data()


def vars_of(module: PanopticDataModule) -> dict[str, Any]:
    return {"train_dataset": module.open_train_dataset, "val_dataset": module.open_train_dataset}


def log_of(module: PanopticDataModule, caplog: pytest.LogCaptureFixture) -> list[str]:
    module.prepare_data()
    return [record.getMessage() for record in caplog.records]


def test_lists_in_another_order_and_colour_are_the_same(own_root: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["categories"].reverse()
        for row in content["categories"]:
            row["color"] = [9, 9, 9]

    change_json(own_root, change, "val")
    make_own(own_root, TrainerFn.FITTING)


def test_strange_classes_are_told(own_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    def change(content: dict[str, Any]) -> None:
        for row in content["categories"]:
            row["isthing"] = 0
        content["categories"].append({"id": 0, "name": "objects", "isthing": 0})

    for split in ("train", "val"):
        change_json(own_root, change, split)
    said = log_of(make_own(own_root, TrainerFn.FITTING), caplog)
    assert len(said) == 2
    assert "none of the 5 classes is a thing (some tools write isthing: 0" in said[0]
    assert "name the things as data.classes.things=[...]" in said[0]
    assert "1 of 5 classes are in no image: objects; drop them" in said[1]


def test_classes_that_the_user_changed_are_not_told(
    own_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = make_own(own_root, TrainerFn.FITTING, classes=ClassChanges(things=[]))
    assert module.categories.thing_ids == ()
    assert module.train_dataset.categories == module.categories
    assert log_of(module, caplog) == []


@pytest.mark.parametrize("what", ["void", "crowds"])
def test_nothing_to_learn_is_refused(own_root: Path, what: str) -> None:
    def change(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            if what == "void":
                annotation["segments_info"] = []
            for row in annotation["segments_info"]:
                row |= {"iscrowd": 1, "category_id": 1}

    change_json(own_root, change)
    if what == "void":
        for path in (own_root / "annotations" / "panoptic_train2017").iterdir():
            write_ids(path, np.zeros(SIZE, int))
    with pytest.raises(UserError, match=r"no training image in .* has a pixel to learn from"):
        make_own(own_root, TrainerFn.FITTING).prepare_data()


def test_one_image_to_learn_from_is_enough(own_root: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for annotation in content["annotations"][1:]:
            for row in annotation["segments_info"]:
                row |= {"iscrowd": 1, "category_id": 1}

    change_json(own_root, change)
    make_own(own_root, TrainerFn.FITTING).prepare_data()


def test_wrong_images_can_be_left_out(own_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    change_json(
        own_root,
        lambda c: [a["segments_info"].append(a["segments_info"][0]) for a in c["annotations"][:2]],
    )
    with pytest.raises(UserError, match=r"2 images are wrong .*data.skip_invalid=true leaves such"):
        make_own(own_root, TrainerFn.FITTING)
    module = make_own(own_root, TrainerFn.FITTING, skip_invalid=True)
    said = log_of(module, caplog)
    assert len(module.train_dataset) == 3
    assert "2 of 5 images are left out (000000000000.png, 000000000001.png)" in said[0]


def test_fewer_validation_images_than_devices_are_refused() -> None:
    module = ImageDataModule(2, 1, 0, 0, seed=0)
    module.trainer = SimpleNamespace(global_rank=0, world_size=3)
    with pytest.raises(UserError, match="2 images to validate on, but each of 3 devices needs one"):
        module.validation_loader([], 2, list)
