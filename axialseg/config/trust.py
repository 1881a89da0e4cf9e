"""Which constructors a saved config may name, because it may come from a stranger.

Hydra calls whatever `_target_` names. A config that the user writes may call anything. A config in
a folder or a checkpoint may only build what is known to be harmless, and objects of packages that
the command line of the user trusts: `trust=[mypackage]`.
"""

import ast
import re
import sys
from collections.abc import Collection, Iterator
from importlib import import_module
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from axialseg.config.signatures import UnknownTarget, find_definition, is_constant
from axialseg.errors import UserError

# Parts of axialseg whose classes do nothing but keep their arguments and open what they are given.
OWN_PARTS = (
    *("backbones", "callbacks", "datasets", "decoders", "layers", "loggers", "losses", "models"),
    *("optim", "panoptic", "postprocess", "tasks"),
)
OWN_FUNCTIONS = frozenset(
    {
        "axialseg.datasets.generated.patterns.patterns_imagenet",
        "axialseg.datasets.generated.shapes.shapes_panoptic",
        "axialseg.datasets.mapillary_vistas.mapillary_vistas",
        "axialseg.layers.axial_attention.reference_attention",
        "axialseg.layers.chunked_attention.chunked_attention",
        "axialseg.layers.fused_attention.fused_attention",
        "axialseg.layers.lean_axial_attention.lean_attention",
        "axialseg.layers.textbook_axial_attention.textbook_attention",
        "axialseg.loggers.tensorboard.tensorboard_logger",
        "axialseg.loggers.wandb.wandb_logger",
        "axialseg.optim.param_groups.parameter_groups",
    }
)
# Other packages: where their classes are defined, and what these must inherit from.
OTHERS = {
    "torch.nn": ("torch.nn.modules", ("torch.nn.Module",)),
    "torch.optim": (
        "torch.optim",
        ("torch.optim.Optimizer", "torch.optim.lr_scheduler.LRScheduler"),
    ),
    "albumentations": (
        "albumentations",
        ("albumentations.BasicTransform", "albumentations.BaseCompose"),
    ),
    "lightning.pytorch.callbacks": ("lightning.pytorch", ("lightning.pytorch.Callback",)),
    "lightning.pytorch.loggers": ("lightning.pytorch", ("lightning.pytorch.loggers.Logger",)),
}
LOOK_UP = "hydra.utils.get_object"  # gives the object that `path` names, uncalled

# References and values of the environment; other resolvers can make a `_target_` out of text.
_PLAIN_REFERENCE = re.compile(r"\$\{(?:oc\.env:|hydra:)?[^${}:]*\}")
_SLURM_COUNT = re.compile(r"\$\{oc\.decode:\$\{oc\.env:\w+,(?:\d+|\$\{oc\.env:\w+,\d+\})\}\}")


