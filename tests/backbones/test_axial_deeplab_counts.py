"""Parameters and multiply-adds of Axial-ResNet and Axial-DeepLab: deeplab2's, and the paper's."""

import re
from typing import NamedTuple

import pytest
import torch
from published_models import build_on_meta, model_config
from torch import nn

from axialseg.config.schema import conf_dir
from axialseg.costs.complexity import part_costs, total_cost
from axialseg.layers.attention_block import AttentionBranch
from axialseg.layers.axial_attention import AxialAttention
from axialseg.layers.stem import AxialStem

SIZES = ("s", "m", "l", "xl")
WINDOWS, NO_ATTENTION = "model=ps_attention_deeplab", "model.backbone.attention_stages=[]"
NO_POSITIONS = [f"model.backbone.attention_2d.{t}_position=false" for t in ("key", "value")]
ASPP = "model/context@model.net=separable_aspp"
CITYSCAPES, COCO = ((1025, 2049), 19), ((1025, 1025), 133)


class PaperRow(NamedTuple):
    """Table of Wang et al. 2020, "Axial-DeepLab": millions, and multiply-adds in billions."""

    parameters: float
    cityscapes: float
    coco: float | None


PAPER = {
    "s": PaperRow(12.1, 220.8, 110.4),
    "m": PaperRow(25.9, 419.6, 209.9),
    "l": PaperRow(44.9, 687.4, 343.9),
    "xl": PaperRow(173.0, 2446.8, None),
}

# deeplab2 leaves the stem at its full width and has no max-pool.
DEEPLAB2 = ("model.backbone.max_pool=false",)
CONVOLUTION_STEM = (
    "model.backbone.stem._target_=axialseg.layers.stem.ConvStem",
    "model.backbone.stem.channels=64",
    "model.backbone.stem.width=1",
)
INCEPTION_STEM = ("model.backbone.stem.width=1",)


def backbone(*overrides: str) -> nn.Module:
    return build_on_meta(model_config(overrides), 19).backbone


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Of deeplab2's axial_resnet_instances_test.py.
@pytest.mark.parametrize(
    ("size", "stem", "count"),
    [
        ("s", CONVOLUTION_STEM, 11_466_912),  # axial_resnet_s
        ("l", CONVOLUTION_STEM, 43_714_048),  # axial_resnet_l
        ("s", INCEPTION_STEM, 11_565_856),  # axial_deeplab_s
        ("l", INCEPTION_STEM, 43_841_920),  # axial_deeplab_l
    ],
)
def test_deeplab2_sizes(size: str, stem: tuple[str, ...], count: int) -> None:
    assert parameters(backbone(f"model=axial_deeplab_{size}", *stem, *DEEPLAB2)) == count


def costs(size: str, image: tuple[tuple[int, int], int]) -> tuple[float, float]:
    """Millions of parameters and billions of multiply-adds."""
    pixels, channels = image
    net = build_on_meta(model_config((f"model=axial_deeplab_{size}",)), channels)
    total = total_cost(part_costs(net, pixels))
    return total.parameters / 1e6, total.multiply_adds / 1e9


@pytest.mark.parametrize("size", SIZES)
def test_the_papers_table(size: str) -> None:
    paper = PAPER[size]
    millions, billions = costs(size, CITYSCAPES)
    assert millions == pytest.approx(paper.parameters, rel=0.008)
    assert billions == pytest.approx(paper.cityscapes, rel=0.015)
    _, at_coco = costs(size, COCO)
    if paper.coco is not None:
        assert at_coco == pytest.approx(paper.coco, rel=0.02)
    # The documentation has the same numbers.
    text = (conf_dir().parent / "docs" / "axial_deeplab.md").read_text()
    row = re.search(rf"\| Axial-DeepLab-{size.upper()} \|(.*)\|\n", text)
    assert row is not None
    cells = [cell.split("/") for cell in row.group(1).split("|")]
    ours = [float(cell[0]) for cell in cells]
    assert ours == [round(millions, 2), round(billions, 1), round(at_coco, 1)]
    papers = [cell[1].strip() for cell in cells]
    assert papers == [str(paper.parameters), str(paper.cityscapes), str(paper.coco or "-")]


