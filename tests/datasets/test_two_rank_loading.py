"""Two processes of one run share each epoch and each validation without overlap."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from two_rank_loading import STEPS, TRAIN_IMAGES, VAL_IMAGES

TESTS = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank has seen; see `two_rank_loading.py`."""
    folder = tmp_path_factory.mktemp("run")
    environment = {
        **os.environ,
        "PYTHONPATH": str(TESTS.parent),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "NODE_RANK": "0",
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, TESTS / "datasets/two_rank_loading.py", folder]
    processes = [
        subprocess.Popen(
            command,
            env={**environment, "LOCAL_RANK": rank, "RANK": rank},
            stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], b"\n".join(errors).decode()
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in "01"]


def test_every_epoch_is_seen_once(ranks: list[dict[str, Any]]) -> None:
    keys = sorted(tuple(key) for rank in ranks for key in rank["keys"])
    count = STEPS * 2 * 2 * 2
    assert [position for position, _ in keys] == list(range(count))
    assert [len(rank["keys"]) for rank in ranks] == [count // 2] * 2
    epochs = [keys[first : first + TRAIN_IMAGES] for first in range(0, count, TRAIN_IMAGES)]
    for epoch in epochs:
        assert sorted(index for _, index in epoch) == list(range(TRAIN_IMAGES))
    assert len({tuple(index for _, index in epoch) for epoch in epochs}) == len(epochs)


def test_validation_is_neither_padded_nor_repeated(ranks: list[dict[str, Any]]) -> None:
    assert [rank["validated"] for rank in ranks] == [[1, 3, 5], [2, 4]]
    assert VAL_IMAGES == 5
