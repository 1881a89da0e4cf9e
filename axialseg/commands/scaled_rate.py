"""The learning rate for another batch than the recipe's: scaled linearly, if the user asks for it.

Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", sec. 2.1. With Adam it is no law, so it
is never done unasked.
"""

from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from axialseg.config.auto import AUTO
from axialseg.errors import UserError

BATCH = "schedule.batch_size"
RATE = "schedule.lr"


def scales_rate(cfg: DictConfig) -> bool:
    """Whether the rate of a composed config is to be scaled; one that is `auto` follows anyway."""
    return bool(cfg.schedule.scale_lr) and cfg.schedule.lr != AUTO


def scaled_rate(cfg: DictConfig) -> dict[str, Any]:
    """The rate for the batch of this job, as key, value and reason.

    The recipe is what the same command line composes without a batch of its own.

    Args:
        cfg: composed config of the job; its batch is settled.

    Raises:
        UserError: the recipe has no batch, because it is `auto`.
    """
    hydra_node = HydraConfig.get()
    lines = [line for line in hydra_node.overrides.task if not _names_batch(line)]
    recipe = compose(hydra_node.job.config_name, lines).schedule
    if recipe.batch_size == AUTO:
        raise UserError(
            f"schedule.scale_lr=true needs a recipe that states its batch, and {BATCH} of this one "
            f"is auto; leave schedule.scale_lr out, or give {RATE}=auto, which follows the batch"
        )
    batch, lr = cfg.schedule.batch_size, cfg.schedule.lr
    rate = float(f"{lr * batch / recipe.batch_size:.6g}")
    reason = f"schedule.scale_lr=true: {lr:g} for the recipe's {recipe.batch_size} images"
    if batch == recipe.batch_size:
        return {"key": RATE, "value": lr, "reason": f"{reason}, the batch here too"}
    return {"key": RATE, "value": rate, "reason": f"{reason}, times {batch} / {recipe.batch_size}"}


def _names_batch(line: str) -> bool:
    """Whether an override of the command line sets the batch."""
    return OverridesParser.create().parse_override(line).key_or_group == BATCH