def trusted_packages(overrides: list[str]) -> list[str]:
    """What `trust=` of a command line names.

    Args:
        overrides: the command line's.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    values = [override.value() for override in parsed if override.key_or_group == "trust"]
    named: Any = values[-1] if values else []
    return [str(name) for name in (named if isinstance(named, list) else [named])]


def refuse_strangers(
    saved: dict[str, Any], trusted: Collection[str], source: str, node: Any = None, path: str = ""
) -> None:
    """Refuses a saved config that could run a stranger's code.

    Args:
        saved: plain containers, interpolations as written.
        trusted: packages, or modules of them.
        source: where it comes from, for the message.
        node: the part that is looked at; None is all.
        path: of this part.

    Raises:
        UserError: it would call something that is not known to be harmless.
    """
    node = saved if node is None else node
    members = node.items() if isinstance(node, dict) else enumerate(node)
    if isinstance(node, dict) and node.get("_target_") == LOOK_UP and not _looks_up(node):
        raise UserError(f"{source}: {path} is refused, because {LOOK_UP} may have a path only")
    for key, value in members:
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, str):
            rest, before = _SLURM_COUNT.sub("", value), ""
            while rest != before:
                rest, before = _PLAIN_REFERENCE.sub("", rest), rest
            if "${" in rest:
                raise UserError(f"{source}: {here}={value} is refused, because it computes a value")
            is_path = key == "path" and node.get("_target_") == LOOK_UP
            if key == "_target_" or is_path:
                _refuse_name(_referred(saved, value), is_path, trusted, source, here)
        elif key == "_target_":
            raise UserError(f"{source}: {here} is refused, because it is not a name")
        elif isinstance(value, dict | list):
            refuse_strangers(saved, trusted, source, value, here)


def refuse_composed_names(cfg: DictConfig, trusted: Collection[str], source: str) -> None:
    """Refuses a name that a composed config has put together from values of a saved one.

    Args:
        cfg: as composed.
        trusted: see `refuse_strangers`.
        source: of the saved one.

    Raises:
        UserError: see `refuse_strangers`.
    """
    for node, path in _nodes(cfg, ""):
        for key in ("_target_", "path"):
            if "_target_" in node and key in node and OmegaConf.is_interpolation(node, key):
                is_path = key == "path"
                if not is_path or node["_target_"] == LOOK_UP:
                    _refuse_name(str(node[key]), is_path, trusted, source, f"{path}.{key}")


def _refuse_name(
    name: str, is_path: bool, trusted: Collection[str], source: str, where: str
) -> None:
    if any(name == package or name.startswith(f"{package}.") for package in trusted):
        return
    if (not is_path and name == LOOK_UP) or is_harmless(name, is_path):
        return
    package = name.partition(".")[0]
    known = {"axialseg", "hydra", *(other.partition(".")[0] for other in OTHERS)}
    cure = (
        "choose another run"
        if package in known | sys.stdlib_module_names
        else f"if you trust whoever made it, and the package, add trust=[{package}]"
    )
    raise UserError(
        f"{source}: {where} is {name}, and a saved config may only build parts of axialseg, "
        "torch.nn, torch.optim and albumentations, and Lightning's callbacks and loggers, because "
        f"anything else can run code of whoever wrote it; {cure}"
    )


def is_harmless(name: str, is_path: bool = False) -> bool:
    """Whether a dotted name leads to a constructor that a stranger may call.

    Args:
        name: as in `_target_`.
        is_path: it is only looked up, so that it may be a constant of ours too.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name):
        return False
    if name.startswith("axialseg."):
        return _is_own(name, is_path)
    module, _, attribute = name.rpartition(".")
    places = [place for place in OTHERS if f"{module}.".startswith(f"{place}.")]
    if not places:
        return False
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError):
        return False
    home, bases = OTHERS[places[0]]
    if not isinstance(found, type) or not f"{found.__module__}.".startswith(f"{home}."):
        return False
    return issubclass(found, tuple(_class(base) for base in bases))


def _is_own(name: str, is_path: bool) -> bool:
    """The same for names of this package, read from its files without importing them."""
    part = name.split(".")[1]
    try:
        found = find_definition(name)
        if found is None:
            return is_path and part in ("datasets", "panoptic") and is_constant(name)
    except UnknownTarget:
        return False
    module_name, node = found
    parts = module_name.split(".")
    if parts[0] != "axialseg" or node.name.startswith("_"):
        return False
    if isinstance(node, ast.ClassDef):
        return parts[1] in OWN_PARTS
    return f"{module_name}.{node.name}" in OWN_FUNCTIONS


def _class(name: str) -> type:
    module, _, attribute = name.rpartition(".")
    found: type = getattr(import_module(module), attribute)
    return found


def _looks_up(node: dict[str, Any]) -> bool:
    """Whether a node names one object by `path` and hands nothing else over."""
    return isinstance(node.get("path"), str) and set(node) <= {"_target_", "path", "_convert_"}


def _referred(saved: dict[str, Any], value: str) -> str:
    """The text that a reference `${a.b}` leads to; the value itself if it is none, or leads on."""
    reference = re.fullmatch(r"\$\{([\w.]+)\}", value)
    found: Any = saved
    for key in reference[1].split(".") if reference else ():
        found = found.get(key) if isinstance(found, dict) else None
    return found if reference and isinstance(found, str) else value


def _nodes(cfg: Any, path: str) -> Iterator[tuple[Any, str]]:
    """All dict nodes below one, itself included; references are not followed."""
    if OmegaConf.is_dict(cfg):
        yield cfg, path
        for key in cfg:
            if not OmegaConf.is_interpolation(cfg, key) and not OmegaConf.is_missing(cfg, key):
                yield from _nodes(cfg[key], f"{path}.{key}" if path else str(key))
    elif OmegaConf.is_list(cfg):
        for number in range(len(cfg)):
            if not OmegaConf.is_interpolation(cfg, number):
                yield from _nodes(cfg[number], f"{path}.{number}")
