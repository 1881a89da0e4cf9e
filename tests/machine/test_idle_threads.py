"""Idle threads sleep in our commands, unless the user wants something else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from axialseg.machine.idle_threads import SPINS, let_idle_threads_sleep

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SPINS),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_what_the_user_has_set_stays(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # is put back after the test
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    let_idle_threads_sleep()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize("module", ["train", "complexity"])
def test_commands_say_so_before_torch_is_there(module: str, tmp_path: Path) -> None:
    """The library reads the variable when it is loaded."""
    program = f"""
import os, sys
import importlib.abc
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("spins", os.environ.get("GOMP_SPINCOUNT"))
            os._exit(0)
sys.meta_path.insert(0, Watch())
sys.argv = ["x", "model=axial_hybrid_tiny"]
from axialseg.commands.{module} import main
main()
"""
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", program]
    run = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert f"spins {SPINS}" in run.stdout, run.stderr
