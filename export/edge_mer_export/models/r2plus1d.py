"""R(2+1)D: a video ResNet whose 3D convolutions are split into a spatial and a temporal one.

Source: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition",
arXiv 1711.11248. Layout and key names are those of torchvision's `r2plus1d_18`, so that weights
trained with it fit. The feature of a clip is the maximum of the last map over its positions, or another
reduction that the joint multimodal transformer's code offers (arXiv 2403.10488).

Shape letters: B batch, T frame, C channel, H height, W width, P position, D feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from edge_mer_export.models.shapes import Shapes, n_numbered, size

RGB = 3

Reduction: TypeAlias = Literal["max", "mean", "flatten", "flatten_fc"]
"""How the last map becomes a feature: over its positions, or all of it, as it is or through a layer."""

Convolution: TypeAlias = Callable[[int, int, int, int], nn.Module]
"""Makes a block's convolution from its channels in, out and between its halves, and its stride."""

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
    """Residual block of two convolutions."""

    def __init__(self, conv: Convolution, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        # both convolutions take the middle width of the first one, as the published weights do
        n_mid = _mid_width(n_in, n_out)
        self.conv1 = nn.Sequential(
            conv(n_in, n_out, n_mid, stride), nn.BatchNorm3d(n_out), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(conv(n_out, n_out, n_mid, 1), nn.BatchNorm3d(n_out))
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


class VideoResNet(nn.Module):
    """Stem and four layers; every layer but the first halves time, height and width.

    Args:
        stem: Halves height and width, and leaves `widths[0]` channels.
        conv: Makes the convolutions of the blocks.
        widths: Channels of the four layers.
        blocks: Residual blocks of each layer.
    """

    def __init__(
        self, stem: nn.Sequential, conv: Convolution, widths: Sequence[int], blocks: Sequence[int]
    ) -> None:
        super().__init__()
        self.stem = stem
        self.layer1 = self._layer(conv, widths[0], widths[0], blocks[0], 1)
        self.layer2 = self._layer(conv, widths[0], widths[1], blocks[1], 2)
        self.layer3 = self._layer(conv, widths[1], widths[2], blocks[2], 2)
        self.layer4 = self._layer(conv, widths[2], widths[3], blocks[3], 2)

    @staticmethod
    def _layer(conv: Convolution, n_in: int, n_out: int, n_blocks: int, stride: int) -> nn.Sequential:
        rest = [_Block(conv, n_out, n_out, 1) for _ in range(n_blocks - 1)]
        return nn.Sequential(_Block(conv, n_in, n_out, stride), *rest)

    def forward(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, D, T/8, H/16, W/16), sizes rounded up."""
        x: Tensor = self.stem(clip)  # (B, C1, T, H/2, W/2)
        x = self.layer1(x)  # (B, C1, T, H/2, W/2)
        x = self.layer2(x)  # (B, C2, T/2, H/4, W/4)
        x = self.layer3(x)  # (B, C3, T/4, H/8, W/8)
        x = self.layer4(x)  # (B, D, T/8, H/16, W/16)
        return x


def init_convolutions(network: nn.Module) -> None:
    """Draw the weights of all convolutions, as torchvision does."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class R2Plus1D(nn.Module):
    """A clip of faces to one feature.

    Args:
        widths: Channels C of the four layers; the last is the feature's size D, unless it is flattened.
        blocks: Residual blocks of each layer.
        stem_width: Channels between the stem's spatial and temporal halves.
        reduce: How the last map becomes a feature.
        n_positions: Positions P of the last map, where it is flattened: 7 x 7 of a clip of 112 pixels
            and up to 8 frames.
        feature: Feature size D that "flatten_fc" gives.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (2, 2, 2, 2),
        stem_width: int = 45,
        reduce: Reduction = "max",
        n_positions: int = 49,
        feature: int = 512,
    ) -> None:
        super().__init__()
        self.reduce = reduce
        self.n_features = {"flatten": widths[-1] * n_positions, "flatten_fc": feature}.get(reduce, widths[-1])
        stem = nn.Sequential(
            _spatial(RGB, stem_width, 7, 2),
            nn.BatchNorm3d(stem_width),
            nn.ReLU(inplace=True),
            _temporal(stem_width, widths[0], 1),
            nn.BatchNorm3d(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.r2plus1d = VideoResNet(stem, _conv2plus1d, widths, blocks)
        init_convolutions(self)
        self.vision_r2d1_fc: nn.Linear | None = None
        if reduce == "flatten_fc":
            self.vision_r2d1_fc = nn.Linear(widths[-1] * n_positions, feature)

    @classmethod
    def like(cls, shapes: Shapes, reduce: Reduction | None = None) -> R2Plus1D:
        """The network that a state_dict of these shapes belongs to.

        Args:
            shapes: Shape by key.
            reduce: How the last map becomes a feature, which the shapes do not tell; None means
                "flatten_fc" if there are weights for it, else "max".
        """
        layers = zip(range(1, 5), (64, 128, 256, 512), strict=True)
        widths = [size(shapes, f"r2plus1d.layer{i}.0.conv1.0.3.weight", 0, 5, width) for i, width in layers]
        has_fc = "vision_r2d1_fc.weight" in shapes
        return cls(
            widths,
            [n_numbered(shapes, f"r2plus1d.layer{i}.", 2) for i in range(1, 5)],
            size(shapes, "r2plus1d.stem.0.weight", 0, 5, 45),
            reduce or ("flatten_fc" if has_fc else "max"),
            size(shapes, "vision_r2d1_fc.weight", 1, 2, 49 * widths[-1]) // max(1, widths[-1]),
            size(shapes, "vision_r2d1_fc.weight", 0, 2, 512),
        )

    def forward(self, clip: Tensor) -> Tensor:
        """Encode a clip.

        Args:
            clip: (B, 3, T, H, W), channels R, G, B, normalised as the model declares.

        Returns:
            Feature (B, D), not negative unless it went through a layer; "flatten" gives (B, C P),
            all positions of a channel side by side.
        """
        feature_map: Tensor = self.r2plus1d(clip)  # (B, C, T/8, H/16, W/16)
        if self.reduce == "max":
            return torch.amax(feature_map, dim=(2, 3, 4))  # (B, D)
        if self.reduce == "mean":
            return feature_map.mean(dim=(2, 3, 4))  # (B, D)
        flat = feature_map.flatten(1)  # (B, C P)
        if self.vision_r2d1_fc is None:
            return flat
        feature: Tensor = self.vision_r2d1_fc(flat)  # (B, D)
        return feature


def without_mask_channel(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict whose first convolution takes R, G and B only.

    The published face network was trained with a mask as fourth channel and is used without it.

    Args:
        state: Tensors by key, whatever stands before `stem.0.weight` in the first convolution's key.

    Returns:
        The same tensors, of the first convolution only its first three input channels.
    """
    return {
        key: value[:, :RGB].clone() if key.endswith("stem.0.weight") and value.dim() == 5 else value
        for key, value in state.items()
    }
