"""Locks that die with their process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from axialseg.commands import train
from axialseg.datasets.generated.shapes import shapes_panoptic
from axialseg.errors import UserError
from axialseg.machine.in_use import only_job_in, refuse_links, refuse_running

HOLDS_FOLDER = (
    "import sys, time; from pathlib import Path; from axialseg.machine.in_use import only_job_in\n"
    "with only_job_in(Path(sys.argv[1])): print('ready', flush=True); time.sleep(60)"
)
USES_SHAPES = (
    "import sys, time; from axialseg.datasets.generated.shapes import shapes_panoptic\n"
    "shapes_panoptic(root=sys.argv[1], split='val', train_images=1, val_images=1)\n"
    "print('ready', flush=True); time.sleep(60)"
)


@contextmanager
def other_process(code: str, folder: Path) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_one_job_in_a_folder_until_its_process_dies(tmp_path: Path) -> None:
    with other_process(HOLDS_FOLDER, tmp_path) as pid:
        for attempt in (
            lambda: only_job_in(tmp_path).__enter__(),
            lambda: refuse_running(tmp_path),
        ):
            with pytest.raises(UserError, match=f"another job is running in {tmp_path}"):
                attempt()
        os.kill(pid, signal.SIGKILL)
    refuse_running(tmp_path)
    with only_job_in(tmp_path):
        pass


def test_a_second_training_changes_nothing(
    tiny_run: list[str], tmp_path: Path, refusal: Callable[[Callable[[], None], list[str]], str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with other_process(HOLDS_FOLDER, folder):
        message = refusal(train.main, [*tiny_run, f"hydra.run.dir={folder}"])
        assert f"another job is running in {folder}" in message
        assert [file.name for file in folder.iterdir()] == [".running.lock"]


@pytest.mark.parametrize("name", ["evaluate.log", ".hydra", "unfinished/scores.0.jsonl"])
def test_a_link_in_place_of_a_file_that_is_written(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    link = folder / name
    link.parent.mkdir(parents=True)
    refuse_links(folder)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{link} is a link, and the job would write where"):
        refuse_links(folder)


def shapes(root: Path, images: int) -> int:
    return len(shapes_panoptic(root=root, split="train", train_images=images, val_images=1))


def test_generated_data_in_use_are_not_replaced(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    with other_process(USES_SHAPES, root):
        assert shapes(root, 1) == 1  # the same data set is shared
        with pytest.raises(UserError, match="another job is using the shapes data set"):
            shapes(root, 2)
        assert shapes(root, 1) == 1
    assert shapes(root, 2) == 2
    assert shapes(root, 1) == 1  # this process's own earlier job does not count
