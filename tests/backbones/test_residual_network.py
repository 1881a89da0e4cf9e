"""The staged network: the authors' sizes, strides, dilations and drop path; any image size."""

import copy
from functools import partial

import pytest
import torch
from decoded_records import decoded
from published_models import PUBLISHED, build_on_meta, model_config, published_on_meta
from torch import nn

from axialseg.backbones.residual_network import ResidualNetwork
from axialseg.layers.attention_block import AttentionBranch
from axialseg.layers.axial_attention import AxialAttention
from axialseg.layers.residual_block import BasicBranch, BottleneckBranch
from axialseg.layers.stem import ConvStem


def network(**arguments: object) -> ResidualNetwork:
    """A network of four narrow stages."""
    default = {
        "stem": ConvStem(8, 3),
        "stage_blocks": [1, 1, 2, 2],
        "stage_channels": [8, 16, 32, 64],
        "conv_blocks": ["bottleneck"] * 4,
        "attention": partial(AxialAttention, heads=2),
    }
    return ResidualNetwork(**(default | arguments))


def parameters(overrides: tuple[str, ...]) -> int:
    backbone = build_on_meta(model_config(overrides), 19).backbone
    return sum(p.numel() for p in backbone.parameters())


# Of deeplab2's axial_resnet_instances_test.py.
@pytest.mark.parametrize(
    ("model", "count"),
    [("max_deeplab_s_backbone", 41_343_424), ("max_deeplab_l_backbone", 175_115_392)],
)
def test_encoder_sizes(model: str, count: int) -> None:
    assert parameters((f"model={model}",)) == count


# The same test's, rounded there to 0.1 million.
@pytest.mark.parametrize(
    ("blocks", "plain", "axial"),
    [
        ([3, 3, 6, 3, 3], 109.0, 136.4),
        ([3, 9, 18, 9, 9], 333.2, 393.9),
        ([3, 13, 27, 13, 13], 487.5, 570.3),
    ],
)
def test_swidernet_sizes(blocks: list[int], plain: float, axial: float) -> None:
    model = "model=axial_swidernet_1_1_1"
    stages = f"model.backbone.stage_blocks={blocks}"
    millions = parameters((model, "model/backbone=swidernet_1_1_1", stages)) / 1e6
    assert millions == pytest.approx(plain, abs=0.051)
    assert parameters((model, stages)) / 1e6 == pytest.approx(axial, abs=0.051)


@pytest.mark.parametrize("name", PUBLISHED)
def test_any_size_runs(name: str) -> None:
    net = published_on_meta(name)
    for size in ((64, 96), (50, 83), (1025, 2049)):
        check_shapes(net, size, PUBLISHED[name].semantic_channels)


