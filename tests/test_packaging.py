"""What is installed: the wheel's files, and versions that pip can find anywhere."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EVERYTHING = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pinned}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, built without any network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("axialseg", "conf", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    (source / "README.md").touch()
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, "--target", target, wheel], check=True, capture_output=True)
    return target


def files(folder: Path, pattern: str) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob(pattern))


def test_wheel_holds_the_package_and_its_configs(installed: Path) -> None:
    for name in ("conf", "experiments"):
        assert files(installed / "axialseg" / name, "*.yaml") == files(ROOT / name, "*.yaml")
    assert files(installed / "axialseg", "*.py") == files(ROOT / "axialseg", "*.py")
    assert (installed / "axialseg/checkpoints/published.yaml").is_file()
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"axialseg", "bin"}


@pytest.mark.parametrize("command", ["train --cfg job", "train experiments=coco/nope"])
def test_commands_run_from_the_wheel(command: str, installed: Path, tmp_path: Path) -> None:
    name, *arguments = command.split()
    done = subprocess.run(
        [sys.executable, "-m", f"axialseg.commands.{name}", *arguments],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    if "--cfg" in arguments:
        assert done.returncode == 0, done.stderr
        assert "axialseg.tasks" in done.stdout
    else:
        assert done.returncode == 2
        assert "none" in done.stderr


def run_installed(installed: Path, folder: Path, *line: str) -> subprocess.CompletedProcess[str]:
    """What the wheel's scripts do in a folder far from the project."""
    scripts = os.pathsep.join([str(installed / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(installed), "PATH": scripts}
    return subprocess.run(
        [installed / "bin" / line[0], *line[1:]],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,  # of a crowded machine
        check=False,
    )


def test_scripts_of_the_wheel(installed: Path, tiny_run: list[str], tmp_path: Path) -> None:
    """Train, evaluate, predict and export, each by the hint that the one before gave."""
    lines = [line for line in tiny_run if "max_steps" not in line and "interval" not in line]
    run = "hydra.run.dir=run"
    trained = run_installed(
        installed, tmp_path, "axialseg-train", *lines, "trainer.max_steps=2", run
    )
    assert trained.returncode == 0, trained.stderr
    assert "To evaluate them:  axialseg-evaluate run=run\n" in trained.stdout + trained.stderr
    evaluated = run_installed(installed, tmp_path, "axialseg-evaluate", "run=run")
    assert evaluated.returncode == 0, evaluated.stderr
    assert (tmp_path / "run/evaluation/metrics.json").is_file()
    (picture, *_) = (tmp_path / "run").rglob("*.png")
    predicted = run_installed(
        installed, tmp_path, "axialseg", "predict", "ckpt=run", f"images={picture}", "out=out"
    )
    assert predicted.returncode == 0, predicted.stderr
    assert len(list((tmp_path / "out").iterdir())) == 3
    line = ["axialseg", "export", "ckpt=run", "format=safetensors", "out=model.safetensors"]
    exported = run_installed(installed, tmp_path, *line)
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "model.safetensors").is_file()


def test_help_names_what_exists(installed: Path, tmp_path: Path) -> None:
    told = run_installed(installed, tmp_path, "axialseg-train", "--help").stdout
    assert "axialseg-train model=axial_deeplab_l data=coco" in told
    assert "train.py" not in told
    install = run_installed(installed, tmp_path, "axialseg-train", "-sc", "install=bash").stdout
    assert "COMP_LINE" in install


def test_constraints_fit_every_machine() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "+" not in text
    assert "torchvision" not in text
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in constraints().values())


def test_constraints_fit_the_ranges() -> None:
    pinned = constraints()
    for line in EVERYTHING:
        requirement = Requirement(line)
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), line


def test_constraints_hold_all_transitive_packages() -> None:
    pinned = constraints()
    pending = [Requirement(line) for line in EVERYTHING]
    seen: set[str] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        extras = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
        key = f"{name}{sorted(requirement.extras)}"
        if key in seen or name.startswith(("nvidia", "triton", "cuda")):
            continue  # torch itself pins what its GPU builds need
        if name == "torchvision":
            continue  # timm needs it, in the build of the torch that is there
        seen.add(key)
        assert name in pinned, f"{name} is not in constraints.txt"
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue  # of another platform
        needed = [Requirement(line) for line in lines]
        pending += [
            r for r in needed if r.marker is None or any(r.marker.evaluate(e) for e in extras)
        ]


def test_torch_is_capped_and_torchvision_absent() -> None:
    ranges = {Requirement(line).name: Requirement(line).specifier for line in EVERYTHING}
    assert not ranges["torch"].contains("2.15.0")
    assert "torchvision" not in ranges
    assert PROJECT["requires-python"] == ">=3.11"
