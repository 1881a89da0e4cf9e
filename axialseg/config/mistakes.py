"""One sentence for what Hydra or OmegaConf refuses, with the nearest right word."""

import re
from pathlib import Path

import yaml
from hydra.errors import (
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from axialseg.config import schema
from axialseg.config.check import nearest
from axialseg.config.signatures import UnknownTarget, constructor_signature
from axialseg.config.typed_values import quoted
from axialseg.errors import UserError


def choices(group: str) -> list[str]:
    """What a group of the configuration can be set to, sorted."""
    return options(group, schema.conf_dir())


def refuse_null_choices(overrides: list[str]) -> None:
    """Refuses ``group=null``, which Hydra ends with a trace.

    Raises:
        UserError: one is there.
    """
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        group = key.partition("@")[0]
        if value == "null" and group in _groups(schema.conf_dir()):
            raise UserError(f"{override} is no choice; give {' or '.join(choices(group))}")


def sentence_for(error: Exception, folder: Path, overrides: list[str]) -> str:
    """One sentence for what Hydra or OmegaConf refused.

    Args:
        error: the exception.
        folder: the primary config's folder.
        overrides: the command line's.
    """
    text = " ".join(str(error).split())
    where = re.match(r"In '([^']+)': ", text)
    prefix = f"{where[1]}.yaml: " if where and where[1].startswith("experiments/") else ""
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override), error.message)
    if isinstance(error, yaml.MarkedYAMLError):
        return f"{error.problem_mark} is not valid YAML: {error.problem}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return prefix + _missing_file(error, folder, overrides)
    several = re.match(r"Ambiguous value for argument '(.*)' 1\. To use it as a list", text)
    if several:
        return (
            f"{several[1]} names several values: type {quoted(several[1])} for one with commas, or "
            "put a list into brackets"
        )
    no_match = re.search(
        r"Could not override '(([^@']+)[^']*)'\. "
        r"(?:Did you mean .+? (\S+\?)|No match in the defaults list)",
        text,
    )
    if no_match:
        key, group, hint = no_match.groups()
        if hint is None and group in _groups(folder):
            return f"{prefix}{key} cannot be chosen: nothing in this config uses {group}"
        hint = f"did you mean {hint}" if hint else nearest(key, _groups(folder))
        return f"{prefix}{key} is not a group here; {hint}"
    doubled = re.search(r"Multiple values for ([^ ]+)\. ", text)
    if doubled:
        return f"{doubled[1]} is chosen already; write {doubled[1]}=<choice> without a +"
    composing = isinstance(error, ConfigCompositionException)
    cause = (error.__cause__ or error.__context__) if composing else error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return prefix + _unknown_key(cause)
    if isinstance(cause, OmegaConfBaseException):
        message = str(cause.msg or cause).splitlines()[0]
        return f"{prefix}{cause.full_key}: {message}" if cause.full_key else prefix + message
    return text


def _unreadable(override: str, message: str) -> str:
    """For an override that Hydra's grammar does not know."""
    typed = quoted(override)
    if typed is None:
        return f"{override!r} is not of the form key=value: {message.splitlines()[0]}"
    return f"{override} has characters that need quotes; type {typed}"


def _missing_file(error: MissingConfigException, folder: Path, overrides: list[str]) -> str:
    """For a choice that does not exist: the nearest one and all there are."""
    missing = str(error.missing_cfg_file)
    named = [line.partition("=")[0].lstrip("+").partition("@")[0] for line in overrides]
    groups = [key for key in named if missing.startswith(f"{key}/")]
    group = max(groups, key=len, default=missing.rpartition("/")[0])
    choice = missing[len(group) + 1 :] if group else missing
    there = options(group, folder) or list(error.options or [])
    hint = nearest(choice, there, prefix=f"{group}=" if group else "")
    listed = f" (there are: {', '.join(there)})" if hint.startswith("did you mean") else ""
    written = f"{group}={choice}" if group else f"the config {choice}"
    return f"{written} does not exist; {hint}{listed}"


def _unknown_key(cause: OmegaConfBaseException) -> str:
    """For a key that the config does not have: the nearest one, or how to add it."""
    full_key = str(cause.full_key or cause.key)
    parent, _, key = full_key.rpartition(".")
    node = cause.parent_node
    prefix = f"{parent}." if parent else ""
    if not OmegaConf.is_dict(node):
        return f"{full_key} does not exist"
    names = set(map(str, node)) - {"hydra"}
    if "_target_" in names:
        try:
            signature = constructor_signature(str(node._target_))
        except UnknownTarget:
            signature = None
        arguments = set(signature.annotations) if signature else set()
        if key in arguments:
            return f"{full_key} is not set in this config; add it as +{full_key}=<value>"
        names = (names | arguments) - {"_target_"}
    return f"{full_key} does not exist; {nearest(key, names, prefix)}"


def options(group: str, folder: Path) -> list[str]:
    """All choices of a group as they are written on the command line.

    Only `experiments` has choices in sub-folders; those of other groups are groups themselves.
    """
    if group == "experiments":
        place = schema.conf_dir().parent / group
        files = place.rglob("*.yaml")
        return sorted(str(file.relative_to(place).with_suffix("")) for file in files)
    names = {file.stem for file in (folder / group).glob("*.yaml")}
    return sorted(names | set(schema.variants().get(group, ()) if names else ()))


def _groups(folder: Path) -> list[str]:
    """The groups that the primary configs choose from."""
    folders = {file.parent for file in folder.rglob("*.yaml")} - {folder}
    return sorted({str(place.relative_to(folder)) for place in folders} | {"experiments"})
