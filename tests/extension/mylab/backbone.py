"""A backbone: five strided convolutions, plain PyTorch. See `axialseg.backbones.backbone`."""

from torch import Tensor, nn


class StridedConvolutions(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        names = ["res1", "res2", "res3", "res4", "res5"]
        self.channels = dict.fromkeys(names, width)
        self.strides = {name: 2**number for number, name in enumerate(names, start=1)}
        self.layers = nn.ModuleList()
        for number in range(5):
            convolution = nn.Conv2d(width if number else 3, width, 3, stride=2, padding=1)
            self.layers.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))

    def forward(self, image: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        x = image.float() / 127.5 - 1.0
        if valid is not None:
            x = x * valid.unsqueeze(1)
        features = {}
        for name, layer in zip(self.channels, self.layers, strict=True):
            x = features[name] = layer(x)
        return features
