"""An interrupted run ends with the same weights as one that was not, in every bit."""

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from axialseg.build import build_task, build_training_data
from axialseg.config.schema import conf_dir, register_schemas

STEPS, INTERRUPTED = 5, 3  # 2 x 3 images a step, 10 images: it stops within the second epoch


class SaveAt(pl.Callback):
    """Saves a checkpoint after a step, and goes on or stops."""

    def __init__(self, path: Path, stop: bool) -> None:
        self.path = path
        self.stop = stop

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == INTERRUPTED and not self.path.exists():
            trainer.save_checkpoint(self.path)
            trainer.should_stop = self.stop


def config(root: Path, num_workers: int) -> DictConfig:
    """A run with listed transforms, colours, crops, repeated images, drop path and dropout."""
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(
            "train",
            [
                f"data.root={root}",
                "+data.train_dataset.train_images=10",
                "+data.train_dataset.val_images=2",
                "+data.val_dataset.train_images=10",
                "+data.val_dataset.val_images=2",
                "data.crop_size=[33,33]",
                "trainer.accumulate_grad_batches=1",
                f"data.num_workers={num_workers}",
                f"data.cache={num_workers == 0}",
                "data.repeat_threshold=0.6",
                "data/augmentation=strong_color",
                "data.train_transform.transforms=["
                "{_target_: albumentations.Affine, rotate: [-20, 20], p: 0.5},"
                "{_target_: albumentations.GaussNoise, p: 0.5}]",
                "model/context@model.net=aspp",
                "model.backbone.stage_blocks=[1,1,1,1]",
                "model.backbone.stage_channels=[16,16,32,32]",
                "model.net.semantic_decoder.context.channels=32",
                "model.net.instance_decoder.context.channels=32",
                "+model.backbone.drop_path_keep=0.7",
                "+model.backbone.drop_path_schedule=constant",
                "+model.backbone.drop_path_from_stride=4",
                "schedule.batch_size=6",
                "schedule.warmup_steps=2",
                f"trainer.max_steps={STEPS}",
                "logger=none",
            ],
        )


def fit(cfg: DictConfig, checkpoint: Path, stop: bool, resume: bool) -> dict[str, torch.Tensor]:
    """Trains with fresh objects; gives the weights and buffers at the end."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    module = build_training_data(cfg, world_size=1)
    module.batch_size = 3
    task = build_task(cfg, module.categories)
    trainer = pl.Trainer(
        max_steps=STEPS,
        max_epochs=-1,
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[SaveAt(checkpoint, stop)],
    )
    trainer.fit(task, datamodule=module, ckpt_path=checkpoint if resume else None)
    return copy.deepcopy(task.state_dict())


def test_interrupted_and_uninterrupted_weights_are_equal(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    whole = fit(config(root, 0), tmp_path / "whole.ckpt", stop=False, resume=False)
    for num_workers in (0, 2):
        cfg = config(root, num_workers)
        checkpoint = tmp_path / f"{num_workers}.ckpt"
        half = fit(cfg, checkpoint, stop=True, resume=False)
        resumed = fit(cfg, checkpoint, stop=False, resume=True)
        assert whole.keys() == resumed.keys()
        assert any(not torch.equal(whole[name], half[name]) for name in whole)
        for name, value in whole.items():
            assert torch.equal(value, resumed[name]), (num_workers, name)


def test_the_run_draws_at_random(tmp_path: Path) -> None:
    cfg = config(tmp_path / "shapes", 0)
    module = build_training_data(cfg, world_size=1)
    task = build_task(cfg, module.categories).train()
    net: Any = task.get_submodule("net")
    image, valid = torch.full((2, 3, 33, 33), 9.0), torch.ones(2, 33, 33, dtype=torch.bool)
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(copy.deepcopy(net)(image, valid).semantic)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
