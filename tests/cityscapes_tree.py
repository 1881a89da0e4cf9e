"""A small Cityscapes root in the official layout, and what the official script makes of it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

# As in helpers/labels.py: id -> (name, ignoreInEval, hasInstances); the rest is not drawn here.
LABELS = {
    0: ("unlabeled", True, False),
    1: ("ego vehicle", True, False),
    3: ("out of roi", True, False),
    4: ("static", True, False),
    7: ("road", False, False),
    8: ("sidewalk", False, False),
    9: ("parking", True, False),
    11: ("building", False, False),
    18: ("polegroup", True, False),
    23: ("sky", False, False),
    24: ("person", False, True),
    25: ("rider", False, True),
    26: ("car", False, True),
    29: ("caravan", True, True),
    30: ("trailer", True, True),
    31: ("train", False, True),
    33: ("bicycle", False, True),
}
SIZE = (32, 64)
# Instance ids of an image: labels, groups (< 1000 of a thing) and instances.
PALETTE = (0, 1, 3, 4, 7, 8, 9, 11, 18, 23, 24, 24000, 24001, 25, 26, 26000, 26001, 26012)
PALETTE += (29000, 30, 30001, 31000, 33, 33999)
FILES = {
    "train": (("aachen", "aachen_000000_000019"), ("bochum", "bochum_000000_000313")),
    "val": (("frankfurt", "frankfurt_000001_000538"),),
    "test": (("berlin", "berlin_000000_000019"),),
}


def write_tree(root: Path, annotation_folder: str = "gtFine") -> None:
    """Images of all splits and the files that the annotation zip holds."""
    rng = np.random.default_rng(0)
    for split, files in FILES.items():
        for city, image_id in files:
            images, truth = (root / f / split / city for f in ("leftImg8bit", annotation_folder))
            images.mkdir(parents=True, exist_ok=True)
            truth.mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
            Image.fromarray(image).save(images / f"{image_id}_leftImg8bit.png")
            cells = rng.permutation(PALETTE * 2)[:32].reshape(4, 8).repeat(8, 0).repeat(8, 1)
            if split == "test":
                cells = np.where(cells < 1000, 1, 3)  # nothing is published but bonnet and margin
            write_truth(truth / f"{image_id}_{annotation_folder}", cells)


def write_truth(stem: Path, ids: np.ndarray) -> None:
    """The four files of an image: 16-bit instance ids, 8-bit labels, colours, polygons."""
    instances = Image.fromarray(ids.astype(np.uint16))
    instances.save(f"{stem}_instanceIds.png")
    labels = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
    Image.fromarray(labels).save(f"{stem}_labelIds.png")
    colors = Image.fromarray(labels).convert("P")
    colors.putpalette([n % 256 for n in range(768)])
    colors.convert("RGBA").save(f"{stem}_color.png")
    height, width = ids.shape
    content = {"imgHeight": height, "imgWidth": width, "objects": []}
    Path(f"{stem}_polygons.json").write_text(json.dumps(content))


def create_panoptic_images(root: Path, split: str) -> None:
    """Restates createPanopticImgs.py: `gtFine/cityscapes_panoptic_<split>.json` and its PNGs."""
    folder = root / "gtFine" / f"cityscapes_panoptic_{split}"
    folder.mkdir()
    images, annotations = [], []
    for path in sorted((root / "gtFine" / split).glob("*/*_instanceIds.png")):
        original = np.array(Image.open(path))
        image_id = path.name.replace("_gtFine_instanceIds.png", "")
        name = path.name.replace("_instanceIds.png", "_panoptic.png")
        colors = np.zeros((*original.shape, 3), np.uint8)
        segments = []
        for segment_id in np.unique(original).tolist():
            label_id = segment_id if segment_id < 1000 else segment_id // 1000
            _, is_ignored, has_instances = LABELS[label_id]
            if is_ignored:
                continue
            mask = original == segment_id
            colors[mask] = [segment_id % 256, segment_id // 256, segment_id // 256 // 256]
            ys, xs = np.nonzero(mask)
            x, y = int(xs.min()), int(ys.min())
            segments.append(
                {
                    "id": segment_id,
                    "category_id": label_id,
                    "area": int(mask.sum()),
                    "bbox": [x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1],
                    "iscrowd": int(segment_id < 1000 and has_instances),
                }
            )
        Image.fromarray(colors).save(folder / name)
        height, width = original.shape
        # The official script names the images so, which is not how they are called.
        file_name = path.name.replace("_instanceIds.png", "_leftImg8bit.png")
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        annotations.append({"image_id": image_id, "file_name": name, "segments_info": segments})
    categories = [
        {"id": number, "name": name, "color": [0, 0, 0], "isthing": int(has_instances)}
        for number, (name, is_ignored, has_instances) in LABELS.items()
        if not is_ignored
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    folder.with_suffix(".json").write_text(json.dumps(content, sort_keys=True, indent=4))
