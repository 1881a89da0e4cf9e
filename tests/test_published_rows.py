"""The experiments say what the authors' configurations say, and their heads say what they are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden_data import GOLDENS
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from recipe_memory import counted_alone, most_gib, parsed
from recipe_table import FOLDERS, TARGET, heads, page

from axialseg.build import build_classes, build_net_on_meta
from axialseg.checkpoints.published import published_checkpoints
from axialseg.commands.evaluate import check_evaluation, register_saved_run
from axialseg.commands.train import check_training
from axialseg.config.experiment_head import ExpectedScores
from axialseg.config.mistakes import choices
from axialseg.config.schema import conf_dir, register_schemas

HEADS = heads()
WIDE, LARGE, SMALL = [1025, 2049], [1025, 1025], [641, 641]
STRONG = "_imagenet1k_strong_training_strategy"
# Of deeplab2's configurations (configs/cityscapes, configs/coco; *.textproto): crop, base rate,
# warm-up, steps, batch, small-instance weight, AutoAugment's magnitude scale, area limits of things
# and stuff, where training starts.
AXIAL, MAX = (60_000, 32, 3.0, 0.2, None, 2048), (5000, 100_000, 64)
SOURCES: dict[str, tuple[Any, ...]] = {
    "cityscapes/axial_swidernet_1_1_1": (WIDE, 1e-4, 0, *AXIAL, "axial_swidernet_1_1_1" + STRONG),
    "cityscapes/axial_swidernet_1_1_3": (WIDE, 1e-4, 0, *AXIAL, "axial_swidernet_1_1_3" + STRONG),
    "cityscapes/axial_swidernet_1_1_4.5": (
        *(WIDE, 7.5e-5, 0, *AXIAL),
        "axial_swidernet_1_1_4.5" + STRONG,
    ),
    "cityscapes/max_deeplab_s_backbone": (WIDE, 1e-4, 0, *AXIAL, "max_deeplab_s_backbone" + STRONG),
    "cityscapes/max_deeplab_l_backbone": (WIDE, 1e-4, 0, *AXIAL, "max_deeplab_l_backbone" + STRONG),
    "cityscapes/panoptic_deeplab_resnet50": (
        *(WIDE, 2.5e-4, 0, 60_000, 8, 3.0, None, None, 2048),
        "resnet50_imagenet1k",
    ),
    "cityscapes/panoptic_deeplab_resnet50_beta": (
        *(WIDE, 2.5e-4, 0, 60_000, 32, 3.0, None, None, 2048),
        "resnet50_beta" + STRONG,
    ),
    "coco/panoptic_deeplab_resnet50": (
        *(SMALL, 5e-4, 2000, 200_000, 64, 3.0, 0.2, None, 4096),
        "resnet50_imagenet1k",
    ),
    "coco/panoptic_deeplab_resnet50_beta": (
        *(SMALL, 5e-4, 2000, 200_000, 64, 3.0, 0.2, None, 4096),
        "resnet50_beta" + STRONG,
    ),
    "coco/max_deeplab_s_641": (
        *(SMALL, 1e-3, *MAX, 1.0, None, 100, 1600),
        "max_deeplab_s_backbone" + STRONG,
    ),
    "coco/max_deeplab_s_1025": (
        *(LARGE, 1e-3, *MAX, 1.0, None, 256, 4096),
        "max_deeplab_s_backbone" + STRONG,
    ),
    "coco/max_deeplab_l_1025": (
        *(LARGE, 3e-4, *MAX, 3.0, 1.0, 256, 4096),
        "max_deeplab_l_backbone" + STRONG,
    ),
}
# Of the papers: crop, base rate, steps, batch.
PAPERS: dict[str, tuple[Any, ...]] = {
    **{
        f"cityscapes/{name}": (WIDE, 1e-3, 60_000, 32)
        for name in (
            *("axial_deeplab_s", "axial_deeplab_m", "axial_deeplab_l", "axial_deeplab_xl"),
            *("axial_deeplab_l_mapillary", "axial_deeplab_xl_mapillary", "axial_deeplab_l_span"),
            *("resnet50_ablation", "resnet101_ablation", "attention_ablation"),
        )
    },
    **{f"coco/axial_deeplab_{size}": (LARGE, 1e-3, 200_000, 64) for size in "sml"},
    "mapillary_vistas/axial_deeplab_l": (LARGE, 1e-3, 150_000, 64),
    "coco/max_deeplab_s_paper": (SMALL, 1e-3, 100_000, 64),
    "coco/max_deeplab_l_paper": (LARGE, 3e-4, 100_000, 64),
}
IMAGENET = {
    "imagenet/axial_resnet_26_s": (0.4, 162_600, 1024),
    "imagenet/axial_resnet_50_s": (0.4, 162_600, 1024),
    "imagenet/axial_resnet_50_s_standalone": (0.2, 325_200, 512),
    **{
        f"imagenet/{name}": (0.4, 162_600, 1024)
        for name in (
            *("resnet_50", "attention_resnet_50", "attention_resnet_50_standalone"),
            "ps_attention_resnet_50",
        )
    },
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
OURS = {
    *("coco/overfit", "patterns/axial_resnet_tiny", "shapes/axial_deeplab_tiny"),
    *("shapes/axial_hybrid_tiny", "shapes/max_deeplab_tiny"),
}
# The first rows in each folder that the planner counts in a second or two.
COUNTED = ("shapes/axial_hybrid_tiny", "cityscapes/panoptic_deeplab_resnet50")
# Channels of the layer that tells the classes apart; None is what the configured classes say.
CHANNELS = {"mapillary_vistas": 66, "shapes": 10, "imagenet": 1000, "patterns": 10}


def golden_rates() -> dict[tuple[str, int, int], dict[str, float]]:
    """(base rate, steps, warm-up) -> step -> rate, by deeplab2's own code."""
    poly = json.loads((GOLDENS / "lr_schedules.json").read_text())
    kmax = json.loads((GOLDENS / "kmax_optimizer.json").read_text())["schedules"]
    found = {}
    for golden in [*poly.values(), *kmax.values()]:
        if "values" in golden:
            base = golden["base"] * golden.get("multiplier", 1.0)
            key = (f"{base:.3g}", golden["total_steps"], golden["warmup"])
            found[key] = golden["values"]
    return found


