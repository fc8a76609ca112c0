"""A small ResNet on log-mel spectrograms of a voice, and a linear head on its feature.

They are of edge-mer's own design; the layers are those of `edge_mer_export.models.resnet_audio`. A mean over
time says which sounds there were, and a deviation how much they changed: a bored voice changes little. Both
are taken of each row of the map, since high and low bands say different things.

Shape letters: B batch, C channel, H mel band, W column, L step, D feature, K class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_mer_export.models.resnet_audio import ResNetAudio

FLOOR = 0.01
"""Added to a variance before its root is taken; half precision holds it."""
SHRINKS = 32
"""Bands that become one row of the map."""


class VoiceResNet(ResNetAudio):
    """A log-mel spectrogram to one feature: mean and deviation over time of each channel and row.

    Args:
        n_mels: Mel bands H.
        widths: Channels C of the four layers.
        blocks: Residual blocks of each layer.
    """

    def __init__(self, n_mels: int, widths: Sequence[int], blocks: Sequence[int] = (1, 1, 1, 1)) -> None:
        super().__init__(widths, blocks)
        self.n_features = 2 * widths[-1] * -(-n_mels // SHRINKS)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Encode a spectrogram.

        Args:
            log_mel: (B, 1, H, W) in normalised dB; the columns W may be any number.

        Returns:
            Feature (B, D), not negative.
        """
        feature_map: Tensor = self.resnet(log_mel)  # (B, C, H/32, W/32)
        mean = feature_map.mean(dim=3, keepdim=True)  # (B, C, H/32, 1)
        apart = feature_map - mean  # (B, C, H/32, W/32)
        deviation = ((apart * apart).mean(dim=3) + FLOOR).sqrt()  # (B, C, H/32)
        return torch.cat([mean.flatten(1), deviation.flatten(1)], dim=1)  # (B, D)


class VoiceHead(nn.Module):
    """Logits of classes from the feature of the newest step.

    Args:
        feature: Feature size D.
        n_classes: Classes K.
        dropout: Dropout while training.
    """

    def __init__(self, feature: int, n_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(feature, n_classes)

    def forward(self, audio: Tensor) -> Tensor:
        """Classify the last step.

        Args:
            audio: (B, L, D).

        Returns:
            Logits (B, K).
        """
        logits: Tensor = self.head(self.dropout(audio[:, -1]))  # (B, K)
        return logits
