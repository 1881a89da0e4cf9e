import sys
from pathlib import Path

import pytest

from axialseg.commands.invocation import invocation

ROOT = Path(__file__).resolve().parents[2]


def test_it_names_what_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(ROOT)
    assert invocation("evaluate") == "python evaluate.py"
    monkeypatch.chdir(tmp_path)
    assert invocation("evaluate") == f"{sys.executable} -m axialseg evaluate"
    (tmp_path / "axialseg-evaluate").touch(mode=0o755)
    assert invocation("evaluate") == "axialseg-evaluate"
    (tmp_path / "python").touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert invocation("train") == "python -m axialseg train"
