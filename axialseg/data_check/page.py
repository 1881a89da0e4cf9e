"""The result of a check as one HTML file that needs no other: tables, bars, sample overlays."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from axialseg.data_check.check import SplitReport
from axialseg.data_check.report import by_kind
from axialseg.data_check.statistics import SplitStatistics
from axialseg.datasets.decoder_messages import decoder_messages
from axialseg.datasets.inspection.inspector import Inspector
from axialseg.datasets.sample import PanopticSample
from axialseg.errors import UserError
from axialseg.panoptic.categories import Categories
from axialseg.visualization.html_page import bar_chart, html_page, inline_jpeg, swatch
from axialseg.visualization.panoptic import panoptic_overlay

NAMED = 100  # findings of a kind that the page names
LISTED_SIZES = 12
SAMPLE_SIDE = 640  # longer side of a sample, in pixels


def page(title: str, reports: Sequence[SplitReport], samples: int, table: str) -> str:
    """The whole page.

    Args:
        title: of the data set.
        reports: of the splits.
        samples: images of each split to show.
        table: name of the file that has all findings.
    """
    errors = sum(len(report.errors) for report in reports)
    verdict = (
        f'<p class="error"><b>Training would fail:</b> {errors:,} error{"s" * (errors > 1)}.</p>'
        if errors
        else '<p class="good"><b>Training can start:</b> no errors.</p>'
    )
    body = "".join(part for report in reports for part in _split(report, samples, table))
    return html_page(title, f"{verdict}{body}")


def _split(report: SplitReport, samples: int, table: str) -> Iterator[str]:
    """The sections of one split."""
    statistics, categories = report.statistics, report.categories
    yield f"<h2>{escape(report.name)}</h2>"
    yield _cards(report)
    yield "<h3>Findings</h3>"
    yield "".join(_findings(report, table)) or '<p class="good">Nothing is wrong.</p>'
    if categories is None:
        return
    if statistics.labelled:
        yield "<h3>Classes</h3>"
        yield (
            '<p class="soft">Pixels, segments (crowds left out) and images of each class; the '
            "bars are logarithmic.</p>"
        )
        yield _class_table(statistics, categories)
    yield "<h3>Sizes</h3>"
    yield f'<div class="charts">{"".join(_charts(statistics))}</div>'
    if samples:
        yield "<h3>Samples</h3>"
        yield f'<div class="samples">{"".join(_samples(report, samples))}</div>'


def _cards(report: SplitReport) -> str:
    statistics = report.statistics
    pixels = statistics.void + int(statistics.pixels.sum())
    crowd_share = _share(int(statistics.crowd_pixels.sum()), pixels)
    warnings = len(report.findings) - len(report.errors)
    cards = [
        ("images", f"{report.length:,}", ""),
        ("segments", f"{int(statistics.segments.sum()):,}", ""),
        ("crowds", f"{int(statistics.crowds.sum()):,} ({crowd_share} of the pixels)", ""),
        ("void pixels", _share(statistics.void, pixels), ""),
        ("errors", f"{len(report.errors):,}", "error" if report.errors else "good"),
        ("warnings", f"{warnings:,}", "warning" if warnings else "good"),
    ]
    shown = (
        f'<div class="card"><b class="{color}">{value}</b><span class="soft">{name}</span></div>'
        for name, value, color in cards
    )
    return f'<div class="cards">{"".join(shown)}</div>'


def _findings(report: SplitReport, table: str) -> Iterator[str]:
    for (is_error, kind), findings in by_kind(report.findings).items():
        color = "error" if is_error else "warning"
        rows = "".join(f"<li>{escape(finding.text)}</li>" for finding in findings[:NAMED])
        if len(findings) > NAMED:
            rows += f"<li>... and {len(findings) - NAMED:,} more, see {escape(table)}</li>"
        yield (
            f'<details{" open" if is_error else ""}><summary><b class="{color}">{color}</b> '
            f"{escape(kind)}: {len(findings):,}</summary><ul>{rows}</ul></details>"
        )


def _class_table(statistics: SplitStatistics, categories: Categories) -> str:
    """A row for each class, the most frequent first."""
    columns = (statistics.pixels, statistics.segments, statistics.images_with)
    largest = [max(int(column.max()), 1) for column in columns]
    total = max(int(statistics.pixels.sum()), 1)
    rows = []
    for category in sorted(categories.classes, key=lambda c: -statistics.pixels[c.class_id]):
        counts = [int(column[category.class_id]) for column in columns]
        bars = "".join(
            f"<td>{_bar(count, most)}</td>"
            f'<td class="number">{_share(count, total) if not n else f"{count:,}"}</td>'
            for n, (count, most) in enumerate(zip(counts, largest, strict=True))
        )
        rows.append(
            f"<tr><td>{swatch(category.color)}{escape(category.name)}</td>"
            f'<td class="soft">{"thing" if category.is_thing else "stuff"}</td>{bars}'
            f'<td class="number">{int(statistics.crowds[category.class_id]):,}</td></tr>'
        )
    head = (
        '<tr><th>class</th><th></th><th colspan="2">pixels</th><th colspan="2">segments</th>'
        '<th colspan="2">images</th><th>crowds</th></tr>'
    )
    return f"<table>{head}{''.join(rows)}</table>"


def _bar(count: int, most: int) -> str:
    """A bar on a logarithmic scale; one pixel or image is still to be seen."""
    width = 90 * math.log1p(count) / math.log1p(most)
    return (
        f'<svg width="90" height="10" role="img" aria-label="{count}">'
        f'<rect width="{width:.1f}" height="10" rx="2"/></svg>'
    )


def _charts(statistics: SplitStatistics) -> Iterator[str]:
    sizes = statistics.sizes.most_common()
    rows = [(f"{w} x {h}", count) for (h, w), count in sizes[:LISTED_SIZES]]
    rest = sizes[LISTED_SIZES:]
    if rest:
        rows.append((f"{len(rest):,} others", sum(count for _, count in rest)))
    yield bar_chart("Images by their size, width x height", rows)
    sides: Counter[int] = Counter()
    for (height, width), count in sizes:
        sides[max(height, width) // 100 * 100] += count
    if len(sides) > 1:
        rows = [(f"{side} to {side + 99}", count) for side, count in sorted(sides.items())]
        yield bar_chart("Images by their longer side, in pixels", rows)
    if statistics.thing_areas.any():
        seen = np.flatnonzero(statistics.thing_areas)
        bins = range(int(seen[0]), int(seen[-1]) + 1)
        rows = [(f"{2**k:,} to {2 ** (k + 1) - 1:,}", int(statistics.thing_areas[k])) for k in bins]
        yield bar_chart("Things by their area, in pixels", rows)
    counts = statistics.things_per_image
    if counts:
        step = max(1, -(-(max(counts) + 1) // 20))
        binned: Counter[int] = Counter()
        for count, images in counts.items():
            binned[count // step] += images
        rows = [
            (f"{k * step}" if step == 1 else f"{k * step} to {k * step + step - 1}", binned[k])
            for k in range(max(binned) + 1)
        ]
        yield bar_chart("Images by their number of things", rows)


def _samples(report: SplitReport, count: int) -> Iterator[str]:
    """Images from all over the split, then one for each kind of finding."""
    inspector, healthy = report.inspector, report.healthy
    assert inspector is not None
    places = np.linspace(0, len(healthy) - 1, min(count, len(healthy))).astype(int)
    for index in dict.fromkeys(healthy[place] for place in places.tolist()):
        yield _sample(inspector, index, "")
    of_errors = {finding.kind for finding in report.errors}
    for kind, index in sorted(report.examples.items()):
        color = "error" if kind in of_errors else "warning"
        yield _sample(inspector, index, f' <span class="{color}">{escape(kind)}</span>')


def _sample(inspector: Inspector, index: int, remark: str) -> str:
    """An image with its segments over it; the remark is HTML."""
    try:
        with decoder_messages():  # they are among the findings already
            sample = inspector.sample(index)
    except UserError:  # which the findings say
        return ""
    picture = _drawn(sample, inspector.categories)
    height, width = sample.image.shape[:2]
    name = f"{sample.file_name}, {width} x {height}"
    return (
        f"<figure>{inline_jpeg(picture, name)}"
        f"<figcaption>{escape(name)}{remark}</figcaption></figure>"
    )


def _drawn(sample: PanopticSample, categories: Categories) -> NDArray[np.uint8]:
    """The overlay of a sample, not larger than a page needs."""
    image, segments = sample.image, sample.segments
    scale = min(1.0, SAMPLE_SIDE / max(image.shape[:2]))
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    if segments is None:
        return image
    id_map = cv2.resize(segments.id_map, size, interpolation=cv2.INTER_NEAREST)
    segments = segments._replace(id_map=np.asarray(id_map, np.int32))
    return panoptic_overlay(image, segments, categories)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2g} %" if whole else "0 %"
