"""Checks a composed config: every `_target_` node against its constructor, without importing it."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from axialseg.config.signatures import (
    Signature,
    UnknownTarget,
    constructor_signature,
    definitions,
)
from axialseg.errors import UserError

INSTANTIATE_KEYS = frozenset({"_target_", "_partial_", "_args_", "_convert_", "_recursive_"})
SIMPLE_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}
_CLASSES = dict.fromkeys(
    (
        *("categories", "classes", "semantic_channels", "class_channels", "ignore_class"),
        *("thing_ids", "stuff_ids"),
    ),
    "the classes of the data",
)
# Node -> what `axialseg/build.py` gives its constructor, and where that comes from.
FILLED_IN = {
    "data": {"batch_size": "schedule.batch_size", "targets": "model.targets"},
    "model.net": {"backbone": "model.backbone", **_CLASSES},
    "model.loss": _CLASSES,
    "model.postprocess": _CLASSES,
    "model.task": {
        **{name: f"model.{name}" for name in ("net", "loss", "postprocess")},
        **{name: f"schedule.{name}" for name in ("optimizer", "parameter_groups", "curve")},
        "seed": "seed",
        "config": "the whole config",
    },
}


def nearest(name: str, choices: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence: what the user may have meant, else all there is."""
    known = sorted(map(str, choices))
    close = get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return f"there are: {', '.join(known)}" if known else "there is nothing to choose from"


def check_choice(key: str, value: str, options: Iterable[str]) -> None:
    """Refuses a value of a key that is none of its few options.

    Raises:
        UserError: lists the options; the nearest one of device=gpu would be cpu.
    """
    if value not in options:
        raise UserError(f"{key}={value} does not exist; there are: {', '.join(options)}")


def check_config(cfg: DictConfig) -> None:
    """Refuses what would fail only when the objects are built.

    Args:
        cfg: composed config without Hydra's own node.

    Raises:
        UserError: a `_target_` that does not exist, a key that its constructor does not take, a
            value of the wrong simple type, a missing value, a dangling interpolation, a value
            that follows from others (`FILLED_IN`), or a member of `callbacks` or `logger` that is
            no object.
    """
    _check_node(cfg, "")
    for path, sources in FILLED_IN.items():
        node = OmegaConf.select(cfg, path)
        for name in set(node or ()) & set(sources):
            raise UserError(
                f"{path}.{name} cannot be set: it follows from {sources[name]}; leave it out"
            )
    for group in ("callbacks", "logger"):
        members = cfg.get(group) or {}
        for name, member in members.items():
            if member is not None and not (OmegaConf.is_dict(member) and "_target_" in member):
                others = [other for other in members if other != name]
                raise UserError(
                    f"{group}.{name} has no _target_, so it builds nothing; {nearest(name, others)}"
                )


def check_model_fits_data(cfg: DictConfig) -> None:
    """Refuses a model that needs another kind of ground truth than the data have.

    A panoptic model names the targets that it compares with, and a data module of panoptic data
    takes them; classification knows no targets.

    Args:
        cfg: composed config with `model` and `data`, checked.

    Raises:
        UserError: one of them is panoptic and the other is not.
    """
    signature = constructor_signature(str(cfg.data._target_))
    if signature is None or signature.takes_any_keyword:
        return
    if cfg.model.targets and "targets" not in signature.annotations:
        raise UserError(
            f"the model {cfg.model.name} segments images, but the data have one class for each "
            "whole image; choose a classifier, as model=axial_resnet_50_s, or panoptic data, as "
            "data=coco"
        )
    if not cfg.model.targets and "targets" in signature.annotations:
        raise UserError(
            f"the model {cfg.model.name} classifies whole images, but the data are panoptic; "
            "choose data=imagenet or another data set of that kind, or a model that segments, as "
            "model=axial_deeplab_s"
        )


def has_validation(cfg: DictConfig) -> bool:
    """Whether there are images to validate on, or pictures that the user names."""
    if OmegaConf.select(cfg, "images") is not None:
        return True
    return cfg.data.get("val_dataset") is not None or cfg.data.get("val_share") is not None


def has_axial_attention(model: DictConfig) -> bool:
    """Whether the config of a model asks for axial attention anywhere in its backbone."""
    backbone = model.backbone
    stem = backbone.get("stem") or {}
    keys = ("attention_stages", "axial_from_stride")
    has_blocks = not backbone.get("attention_2d") and any(backbone.get(key) for key in keys)
    return "attention" in stem or has_blocks


def _check_node(node: DictConfig, path: str) -> None:
    signature = _signature(node, path) if "_target_" in node else None
    for key in map(str, node):
        key_path = f"{path}.{key}" if path else key
        if signature is not None and key not in INSTANTIATE_KEYS:
            _check_key(node, key, key_path, signature)
        value = _value(node, key, key_path)
        if signature is not None and str(node._target_).startswith("axialseg."):
            _check_type(value, signature.annotations.get(key, ""), key_path)
        children = value if isinstance(value, ListConfig) else [value]
        for number, child in enumerate(children):
            if isinstance(child, DictConfig):
                child_path = f"{key_path}.{number}" if children is value else key_path
                _check_node(child, child_path)


def _signature(node: DictConfig, path: str) -> Signature | None:
    target = str(_value(node, "_target_", f"{path}._target_"))
    try:
        return constructor_signature(target)
    except UnknownTarget as error:
        module, _, name = target.rpartition(".")
        try:
            hint = nearest(name, definitions(module))
        except UnknownTarget:
            hint = "correct the dotted name"
        raise UserError(f"{path}._target_: {target} does not exist ({error}); {hint}") from None


def _check_key(node: DictConfig, key: str, path: str, signature: Signature) -> None:
    if key not in signature.annotations and not signature.takes_any_keyword:
        parent = path.rpartition(".")[0]
        raise UserError(
            f"{path} does not exist: {node._target_} has no argument {key!r}; "
            f"{nearest(key, signature.annotations, prefix=f'{parent}.')}"
        )


def _value(node: DictConfig, key: str, path: str) -> Any:
    """The value, None for what only the running job can know (`${hydra:...}`)."""
    if OmegaConf.is_missing(node, key):
        raise UserError(f"{path} is not set; give it as {path}=<value>")
    if OmegaConf.is_interpolation(node, key):
        plain: Any = OmegaConf.to_container(node, resolve=False)
        text = str(plain[key])
        if "hydra:" in text:
            return None
        try:
            return node[key]
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}={text} cannot be resolved: {reason}") from None
    return node[key]


def _check_type(value: Any, annotation: str, path: str) -> None:
    kind, _, rest = annotation.partition(" | ")
    if kind not in SIMPLE_TYPES or rest not in ("", "None") or (value is None and rest == "None"):
        return
    # A bool is an int to Python.
    if not isinstance(value, SIMPLE_TYPES[kind]) or isinstance(value, bool) != (kind == "bool"):
        raise UserError(f"{path}={value} is not of the type {kind}")
