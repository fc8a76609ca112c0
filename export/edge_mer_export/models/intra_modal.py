"""Fusion of two features of the same modality into one, before the modalities are fused.

Source: "Joint Multimodal Transformer for Emotion Recognition in the Wild", arXiv 2403.10488: a face seen
by two video networks, or a voice by a spectrogram's network and a speech model. Key names are those of
the published code, so that a user's weights fit.

Shape letters: B batch, L step, D feature, D1 and D2 features before the fusion, 2 tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_mer_export.models.jmt import Attention, TransformerEncoder
from edge_mer_export.models.shapes import Shapes, n_numbered, size

NARROW_DEAD_KEYS = ("fc.*",)
"""Keys of a reference checkpoint that reach no output where both features have size D, as for the face."""


class IntraModalTransformer(nn.Module):
    """Self-attention over the two features of a step.

    Args:
        feature: Feature size D.
        d_ff: Hidden width of the encoder's feed-forward layers.
        heads: Attention heads.
        n_layers: Layers of the encoder.
        wide: Size of the feature that is brought to D by a linear layer; None if both have size D.
    """

    def __init__(
        self,
        feature: int = 512,
        d_ff: int = 512,
        heads: int = 1,
        n_layers: int = 1,
        wide: int | None = 768,
    ) -> None:
        super().__init__()
        self.wide = wide
        self.n_features = feature
        self.final_visual_encoder = TransformerEncoder(feature, d_ff, heads, n_layers)
        self.final_self_attention = Attention(feature, heads)
        self.fc: nn.Linear | None = None if wide is None else nn.Linear(wide, feature)

    @classmethod
    def like(cls, shapes: Shapes, num_heads: int = 1, has_wide: bool = True) -> IntraModalTransformer:
        """The network that a state_dict of these shapes belongs to.

        Args:
            shapes: Shape by key.
            num_heads: Attention heads, which the shapes do not tell.
            has_wide: One of the features is wider than D, as the speech model's; else the state_dict
                has `NARROW_DEAD_KEYS`.
        """
        return cls(
            size(shapes, "final_self_attention.out_proj.weight", 0, 2, 512),
            size(shapes, "final_visual_encoder.layers.0.feed_forward.0.weight", 0, 2, 512),
            num_heads,
            n_numbered(shapes, "final_visual_encoder.layers.", 1),
            size(shapes, "fc.weight", 1, 2, 768) if has_wide else None,
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Fuse the features of every step.

        Args:
            first: (B, L, D1) or (B, D1); of a face R(2+1)D's, of a voice the spectrogram's.
            second: (B, L, D2) or (B, D2); of a face I3D's, of a voice the speech model's.

        Returns:
            Feature (B, L, D) or (B, D).
        """
        tokens = torch.stack([self._narrow(first), self._narrow(second)], dim=-2)  # (B, L, 2, D)
        tokens = self.final_visual_encoder(tokens)  # (B, L, 2, D)
        # only the second token is read out, so no other query is computed
        read_out = self.final_self_attention(tokens[..., -1:, :], tokens)  # (B, L, 1, D)
        fused: Tensor = read_out.squeeze(-2)  # (B, L, D)
        return fused

    def _narrow(self, feature: Tensor) -> Tensor:
        """Bring the wide feature, whichever of the two it is, to size D."""
        if self.fc is None or feature.shape[-1] != self.wide:
            return feature
        narrow: Tensor = self.fc(feature)  # (B, L, D)
        return narrow


class FcLayer(nn.Module):
    """Features side by side through one linear layer, the alternative without attention.

    Args:
        n_in: Sizes of the features together.
        feature: Feature size D.
    """

    def __init__(self, n_in: int = 1280, feature: int = 512) -> None:
        super().__init__()
        self.n_features = feature
        self.fc_layer = nn.Linear(n_in, feature)

    @classmethod
    def like(cls, shapes: Shapes) -> FcLayer:
        """The network that a state_dict of these shapes belongs to."""
        return cls(size(shapes, "fc_layer.weight", 1, 2, 1280), size(shapes, "fc_layer.weight", 0, 2, 512))

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """Fuse the features of every step.

        Args:
            first: (B, L, D1) or (B, D1).
            second: (B, L, D2) or (B, D2); None if the modality has one feature only.

        Returns:
            Feature (B, L, D) or (B, D).
        """
        both = first if second is None else torch.cat([first, second], dim=-1)  # (B, L, D1 + D2)
        fused: Tensor = self.fc_layer(both)  # (B, L, D)
        return fused
