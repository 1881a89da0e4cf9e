"""Panoptic training and validation data: samples -> transforms -> targets -> batches."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from axialseg.datasets.changed_classes import ChangedDataset
from axialseg.datasets.coco import CocoPanoptic
from axialseg.datasets.copy_paste import paste
from axialseg.datasets.inspection.inspector import (
    Inspectable,
    class_findings,
    refuse_first_error,
)
from axialseg.datasets.loaders import Batch, ImageDataModule
from axialseg.datasets.open_dataset import open_dataset
from axialseg.datasets.sample import LabelledDataset, PanopticDataset, PanopticSample
from axialseg.datasets.sampler import CounterSampler, SampleKey, repeat_factors
from axialseg.datasets.split import Part, split
from axialseg.datasets.transforms import PAD_VALUE, EvalTransform, TrainingCrop, TrainTransform
from axialseg.errors import UserError
from axialseg.panoptic.categories import Categories, difference
from axialseg.panoptic.class_changes import ClassChanges
from axialseg.panoptic.panoptic_map import PanopticSegments

FIRST_IMAGES = 16  # images of the first batch that are read before training

log = logging.getLogger(__name__)

Targets = Callable[[PanopticSegments, Categories], dict[str, NDArray[Any]]]


class PanopticDataModule(ImageDataModule):
    """Training and validation loaders of one data set.

    Training batch: `image` uint8 ``[B, 3, H, W]``, `valid` bool ``[B, H, W]`` (False at padding),
    `position` and `index` int64 ``[B]``, and every array of `targets` with a batch axis in front.

    Validation batch: `image` and `valid` alike, the image at the top left, and lists of length B:
    `segments` (ground truth at the original size, or None), `image_id`, `file_name` (below the
    folder of the images), `index` (of the image in the data set), `original_size`, `resized_size`
    and `padded_size` ((height, width): as in the file; without padding; with the padding that the
    image has alone, whatever its batch).
    """

    def __init__(
        self,
        root: str,
        train_dataset: Callable[..., PanopticDataset],
        val_dataset: Callable[..., PanopticDataset] | None,
        train_transform: Callable[..., TrainTransform],
        eval_transform: Callable[..., EvalTransform],
        crop_size: Sequence[int],
        eval_size: Sequence[int],
        targets: Targets | None,
        batch_size: int,
        val_batch_size: int,
        num_workers: int,
        val_num_workers: int,
        cache: bool,
        seed: int,
        repeat_threshold: float | None = None,
        val_share: float | None = None,
        classes: ClassChanges | None = None,
        apply_exif: bool = False,
        skip_invalid: bool = False,
        copy_paste: bool = False,
    ) -> None:
        """Opens the validation data (no image is read yet).

        Args:
            root: folder of the data set.
            train_dataset: opens the training data under `root`.
            val_dataset: opens the validation data under `root`; None trains without any.
            train_transform: makes the training transform for `crop_size`.
            eval_transform: makes the evaluation transform for `eval_size`.
            crop_size: (height, width) of training crops, in pixels.
            eval_size: (height, width) that smaller validation images are padded to.
            targets: makes what the model's loss compares with; None suffices for evaluation.
            batch_size: training images per rank and forward pass.
            val_batch_size: validation images per rank and forward pass.
            num_workers: loader processes for training per rank; 0 loads in the main process.
            val_num_workers: the same for validation.
            cache: True reads all images once and keeps them in memory: for tiny data sets.
            seed: order and augmentation follow from it.
            repeat_threshold: share of the training images below which a class is rare, so that
                its images come more often, see `sampler.repeat_factors`; None: all alike.
            val_share: share of the training images that validates, drawn by the seed, in place of
                `val_dataset`; None: none of them.
            classes: other classes than the files list; None takes theirs.
            apply_exif: turns photographs as their Exif data say; else pixels are as stored.
            skip_invalid: leaves out images that the annotation file is wrong about, and counts
                them; else such a data set is refused.
            copy_paste: put things and some stuff of another image, at half the scale, onto each
                training crop, see `copy_paste.paste`.

        Raises:
            UserError: a folder or file of the validation data is missing, see also `split.split`.
        """
        super().__init__(batch_size, val_batch_size, num_workers, val_num_workers, seed)
        self.root = str(Path(root).expanduser())  # that of an environment variable, too
        self.classes = classes
        options = {"apply_exif": apply_exif, "skip_invalid": skip_invalid}
        self._options: dict[str, Any] = {"classes": classes, **options}
        self.open_train_dataset = train_dataset
        self.train_transform = train_transform(crop_size=crop_size)
        self.eval_transform = eval_transform(crop_size=eval_size)
        self.targets = targets
        self.cache = cache
        self.val_dataset: PanopticDataset | None = None
        self.val_share = val_share
        if val_share is not None:
            self.val_dataset = self._parts[1]
        elif val_dataset is not None:
            self.val_dataset = open_dataset(val_dataset, root, **self._options)
        self.train_dataset: PanopticDataset | None = None
        self.repeat_threshold = repeat_threshold
        self.repeat_factors: Tensor | None = None
        self.copy_paste = copy_paste
        self.val_indices: Sequence[int] | None = None
        """Validation images that are still to be evaluated; None: all."""

    @property
    def categories(self) -> Categories:
        """The classes of the data set, known before the model is built."""
        if self.val_dataset is None:
            return self.opened_train_dataset.categories
        return self.val_dataset.categories

    def prepare_data(self) -> None:
        """Compares the names of all files and reads the first images, on one rank: seconds.

        Raises:
            UserError: a file is missing, or what training reads first is damaged.
        """
        is_training = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        datasets = [self.opened_train_dataset] if is_training else []
        for dataset in (*datasets, *self._validated_alone()):
            if isinstance(dataset, Inspectable):
                refuse_first_error(dataset.inspector().check_files())
        for dataset in datasets:
            if self.train_transform.augmentation is not None:
                self.train_transform.augmentation.check(dataset.read(0).image)
            self._tell_about_classes(dataset)
            items = self._training_items(dataset)
            keys = CounterSampler(len(dataset), self.seed)
            has_truth = False
            for key in islice(keys, min(self.batch_size, FIRST_IMAGES)):
                item = items[key]
                if isinstance(item, UserError):
                    raise item
                has_truth |= self._has_truth(item)
            if not has_truth:
                self._refuse_without_truth(dataset)

    def setup(self, stage: str) -> None:
        """Opens the training data for `fit` and fills the cache.

        Raises:
            UserError: a folder or file is missing, or the two halves disagree about the classes.
        """
        if self.cache and self.val_dataset is not None:
            self.val_dataset = in_memory(self.val_dataset)
        if stage == "fit" and self.train_dataset is None:
            train_dataset = self.opened_train_dataset
            differing = difference(train_dataset.categories, self.categories)
            if differing:
                raise UserError(
                    f"the training and validation files in {self.root} list different categories: "
                    f"{differing}; use the same list in both."
                )
            if self.repeat_threshold is not None:
                if not isinstance(train_dataset, LabelledDataset):
                    raise UserError(
                        f"the training images in {self.root} have no ground truth to count; leave "
                        "out data.repeat_threshold."
                    )
                presence = train_dataset.class_presence()
                self.repeat_factors = repeat_factors(presence, self.repeat_threshold)
            self.train_dataset = InMemoryDataset(train_dataset) if self.cache else train_dataset

    def _tell_about_classes(self, dataset: PanopticDataset) -> None:
        """Says what is strange about the classes of the training data."""
        whole = dataset.whole if isinstance(dataset, Part) else dataset
        original = whole.original if isinstance(whole, ChangedDataset) else whole
        # Other data sets have fixed classes, and would read all annotations for this.
        if isinstance(original, CocoPanoptic) and isinstance(whole, LabelledDataset):
            is_asked_for = self.classes is not None and self.classes.things is not None
            seen = np.asarray(whole.class_presence().any(0))
            file = str(original.annotation_file)
            for finding in class_findings(self.categories, seen, file, is_asked_for):
                log.warning("%s: %s", file, finding.text)

    def _has_truth(self, targets: dict[str, Any]) -> bool:
        """Whether a map of targets has a pixel to learn from."""
        return bool((targets["semantic"] != self.categories.ignore_class).any())

    def _refuse_without_truth(self, dataset: PanopticDataset) -> None:
        """Raises a UserError unless some image has a pixel that is neither void nor a crowd.

        Asked where the first crops have none: all images are read until one has.
        """
        assert self.targets is not None
        for index in range(len(dataset)):
            segments = dataset.read(index).segments
            if segments is not None and self._has_truth(self.targets(segments, self.categories)):
                return
        raise UserError(
            f"no training image in {self.root} has a pixel to learn from: all are void or crowds; "
            "give other annotations, or see what they hold with python -m axialseg check-data."
        )

    @cached_property
    def opened_train_dataset(self) -> PanopticDataset:
        """The training images as they are on disk; those that do not validate."""
        return self._open_all() if self.val_share is None else self._parts[0]

    def _open_all(self) -> PanopticDataset:
        factory = self.open_train_dataset
        dataset: PanopticDataset = open_dataset(factory, self.root, **self._options)
        return dataset

    @cached_property
    def _parts(self) -> tuple[PanopticDataset, PanopticDataset]:
        """The training images, split into training and validation."""
        assert self.val_share is not None
        return split(self._open_all(), self.val_share, self.seed)

    def _validated_alone(self) -> list[PanopticDataset]:
        """The validation data, unless they are a part of the training data's files."""
        if self.val_dataset is None or self.val_share is not None:
            return []
        return [self.val_dataset]

    def _training_items(self, dataset: PanopticDataset) -> "TrainingItems":
        assert self.targets is not None
        return TrainingItems(
            dataset, self.train_transform, self.targets, self.seed, self.copy_paste
        )

    def train_dataloader(self) -> DataLoader:
        """Endless training batches, from the position that the trainer has reached."""
        assert self.train_dataset is not None
        items = self._training_items(self.train_dataset)
        return self.training_loader(items, len(self.train_dataset), self.repeat_factors)

    def val_dataloader(self) -> DataLoader:
        """This rank's validation batches, in file order."""
        assert self.val_dataset is not None
        items: Dataset = EvaluationItems(self.val_dataset, self.eval_transform)
        indices = self.val_indices
        if indices is None:
            return self.validation_loader(items, len(self.val_dataset), collate_evaluation)
        items = Subset(items, indices)
        return self.validation_loader(items, len(indices), collate_evaluation)


