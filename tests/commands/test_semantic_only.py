"""Data without a single thing: each kind of model trains, is scored and draws."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from axialseg.commands import train

Command = Callable[[Callable[[], None], list[str]], None]


@pytest.mark.parametrize("run", ["tiny_run", "tiny_max_run"])
def test_training_without_things(
    run: str, request: pytest.FixtureRequest, tmp_path: Path, command: Command
) -> None:
    arguments = [*request.getfixturevalue(run), "data.classes.things=[]"]
    command(train.main, [*arguments, f"hydra.run.dir={tmp_path}"])
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["step"] == 4
    assert record["mIoU"] >= 0
    assert {row["is_thing"] for row in record["classes"]} == {False}
    assert len(record["classes"]) == 9
    with Image.open(next((tmp_path / "images").glob("*.png"))) as picture:
        assert picture.width > picture.height
