"""A one-dimensional convolutional network on a piece of electrodermal activity.

The published pain models encode EDA with two strided convolutions and one linear layer (arXiv
2403.10488, Table 1). This one is edge-mer's own: it sees changes only, since the level of a person's
skin says little about the moment.

Shape letters: B batch, C channel, N sample, D feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_SMALLEST_CHANGE_US = 0.05
"""Changes of this size or less are noise of the electrodes."""


def _block(n_in: int, n_out: int) -> nn.Sequential:
    """A convolution that halves the number of samples."""
    return nn.Sequential(
        nn.Conv1d(n_in, n_out, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm1d(n_out),
        nn.ReLU(inplace=True),
    )


class EdaCnn(nn.Module):
    """A piece of EDA to one feature.

    Args:
        n_samples: Samples N of a piece.
        pool: Samples that are averaged into one before the first convolution; divides N.
        widths: Channels of the three convolutions.
        feature: Feature size D.
    """

    def __init__(self, n_samples: int, pool: int, widths: Sequence[int], feature: int) -> None:
        super().__init__()
        if n_samples % pool:
            raise ValueError(f"{n_samples} samples cannot be averaged {pool} at a time")
        self.pool = nn.AvgPool1d(pool)
        self.convolutions = nn.Sequential(
            _block(2, widths[0]), _block(widths[0], widths[1]), _block(widths[1], widths[2])
        )
        n_left = -(-(n_samples // pool) // 8)
        self.project = nn.Linear(widths[2] * n_left, feature)
        self.relu = nn.ReLU()

    def forward(self, eda: Tensor) -> Tensor:
        """Encode a piece.

        Args:
            eda: (B, 1, N) in uS.

        Returns:
            Feature (B, D), not negative.
        """
        slow = self.pool(eda)  # (B, 1, N')
        change = slow - slow.mean(dim=-1, keepdim=True)  # (B, 1, N')
        size = torch.sqrt(change.square().mean(dim=-1, keepdim=True) + _SMALLEST_CHANGE_US**2)  # (B, 1, 1)
        both = torch.cat([change, change / size], dim=1)  # (B, 2, N')
        x = self.convolutions(both).flatten(1)  # (B, C N'/8)
        feature: Tensor = self.relu(self.project(x))  # (B, D)
        return feature
