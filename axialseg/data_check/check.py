"""Goes through all images of a split, in several processes, and collects what is wrong."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import NamedTuple

import cv2

from axialseg.data_check.statistics import SplitStatistics
from axialseg.datasets.inspection.inspector import (
    Finding,
    Inspectable,
    Inspector,
    class_findings,
    void_findings,
)
from axialseg.errors import UserError
from axialseg.panoptic.categories import Categories

IMAGES_PER_TASK = 16
REPORT_SECONDS = 10.0

Say = Callable[[str], object]
"""Takes one line of text."""


@dataclass
class SplitReport:
    """All about one split.

    Attributes:
        name: train or val.
        length: number of images that the data set has.
        inspector: of its files; None if the annotation file does not even tell the classes.
        statistics: of what could be read.
        findings: errors first, in the order of the images.
        examples: kind of finding -> index of the first image that has it and can be shown.
        healthy: indices of images without errors.
        seconds: that the check took.
    """

    name: str
    length: int
    inspector: Inspector | None
    statistics: SplitStatistics
    findings: list[Finding]
    examples: dict[str, int]
    healthy: list[int]
    seconds: float

    @property
    def categories(self) -> Categories | None:
        """The classes, if they are known."""
        return None if self.inspector is None else self.inspector.categories

    @property
    def errors(self) -> list[Finding]:
        """What training would fail at."""
        return [finding for finding in self.findings if finding.is_error]


def check_split(name: str, dataset: Inspectable, workers: int, say: Say) -> SplitReport:
    """Checks everything about one split.

    Args:
        name: train or val.
        dataset: its reader.
        workers: processes that read images; 0 reads in this one.
        say: is told how far it is, at most every ten seconds.

    Raises:
        UserError: a process was ended from outside.
    """
    start = time.monotonic()
    try:
        inspector = dataset.inspector()
    except UserError as error:
        finding = Finding("unreadable annotations", True, "", str(error))
        return SplitReport(name, 0, None, SplitStatistics(1), [finding], {}, [], 0.0)
    say(f"{name}: {len(inspector):,} images")
    findings = inspector.check_tables() + inspector.check_files()
    statistics = SplitStatistics(inspector.categories.semantic_channels)
    examples: dict[str, int] = {}
    healthy: list[int] = []
    found: dict[int, tuple[Finding, ...]] = {}
    shown: set[int] = set()
    progress = _Progress(name, len(inspector), say)
    for result in _results(inspector, workers):
        statistics.merge(result.statistics)
        found |= result.findings
        healthy += result.healthy
        shown |= result.shown
        progress.advance(result.images, result.findings)
    for index in sorted(found):
        findings += found[index]
        if index in shown:
            for finding in found[index]:
                examples.setdefault(finding.kind, index)
    has_errors = any(finding.is_error for finding in findings)
    findings += _split_findings(name, dataset, inspector, statistics, has_errors)
    findings.sort(key=lambda finding: not finding.is_error)
    return SplitReport(
        name,
        len(inspector),
        inspector,
        statistics,
        findings,
        examples,
        sorted(healthy),
        time.monotonic() - start,
    )


def _split_findings(
    name: str,
    dataset: Inspectable,
    inspector: Inspector,
    statistics: SplitStatistics,
    has_errors: bool,
) -> Iterator[Finding]:
    """What is strange about the classes of a whole split."""
    if not statistics.labelled:
        return
    labelled = int(statistics.pixels.sum() - statistics.crowd_pixels.sum())
    if name == "train" and not labelled:
        yield Finding(
            "nothing to learn",
            True,
            "",
            "no training image has a pixel to learn from: all are void or crowds; give other "
            "annotations.",
        )
    elif name == "train" and not has_errors:  # wrong ids count as void
        pixels = statistics.void + int(statistics.pixels.sum())
        yield from void_findings(1 - labelled / pixels)
    changes = getattr(dataset, "changes", None)
    is_asked_for = changes is not None and changes.things is not None
    seen = statistics.images_with > 0
    yield from class_findings(inspector.categories, seen, "", is_asked_for)


class _Result(NamedTuple):
    """What a process found in its share of the images.

    Attributes:
        images: number of images.
        statistics: of them.
        findings: index -> what is wrong; images without findings are left out.
        healthy: indices of images that can be trained on.
        shown: indices of images with findings whose files can be read.
    """

    images: int
    statistics: SplitStatistics
    findings: dict[int, tuple[Finding, ...]]
    healthy: list[int]
    shown: set[int]


def _inspect(inspector: Inspector, indices: range) -> _Result:
    statistics = SplitStatistics(inspector.categories.semantic_channels)
    findings, healthy, shown = {}, [], set()
    for index in indices:
        image = inspector.inspect(index)
        statistics.add(image, inspector.categories)
        if image.findings:
            findings[index] = image.findings
            if image.is_complete:
                shown.add(index)
        if image.is_complete and not any(finding.is_error for finding in image.findings):
            healthy.append(index)
    return _Result(len(indices), statistics, findings, healthy, shown)


def _results(inspector: Inspector, workers: int) -> Iterator[_Result]:
    """The results of all images, as they come."""
    length = len(inspector)
    shares = [
        range(start, min(start + IMAGES_PER_TASK, length))
        for start in range(0, length, IMAGES_PER_TASK)
    ]
    if not workers:
        yield from (_inspect(inspector, share) for share in shares)
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_process, initargs=(inspector,))
    try:
        for future in as_completed([pool.submit(_inspect_share, share) for share in shares]):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process that reads images was ended from outside, perhaps for want of memory; "
            "take fewer with workers=<count>, or workers=0 to see which image it is."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_inspector: Inspector


def _start_process(inspector: Inspector) -> None:
    """In a process of the pool: keeps the data set; the processes are the parallelism."""
    global _inspector
    _inspector = inspector
    cv2.setNumThreads(0)


def _inspect_share(indices: range) -> _Result:
    return _inspect(_inspector, indices)


class _Progress:
    """A line every ten seconds, which a log file can show as well as a terminal."""

    def __init__(self, name: str, total: int, say: Say) -> None:
        self.name = name
        self.total = total
        self.say = say
        self.done = self.errors = self.warnings = 0
        self.start = self.last = time.monotonic()

    def advance(self, count: int, findings: dict[int, tuple[Finding, ...]]) -> None:
        """Counts some images; says so if it is time."""
        self.done += count
        for finding in (finding for group in findings.values() for finding in group):
            self.errors += finding.is_error
            self.warnings += not finding.is_error
        now = time.monotonic()
        if now - self.last < REPORT_SECONDS and self.done < self.total:
            return
        self.last = now
        rate = self.done / max(now - self.start, 1e-9)
        left = (self.total - self.done) / rate
        self.say(
            f"{self.name}: {self.done:,} of {self.total:,} images "
            f"({100 * self.done / self.total:.0f} %), {self.errors:,} errors, "
            f"{self.warnings:,} warnings, {rate:,.0f} images/s, {_duration(left)} left"
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
