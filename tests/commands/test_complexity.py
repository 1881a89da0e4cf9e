"""Parameters and multiply-adds: the authors' own counts, and a count of what really runs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from imagenet_tree import write_tree
from published_models import (
    KMAX,
    MAX_DEEPLAB,
    PUBLISHED,
    build_on_meta,
    manifest,
    model_config,
    published_on_meta,
)
from torch.utils.flop_counter import FlopCounterMode

from axialseg.commands import complexity
from axialseg.costs.complexity import part_costs, total_cost
from axialseg.layers.axial_attention import AxialAttention, reference_attention

Command = Callable[[Callable[[], None], list[str]], None]
Refusal = Callable[[Callable[[], None], list[str]], str]


@pytest.mark.parametrize("name", [*PUBLISHED, *MAX_DEEPLAB, *KMAX])
def test_counts_are_the_authors(name: str) -> None:
    facts = manifest(name)
    net = published_on_meta(name)
    for size, counts in facts["multiply_adds"].items():
        height, width = map(int, size.split("x"))
        total = total_cost(part_costs(net, (height, width)))
        assert total.multiply_adds == counts["total"]  # 1 % is asked for, but they are the same
        assert total.parameters == facts["trainable_parameters"]
        assert total.non_trainable_parameters == facts["non_trainable_parameters"]


@pytest.mark.parametrize(
    "model", ["axial_swidernet_tiny", "axial_deeplab_tiny", "max_deeplab_tiny", "kmax_tiny"]
)
def test_nothing_that_multiplies_is_left_out(model: str) -> None:
    net = build_on_meta(model_config((f"model={model}",)), 19).requires_grad_(False)
    # At this size nothing is padded for the sake of a dilation, which the library does not count.
    counted = total_cost(part_costs(net, (61, 125))).multiply_adds
    for layer in net.modules():
        if isinstance(layer, AxialAttention):
            layer.formulation = reference_attention
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        net(torch.zeros(1, 3, 61, 125, device="meta"))
    # The library knows no interpolation; it counts a multiplication and an addition as two.
    assert counted == flops.get_total_flops() // 2


def test_local_attention_counts_the_pairs_of_the_span() -> None:
    config = model_config(("model=axial_deeplab_s",))
    net = build_on_meta(config, 19)
    size = (513, 257)
    layer = net.backbone.stages["stage2"][0].branch.attention.height_axis
    config.backbone.attention.span = 33
    narrow = build_on_meta(config, 19)
    costs = {part.name: part.multiply_adds for part in part_costs(net, size)}
    narrower = {part.name: part.multiply_adds for part in part_costs(narrow, size)}
    # Three blocks at 129 x 65; a pair costs 3 K + 2 V in each axis.
    pair = 3 * layer.key_channels + 2 * layer.value_channels
    saved = costs["backbone.stages.stage2"] - narrower["backbone.stages.stage2"]
    assert saved == 3 * 2 * 129 * 65 * (65 - 33) * pair


def test_counting_leaves_no_hook() -> None:
    net = published_on_meta("max_deeplab_s_backbone_os16_cityscapes")
    part_costs(net, (33, 33))
    assert not any(module._forward_hooks for module in net.modules())


def test_json(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["model=panoptic_deeplab_resnet50", "model.backbone.output_stride=16", "data=coco"]
    command(complexity.main, [*arguments, "size=[641,641]", "format=json"])
    printed = json.loads(capsys.readouterr().out)
    facts = manifest("resnet50_os16_coco")
    assert printed["model"] == "panoptic_deeplab_resnet50"
    assert printed["size"] == [641, 641]
    assert printed["semantic_channels"] == 134
    assert printed["parameters"] == facts["trainable_parameters"]
    assert printed["non_trainable_parameters"] == facts["non_trainable_parameters"]
    assert printed["multiply_adds"] == facts["multiply_adds"]["641x641"]["total"]
    assert printed["not_run"]["parameters"] == 0
    for key in ("parameters", "non_trainable_parameters", "multiply_adds"):
        assert sum(part[key] for part in printed["parts"]) == printed[key]


def test_table_tells_what_is_not_run(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(complexity.main, ["model=max_deeplab_l_backbone", "size=[1025,2049]"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "max_deeplab_l_backbone, 1025x2049, 19 semantic channels"
    rows = {line.split("  ")[0]: line.split()[-4:] for line in lines[2:]}
    assert list(rows) == [
        "part",
        "backbone.stem",
        *(f"backbone.stages.stage{k}" for k in range(1, 6)),
        "backbone.stacked_decoder (not run)",
        "semantic_decoder",
        "instance_decoder",
        "semantic_head",
        "center_head",
        "offset_head",
        "total",
        "total of what is run",
    ]
    assert rows["total"] == ["176,560,454", "252,800", "3,435.29", "G"]
    # Without the stacked decoder it is an Axial-SWideRNet-(1, 1, 1).
    assert rows["total of what is run"] == ["137,844,454", "199,968", "2,717.94", "G"]
    assert len({len(line) for line in lines[2:]}) == 1


@pytest.mark.parametrize("data", [[], ["data=imagenet", "data.root=/none"]])
def test_classifier_without_its_data(
    data: list[str], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(complexity.main, ["model=axial_resnet_50_s", *data])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "axial_resnet_50_s, 224x224, 1000 classes"
    assert lines[-1].split() == ["total", "12,481,000", "88,512", "2.84", "G"]


def test_classes_of_a_data_set_that_is_there(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["data=imagenet", f"data.root={write_tree(tmp_path)}", "format=json"]
    command(complexity.main, ["model=axial_resnet_tiny", "size=[32,32]", *arguments])
    printed = json.loads(capsys.readouterr().out)
    assert printed["classes"] == 3
    (classifier,) = (part for part in printed["parts"] if part["name"] == "classifier")
    assert classifier["parameters"] == 3 * 256 + 3


def test_usage(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(complexity.main, ["--help"])
    assert "\nusage: python -m axialseg complexity model=<name>" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["size=[65,65]"], "model"),
        (["model=axial_deeplap_s"], "did you mean model=axial_deeplab_s?"),
        (["model=axial_deeplab_s", "size=65"], "size=65 is not a size in pixels"),
        (["model=axial_deeplab_s", "size=[65]"], "size=[65] is not a size in pixels"),
        (["model=axial_deeplab_s", "size=[65,big]"], "is not a size in pixels"),
        (["model=axial_deeplab_s", "size=[0,65]"], "is not a size in pixels"),
        (["model=axial_deeplab_s", "data=imagenet"], "segments images, but the data have one"),
        (["model=axial_resnet_50_s", "data=coco"], "classifies whole images, but the data are"),
        (["model=axial_deeplab_s", "format=jsn"], "there are: table, json"),
        (["model=axial_deeplab_s", "sizes=[65,65]"], "did you mean size?"),
        (["model=axial_deeplab_s", "model.backbone.max_pol=true"], "max_pool"),
    ],
)
def test_mistakes(refusal: Refusal, arguments: list[str], sentence: str) -> None:
    assert sentence in refusal(complexity.main, arguments)


def test_parts_of_max_deeplab(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(complexity.main, ["model=max_deeplab_s", "data=cityscapes", "size=[65,65]"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "max_deeplab_s, 65x65, 19 semantic channels"
    rows = {line.split("  ")[0]: line.split()[-4:] for line in lines[3:]}
    assert list(rows) == [
        "backbone.stem",
        *(f"backbone.stages.stage{k}" for k in range(2, 6)),
        "extra_stages",
        "transformers",
        "class_feature",
        "mask_feature",
        "semantic_decoder",
        "heads",
        "memory",
        "total",
    ]
    assert rows["memory"] == ["32,768", "0", "0.00", "G"]
    fewer = (134 - 20) + (134 - 19)  # Cityscapes has 19 classes, and "no object"
    total = manifest("max_deeplab_s_os16_coco")["trainable_parameters"] - fewer * (256 + 1)
    assert rows["total"][0] == f"{total:,}"
