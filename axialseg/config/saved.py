"""Configs that come out of a run folder or a checkpoint, perhaps a stranger's."""

from typing import Any

# Modules that have moved -> their place now: runs made before still name the old ones.
MOVED = {
    "axialseg.datasets.shapes": "axialseg.datasets.generated.shapes",
    "axialseg.datasets.patterns": "axialseg.datasets.generated.patterns",
}


def accepted(config: Any) -> Any:
    """The config in today's words. Every config that was saved goes through here before its use.

    Args:
        config: plain containers, as saved.
    """
    return _with_names_of_today(config)


def _with_names_of_today(node: Any) -> Any:
    """The node with every dotted name of `MOVED` replaced."""
    if isinstance(node, dict):
        return {key: _with_names_of_today(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_names_of_today(value) for value in node]
    module, _, name = node.rpartition(".") if isinstance(node, str) else ("", "", "")
    return f"{MOVED[module]}.{name}" if module in MOVED else node
