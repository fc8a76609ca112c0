"""R3D: a video ResNet of 3D convolutions.

Source: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition",
arXiv 1711.11248. Layout and key names are those of torchvision's `r3d_18`, so that weights trained with
it fit. The feature of a clip is the mean of the last map over its positions, as the joint multimodal
transformer takes it for pain (arXiv 2403.10488).

Shape letters: B batch, T frame, C channel, H height, W width, D feature.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edge_mer_export.models.r2plus1d import RGB, VideoResNet, init_convolutions
from edge_mer_export.models.shapes import Shapes, n_numbered, size

DEAD_KEYS = ("fc.*",)
"""Keys of a reference checkpoint that reach no output: its head is replaced by the identity."""


def _conv3d(n_in: int, n_out: int, _n_mid: int, stride: int) -> nn.Conv3d:
    return nn.Conv3d(n_in, n_out, 3, stride, padding=1, bias=False)


class R3D(VideoResNet):
    """A clip of faces to one feature.

    Args:
        widths: Channels of the four layers; the last is the feature's size D.
        blocks: Residual blocks of each layer.
    """

    def __init__(
        self, widths: Sequence[int] = (64, 128, 256, 512), blocks: Sequence[int] = (2, 2, 2, 2)
    ) -> None:
        stem = nn.Sequential(
            nn.Conv3d(RGB, widths[0], (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
            nn.BatchNorm3d(widths[0]),
            nn.ReLU(inplace=True),
        )
        super().__init__(stem, _conv3d, widths, blocks)
        self.n_features = widths[-1]
        init_convolutions(self)

    @classmethod
    def like(cls, shapes: Shapes) -> R3D:
        """The network that a state_dict of these shapes belongs to."""
        layers = zip(range(1, 5), (64, 128, 256, 512), strict=True)
        return cls(
            [size(shapes, f"layer{i}.0.conv1.0.weight", 0, 5, default) for i, default in layers],
            [n_numbered(shapes, f"layer{i}.", 2) for i in range(1, 5)],
        )

    def forward(self, clip: Tensor) -> Tensor:
        """Encode a clip.

        Args:
            clip: (B, 3, T, H, W), channels R, G, B, normalised as the model declares; T may be any
                number.

        Returns:
            Feature (B, D), not negative.
        """
        feature_map = super().forward(clip)  # (B, D, T/8, H/16, W/16)
        return feature_map.mean(dim=(2, 3, 4))  # (B, D)
