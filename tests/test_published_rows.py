"""The experiments of published rows say what the authors' configurations say."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from axialseg.checkpoints.published import published_checkpoints
from axialseg.commands.evaluate import register_saved_run
from axialseg.config.schema import conf_dir, register_schemas

# Crop, base rate, small-instance weight, AutoAugment's magnitude scale, area limits of things and
# stuff: deeplab2, configs/coco/max_deeplab/*.textproto.
MAX_DEEPLAB = {
    "coco/max_deeplab_s_641": (641, 1e-3, 1.0, None, 100, 1600),
    "coco/max_deeplab_s_1025": (1025, 1e-3, 1.0, None, 256, 4096),
    "coco/max_deeplab_l_1025": (1025, 3e-4, 3.0, 1.0, 256, 4096),
}


def composed(command: str, *overrides: str) -> DictConfig:
    register_schemas()
    register_saved_run([])
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(command, list(overrides))


@pytest.mark.parametrize("name", MAX_DEEPLAB)
def test_max_deeplab(name: str) -> None:
    cfg = composed("train", f"experiments={name}")
    color = cfg.data.train_transform.color
    limits = cfg.model.postprocess
    crop, *rest = MAX_DEEPLAB[name]
    sizes = (cfg.data.crop_size, cfg.data.eval_size, cfg.data.train_transform.resize_range)
    assert all(list(size) == [crop, crop] for size in sizes)
    assert rest == [
        cfg.schedule.lr,
        cfg.model.targets.small_instance_weight,
        None if color is None else color.magnitude_scale,
        limits.thing_area_limit,
        limits.stuff_area_limit,
    ]
    schedule = cfg.schedule
    assert (schedule.batch_size, schedule.warmup_steps, schedule.power) == (64, 5000, 0.9)
    assert schedule.parameter_groups.backbone_lr_multiplier == 0.1
    assert cfg.trainer.max_steps == 100_000
    assert (limits.class_threshold, limits.pixel_threshold) == (0.7, 0.4)
    backbone = cfg.model.backbone
    assert (backbone.drop_path_keep, backbone.drop_path_schedule) == (0.8, "linear")
    scale = cfg.data.train_transform
    assert (scale.min_scale, scale.max_scale) == (0.5, 1.5)


def test_rows_and_their_experiments_agree() -> None:
    rows = {row.name: row for row in published_checkpoints().values() if row.experiment}
    assert {row.experiment for row in rows.values()} == set(MAX_DEEPLAB)
    assert {
        row.name
        for row in published_checkpoints().values()
        if row.model in ("max_deeplab_s", "max_deeplab_l")
    } == set(rows)
    for row in rows.values():
        assert row.input_size is not None
        cfg = composed("evaluate", f"experiments={row.experiment}", "ckpt=none")
        assert cfg.model.name == row.model
        assert tuple(cfg.data.eval_size) == row.input_size
        assert cfg.model.backbone.output_stride == row.output_stride
        pretrained = published_checkpoints()[cfg.model.initial_checkpoint]
        assert pretrained.data == "imagenet"
        assert pretrained.model == f"{row.model}_backbone"