def in_memory(dataset: PanopticDataset) -> "InMemoryDataset":
    """The data set with all samples in memory, read now unless they are there already."""
    return dataset if isinstance(dataset, InMemoryDataset) else InMemoryDataset(dataset)


class InMemoryDataset:
    """A data set whose samples were all read once, at construction."""

    def __init__(self, dataset: PanopticDataset) -> None:
        """Reads everything."""
        self.original = dataset
        self.categories = dataset.categories
        self.samples = [dataset.read(index) for index in range(len(dataset))]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples)

    def read(self, index: int) -> PanopticSample:
        """The sample, shared by all callers."""
        return self.samples[index]


class TrainingItems(Dataset):
    """Sample key -> crop and targets."""

    def __init__(
        self,
        dataset: PanopticDataset,
        transform: TrainTransform,
        targets: Targets,
        seed: int,
        copy_paste: bool = False,
    ) -> None:
        """Keeps the parts; augmentation follows from (seed, position)."""
        self.dataset = dataset
        self.transform = transform
        self.targets = targets
        self.seed = seed
        self.paste_transform = transform.at_half_scale() if copy_paste else None

    def __getitem__(self, key: SampleKey) -> dict[str, NDArray[Any]] | UserError:
        """One sample of a batch; the user's mistakes are returned, see `UserErrorLoader`."""
        rng = np.random.default_rng([self.seed, key.position])
        try:
            crop = self._crop(key.item, self.transform, rng)
            if self.paste_transform is not None:
                other = self._crop(int(rng.integers(len(self.dataset))), self.paste_transform, rng)
                crop = paste(crop, other, self.dataset.categories, rng)
        except UserError as error:
            return error
        return {
            "image": _channels_first(crop.image),
            "valid": crop.valid,
            "position": np.array(key.position),
            "index": np.array(key.item),
            **self.targets(crop.segments, self.dataset.categories),
        }

    def _crop(self, item: int, transform: TrainTransform, rng: np.random.Generator) -> TrainingCrop:
        sample = self.dataset.read(item)
        if sample.segments is None:
            raise UserError(
                f"{sample.file_name} has no ground truth; give another split as data.train_dataset."
            )
        try:
            return transform(sample, rng)
        except UserError as error:
            raise UserError(f"{sample.file_name}: {error}") from error


