"""Configs that come out of a run folder or a checkpoint, perhaps a stranger's."""

from collections.abc import Collection
from typing import Any

from axialseg.config.trust import refuse_strangers

# Modules that have moved -> their new place. Older runs name the old one.
MOVED = {
    "axialseg.datasets.shapes": "axialseg.datasets.generated.shapes",
    "axialseg.datasets.patterns": "axialseg.datasets.generated.patterns",
}


def accepted(config: dict[str, Any], source: str, trusted: Collection[str] = ()) -> dict[str, Any]:
    """The config in today's words. Every config that was saved goes through here before its use.

    Args:
        config: plain containers, as saved; only what is going to be used.
        source: where it comes from, for the message.
        trusted: packages that it may build objects of.

    Raises:
        UserError: it could run code of whoever wrote it, see `axialseg/config/trust.py`.
    """
    renamed: dict[str, Any] = _with_names_of_today(config)
    refuse_strangers(renamed, trusted, source)
    return renamed


def _with_names_of_today(node: Any) -> Any:
    """The node with every dotted name of `MOVED` replaced."""
    if isinstance(node, dict):
        return {key: _with_names_of_today(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_names_of_today(value) for value in node]
    module, _, name = node.rpartition(".") if isinstance(node, str) else ("", "", "")
    return f"{MOVED[module]}.{name}" if module in MOVED else node
