"""Recursive joint cross-modal attention: fusion of face, voice and words over a window of frames.

Source: "Recursive Joint Cross-Modal Attention for Multimodal Fusion in Dimensional Emotion
Recognition", arXiv 2403.13659, as its released code computes it. Key names are those of that code, so
that a user's weights fit; there logmel means the voice and bert the words.

Shape letters: B batch, K step (video frame), d_m feature of modality m, D joint feature (sum of d_m).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_mer_export.models.shapes import Shapes, n_numbered, size, under
from edge_mer_export.models.tcn import TemporalConvNet

MODALITIES = ("video", "logmel", "bert")
"""Order of the arguments and of the joint feature."""

FEATURES = (512, 128, 768)
CHANNELS = ((256, 256, 256, 256), (128, 128, 128, 128), (256, 256, 128, 128))

DEAD_KEYS = ("coattn.dcn_layers.*.dense_coattn.query_linear.*",)
"""Keys of a reference checkpoint that reach no output: a projection that is computed and discarded."""


class _DenseCoattention(nn.Module):
    """What the joint feature says to each modality: tanh(V tanh(K J / sqrt(D)))."""

    def __init__(self, widths: Sequence[int], n_steps: int, dropout: float) -> None:
        super().__init__()
        self.scale = sum(widths) ** -0.5
        self.key1_linear = nn.Linear(n_steps, n_steps)
        self.key2_linear = nn.Linear(n_steps, n_steps)
        self.key3_linear = nn.Linear(n_steps, n_steps)
        self.value1_linear = nn.Linear(widths[0], widths[0])
        self.value2_linear = nn.Linear(widths[1], widths[1])
        self.value3_linear = nn.Linear(widths[2], widths[2])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x1: Tensor, x2: Tensor, x3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, K, d_m) of the three modalities -> for each (B, K, D), not negative."""
        # the joint feature is the plain concatenation: the published code discards its projection of it
        joint = torch.cat([x1, x2, x3], dim=-1)  # (B, K, D)
        return (
            self._attend(x1, joint, self.key1_linear, self.value1_linear),
            self._attend(x2, joint, self.key2_linear, self.value2_linear),
            self._attend(x3, joint, self.key3_linear, self.value3_linear),
        )

    def _attend(self, x: Tensor, joint: Tensor, key: nn.Linear, value: nn.Linear) -> Tensor:
        keys = key(x.transpose(1, 2)) * self.scale  # (B, d, K), a projection over time
        scores = self.dropout(torch.tanh(keys @ joint))  # (B, d, D)
        return torch.relu(torch.tanh(value(x) @ scores))  # (B, K, D)


