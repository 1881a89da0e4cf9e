"""Fused convolutions give the same outputs as the network that they were made from."""

import copy

import pytest
import torch
from test_fold_batch_norms import TINY, distance, image_and_valid, outputs, trained
from torch import nn

from axialseg.inference.fold_batch_norms import fold_batch_norms
from axialseg.inference.fused_convolutions import fuse_convolutions, inference_form
from axialseg.layers.residual_block import ResidualBlock


@pytest.mark.parametrize("model", TINY)
def test_same_outputs(model: str) -> None:
    net = trained(model)
    exact = outputs(net, torch.float64)
    single = copy.deepcopy(net).float()
    fused = inference_form(single, "cpu")
    assert not any(type(module) in (nn.Conv2d, ResidualBlock) for module in fused.modules())
    plain, fast = outputs(single, torch.float32), outputs(fused, torch.float32)
    for name, value in fast.items():
        assert value.dtype == torch.float32
        assert distance(value, exact[name]) < 2 * distance(plain[name], exact[name]) + 1e-6, name
    # It is left as it was, and so is the image.
    again = outputs(single, torch.float32)
    assert all(torch.equal(again[name], value) for name, value in plain.items())


@pytest.mark.parametrize("model", ["axial_hybrid_tiny", "max_deeplab_tiny"])
def test_bfloat16_is_as_near_as_that_of_autocast(model: str) -> None:
    net = trained(model)
    exact = outputs(net, torch.float64)
    folded = fold_batch_norms(copy.deepcopy(net).float())
    half = fuse_convolutions(folded, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        plain, fast = outputs(folded, torch.float32), outputs(half, torch.float32)
    for name, value in fast.items():
        assert value.dtype == plain[name].dtype == torch.float32
        # Of half precision a map of many pixels would have a few hundred values.
        if value.ndim == 4:
            assert len(value[:, 0].unique()) > 0.9 * value[:, 0].numel(), name
        assert distance(value, exact[name]) < 1.5 * distance(plain[name], exact[name]), name


def test_other_devices_and_types_are_folded_only() -> None:
    net = trained("axial_hybrid_tiny")
    double = inference_form(net, "cpu")
    assert any(type(module) is nn.Conv2d for module in double.modules())
    on_gpu = inference_form(net.float(), "cuda")
    assert any(type(module) is nn.Conv2d for module in on_gpu.modules())


def test_any_size_batch_and_memory_order() -> None:
    fused = inference_form(trained("axial_hybrid_tiny").float(), "cpu")
    image, valid = image_and_valid(torch.float32)
    with torch.inference_mode():
        both = fused(image, valid)
        for order in (torch.contiguous_format, torch.channels_last):
            one = fused(image[1:].contiguous(memory_format=order), valid[1:])
            for head, heads in zip(one, both, strict=True):
                torch.testing.assert_close(head, heads[1:], rtol=1e-4, atol=1e-5)
        odd = fused(image[:, :, :17, :31], valid[:, :17, :31])
        assert odd.center.shape == (2, 1, 5, 8)