RATES = golden_rates()


@pytest.fixture(autouse=True, scope="module")
def hydra() -> Iterator[None]:
    register_schemas()
    register_saved_run([])
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def row_overrides(name: str, row: ExpectedScores) -> list[str]:
    """The command line of a row's training, without what only an evaluation has."""
    steps = [f"trainer.max_steps={row.steps}"] if row.steps != HEADS[name].steps else []
    added = [line for line in row.overrides if not line.startswith("+tta=")]
    return [f"experiments={name}", *added, *steps]


def test_the_page_is_that_of_the_heads() -> None:
    assert TARGET.read_text() == page(), "python tests/recipe_table.py writes it"


def test_every_experiment_is_tested() -> None:
    assert set(HEADS) == {*SOURCES, *PAPERS, *IMAGENET, *KMAX_ROWS, *OURS}


@pytest.mark.parametrize("name", HEADS)
def test_every_row_composes_and_builds(name: str) -> None:
    head, data = HEADS[name], name.split("/")[0]
    commands = {tuple(row_overrides(name, row)) for row in head.expected}
    assert f"experiments={name}" in head.train
    nets = {}
    for command in sorted(commands):
        cfg = compose("train", list(command))
        check_training(cfg)
        steps = {row.steps for row in head.expected if tuple(row_overrides(name, row)) == command}
        schedule = cfg.schedule
        assert (schedule.batch_size, {cfg.trainer.max_steps}) == (head.batch, steps)
        curve = instantiate(schedule.curve)
        assert curve(cfg.trainer.max_steps) == pytest.approx(0.0, abs=1e-12)
        assert max(map(curve, range(schedule.warmup_steps + 1))) > 0.9
        channels = CHANNELS.get(data) or build_classes(cfg.data).semantic_channels
        assert channels == {"coco": 134, "cityscapes": 19}.get(data, channels)
        if str(cfg.model) not in nets:  # rows of other steps have the same
            nets[str(cfg.model)] = build_net_on_meta(cfg.model, channels)
        net = nets[str(cfg.model)]
        groups = instantiate(schedule.parameter_groups)(net)
        counted = sum(parameter.numel() for group in groups for parameter in group["params"])
        learnt = (parameter for parameter in net.parameters() if parameter.requires_grad)
        assert counted == sum(parameter.numel() for parameter in learnt)
        slower = "coco/max" in name or "kmax" in name
        rates = [0.1 * schedule.lr, schedule.lr] if slower else [schedule.lr]
        assert sorted({group["lr"] for group in groups}) == pytest.approx(rates)
        check_rates(name, groups, curve, cfg.trainer.max_steps, schedule.warmup_steps)


