"""A backbone that knows nothing of ours works in every model."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from axialseg.backbones.backbone import MemoryBackbone
from axialseg.checkpoints.initial import load_initial_weights
from axialseg.decoders.context import NoContext
from axialseg.decoders.panoptic_deeplab import PanopticDeepLabDecoder
from axialseg.decoders.stacked import StackedDecoder
from axialseg.layers.dual_path_transformer import DualPathTransformer
from axialseg.models.image_classifier import ImageClassifier
from axialseg.models.max_deeplab import MaxDeepLab
from axialseg.models.panoptic_deeplab import PanopticDeepLab
from axialseg.optim.param_groups import parameter_groups

decoder = partial(PanopticDeepLabDecoder, context=NoContext, channels=8, projections=[4, 4])


class Plain(nn.Module):
    """Strided convolutions, one a feature; plain torch."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        names = [f"res{number}" for number in range(1, 6)]
        self.channels = dict.fromkeys(names, width)
        self.strides = {name: 2 ** (n + 1) for n, name in enumerate(names)}
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width if n else 3, width, 3, stride=2, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )
            for n in range(5)
        )

    def forward(self, image: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        x = image.float() / 127.5 - 1.0
        x = x if valid is None else x * valid[:, None]
        features = {}
        for name, layer in zip(self.channels, self.layers, strict=True):
            x = features[name] = layer(x)
        return features


class Open(Plain):
    """Lets the memory look at its last stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = {"stage5": [self.layers[4]]}
        self.stacked_decoder = None

    def raw_stages(
        self,
        image: Tensor,
        valid: Tensor | None = None,
        after_block: Callable[[str, int, Tensor], Tensor] | None = None,
    ) -> Mapping[str, Tensor]:
        stages = {n.replace("res", "stage"): x for n, x in self(image, valid).items()}
        if after_block is not None:
            stages["stage5"] = after_block("stage5", 0, stages["stage5"])
        return stages

    def decoder_block(self, in_channels: int, channels: int, stride: int) -> nn.Module:
        return nn.Conv2d(in_channels, channels, 3, padding=1)


def panoptic_deeplab(backbone: nn.Module) -> PanopticDeepLab:
    return PanopticDeepLab(backbone, 5, decoder, decoder, 8, 8)


def max_deeplab(backbone: nn.Module, **channels: int) -> MaxDeepLab:
    return MaxDeepLab(
        backbone,
        semantic_channels=5,
        extra_stages=partial(StackedDecoder, strides=[32, 16, 8, 4], blocks=[1, 1, 1, 1]),
        transformer=partial(DualPathTransformer, heads=2, feed_forward_channels=8),
        transformer_channels=channels or {"decoder": 8},
        semantic_decoder=decoder,
        memory_channels=8,
        slots=4,
        slot_channels=8,
        embedding_channels=8,
        pixel_head_channels=8,
        semantic_head_channels=8,
    )


def classifier(backbone: nn.Module) -> ImageClassifier:
    return ImageClassifier(backbone, 5)


def open_max_deeplab(backbone: nn.Module) -> MaxDeepLab:
    return max_deeplab(backbone, stage5=8, decoder=8)


@pytest.mark.parametrize(
    ("model", "backbone"),
    [
        (panoptic_deeplab, Plain),
        (classifier, Plain),
        (max_deeplab, Plain),
        (max_deeplab, Open),
        (open_max_deeplab, Open),
    ],
)
def test_two_steps(model: Callable[..., nn.Module], backbone: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = model(backbone())
    optimizer = torch.optim.SGD(parameter_groups(net, 0.01, backbone_lr_multiplier=0.1))
    image = torch.randint(0, 256, (2, 3, 65, 97), dtype=torch.uint8)
    valid = torch.ones(2, 65, 97, dtype=torch.bool)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    for _ in range(2):
        outputs = net(image, valid)
        heads = [outputs] if isinstance(outputs, Tensor) else outputs
        optimizer.zero_grad()
        sum(head.square().mean() + head.mean() for head in heads).backward()
        optimizer.step()
    moved = {name for name, value in net.named_parameters() if not torch.equal(value, before[name])}
    assert {f"backbone.layers.{number}.0.weight" for number in range(5)} <= moved
    assert all(torch.isfinite(value).all() for value in net.parameters())
    assert isinstance(net.backbone, MemoryBackbone) == (backbone is Open)


def test_the_memory_changes_what_it_looks_at() -> None:
    torch.manual_seed(0)
    net = open_max_deeplab(Open()).eval()
    assert {*net.transformers["backbone"]} == {"stage5"}
    assert {*net.transformers["extra"]} == {"stage1"}
    image = torch.rand(1, 3, 33, 33) * 255
    calls: list[Tensor] = []
    net.transformers["backbone"]["stage5"]["0"].register_forward_pre_hook(
        lambda _module, inputs: calls.append(inputs[0])
    )
    net(image)
    torch.testing.assert_close(calls[0], net.backbone(image)["res5"])


def test_memory_cannot_look_into_a_plain_backbone() -> None:
    with pytest.raises(ValueError, match="names stage5, but the memory can look into decoder only"):
        max_deeplab(Plain(), stage5=8)


def test_weights_of_the_backbone_alone(tmp_path: Path) -> None:
    file = tmp_path / "plain.pth"
    source = Plain()
    torch.save(source.state_dict(), file)
    net = max_deeplab(Plain())
    report = load_initial_weights(net, file)
    assert len(report.loaded) == len(source.state_dict())
    assert torch.equal(net.backbone.layers[3][0].weight, source.layers[3][0].weight)
