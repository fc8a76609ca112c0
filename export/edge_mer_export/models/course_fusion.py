"""Small networks on courses of biosignals: one encoder per modality, one fusion that may lack any of them.

They are of edge-mer's own design, and small on purpose: on twenty people a larger network learns who they
are.

Shape letters: B batch, C channel, N sample, M modality, L step, D feature, H hidden, K class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CourseMlp(nn.Module):
    """A piece of some courses to one feature.

    Args:
        n_channels: Courses C.
        n_samples: Samples N of a piece.
        pool: Samples that are averaged into one first; divides N.
        hidden: Hidden width H.
        feature: Feature size D.
    """

    def __init__(self, n_channels: int, n_samples: int, pool: int, hidden: int, feature: int) -> None:
        super().__init__()
        if n_samples % pool:
            raise ValueError(f"{n_samples} samples cannot be averaged {pool} at a time")
        self.pool = nn.AvgPool1d(pool)
        self.hidden = nn.Linear(n_channels * (n_samples // pool), hidden)
        self.project = nn.Linear(hidden, feature)

    def forward(self, courses: Tensor) -> Tensor:
        """Encode a piece.

        Args:
            courses: (B, C, N), each in deviations from its recent mean.

        Returns:
            Feature (B, D), not negative.
        """
        slow = self.pool(courses).flatten(1)  # (B, C N')
        feature = torch.relu(self.project(torch.relu(self.hidden(slow))))  # (B, D)
        return feature


class CourseFusion(nn.Module):
    """Logits of classes from a window of features, any of which may be missing.

    A missing feature is replaced by a learned one of its modality. The newest step and the mean of the
    window are looked at.

    Args:
        n_modalities: Modalities M.
        feature: Feature size D of each.
        hidden: Hidden width H.
        n_classes: Classes K.
        dropout: Dropout while training.
    """

    def __init__(
        self, n_modalities: int, feature: int, hidden: int, n_classes: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.absent = nn.Parameter(torch.zeros(n_modalities, feature))
        self.mix = nn.Linear(n_modalities * feature, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, n_classes)
        )

    def forward(self, eda: Tensor, ppg: Tensor, skt: Tensor, present: Tensor) -> Tensor:
        """Classify the last step of a window.

        Args:
            eda: (B, L, D).
            ppg: (B, L, D).
            skt: (B, L, D).
            present: (B, M, L) of bool, in the order of the features.

        Returns:
            Logits (B, K).
        """
        shown = [
            torch.where(present[:, m, :, None], one, self.absent[m]) for m, one in enumerate((eda, ppg, skt))
        ]
        steps = torch.relu(self.mix(torch.cat(shown, dim=-1)))  # (B, L, H)
        both = torch.cat([steps.mean(dim=1), steps[:, -1]], dim=-1)  # (B, 2 H)
        logits: Tensor = self.head(self.dropout(both))  # (B, K)
        return logits