def check_rates(name: str, groups: Any, curve: Any, steps: int, warmup: int) -> None:
    """As composed, each group learns at deeplab2's rates, at every step that the goldens have."""
    for lr in {group["lr"] for group in groups}:
        golden = RATES.get((f"{lr:.3g}", steps, warmup))
        # Of MaX-DeepLab the goldens have the slow rate of -S only, and no longer runs.
        is_known = name in {*SOURCES, *KMAX_ROWS} and steps == HEADS[name].steps
        assert golden is not None or not is_known or f"{lr:.3g}" == "3e-05"
        for step, expected in (golden or {}).items():
            close = pytest.approx(expected, rel=1e-6, abs=1e-6 * lr)  # the goldens are float32
            assert lr * curve(int(step)) == close, (name, lr, step)


@pytest.mark.parametrize("name", SOURCES)
def test_settings_are_those_of_deeplab2(name: str) -> None:
    cfg = compose("train", [f"experiments={name}"])
    crop, *rest, initial = SOURCES[name]
    color, model, schedule = cfg.data.train_transform.color, cfg.model, cfg.schedule
    resized = cfg.data.train_transform.get("resize_range")
    assert [list(cfg.data.crop_size), list(cfg.data.eval_size)] == [crop, crop]
    assert (None if resized is None else list(resized)) == (crop if "coco/" in name else None)
    assert rest == [
        *(schedule.lr, schedule.warmup_steps, cfg.trainer.max_steps, schedule.batch_size),
        model.targets.small_instance_weight,
        None if color is None else color.magnitude_scale,
        model.postprocess.get("thing_area_limit"),
        model.postprocess.stuff_area_limit,
    ]
    assert (model.initial_checkpoint, schedule.power) == (initial, 0.9)
    assert schedule.optimizer._target_ == "axialseg.optim.adam.Adam"
    assert schedule.parameter_groups.weight_decay == 0.0
    drop_path = [model.backbone.get(f"drop_path_{key}") for key in ("keep", "schedule")]
    assert drop_path == ([None, None] if "resnet50" in name else [0.8, "linear"])
    scale = cfg.data.train_transform
    assert (scale.min_scale, scale.max_scale) == (0.5, 1.5 if "coco/" in name else 2.0)
    if "coco/max" in name:
        assert (model.postprocess.class_threshold, model.postprocess.pixel_threshold) == (0.7, 0.4)
    else:
        assert model.postprocess.center_threshold == 0.1
        assert model.postprocess.nms_kernel == (41 if "coco/" in name else 13)


@pytest.mark.parametrize("name", sorted(KMAX_ROWS))
def test_kmax(name: str) -> None:
    cfg = compose("train", [f"experiments={name}"])
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


@pytest.mark.parametrize("name", PAPERS)
def test_settings_are_those_of_the_papers(name: str) -> None:
    cfg = compose("train", [f"experiments={name}"])
    schedule = cfg.schedule
    numbers = (schedule.lr, cfg.trainer.max_steps, schedule.batch_size)
    assert (list(cfg.data.crop_size), *numbers) == PAPERS[name]
    assert schedule.optimizer._target_ == "axialseg.optim.lookahead.Lookahead"
    assert schedule.warmup_steps == (5000 if "max_deeplab" in name else 2000)
    if "mapillary_vistas/" in name:
        assert cfg.data.train_dataset.version == cfg.data.val_dataset.version == "v1.2"
        assert list(cfg.data.eval_size) == [2177, 2177]


