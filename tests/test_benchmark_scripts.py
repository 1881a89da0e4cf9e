"""`make bench`: no script is forgotten, and one that fails is told."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def run_all() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_all", BENCHMARKS / "run_all.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_script_has_a_short_version_and_a_row(run_all: ModuleType) -> None:
    rows = (BENCHMARKS / "README.md").read_text()
    found = run_all.scripts()
    for script in BENCHMARKS.glob("*.py"):
        text = script.read_text()
        if '"__main__"' in text:
            assert f"python benchmarks/{script.name}" in text, script.name
            assert f"python benchmarks/{script.name}" in rows or script.name == "run_all.py"
            # What needs a GPU, or its compiler, has no short version for every machine.
            assert script in found or script.stem.startswith(("run_all", "gpu_", "triton_"))


@pytest.mark.parametrize(
    ("body", "output", "error"),
    [
        ("print(sys.argv[1:])", "['--quick']", ""),
        ("print(1); sys.exit('no such file')", "1", "exit code 1\nno such file"),
        ("print(2, flush=True); import time; time.sleep(60)", "2", "stopped after 1 s"),
    ],
)
def test_runs_a_script(
    run_all: ModuleType, tmp_path: Path, body: str, output: str, error: str
) -> None:
    script = tmp_path / "speed.py"
    script.write_text(f"import sys; {body}")
    outcome = run_all.run(script, 1.0 if "sleep" in body else 60.0)
    assert (outcome.output, outcome.error) == (output, error)


def test_report(run_all: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "speed.py"
    script.write_text('"""How fast it is.\n\nMore.\n"""')
    good = run_all.Outcome(script, 60.0, "a 1.0\nb 2.0", "")
    bad = run_all.Outcome(script, 30.0, "", "exit code 1\nKeyError: 'c'")
    text = run_all.report([good, bad], "a machine")
    assert "* a machine\n* torch 2" in text
    assert "| [speed.py](#speed) | 60 | ok |\n| [speed.py](#speed) | 30 | **failed** |" in text
    assert "## speed\n\nHow fast it is.\n\n```\na 1.0\nb 2.0\n```\n" in text
    assert "**Failed:**\n\n```\nexit code 1\nKeyError: 'c'\n```\n" in text


def test_the_quarter_of_an_hour_on_a_gpu_is_rehearsed(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHON": sys.executable}
    command = ["bash", str(BENCHMARKS / "gpu_all.sh"), "--dry", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    steps = (tmp_path / "summary.txt").read_text().splitlines()
    assert [line[:2] for line in steps] == ["a_", "b_", "c_", "d_", "e_", "f_"]
    assert all("exit code 0" in line for line in steps)
    assert "failed" not in "".join(file.read_text() for file in tmp_path.glob("[b-f]_*.txt"))
