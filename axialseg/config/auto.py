"""Settings that can be `auto`: chosen when data and machine are known, before training starts."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from axialseg.errors import UserError

AUTO = "auto"
# Key -> type, and the value that stands for `auto` while a config is only checked or counted.
SETTINGS: dict[str, tuple[str, Any]] = {
    "schedule.batch_size": ("whole number", 16),
    "schedule.lr": ("number", 1e-3),
    "schedule.warmup_steps": ("whole number", 0),
    "schedule.optimizer.turn": ("number", 5.0),
    "schedule.parameter_groups.backbone_lr_multiplier": ("number", 1.0),
    "trainer.max_steps": ("whole number", 1000),
    "trainer.val_check_interval": ("whole number", 1000),
    "trainer.accumulate_grad_batches": ("whole number", 1),
    "data.crop_size": ("size", [641, 641]),
    "data.train_transform.resize_range": ("size", None),
    "data.num_workers": ("whole number", 0),
    "data.val_num_workers": ("whole number", 0),
    "data.cache": ("", False),
    "model.postprocess.stuff_area_limit": ("whole number", 0),
    "model.postprocess.thing_area_limit": ("whole number", 0),
    "model.loss.class_weights": ("", None),
}
BALANCED = "balanced"  # of `model.loss.class_weights`
TYPES: dict[str, tuple[type, ...]] = {"whole number": (int,), "number": (int, float)}


def open_settings(cfg: DictConfig) -> list[str]:
    """Keys that are `auto` (class weights: `balanced`) in a composed config."""
    found = []
    for key in SETTINGS:
        value = _value(cfg, key)
        if isinstance(value, str) and value in (AUTO, BALANCED):
            found.append(key)
    return found


def without_auto(cfg: DictConfig) -> DictConfig:
    """A copy in which a plausible value stands for each `auto`, so that it can be checked.

    Raises:
        UserError: one of these settings is neither a value of its type nor `auto`.
    """
    copy = cfg.copy()
    open_keys = open_settings(cfg)
    for key in open_keys:
        OmegaConf.update(copy, key, SETTINGS[key][1], merge=False)
    for key in set(SETTINGS) - set(open_keys):
        _check_type(key, _value(copy, key))
    return copy


def _value(cfg: DictConfig, key: str) -> Any:
    """The value; None where a node on the way is missing, which `check_config` tells."""
    try:
        return OmegaConf.select(cfg, key, throw_on_missing=False)
    except (OmegaConfBaseException, AttributeError):
        return None


def _check_type(key: str, value: Any) -> None:
    """Refuses a number of another kind; the constructors check null."""
    kind = SETTINGS[key][0]
    if kind not in TYPES or value is None:
        return
    if not isinstance(value, TYPES[kind]) or isinstance(value, bool):
        raise UserError(f"{key}={value} is not a {kind}; give one, or auto")
