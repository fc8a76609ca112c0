"""R(2+1)D: a video ResNet whose 3D convolutions are split into a spatial and a temporal one.

Source: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition",
arXiv 1711.11248. Layout and key names are those of torchvision's `r2plus1d_18`, so that weights
trained with it fit. The feature of a clip is the maximum of the last map over its positions, as the
joint multimodal transformer takes it (arXiv 2403.10488).

Shape letters: B batch, T frame, C channel, H height, W width, D feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

RGB = 3

DEAD_KEYS = ("r2plus1d.fc.*",)
"""Keys of a reference checkpoint that reach no output: its head is replaced by the identity."""


def _mid_width(n_in: int, n_out: int) -> int:
    """Channels between the two halves that keep a 3x3x3 convolution's parameter count (section 3.5)."""
    return (n_in * n_out * 3 * 3 * 3) // (n_in * 3 * 3 + 3 * n_out)


def _spatial(n_in: int, n_out: int, kernel: int, stride: int) -> nn.Conv3d:
    """A convolution inside each frame."""
    padding = (0, kernel // 2, kernel // 2)
    return nn.Conv3d(n_in, n_out, (1, kernel, kernel), (1, stride, stride), padding, bias=False)


def _temporal(n_in: int, n_out: int, stride: int) -> nn.Conv3d:
    """A convolution over three frames, each pixel for itself."""
    return nn.Conv3d(n_in, n_out, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False)


def _conv2plus1d(n_in: int, n_out: int, n_mid: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _spatial(n_in, n_mid, 3, stride),
        nn.BatchNorm3d(n_mid),
        nn.ReLU(inplace=True),
        _temporal(n_mid, n_out, stride),
    )


class _Block(nn.Module):
    """Residual block of two (2+1)D convolutions."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        # both convolutions take the middle width of the first one, as the published weights do
        n_mid = _mid_width(n_in, n_out)
        self.conv1 = nn.Sequential(
            _conv2plus1d(n_in, n_out, n_mid, stride), nn.BatchNorm3d(n_out), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(_conv2plus1d(n_out, n_out, n_mid, 1), nn.BatchNorm3d(n_out))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or n_in != n_out:
            shortcut = nn.Conv3d(n_in, n_out, 1, (stride, stride, stride), bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T/stride, H/stride, W/stride), not negative."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(self.conv2(self.conv1(x)) + shortcut)  # (B, C', T', H', W')
        return y


class _VideoResNet(nn.Module):
    """Stem and four layers; every layer but the first halves time, height and width."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], stem_width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _spatial(RGB, stem_width, 7, 2),
            nn.BatchNorm3d(stem_width),
            nn.ReLU(inplace=True),
            _temporal(stem_width, widths[0], 1),
            nn.BatchNorm3d(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.layer1 = self._layer(widths[0], widths[0], blocks[0], 1)
        self.layer2 = self._layer(widths[0], widths[1], blocks[1], 2)
        self.layer3 = self._layer(widths[1], widths[2], blocks[2], 2)
        self.layer4 = self._layer(widths[2], widths[3], blocks[3], 2)

    @staticmethod
    def _layer(n_in: int, n_out: int, n_blocks: int, stride: int) -> nn.Sequential:
        rest = [_Block(n_out, n_out, 1) for _ in range(n_blocks - 1)]
        return nn.Sequential(_Block(n_in, n_out, stride), *rest)

    def forward(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, D, T/8, H/16, W/16), sizes rounded up."""
        x: Tensor = self.stem(clip)  # (B, C1, T, H/2, W/2)
        x = self.layer1(x)  # (B, C1, T, H/2, W/2)
        x = self.layer2(x)  # (B, C2, T/2, H/4, W/4)
        x = self.layer3(x)  # (B, C3, T/4, H/8, W/8)
        x = self.layer4(x)  # (B, D, T/8, H/16, W/16)
        return x


class R2Plus1D(nn.Module):
    """A clip of faces to one feature.

    Args:
        widths: Channels of the four layers; the last is the feature's size D.
        blocks: Residual blocks of each layer.
        stem_width: Channels between the stem's spatial and temporal halves.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (2, 2, 2, 2),
        stem_width: int = 45,
    ) -> None:
        super().__init__()
        self.r2plus1d = _VideoResNet(widths, blocks, stem_width)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip: Tensor) -> Tensor:
        """Encode a clip.

        Args:
            clip: (B, 3, T, H, W), channels R, G, B, normalised as the model declares.

        Returns:
            Feature (B, D), not negative.
        """
        feature_map = self.r2plus1d(clip)  # (B, D, T/8, H/16, W/16)
        return torch.amax(feature_map, dim=(2, 3, 4))  # (B, D)
