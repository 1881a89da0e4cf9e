"""Scores anyone's predictions from files in COCO's panoptic format, without a model."""

import logging
import math
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from axialseg.datasets.sample import PanopticDataset, PanopticTruth, TruthDataset
from axialseg.errors import UserError
from axialseg.evaluation.image_score import ImageScore, score_runs
from axialseg.formats.coco_annotations import (
    CocoPanopticAnnotations,
    parse_annotations,
    read_segment_runs,
)
from axialseg.formats.json_file import read_json
from axialseg.machine.child_process import (
    end_with_parent,
    leave_signals_to_parent,
    stop_signals_blocked,
)
from axialseg.machine.hardware import cpu_count
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import SegmentRuns

log = logging.getLogger(__name__)

IMAGES_PER_TASK = 64
FEW_IMAGES = 256  # one process has scored them before others have started and given theirs back


class ReadPrediction(NamedTuple):
    """The prediction for one image.

    Attributes:
        segments: those that the JSON file lists, in its order.
        scores: float64 ``[P]``; None if the file has none.
    """

    segments: SegmentRuns
    scores: NDArray[np.float64] | None


class PredictionFiles:
    """A panoptic JSON file with its PNGs.

    Args:
        path: the JSON file, or a folder that holds one. The PNGs are in the folder beside the JSON
            that has its name without suffix, or beside it.
        categories: the classes of the data set.

    Raises:
        UserError: a file is missing or is something else, or names an unknown class.
    """

    def __init__(self, path: str | Path, categories: Categories) -> None:
        self.path = table_of(Path(path))
        content = read_json(self.path)
        self._annotations = _annotations(self.path, content, categories)
        beside = self.path.with_suffix("")
        self._folder = beside if beside.is_dir() else self.path.parent
        ids = enumerate(self._annotations.image_ids.tolist())
        self._places = {str(image_id): place for place, image_id in ids}
        self._scores = _scores(self.path, content)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._places)

    def read(self, image_id: int | str, file_name: str, size: tuple[int, ...]) -> ReadPrediction:
        """The prediction for an image of the data set.

        Args:
            image_id: as the data set has it.
            file_name: of the image, for messages.
            size: (height, width) of the ground truth.

        Raises:
            UserError: there is none, or its files do not fit the image or each other.
        """
        place = self._places.get(str(image_id))
        if place is None:
            raise UserError(
                f"{self.path} has no prediction for the image {image_id} ({file_name}); it has "
                f"{len(self)} others: give the file of this data set and split, with all images."
            )
        height, width = size
        segments = read_segment_runs(self._annotations, place, self._folder, (height, width))
        start, end = self._annotations.offsets[place : place + 2]
        scores = None if self._scores is None else self._scores[start:end]
        return ReadPrediction(segments, scores)


def _annotations(path: Path, content: Any, categories: Categories) -> CocoPanopticAnnotations:
    """What the file says; it may leave out the images, as official scorers allow."""
    rows = content.get("annotations") if isinstance(content, dict) else None
    if isinstance(rows, list) and "images" not in content:
        with suppress(KeyError, TypeError):  # told below, with the place
            content["images"] = [{"id": r["image_id"], "file_name": r["file_name"]} for r in rows]
    return parse_annotations(path, content, categories, advice="")


def _scores(path: Path, content: dict[str, Any]) -> NDArray[np.float64] | None:
    """``score`` of all segments, which is no part of the format; None unless all have one."""
    rows = content["annotations"]
    scores = [row.get("score") for image in rows for row in image["segments_info"]]
    known = sum(isinstance(score, int | float) and math.isfinite(score) for score in scores)
    if 0 < known < len(scores):
        log.warning(
            "%s: the score of %d of %d segments is missing or no number, so AP is not counted",
            path,
            len(scores) - known,
            len(scores),
        )
    return np.array(scores, np.float64) if known == len(scores) else None


