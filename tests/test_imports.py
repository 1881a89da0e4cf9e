"""Imports run downwards only (the ground floor knows nothing of what stands on it)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "axialseg"

# Part of the package -> the other parts that it may import.
ALLOWED = {
    "errors": set(),
    "cache_folder": set(),
    "freed_memory": set(),
    "layers": set(),
    "panoptic": {"errors"},
    "losses": {"layers", "errors"},
    "optim": set(),
    "decoders": {"layers"},
    "backbones": {"decoders", "layers"},  # MaX-DeepLab-L's has a stacked decoder inside
    "models": {"backbones", "decoders", "layers"},
    "formats": {"panoptic", "errors"},
    "metrics": {"panoptic"},
    "postprocess": {"panoptic", "layers"},
    "visualization": {"panoptic"},
    "attention_maps": {"layers"},
    "folding": {"decoders", "layers"},
    "peak_memory": set(),
    "synthetic_scene": {"decoders", "layers", "models", "panoptic"},
    "attention_picture": set(),
    "datasets": {"formats", "panoptic", "errors", "cache_folder", "freed_memory"},
    "inference": {"postprocess"},
    "checkpoints": {"backbones", "decoders", "layers", "models", "errors", "cache_folder"},
}
# Libraries that a part must do without.
FORBIDDEN = {
    "layers": {"hydra", "omegaconf", "lightning", "yaml", "wandb"},
    "backbones": {"hydra", "omegaconf", "lightning", "wandb"},
    "decoders": {"hydra", "omegaconf", "lightning", "wandb"},
    "models": {"hydra", "omegaconf", "lightning", "wandb"},
    "losses": {"hydra", "omegaconf", "lightning", "pathlib", "wandb"},
    "metrics": {"hydra", "omegaconf", "lightning", "pathlib", "wandb"},
    "panoptic": {"torch", "hydra", "omegaconf", "lightning"},
    "optim": {"hydra", "omegaconf", "lightning", "wandb"},
    "datasets": {"hydra", "omegaconf", "wandb"},
}
# What a command imports before it knows that its config is right.
BEFORE_THE_CHECK = ("config", "config_check", "signatures", "command_line", "launch", "errors")
HEAVY = {"torch", "lightning", "numpy", "cv2", "wandb", "torchmetrics", "scipy", "matplotlib"}


def imports(file: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(file.read_text())
    nodes = ast.iter_child_nodes(tree) if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def files(part: str) -> list[Path]:
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_only_from_below(part: str) -> None:
    for file in files(part):
        ours = {name.split(".")[1] for name in imports(file) if name.startswith("axialseg.")}
        assert ours - {part} <= ALLOWED[part], file


@pytest.mark.parametrize("part", FORBIDDEN)
def test_does_without(part: str) -> None:
    for file in files(part):
        libraries = {name.split(".")[0] for name in imports(file)}
        assert not libraries & FORBIDDEN[part], file


def test_package_files_are_empty() -> None:
    # A config is checked by reading sources: importing a package must run nothing.
    assert [f for f in PACKAGE.rglob("__init__.py") if f.read_text().strip()] == []


def test_commands_check_configs_before_heavy_imports() -> None:
    checked = [PACKAGE / f"{name}.py" for name in BEFORE_THE_CHECK]
    for file in [*checked, PACKAGE / "commands/train.py", PACKAGE / "commands/evaluate.py"]:
        libraries = {name.split(".")[0] for name in imports(file, top_level_only=True)}
        assert not libraries & HEAVY, file
