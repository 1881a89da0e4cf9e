"""The published Panoptic-DeepLab models: our configurations, the authors' lists of variables."""

import gzip
import json
from functools import cache
from typing import NamedTuple

import torch
from golden_data import GOLDENS
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from axialseg.config import conf_dir


class PublishedModel(NamedTuple):
    """One of deeplab2's configurations.

    Attributes:
        overrides: ours for it.
        semantic_channels: of its semantic head.
    """

    overrides: tuple[str, ...]
    semantic_channels: int


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


@cache
def manifest(name: str) -> dict:
    """The authors' list of variables, parameter counts and multiply-adds."""
    path = GOLDENS / "manifest" / f"{name}.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))


def model_config(overrides: tuple[str, ...]) -> DictConfig:
    """The `model` node of a configuration."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        choices = [f"+{line}" if line.startswith("model=") else line for line in overrides]
        return compose(overrides=choices).model


def build_on_meta(model: DictConfig, semantic_channels: int) -> nn.Module:
    """The network without memory for its weights, in evaluation mode."""
    with torch.device("meta"):
        backbone = instantiate(model.backbone)
        net = instantiate(model.net, backbone=backbone, semantic_channels=semantic_channels)
    return net.eval()


def published_on_meta(name: str) -> nn.Module:
    """A published model on the meta device."""
    published = PUBLISHED[name]
    return build_on_meta(model_config(published.overrides), published.semantic_channels)
