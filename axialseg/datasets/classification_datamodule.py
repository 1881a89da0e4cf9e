"""Training and validation data for classification: images -> crops -> batches."""

from collections.abc import Callable, Sequence

import numpy as np
from torch.utils.data import DataLoader, Dataset

from axialseg.datasets.classification_transforms import CenterCrop, RandomResizedCrop
from axialseg.datasets.image_classes import ImageClasses, ImageDataset
from axialseg.datasets.loaders import Batch, ImageDataModule, stack_items
from axialseg.datasets.sampler import SampleKey
from axialseg.errors import UserError


class ClassificationDataModule(ImageDataModule):
    """Training and validation loaders of one data set.

    Training batch: `image` uint8 ``[B, 3, H, W]``, and `label`, `position` and `index` int64
    ``[B]``. Validation batch: `image` and `label` alike, and the lists `image_id` and `file_name`.
    """

    def __init__(
        self,
        root: str,
        train_dataset: Callable[..., ImageDataset],
        val_dataset: Callable[..., ImageDataset],
        train_transform: Callable[..., RandomResizedCrop],
        eval_transform: Callable[..., CenterCrop],
        crop_size: Sequence[int],
        eval_size: Sequence[int],
        batch_size: int,
        val_batch_size: int,
        num_workers: int,
        val_num_workers: int,
        seed: int,
    ) -> None:
        """Opens the validation data (no image is read yet).

        Args:
            root: folder of the data set.
            train_dataset: opens the training data under `root`.
            val_dataset: opens the validation data under `root`.
            train_transform: makes the training transform for `crop_size`.
            eval_transform: makes the evaluation transform for `eval_size`.
            crop_size: (height, width) of training crops, in pixels.
            eval_size: (height, width) of validation crops, in pixels.
            batch_size: training images per rank and forward pass.
            val_batch_size: validation images per rank and forward pass.
            num_workers: loader processes for training per rank; 0 loads in the main process.
            val_num_workers: the same for validation.
            seed: order and augmentation follow from it.

        Raises:
            UserError: a folder or file of the validation data is missing.
        """
        super().__init__(batch_size, val_batch_size, num_workers, val_num_workers, seed)
        self.root = root
        self.open_train_dataset = train_dataset
        self.train_transform = train_transform(crop_size=crop_size)
        self.eval_transform = eval_transform(crop_size=eval_size)
        self.val_dataset = val_dataset(root=root)
        self.train_dataset: ImageDataset | None = None

    @property
    def categories(self) -> ImageClasses:
        """The classes of the data set, known before the model is built."""
        return self.val_dataset.categories

    def setup(self, stage: str) -> None:
        """Opens the training data for `fit`.

        Raises:
            UserError: a folder is missing or empty, or the two halves disagree about the classes.
        """
        if stage == "fit" and self.train_dataset is None:
            train_dataset = self.open_train_dataset(root=self.root)
            if train_dataset.categories != self.categories:
                raise UserError(
                    f"the training and validation images in {self.root} have different classes; "
                    "give both the same."
                )
            if self.train_transform.augmentation is not None:
                self.train_transform.augmentation.check(train_dataset.read(0).image)
            self.train_dataset = train_dataset

    def train_dataloader(self) -> DataLoader:
        """Endless training batches, from the position that the trainer has reached."""
        assert self.train_dataset is not None
        items = TrainingImages(self.train_dataset, self.train_transform, self.seed)
        return self.training_loader(items, len(self.train_dataset))

    def val_dataloader(self) -> DataLoader:
        """This rank's validation batches, in file order."""
        items = EvaluationImages(self.val_dataset, self.eval_transform)
        return self.validation_loader(items, len(self.val_dataset), stack_items)


class TrainingImages(Dataset):
    """Sample key -> crop and label."""

    def __init__(self, dataset: ImageDataset, transform: RandomResizedCrop, seed: int) -> None:
        """Keeps the parts; augmentation follows from (seed, position)."""
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __getitem__(self, key: SampleKey) -> Batch | UserError:
        """One sample of a batch; the user's mistakes are returned, see `UserErrorLoader`."""
        try:
            sample = self.dataset.read(key.item)
            crop = self.transform(sample.image, np.random.default_rng([self.seed, key.position]))
        except UserError as error:
            return error
        return {
            "image": np.ascontiguousarray(crop.transpose(2, 0, 1)),
            "label": sample.label,
            "position": key.position,
            "index": key.item,
        }


class EvaluationImages(Dataset):
    """Index -> crop, label and names."""

    def __init__(self, dataset: ImageDataset, transform: CenterCrop) -> None:
        """Keeps the parts."""
        self.dataset = dataset
        self.transform = transform

    def __getitem__(self, index: int) -> Batch | UserError:
        """One image of a validation batch; the user's mistakes are returned."""
        try:
            sample = self.dataset.read(index)
        except UserError as error:
            return error
        return {
            "image": np.ascontiguousarray(self.transform(sample.image).transpose(2, 0, 1)),
            "label": sample.label,
            "image_id": sample.image_id,
            "file_name": sample.file_name,
        }
