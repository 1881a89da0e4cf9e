"""What the demo's page asks a model, and what it gets."""

import base64
import threading
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from axialseg.errors import UserError
from axialseg.formats.id_png import rgb_from_ids
from axialseg.inference.loaded_model import LoadedModel
from axialseg.inference.pictures import as_picture
from axialseg.inference.segmentation import Segmentation

KEPT = 8  # pictures that can still be asked about


class Answers:
    """A model and the pictures that it was shown last.

    Args:
        model: a network that segments.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self._pictures: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def segment(self, content: bytes, scales: Sequence[float], flip: bool) -> dict[str, Any]:
        """Segments a picture.

        Args:
            content: of an image file.
            scales: see `Options`.
            flip: see there.

        Returns:
            `picture`, a name to ask by; `image` and `numbers`, data URLs of the picture and of the
            segments' numbers (0 is void, R + 256 G + 65536 B); `segments` with number, name, score,
            area, kind and colour; `height` and `width`.

        Raises:
            UserError: it is no image, or a wrong scale.
        """
        try:
            picture = np.array(as_picture(Image.open(BytesIO(content))).pixels)
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            raise UserError("this file is no image that can be read; drop another one") from None
        with self._one_at_a_time:
            found = self.model.predict(picture, scales=tuple(scales) or (1.0,), flip=flip)
            name = uuid.uuid4().hex
            self._pictures[name] = picture
            while len(self._pictures) > KEPT:
                self._pictures.popitem(last=False)
        height, width = picture.shape[:2]
        return {
            "picture": name,
            "image": _data_url(picture, "jpeg"),
            "numbers": _data_url(rgb_from_ids(np.arange(found.id_map.max() + 1))[found.id_map]),
            "segments": _rows(found),
            "height": height,
            "width": width,
        }

    def attention(self, picture: str, pixel: tuple[int, int]) -> bytes:
        """A picture of what a pixel attends to, along the height axis and the width axis; PNG.

        Args:
            picture: its name.
            pixel: (y, x).

        Raises:
            UserError: the picture is forgotten, or the model has no axial attention there.
        """
        with self._one_at_a_time:
            pixels = self._pictures.get(picture)
            if pixels is None:
                raise UserError("this picture is no longer kept; drop it again")
            return self.model.explain(pixels, pixel)._repr_png_()


def _rows(found: Segmentation) -> list[dict[str, Any]]:
    return [
        {
            "number": number,
            "name": segment.name,
            "score": round(segment.score, 4),
            "area": segment.area,
            "kind": "thing" if segment.category.is_thing else "stuff",
            "color": color,
        }
        for number, (segment, color) in enumerate(
            zip(found.segments, found.colors.tolist(), strict=True), start=1
        )
    ]


def _data_url(pixels: NDArray[np.uint8], kind: str = "png") -> str:
    content = BytesIO()
    Image.fromarray(pixels).save(content, kind, quality=92)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
