"""Joint cross-attention: fusion of a face and a voice feature through their correlation with both.

Source: Praveen et al., "A Joint Cross-Attention Model for Audio-Visual Fusion in Dimensional Emotion
Recognition", arXiv 2203.14779, and "Audio-Visual Fusion for Emotion Recognition in the Valence-Arousal
Space Using Joint Cross-Attention", arXiv 2209.09068. Key names are those of the published code, so that
a user's weights fit. What `jca_dense` holds is another network under the same name.

Shape letters: B batch, L step, D feature, E encoded feature (D without encoders), J = 2E joint feature,
H hidden width of the attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_mer_export.models.shapes import Shapes, size

N_STEPS = 16
FEATURE = 512
ENCODED = 128
HIDDEN = 32
HEAD_WIDTH = 128

VISUAL_HEAD_DEAD_KEYS = ("affine_a.weight", "W_a.weight", "W_ca.weight", "W_ha.weight")
"""Keys of a reference checkpoint that reach no output where the head reads the visual side alone:
the audio's attention is computed and dropped, so that audio counts through the joint feature only."""

BOTH_HEAD_DEAD_KEYS: tuple[str, ...] = ()
"""Likewise where the head reads both attended features: none."""


class JointCrossAttention(nn.Module):
    """Valence and arousal, or one of them, for every step of a window from its audio and visual features.

    Args:
        n_steps: Steps L of a window; the weights that mix steps fix it.
        feature: Feature size D of both modalities.
        encoded: Size E to which each modality is encoded; None: it is not.
        hidden: Hidden width H of the attention.
        head_width: Hidden width of a regressor.
        two_targets: One regressor each for valence and arousal, or a single one.
        attends_audio: The regressors read both attended features; otherwise the visual feature as it
            came and as attended.
        dropout: Dropout in the regressors while training.
    """

    def __init__(
        self,
        n_steps: int = N_STEPS,
        feature: int = FEATURE,
        encoded: int | None = ENCODED,
        hidden: int = HIDDEN,
        head_width: int = HEAD_WIDTH,
        two_targets: bool = True,
        attends_audio: bool = False,
        dropout: float = 0.6,
    ) -> None:
        super().__init__()
        self.n_steps, self.feature = n_steps, feature
        self.encoder1: nn.Module = nn.Identity()  # audio
        self.encoder2: nn.Module = nn.Identity()  # visual
        if encoded is None:
            encoded = feature
        else:
            self.encoder1 = nn.Linear(feature, encoded)
            self.encoder2 = nn.Linear(feature, encoded)
        joint = 2 * encoded
        self.scale = joint**-0.5
        self.affine_v = nn.Linear(n_steps, n_steps, bias=False)
        self.W_v = nn.Linear(n_steps, hidden, bias=False)
        self.W_cv = nn.Linear(joint, hidden, bias=False)
        self.W_hv = nn.Linear(hidden, n_steps, bias=False)
        self.attends_audio = attends_audio
        if attends_audio:
            self.affine_a = nn.Linear(n_steps, n_steps, bias=False)
            self.W_a = nn.Linear(n_steps, hidden, bias=False)
            self.W_ca = nn.Linear(joint, hidden, bias=False)
            self.W_ha = nn.Linear(hidden, n_steps, bias=False)
        fused = encoded + (encoded if attends_audio else feature)
        self.two_targets = two_targets
        if two_targets:
            self.vregressor = _regressor(fused, head_width, dropout)
            self.aregressor = _regressor(fused, head_width, dropout)
        else:
            self.regressor = _regressor(fused, head_width, dropout)

    @classmethod
    def like(cls, shapes: Shapes) -> JointCrossAttention:
        """The network with the sizes of a state_dict's `shapes`; what they do not tell is as published."""
        has_encoders = any(key.startswith(("encoder1.", "encoder2.")) for key in shapes)
        joint = size(shapes, "W_cv.weight", 1, 2, 2 * (ENCODED if has_encoders else FEATURE))
        two_targets = not any(key.startswith("regressor.") for key in shapes)
        regressor = "vregressor.0.weight" if two_targets else "regressor.0.weight"
        return cls(
            n_steps=size(shapes, "affine_v.weight", 0, 2, N_STEPS),
            feature=size(shapes, "encoder2.weight", 1, 2, FEATURE) if has_encoders else joint // 2,
            encoded=joint // 2 if has_encoders else None,
            hidden=size(shapes, "W_v.weight", 0, 2, HIDDEN),
            head_width=size(shapes, regressor, 0, 2, HEAD_WIDTH),
            two_targets=two_targets,
            # without encoders both readings are as wide, and the published one is visual
            attends_audio=has_encoders and size(shapes, regressor, 1, 2, 0) == joint,
        )

    def forward(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, ...]:
        """Estimate each target.

        Args:
            audio: (B, L, D).
            visual: (B, L, D).

        Returns:
            Valence (B, L) and arousal (B, L), or the single target (B, L); each step's own; not bounded
            to [-1, 1] by the network.
        """
        encoded_audio, encoded_visual = self.encoder1(audio), self.encoder2(visual)  # 2 x (B, L, E)
        joint = torch.cat([encoded_audio, encoded_visual], dim=-1) * self.scale  # (B, L, J)
        attended = _attend(encoded_visual, joint, self.affine_v, self.W_v, self.W_cv, self.W_hv)  # (B, L, E)
        # the published code has the raw visual feature where the paper has the attended audio
        other = visual  # (B, L, D)
        if self.attends_audio:
            other = _attend(encoded_audio, joint, self.affine_a, self.W_a, self.W_ca, self.W_ha)  # (B, L, E)
        fused = torch.cat([other, attended], dim=-1)  # (B, L, D + E) or (B, L, 2E)
        regressors = (self.vregressor, self.aregressor) if self.two_targets else (self.regressor,)
        return tuple(regressor(fused).squeeze(-1) for regressor in regressors)


def _attend(
    x: Tensor, joint: Tensor, affine: nn.Linear, own: nn.Linear, cross: nn.Linear, back: nn.Linear
) -> Tensor:
    """A modality (B, L, E) attended by its correlation with the scaled joint (B, L, J) -> (B, L, E)."""
    channels = x.transpose(1, 2)  # (B, E, L)
    mixed = affine(joint.transpose(1, 2)).transpose(1, 2)  # (B, L, J), over the steps
    correlation = torch.tanh(channels @ mixed)  # (B, E, J)
    hidden = torch.relu(cross(correlation) + own(channels))  # (B, E, H)
    attended: Tensor = back(hidden).transpose(1, 2) + x  # (B, L, E)
    return attended


def _regressor(n_in: int, width: int, dropout: float) -> nn.Sequential:
    """Two linear layers; the published code has no activation between them."""
    return nn.Sequential(nn.Linear(n_in, width), nn.Dropout(dropout), nn.Linear(width, 1))
