"""What a network needs of its backbone. Any `nn.Module` of this form will do; inherit from nothing.

YAML names a backbone of another package by its `_target_`, and the other keys are the arguments of
its constructor. Three more things are agreed on:

* Checkpoints: a network has its backbone as the child `backbone`, and a file may hold the backbone
  alone. Names of parameters must not change, because old files have them.
* Rates: `schedule.parameter_groups.backbone_lr_multiplier` is for all of its parameters.
* Drop path: a backbone drops its own blocks. A transformer that MaX-DeepLab puts behind a block
  drops as often as that block, if it has `drop_path.keep_probability`. Else it drops nothing.
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from axialseg.decoders.stacked import AfterBlock, StackedDecoder

T = TypeVar("T")


class Backbone(Protocol):
    """What Panoptic-DeepLab, MaX-DeepLab and classifiers need. `ResidualNetwork` is one.

    Attributes:
        channels: channels of each feature by name, from the finest to the deepest. The decoders
            read ``res2`` (stride 4), ``res3`` (8) and ``res5`` (the deepest); more may be there.
        strides: image pixels from one position of each feature to the next, by the same names.
    """

    channels: Mapping[str, int]
    strides: Mapping[str, int]

    def __call__(self, image: Tensor, valid: Tensor | None = None) -> Mapping[str, Tensor]:
        """Computes the features.

        Args:
            image: ``[B, 3, H, W]`` RGB, uint8 or float, 0..255. The backbone normalises it, see
                `axialseg.layers.normalize.normalize_image`.
            valid: bool ``[B, H, W]``, False at padding; None if nothing was padded. What the
                padding holds must not change the features.

        Returns:
            Each ``[B, channels[name], h, w]``, activated, with h = (H - 1) // stride + 1: position
            i lies on pixel i * stride.
        """
        ...


@runtime_checkable
class MemoryBackbone(Backbone, Protocol):
    """A backbone that lets MaX-DeepLab's memory look at its blocks; any other keeps it outside.

    Attributes:
        stages: blocks by name of the stage (``stage4`` gives ``res4``).
        stacked_decoder: more stages that were pre-trained with the backbone; None for none.
    """

    stages: Any  # nn.ModuleDict, or Mapping[str, Iterable[nn.Module]]
    stacked_decoder: StackedDecoder | None

    def raw_stages(
        self, image: Tensor, valid: Tensor | None = None, after_block: AfterBlock | None = None
    ) -> Mapping[str, Tensor]:
        """The features before their ReLU, by name of the stage; `after_block` runs in between."""
        ...

    def decoder_block(self, in_channels: int, channels: int, stride: int) -> nn.Module:
        """A block for further decoder stages at a stride; see `BlockFactory`."""
        ...


@runtime_checkable
class RawBackbone(Backbone, Protocol):
    """A backbone that gives its features before their activation too; kMaX-DeepLab reads them."""

    def raw_stages(self, image: Tensor, valid: Tensor | None = None) -> Mapping[str, Tensor]:
        """The features before their activation, by name of the stage."""
        ...

    def activated(self, raw_stages: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The features of what `raw_stages` returns, as the backbone itself gives them."""
        ...


@runtime_checkable
class PretrainedBackbone(Backbone, Protocol):
    """A backbone that has weights of its own to start from, which are not in a checkpoint of ours.

    Attributes:
        pretrained: whether training starts from them.
    """

    pretrained: bool

    def load_pretrained(self) -> str:
        """Takes these weights and says what they are; raises ValueError if it has none."""
        ...


def records_by_stride(values: Mapping[str, T], strides: Mapping[str, int]) -> dict[int, list[T]]:
    """What a `StackedDecoder` starts from: of several features at one stride the deepest.

    Args:
        values: tensors, or channels, of the features by name.
        strides: as of `Backbone`.
    """
    return {stride: [values[name]] for name, stride in strides.items()}


def keep_probability(block: nn.Module) -> float:
    """How often a block keeps its residual branch in training; 1 for a block without drop path."""
    return getattr(getattr(block, "drop_path", None), "keep_probability", 1.0)
