"""Test-time augmentation against deeplab2's stored results, and what MaX-DeepLab's must be."""

from typing import Any

import numpy as np
import pytest
import torch
from golden_data import arrays, assert_close, facts, nhwc, our_panoptic, rule_image
from published_models import filled_by_rule, manifest
from torch import Tensor, nn

from axialseg.decoders.max_deeplab import MaskHeads
from axialseg.errors import UserError
from axialseg.inference.augmented import Augmented
from axialseg.layers.resize import resize_bilinear
from axialseg.panoptic.cityscapes_classes import CITYSCAPES
from axialseg.postprocess.panoptic_deeplab import PanopticDeepLabPostProcess
from axialseg.postprocess.restore import restore_labels, restore_values

NAME = "resnet50_os32_cityscapes"
FLIPS = 1e-3  # share of the pixels that may fall the other way, where two values are almost equal


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return filled_by_rule(NAME)


@pytest.mark.parametrize("case", ["multi_scale_flip", "flip"])
def test_panoptic_deeplab_goldens(case: str, resnet: nn.Module) -> None:
    golden = arrays("inference")
    options = facts("inference")[f"{case}/{NAME}"]
    shape = manifest(NAME)["golden_input"]
    image = rule_image(shape["tag"], 1, shape["height"], shape["width"])
    with torch.inference_mode():
        heads = Augmented(resnet, options["scales"], options["flip"])(image)
        assert heads.semantic.shape[-2:] == image.shape[-2:]
        result = PanopticDeepLabPostProcess(CITYSCAPES, stuff_area_limit=2048)(
            heads, (shape["height"], shape["width"])
        )[0]
    probability = nhwc(heads.semantic.softmax(1))
    values = {
        "center_heatmap": nhwc(heads.center)[..., 0],
        "offset_map": nhwc(heads.offset),
        "semantic_probs": probability,
        "semantic_probs|channels[::4]": probability[..., ::4],
    }
    compared = 0
    for key, value in values.items():
        if f"{case}/{NAME}|{key}" in golden:
            assert_close(value, golden[f"{case}/{NAME}|{key}"], key)
            compared += 1
    assert compared == 3
    for key in ("panoptic", "semantic", "instance"):
        expected = golden[f"{case}/{NAME}|{key}_pred"][0]
        if key == "panoptic":
            expected = our_panoptic(expected, 1000)
        assert np.mean(getattr(result, key).numpy() != expected) <= FLIPS, key
    expected = golden[f"{case}/{NAME}|instance_scores"][0]
    same = result.instance.numpy() == golden[f"{case}/{NAME}|instance_pred"][0]
    assert_close(result.instance_score.numpy()[same], expected[same], "instance scores")


UNDO = ["33x41_to_32x40", "25x41_to_50x82", "33x20_to_100x61", "33x41_to_17x20"]


@pytest.mark.parametrize("case", UNDO)
def test_back_to_the_original_size_goldens(case: str) -> None:
    golden = arrays("inference")
    resized, original = (
        tuple(int(side) for side in part.split("x")) for part in case.split("_to_")
    )
    for key in ("panoptic_pred", "instance_scores"):
        value = torch.from_numpy(golden[f"undo|in|{key}"][0])
        ours = restore_labels(value, resized, original).numpy()
        np.testing.assert_array_equal(ours, golden[f"undo/{case}|{key}"][0])
    for key in ("semantic_probs", "offset_map"):
        value = torch.from_numpy(golden[f"undo|in|{key}"][0]).movedim(-1, 0)
        ours = restore_values(value, resized, original).movedim(0, -1).numpy()
        assert_close(ours, golden[f"undo/{case}|{key}"][0], key)


def masks_of(image: Tensor) -> MaskHeads:
    """Slots that follow from the colours: of each pixel alone, and of the whole image."""
    x = image.float() / 255.0
    small = resize_bilinear(x, ((x.shape[-2] - 1) // 4 + 1, (x.shape[-1] - 1) // 4 + 1))
    r, g, b = small.unbind(1)
    masks = torch.stack([8 * r, 8 * g, 8 * b, r + g + b], 1)
    means = masks.mean((2, 3))
    classes = torch.stack([means, 3 - means, means.roll(1, 1), 0 * means], -1)
    return MaskHeads(masks, classes, small, small)


class Masks(nn.Module):
    """Sees no more than colours; numbers its slots in another order for each width it is given.

    Attributes:
        sizes: of the images so far.
    """

    def __init__(self, shuffles: bool) -> None:
        super().__init__()
        self.shuffles = shuffles
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor, valid: Tensor) -> MaskHeads:
        outputs = masks_of(image)
        self.sizes.append(tuple(image.shape[-2:]))
        if not self.shuffles or len(self.sizes) == 1:
            return outputs
        order = torch.randperm(4, generator=torch.Generator().manual_seed(len(self.sizes)))
        return outputs._replace(
            mask_logits=outputs.mask_logits[:, order], class_logits=outputs.class_logits[:, order]
        )


def patches() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = (torch.rand(2, 3, 5, 7, generator=generator) * 255).repeat_interleave(16, 2)
    image = image.repeat_interleave(16, 3)[..., :65, :97]
    return image, torch.ones(2, 65, 97, dtype=torch.bool)


def test_mirrored_masks_change_nothing_where_the_net_is_symmetric() -> None:
    image, valid = patches()
    plain = masks_of(image)
    both = Augmented(Masks(shuffles=False), [1.0], flip=True)(image, valid)
    torch.testing.assert_close(both.mask_logits.softmax(1), plain.mask_logits.softmax(1))
    torch.testing.assert_close(both.class_logits.softmax(-1), plain.class_logits.softmax(-1))


def test_the_order_of_slots_does_not_matter() -> None:
    image, valid = patches()
    results = []
    for shuffles in (False, True):
        net = Masks(shuffles)
        results.append(Augmented(net, [1.0, 0.5, 1.5], flip=True)(image, valid))
        assert net.sizes[::2] == [(65, 97), (33, 49), (97, 145)]
    torch.testing.assert_close(results[0].mask_logits, results[1].mask_logits)
    torch.testing.assert_close(results[0].class_logits, results[1].class_logits)
    probability = results[0].mask_logits.exp().sum(1)
    torch.testing.assert_close(probability, torch.ones_like(probability))


def test_masks_of_two_views_are_averaged() -> None:
    image, valid = patches()
    mean = Augmented(Masks(shuffles=False), [1.0, 0.5], flip=False)(image, valid)
    small = masks_of(resize_bilinear(image, (33, 49)))
    size = tuple(mean.mask_logits.shape[-2:])
    views = [masks_of(image).mask_logits, resize_bilinear(small.mask_logits, size)]
    expected = torch.stack([view.softmax(1) for view in views]).mean(0)
    torch.testing.assert_close(mean.mask_logits.exp(), expected)


@pytest.mark.parametrize("scales", [[], [0.0], [1.0, -0.5]])
def test_bad_scales_are_refused(scales: list[float]) -> None:
    with pytest.raises(UserError, match="positive numbers"):
        Augmented(nn.Identity(), scales, flip=False)


def test_one_view_is_the_net_itself() -> None:
    image, valid = patches()
    one: Any = Augmented(Masks(shuffles=False), [1.0], flip=False)(image, valid)
    assert torch.equal(one.mask_logits, masks_of(image).mask_logits)