# Tables 6 and 7: millions of parameters and billions of multiply-adds at 1025x2049.
@pytest.mark.parametrize(
    ("overrides", "millions", "billions"),
    [
        ((WINDOWS, NO_ATTENTION), 24.8, 374.8),
        ((WINDOWS, NO_ATTENTION, ASPP), 30.0, 390.0),
        ((WINDOWS, *NO_POSITIONS), 17.3, 317.7),
        ((WINDOWS, *NO_POSITIONS, ASPP), 22.5, 332.9),
        ((WINDOWS,), 17.3, 326.7),
        ((WINDOWS, ASPP), 22.5, 341.9),
        (("model=panoptic_deeplab_resnet101",), 43.8, 530.0),
    ],
)
def test_the_papers_other_backbones(
    overrides: tuple[str, ...], millions: float, billions: float
) -> None:
    total = total_cost(part_costs(build_on_meta(model_config(overrides), 19), (1025, 2049)))
    assert total.parameters / 1e6 == pytest.approx(millions, rel=0.003)
    assert total.multiply_adds / 1e9 == pytest.approx(billions, rel=0.02)


# Table 7: span -> billions of multiply-adds of Axial-DeepLab-L at 1025x2049; 44.9M at each.
@pytest.mark.parametrize(
    ("span", "billions"), [(5, 617.4), (9, 622.1), (17, 631.5), (33, 650.2), (65, 687.4)]
)
def test_the_papers_spans(span: int, billions: float) -> None:
    config = model_config(("model=axial_deeplab_l", f"model.backbone.attention.span={span}"))
    total = total_cost(part_costs(build_on_meta(config, 19), (1025, 2049)))
    assert total.multiply_adds / 1e9 == pytest.approx(billions, rel=0.015)
    assert total.parameters / 1e6 == pytest.approx(44.9, rel=0.008)


def test_depths() -> None:
    blocks = {
        depth: [
            len(stage)
            for stage in backbone(
                "model=axial_deeplab_s", f"model/backbone=axial_resnet_{depth}_s"
            ).stages.values()
        ]
        for depth in (26, 50)
    }
    assert blocks == {26: [1, 2, 4, 1], 50: [3, 4, 6, 3]}


def test_table_length_is_an_argument() -> None:
    short = backbone("model=axial_deeplab_s", "+model.backbone.attention.max_offset=32")
    tables = [p for name, p in short.named_parameters() if name.endswith("_table")]
    assert {p.shape[0] for p in tables} == {65}


def test_a_resnet_with_attention_in_chosen_stages_is_one_override() -> None:
    stages = backbone(
        "model=panoptic_deeplab_resnet50", "model.backbone.attention_stages=[4,5]"
    ).stages
    axial = {name: [isinstance(b.branch, AttentionBranch) for b in s] for name, s in stages.items()}
    assert axial == {
        "stage2": [False] * 3,
        "stage3": [False] * 4,
        "stage4": [True] * 6,
        "stage5": [True] * 3,
    }


@pytest.mark.parametrize(
    ("term", "table"),
    [
        ("query_position", "query_table"),
        ("key_position", "key_table"),
        ("value_position", "value_table"),
    ],
)
def test_position_terms_are_switches(term: str, table: str) -> None:
    net = backbone("model=axial_deeplab_s", f"+model.backbone.attention.{term}=false")
    assert not any(name.endswith(table) for name, _ in net.named_parameters())
    image = torch.zeros(1, 3, 65, 65, device="meta")
    assert net(image)["res5"].shape == (1, 1024, 5, 5)


def test_full_axial_stem() -> None:
    net = backbone(
        "model=axial_deeplab_s",
        "~model.backbone.stem",
        "+model.backbone.stem={_target_:axialseg.layers.stem.AxialStem,channels:64,"
        "attention:${model.backbone.attention}}",
        "model.backbone.attention.span=15",
    )
    assert isinstance(net.stem, AxialStem)
    layers = [m for m in net.modules() if isinstance(m, AxialAttention)]
    assert len(layers) == 2 * (3 + 16)
    assert {layer.span for layer in layers} == {15}
    for height, width in ((65, 65), (50, 83), (1, 1)):
        features = net(torch.zeros(1, 3, height, width, device="meta"))
        assert features["res1"].shape[-2:] == ((height - 1) // 4 + 1, (width - 1) // 4 + 1)
    # Stand-alone: no convolution but 1x1 ones.
    assert {m.kernel_size for m in net.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}
