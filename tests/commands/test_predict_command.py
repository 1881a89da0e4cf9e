import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from axialseg.commands import predict
from axialseg.formats.id_png import ids_from_rgb

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Sizes and colour types of all kinds; one file of text, one cut off."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for name, size in (("a.png", (40, 60)), ("in/a.jpg", (33, 20)), ("in/b.png", (20, 90))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    Image.fromarray(rng.integers(0, 256, (5, 5), np.uint8)).save(folder / "grey.png")
    (folder / "text.jpg").write_text("no picture")
    whole = (folder / "in/b.png").read_bytes()
    (folder / "in/half.png").write_bytes(whole[: len(whole) // 2])
    return folder


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_folder(
    trained_run: Path,
    pictures: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = pictures / "out"
    arguments = [f"ckpt={trained_run}", f"images={pictures}", f"out={out}", "batch=2"]
    with pytest.raises(SystemExit) as stopped:
        command(predict.main, arguments)
    said = capsys.readouterr()
    assert stopped.value.code == 1
    assert f"skipped: {pictures / 'text.jpg'} cannot be read" in said.err
    assert f"skipped: {pictures / 'in/half.png'} cannot be read" in said.err
    assert said.err.endswith("error: 2 could not be read, see above\n")
    assert said.out.startswith("4 images in ")
    ends = (".png", ".json", "_overlay.jpg")
    assert written(out) == {f"{n}{end}" for n in ("a", "grey", "in/a", "in/b") for end in ends}
    for name, file_name, size in (("in/a", "a.jpg", (33, 20)), ("grey", "grey.png", (5, 5))):
        table = json.loads((out / f"{name}.json").read_text())
        stem = Path(name).name
        assert table["images"] == [
            {"id": stem, "file_name": file_name, "height": size[0], "width": size[1]}
        ]
        (annotation,) = table["annotations"]
        with Image.open(out / f"{name}.png") as picture:
            ids = ids_from_rgb(np.asarray(picture))
        assert ids.shape == size
        assert (annotation["image_id"], annotation["file_name"]) == (stem, f"{stem}.png")
        rows = {row["id"]: row for row in annotation["segments_info"]}
        assert set(rows) == set(np.unique(ids).tolist()) - {0}
        for number, row in rows.items():
            ys, xs = np.nonzero(ids == number)
            box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert (row["area"], row["bbox"]) == (len(ys), box)
            assert 0 <= row["score"] <= 1
    # A second call takes no result for a picture, and filters.
    with pytest.raises(SystemExit):
        command(predict.main, [*arguments, "things_only=true", "min_score=1"])
    assert capsys.readouterr().out.startswith("4 images in ")
    table = json.loads((out / "a.json").read_text())
    assert table["annotations"][0]["segments_info"] == []


def test_video(
    trained_run: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    film = tmp_path / "film.avi"
    video = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 48))
    for shade in range(4):
        video.write(np.full((48, 64, 3), 60 * shade, np.uint8))
    video.release()
    command(predict.main, [f"ckpt={trained_run}", f"images={film}", f"out={tmp_path / 'out'}"])
    assert capsys.readouterr().out.startswith("4 images in ")
    assert written(tmp_path / "out") == {"film_overlay.mp4"}
    result = cv2.VideoCapture(str(tmp_path / "out/film_overlay.mp4"))
    assert result.get(cv2.CAP_PROP_FPS) == 5
    assert result.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert result.read()[1].shape == (480, 640, 3)


def test_broken_video(trained_run: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "film.mp4").write_text("no video")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        command(predict.main, [f"ckpt={trained_run}", f"images={tmp_path}/*.mp4", f"out={out}"])
    assert stopped.value.code == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("images=nowhere", "images=nowhere does not exist"),
        ("min_score=2", "min_score=2.0 must be from 0 to 1"),
        ("batch=0", "batch=0 must be at least 1"),
        ("tile=[3]", "tile=[3] is not a size; give tile=[height,width]"),
        ("device=gpu", "device=gpu does not exist; there are: auto, cpu, cuda"),
        ("precision=bf17", "precision=bf17 does not exist; there are: 32, bf16"),
        ("ckpt=nowhere", "the checkpoint nowhere does not exist"),
        ("min_scor=1", "min_scor does not exist; did you mean min_score?"),
    ],
)
def test_mistakes(wrong: str, message: str, pictures: Path, refusal: Refusal) -> None:
    right = ["ckpt=x", f"images={pictures}", f"out={pictures / 'out'}"]
    key = wrong.partition("=")[0]
    arguments = [line for line in right if not line.startswith(f"{key}=")] + [wrong]
    assert message in refusal(predict.main, arguments)
    assert not (pictures / "out").exists()
