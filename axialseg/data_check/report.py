"""The result of a check as text, as a table of all findings, and as numbers."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from axialseg.data_check.check import SplitReport
from axialseg.datasets.inspection.inspector import Finding

SHOWN = 5  # findings of a kind that the text names


def by_kind(findings: Sequence[Finding]) -> dict[tuple[bool, str], list[Finding]]:
    """(is error, kind) -> findings, errors first, then by their number."""
    groups: dict[tuple[bool, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.is_error, finding.kind].append(finding)
    ordered = sorted(groups.items(), key=lambda group: (not group[0][0], -len(group[1])))
    return dict(ordered)


def summary_lines(report: SplitReport, table: Path) -> Iterator[str]:
    """A split in a few lines.

    Args:
        report: of the split.
        table: the file that names all findings.
    """
    statistics = report.statistics
    warnings = len(report.findings) - len(report.errors)
    yield (
        f"{report.name}: {report.length:,} images, {int(statistics.segments.sum()):,} segments, "
        f"{int(statistics.crowds.sum()):,} crowds; {len(report.errors):,} errors, "
        f"{warnings:,} warnings ({report.seconds:.0f} s)"
    )
    for (is_error, kind), findings in by_kind(report.findings).items():
        yield f"  {'error' if is_error else 'warning'}: {kind}, {len(findings):,}"
        yield from (f"    {finding.text}" for finding in findings[:SHOWN])
        if len(findings) > SHOWN:
            yield f"    ... and {len(findings) - SHOWN:,} more, see {table}"


def write_findings(reports: Sequence[SplitReport], path: Path) -> None:
    """Writes all findings as a CSV table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("split", "severity", "kind", "file", "text"))
        for report in reports:
            for finding in report.findings:
                severity = "error" if finding.is_error else "warning"
                row = (report.name, severity, finding.kind, finding.file, finding.text)
                writer.writerow(row)


def write_statistics(reports: Sequence[SplitReport], path: Path) -> None:
    """Writes the numbers of all splits as JSON."""
    content = {
        report.name: report.statistics.as_json(report.categories)
        for report in reports
        if report.categories is not None
    }
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
