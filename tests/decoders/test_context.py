"""ASPP: its dilations and its pooling window."""

import pytest
import torch

from axialseg.decoders.context import ASPP
from axialseg.layers.convolution import SeparableConvNormAct


@pytest.mark.parametrize(
    ("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])]
)
def test_dilations_cover_the_same_part_of_the_image(stride: int, rates: list[int]) -> None:
    aspp = ASPP(4, 4, rates=(6, 12, 18), output_stride=stride)
    assert [conv.conv.dilation for conv in aspp.atrous] == [(rate, rate) for rate in rates]


def test_a_pooling_window_as_large_as_the_feature_is_global() -> None:
    torch.manual_seed(0)
    everywhere, window = ASPP(4, 4).eval(), ASPP(4, 4, pool_size=(9, 9)).eval()
    window.load_state_dict(everywhere.state_dict())
    x = torch.rand(1, 4, 5, 7)  # smaller than the window
    torch.testing.assert_close(window(x), everywhere(x))


def test_the_convolutions_may_be_separable() -> None:
    aspp = ASPP(6, 4, output_stride=8, atrous=SeparableConvNormAct)
    kernels = [(c.depthwise.weight.shape, c.depthwise.dilation) for c in aspp.atrous]
    assert kernels == [((6, 1, 3, 3), (rate, rate)) for rate in (12, 24, 36)]
    assert aspp(torch.rand(2, 6, 5, 7)).shape == (2, 4, 5, 7)
