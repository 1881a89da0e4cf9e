"""The published models: our configurations, the authors' lists of variables and numbers."""

import gzip
import json
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from golden_data import GOLDENS, SUFFIX, assert_close, unit
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import nn

from axialseg.checkpoints.tensorflow.deeplab2 import to_torch_layout, variable_names
from axialseg.config.schema import conf_dir, register_schemas

Golden = dict[str, NDArray]


class PublishedModel(NamedTuple):
    """One of deeplab2's configurations.

    Attributes:
        overrides: ours for it.
        semantic_channels: of its semantic head.
        class_channels: classes and "no object", if that is another number.
    """

    overrides: tuple[str, ...]
    semantic_channels: int
    class_channels: int | None = None


PUBLISHED = {
    "resnet50_os32_cityscapes": PublishedModel(("model=panoptic_deeplab_resnet50",), 19),
    "resnet50_beta_os32_cityscapes": PublishedModel(("model=panoptic_deeplab_resnet50_beta",), 19),
    "resnet50_os16_coco": PublishedModel(
        (
            "model=panoptic_deeplab_resnet50",
            "model.backbone.output_stride=16",
            "model.postprocess.nms_kernel=41",
            "model.postprocess.stuff_area_limit=4096",
        ),
        134,
    ),
    "max_deeplab_s_backbone_os16_cityscapes": PublishedModel(("model=max_deeplab_s_backbone",), 19),
    "axial_swidernet_1_1_1_os16_cityscapes": PublishedModel(("model=axial_swidernet_1_1_1",), 19),
    "axial_swidernet_1_1_3_os16_cityscapes": PublishedModel(("model=axial_swidernet_1_1_3",), 19),
    "axial_swidernet_1_1_4.5_os16_cityscapes": PublishedModel(
        ("model=axial_swidernet_1_1_4.5",), 19
    ),
    "max_deeplab_l_backbone_os16_cityscapes": PublishedModel(("model=max_deeplab_l_backbone",), 19),
}

MAX_DEEPLAB = {
    "max_deeplab_s_os16_coco": PublishedModel(("model=max_deeplab_s",), 134),
    "max_deeplab_l_os16_coco": PublishedModel(("model=max_deeplab_l",), 134),
}

KMAX = {
    "kmax_r50_os32_coco": PublishedModel(("model=kmax_r50",), 134),
    "kmax_axial_r50_os32_coco": PublishedModel(("model=kmax_axial_r50",), 134),
    "kmax_axial_r50_os32_cityscapes": PublishedModel(
        ("model=kmax_axial_r50_cityscapes",), 19, class_channels=20
    ),
}


@cache
def manifest(name: str) -> dict:
    """The authors' list of variables, parameter counts and multiply-adds."""
    path = GOLDENS / "manifest" / f"{name}.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))


def model_config(overrides: tuple[str, ...]) -> DictConfig:
    """The `model` node of a configuration."""
    register_schemas()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        choices = [f"+{line}" if line.startswith("model=") else line for line in overrides]
        return compose(overrides=choices).model


def build_on_meta(
    model: DictConfig, semantic_channels: int, class_channels: int | None = None
) -> nn.Module:
    """The network without memory for its weights, in evaluation mode."""
    classes = {} if class_channels is None else {"class_channels": class_channels}
    with torch.device("meta"):
        backbone = instantiate(model.backbone)
        net = instantiate(
            model.net, backbone=backbone, semantic_channels=semantic_channels, **classes
        )
    return net.eval()


def published_on_meta(name: str) -> nn.Module:
    """A published model on the meta device."""
    published = (PUBLISHED | MAX_DEEPLAB | KMAX)[name]
    model = model_config(published.overrides)
    return build_on_meta(model, published.semantic_channels, published.class_channels)


def filled_by_rule(name: str) -> nn.Module:
    """The model with the weights of the rule; each tensor is made once, straight in its place."""
    net = published_on_meta(name)
    rows = {row[0].removesuffix(SUFFIX): row for row in manifest(name)["variables"]}
    own = net.state_dict()
    state = {}
    for ours, theirs in variable_names(net).items():
        key, shape, _dtype, _kind, _trainable, offset, scale = rows[theirs]
        weights = unit(key, tuple(shape))
        weights *= 2  # in place, as the largest models are 2.3 GB
        weights -= 1
        weights *= np.float32(scale)
        weights += np.float32(offset)
        state[ours] = torch.from_numpy(to_torch_layout(theirs, weights, tuple(own[ours].shape)))
    net.load_state_dict(state, assign=True)
    return net


def check_tensors(values: Golden, golden: Golden) -> set[str]:
    """Compares arrays ``[B, H, W, C]`` with what the goldens keep of them; returns their keys."""
    keys = {key for key in golden if key.partition("|")[0] in values}
    for key in keys:
        what, _, form = key.partition("|")
        actual = reduced(values[what], form)
        assert_close(actual.reshape(golden[key].shape), golden[key], key)
    return keys


def reduced(value: NDArray, form: str) -> NDArray:
    """What a golden keeps of an array ``[B, H, W, C]``."""
    if form == "mean_hw":
        return value.mean((1, 2), dtype=np.float64)
    if form == "absmean_hw":
        return np.abs(value).mean((1, 2), dtype=np.float64)
    step = int(form.removeprefix("channels[::").removesuffix("]")) if form else 1
    return value[..., ::step]
