"""Two ranks agree: on skipped steps, on scores, on predictions, and on stopping."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on two ranks; see `two_rank_run.py`."""
    folder = tmp_path_factory.mktemp("run")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "NODE_RANK": "0",
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    script = TESTS / "callbacks/two_rank_run.py"
    ranks = [
        subprocess.Popen(
            [sys.executable, script, folder],
            env={**environment, "LOCAL_RANK": rank, "RANK": rank},
            stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], b"\n".join(errors).decode()
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in "01"]


def test_both_drop_the_step_that_one_of_them_spoilt(
    folder: Path, results: list[dict[str, Any]]
) -> None:
    assert [result["skipped"] for result in results] == [1, 1]
    assert results[0]["weights"] == results[1]["weights"]  # NaN would equal nothing
    assert "because a gradient is not finite" in (folder / "rank0.log").read_text()
    assert "images: toy/" in (folder / "rank1.log").read_text()


def test_both_stop_at_the_same_step_when_one_is_signalled(
    folder: Path, results: list[dict[str, Any]]
) -> None:
    assert [result["code"] for result in results] == [75, 75]
    assert [result["step"] for result in results] == [8, 8]  # agreed at the end of batch 8
    saved = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 8


def test_scores_cover_each_image_once(folder: Path) -> None:
    record = json.loads((folder / "metrics.json").read_text())
    assert record["images"] == 5
    grass = record["classes"][2]
    assert grass["TP"] + grass["FN"] == 5


def test_predictions_of_all_ranks_are_written(folder: Path) -> None:
    content = json.loads((folder / "predictions.json").read_text())
    assert sorted(row["image_id"] for row in content["annotations"]) == [0, 1, 2, 3, 4]
    assert len(list((folder / "predictions").glob("*.png"))) == 5


def test_rank_0_alone_reports(folder: Path) -> None:
    first, second = (folder / f"rank{rank}.log" for rank in "01")
    for text in ("step  2/20", "Validation at step 4", "2 x cpu"):
        assert text in first.read_text()
        assert text not in second.read_text()
    drawn = {file.name for file in (folder / "images").glob("*.png")}
    every = {f"{n:03d}.jpg.png" for n in range(5)}  # each rank draws its own
    assert drawn == {"000.png", "002.png"} | every
    assert (folder / "metrics.csv").exists()
