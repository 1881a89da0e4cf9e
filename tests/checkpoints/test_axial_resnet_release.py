"""The released Axial-ResNet-26-S: our network with that state dict gives the authors' numbers.

The goldens come from csrhddlam/axial-deeplab (commit 79088ed), `axial26s` in evaluation mode.
"""

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_data import assert_close, unit
from numpy.typing import NDArray
from published_models import model_config
from torch import Tensor, nn

from axialseg.build import build
from axialseg.checkpoints.axial_resnet_release import from_axial_resnet_release
from axialseg.checkpoints.initial import load_initial_weights, load_trained_weights
from axialseg.errors import UserError
from axialseg.models.image_classifier import ImageClassifier

GOLDENS = Path(__file__).parents[1] / "goldens" / "axial_resnet_release"
TOLERANCE = 1e-5  # of a tensor's largest magnitude
WATCHED = {
    "layer1": "stages.stage2",
    "layer2": "stages.stage3",
    "layer3": "stages.stage4",
    "layer4": "stages.stage5",
    "layer2.0.hight_block": "stages.stage3.0.branch.attention.height_axis",
    "layer2.0.width_block": "stages.stage3.0.branch.attention",  # striding included
}


@cache
def golden() -> dict:
    return json.loads(gzip.decompress((GOLDENS / "axial26s.json.gz").read_bytes()))


def released_state() -> dict[str, Tensor]:
    """The state dict as it is stored, filled by the rule."""
    state = {}
    for key, shape, offset, scale in golden()["variables"]:
        if offset is None:
            state[key] = torch.zeros(shape, dtype=torch.int64)
        else:
            sym = np.float32(2) * unit(key, tuple(shape)) - np.float32(1)
            state[key] = torch.from_numpy(np.asarray(np.float32(offset) + np.float32(scale) * sym))
    return state


def classifier(*overrides: str) -> ImageClassifier:
    choices = ("model=axial_deeplab_s", "model/backbone=axial_resnet_26_s_release")
    config = model_config((*choices, *overrides))
    return ImageClassifier(build(config.backbone), 1000)


def image(net: nn.Module) -> Tensor:
    """The golden input before its normalisation."""
    name, shape = golden()["input"]["name"], golden()["input"]["shape"]
    x = torch.from_numpy(2 * unit(name, tuple(shape)) - 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (net.image_mean, net.image_std))
    return x * std + mean


def check(name: str, actual: Tensor) -> int:
    """Compares with what is stored of a tensor; returns of how many entries."""
    value = actual.detach().numpy()
    compared = 0
    with np.load(GOLDENS / "axial26s.npz") as stored:
        for key in stored.files:
            where, _, part = key.partition("|")
            if where != name:
                continue
            assert_close(_part(value, part), stored[key], key, TOLERANCE)
            compared += 1
    return compared


def _part(value: NDArray, part: str) -> NDArray:
    if part == "mean_hw":
        return value.astype(np.float64).mean((2, 3))
    if part.startswith("channels[::"):
        return value[:, :: int(part.removeprefix("channels[::").removesuffix("]"))]
    assert not part
    return value


def test_equals_the_authors(tmp_path: Path) -> None:
    torch.save(released_state(), tmp_path / "axial26s.pth")
    net = classifier().eval()
    load_trained_weights(net, tmp_path / "axial26s.pth")
    # The released network's 5,944,936 but for the longer tables.
    tables = sum(p.numel() for name, p in net.named_parameters() if name.endswith("_table"))
    released = sum(v.numel() for k, v in released_state().items() if k.endswith("relative"))
    total = sum(p.numel() for p in net.parameters())
    assert total - tables + released == golden()["parameters"]

    seen: dict[str, Tensor] = {}
    for theirs, ours in WATCHED.items():
        net.backbone.get_submodule(ours).register_forward_hook(
            lambda _, inputs, output, name=theirs: seen.update({name: output})
        )
    net.backbone.get_submodule("stages.stage2").register_forward_pre_hook(
        lambda _, inputs: seen.update({"maxpool": inputs[0]})
    )
    with torch.no_grad():
        seen["logits"] = net(image(net.backbone))
    compared = 0
    for name, value in seen.items():
        # The authors' layers end activated.
        is_layer = name.startswith("layer") and "." not in name
        compared += check(name, value.relu() if is_layer else value)
    with np.load(GOLDENS / "axial26s.npz") as stored:
        assert compared == len(stored.files)


def test_names_are_complete() -> None:
    for prefix in ("", "module."):
        state = {prefix + name: value for name, value in released_state().items()}
        weights = from_axial_resnet_release(state, 509)
        own = {name: value.shape for name, value in classifier().state_dict().items()}
        assert {name: value.shape for name, value in weights.items()} == own


def test_shorter_tables_take_the_middle() -> None:
    state = released_state()
    short, long = (from_axial_resnet_release(state, rows) for rows in (21, 509))
    name = "backbone.stages.stage2.0.branch.attention.width_axis.key_table"
    assert torch.equal(short[name], long[name][244:265])
    assert torch.equal(long[name][254 + 55 :], long[name][254 + 55].expand(200, -1))


def test_starts_a_classifier_of_other_classes(tmp_path: Path) -> None:
    torch.save({"state_dict": released_state()}, tmp_path / "axial26s.pth")
    net = ImageClassifier(classifier().backbone, 7)
    report = load_initial_weights(net, tmp_path / "axial26s.pth")
    assert set(report.initialised) == {"classifier.weight", "classifier.bias"}
    with pytest.raises(UserError, match="another architecture"):
        load_initial_weights(classifier("model.backbone.stage_blocks=[1,2,5,1]"), report.source)
