"""What an evaluation has measured beside what was published for its experiment."""

from collections.abc import Mapping, Sequence

from axialseg.config.experiment_head import ExpectedScores, experiment_head
from axialseg.config.schema import conf_dir
from axialseg.errors import OtherScoreError, UserError
from axialseg.visualization.text_table import text_table


def expected_rows(experiment: str) -> list[ExpectedScores]:
    """What was published for an experiment and can be scored here; nothing for one of your own.

    Args:
        experiment: choice of `experiments`.
    """
    file = conf_dir().parent / "experiments" / f"{experiment}.yaml"
    head = experiment_head(file) if file.is_file() else None
    return [row for row in head.expected if row.scores and row.split == "val"] if head else []


def matching_row(
    rows: Sequence[ExpectedScores], ckpt: str | None, steps: int, overrides: Sequence[str]
) -> ExpectedScores | None:
    """The row that an evaluation repeats.

    Args:
        rows: of its experiment.
        ckpt: what was evaluated; a row of that published checkpoint is preferred.
        steps: optimiser steps behind the weights; 0 if unknown.
        overrides: the command line's.

    Returns:
        The row whose overrides are those of the command line; of several, the one with as many
        steps, else the first. None if there is none, as for another test-time augmentation.
    """
    given = set(overrides)
    distinctive = {line for row in rows for line in row.overrides}
    fitting = [row for row in rows if set(row.overrides) == given & distinctive]
    preferred = [row for row in fitting if row.ckpt is not None and row.ckpt == ckpt]
    as_long = [row for row in fitting if row.steps == steps]
    return next(iter([*preferred, *as_long, *fitting]), None)


def comparison(row: ExpectedScores, measured: Mapping[str, object]) -> str:
    """A table of both, with the differences.

    Args:
        row: what was published.
        measured: content of `metrics.json`.
    """
    lines = [("", "expected", "measured", "difference")]
    for name, value in row.scores.items():
        own = measured.get(name)
        if isinstance(own, int | float):
            lines.append((name, f"{value:.1f}", f"{own:.2f}", f"{own - value:+.2f}"))
        else:
            lines.append((name, f"{value:.1f}", "-", "-"))
    return text_table(lines)


def refuse_other_scores(
    row: ExpectedScores, measured: Mapping[str, object], tolerance: float
) -> None:
    """Ends the command if a score is not the published one.

    Args:
        row: what was published.
        measured: content of `metrics.json`.
        tolerance: largest difference up or down, in per cent.

    Raises:
        OtherScoreError: one differs by more.
        UserError: none of them was measured.
    """
    pairs = [(name, value, measured.get(name)) for name, value in row.scores.items()]
    both = [(n, value, float(own)) for n, value, own in pairs if isinstance(own, int | float)]
    if not both:
        raise UserError(
            f"tolerance={tolerance:g} has nothing to compare: {', '.join(row.scores)} not measured"
        )
    # Published numbers are rounded; binary fractions must not turn 0.3 into more than 0.3.
    wrong = [item for item in both if abs(item[2] - item[1]) > tolerance + 1e-9]
    if wrong:
        listed = ", ".join(f"{n} {own:.2f} (expected {value:.1f})" for n, value, own in wrong)
        raise OtherScoreError(f"beyond tolerance={tolerance:g}: {listed}")
