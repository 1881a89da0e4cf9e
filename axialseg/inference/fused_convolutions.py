"""A folded network for predictions on a CPU: oneDNN's convolutions, and what follows in them.

Most of a prediction on a CPU is convolutions. PyTorch computes a 1x1 convolution of one image with
one thread as a plain matrix product, which is slower than oneDNN's kernel, and activations and
residual sums in passes of their own through the memory. oneDNN does them while it writes its
output. The numbers are the same up to rounding.
"""

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.decoders.panoptic_deeplab import PredictionHead
from axialseg.inference.fold_batch_norms import fold_batch_norms
from axialseg.layers.attention_block import AttentionBranch
from axialseg.layers.convolution import ConvNormAct, SeparableConvNormAct
from axialseg.layers.residual_block import BasicBranch, BottleneckBranch, ResidualBlock

ONEDNN_NAMES = {F.relu: "relu", F.gelu: "gelu"}
BRANCHES = (AttentionBranch, BasicBranch, BottleneckBranch)


def inference_form(
    net: nn.Module, device_type: str, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """The fastest copy of a network for a device, with the same outputs up to rounding.

    Args:
        net: in evaluation mode; it is left as it is.
        device_type: cpu or cuda.
        dtype: that it will run in: float32, or a half precision by `torch.autocast`.
    """
    folded = fold_batch_norms(net)
    can_fuse = device_type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    is_single = all(p.dtype == torch.float32 for p in folded.parameters())
    return fuse_convolutions(folded, dtype) if can_fuse and is_single else folded


def fuse_convolutions(net: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of a network for predictions on a CPU, with the same outputs up to rounding.

    Args:
        net: in float32, of `fold_batch_norms`; it is left as it is.
        dtype: of convolutions: float32, or bfloat16 for a network that runs under
            `torch.autocast` of that type. The last ones of the heads stay in float32.

    Returns:
        The copy, channels last. It cannot be trained. It is `net` itself if PyTorch was built
        without oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        return net
    fused = copy.deepcopy(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    activations: dict[nn.Module, str] = {}
    for module in fused.modules():
        conv: nn.Module | None = None
        if isinstance(module, ConvNormAct) and isinstance(module.norm, nn.Identity):
            conv = module.conv
        elif isinstance(module, SeparableConvNormAct) and isinstance(
            module.depthwise_norm, nn.Identity
        ):
            conv = module.depthwise
        if conv is not None:
            activations[conv] = ONEDNN_NAMES[module.activation]
            module.activation = nn.Identity()
    for module in list(fused.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Conv2d:
                kept = torch.float32 if isinstance(module, PredictionHead) else dtype  # see there
                setattr(module, name, _FusedConv2d(child, kept, activations.get(child, "none")))
    for module in fused.modules():
        if isinstance(module, ResidualBlock) and isinstance(module.branch, BRANCHES):
            # It has the same submodules and no state of its own.
            module.__class__ = _FusedResidualBlock
    return fused


class _FusedConv2d(nn.Module):
    """A convolution, and an activation of its output.

    Args:
        conv: whose parameters are taken.
        dtype: of the kernel and of the output.
        activation: relu, gelu or none.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, activation: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach().to(dtype), requires_grad=False)
        self.bias: nn.Parameter | None = None
        if conv.bias is not None:
            self.bias = nn.Parameter(conv.bias.detach().to(dtype), requires_grad=False)
        self.padding, self.stride = _pair(conv.padding), _pair(conv.stride)
        self.dilation, self.groups = _pair(conv.dilation), conv.groups
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C_in, H, W]`` -> ``[B, C_out, H', W']``, channels last."""
        y = torch.ops.mkldnn._convolution_pointwise(
            self._prepared(x), *self._convolution(), self.activation, [], "none"
        )
        return cast(Tensor, y)

    def added_to(self, total: Tensor, x: Tensor) -> Tensor:
        """The convolution of x, without activation, added to `total`, whose memory it takes."""
        y = torch.ops.mkldnn._convolution_pointwise_.binary(
            self._prepared(total),
            self._prepared(x),
            *self._convolution(),
            "add",
            1.0,
            None,
            [],
            None,
        )
        return cast(Tensor, y)

    def _prepared(self, x: Tensor) -> Tensor:
        return x.to(self.weight.dtype).contiguous(memory_format=torch.channels_last)

    def _convolution(self) -> tuple[Tensor | list[int] | int | None, ...]:
        """The operator's arguments in their order."""
        return self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups


def _pair(sizes: tuple[int, ...] | str) -> list[int]:
    assert not isinstance(sizes, str)
    return list(sizes)


class _FusedResidualBlock(ResidualBlock):
    """A residual block whose last convolution adds itself to the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """See `ResidualBlock`."""
        x = self.activation(x)
        shortcut = self.shortcut_of(x)
        assert isinstance(self.branch, BRANCHES)
        last = cast(_FusedConv2d, self.branch.last.get_submodule("conv"))
        return last.added_to(shortcut, self.branch.inner(x))
