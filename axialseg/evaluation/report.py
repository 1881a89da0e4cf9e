"""An evaluation as one HTML file that needs no other, and its classes as a CSV file.

It shows where the score comes from: classes, sizes, what missed segments were called instead, and
the images that were best, worst and most confused, each with its ground truth, prediction and
errors.
"""

import csv
import io
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from axialseg.datasets.sample import PanopticDataset, PanopticSample
from axialseg.evaluation.image_score import ImageScore
from axialseg.evaluation.rescoring import PredictionFiles
from axialseg.evaluation.summary import called_instead
from axialseg.evaluation.unfinished import writing
from axialseg.machine.whole_file import whole_file
from axialseg.metrics.image_quality import image_quality
from axialseg.metrics.panoptic_quality import SIZES, match_segments
from axialseg.metrics.segment_overlap import segment_overlap
from axialseg.panoptic.categories import Categories
from axialseg.panoptic.panoptic_map import PanopticSegments
from axialseg.visualization.html_page import bar_chart, html_page, inline_jpeg, swatch
from axialseg.visualization.panoptic import Picture, panoptic_overlay

SHOWN_IMAGES = 12  # of each kind
SHOWN_CONFUSIONS = 25
LONGER_SIDE = 640  # of a picture, in pixels
LAYERS = ("image", "ground truth", "prediction", "errors")
HEADLINE = ("PQ", "PQ_things", "PQ_stuff", "SQ", "RQ", "mIoU", "AP", "boundary_PQ", "boundary_IoU")
WRONG_CLASS, WRONG_SEGMENT, NOT_SCORED = (214, 39, 40), (255, 160, 40), (70, 70, 90)

STYLE, SCRIPT = (
    Path(__file__).with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".css", ".js")
)


def write_report(
    folder: Path,
    record: Mapping[str, Any],
    images: Sequence[ImageScore],
    dataset: PanopticDataset,
    predictions: PredictionFiles | None,
    expected: Mapping[str, float],
    source: str,
) -> None:
    """Writes `report.html` and `classes.csv`.

    Args:
        folder: of the evaluation.
        record: what its `metrics.json` holds.
        images: that were scored.
        dataset: that they are from.
        predictions: for the pictures; None: there are none.
        expected: name of a metric -> what it should be.
        source: what was scored, for people.

    Raises:
        UserError: the folder cannot be written, or a file cannot be read.
    """
    categories = dataset.categories
    ordered = sorted(images, key=lambda image: image.position)
    body = "".join(
        (
            *_summary(record, expected, source),
            *_classes(record["classes"], categories),
            *_confusions(ordered, categories),
            *_histograms(ordered, categories),
            *([] if predictions is None else _galleries(ordered, dataset, predictions)),
        )
    )
    with writing(folder):
        page = html_page("Evaluation", body, STYLE, SCRIPT)
        for name, content in (("report.html", page), ("classes.csv", _csv(record["classes"]))):
            with whole_file(folder / name) as draft:
                draft.write_text(content, encoding="utf-8")


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _summary(
    record: Mapping[str, Any], expected: Mapping[str, float], source: str
) -> Iterator[str]:
    total = record.get("images_of_data_set")
    count = f"{record['images']:,} images"
    if total is not None:
        yield (
            f'<p class="partial"><b>{record["images"]:,} of {total:,} images.</b> These are no '
            "scores of the data set.</p>"
        )
        count = f"{record['images']:,} of {total:,} images"
    yield f'<p class="soft">{escape(source)}: {count}. All scores are in per cent.</p>'
    cards = []
    for name in dict.fromkeys((*HEADLINE, *expected)):
        if name in record:
            aim = expected.get(name)
            cards.append(_card(name, record[name], aim))
    yield f'<div class="cards">{"".join(cards)}</div>'
    groups = [("All", ""), ("Things", "_things"), ("Stuff", "_stuff")]
    groups += [(f"{size.capitalize()} segments", f"_{size}") for size in SIZES]
    rows = "".join(
        f"<tr><td>{name}</td>"
        + "".join(
            f'<td class="number">{_text(record[q + suffix])}</td>' for q in ("PQ", "SQ", "RQ")
        )
        + f"<td>{_bar(record[f'PQ{suffix}'])}</td></tr>"
        for name, suffix in groups
    )
    head = "".join(f'<th class="number">{name}</th>' for name in ("PQ", "SQ", "RQ"))
    yield (
        '<h2>Groups</h2><div class="scroll"><table id="groups">'
        f"<tr><th></th>{head}<th></th></tr>{rows}</table></div>"
    )
    yield (
        '<p class="soft">Small segments have fewer than 32 x 32 pixels, large ones 96 x 96 or more.'
        "</p>"
    )
    removed = {k: v for k, v in record.get("removed_segments", {}).items() if v}
    if removed:
        text = ", ".join(f"{count:,} by {escape(name)}" for name, count in sorted(removed.items()))
        yield f"<p>Segments that limits of the post-processing have removed: {text}.</p>"