@pytest.mark.parametrize("name", IMAGENET)
def test_settings_of_imagenet(name: str) -> None:
    cfg = compose("train", [f"experiments={name}"])
    lr, steps, batch = IMAGENET[name]
    assert (cfg.schedule.lr, cfg.trainer.max_steps, cfg.schedule.batch_size) == (lr, steps, batch)
    assert cfg.schedule.warmup_steps * batch / 1_281_167 == pytest.approx(10, rel=1e-3)


def test_scores_and_weights_are_the_published_ones() -> None:
    table = {row.name: row for row in published_checkpoints().values() if row.pq is not None}
    rows = {
        row.ckpt: (name, row)
        for name, head in HEADS.items()
        for row in head.expected
        if row.ckpt and not row.ckpt.endswith(".pth")
    }
    assert set(rows) == set(table)
    for ckpt, (name, row) in rows.items():
        published = table[ckpt]
        assert (published.experiment, published.pq) == (name, row.scores["PQ"])
        overrides = [f"experiments={name}", *row.overrides, f"ckpt={ckpt}"]
        cfg = compose("evaluate", overrides)
        check_evaluation(cfg)
        assert cfg.model.name == published.model
        assert tuple(cfg.data.eval_size) == published.input_size
        assert cfg.model.backbone.output_stride == published.output_stride
        pretrained = published_checkpoints()[cfg.model.initial_checkpoint]
        assert pretrained.data == "imagenet"
        if not published.model.startswith("kmax"):
            assert pretrained.model in (published.model, f"{published.model}_backbone")


@pytest.mark.parametrize("name", HEADS)
def test_memory_is_that_of_the_batch(name: str) -> None:
    head = HEADS[name]
    assert head.memory is not None, f"python tests/recipe_memory.py {name} counts it"
    memory = parsed(head.memory)
    assert memory.devices * memory.images * memory.passes == head.batch
    assert memory.is_gpu == ("CPU" not in head.hardware)
    assert 0 < memory.gib < most_gib()


@pytest.mark.parametrize("name", COUNTED)
def test_memory_is_what_the_planner_counts(name: str) -> None:
    said, counted = parsed(str(HEADS[name].memory)), counted_alone(name)
    assert counted[:4] == said[:4]
    # A CPU's count is what the C library takes on this machine for these blocks; it is not exact.
    assert counted.gib == pytest.approx(said.gib, rel=0.02 if said.is_gpu else 0.05)


def test_measured_scores_are_those_of_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    rows = [line for line in readme.splitlines() if line.startswith("| `python train.py")]
    # Shortened runs have no experiment of their own.
    rows = [row for row in rows if "trainer.val_check_interval=" not in row]
    reached = {row.split(" | ")[-1] for row in rows if re.search(r"\d\.\d", row)}
    scores = {" ".join(re.findall(r"\d+\.\d", text)): text for text in reached}
    measured = [
        " ".join(f"{value:.1f}" for value in row.measured.values())
        for head in HEADS.values()
        for row in head.expected
        if row.measured
    ]
    assert sorted(measured) == sorted(scores)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("axial_swidernet_1_1_1_os16_axial_deeplab_cityscapes_trainfine", 19),
        ("max_deeplab_s_os16_res641_100k_coco_train", 134),
        ("kmax_resnet50_coco_train", 134),
        ("max_deeplab_s_backbone_imagenet1k_strong_training_strategy", None),
    ],
)
def test_size_of_the_weights(name: str, channels: int | None) -> None:
    row = published_checkpoints()[name]
    net = build_net_on_meta(compose("train", [f"model={row.model}"]).model, channels or 19)
    part = net if channels else net.get_submodule("backbone")
    counted = sum(4 * value.numel() for value in part.state_dict().values() if value.ndim)
    assert row.weights_mb == round(counted / 1e6)


def test_folders_have_the_names_of_the_data() -> None:
    assert set(FOLDERS) <= set(choices("data"))


def test_rows_of_several_views_compose() -> None:
    cfg = compose("evaluate", ["experiments=cityscapes/axial_deeplab_l", "+tta=ms_flip", "ckpt=a"])
    check_evaluation(cfg)
    assert (cfg.flip, len(cfg.scales)) == (True, 7)
