"""Aligned columns of text."""

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """One line for each row, two spaces between the columns.

    Args:
        rows: cells, as many in each row.
        left: so many columns are aligned on the left, the others on the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        aligned = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(cells))
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)
