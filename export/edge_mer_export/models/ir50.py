"""IR-50: the face network of ArcFace, on a small crop.

Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", arXiv
1801.07698 (section 3.1: the "improved" residual unit), as the visual backbone of recursive joint
cross-modal attention (arXiv 2403.13659). Key names are those of the published code, so that a user's
weights fit.

Shape letters: B batch, C channel, H height, W width, D feature.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_mer_export.models.shapes import Shapes, n_numbered, size

RGB = 3
SIDE = 40
"""Height and width of the face crop."""

WIDTHS = (64, 128, 256, 512)
BLOCKS = (3, 4, 14, 3)

DEAD_KEYS = ("logits.*",)
"""Keys of a reference checkpoint that reach no output: the classifier it was trained with."""


def _conv3x3(n_in: int, n_out: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)


class _Unit(nn.Module):
    """Residual unit, normalised before its first and after its second convolution."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(n_in),
            _conv3x3(n_in, n_out, 1),
            nn.PReLU(n_out),
            _conv3x3(n_out, n_out, stride),
            nn.BatchNorm2d(n_out),
        )
        self.shortcut_layer: nn.Module
        if n_in != n_out:
            shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.shortcut_layer = nn.Sequential(shortcut, nn.BatchNorm2d(n_out))
        elif stride != 1:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/stride, W/stride)."""
        y: Tensor = self.res_layer(x) + self.shortcut_layer(x)  # (B, C', H', W')
        return y


def _units(widths: Sequence[int], blocks: Sequence[int]) -> list[_Unit]:
    """Units of the four layers; every layer but the first halves height and width."""
    units, n_in = [], widths[0]
    for layer, (n_out, n_units) in enumerate(zip(widths, blocks, strict=True)):
        for unit in range(n_units):
            # at 40 pixels the published first layer keeps the size, unlike at 112
            stride = 2 if layer > 0 and unit == 0 else 1
            units.append(_Unit(n_in, n_out, stride))
            n_in = n_out
    return units


class IR50(nn.Module):
    """A face to one feature of unit length.

    Args:
        widths: Channels of the four layers.
        blocks: Residual units of each layer.
        feature: Feature size D.
    """

    def __init__(
        self, widths: Sequence[int] = WIDTHS, blocks: Sequence[int] = BLOCKS, feature: int = 512
    ) -> None:
        super().__init__()
        self.n_features = feature
        self.input_layer = nn.Sequential(
            _conv3x3(RGB, widths[0], 1), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
        )
        self.body = nn.Sequential(*_units(widths, blocks))
        n_left = SIDE // 2 ** (len(widths) - 1)  # pixels of a side after the last layer
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(widths[-1] * n_left * n_left, feature),
            nn.BatchNorm1d(feature),
        )

    @classmethod
    def like(cls, shapes: Shapes) -> IR50:
        """The network with the sizes of a state_dict's `shapes`; what they do not tell is as published."""
        n_units = n_numbered(shapes, "body.", sum(BLOCKS))
        published = [width for width, n in zip(WIDTHS, BLOCKS, strict=True) for _ in range(n)]
        outputs = [
            size(shapes, f"body.{i}.res_layer.1.weight", 0, 4, published[min(i, sum(BLOCKS) - 1)])
            for i in range(n_units)
        ]
        layers = [(width, len(list(units))) for width, units in itertools.groupby(outputs)]
        widths, blocks = zip(*layers, strict=True)
        return cls(widths, blocks, size(shapes, "output_layer.3.weight", 0, 2, 512))

    def forward(self, face: Tensor) -> Tensor:
        """Encode a face.

        Args:
            face: (B, 3, 40, 40), channels R, G, B, normalised as the model declares.

        Returns:
            Feature (B, D) of unit length.
        """
        x = self.input_layer(face)  # (B, C1, 40, 40)
        x = self.body(x)  # (B, C4, 5, 5)
        x = self.output_layer(x)  # (B, D)
        norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)  # (B, 1)
        # a zero feature stays zero; the published code divides it by zero
        unit: Tensor = x / norm.clamp_min(1e-12)  # (B, D)
        return unit
