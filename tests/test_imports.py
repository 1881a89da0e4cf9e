"""Imports run downwards only (the ground floor knows nothing of what stands on it)."""

import ast
import textwrap
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "axialseg"

# Part of the package -> the other parts that it may import.
ALLOWED = {
    "errors": set(),
    "layers": set(),
    "panoptic": {"errors"},
    "losses": {"decoders", "layers"},  # the types of the heads
    "recipes": set(),
    "optim": set(),
    "config": {"errors"},
    "machine": {"errors"},
    "decoders": {"layers"},
    "backbones": {"decoders", "layers"},  # MaX-DeepLab-L's has a stacked decoder inside
    "models": {"backbones", "decoders", "layers"},
    "formats": {"errors", "machine", "panoptic"},
    "metrics": {"panoptic", "visualization"},  # text tables
    "postprocess": {"decoders", "layers", "panoptic"},
    "visualization": {"panoptic"},
    "datasets": {"formats", "panoptic", "errors", "machine"},
    "data_import": {"datasets", "errors", "formats", "panoptic"},
    "data_check": {"datasets", "errors", "panoptic", "visualization"},
    "evaluation": {
        *("datasets", "errors", "formats", "machine", "metrics", "panoptic", "visualization"),
    },
    "inference": {
        *("datasets", "decoders", "errors", "formats", "layers", "machine", "panoptic"),
        *("postprocess", "visualization"),
    },
    "demo": {"errors", "formats", "inference", "visualization"},
    "checkpoints": {"backbones", "decoders", "layers", "models", "errors", "machine"},
    "loggers": {"errors", "machine"},
    "tasks": {"checkpoints", "errors", "inference", "layers", "losses"},
    "callbacks": {
        *("checkpoints", "datasets", "errors", "evaluation", "formats", "inference"),
        *("loggers", "machine"),
        *("metrics", "panoptic", "visualization"),
    },
    "launch": {"config", "errors", "loggers", "machine"},
    "build": {"checkpoints", "datasets", "errors", "loggers", "machine", "panoptic"},
    "costs": {
        *("backbones", "build", "datasets", "decoders", "inference", "layers", "machine"),
        *("models", "panoptic", "tasks"),
    },
    "model_zoo": {
        *("build", "checkpoints", "config", "datasets", "errors", "inference", "panoptic"),
    },
    "commands": {
        "recipes",
        *("build", "callbacks", "checkpoints", "config", "costs", "data_check", "data_import"),
        *("datasets", "demo", "errors", "evaluation", "inference", "launch", "layers"),
        *("machine", "model_zoo", "panoptic", "tasks", "visualization"),
    },
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
BEFORE_THE_CHECK = (
    *("config/schema", "config/auto", "config/check", "config/signatures", "config/mistakes"),
    *("commands/command_line", "commands/settle", "recipes/own_data", "launch", "errors"),
    *("machine/hardware", "machine/freed_memory", "machine/free_memory"),
)
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


def house() -> str:
    """The parts from the top floor to the ground, each with those that it may import."""
    floors: dict[str, int] = {}

    def floor(part: str) -> int:
        if part not in floors:
            floors[part] = 1 + max((floor(below) for below in ALLOWED[part]), default=-1)
        return floors[part]

    lines = []
    for level in range(max(map(floor, ALLOWED)), -1, -1):
        lines.append(f"floor {level}")
        for part in sorted(name for name in ALLOWED if floors[name] == level):
            below = sorted(ALLOWED[part], key=lambda name: (-floors[name], name))
            text = f"{part:<13} {' '.join(below)}".rstrip()
            lines += textwrap.wrap(text, 84, initial_indent="  ", subsequent_indent=" " * 16)
    return "\n".join(lines) + "\n"


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
    # The root alone says where the functions for Python are, and imports them when they are used.
    own = [file for file in PACKAGE.rglob("__init__.py") if file.read_text().strip()]
    assert own == [PACKAGE / "__init__.py"]
    assert imports(own[0], top_level_only=True) == {"axialseg.models", "types", "typing"}


def test_commands_check_configs_before_heavy_imports() -> None:
    checked = [PACKAGE / f"{name}.py" for name in BEFORE_THE_CHECK]
    for file in [*checked, PACKAGE / "commands/train.py", PACKAGE / "commands/evaluate.py"]:
        libraries = {name.split(".")[0] for name in imports(file, top_level_only=True)}
        assert not libraries & HEAVY, file


if __name__ == "__main__":  # draws the house in CONTRIBUTING.md anew
    page = PACKAGE.parent / "CONTRIBUTING.md"
    before, _, after = page.read_text().partition("```text\n")
    page.write_text(f"{before}```text\n{house()}```{after.partition('```')[2]}")
