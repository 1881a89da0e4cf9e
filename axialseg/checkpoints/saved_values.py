"""Saved settings that a stranger may have written, with a limit on how many values they hold.

A list of twice the same list is as short to write as it is long to walk through: thirty such lines
fill any memory. So the values are counted before anything is made of them.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

from axialseg.errors import UserError

MOST_BYTES = 2**20
MOST_VALUES = 50_000  # a config has some hundreds, a description two for each class


def yaml_text(path: Path) -> str:
    """Text of a YAML file that is safe to load.

    Raises:
        UserError: the file is too large, or too much would come of its aliases.
        yaml.YAMLError: it is no YAML.
        OSError: it cannot be read.
        ValueError: it is not UTF-8.
        RecursionError: it is nested too deeply.
    """
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} is larger than {MOST_BYTES >> 20} MiB; use the file of the run")
    text = path.read_text(encoding="utf-8")
    refuse_too_many_values(yaml.compose(text, Loader=yaml.SafeLoader), path)
    return text


def refuse_too_many_values(content: object, path: Path) -> None:
    """Ends the command if a walk through plain containers or YAML nodes would take too long.

    Args:
        content: what the file holds.
        path: the file, for the message.

    Raises:
        UserError: it holds too many values.
    """
    if _values(content, {}) > MOST_VALUES:
        raise UserError(f"{path} holds more than {MOST_VALUES:,} settings; use the file of the run")


def _values(node: object, counted: dict[int, float]) -> float:
    """Values of a node, a repeated part each time that it stands there; inf in a circle.

    Args:
        node: where to begin.
        counted: identity -> values of the nodes that are counted, inf while they are.
    """
    key = id(node)
    if key not in counted:
        counted[key] = float("inf")
        counted[key] = 1 + sum(_values(part, counted) for part in _parts(node))
    return counted[key]


def _parts(node: object) -> list[object]:
    """What a list, a mapping or a YAML node of either holds."""
    value = node.value if isinstance(node, yaml.CollectionNode) else node
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    return list(value) if isinstance(value, list | tuple) else []
