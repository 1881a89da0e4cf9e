"""The real TensorFlow checkpoint of the tests, its model, and other forms of the same weights."""

import shutil
import tarfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import bundle_writer
import google_crc32c
import numpy as np
import pytest
import torch
from golden_data import arrays, assert_close, nhwc, rule_image
from numpy.typing import NDArray
from omegaconf import DictConfig
from published_models import build_on_meta, model_config
from torch import Tensor, nn

from axialseg.checkpoints.convert import convert
from axialseg.checkpoints.tensorflow.tensor_bundle import VARIABLE_SUFFIX, TensorBundle, variables

PREFIX = Path(__file__).parent / "goldens" / "checkpoint" / "ckpt-1"
MODEL = "model=axial_swidernet_tiny"
OUTPUTS = {"semantic": "semantic_logits", "center": "center_heatmap", "offset": "offset_map"}
IMAGENET_ENCODER = "backbone/_encoder/"


def tiny_net(*overrides: str, classes: int = 19) -> nn.Module:
    """The checkpoint's model with weights of chance; overrides make it another."""
    torch.manual_seed(0)
    net = build_on_meta(_config(MODEL, *overrides), classes).to_empty(device="cpu")
    for value in net.state_dict().values():
        value.uniform_(0.5, 1.5)
    return net


@cache
def _config(*overrides: str) -> DictConfig:
    return model_config(overrides)


def state(net: nn.Module) -> dict[str, Tensor]:
    """A copy of all tensors."""
    return {name: value.clone() for name, value in net.state_dict().items()}


def assert_golden_outputs(net: nn.Module) -> None:
    """The outputs of the authors' model with the checkpoint's weights."""
    image = rule_image("golden/tiny_axial_swidernet", 2, 65, 97)[:1]
    with torch.inference_mode():
        heads = net.eval()(image).resized((65, 97))
    for ours, theirs in OUTPUTS.items():
        actual = nhwc(getattr(heads, ours))
        actual = actual[..., 0] if ours == "center" else actual
        assert_close(actual, arrays("tiny_axial_swidernet")[f"after/{theirs}"], theirs)


def tensorflow_variables() -> dict[str, NDArray]:
    """The checkpoint's variables by name."""
    bundle = TensorBundle(PREFIX)
    return {name: bundle.read(entry.key) for name, entry in variables(bundle).entries.items()}


def write_tensorflow(prefix: Path, values: Mapping[str, NDArray]) -> Path:
    """A TensorFlow checkpoint of such variables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bundle_writer, "bytewise_crc32c", google_crc32c.value
        )  # which is tested, and quick
        keys = {name + VARIABLE_SUFFIX: value for name, value in values.items()}
        bundle_writer.write_bundle(prefix, keys)
    return prefix


def imagenet_variables() -> dict[str, NDArray]:
    """The backbone as in the authors' classifiers, with a classification layer."""
    values = {
        name.replace("encoder/", IMAGENET_ENCODER): value
        for name, value in tensorflow_variables().items()
        if name.startswith("encoder/")
    }
    return values | {"backbone/_classifier/kernel": np.zeros((128, 10), np.float32)}


def as_archive(folder: Path) -> Path:
    """A .tar.gz as the authors publish them."""
    archive = folder / "tiny.tar.gz"
    with tarfile.open(archive, "w:gz") as content:
        content.add(PREFIX.parent, "tiny_model")
    return archive


def as_folder(folder: Path) -> Path:
    """The checkpoint's folder."""
    return shutil.copytree(PREFIX.parent, folder / "folder")


def as_safetensors(folder: Path) -> Path:
    """Converted."""
    convert(PREFIX, folder / "tiny.safetensors", tiny_net(), {"model": "tiny"})
    return folder / "tiny.safetensors"


def as_run_checkpoint(folder: Path) -> Path:
    """As Lightning saves it, with the state of an optimiser."""
    net = imported()
    content = {
        "state_dict": {f"net.{name}": value for name, value in net.state_dict().items()},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "global_step": 1,
        "epoch": 0,
    }
    content["state_dict"]["loss.scale"] = torch.ones(())
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def as_state_dict(folder: Path) -> Path:
    """Nothing but the weights."""
    torch.save(imported().state_dict(), folder / "tiny.pth")
    return folder / "tiny.pth"


def as_old_state_dict(folder: Path) -> Path:
    """In the form that torch wrote before 1.6."""
    path = folder / "old.pth"
    torch.save(imported().state_dict(), path, _use_new_zipfile_serialization=False)
    return path


def imported() -> nn.Module:
    """The model with the checkpoint's weights."""
    from axialseg.checkpoints.initial import load_trained_weights

    net = tiny_net()
    load_trained_weights(net, PREFIX)
    return net


FORMS: dict[str, Callable[[Path], Path]] = {
    "prefix": lambda folder: PREFIX,
    "index": lambda folder: PREFIX.with_name("ckpt-1.index"),
    "folder": as_folder,
    "archive": as_archive,
    "safetensors": as_safetensors,
    "run": as_run_checkpoint,
    "state_dict": as_state_dict,
    "old_state_dict": as_old_state_dict,
}
