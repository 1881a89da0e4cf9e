"""The generated data set in ImageNet's layout: content, and when it is made anew."""

from pathlib import Path

import numpy as np
import pytest

from axialseg.datasets.generated.pattern_images import (
    GENERATOR_VERSION,
    PATTERNS,
    SIDES,
    paint_pattern,
)
from axialseg.datasets.generated.patterns import patterns_imagenet
from axialseg.errors import UserError

SMALL = {"train_images": 3, "val_images": 2}


def content_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_layout_is_imagenets(tmp_path: Path) -> None:
    root = tmp_path / "patterns"
    train, val = (patterns_imagenet(root, split, **SMALL) for split in ("train", "val"))
    assert (len(train), len(val)) == (30, 20)
    assert train.categories == val.categories
    assert train.categories.ids == tuple(sorted(PATTERNS))
    assert len(PATTERNS) == 10
    assert {p.name for p in root.iterdir()} == {"train", "val", "patterns.json"}
    for index, label in enumerate(train.labels.tolist()):
        sample = train.read(index)
        assert sample.image_id == f"{train.categories.ids[label]}/{Path(sample.file_name).name}"
        painted = paint_pattern(
            train.categories.ids[label], np.random.default_rng((0, 0, label, index % 3))
        )
        assert sample.image.shape == painted.shape
        shown, expected = (image.mean(2).ravel() for image in (sample.image, painted))
        assert np.corrcoef(shown, expected)[0, 1] > 0.9  # JPEG


def test_images_vary_in_size_and_everything_but_the_pattern() -> None:
    images = [paint_pattern("weave", np.random.default_rng(seed)) for seed in range(60)]
    sides = np.array([image.shape[:2] for image in images])
    assert sides.min() >= SIDES[0]
    assert sides.max() <= SIDES[1]
    assert len(np.unique(sides)) > 20
    means = np.array([image.mean((0, 1)) for image in images])
    assert (means.std(0) > 15).all()


def test_colour_tells_nothing() -> None:
    rows = [
        (label, paint_pattern(name, np.random.default_rng((7, label, seed))).mean((0, 1)))
        for label, name in enumerate(PATTERNS)
        for seed in range(20)
    ]
    labels, colors = np.array([label for label, _ in rows]), np.array([mean for _, mean in rows])
    distance = ((colors[:, None] - colors[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    assert (labels[distance.argmin(1)] == labels).mean() < 0.2  # blind: 0.095


def test_a_changed_generator_needs_a_new_version() -> None:
    images = [paint_pattern(name, np.random.default_rng(0)) for name in PATTERNS]
    means = [round(float(image.mean())) for image in images]
    # If this fails: raise GENERATOR_VERSION, then put the new numbers here.
    assert (GENERATOR_VERSION, means) == (2, [87, 144, 80, 136, 150, 130, 66, 176, 138, 141])


def test_same_seed_same_bytes_and_other_seed_other_images(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        patterns_imagenet(tmp_path / name, "train", seed, 1, 1)
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")
    image = Path("val/weave/weave_00000.JPEG")
    assert (tmp_path / "a" / image).read_bytes() != (tmp_path / "c" / image).read_bytes()


def test_other_peoples_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"data=patterns did not write; give another folder"):
        patterns_imagenet(tmp_path, "train", **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_unknown_split_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no split 'test'; use train or val"):
        patterns_imagenet(tmp_path, "test")
