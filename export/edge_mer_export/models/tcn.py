"""Temporal convolutional network: causal dilated convolutions over a sequence of features.

Source: Bai et al., "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence
Modeling", arXiv 1803.01271 (section 3), as the joint multimodal transformer (arXiv 2403.10488) and
recursive joint cross-modal attention (arXiv 2403.13659) use it. Key names are those of the published
code, with weight normalisation already folded into the weights.

Shape letters: B batch, C channel, T step.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from edge_mer_export.models.shapes import Shapes, n_numbered, size

N_IN = 1024
CHANNELS = (512, 512, 512, 512)
KERNEL_SIZE = 5


class _Block(nn.Module):
    """Residual block of two causal convolutions with the same dilation."""

    def __init__(self, n_in: int, n_out: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.past = (kernel_size - 1) * dilation
        self.conv1 = nn.Conv1d(n_in, n_out, kernel_size, dilation=dilation)
        self.conv2 = nn.Conv1d(n_out, n_out, kernel_size, dilation=dilation)
        self.relu = nn.LeakyReLU(0.01)
        self.dropout = nn.Dropout(dropout)
        self.downsample = nn.Conv1d(n_in, n_out, 1) if n_in != n_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C', T)."""
        shortcut = x if self.downsample is None else self.downsample(x)  # (B, C', T)
        y = self._convolve(self.conv1, x)  # (B, C', T)
        y = self._convolve(self.conv2, y)  # (B, C', T)
        out: Tensor = self.relu(y + shortcut)
        return out

    def _convolve(self, conv: nn.Conv1d, x: Tensor) -> Tensor:
        """One convolution over the past alone: (B, C, T) -> (B, C', T)."""
        y: Tensor = self.dropout(self.relu(conv(functional.pad(x, (self.past, 0)))))
        return y


class TemporalConvNet(nn.Module):
    """A sequence of features to one of the same length; no step sees a later one.

    Args:
        n_in: Channels C of the input.
        channels: Channels of each block; the last is C' of the output. Block i is dilated by 2^i.
        kernel_size: Steps that a convolution reads.
        dropout: Dropout after each convolution while training.
    """

    def __init__(
        self,
        n_in: int = N_IN,
        channels: Sequence[int] = CHANNELS,
        kernel_size: int = KERNEL_SIZE,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        inputs = (n_in, *channels[:-1])
        self.network = nn.Sequential(
            *(
                _Block(width_in, width_out, kernel_size, 2**i, dropout)
                for i, (width_in, width_out) in enumerate(zip(inputs, channels, strict=True))
            )
        )

    @classmethod
    def like(cls, shapes: Shapes) -> TemporalConvNet:
        """The network with the sizes of a state_dict's `shapes`; what they do not tell is as published."""
        n_in = size(shapes, "network.0.conv1.weight", 1, 3, N_IN)
        return cls(n_in, channels_of(shapes), kernel_size_of(shapes))

    def forward(self, x: Tensor) -> Tensor:
        """Encode a sequence.

        Args:
            x: (B, C, T); T may be any number.

        Returns:
            (B, C', T).
        """
        y: Tensor = self.network(x)  # (B, C', T)
        return y


def channels_of(shapes: Shapes) -> list[int]:
    """Channels of each block of a temporal convolutional network with these `shapes`."""
    n_blocks = n_numbered(shapes, "network.", len(CHANNELS))
    return [size(shapes, f"network.{i}.conv1.weight", 0, 3, CHANNELS[-1]) for i in range(n_blocks)]


def kernel_size_of(shapes: Shapes) -> int:
    """Steps that a convolution of a temporal convolutional network with these `shapes` reads."""
    return size(shapes, "network.0.conv1.weight", 2, 3, KERNEL_SIZE)
