"""The head of an experiment file: source of its numbers, costs, and expected scores.

The head is the comment below ``# @package _global_``. Without its ``# `` it is YAML itself.
`experiments/README.md` is the table of all heads.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from axialseg.errors import UserError

PACKAGE_LINE = "# @package _global_"
# Of a row of `expected`: what says which run is meant. All else there are scores in per cent.
SELECTORS = ("with", "steps", "split", "ckpt")
OTHERS = ("own", "measured")


class ExpectedScores(NamedTuple):
    """One row that was published for an experiment.

    Attributes:
        overrides: what the command line adds to the experiment, as ``+tta=ms_flip``.
        steps: optimiser steps of the training.
        split: of the data: val, or one that only the data set's server can score.
        ckpt: published checkpoint with these weights; None if there is none.
        scores: by their names in `metrics.json`, in per cent; empty if nothing was published.
        own: the same as the authors' own pipeline, not the official script, gave them.
        measured: what this project has measured.
    """

    overrides: tuple[str, ...]
    steps: int
    split: str
    ckpt: str | None
    scores: Mapping[str, float]
    own: Mapping[str, float]
    measured: Mapping[str, float]


class ExperimentHead(NamedTuple):
    """The head of one file.

    Attributes:
        what: model, data and size in one line.
        source: where the settings and numbers are published.
        pretrain: command of the stage before; None if there is none.
        train: command.
        evaluate: command.
        hardware: what the source used.
        batch: images per optimiser step, over all devices.
        steps: optimiser steps.
        memory: by `python -m axialseg memory`; None if it was not counted.
        note: what is inferred, not published.
        expected: at least one row.
    """

    what: str
    source: str
    pretrain: str | None
    train: str
    evaluate: str
    hardware: str
    batch: int
    steps: int
    memory: str | None
    note: str | None
    expected: tuple[ExpectedScores, ...]


def experiment_head(file: Path) -> ExperimentHead | None:
    """Reads the head of an experiment file; None if it is a plain comment, or there is none.

    Raises:
        UserError: the head has `expected`, but is not whole.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0] != PACKAGE_LINE:
        return None
    comment = []
    for line in lines[1:]:
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").removeprefix(" "))
    try:
        content = yaml.safe_load("\n".join(comment))
    except yaml.YAMLError:
        return None
    if not isinstance(content, dict) or "expected" not in content:
        return None
    optional: dict[str, Any] = {"pretrain": None, "memory": None, "note": None}
    try:
        rows = [_row(row, content["steps"]) for row in content["expected"]]
        return ExperimentHead(**optional | content | {"expected": tuple(rows)})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the head of {file} is not whole ({error}); see {__name__}") from None


def _row(row: dict[str, Any], steps: int) -> ExpectedScores:
    scores = {key: value for key, value in row.items() if key not in SELECTORS + OTHERS}
    return ExpectedScores(
        overrides=tuple(row.get("with", "").split()),
        steps=row.get("steps", steps),
        split=row.get("split", "val"),
        ckpt=row.get("ckpt"),
        scores=_scores(scores),
        own=_scores(row.get("own", {})),
        measured=_scores(row.get("measured", {})),
    )


def _scores(row: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in row.items()}