def table_of(path: Path) -> Path:
    """The JSON file that `predictions=` means.

    Raises:
        UserError: there is none, or more than one.
    """
    if not path.is_dir():
        return path
    if (path / "predictions.json").is_file():
        return path / "predictions.json"
    found = [*path.glob("*.json"), *path.parent.glob(f"{path.name}.json")]
    if len(found) != 1:
        names = ", ".join(sorted(file.name for file in found)) or "none"
        raise UserError(f"{path} must hold one JSON file of predictions (there is {names})")
    return found[0]


def rescore(
    dataset: PanopticDataset,
    predictions: PredictionFiles,
    with_boundary: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> list[ImageScore]:
    """Scores the images of a data set that have ground truth, on all cores.

    The semantic segmentation is taken from the panoptic one, because the files have no other. So
    mIoU counts segments that were left out, as small ones are, as errors.

    Args:
        dataset: with its ground truth.
        predictions: of all its images.
        with_boundary: score boundaries as well.
        progress: told the number of images that are done.

    Raises:
        UserError: a file of either is missing, damaged or does not fit.
    """
    length = len(dataset)
    shares = [
        range(start, min(start + IMAGES_PER_TASK, length))
        for start in range(0, length, IMAGES_PER_TASK)
    ]
    work = partial(_score, dataset, predictions, with_boundary)
    stop = mmap(-1, 1)  # a byte that all processes share
    workers = 1 if length < FEW_IMAGES else min(cpu_count(), len(shares))
    pool = _pool(workers, work, stop)
    images: list[ImageScore] = []
    try:
        with stop_signals_blocked():
            results = pool.map(_score_share, shares)
        for share, result in zip(shares, results, strict=True):
            images += result
            progress(share.stop)
    except BrokenProcessPool as error:
        raise UserError(
            "a process that reads predictions was ended from outside, perhaps for want of memory; "
            "end other programs and run this again."
        ) from error
    finally:
        stop[0] = 1  # after an error or Ctrl-C; shares that have begun would be scored to the end
        pool.shutdown(cancel_futures=True)
    return images


Work = Callable[[int], ImageScore | None]


def _pool(workers: int, work: Work, stop: mmap) -> Executor:
    """Processes where they start at once, as copies of this one; elsewhere threads."""
    if workers > 1 and sys.platform == "linux":
        context = multiprocessing.get_context("fork")
        parent = os.getpid()
        return ProcessPoolExecutor(workers, context, _start_process, (work, stop, parent))
    return ThreadPoolExecutor(max(workers, 1), initializer=_keep, initargs=(work, stop))


_work: Work
_stop: mmap


def _keep(work: Work, stop: mmap) -> None:
    """Keeps what the workers of a pool do, and the byte that ends it."""
    global _work, _stop
    _work, _stop = work, stop


def _start_process(work: Work, stop: mmap, parent: int) -> None:
    """In a process of the pool; the processes are the parallelism."""
    end_with_parent(parent)
    leave_signals_to_parent()
    cv2.setNumThreads(0)
    _keep(work, stop)


def _score_share(positions: range) -> list[ImageScore]:
    images = (_work(position) for position in positions if not _stop[0])
    return [image for image in images if image is not None]


def _score(
    dataset: PanopticDataset, predictions: PredictionFiles, with_boundary: bool, position: int
) -> ImageScore | None:
    segments, image_id, file_name = _truth(dataset, position)
    if segments is None:
        return None
    found = predictions.read(image_id, file_name, segments.size)
    image = score_runs(
        position, file_name, found.segments, segments, dataset.categories, with_boundary
    )
    empty = int((image.overlap.predicted_area == 0).sum())
    if empty:
        raise UserError(
            f"{predictions.path} lists {empty} segments of the image {image_id} that are not in "
            "its PNG; official scorers refuse that, too: write both anew."
        )
    return image._replace(scores=found.scores, image_id=image_id)


def _truth(dataset: PanopticDataset, position: int) -> PanopticTruth:
    if isinstance(dataset, TruthDataset):
        return dataset.read_truth(position)
    sample = dataset.read(position)
    runs = None if sample.segments is None else sample.segments.to_runs()
    return PanopticTruth(runs, sample.image_id, sample.file_name)
