"""Batches of classified images: what they hold, and that they follow from seed and step alone."""

from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from imagenet_tree import CLASSES, write_image, write_tree

from axialseg.datasets.classification_datamodule import ClassificationDataModule
from axialseg.datasets.classification_transforms import CenterCrop, RandomResizedCrop
from axialseg.datasets.imagenet import ImageNet
from axialseg.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
CROP = (24, 32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data"))


def make(root: Path, num_workers: int = 0, **changes: Any) -> ClassificationDataModule:
    arguments: dict[str, Any] = {
        "root": str(root),
        "train_dataset": partial(ImageNet, split="train"),
        "val_dataset": partial(ImageNet, split="val"),
        "train_transform": RandomResizedCrop,
        "eval_transform": CenterCrop,
        "crop_size": CROP,
        "eval_size": (32, 32),
        "batch_size": 4,
        "val_batch_size": 4,
        "num_workers": num_workers,
        "val_num_workers": num_workers,
        "seed": 0,
    } | changes
    module = ClassificationDataModule(**arguments)
    module.setup("fit")
    return module


def train_batches(module: ClassificationDataModule, count: int) -> list[dict[str, torch.Tensor]]:
    return list(islice(module.train_dataloader(), count))


def test_training_batch(root: Path) -> None:
    module = make(root)
    assert module.categories.ids == CLASSES
    (batch,) = train_batches(module, 1)
    shapes = {key: (str(value.dtype)[6:], tuple(value.shape)) for key, value in batch.items()}
    assert shapes == {
        "image": ("uint8", (4, 3, *CROP)),
        "label": ("int64", (4,)),
        "position": ("int64", (4,)),
        "index": ("int64", (4,)),
    }
    assert module.train_dataset is not None
    for number in range(4):
        sample = module.train_dataset.read(int(batch["index"][number]))
        assert batch["label"][number] == sample.label
        rng = np.random.default_rng([0, int(batch["position"][number])])
        expected = RandomResizedCrop(CROP)(sample.image, rng)
        np.testing.assert_array_equal(batch["image"][number].permute(1, 2, 0).numpy(), expected)


def test_batches_do_not_depend_on_workers(root: Path) -> None:
    plain, shared = (train_batches(make(root, workers), 7) for workers in (0, 2))
    for one, other in zip(plain, shared, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_epochs_differ_in_order_and_augmentation(root: Path) -> None:
    batches = train_batches(make(root, batch_size=12), 2)
    first, second = (dict(zip(b["index"].tolist(), b["image"], strict=True)) for b in batches)
    assert list(first) != list(second)
    assert set(first) == set(second) == set(range(12))
    assert not any(torch.equal(first[i], second[i]) for i in range(12))


def test_another_seed_gives_other_batches(root: Path) -> None:
    (a,), (b,) = (train_batches(make(root, seed=seed), 1) for seed in (0, 1))
    assert a["index"].tolist() != b["index"].tolist()


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


def test_a_batch_larger_than_the_data_is_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for batch, is_said in ((12, False), (13, True)):
        module = make(root, batch_size=batch)
        module.trainer = SimpleNamespace(
            global_step=0, accumulate_grad_batches=1, world_size=1, global_rank=0
        )
        (first,) = train_batches(module, 1)
        assert len(first["index"]) == batch
        assert ("12 training images, fewer than schedule.batch_size=13" in caplog.text) == is_said


@pytest.mark.parametrize("num_workers", [0, 2])
def test_validation_sees_each_image_once(root: Path, num_workers: int) -> None:
    module = make(root, num_workers)
    batches = list(module.val_dataloader())
    assert [batch["label"].tolist() for batch in batches] == [[0, 0, 1, 1], [2, 2]]
    assert [len(batch["image_id"]) for batch in batches] == [4, 2]
    for number, (image, image_id, file_name) in enumerate(
        (image, *names)
        for batch in batches
        for image, *names in zip(batch["image"], batch["image_id"], batch["file_name"], strict=True)
    ):
        sample = module.val_dataset.read(number)
        assert (image_id, file_name) == (sample.image_id, sample.file_name)
        expected = CenterCrop([32, 32])(sample.image)
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_validation_is_shared_without_padding(root: Path) -> None:
    seen = []
    for rank in range(2):
        module = make(root)
        module.trainer = SimpleNamespace(world_size=2, global_rank=rank)
        seen.append([i for batch in module.val_dataloader() for i in batch["image_id"]])
    assert [len(names) for names in seen] == [3, 3]
    assert len({*seen[0], *seen[1]}) == 6


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("half", ["train", "val"])
def test_a_broken_file_is_one_sentence_from_any_process(
    tmp_path: Path, num_workers: int, half: str
) -> None:
    module = make(write_tree(tmp_path), num_workers)
    broken = tmp_path / half / CLASSES[1] / "n02105855_1.JPEG"
    broken.write_bytes(broken.read_bytes()[:500])
    loader = module.train_dataloader() if half == "train" else module.val_dataloader()
    with pytest.raises(UserError, match=r"n02105855_1\.JPEG cannot be read") as caught:
        list(islice(loader, 5))
    assert "\n" not in str(caught.value)


def test_evaluation_needs_no_training_images(tmp_path: Path) -> None:
    def fail(root: str | Path) -> ImageNet:
        raise AssertionError

    write_tree(tmp_path)
    module = ClassificationDataModule(
        str(tmp_path), fail, partial(ImageNet, split="val"), RandomResizedCrop, CenterCrop,
        CROP, CROP, 1, 1, 0, 0, 0,
    )  # fmt: skip
    module.setup("validate")
    assert len(list(module.val_dataloader())) == 6


def test_halves_with_different_classes_are_refused(root: Path, tmp_path: Path) -> None:
    def other_classes(root: str | Path) -> ImageNet:
        for split in ("train", "val"):
            (tmp_path / split / "one").mkdir(parents=True)
            write_image(tmp_path / split / "one" / "1.jpg", 0, 0)
        return ImageNet(tmp_path, "train")

    with pytest.raises(UserError, match="have different classes; give both the same"):
        make(root, train_dataset=other_classes)


def test_shipped_configuration_opens_its_data(root: Path) -> None:
    overrides = ["+data=imagenet", "+seed=0", f"data.root={root}"]
    overrides += ["data.num_workers=0", "data.val_num_workers=0"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(None, overrides)
    module = instantiate(config.data, _partial_=True)(batch_size=2)
    module.setup("fit")
    (batch,) = train_batches(module, 1)
    assert tuple(batch["image"].shape) == (2, 3, 224, 224)
    transform = module.train_transform
    assert transform.areas == (0.08, 1.0)
    assert np.exp(transform.log_ratios) == pytest.approx((3 / 4, 4 / 3))
    assert transform.flip_probability == 0.5
    (first, *_) = module.val_dataloader()
    assert tuple(first["image"].shape) == (6, 3, 224, 224)
    assert module.eval_transform.shorter == 256
