"""The published one-dimensional convolutional network on a clip's electrodermal activity.

Source: "Joint Multimodal Transformer for Emotion Recognition in the Wild", arXiv 2403.10488, Table 1.
Key names are those of the published code, so that a user's weights fit.

Shape letters: B batch, C channel, N sample, D feature, K class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_mer_export.models.shapes import Shapes, size

DEAD_KEYS = ("fc2.*",)
"""Keys of a reference checkpoint that reach no output where the network is not asked for logits."""


class EdaConv1d(nn.Module):
    """A clip of EDA to one feature, and to logits on request.

    Args:
        n_samples: Samples N of a clip: 5.5 s at 512 Hz.
        widths: Channels of the two convolutions.
        kernels: Samples that each of them sees.
        feature: Feature size D.
        n_classes: Classes K.
        with_logits: Also return logits, as the network did when it was trained alone.
    """

    def __init__(
        self,
        n_samples: int = 2816,
        widths: Sequence[int] = (32, 64),
        kernels: Sequence[int] = (5, 5),
        feature: int = 512,
        n_classes: int = 2,
        with_logits: bool = False,
    ) -> None:
        super().__init__()
        self.n_samples, self.n_features, self.n_classes = n_samples, feature, n_classes
        self.conv1 = nn.Conv1d(1, widths[0], kernels[0], stride=2)
        self.conv2 = nn.Conv1d(widths[0], widths[1], kernels[1])
        self.pool = nn.MaxPool1d(2)
        n_left = (((n_samples - kernels[0]) // 2 + 1) // 2 - kernels[1] + 1) // 2
        self.fc1 = nn.Linear(widths[1] * n_left, feature)
        self.fc2: nn.Linear | None = nn.Linear(feature, n_classes) if with_logits else None

    @classmethod
    def like(cls, shapes: Shapes, with_logits: bool = False) -> EdaConv1d:
        """The network that a state_dict of these shapes belongs to.

        Args:
            shapes: Shape by key. Eight numbers of samples lead to one width of `fc1`; of those the
                sixth is taken, 2816 of 2811 to 2818 with the published width.
            with_logits: Also return logits.
        """
        widths = size(shapes, "conv1.weight", 0, 3, 32), size(shapes, "conv2.weight", 0, 3, 64)
        kernels = size(shapes, "conv1.weight", 2, 3, 5), size(shapes, "conv2.weight", 2, 3, 5)
        n_left = size(shapes, "fc1.weight", 1, 2, widths[1] * 349) // max(1, widths[1])
        return cls(
            8 * n_left + 4 * kernels[1] + kernels[0] - 1,
            widths,
            kernels,
            size(shapes, "fc1.weight", 0, 2, 512),
            size(shapes, "fc2.weight", 0, 2, 2),
            with_logits,
        )

    def forward(self, eda: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode a clip.

        Args:
            eda: (B, 1, N) in uS, neither filtered nor normalised.

        Returns:
            Feature (B, D), and logits (B, K) if the network was built with them.
        """
        x: Tensor = self.pool(torch.relu(self.conv1(eda)))  # (B, C1, N/4)
        x = self.pool(torch.relu(self.conv2(x)))  # (B, C2, N/8)
        # the published code builds a ReLU after this layer and never calls it
        feature: Tensor = self.fc1(x.flatten(1))  # (B, D)
        if self.fc2 is None:
            return feature
        return feature, self.fc2(feature)
