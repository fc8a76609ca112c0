"""Fusion of scene and sound to one emotion of a group: edge-mer's own design.

No implementation and no description of the layers is public of the system that it follows: "Multimodal
End-to-End Group Emotion Recognition using Cross-Modal Attention", arXiv 2111.05890. Its abstract says that
video and audio of a clip are trained end to end and joined by cross-modal attention; that is kept. Backbones,
sizes, the encoder layers, the learned positions and the pooling are edge-mer's own, so published numbers say
nothing about this network, and no published weights fit it.

Shape letters: B batch, L step, D feature, K class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_mer_export.models.jmt import Attention, TransformerEncoder
from edge_mer_export.models.shapes import Shapes, n_numbered, size

_POSITION_STD = 0.02


class GroupFusion(nn.Module):
    """Each modality attends to the other over the steps of a window; one group of logits per window.

    Args:
        visual_size: Size of the visual feature.
        audio_size: Size of the audio feature.
        d_model: Feature size D inside.
        d_ff: Hidden width of the encoders' feed-forward layers.
        n_layers: Encoder layers of each modality.
        n_steps: Steps L of a window.
        n_classes: Classes K.
        dropout: Before the head, while training.
    """

    def __init__(
        self,
        visual_size: int = 512,
        audio_size: int = 512,
        d_model: int = 512,
        d_ff: int = 512,
        n_layers: int = 1,
        n_steps: int = 5,
        n_classes: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.visual_size, self.audio_size, self.n_steps = visual_size, audio_size, n_steps
        self.visual_in = nn.Sequential(nn.Linear(visual_size, d_model), nn.LayerNorm(d_model))
        self.audio_in = nn.Sequential(nn.Linear(audio_size, d_model), nn.LayerNorm(d_model))
        self.positions = nn.Parameter(_POSITION_STD * torch.randn(n_steps, d_model))
        self.visual_encoder = TransformerEncoder(d_model, d_ff, 1, n_layers)
        self.audio_encoder = TransformerEncoder(d_model, d_ff, 1, n_layers)
        self.visual_to_audio = Attention(d_model)
        self.audio_to_visual = Attention(d_model)
        self.visual_norm = nn.LayerNorm(d_model)
        self.audio_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * d_model, n_classes)

    @classmethod
    def like(cls, shapes: Shapes) -> GroupFusion:
        """The network that a state_dict of these shapes belongs to."""
        return cls(
            size(shapes, "visual_in.0.weight", 1, 2, 512),
            size(shapes, "audio_in.0.weight", 1, 2, 512),
            size(shapes, "positions", 1, 2, 512),
            size(shapes, "visual_encoder.layers.0.feed_forward.0.weight", 0, 2, 512),
            n_numbered(shapes, "visual_encoder.layers.", 1),
            size(shapes, "positions", 0, 2, 5),
        )

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Estimate the emotion of a window.

        Args:
            visual: (B, L, D), of its own size.
            audio: (B, L, D), of its own size.

        Returns:
            Logits (B, K).
        """
        v = self.visual_encoder(self.visual_in(visual) + self.positions)  # (B, L, D)
        a = self.audio_encoder(self.audio_in(audio) + self.positions)  # (B, L, D)
        seen = self.visual_norm(v + self.visual_to_audio(v, a))  # (B, L, D)
        heard = self.audio_norm(a + self.audio_to_visual(a, v))  # (B, L, D)
        pooled = torch.cat([seen.mean(dim=1), heard.mean(dim=1)], dim=-1)  # (B, 2D)
        logits: Tensor = self.head(self.dropout(pooled))  # (B, K)
        return logits
