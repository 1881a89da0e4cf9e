"""The stacked decoder: what is fused and recorded, and that other heads do not need it."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.distributed as dist
from decoded_records import decoded
from published_models import model_config
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from axialseg.backbones.residual_network import ResidualNetwork
from axialseg.build import build
from axialseg.decoders.stacked import StackedDecoder
from axialseg.layers.attention_block import AttentionBranch
from axialseg.layers.axial_attention import AxialAttention
from axialseg.layers.residual_block import BasicBranch
from axialseg.layers.stem import ConvStem


def backbone(strides: list[int], blocks: list[int]) -> ResidualNetwork:
    """MaX-DeepLab-L's in small."""
    torch.manual_seed(0)
    return ResidualNetwork(
        stem=ConvStem(8, 3),
        stage_blocks=[1, 1, 1, 2, 1],
        stage_channels=[8, 16, 24, 32, 64],
        conv_blocks=["basic"] * 4 + ["wide_bottleneck"],
        attention=partial(AxialAttention, heads=2),
        axial_from_stride=16,
        drop_path_keep=0.8,
        stacked_decoder=partial(StackedDecoder, strides=strides, blocks=blocks),
    )


def test_stages_of_max_deeplab_l() -> None:
    net = backbone([8, 4, 8, 16], [1, 1, 1, 1])
    decoder = net.stacked_decoder
    kinds = [[type(block.branch) for block in stage.blocks] for stage in decoder.stages]
    assert kinds == [[BasicBranch], [BasicBranch], [BasicBranch], [AttentionBranch]]
    keep = [round(stage.blocks[0].drop_path.keep_probability, 6) for stage in decoder.stages]
    assert keep == [0.9, 0.95, 0.9, 0.8]  # at the deepest stride as in the last stage
    projections = [(list(s.fuse.resized), list(s.fuse.strided)) for s in decoder.stages]
    # Only the current tensor has another width than its stage.
    assert projections == [(["0"], []), (["0"], []), ([], ["0"]), ([], ["0"])]
    assert decoder.recorded == {2: [8], 4: [16, 16], 8: [24, 24, 24], 16: [64, 64]}
    assert decoder.stride == 16


def test_fuses_the_current_tensor_and_the_two_newest_records() -> None:
    net = backbone([8, 4, 8, 4, 8], [1, 1, 1, 1, 1]).eval()
    stages = net.raw_stages(torch.rand(1, 3, 65, 97) * 255)
    records = decoded(net, stages)
    decoder = net.stacked_decoder
    # Tensors of before are kept, and those of the decoder follow.
    assert torch.equal(records[16][0], stages["stage5"])
    assert torch.equal(records[8][0], stages["stage3"])
    assert [len(records[stride]) for stride in (2, 4, 8, 16)] == [1, 3, 4, 1]
    inputs = [records[4][-1], *records[8][1:3]]
    expected = decoder.stages[4].blocks(decoder.stages[4].fuse(inputs, (9, 13)))
    torch.testing.assert_close(records[8][3], expected)


def test_a_stage_at_the_same_stride_goes_on() -> None:
    # As MaX-DeepLab's own stages do after the backbone's.
    net = backbone([8, 16], [1, 1])
    more = StackedDecoder(
        strides=[16, 8],
        blocks=[2, 1],
        recorded=net.stacked_decoder.recorded,
        stride=net.stacked_decoder.stride,
        make_block=net.decoder_block,
    ).eval()
    records = decoded(net.eval(), net.raw_stages(torch.rand(1, 3, 33, 33) * 255))
    extended = more(records)
    assert more.stages[0].fuse is None
    assert len(records[16]) == len(extended[16]) == 2
    expected = more.stages[0].blocks(records[16][-1])
    torch.testing.assert_close(extended[16][-1], expected)
    assert len(extended[8]) == len(records[8]) + 1
    assert {s: [x.shape[1] for x in tensors] for s, tensors in extended.items()} == more.recorded


def test_wrong_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="no record at stride 64"):
        backbone([64], [1])
    with pytest.raises(ValueError, match="one entry per stage"):
        backbone([8, 4], [1])


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
def test_heads_that_do_not_read_it_train_with_ddp() -> None:
    stack = backbone([8, 4, 8, 16], [1, 1, 1, 1])
    config = model_config(("model=max_deeplab_l_backbone",))
    net: nn.Module = build(config.net, backbone=stack, semantic_channels=5)
    before = {name: value.clone() for name, value in stack.stacked_decoder.state_dict().items()}
    parallel = DistributedDataParallel(net)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # DDP complains in the second step about parameters without a gradient
        heads = parallel(torch.rand(2, 3, 33, 33) * 255)
        sum(head.square().mean() for head in heads).backward()
        optimizer.step()
    trained = {n for n, p in net.named_parameters() if p.grad is not None}
    frozen = {n for n, _ in net.named_parameters()} - trained
    assert frozen == {
        f"backbone.stacked_decoder.{n}" for n, _ in stack.stacked_decoder.named_parameters()
    }
    for name, value in stack.stacked_decoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_model_that_runs_it_can_train_it() -> None:
    net = backbone([8, 4, 8, 16], [1, 1, 1, 1])
    net.stacked_decoder.requires_grad_(True)
    records = decoded(net, net.raw_stages(torch.rand(2, 3, 33, 33) * 255))
    records[16][-1].square().mean().backward()
    assert all(p.grad is not None for p in net.stacked_decoder.parameters())
