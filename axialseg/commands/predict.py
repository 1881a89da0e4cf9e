"""`python -m axialseg predict`: segments pictures and videos with a trained model."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from omegaconf import DictConfig

from axialseg.commands.command_line import compose_config, run_tool
from axialseg.config.check import check_choice
from axialseg.errors import UserError

if TYPE_CHECKING:
    from axialseg.datasets.image_paths import ImagePath
    from axialseg.inference.pictures import Picture
    from axialseg.inference.segmentation import Segmentation
    from axialseg.inference.segmenter import Options, Segmenter

Item = TypeVar("Item")
Result = TypeVar("Result")

USAGE = (
    "python -m axialseg predict ckpt=<run, checkpoint or published name> "
    "images=<file, folder, pattern or video> out=<folder> [things_only=true] [min_score=0.5] "
    "[scales=[0.5,1,2]] [flip=true] [tile=[H,W]] [batch=1] [device=auto|cpu|cuda] "
    "[precision=32|bf16]"
)
SUMMARY = "Segments pictures, folders and videos with a trained model."
EXAMPLES = (
    "python -m axialseg predict ckpt=outputs/my_run images=photos out=predictions",
    "python -m axialseg predict ckpt=outputs/my_run images=street.mp4 out=predictions device=cuda",
    "python -m axialseg predict ckpt=outputs/my_run images='photos/*.jpg' out=found min_score=0.5",
)
CHOICES = {"device": ("auto", "cpu", "cuda"), "precision": ("32", "bf16")}
SECONDS_BETWEEN_LINES = 10.0
INTERRUPTED = 130  # exit code, as shells have it
SOME_UNREADABLE = 1


def main() -> None:
    """The command."""
    run_tool(predict, SUMMARY, USAGE, EXAMPLES)


def predict(arguments: list[str]) -> None:
    """Writes PNG, JSON and overlay of each picture, and an overlay of each video.

    Args:
        arguments: `key=value` of its settings.

    Raises:
        UserError: a wrong setting, checkpoint or place.
        SystemExit: code 1 if pictures could not be read; the others are done.
    """
    cfg = compose_config("predict", arguments)
    _check(cfg)
    # Files are listed before torch is imported, which takes seconds.
    from axialseg.datasets.image_paths import find_images

    out = Path(cfg.out).expanduser()
    places = find_images(cfg.images, out)

    from axialseg.machine.hardware import inference_device
    from axialseg.model_zoo import load

    model = load(cfg.ckpt, cfg.trust).to(inference_device(cfg.device))
    segmenter = model.segmenter(_options(cfg), cfg.fold_batch_norms)
    _Job(segmenter, places, out).run()


def _check(cfg: DictConfig) -> None:
    for key, known in CHOICES.items():
        check_choice(key, cfg[key], known)
    if not 0 <= cfg.min_score <= 1:
        raise UserError(f"min_score={cfg.min_score} must be from 0 to 1")
    if cfg.batch < 1:
        raise UserError(f"batch={cfg.batch} must be at least 1")
    if cfg.tile is not None and len(cfg.tile) != 2:
        raise UserError(f"tile={list(cfg.tile)} is not a size; give tile=[height,width]")


def _options(cfg: DictConfig) -> "Options":
    return {
        "things_only": cfg.things_only,
        "min_score": cfg.min_score,
        "scales": (1.0,) if cfg.scales is None else tuple(cfg.scales),
        "flip": cfg.flip,
        "tile": None if cfg.tile is None else (cfg.tile[0], cfg.tile[1]),
        "batch": cfg.batch,
        "precision": cfg.precision,
    }


class _Job:
    """All pictures of a call, and what is told about them."""

    def __init__(self, segmenter: "Segmenter", places: "list[ImagePath]", out: Path) -> None:
        self.segmenter = segmenter
        self.places = places
        self.out = out
        self.total = len(places)  # the frames of a video come on top
        self.done = 0
        self.unreadable = 0
        self.started = self.line = time.monotonic()

    def run(self) -> None:
        """Segments all, and exits with a code that is not 0 if some could not be."""
        videos = [place for place in self.places if place.is_video]
        pictures = [place for place in self.places if not place.is_video]
        try:
            self._pictures(pictures)
            for place in videos:
                self._video(place)
        except KeyboardInterrupt:
            told = f"stopped after {self.done} of {self.total} images; they are in {self.out}"
            print(told, flush=True)
            os._exit(INTERRUPTED)  # all files are whole; torch would take a second to leave
        seconds = time.monotonic() - self.started
        if self.done:
            print(
                f"{self.done} images in {_clock(seconds)} ({self.done / seconds:.2f} images/s), "
                f"written to {self.out}"
            )
        if self.unreadable:
            print(f"error: {self.unreadable} could not be read, see above", file=sys.stderr)
            sys.exit(SOME_UNREADABLE)

    def _pictures(self, places: "list[ImagePath]") -> None:
        from axialseg.inference.write_results import write_segmentation

        targets = {str(place.path): self.out / place.name for place in places}

        def write(found: "Segmentation") -> None:
            write_segmentation(found, targets[found.file_name])
            self._tell()  # here, so that what is counted is written

        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            ahead = 2 * self.segmenter.batch
            read = _ahead(reader, self._read, places, ahead)
            segmented = self.segmenter(picture for picture in read if picture is not None)
            for _ in _ahead(writer, write, segmented, ahead):
                pass

    def _read(self, place: "ImagePath") -> "Picture | None":
        from axialseg.inference.pictures import as_picture

        try:
            return as_picture(place.path)
        except UserError as error:
            self._skip(error)
            return None

    def _video(self, place: "ImagePath") -> None:
        from axialseg.inference.write_results import read_frames, write_overlay_video

        try:
            rate, count, frames = read_frames(place.path)
        except UserError as error:
            self._skip(error)
            return
        self.total += count - 1
        target = self.out / place.name
        if write_overlay_video(self.segmenter(frames), rate, target, self._tell) == 0:
            self._skip(UserError(f"{place.path} holds no frame; convert it to MP4 (H.264)"))

    def _skip(self, error: UserError) -> None:
        print(f"skipped: {error}", file=sys.stderr, flush=True)
        self.unreadable += 1
        self.total -= 1

    def _tell(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.line < SECONDS_BETWEEN_LINES:
            return
        self.line = now
        rate = self.done / (now - self.started)
        left = _clock(max(self.total - self.done, 0) / rate)
        print(f"{self.done}/{self.total} images, {rate:.2f} images/s, {left} left", flush=True)


def _ahead(
    pool: ThreadPoolExecutor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
) -> Iterator[Result]:
    """Results in order, of work that a pool does while they are used; so many are waiting."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
