"""A predicted segmentation for people: segments with names, scores, boxes and masks."""

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from axialseg.formats.coco_panoptic import color_like_ids, official_categories, segments_info
from axialseg.formats.id_png import rgb_from_ids
from axialseg.panoptic.categories import Categories, Category
from axialseg.panoptic.panoptic_map import PanopticSegments, segments_from_panoptic_map
from axialseg.visualization.panoptic import panoptic_overlay, segment_colors


@dataclass(frozen=True, eq=False)
class Segment:
    """One thing, or all of one stuff class.

    Attributes:
        category: its class.
        score: how sure the network is of it, 0..1; see `segment_scores`.
        area: in pixels.
        box: (x, y, width, height) in pixels, as COCO has it.
    """

    category: Category
    score: float
    area: int
    box: tuple[int, int, int, int]
    _number: int
    _id_map: NDArray[np.int32]

    @property
    def name(self) -> str:
        """Of its class."""
        return self.category.name

    def mask(self) -> NDArray[np.bool_]:
        """Its pixels, bool ``[H, W]``."""
        return self._id_map == self._number

    def __repr__(self) -> str:
        return f"Segment({self.name!r}, score={self.score:.2f}, area={self.area}, box={self.box})"


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The panoptic segmentation of one image, at the size of the image.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB.
        panoptic: int32 ``[H, W]``, class id * 65536 + instance; void is ignore class * 65536.
        scores: float ``[S]`` of the segments, ascending in their values in `panoptic`.
        categories: the classes.
        file_name: path of the image; empty if it came from memory.
    """

    image: NDArray[np.uint8]
    panoptic: NDArray[np.int32]
    scores: NDArray[np.float64]
    categories: Categories
    file_name: str = ""

    @cached_property
    def id_map(self) -> NDArray[np.int32]:
        """Number of each pixel's segment, int32 ``[H, W]``: k is ``segments[k - 1]``, 0 is void."""
        return self._table.id_map

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, by class, then by instance."""
        boxes = ndimage.find_objects(self.id_map)
        columns = zip(
            self._table.class_ids.tolist(),
            self.scores.tolist(),
            self._table.areas().tolist(),
            boxes,
            strict=True,
        )
        return tuple(
            Segment(
                self.categories.by_class_id[class_id],
                score,
                area,
                (x.start, y.start, x.stop - x.start, y.stop - y.start),
                number,
                self.id_map,
            )
            for number, (class_id, score, area, (y, x)) in enumerate(columns, start=1)
        )

    def only(self, things: bool = False, min_score: float = 0.0) -> "Segmentation":
        """The same with fewer segments; the others become void.

        Args:
            things: drop all stuff.
            min_score: drop segments with a lower score.
        """
        if not things and min_score <= 0:
            return self
        kept = self.scores >= min_score
        if things:
            kept &= self.categories.is_thing_table[self._table.class_ids]
        shown = np.append(False, kept)[self.id_map]
        void = self.categories.ignore_class << 16
        panoptic = np.where(shown, self.panoptic, np.int32(void))
        return Segmentation(
            self.image, panoptic, self.scores[kept], self.categories, self.file_name
        )

    def to_coco(self) -> dict[str, Any]:
        """The segments as in COCO's panoptic JSON files: `segments_info` and `categories`.

        Each segment has `id` (in `id_picture`), `category_id`, `bbox`, `area`, `iscrowd`, and
        beside the format `score` and `name`. `categories` are those that occur.
        """
        found = segments_info(self._table, self._colors, self.categories)
        rows = [
            {**row, "score": round(segment.score, 4), "name": segment.name}
            for row, segment in zip(found, self.segments, strict=True)
        ]
        occurring = {row["category_id"] for row in rows}
        known = [row for row in official_categories(self.categories) if row["id"] in occurring]
        return {"segments_info": rows, "categories": known}

    def id_picture(self) -> NDArray[np.uint8]:
        """The pixels of COCO's panoptic PNG, uint8 ``[H, W, 3]``: id = R + 256 G + 65536 B."""
        return rgb_from_ids(np.array([0, *self._colors]))[self.id_map]

    def plot(self) -> Image.Image:
        """The segments painted over the image, see `panoptic_overlay`."""
        return Image.fromarray(panoptic_overlay(self.image, self._table, self.categories))

    @cached_property
    def colors(self) -> NDArray[np.uint8]:
        """RGB of the segments in pictures, uint8 ``[S, 3]``."""
        return segment_colors(self._table, self.categories)[1:].astype(np.uint8)

    @cached_property
    def _table(self) -> PanopticSegments:
        return segments_from_panoptic_map(self.panoptic, self.categories.ignore_class)

    @cached_property
    def _colors(self) -> list[int]:
        return color_like_ids(self._table.class_ids, self.categories)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        content = BytesIO()
        self.plot().save(content, "png")
        return content.getvalue()

    def __repr__(self) -> str:
        height, width = self.panoptic.shape
        names = ", ".join(f"{segment.name} {segment.score:.2f}" for segment in self.segments)
        return f"<Segmentation {width}x{height}: {names or 'void'}>"