def check_shapes(net: nn.Module, size: tuple[int, int], semantic_channels: int) -> None:
    image = torch.zeros(2, 3, *size, device="meta")
    with torch.no_grad():
        heads = net(image)
        records = decoded(net.backbone, net.backbone.raw_stages(image))
    at_stride_4 = tuple((n - 1) // 4 + 1 for n in size)
    assert heads.semantic.shape == (2, semantic_channels, *at_stride_4)
    assert heads.center.shape == (2, 1, *at_stride_4)
    assert heads.offset.shape == (2, 2, *at_stride_4)
    for stride, tensors in records.items():
        expected = tuple((n - 1) // stride + 1 for n in size)
        assert [tuple(x.shape[-2:]) for x in tensors] == [expected] * len(tensors)
        assert stride in net.backbone.strides.values()


@pytest.mark.parametrize("size", [(33, 64), (50, 31)])
def test_numbers_at_any_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = network(axial_from_stride=16)
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    features = net(image)
    sum(x.square().mean() for x in features.values()).backward()
    assert all(x.isfinite().all() for x in features.values())
    gradients = [p.grad for p in net.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    # What stands in the padding does not matter.
    valid = torch.ones(2, *size, dtype=torch.bool)
    valid[:, 20:] = False
    other = image.clone()
    other[:, :, 20:] = 7
    net.eval()
    for one, two in zip(net(image, valid).values(), net(other, valid).values(), strict=True):
        assert torch.equal(one, two)


def convolutions(stage: nn.Module) -> list[tuple[int, int]]:
    """(stride, dilation) of the 3x3 convolutions."""
    found = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    return [(m.stride[0], m.dilation[0]) for m in found]


def test_dilation_takes_the_place_of_strides() -> None:
    strided = network(output_stride=32)
    assert convolutions(strided.stages["stage4"]) == [(2, 1), (1, 1)]
    assert convolutions(strided.stages["stage5"]) == [(2, 1), (1, 1)]
    # The first block of the stage still sees what its input's stride allows.
    dilated = network(output_stride=16)
    assert convolutions(dilated.stages["stage5"]) == [(1, 1), (1, 2)]
    more = network(output_stride=8)
    assert convolutions(more.stages["stage4"]) == [(1, 1), (1, 2)]
    assert convolutions(more.stages["stage5"]) == [(1, 2), (1, 4)]
    basic = network(output_stride=16, conv_blocks=["basic"] * 4)
    assert convolutions(basic.stages["stage5"]) == [(1, 1), (1, 2), (1, 2), (1, 2)]


def test_output_stride_reaches_the_heads() -> None:
    for stride, rates in ((16, [6, 12, 18]), (32, [3, 6, 9])):
        overrides = ("model=panoptic_deeplab_resnet50", f"model.backbone.output_stride={stride}")
        net = build_on_meta(model_config(overrides), 19)
        for decoder in (net.semantic_decoder, net.instance_decoder):
            assert [conv.conv.dilation for conv in decoder.context.atrous] == [
                (r, r) for r in rates
            ]
        assert net.backbone(torch.zeros(1, 3, 65, 65, device="meta"))["res5"].shape[-1] == (
            64 // stride + 1
        )


def branches(net: ResidualNetwork) -> dict[str, list[type]]:
    return {name: [type(b.branch) for b in blocks] for name, blocks in net.stages.items()}


def test_where_attention_starts() -> None:
    assert branches(network(axial_from_stride=16)) == {
        "stage2": [BottleneckBranch],
        "stage3": [BottleneckBranch],
        "stage4": [BottleneckBranch, AttentionBranch],  # the first block's input has stride 8
        "stage5": [AttentionBranch, AttentionBranch],
    }
    assert branches(network(attention_stages=[3, 4])) == {
        "stage2": [BottleneckBranch],
        "stage3": [AttentionBranch],
        "stage4": [AttentionBranch, AttentionBranch],
        "stage5": [BottleneckBranch, BottleneckBranch],
    }
    assert branches(network(conv_blocks=["basic"] * 3 + ["wide_bottleneck"])) == {
        "stage2": [BasicBranch],
        "stage3": [BasicBranch],
        "stage4": [BasicBranch, BasicBranch],
        "stage5": [BottleneckBranch, BottleneckBranch],
    }


def test_decoder_blocks_are_of_the_kind_of_their_stride() -> None:
    net = network(conv_blocks=["basic", "bottleneck", "basic", "bottleneck"], axial_from_stride=32)
    kinds = {stride: type(net.decoder_block(8, 8, stride).branch) for stride in (4, 8, 16)}
    # At the output stride they are those of the last stage.
    assert kinds == {4: BasicBranch, 8: BottleneckBranch, 16: AttentionBranch}


def keep_probabilities(net: ResidualNetwork) -> list[list[float]]:
    return [
        [round(b.drop_path.keep_probability, 6) for b in blocks] for blocks in net.stages.values()
    ]


def test_drop_path() -> None:
    linear = network(drop_path_keep=0.8, drop_path_from_stride=4)
    # By the stride before the block; nothing is dropped in the first block of stage 2.
    assert keep_probabilities(linear) == [[1.0], [0.95], [0.9, 0.85], [0.85, 0.8]]
    late = network(drop_path_keep=0.8, drop_path_from_stride=16)
    assert keep_probabilities(late) == [[1.0], [1.0], [1.0, 0.85], [0.85, 0.8]]
    constant = network(drop_path_keep=0.8, drop_path_schedule="constant")
    assert keep_probabilities(constant) == [[1.0], [0.8], [0.8, 0.8], [0.8, 0.8]]


def test_wrong_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry per stage"):
        network(stage_blocks=[1, 1, 1])
    with pytest.raises(ValueError, match="wide_bottleneck, but not 'botleneck'"):
        network(conv_blocks=["botleneck"] * 4)


def test_a_backbone_can_be_copied() -> None:
    # Averaged weights and exports copy the network.
    net = network(axial_from_stride=16)
    assert branches(copy.deepcopy(net)) == branches(net)
