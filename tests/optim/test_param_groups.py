"""Which parameters share a rate and a decay."""

import pytest
from golden_data import SUFFIX
from published_models import MAX_DEEPLAB, manifest, published_on_meta
from torch import nn

from axialseg.checkpoints.tensorflow.deeplab2 import variable_names
from axialseg.optim.param_groups import backbone_layers, parameter_groups


def net() -> nn.Module:
    backbone = nn.ModuleDict(
        {"conv": nn.Conv2d(3, 4, 1), "norm": nn.BatchNorm2d(4), "transformer": nn.Linear(4, 4)}
    )
    return nn.ModuleDict({"backbone": backbone, "head": nn.Conv2d(4, 2, 1)})


def names(module: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    by_id = {id(parameter): name for name, parameter in module.named_parameters()}
    return {by_id[id(parameter)] for parameter in parameters}


def test_vectors_get_no_decay() -> None:
    module = net()
    decayed, plain = parameter_groups(module, lr=0.1, weight_decay=0.05)
    assert (decayed["lr"], decayed["weight_decay"]) == (0.1, 0.05)
    assert (plain["lr"], plain["weight_decay"]) == (0.1, 0.0)
    assert names(module, decayed["params"]) == {
        "backbone.conv.weight",
        "backbone.transformer.weight",
        "head.weight",
    }
    assert len(decayed["params"]) + len(plain["params"]) == len(list(module.parameters()))


def test_without_decay_there_is_one_group() -> None:
    (group,) = parameter_groups(net(), lr=0.1)
    assert len(group["params"]) == len(list(net().parameters()))


def test_backbone_has_its_own_rate() -> None:
    module = net()
    full, slow = parameter_groups(module, lr=1.0, backbone_lr_multiplier=0.1)
    assert (full["lr"], slow["lr"]) == (1.0, 0.1)
    assert names(module, slow["params"]) == {
        f"backbone.{part}.{kind}"
        for part in ("conv", "norm", "transformer")
        for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("name", MAX_DEEPLAB)
def test_slow_variables_of_max_deeplab_are_the_authors(name: str) -> None:
    module = published_on_meta(name)
    full, slow = parameter_groups(module, lr=1e-3, backbone_lr_multiplier=0.1)
    theirs = variable_names(module)
    trainable = {row[0].removesuffix(SUFFIX) for row in manifest(name)["variables"] if row[4]}
    # deeplab2's rule: of the encoder, what is named by none of these words.
    fast_words = ("transformer", "extra", "memory_feature")
    expected = {
        key
        for key in trainable
        if key.startswith("encoder/") and not any(word in key for word in fast_words)
    }
    assert {theirs[ours] for ours in names(module, slow["params"])} == expected
    assert {theirs[ours] for ours in names(module, full["params"])} == trainable - expected
    assert (full["lr"], slow["lr"]) == (1e-3, 1e-4)


def test_base_rate_comes_first_and_groups_are_complete() -> None:
    module = net()
    groups = parameter_groups(module, lr=1.0, weight_decay=0.1, backbone_lr_multiplier=0.1)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (1.0, 0.1),
        (1.0, 0.0),
        (0.1, 0.1),
        (0.1, 0.0),
    ]
    taken = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(taken) == sorted(id(parameter) for parameter in module.parameters())


def test_frozen_parameters_are_left_out() -> None:
    module = net()
    module["backbone"]["conv"].requires_grad_(False)
    (group,) = parameter_groups(module, lr=1.0)
    assert not names(module, group["params"]) & {"backbone.conv.weight", "backbone.conv.bias"}


def rates(module: nn.Module, groups: list[dict]) -> dict[str, float]:
    """Rate of each parameter."""
    return {name: group["lr"] for group in groups for name in names(module, group["params"])}


def test_each_layer_below_is_slower() -> None:
    blocks = nn.ModuleDict(
        {
            "stem": nn.Sequential(nn.Linear(2, 2)),
            "stages": nn.ModuleDict({"stage2": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))}),
        }
    )
    module = nn.ModuleDict({"backbone": blocks, "head": nn.Linear(2, 2)})
    found = rates(module, parameter_groups(module, lr=1.0, layer_decay=0.5))
    expected = {"backbone.stem.0": 0.125, "head": 1.0}
    expected |= {f"backbone.stages.stage2.{n}": 0.25 * 2**n for n in range(2)}
    assert found == {
        f"{layer}.{kind}": rate for layer, rate in expected.items() for kind in ("weight", "bias")
    }
    groups = parameter_groups(module, lr=1.0, layer_decay=0.5, backbone_lr_multiplier=0.1)
    assert [group["lr"] for group in groups] == pytest.approx([1.0, 0.05, 0.025, 0.0125])


def test_layers_of_the_published_backbones() -> None:
    module = published_on_meta("max_deeplab_l_os16_coco")
    layers = backbone_layers(module)
    assert set(layers) == {n for n, _ in module.named_parameters() if n.startswith("backbone.")}
    counted = len(set(layers.values()))
    assert counted == 1 + 3 + (3 + 6 + 3 + 3) + 4  # stem, stages 1 to 5, stacked decoder
    assert {n for name, n in layers.items() if ".stem." in name} == {0}
    assert {n for name, n in layers.items() if ".stage1.0." in name} == {1}
    assert {n for name, n in layers.items() if ".stacked_decoder.stages.3." in name} == {22}
