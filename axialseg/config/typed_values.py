"""Values as people type them: a home folder's `~`, and characters that Hydra wants quoted."""

import os
import re
import shlex

from omegaconf import DictConfig, ListConfig, OmegaConf

ASSIGNMENT = re.compile(r"(\+{0,2}[\w@./:-]+=)(.*)", re.DOTALL)
# At the start of a value, or of one in a list, a sweep or a dict.
HOME = re.compile(r"(^|[\[,{:] *)~(?=$|[/,\]}])")
PLAIN = re.compile(r"[\w./-]+", re.ASCII)


def expand_home_typed(arguments: list[str]) -> list[str]:
    """A command line with the home folder for each `~` that a shell has left in a value.

    A shell expands `~` at the start of a word only, not in `data.root=~/x`, and Hydra's grammar
    has no such character.
    """
    home = os.path.expanduser("~")
    if not PLAIN.fullmatch(home):  # it would have to be quoted itself
        return arguments
    expanded = []
    for argument in arguments:
        assignment = ASSIGNMENT.fullmatch(argument)
        if assignment and not assignment[2].startswith(("'", '"')):
            argument = assignment[1] + HOME.sub(rf"\g<1>{home}", assignment[2])
        expanded.append(argument)
    return expanded


def expand_home(node: DictConfig | ListConfig) -> None:
    """Puts the home folder into each value of a config that starts with ``~/``, in place."""
    keys = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for key in keys:
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig | ListConfig):
            if not value._is_none():
                expand_home(value)
        elif isinstance(value, str) and value.startswith("~/"):
            node[key] = os.path.expanduser(value)


def quoted(override: str) -> str | None:
    """An override as it must be typed in a shell, so that its value is taken as it stands.

    Returns:
        None if it is no ``key=value`` of a plain value.
    """
    key, is_assigned, value = override.partition("=")
    if not key or not is_assigned or value.startswith(("[", "{", "'", '"')):
        return None
    quote = '"' if '"' not in value else "'"
    if "'" in value and '"' in value:
        quote, value = '"', value.replace('"', r"\"")
    closing = len(value) - len(value.rstrip("\\"))  # backslashes that would escape the quote
    value += "\\" * closing
    return shlex.quote(f"{key}={quote}{value}{quote}")
