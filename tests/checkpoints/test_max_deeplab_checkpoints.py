"""TensorFlow checkpoints of MaX-DeepLab: whole, of a backbone, of other classes and models."""

import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import bundle_writer
import google_crc32c
import numpy as np
import pytest
import torch
from file_server import running_server
from golden_data import SUFFIX, rule_weights
from numpy.typing import NDArray
from published_models import KMAX, MAX_DEEPLAB, build_on_meta, manifest, model_config
from reference_checkpoint import write_tensorflow
from safetensors import safe_open
from tiny_max_deeplab import NAME, OVERRIDES, assert_golden_heads, golden_net, tiny_net
from torch import nn

from axialseg.checkpoints import published
from axialseg.checkpoints.initial import load_initial_weights, load_trained_weights
from axialseg.checkpoints.tensorflow.deeplab2 import variable_names
from axialseg.checkpoints.tensorflow.tensorflow_weights import head_channels
from axialseg.commands import convert, download
from axialseg.errors import UserError

Command = Callable[[Callable[[], None], list[str]], None]

# All models that share a backbone with one of MaX-DeepLab's.
ALIKE = [
    *(f"max_deeplab_{size}{kind}" for size in "ls" for kind in ("", "_backbone")),
    *(f"kmax_{kind}{data}" for kind in ("r50", "axial_r50") for data in ("", "_cityscapes")),
]
FAST_WORDS = ("transformer", "extra", "memory_feature")
SETTINGS = [*OVERRIDES[1:]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as the authors store it, with what else their training has written."""
    values = rule_weights(manifest(NAME))
    slots = {
        f"{name}/.OPTIMIZER_SLOT/{optimizer}/m": np.zeros(1, np.float32)
        for name in list(values)[:9]
        for optimizer in ("optimizer", "backbone_optimizer")
    }
    counts = {"global_step": np.int64(7), "backbone_optimizer/iter": np.int64(7)}
    extra = {name: np.asarray(value) for name, value in counts.items()}
    return write_tensorflow(tmp_path_factory.mktemp("tf") / "ckpt-7", values | slots | extra)


def backbone_variables() -> dict[str, NDArray]:
    """What pre-training on ImageNet knows: the encoder without all that MaX-DeepLab adds."""
    return {
        name.replace("encoder/", "backbone/_encoder/"): value
        for name, value in rule_weights(manifest(NAME)).items()
        if name.startswith("encoder/") and not any(word in name for word in FAST_WORDS)
    }


def changed(net: nn.Module, before: Mapping[str, torch.Tensor]) -> set[str]:
    return {
        name for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }


def copied(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_whole_model(checkpoint: Path) -> None:
    net = tiny_net()
    report = load_initial_weights(net, checkpoint)
    assert_golden_heads(net)
    assert sorted(report.loaded) == sorted(net.state_dict())
    assert report.initialised == {}
    assert set(report.left_out.values()) == {
        "optimiser slot",
        "optimiser state",
        "number of the training step",
    }
    assert load_trained_weights(tiny_net(), checkpoint) == 7


def test_converted_and_trained_from(checkpoint: Path, tmp_path: Path, command: Command) -> None:
    with tarfile.open(tmp_path / "tiny.tar.gz", "w:gz") as archive:
        archive.add(checkpoint.parent, "tiny")
    output = tmp_path / "x.safetensors"
    command(convert.main, [str(tmp_path / "tiny.tar.gz"), str(output), OVERRIDES[0], *SETTINGS])
    net = tiny_net()
    load_trained_weights(net, output)
    assert_golden_heads(net)
    with safe_open(output, framework="pt") as file:
        noted = file.metadata()
    assert (noted["model"], noted["global_step"]) == ("max_deeplab_s", "7")


def test_downloaded(
    checkpoint: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "tiny.tar.gz", "w:gz") as archive:
        archive.add(checkpoint.parent, "tiny")
    monkeypatch.setenv("AXIALSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "_overrides", lambda _checkpoint: list(OVERRIDES))
    name = "max_deeplab_s_os16_res641_100k_coco_train"
    row = published.published_checkpoints()[name]
    with running_server() as server:
        server.content = (tmp_path / "tiny.tar.gz").read_bytes()
        rows = {name: row._replace(url=server.url)}
        monkeypatch.setattr(published, "published_checkpoints", lambda: rows)
        command(download.main, [name])
    net = tiny_net()
    load_initial_weights(net, name)
    assert_golden_heads(net)


def test_backbone_from_imagenet(tmp_path: Path) -> None:
    path = write_tensorflow(
        tmp_path / "ckpt-60",
        backbone_variables() | {"backbone/_classifier/kernel": np.zeros((128, 10), np.float32)},
    )
    net, expected = tiny_net(), golden_net().state_dict()
    before = copied(net)
    report = load_initial_weights(net, path)
    slow = {name for name in before if name.startswith("backbone.")}
    assert set(report.loaded) == slow
    assert all(torch.equal(net.state_dict()[name], expected[name]) for name in slow)
    assert changed(net, before) == slow
    assert set(report.initialised.values()) == {"nothing of it is in the file"}
    assert report.left_out == {"backbone/_classifier/kernel": "the model has no such part"}


@pytest.mark.parametrize(("channels", "class_channels"), [(19, 20), (134, 101), (10, 10)])
def test_other_classes_keep_two_layers(
    checkpoint: Path, channels: int, class_channels: int
) -> None:
    net = tiny_net(channels=channels, class_channels=class_channels)
    before = copied(net)
    report = load_initial_weights(net, checkpoint)
    layers = {"heads.class_head", "heads.semantic_head.predict"}
    if channels == 134:
        layers = {"heads.class_head"}
    kept = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(report.initialised) == kept
    assert changed(net, before) == set(before) - kept
    with pytest.raises(UserError, match="another model or data set"):
        load_trained_weights(net, checkpoint)


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("model.net.transformer_channels.stage5=16", "transformers.backbone.stage5"),
        ("~model.net.transformer_channels.decoder", "_stage5_extra/_block1_transformer"),
        ("+model.net.transformer_channels.stage4=32", "transformers.backbone.stage4.0"),
        ("model.net.extra_stages.blocks=[1,1,2]", "extra_stages.stages.2.blocks.1"),
        ("model.net.embedding_channels=8", "heads.mask_head"),
        ("model.net.memory_channels=32", "memory is .* in the file but"),
    ],
)
def test_other_architectures_are_refused(checkpoint: Path, override: str, name: str) -> None:
    net = tiny_net(override)
    before = copied(net)
    with pytest.raises(UserError, match=f"another architecture.*{name}"):
        load_initial_weights(net, checkpoint)
    assert changed(net, before) == set()


def test_panoptic_deeplab_on_the_same_backbone(checkpoint: Path) -> None:
    backbone = [line for line in OVERRIDES if line.startswith("model.backbone.")]
    model = model_config(("model=max_deeplab_s_backbone", *backbone))
    net = build_on_meta(model, 19).to_empty(device="cpu")
    report = load_initial_weights(net, checkpoint, backbone_only=True)
    assert set(report.loaded) == {n for n in net.state_dict() if n.startswith("backbone.")}
    assert report.left_out["encoder/memory_feature"] == "the model has no such part"
    transformer = "encoder/_stage5/_block1_transformer/_memory_ffn_conv1_bn_act/_conv/kernel"
    assert report.left_out[transformer] == "the model has no such part"


def write_index(prefix: Path, variables: Mapping[str, list[int]]) -> None:
    """A float32 checkpoint whose data, 0.3 to 1.8 GB, are a hole in the file."""
    rows, offset = {b"": bundle_writer.header()}, 0
    for name, shape in variables.items():
        content = range(4 * int(np.prod(shape)))  # only its length counts
        key = (name + SUFFIX).encode()
        rows[key] = bundle_writer.entry(1, tuple(shape), 0, offset, content, bytes(4))
        offset += len(content)
    Path(f"{prefix}.index").write_bytes(bundle_writer.sstable(rows))
    with Path(f"{prefix}.data-00000-of-00001").open("wb") as data:
        data.truncate(offset)


@pytest.mark.parametrize("name", [*MAX_DEEPLAB, *KMAX])
def test_full_size_is_recognised(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_writer, "bytewise_crc32c", google_crc32c.value)
    monkeypatch.setattr(convert, "choices", lambda _group: ALIKE)
    variables = {row[0].removesuffix(SUFFIX): row[1] for row in manifest(name)["variables"]}
    write_index(tmp_path / "ckpt-1", variables)
    channels = head_channels(tmp_path)
    assert channels == ((19, 20) if name.endswith("cityscapes") else (134, 134))
    found = convert.find_model(tmp_path, channels)
    assert found.name == (MAX_DEEPLAB | KMAX)[name].overrides[0].removeprefix("model=")
    assert set(variable_names(found.net).values()) == set(variables)


def test_class_channels_are_those_of_the_file(tmp_path: Path) -> None:
    heads = {
        "semantic_last_layer/bias": np.zeros(19, np.float32),
        "transformer_class_head/_conv/bias": np.zeros(20, np.float32),
    }
    assert head_channels(write_tensorflow(tmp_path / "ckpt-1", heads)) == (19, 20)
