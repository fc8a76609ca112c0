"""VGGish: an embedding of about a second of log-mel audio.

Source: Hershey et al., "CNN Architectures for Large-Scale Audio Classification", arXiv 1609.09430, as
the audio backbone of recursive joint cross-modal attention (arXiv 2403.13659). Layout and key names are
those of the torchvggish package, so that weights converted with it fit.

Shape letters: B batch, C channel, T frame, F mel band, D feature.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edge_mer_export.models.shapes import Shapes, size

N_FRAMES = 96
"""Log-mel frames T of an example, one every 10 ms."""

N_MELS = 64
"""Mel bands F."""

WIDTHS = (64, 128, 256, 256, 512, 512)
HIDDEN = (4096, 4096)

DEAD_KEYS = ("pproc.*",)
"""Keys of a reference checkpoint that reach no output: the PCA, which RJCMA leaves out."""

_CONVOLUTIONS = (0, 3, 6, 8, 11, 13)
"""Places of the convolutions in `features`."""

_N_POOLS = 4


def _conv(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(inplace=True)


class VGGish(nn.Module):
    """A log-mel example to one feature.

    Args:
        widths: Channels of the six convolutions.
        hidden: Widths of the two hidden linear layers.
        feature: Feature size D.
    """

    def __init__(
        self, widths: Sequence[int] = WIDTHS, hidden: Sequence[int] = HIDDEN, feature: int = 128
    ) -> None:
        super().__init__()
        self.n_features = feature
        self.features = nn.Sequential(
            *_conv(1, widths[0]),
            nn.MaxPool2d(2),
            *_conv(widths[0], widths[1]),
            nn.MaxPool2d(2),
            *_conv(widths[1], widths[2]),
            *_conv(widths[2], widths[3]),
            nn.MaxPool2d(2),
            *_conv(widths[3], widths[4]),
            *_conv(widths[4], widths[5]),
            nn.MaxPool2d(2),
        )
        n_left = (N_FRAMES // 2**_N_POOLS) * (N_MELS // 2**_N_POOLS)
        # no ReLU after the last layer and no PCA: RJCMA reads the feature before both
        self.embeddings = nn.Sequential(
            nn.Linear(widths[5] * n_left, hidden[0]),
            nn.ReLU(inplace=True),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(inplace=True),
            nn.Linear(hidden[1], feature),
        )

    @classmethod
    def like(cls, shapes: Shapes) -> VGGish:
        """The network with the sizes of a state_dict's `shapes`; what they do not tell is as published."""
        places = zip(_CONVOLUTIONS, WIDTHS, strict=True)
        widths = [size(shapes, f"features.{place}.weight", 0, 4, width) for place, width in places]
        hidden = [
            size(shapes, f"embeddings.{place}.weight", 0, 2, width)
            for place, width in zip((0, 2), HIDDEN, strict=True)
        ]
        return cls(widths, hidden, size(shapes, "embeddings.4.weight", 0, 2, 128))

    def forward(self, log_mel: Tensor) -> Tensor:
        """Encode an example.

        Args:
            log_mel: (B, 96, 64), log(mel + 0.01) of 16 kHz audio, frames by mel bands.

        Returns:
            Feature (B, D), not bounded.
        """
        x = self.features(log_mel.unsqueeze(1))  # (B, C6, T/16, F/16)
        x = x.permute(0, 2, 3, 1).flatten(1)  # (B, T/16 F/16 C6), the order of the published weights
        feature: Tensor = self.embeddings(x)  # (B, D)
        return feature
