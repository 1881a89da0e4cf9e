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


# Crop, base rate, steps, batch, magnitude scale, scales, small-instance weight, slots, share of the
# hardest pixels, sampling temperature; then thresholds of things and stuff, overlap, power of the
# mask, area limits: deeplab2, configs/*/kmax_deeplab/*.textproto.
KMAX = {
    "coco": (
        ((1281, 1281), 5e-4, 150_000, 64, 1.0, (0.3, 1.7), 1.0, 128, 1.0, 1.5),
        (0.7, 0.5, 0.8, 1.0, 400, 6400),
    ),
    "cityscapes": (
        ((1025, 2049), 3e-4, 60_000, 32, 0.2, (0.5, 2.0), 3.0, 256, 0.2, 0.6),
        (0.5, 0.3, 0.9, 0.0, 256, 2048),
    ),
}
KMAX_BACKBONES = {
    "r50": (1.0, "resnet50_imagenet1k"),
    "axial_r50": (0.8, "maxs_gelu_imagenet_22k_1k_224"),
}
KMAX_ROWS = {f"{data}/kmax_{backbone}" for data in KMAX for backbone in KMAX_BACKBONES}


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


@pytest.mark.parametrize("name", sorted(KMAX_ROWS))
def test_kmax(name: str) -> None:
    cfg = composed("train", f"experiments={name}")
    recipe, merging = KMAX[name.partition("/")[0]]
    transform, net = cfg.data.train_transform, cfg.model.net
    assert recipe == (
        tuple(cfg.data.crop_size),
        cfg.schedule.lr,
        cfg.trainer.max_steps,
        cfg.schedule.batch_size,
        transform.color.magnitude_scale,
        (transform.min_scale, transform.max_scale),
        cfg.model.targets.small_instance_weight,
        net.slots,
        cfg.model.loss.semantic_top_k,
        cfg.model.loss.sample_temperature,
    )
    limits = cfg.model.postprocess
    assert merging == (
        limits.thing_threshold,
        limits.stuff_threshold,
        limits.overlap_threshold,
        limits.mask_power,
        limits.thing_area_limit,
        limits.stuff_area_limit,
    )
    assert (limits.pixel_threshold, limits.class_power) == (0.4, 1.0)
    groups = cfg.schedule.parameter_groups
    assert (groups.weight_decay, groups.backbone_lr_multiplier) == (0.05, 0.1)
    assert not groups.decay_tables
    assert (cfg.schedule.warmup_steps, cfg.schedule.power) == (5000, 0.9)
    assert cfg.data.copy_paste
    keep, pretrained = KMAX_BACKBONES[name.partition("/kmax_")[2]]
    assert cfg.model.backbone.get("drop_path_keep", 1.0) == keep
    assert net.transformer.keep_probability == 0.8
    assert cfg.model.initial_checkpoint == pretrained
    assert published_checkpoints()[pretrained].data == "imagenet"
    weights = cfg.model.loss
    assert (weights.pq_weight, weights.mask_id_weight) == (3.0, 0.3)
    assert (weights.sampled_pixels, weights.temperature) == (4096, 0.3)


def test_rows_and_their_experiments_agree() -> None:
    rows = {row.name: row for row in published_checkpoints().values() if row.experiment}
    assert {row.experiment for row in rows.values()} == {*MAX_DEEPLAB, *KMAX_ROWS}
    assert {
        row.name
        for row in published_checkpoints().values()
        if row.model in ("max_deeplab_s", "max_deeplab_l")
        or (row.model.startswith("kmax") and row.data != "imagenet")
    } == set(rows)
    for row in rows.values():
        assert row.input_size is not None
        cfg = composed("evaluate", f"experiments={row.experiment}", "ckpt=none")
        assert cfg.model.name == row.model
        assert tuple(cfg.data.eval_size) == row.input_size
        assert cfg.model.backbone.output_stride == row.output_stride
        pretrained = published_checkpoints()[cfg.model.initial_checkpoint]
        assert pretrained.data == "imagenet"
        if row.model.startswith("max_deeplab"):
            assert pretrained.model == f"{row.model}_backbone"
