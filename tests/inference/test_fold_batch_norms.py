"""Folding changes no output but by rounding, and leaves the norms that cannot be folded."""

import copy

import pytest
import torch
from published_models import model_config
from torch import Tensor, nn

from axialseg.build import build_net
from axialseg.decoders.max_deeplab import MaskPredictor
from axialseg.inference.fold_batch_norms import fold_batch_norms
from axialseg.layers.axial_attention import AxialAttention
from axialseg.layers.batch_norm import BatchNorm
from axialseg.layers.convolution import ConvNorm, SeparableConvNormAct
from axialseg.layers.dual_path_transformer import NormalizedAttention
from axialseg.panoptic.cityscapes_classes import CITYSCAPES

TINY = (
    "axial_deeplab_tiny",
    "axial_hybrid_tiny",
    "axial_swidernet_tiny",
    "max_deeplab_tiny",
    "kmax_tiny",
)
BIGGER = ("axial_deeplab_s",)
SIZE = (33, 49)


def trained(model: str) -> nn.Module:
    """The network in float64 evaluation mode, no weight or statistic at its initialisation."""
    torch.manual_seed(0)
    net = build_net(model_config((f"model={model}",)), CITYSCAPES).double()
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, BatchNorm):
                norm.weight.add_(torch.empty_like(norm.weight).uniform_(0.05, 0.25))
                norm.bias.normal_(0, 0.3)
                norm.momentum = 1.0
        # The statistics that its features really have: others would make it chaotic.
        net.train()(*image_and_valid(torch.float64))
    return net.eval()


def image_and_valid(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, *SIZE, generator=generator, dtype=torch.float64) * 255
    valid = torch.ones(2, *SIZE, dtype=torch.bool)
    valid[1, -9:] = False
    return image.to(dtype), valid


def outputs(net: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    with torch.inference_mode():
        heads = net(*image_and_valid(dtype))._asdict()
    for i, auxiliary in enumerate(heads.pop("auxiliary", ())):  # kMaX-DeepLab's
        heads |= {f"{i}.{name}": value for name, value in auxiliary._asdict().items()}
    return heads


def distance(one: Tensor, two: Tensor) -> float:
    """Root mean square of the difference, as a share of that of `two`."""
    return float((one.double() - two).norm() / two.norm())


@pytest.mark.parametrize("model", [*TINY, *BIGGER])
def test_same_outputs(model: str) -> None:
    net = trained(model)
    exact = outputs(net, torch.float64)
    assert all(float(value.std()) > 1e-3 for value in exact.values())  # not a constant
    folded = fold_batch_norms(net)
    for name, value in outputs(folded, torch.float64).items():
        torch.testing.assert_close(value, exact[name], rtol=1e-10, atol=1e-10, msg=name)
    # In float32 it is as near to the exact numbers as the network that it was made from.
    single = copy.deepcopy(net).float()
    plain, fast = (outputs(n, torch.float32) for n in (single, fold_batch_norms(single)))
    for name, value in fast.items():
        assert value.dtype == torch.float32
        assert distance(value, exact[name]) < 2 * distance(plain[name], exact[name]) + 1e-7, name


@pytest.mark.parametrize("model", TINY)
def test_only_the_norms_without_a_convolution_stay(model: str) -> None:
    net = trained(model)
    folded = fold_batch_norms(net)
    expected = {
        f"{name}.{child}"
        for name, module in net.named_modules()
        for child, norm in module.named_children()
        if isinstance(norm, BatchNorm)
        and (
            isinstance(module, AxialAttention | NormalizedAttention)
            or child == "kmeans_norm"
            or (isinstance(module, MaskPredictor) and child == "mask_norm")
        )
    }
    left = {name for name, module in folded.named_modules() if isinstance(module, BatchNorm)}
    assert left == expected
    assert not any(p.requires_grad for p in folded.parameters())


@pytest.mark.parametrize("options", [{"kernel_size": 3, "stride": 2}, {"kernel_size": 5}])
def test_borders_see_the_same_padding(options: dict[str, int]) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(3, 4, **options) if "stride" in options else SeparableConvNormAct(3, 4)
    for name, value in layer.double().eval().state_dict().items():
        if "norm" in name:
            value.uniform_(0.5, 1.5)
    x = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(fold_batch_norms(layer)(x), layer(x), rtol=1e-12, atol=1e-12)


def test_the_network_stays_as_it_is() -> None:
    net = trained("axial_deeplab_tiny")
    before = copy.deepcopy(net.state_dict())
    fold_batch_norms(net)
    assert net.state_dict().keys() == before.keys()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.requires_grad for p in net.parameters())


def test_training_mode_is_refused() -> None:
    net = trained("axial_deeplab_tiny")
    net.backbone.train()
    with pytest.raises(ValueError, match="in evaluation mode only"):
        fold_batch_norms(net)


def test_folding_twice_changes_nothing() -> None:
    net = fold_batch_norms(trained("axial_deeplab_tiny"))
    once, twice = (outputs(n, torch.float64) for n in (net, fold_batch_norms(net)))
    for name, value in twice.items():
        assert torch.equal(value, once[name]), name
