"""Inflated Inception: a video network of 3D convolutions, then a temporal convolutional network.

Source: Carreira and Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset",
arXiv 1705.07750, without any stride in time, followed by a temporal network over its steps, as the joint
multimodal transformer (arXiv 2403.10488) and joint cross-attention (arXiv 2203.14779) use it. Key names
are those of the published code, so that a user's weights fit.

Shape letters: B batch, T frame, C channel, H height, W width, S step (T - 1), D feature.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_mer_export.models import tcn
from edge_mer_export.models.shapes import Shapes, size, under
from edge_mer_export.models.tcn import TemporalConvNet

RGB = 3
SIDE = 224
"""Height and width that the convolutions see."""

STEM_WIDTHS = (64, 64, 192)
MIXED_WIDTHS = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
"""Channels of the six convolutions of each Inception module, in the order of `_BRANCHES`."""

DEAD_KEYS = ("i3d_WSDDA.logits.*", "predictions.*", "vregressor.*", "aregressor.*", "regressor.*")
"""Keys of a reference checkpoint that reach no output: the heads it was trained with."""

_STEM = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
_MIXED = tuple(f"Mixed_{name}" for name in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"))
_BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")

_Size = tuple[int, int, int]


def _same_padding(kernel: _Size, stride: _Size) -> tuple[_Size, nn.Module]:
    """Padding on both sides, and a layer for the rest, so that each size n becomes n / stride.

    The n must be multiples of the stride; the rest, at most one, lies behind.
    """
    t, h, w = (max(k - s, 0) for k, s in zip(kernel, stride, strict=True))
    # zeros are no larger than what a max pool reads, which has passed a ReLU
    rest = nn.ConstantPad3d((0, w % 2, 0, h % 2, 0, t % 2), 0.0)
    return (t // 2, h // 2, w // 2), rest if any(rest.padding) else nn.Identity()


class _Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        kernels, strides = (kernel, kernel, kernel), (1, stride, stride)
        padding, self.pad = _same_padding(kernels, strides)
        self.conv3d = nn.Conv3d(n_in, n_out, kernels, strides, padding, bias=False)
        self.bn = nn.BatchNorm3d(n_out, eps=1e-3, momentum=0.01)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T, H/stride, W/stride), not negative."""
        y: Tensor = self.relu(self.bn(self.conv3d(self.pad(x))))
        return y


def _pool(kernel: _Size, stride: int) -> nn.Sequential:
    strides = (1, stride, stride)
    padding, rest = _same_padding(kernel, strides)
    return nn.Sequential(rest, nn.MaxPool3d(kernel, strides, padding))


class _Mixed(nn.Module):
    """Inception module: four branches side by side."""

    def __init__(self, n_in: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.b0 = _Unit(n_in, widths[0], 1)
        self.b1a = _Unit(n_in, widths[1], 1)
        self.b1b = _Unit(widths[1], widths[2], 3)
        self.b2a = _Unit(n_in, widths[3], 1)
        self.b2b = _Unit(widths[3], widths[4], 3)
        self.b3a = _pool((3, 3, 3), 1)
        self.b3b = _Unit(n_in, widths[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T, H, W), not negative."""
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(branches, dim=1)  # (B, C', T, H, W)


def _n_out(widths: Sequence[int]) -> int:
    """Channels C' of an Inception module."""
    return widths[0] + widths[2] + widths[4] + widths[5]


def _inception(stem: Sequence[int], mixed: Sequence[Sequence[int]]) -> nn.Sequential:
    """(B, 3, T, H, W) -> (B, C, T, H/32, W/32)."""
    inputs = (stem[2], *(_n_out(widths) for widths in mixed[:-1]))
    modules = {name: _Mixed(n_in, widths) for name, n_in, widths in zip(_MIXED, inputs, mixed, strict=True)}
    layers = OrderedDict[str, nn.Module]()
    layers["Conv3d_1a_7x7"] = _Unit(RGB, stem[0], 7, stride=2)
    layers["MaxPool3d_2a_3x3"] = _pool((1, 3, 3), 2)
    layers["Conv3d_2b_1x1"] = _Unit(stem[0], stem[1], 1)
    layers["Conv3d_2c_3x3"] = _Unit(stem[1], stem[2], 3)
    layers["MaxPool3d_3a_3x3"] = _pool((1, 3, 3), 2)
    layers |= {name: modules[name] for name in _MIXED[:2]}
    layers["MaxPool3d_4a_3x3"] = _pool((3, 3, 3), 2)
    layers |= {name: modules[name] for name in _MIXED[2:7]}
    layers["MaxPool3d_5a_2x2"] = _pool((2, 2, 2), 2)
    layers |= {name: modules[name] for name in _MIXED[7:]}
    return nn.Sequential(layers)


class I3D(nn.Module):
    """A clip of faces to one feature.

    Args:
        stem: Channels of the three convolutions before the first Inception module.
        mixed: Channels of the six convolutions of each of the nine Inception modules.
        temporal_channels: Channels of the temporal network's blocks; the last is the feature's size D.
        temporal_kernel: Steps that a convolution of the temporal network reads.
        upsample: Enlarge each frame to 224 x 224; otherwise frames come at that size.
    """

    def __init__(
        self,
        stem: Sequence[int] = STEM_WIDTHS,
        mixed: Sequence[Sequence[int]] = MIXED_WIDTHS,
        temporal_channels: Sequence[int] = tcn.CHANNELS,
        temporal_kernel: int = tcn.KERNEL_SIZE,
        upsample: bool = True,
    ) -> None:
        super().__init__()
        self.i3d_WSDDA = _inception(stem, mixed)
        self.pool = nn.AvgPool3d((2, SIDE // 32, SIDE // 32), stride=1)
        self.temporal = TemporalConvNet(_n_out(mixed[-1]), temporal_channels, temporal_kernel)
        self.upsample = upsample
        self.n_features = temporal_channels[-1]

    @classmethod
    def like(cls, shapes: Shapes, upsample: bool = True) -> I3D:
        """The network with the sizes of a state_dict's `shapes`; what they do not tell is as published.

        Args:
            shapes: Shape by key.
            upsample: As for the network itself.
        """
        conv = "i3d_WSDDA.{}.conv3d.weight"
        stem = [
            size(shapes, conv.format(name), 0, 5, width)
            for name, width in zip(_STEM, STEM_WIDTHS, strict=True)
        ]
        mixed = [
            [
                size(shapes, conv.format(f"{name}.{branch}"), 0, 5, width)
                for branch, width in zip(_BRANCHES, widths, strict=True)
            ]
            for name, widths in zip(_MIXED, MIXED_WIDTHS, strict=True)
        ]
        temporal = under(shapes, "temporal.")
        return cls(stem, mixed, tcn.channels_of(temporal), tcn.kernel_size_of(temporal), upsample)

    def forward(self, clip: Tensor) -> Tensor:
        """Encode a clip.

        Args:
            clip: (B, 3, T, H, W), channels R, G, B, normalised as the model declares; H and W are 224
                unless the network upsamples.

        Returns:
            Feature (B, D).
        """
        if self.upsample:
            frames = functional.interpolate(clip.flatten(1, 2), size=(SIDE, SIDE), mode="bilinear")
            clip = frames.reshape(clip.shape[0], RGB, -1, SIDE, SIDE)  # (B, 3, T, 224, 224)
        x = self.pool(self.i3d_WSDDA(clip))  # (B, C, S, 1, 1)
        x = self.temporal(x.flatten(2))  # (B, D, S)
        return torch.amax(x, dim=2)  # (B, D)
