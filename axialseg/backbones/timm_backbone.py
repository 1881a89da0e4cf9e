"""Networks of timm as backbones, with ImageNet weights from its hub if asked for.

Source: Wightman 2019, "PyTorch Image Models", `timm.create_model(..., features_only=True)`.

In networks that begin with patches (ConvNeXt, Swin), position i of a feature at stride s looks at
the s pixels from s * i on: half a stride beside pixel s * i. deeplab2's ConvNeXt does the same; the
layers of the decoders learn the shift.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from axialseg.layers.normalize import normalize_image

STRIDES = (4, 8, 16, 32)  # of res2 .. res5, unless `output_stride` is smaller


class TimmBackbone(nn.Module):
    """A network of timm without its head; see `Backbone`.

    Its features are given as the network has them: those of a ResNet are activated, those of a
    ConvNeXt or a transformer are not.

    Args:
        name: of the network, as in `timm.list_models()`; ``<name>.<tag>`` chooses weights.
        pretrained: whether `load_pretrained` is to be called where training starts.
        output_stride: stride of the deepest feature; less than 32 only for networks that timm can
            dilate.

    Attributes:
        channels: channels of each feature by name.
        strides: strides of each feature by name.

    Raises:
        ValueError: timm cannot be imported, there is no such network, or it has no features at the
            strides 4, 8, 16 and 32.
    """

    def __init__(self, name: str, pretrained: bool = False, output_stride: int = 32) -> None:
        super().__init__()
        self.name = name
        self.pretrained = pretrained
        self.output_stride = output_stride
        self.net = _network(name, output_stride)
        found = self.net.feature_info.get_dicts(["num_chs", "reduction"])
        strides = [int(feature["reduction"]) for feature in found]
        wanted = [min(stride, output_stride) for stride in STRIDES]
        if strides[-4:] != wanted:
            raise ValueError(
                f"the features of {name} are at strides {', '.join(map(str, strides))}, but the "
                f"decoders need {', '.join(map(str, wanted))}; choose another network of timm"
            )
        count = 5 if strides[-5:-4] == [2] else 4
        names = [f"res{number}" for number in range(6 - count, 6)]
        self.channels = {n: int(f["num_chs"]) for n, f in zip(names, found[-count:], strict=True)}
        self.strides = dict(zip(names, strides[-count:], strict=True))
        self.is_channels_last = str(getattr(self.net, "output_fmt", "")).endswith("NHWC")
        config = _timm().data.resolve_model_data_config(self.net)
        self.image_mean = tuple(255.0 * value for value in config["mean"])
        self.image_std = tuple(255.0 * value for value in config["std"])

    def load_pretrained(self) -> str:
        """Takes the weights of timm's hub, which are downloaded once.

        Returns:
            What was loaded, for the log.

        Raises:
            ValueError: timm has no weights for this network, or they cannot be fetched.
        """
        try:
            trained = _network(self.name, self.output_stride, pretrained=True)
        except Exception as error:  # of timm, the hub's client and its network library
            raise ValueError(
                f"the weights of {self.name} cannot be fetched ({error}); "
                "leave model.backbone.pretrained=false, or load them once where there is a network"
            ) from error
        self.net.load_state_dict(trained.state_dict())
        return f"The backbone starts from timm's {self.name}"

    def forward(self, image: Tensor, valid: Tensor | None = None) -> Mapping[str, Tensor]:
        """Computes the features.

        Args:
            image: ``[B, 3, H, W]`` RGB, uint8 or float, 0..255.
            valid: bool ``[B, H, W]``, False at padding; None if nothing was padded.

        Returns:
            ``res2`` .. ``res5``, and ``res1`` if the network has a feature at stride 2, each
            ``[B, channels[name], h, w]`` with h = (H - 1) // stride + 1.
        """
        dtype = next(self.net.parameters()).dtype
        x = normalize_image(image, valid, self.image_mean, self.image_std, dtype)
        height, width = x.shape[-2:]
        # Networks that begin with patches leave out what does not fill one.
        x = F.pad(x, (0, -width % STRIDES[-1], 0, -height % STRIDES[-1]))
        features = self.net(x)[-len(self.channels) :]
        if self.is_channels_last:
            features = [feature.movedim(-1, 1) for feature in features]
        return {
            name: feature[..., : (height - 1) // stride + 1, : (width - 1) // stride + 1]
            for (name, stride), feature in zip(self.strides.items(), features, strict=True)
        }


def _timm() -> Any:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # torchvision of another build raises the latter
        raise ValueError(
            f"timm cannot be imported ({error}); install it by pip install 'axialseg[timm]', and "
            "torchvision, which it needs, from where your torch comes from"
        ) from error
    return timm


def _network(name: str, output_stride: int, pretrained: bool = False) -> Any:
    """The network as `timm.create_model` gives it, for images of any size.

    A name with a colon would be read from a hub or a folder, in code that it may choose.
    """
    timm = _timm()
    if ":" in name or not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=1)
        hint = f"did you mean {near[0]}?" if near else "timm.list_models() tells all"
        raise ValueError(f"timm has no network {name!r}; {hint}")
    options: dict[str, Any] = {"pretrained": pretrained, "features_only": True}
    if output_stride != STRIDES[-1]:
        options["output_stride"] = output_stride
    try:
        try:  # networks with windows are strict about the size unless told not to be
            return timm.create_model(name, strict_img_size=False, **options)
        except TypeError:
            return timm.create_model(name, **options)
    except (TypeError, AssertionError, NotImplementedError) as error:
        if output_stride == STRIDES[-1]:
            raise
        raise ValueError(f"{name} has no output stride {output_stride}, only 32") from error
