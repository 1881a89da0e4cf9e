"""Networks of timm as backbones: the contract, two steps with each kind of heads, what is refused.

timm imports torchvision for its pictures and data sets, which backbones do without. Where it is not
installed, or of another build than torch, an empty module stands in its place while timm is
imported, and no longer.
"""

import enum
import importlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from axialseg.backbones import timm_backbone
from axialseg.backbones.backbone import PretrainedBackbone
from axialseg.backbones.timm_backbone import TimmBackbone
from axialseg.checkpoints.initial import load_pretrained_backbone
from axialseg.commands import evaluate, train
from axialseg.decoders.pixel_decoder import PixelDecoder
from axialseg.errors import UserError
from axialseg.layers.axial_attention import AxialAttention

Command = Callable[[Callable[[], None], list[str]], None]
PARTS = ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets")


class StandIn(ModuleType):
    """Has every name that is asked of it: an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "InterpolationMode":
            return enum.Enum(name, "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS")
        return type(name, (), {})


@pytest.fixture(scope="module", autouse=True)
def timm() -> ModuleType:
    if find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install --no-deps -c constraints.txt timm")
    with pytest.MonkeyPatch.context() as patch:
        for part in PARTS:
            module = StandIn(f"torchvision{part}")
            module.__path__ = []
            patch.setitem(sys.modules, module.__name__, module)
            if part:
                owner, _, name = module.__name__.rpartition(".")
                setattr(sys.modules[owner], name, module)
        return importlib.import_module("timm")


@pytest.mark.parametrize(
    ("name", "finest", "output_stride"),
    [
        ("test_convnext", 4, 32),  # begins with patches
        ("test_resnet", 2, 32),
        ("test_resnet", 2, 16),
        ("swin_tiny_patch4_window7_224", 4, 32),  # channels last; one size, unless told otherwise
    ],
)
def test_contract(name: str, finest: int, output_stride: int) -> None:
    torch.manual_seed(0)
    net = TimmBackbone(name, output_stride=output_stride).eval()
    assert isinstance(net, PretrainedBackbone)
    assert next(iter(net.strides.values())) == finest
    assert net.strides["res5"] == output_stride
    for height, width in ((65, 97), (64, 70)):
        image = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
        valid = torch.ones(2, height, width, dtype=torch.bool)
        valid[:, 40:] = False
        with torch.inference_mode():
            features = net(image, valid)
            image[:, :, 40:] = 0
            again = net(image, valid)
        assert list(features) == list(net.channels) == list(net.strides)
        for key, feature in features.items():
            size = tuple((side - 1) // net.strides[key] + 1 for side in (height, width))
            assert feature.shape == (2, net.channels[key], *size)
            assert torch.equal(feature, again[key])  # padding does not matter


def test_features_are_those_of_timm(timm: ModuleType) -> None:
    net = TimmBackbone("test_resnet").eval()
    plain = timm.create_model("test_resnet", features_only=True).eval()
    plain.load_state_dict(net.net.state_dict())
    image = torch.randint(0, 256, (1, 3, 64, 96)).float()
    config = timm.data.resolve_model_data_config(plain)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = plain((image / 255 - mean) / std)
        for ours, theirs in zip(net(image).values(), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "lines",
    [
        ["model=kmax_tiny", "model.net.slots=16", "model.backbone.name=test_convnext"],
        ["model=axial_deeplab_tiny", "model.backbone.name=test_resnet"],
    ],
)
def test_two_steps(lines: list[str], tiny_run: list[str], tmp_path: Path, command: Command) -> None:
    others = [line for line in tiny_run if not line.startswith("model")]
    adam = ["schedule/optimizer=adam", "trainer.max_steps=2", "logger=none"]
    run = [*others, "model/backbone=timm", *lines, *adam]
    command(train.main, [*run, f"hydra.run.dir={tmp_path / 'run'}"])
    weights = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert weights["global_step"] == 2
    assert all(value.isfinite().all() for value in weights["state_dict"].values())
    states = weights["optimizer_states"][0]["state"].values()
    names = [name for name in weights["state_dict"] if name.startswith("net.backbone.")]
    assert len(names) > 50
    assert sum(bool(state["first_moment"].any()) for state in states) > len(states) / 2
    command(evaluate.main, [f"run={tmp_path / 'run'}", f"output={tmp_path / 'results'}"])
    assert (tmp_path / "results/metrics.json").is_file()


def test_pretrained_weights_are_fetched_where_training_starts(
    timm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, asked = timm.create_model, []

    def of_the_hub(name: str, pretrained: bool, **options: Any) -> nn.Module:
        net = create(name, **options)
        if pretrained:
            asked.append(name)
            for value in net.parameters():
                nn.init.constant_(value, 0.5)
        return net

    monkeypatch.setattr(timm, "create_model", of_the_hub)
    net = nn.Module()
    net.backbone = TimmBackbone("test_convnext", pretrained=True)
    assert asked == []  # an evaluation has weights
    assert load_pretrained_backbone(net) == "The backbone starts from timm's test_convnext"
    assert asked == ["test_convnext"]
    assert all((value == 0.5).all() for value in net.backbone.parameters())
    net.backbone = TimmBackbone("test_convnext")
    assert load_pretrained_backbone(net) is None


def test_weights_that_cannot_be_fetched(timm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Module()
    net.backbone = TimmBackbone("test_convnext", pretrained=True)

    def without_a_network(*_arguments: Any, **_options: Any) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", without_a_network)
    with pytest.raises(UserError, match=r"test_convnext cannot be fetched \(no route to host\)"):
        load_pretrained_backbone(net)


@pytest.mark.parametrize(
    ("name", "output_stride", "message"),
    [
        ("convnext_tny", 32, "timm has no network 'convnext_tny'; did you mean convnext_tiny?"),
        ("hf-hub:timm/convnext_tiny", 32, "timm has no network 'hf-hub:timm"),
        ("test_vit", 32, r"are at strides 16, 16, .*, but the decoders need 4, 8, 16, 32;"),
        ("vgg11", 16, "vgg11 has no output stride 16, only 32"),
    ],
)
def test_refused_names(name: str, output_stride: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmBackbone(name, output_stride=output_stride)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'axialseg\[timm\]', and torchvision"):
        timm_backbone.TimmBackbone("test_convnext")


def test_a_pixel_decoder_needs_every_stride() -> None:
    channels = TimmBackbone("test_convnext").channels
    with pytest.raises(ValueError, match="of 5 stages reads res1, but the backbone has res2, res3"):
        PixelDecoder(channels, [8] * 5, [1] * 5, ["bottleneck"] * 5, AxialAttention)