def _channels_first(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``[h, w, 3]`` -> ``[3, h, w]``."""
    channels = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, list(channels))  # written in place; transposing is ten times slower
    return channels


class EvaluationItems(Dataset):
    """Index -> sample, padded image, valid pixels, size without padding."""

    def __init__(self, dataset: PanopticDataset, transform: EvalTransform) -> None:
        """Keeps the parts."""
        self.dataset = dataset
        self.transform = transform

    def __getitem__(self, index: int) -> Batch | UserError:
        """One image of a validation batch; the user's mistakes are returned."""
        try:
            sample = self.dataset.read(index)
        except UserError as error:
            return error
        prepared, resized_size = self.transform(sample.image)
        return {
            "image": prepared.image,
            "valid": prepared.valid,
            "segments": sample.segments,
            "image_id": sample.image_id,
            "file_name": sample.name,
            "index": index,
            "original_size": sample.image.shape[:2],
            "resized_size": resized_size,
            "padded_size": prepared.valid.shape,
        }


def collate_evaluation(items: list[Batch | UserError]) -> Batch | UserError:
    """Stacks images, padded further to the largest, and lists the rest."""
    samples: list[Batch] = []
    for item in items:
        if isinstance(item, UserError):
            return item
        samples.append(item)
    height = max(item["valid"].shape[0] for item in samples)
    width = max(item["valid"].shape[1] for item in samples)
    image = torch.full((len(items), 3, height, width), PAD_VALUE, dtype=torch.uint8)
    valid = torch.zeros(len(items), height, width, dtype=torch.bool)
    for target, mask, item in zip(image, valid, samples, strict=True):
        h, w = item["valid"].shape
        target[:, :h, :w] = torch.from_numpy(item["image"]).permute(2, 0, 1)
        mask[:h, :w] = torch.from_numpy(item["valid"])
    listed = (
        *("segments", "image_id", "file_name", "index"),
        *("original_size", "resized_size", "padded_size"),
    )
    return {"image": image, "valid": valid} | {k: [item[k] for item in samples] for k in listed}
