"""Batch norms folded into the convolutions in front of them, for faster inference.

In evaluation mode a batch norm is y = a x + b for each channel. A convolution with a batch norm is
thus a convolution whose kernels are multiplied by a and which has a bias (Jacob et al. 2018,
"Quantization and Training of Neural Networks", sec. 3.2). The numbers are the same up to rounding.

A batch norm without a convolution in front stays: those of similarities, of retrieved values, of
clusters and of MaX-DeepLab's mask logits, which follow products of two features. The queries, keys
and values of axial attention come from a convolution, and their norm is folded.
"""

import copy

import torch
from torch import nn

from axialseg.decoders.max_deeplab import MaskPredictor
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.convolution import ConvNorm, SeparableConvNormAct

# Module -> its convolution and the batch norm that nothing but this convolution feeds.
CHAINS: dict[type[nn.Module], tuple[str, str]] = {
    ConvNorm: ("conv", "norm"),
    SeparableConvNormAct: ("depthwise", "depthwise_norm"),
    MaskPredictor: ("pixel_head.predict", "pixel_norm"),
}


def fold_batch_norms(net: nn.Module) -> nn.Module:
    """A copy of a network for inference, with fewer batch norms and the same outputs.

    Args:
        net: in evaluation mode; it is left as it is.

    Returns:
        The copy. It cannot be trained, and the names of its weights are not those of the network.

    Raises:
        ValueError: the network is in training mode, where a batch norm depends on the batch.
    """
    if any(module.training for module in net.modules()):
        raise ValueError("batch norms can be folded in evaluation mode only; call net.eval()")
    folded = copy.deepcopy(net)
    for module in folded.modules():
        for kind, (conv_name, norm_name) in CHAINS.items():
            norm = getattr(module, norm_name) if isinstance(module, kind) else None
            if isinstance(norm, BatchNorm):
                conv = module.get_submodule(conv_name)
                assert isinstance(conv, nn.Conv2d)
                _fold(conv, norm)
                setattr(module, norm_name, nn.Identity().eval())
    return folded.requires_grad_(False)


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: BatchNorm) -> None:
    """Makes the convolution compute the output of the norm behind it."""
    # In float64, so that the weights are rounded only once.
    scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    bias = norm.bias.double() - norm.running_mean.double() * scale
    if conv.bias is not None:
        bias += conv.bias.double() * scale
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    conv.weight.copy_(weight)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype))