def _card(name: str, value: float | None, aim: float | None) -> str:
    beside = ""
    if aim is not None:
        difference = "" if value is None else f", {value - aim:+.2f}"
        beside = f'<br><span class="soft">expected {aim:.2f}{difference}</span>'
    label = f'<span class="soft">{escape(name)}</span>{beside}'
    return f'<div class="card"><b>{_text(value)}</b>{label}</div>'


def _classes(rows: Sequence[Mapping[str, Any]], categories: Categories) -> Iterator[str]:
    numbers = ["PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU", *(["AP"] if "AP" in rows[0] else [])]
    known = [row for row in rows if row["PQ"] is not None]
    unknown = [row for row in rows if row["PQ"] is None]
    lines = []
    for row in [*sorted(known, key=lambda row: -row["PQ"]), *unknown]:
        cells = "".join(f'<td class="number">{_text(row[name])}</td>' for name in numbers)
        color = categories.by_class_id[row["class_id"]].color
        kind = "thing" if row["is_thing"] else "stuff"
        lines.append(
            f"<tr><td>{swatch(color)}{escape(row['name'])}</td>"
            f'<td class="soft">{kind}</td><td>{_bar(row["PQ"])}</td>{cells}</tr>'
        )
    heads = "".join(f'<th class="number">{name}</th>' for name in numbers)
    yield "<h2>Classes</h2>"
    absent = f" {len(unknown)} of {len(rows)} classes do not occur." if unknown else ""
    yield (
        '<p class="soft">TP: segments that were found, FP: predicted ones that are wrong, FN: '
        f"missed ones. A click on a heading sorts.{absent}</p>"
    )
    yield (
        '<div class="scroll"><table id="classes" class="sortable"><tr><th>class</th><th>kind</th>'
        f"<th></th>{heads}</tr>{''.join(lines)}</table></div>"
    )


def _confusions(images: Sequence[ImageScore], categories: Categories) -> Iterator[str]:
    pairs = Counter(pair for image in images for pair in called_instead(image, categories))
    missed = Counter[int]()
    for (class_id, _), count in pairs.items():
        missed[class_id] += count
    yield "<h2>Missed segments</h2>"
    if not pairs:
        yield '<p class="good">None is missed.</p>'
        return
    yield (
        '<p class="soft">What covers more than half of a segment that is missed. With its own '
        "class there, its mask is wrong: in parts, merged with another, or inaccurate.</p>"
    )
    lines = []
    for (class_id, called), count in pairs.most_common(SHOWN_CONFUSIONS):
        category = categories.by_class_id[class_id]
        if called is None:
            other = '<span class="soft">nothing</span>'
        else:
            by = categories.by_class_id[called]
            other = f"{swatch(by.color)}{escape(by.name)}"
        lines.append(
            f"<tr><td>{swatch(category.color)}{escape(category.name)}</td><td>{other}</td>"
            f'<td class="number">{count:,}</td>'
            f'<td class="number">{100 * count / missed[class_id]:.0f} %</td></tr>'
        )
    yield (
        '<div class="scroll"><table id="missed" class="sortable"><tr><th>missed</th><th>called</th>'
        '<th class="number">segments</th><th class="number">of its missed ones</th></tr>'
        f"{''.join(lines)}</table></div>"
    )


def _histograms(images: Sequence[ImageScore], categories: Categories) -> Iterator[str]:
    scores: dict[bool, list[float]] = {True: [], False: []}
    areas: dict[bool, list[int]] = {True: [], False: []}
    for image in images:
        matches = match_segments(image.overlap)
        areas[True] += image.overlap.target_area[matches.target].tolist()
        areas[False] += image.overlap.target_area[matches.missed].tolist()
        if image.scores is not None:
            scores[True] += image.scores[matches.prediction].tolist()
            scores[False] += image.scores[matches.false].tolist()
    yield '<h2>Distributions</h2><div class="charts">'
    if scores[True] or scores[False]:
        edges = np.linspace(0, 1, 11)
        right, wrong = (np.histogram(scores[kind], edges)[0].tolist() for kind in (True, False))
        names = [f"{a:.1f} to {b:.1f}" for a, b in itertools.pairwise(edges)]
        title = "Predicted segments by score: right + wrong"
        yield bar_chart(title, list(zip(names, right, strict=True)), wrong)
    if areas[True] or areas[False]:
        top = int(math.log2(max(1, *areas[True], *areas[False]))) + 1
        edges = np.exp2(np.arange(0.0, top + 1))
        found, missed = (np.histogram(areas[kind], edges)[0].tolist() for kind in (True, False))
        names = [f"{int(a):,} to {int(b) - 1:,}" for a, b in itertools.pairwise(edges)]
        title = "Segments by size in pixels: found + missed"
        yield bar_chart(title, list(zip(names, found, strict=True)), missed)
    yield "</div>"


