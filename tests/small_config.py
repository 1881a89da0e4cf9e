"""The part of a training config that is looked at before training, without Hydra."""

from typing import Any

from omegaconf import OmegaConf


def config(**trainer: Any) -> Any:
    values = {
        "max_steps": 100,
        "accumulate_grad_batches": 1,
        "val_check_interval": 20,
        "num_nodes": 1,
        "devices": 1,
    }
    schedule = {"batch_size": 8, "lr": 1e-3, "warmup_steps": 10}
    for key in set(trainer) & set(schedule):
        schedule[key] = trainer.pop(key)
    node = {"trainer": values | trainer, "schedule": schedule, "data": {"crop_size": [641, 641]}}
    return OmegaConf.create(node)
