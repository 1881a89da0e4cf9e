"""Segmentations as files: a picture of ids, a table of the segments, and an overlay."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from axialseg.errors import UserError
from axialseg.inference.pictures import Picture
from axialseg.inference.segmentation import Segmentation
from axialseg.machine.whole_file import whole_file

OVERLAY = "_overlay"


def write_segmentation(found: Segmentation, target: Path) -> None:
    """Writes `<target>.png` and `<target>.json` in COCO's panoptic format, and an overlay.

    That is `<target>_overlay.jpg`. The JSON has the layout of COCO's files for this one image:
    `images`, `annotations` with `segments_info`, and `categories`; see `Segmentation.to_coco`. It
    comes last.

    Args:
        found: of one image.
        target: place and name without an ending; its folder is made.

    Raises:
        UserError: the files cannot be written.
    """
    coco = found.to_coco()
    height, width = found.panoptic.shape
    name = Path(found.file_name).name or target.name
    picture = _with_ending(target, ".png")
    table = {
        "images": [{"id": target.name, "file_name": name, "height": height, "width": width}],
        "annotations": [
            {
                "image_id": target.name,
                "file_name": picture.name,
                "segments_info": coco["segments_info"],
            }
        ],
        "categories": coco["categories"],
    }
    with writing(target.parent):
        with whole_file(picture) as draft:
            Image.fromarray(found.id_picture()).save(draft, compress_level=3)
        with whole_file(_with_ending(target, f"{OVERLAY}.jpg")) as draft:
            found.plot().save(draft, quality=90)
        with whole_file(_with_ending(target, ".json")) as draft:
            draft.write_text(json.dumps(table, indent=1) + "\n")


def read_frames(path: Path) -> tuple[float, int, Iterator[Picture]]:
    """Frames per second, number of frames as far as the file tells, and the frames of a video.

    Raises:
        UserError: the file is missing or no video.
    """
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise UserError(f"{path} cannot be read as a video; convert it to MP4 (H.264)")

    def frames() -> Iterator[Picture]:
        try:
            while True:
                there, pixels = video.read()
                if not there:
                    return
                yield Picture(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8))
        finally:
            video.release()

    rate = video.get(cv2.CAP_PROP_FPS) or 25.0
    return rate, max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0), frames()


def write_overlay_video(
    found: Iterable[Segmentation], rate: float, target: Path, done: Callable[[], None]
) -> int:
    """Writes `<target>_overlay.mp4`, without sound, and puts it in place when it is complete.

    Args:
        found: of the frames, all of one size.
        rate: frames per second.
        target: place and name without an ending; its folder is made.
        done: is called after each frame.

    Returns:
        Number of frames.

    Raises:
        UserError: the file cannot be written.
    """
    draft = _with_ending(target, f"{OVERLAY}.partial.mp4")
    video: cv2.VideoWriter | None = None
    count = 0
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            for frame in found:
                pixels = np.asarray(frame.plot())
                if video is None:
                    size = pixels.shape[1], pixels.shape[0]
                    code = cv2.VideoWriter.fourcc(*"mp4v")
                    video = cv2.VideoWriter(str(draft), code, rate, size)
                    if not video.isOpened():
                        raise UserError(f"{draft} cannot be written; give another folder")
                video.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
                count += 1
                done()
            if video is not None:
                video.release()
                os.replace(draft, _with_ending(target, f"{OVERLAY}.mp4"))
        finally:
            if video is not None:
                video.release()
            draft.unlink(missing_ok=True)
    return count


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises a sentence if files cannot be written there."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{folder} cannot be written ({reason}); free space there or give another folder"
        ) from error


def _with_ending(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)
