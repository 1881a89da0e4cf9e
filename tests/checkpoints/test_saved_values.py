"""Saved settings that grow without end are refused before anything is made of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from axialseg.checkpoints import saved_values
from axialseg.checkpoints.own_weights import stored_run
from axialseg.checkpoints.saved_values import yaml_text
from axialseg.commands.saved_run import saved_config
from axialseg.errors import UserError

DEPTH = 40  # 2 ** 40 values: whoever walks through them never ends


def doubled(first: str, join: str) -> str:
    lines = [first, *(f"a{i}: &a{i} {join.format(i - 1)}" for i in range(1, DEPTH))]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        doubled("a0: &a0 [x, y]", "[*a{0}, *a{0}]"),
        doubled("a0: &a0 {p: 1}", "{{p: *a{0}, q: *a{0}}}"),
        "model: &a [1, *a]",
        "a: &a {b: *a}",
    ],
)
def test_aliases_of_aliases(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml holds more than 50,000 settings"):
        saved_config(file)


def test_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_values, "MOST_BYTES", 8)
    file = tmp_path / "config.yaml"
    file.write_text("a: 1234")
    assert yaml_text(file) == "a: 1234"
    file.write_text("a: 123456")
    with pytest.raises(UserError, match="is larger"):
        saved_config(file)


def test_few_aliases_and_an_empty_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: &a {b: 1}\nc: [*a, *a]\n")
    assert yaml.safe_load(yaml_text(file))["c"] == [{"b": 1}, {"b": 1}]
    file.write_text("")
    assert yaml_text(file) == ""


def test_a_checkpoint_whose_config_repeats_itself(tmp_path: Path) -> None:
    node: Any = ["x"]
    for _ in range(DEPTH):
        node = [node, node]
    file = tmp_path / "step_1.ckpt"
    torch.save({"hyper_parameters": {"model": {"a": node}, "data": {}}, "state_dict": {}}, file)
    with pytest.raises(UserError, match="holds more than 50,000 settings"):
        stored_run(file)