def _galleries(
    images: Sequence[ImageScore], dataset: PanopticDataset, predictions: PredictionFiles
) -> Iterator[str]:
    quality = {image.position: image_quality(image.overlap) for image in images}
    confused = {
        image.position: sum(
            called not in (None, class_id)
            for class_id, called in called_instead(image, dataset.categories)
        )
        for image in images
    }
    known = [image for image in images if quality[image.position].segments]

    def pq(image: ImageScore) -> str:
        return f"PQ {100 * quality[image.position].pq:.1f}"

    def wrong(image: ImageScore) -> str:
        return f"{confused[image.position]} segments by a wrong name, {pq(image)}"

    by_quality = sorted(known, key=lambda image: quality[image.position].pq)
    by_confusion = sorted(known, key=lambda image: -confused[image.position])
    chosen: list[tuple[str, list[ImageScore], Callable[[ImageScore], str]]] = [
        ("Worst images", by_quality[:SHOWN_IMAGES], pq),
        ("Most confused images", [i for i in by_confusion if confused[i.position]], wrong),
        ("Best images", by_quality[::-1][:SHOWN_IMAGES], pq),
    ]
    legend = "".join(
        f"{swatch(color)}{name} &nbsp; "
        for color, name in (
            (WRONG_CLASS, "wrong class"),
            (WRONG_SEGMENT, "right class, wrong segment"),
            (NOT_SCORED, "not scored"),
        )
    )
    yield f'<h2>Images</h2><p class="soft">Errors: {legend}</p>'
    for title, group, remark in chosen:
        viewers = [_viewer(i, dataset, predictions, remark(i)) for i in group[:SHOWN_IMAGES]]
        yield f'<h3>{title}</h3><div class="samples">{"".join(viewers)}</div>'


def _viewer(
    image: ImageScore, dataset: PanopticDataset, predictions: PredictionFiles, remark: str
) -> str:
    """Four layers of one image under a slider."""
    sample = dataset.read(image.position)
    size = sample.image.shape[:2]
    prediction = predictions.read(sample.image_id, sample.file_name, size).segments.paint()
    layers = _layers(sample, prediction, dataset.categories)
    pictures = "".join(
        inline_jpeg(layer, name, 75) for name, layer in zip(LAYERS, layers, strict=True)
    )
    ticks = "".join(f'<button type="button">{name}</button>' for name in LAYERS)
    return (
        f'<figure class="viewer"><div class="layers">{pictures}</div>'
        f'<input type="range" min="0" max="{len(LAYERS) - 1}" step="0.05" value="2" '
        f'aria-label="layer of {escape(Path(image.file_name).name)}">'
        f'<div class="ticks">{ticks}</div>'
        f"<figcaption>{escape(Path(image.file_name).name)}: {escape(remark)}</figcaption></figure>"
    )


def _layers(
    sample: PanopticSample, prediction: PanopticSegments, categories: Categories
) -> list[Picture]:
    """Pictures of one size: image, ground truth, prediction, errors."""
    truth = sample.segments
    assert truth is not None
    errors = _errors(sample.image, prediction, truth)
    scale = min(1.0, LONGER_SIDE / max(sample.image.shape[:2]))
    size = round(sample.image.shape[1] * scale), round(sample.image.shape[0] * scale)
    image = np.asarray(cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA), np.uint8)
    overlays = []
    for segments in (truth, prediction):
        id_map = cv2.resize(segments.id_map, size, interpolation=cv2.INTER_NEAREST)
        small = segments._replace(id_map=np.asarray(id_map, np.int32))
        overlays.append(panoptic_overlay(image, small, categories))
    full = overlays[0].shape[1], overlays[0].shape[0]  # small images are enlarged
    nearest = cv2.INTER_NEAREST
    plain = np.asarray(cv2.resize(image, full, interpolation=cv2.INTER_CUBIC), np.uint8)
    marked = np.asarray(cv2.resize(errors, full, interpolation=nearest), np.uint8)
    return [plain, *overlays, marked]


def _errors(image: Picture, prediction: PanopticSegments, truth: PanopticSegments) -> Picture:
    """The image in grey, its wrong pixels in colour."""
    matches = match_segments(segment_overlap(prediction, truth))
    partner = np.zeros(len(truth.class_ids) + 1, np.int64)
    partner[matches.target + 1] = matches.prediction + 1
    true_class, predicted_class = truth.semantic_map(-1), prediction.semantic_map(-1)
    picture = np.repeat(image.mean(-1, keepdims=True) * 0.6 + 90, 3, -1)
    is_crowd = np.append(False, truth.is_crowd)[truth.id_map]
    for mask, color in (
        (partner[truth.id_map] != prediction.id_map, WRONG_SEGMENT),
        (true_class != predicted_class, WRONG_CLASS),
        ((true_class < 0) | is_crowd, NOT_SCORED),
    ):
        picture[mask] = picture[mask] * 0.25 + np.array(color) * 0.75
    return picture.clip(0, 255).astype(np.uint8)


def _bar(percent: float | None) -> str:
    width = 0.0 if percent is None else 1.2 * percent
    return (
        f'<svg width="120" height="10" role="img" aria-label="{_text(percent)}">'
        f'<rect width="{width:.1f}" height="10" rx="2"/></svg>'
    )


def _text(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"
