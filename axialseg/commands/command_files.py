"""Which commands there are: the files of this folder that have a `main`."""

import ast
from pathlib import Path

FOLDER = Path(__file__).parent


def command_files() -> dict[str, Path]:
    """Name of each command -> its file: those beside this one that have a `main`."""
    return {
        file.stem.replace("_", "-"): file
        for file in sorted(FOLDER.glob("*.py"))
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "main" for node in _parsed(file).body
        )
    }


def summary_of(file: Path) -> str:
    """What the first line of the file says after the command itself."""
    line = (ast.get_docstring(_parsed(file)) or "").partition("\n")[0]
    return line.partition(": ")[2] or line


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))