class _CoattentionLayer(nn.Module):
    """One step of the recursion: dense co-attention added to each modality's feature."""

    def __init__(self, widths: Sequence[int], n_steps: int, dropout: float) -> None:
        super().__init__()
        self.dense_coattn = _DenseCoattention(widths, n_steps, dropout)
        joint = sum(widths)
        self.linears = nn.ModuleList(
            [nn.Sequential(nn.Linear(joint, width), nn.ReLU(), nn.Dropout(dropout)) for width in widths]
        )

    def forward(self, x1: Tensor, x2: Tensor, x3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, K, d_m) of the three modalities -> the same, attended."""
        y1, y2, y3 = self.dense_coattn(x1, x2, x3)  # 3 x (B, K, D)
        to1, to2, to3 = self.linears
        return x1 + to1(y1), x2 + to2(y2), x3 + to3(y3)  # (B, K, d_m)


class _Coattention(nn.Module):
    """The recursion, which the published code unrolls into steps with weights of their own."""

    def __init__(self, widths: Sequence[int], n_steps: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        self.dcn_layers = nn.ModuleList(
            [_CoattentionLayer(widths, n_steps, dropout) for _ in range(n_layers)]
        )

    def forward(self, x1: Tensor, x2: Tensor, x3: Tensor) -> Tensor:
        """Features (B, K, d_m) of the three modalities -> joint (B, K, D)."""
        for layer in self.dcn_layers:
            x1, x2, x3 = layer(x1, x2, x3)
        return torch.cat([x1, x2, x3], dim=-1)  # (B, K, D)


def _channels(shapes: Shapes, default: Sequence[int]) -> list[int]:
    """Channels of the temporal blocks whose convolutions have these `shapes`."""
    n_blocks = n_numbered(shapes, "", len(default))
    padded = [*default, *[default[-1]] * n_blocks]
    return [size(shapes, f"{i}.conv1.weight", 0, 3, padded[i]) for i in range(n_blocks)]


class RJCMA(nn.Module):
    """Valence or arousal of every step of a window, from its features of face, voice and words.

    Args:
        features: Feature sizes that come in, in the order of `MODALITIES`.
        channels: Channels of each modality's temporal blocks; the last are its d_m.
        kernel_size: Kernel of the temporal convolutions.
        n_steps: Steps K of a window, which the weights fix.
        n_layers: Steps of the recursion.
        head_width: Hidden width of the regressor.
        dropout: Dropout in the fusion while training.
    """

    def __init__(
        self,
        features: Sequence[int] = FEATURES,
        channels: Sequence[Sequence[int]] = CHANNELS,
        kernel_size: int = 5,
        n_steps: int = 300,
        n_layers: int = 2,
        head_width: int = 256,
        dropout: float = 0.6,
    ) -> None:
        super().__init__()
        self.features, self.n_steps = tuple(features), n_steps
        widths = [of_blocks[-1] for of_blocks in channels]
        self.temporal = nn.ModuleDict(
            {
                name: TemporalConvNet(n_in, of_blocks, kernel_size)
                for name, n_in, of_blocks in zip(MODALITIES, features, channels, strict=True)
            }
        )
        self.bn = nn.ModuleDict(
            {name: nn.BatchNorm1d(width) for name, width in zip(MODALITIES, widths, strict=True)}
        )
        self.coattn = _Coattention(widths, n_steps, n_layers, dropout)
        self.regressor1 = nn.Linear(sum(widths), head_width)
        self.bn1 = nn.BatchNorm1d(head_width)
        self.activation = nn.LeakyReLU(0.01)
        self.regressor2 = nn.Linear(head_width, 1)

    @classmethod
    def like(cls, shapes: Shapes) -> RJCMA:
        """The network with the sizes of a state_dict's `shapes`; what they do not tell is as published."""
        blocks = [under(shapes, f"temporal.{name}.network.") for name in MODALITIES]
        return cls(
            features=[
                size(found, "0.conv1.weight", 1, 3, n) for found, n in zip(blocks, FEATURES, strict=True)
            ],
            channels=[_channels(found, default) for found, default in zip(blocks, CHANNELS, strict=True)],
            kernel_size=size(blocks[0], "0.conv1.weight", 2, 3, 5),
            n_steps=size(shapes, "coattn.dcn_layers.0.dense_coattn.key1_linear.weight", 0, 2, 300),
            n_layers=n_numbered(shapes, "coattn.dcn_layers.", 2),
            head_width=size(shapes, "regressor1.weight", 0, 2, 256),
        )

    def forward(self, visual: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        """Estimate one target, valence or arousal by the weights.

        Args:
            visual: (B, K, 512), features of unit length.
            audio: (B, K, 128).
            text: (B, K, 768), the word spoken at each step, normalised as the model declares.

        Returns:
            Estimates (B, K) in (-1, 1), each step's own.
        """
        v = self._encode("video", visual)  # (B, K, d_v)
        a = self._encode("logmel", audio)  # (B, K, d_a)
        t = self._encode("bert", text)  # (B, K, d_t)
        joint = self.coattn(v, a, t)  # (B, K, D)
        x = self.regressor1(joint).transpose(1, 2)  # (B, head, K)
        x = self.activation(self.bn1(x)).transpose(1, 2)  # (B, K, head)
        return torch.tanh(self.regressor2(x)).squeeze(-1)  # (B, K)

    def _encode(self, modality: str, x: Tensor) -> Tensor:
        y = self.temporal[modality](x.transpose(1, 2))  # (B, d_m, K), sees no later step
        normed: Tensor = self.bn[modality](y)  # (B, d_m, K)
        return normed.transpose(1, 2)  # (B, K, d_m)
