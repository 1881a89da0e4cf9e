from pathlib import Path

import pytest

from axialseg.datasets.image_paths import find_images
from axialseg.errors import UserError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = ("a/x.jpg", "a/x.PNG", "a/b/x.jpg", "a/notes.txt", "a/film.mp4", "out/x.png", "c/y.tif")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "folder.jpg").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("a", {"a/x.PNG": "x.PNG", "a/x.jpg": "x.jpg", "a/b/x.jpg": "b/x"}),
        (".", {"a/x.PNG": "a/x.PNG", "a/x.jpg": "a/x.jpg", "a/b/x.jpg": "a/b/x", "c/y.tif": "c/y"}),
        ("a/*.jpg", {"a/x.jpg": "x"}),
        ("*/x.jpg", {"a/x.jpg": "a/x"}),
        ("a/*.mp4", {"a/film.mp4": "film"}),
        ("**/x.jpg", {"a/x.jpg": "a/x", "a/b/x.jpg": "a/b/x"}),
        ("a/notes.txt", {"a/notes.txt": "notes"}),
        ("a/film.mp4", {"a/film.mp4": "film"}),
    ],
)
def test_what_is_meant(wanted: str, names: dict[str, str], tree: Path) -> None:
    found = find_images(wanted, Path("out"))
    assert {str(image.path): str(image.name) for image in found} == names
    assert {image.is_video for image in found} == {"mp4" in wanted or "film" in wanted}
    absolute = find_images(str(tree / wanted), Path("out"))
    assert [image.name for image in absolute] == [image.name for image in found]


@pytest.mark.parametrize(
    ("wanted", "out", "message"),
    [
        ("nowhere", "out", "images=nowhere does not exist"),
        ("a/*.gif", "out", "holds no picture"),
        ("out", "out", "would mix results with the pictures"),
        ("out", ".", "would mix results with the pictures"),
    ],
)
def test_mistakes(wanted: str, out: str, message: str, tree: Path) -> None:
    with pytest.raises(UserError, match=message):
        find_images(wanted, Path(out))
