"""`python -m axialseg check-data`: goes through all files of a data set and says what is wrong."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from axialseg.commands.command_line import compose_config, run_tool
from axialseg.config.check import check_choice
from axialseg.errors import UserError
from axialseg.machine.hardware import cpu_count

if TYPE_CHECKING:
    from axialseg.data_check.check import SplitReport

USAGE = (
    "python -m axialseg check-data data=<name> [data.root=<folder>] [split=all|train|val] "
    "[workers=<processes>] [output=<folder>] [key=value ...]"
)
SUMMARY = "Reads every file of a data set and says what is wrong, on the screen and as a page."
EXAMPLES = (
    "python -m axialseg check-data data=coco data.root=coco",
    "python -m axialseg check-data data=coco_format data.root=photos data.val_share=0.1",
    "python -m axialseg check-data data=cityscapes split=val workers=8 output=report",
)
SPLITS = ("all", "train", "val")
TRAINING_WOULD_FAIL = 1  # exit code


def main() -> None:
    """The command."""
    run_tool(check_data, SUMMARY, USAGE, EXAMPLES)


def check_data(arguments: list[str]) -> None:
    """Checks a data set, prints what is wrong, and writes a page about it.

    Args:
        arguments: `key=value` of its settings.

    Raises:
        UserError: a wrong setting, or there is no such data set.
        SystemExit: code 1 if training would fail.
    """
    cfg = compose_config("check_data", arguments)
    check_choice("split", cfg.split, SPLITS)
    for name in ("workers", "samples"):
        if cfg[name] is not None and cfg[name] < 0:
            raise UserError(f"{name}={cfg[name]}, but it must be 0 or more")
    names = [line.partition("=")[2] for line in arguments if line.startswith("data=")]
    title = names[-1] if names else "data"
    folder = Path(cfg.output or f"outputs/check_data/{title}")
    errors = _check(cfg, title, folder)
    if errors:
        count = f"{errors:,} error{'s' * (errors > 1)}"
        print(f"Training would fail: {count}. The report is {folder / 'index.html'}")
        sys.exit(TRAINING_WOULD_FAIL)
    print(f"Training can start: no errors. The report is {folder / 'index.html'}")


def _check(cfg: DictConfig, title: str, folder: Path) -> int:
    """Checks the splits and writes the report; gives the number of errors."""
    # Only now: these imports take seconds, and a wrong command line shall not wait for them.
    from axialseg.data_check.check import check_split
    from axialseg.data_check.page import page
    from axialseg.data_check.report import summary_lines, write_findings, write_statistics

    say = partial(print, flush=True)
    workers = cpu_count() if cfg.workers is None else cfg.workers
    datasets = _open(cfg)
    reports = [check_split(name, dataset, workers, say) for name, dataset in datasets.items()]
    _compare_classes(reports)
    table = folder / "findings.csv"
    for report in reports:
        say("\n".join(summary_lines(report, table)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_findings(reports, table)
        write_statistics(reports, folder / "statistics.json")
        html = page(f"{title}: {cfg.data.root}", reports, cfg.samples, table.name)
        (folder / "index.html").write_text(html, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); give another folder as output=..."
        ) from error
    return sum(len(report.errors) for report in reports)


def _open(cfg: DictConfig) -> dict[str, Any]:
    """Split -> its reader."""
    from axialseg.build import build_panoptic_dataset
    from axialseg.datasets.inspection.inspector import Inspectable

    wanted = ("train", "val") if cfg.split == "all" else (cfg.split,)
    datasets = {}
    if cfg.data.get("val_share") is not None or cfg.data.get("val_dataset") is None:
        wanted = ("train",)  # the images that validate, if any, are among those that train
    for name in wanted:
        dataset = build_panoptic_dataset(cfg.data, name)
        if not isinstance(dataset, Inspectable):
            raise UserError(
                f"{type(dataset).__name__} has no panoptic ground truth; check-data knows the data "
                "sets for panoptic segmentation"
            )
        datasets[name] = dataset
    return datasets


def _compare_classes(reports: list["SplitReport"]) -> None:
    """Adds the error that the splits have other classes, which training refuses."""
    from axialseg.datasets.inspection.inspector import Finding
    from axialseg.panoptic.categories import difference

    known = [report.categories for report in reports if report.categories is not None]
    if len(known) == 2:
        differing = difference(*known)
        if differing:
            text = (
                f"the training and validation files list different categories: {differing}; use "
                "the same list in both."
            )
            reports[1].findings.insert(0, Finding("different categories", True, "", text))
