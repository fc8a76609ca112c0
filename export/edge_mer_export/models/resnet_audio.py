"""A ResNet on log-mel spectrograms.

Source: He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385, with one input
channel, as the audio backbone of the joint multimodal transformer (arXiv 2403.10488). Layout and key
names are those of torchvision's `resnet18`, so that weights trained with it fit.

Shape letters: B batch, C channel, H mel band, W column, D feature.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edge_mer_export.models.shapes import Shapes, n_numbered, size

DEAD_KEYS = ("resnet.fc.*",)
"""Keys of a reference checkpoint that reach no output: its head is replaced by the identity."""


def _conv3x3(n_in: int, n_out: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)


class _Block(nn.Module):
    """Residual block of two 3x3 convolutions."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(n_in, n_out, stride)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(n_out, n_out, 1)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or n_in != n_out:
            shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/stride, W/stride), not negative."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))  # (B, C', H', W')
        y = self.bn2(self.conv2(y))  # (B, C', H', W')
        out: Tensor = self.relu(y + shortcut)
        return out


class _ResNet(nn.Module):
    """Stem and four layers; every layer but the first halves height and width."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._layer(widths[0], widths[0], blocks[0], 1)
        self.layer2 = self._layer(widths[0], widths[1], blocks[1], 2)
        self.layer3 = self._layer(widths[1], widths[2], blocks[2], 2)
        self.layer4 = self._layer(widths[2], widths[3], blocks[3], 2)

    @staticmethod
    def _layer(n_in: int, n_out: int, n_blocks: int, stride: int) -> nn.Sequential:
        rest = [_Block(n_out, n_out, 1) for _ in range(n_blocks - 1)]
        return nn.Sequential(_Block(n_in, n_out, stride), *rest)

    def forward(self, log_mel: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, D, H/32, W/32), sizes rounded up."""
        x: Tensor = self.relu(self.bn1(self.conv1(log_mel)))  # (B, C1, H/2, W/2)
        x = self.maxpool(x)  # (B, C1, H/4, W/4)
        x = self.layer1(x)  # (B, C1, H/4, W/4)
        x = self.layer2(x)  # (B, C2, H/8, W/8)
        x = self.layer3(x)  # (B, C3, H/16, W/16)
        x = self.layer4(x)  # (B, D, H/32, W/32)
        return x


class ResNetAudio(nn.Module):
    """A log-mel spectrogram to one feature.

    Args:
        widths: Channels of the four layers; the last is the feature's size D.
        blocks: Residual blocks of each layer.
    """

    def __init__(
        self, widths: Sequence[int] = (64, 128, 256, 512), blocks: Sequence[int] = (2, 2, 2, 2)
    ) -> None:
        super().__init__()
        self.n_features = widths[-1]
        self.resnet = _ResNet(widths, blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def like(cls, shapes: Shapes) -> ResNetAudio:
        """The network that a state_dict of these shapes belongs to."""
        layers = zip(range(1, 5), (64, 128, 256, 512), strict=True)
        return cls(
            [size(shapes, f"resnet.layer{i}.0.conv1.weight", 0, 4, default) for i, default in layers],
            [n_numbered(shapes, f"resnet.layer{i}.", 2) for i in range(1, 5)],
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        """Encode a spectrogram.

        Args:
            log_mel: (B, 1, H, W) in normalised dB; the columns W may be any number.

        Returns:
            Feature (B, D), not negative.
        """
        feature_map: Tensor = self.resnet(log_mel)  # (B, D, H/32, W/32)
        return feature_map.mean(dim=(2, 3))  # (B, D)
