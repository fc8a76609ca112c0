"""Dense joint co-attention: the audio-visual fusion that the published training scripts build.

Source: Praveen et al., "Audio-Visual Fusion for Emotion Recognition in the Valence-Arousal Space Using
Joint Cross-Attention", arXiv 2209.09068, and its recurrent sibling, "Recursive Joint Attention for
Audio-Visual Fusion in Regression Based Emotion Recognition", arXiv 2304.07958. The papers write joint
cross-attention with one matrix per modality; the published code, which this follows, has dense
co-attention in its place. Key names are those of the published code, so that a user's weights fit.

Shape letters: B batch, L step, A audio feature, V visual feature, P slice of the visual map,
J = V + A joint feature, H hidden size of a recurrent direction, F fused feature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_mer_export.models.jmt import regressor, unit_length
from edge_mer_export.models.shapes import Shapes, n_numbered, size

N_STEPS = 16
FEATURE = 512
N_SLICES = 49
ATTENTION_WIDTH = 49
RNN_HIDDEN = 256
RNN_LAYERS = 2
HEAD_WIDTH = 128

DEAD_KEYS: tuple[str, ...] = ()
"""Keys of a reference checkpoint that reach no output: none."""


class _SpatialAttention(nn.Module):
    """A weighted mean over the slices of each step's visual map, guided by the step's audio."""

    def __init__(self, audio: int, visual: int, n_slices: int, width: int) -> None:
        super().__init__()
        self.affine_audio = nn.Linear(audio, visual)
        self.affine_video = nn.Linear(visual, visual)
        self.affine_v = nn.Linear(visual, width, bias=False)
        self.affine_g = nn.Linear(visual, n_slices, bias=False)
        self.affine_h = nn.Linear(width, 1, bias=False)
        self.affine_feat = nn.Linear(visual, visual)

    def forward(self, audio: Tensor, visual_map: Tensor) -> Tensor:
        """Audio (B, L, A) and flattened map (B, L, P V) -> visual feature (B, L, V)."""
        # the map lies channel by channel, so these are slices of it, not the places in the picture
        slices = visual_map.reshape(*audio.shape[:2], self.affine_g.out_features, -1)  # (B, L, P, V)
        seen = self.affine_v(torch.relu(self.affine_video(slices)))  # (B, L, P, width)
        # one number per slice, the same for all of `width`
        heard = self.affine_g(torch.relu(self.affine_audio(audio))).unsqueeze(-1)  # (B, L, P, 1)
        scores = self.affine_h(torch.tanh(seen + heard))  # (B, L, P, 1)
        weights = torch.softmax(scores, dim=-2).transpose(-2, -1)  # (B, L, 1, P)
        mean = (weights @ slices).squeeze(-2)  # (B, L, V)
        feature: Tensor = self.affine_feat(mean)  # (B, L, V)
        return feature


class _VideoAttention(nn.Module):
    """The level of the keys that the published code has above its spatial attention."""

    def __init__(self, audio: int, visual: int, n_slices: int, width: int) -> None:
        super().__init__()
        self.attn = _SpatialAttention(audio, visual, n_slices, width)

    def forward(self, audio: Tensor, visual_map: Tensor) -> Tensor:
        """(B, L, A) and (B, L, P V) -> (B, L, V)."""
        feature: Tensor = self.attn(audio, visual_map)
        return feature


class _DenseCoAttention(nn.Module):
    """What each modality takes from the correlation of its own channels with the joint ones."""

    def __init__(self, n_steps: int, visual: int, audio: int, dropout: float) -> None:
        super().__init__()
        joint = visual + audio
        self.scale = joint**-0.5
        self.query_linear = nn.Linear(joint, joint)
        self.key1_linear = nn.Linear(n_steps, n_steps)
        self.key2_linear = nn.Linear(n_steps, n_steps)
        self.value1_linear = nn.Linear(visual, visual)
        self.value2_linear = nn.Linear(audio, audio)
        self.dropout = nn.Dropout(dropout)

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, V) and (B, L, A) -> both (B, L, J)."""
        joint = self.query_linear(torch.cat([visual, audio], dim=-1)) * self.scale  # (B, L, J)
        return (
            self._attend(self.key1_linear, self.value1_linear, visual, joint),
            self._attend(self.key2_linear, self.value2_linear, audio, joint),
        )

    def _attend(self, key: nn.Linear, value: nn.Linear, x: Tensor, joint: Tensor) -> Tensor:
        """Feature (B, L, D) and joint (B, L, J) -> (B, L, J)."""
        keys = key(x.transpose(1, 2))  # (B, D, L), mixed over the steps
        weights = self.dropout(torch.tanh(keys @ joint))  # (B, D, J)
        return torch.relu(torch.tanh(value(x) @ weights))  # (B, L, J)


class _SubLayer(nn.Module):
    """Dense co-attention and what it adds to each modality."""

    def __init__(self, n_steps: int, visual: int, audio: int, dropout: float) -> None:
        super().__init__()
        self.dense_coattn = _DenseCoAttention(n_steps, visual, audio, dropout)
        self.linears = nn.ModuleList(
            nn.Sequential(nn.Linear(visual + audio, feature), nn.ReLU(), nn.Dropout(dropout))
            for feature in (visual, audio)
        )

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, V) and (B, L, A) -> the same shapes."""
        for_visual, for_audio = self.dense_coattn(visual, audio)  # 2 x (B, L, J)
        return visual + self.linears[0](for_visual), audio + self.linears[1](for_audio)


class _CoAttention(nn.Module):
    """A stack of sub-layers: the papers' recursion, with weights of its own at every turn."""

    def __init__(self, n_layers: int, n_steps: int, visual: int, audio: int, dropout: float) -> None:
        super().__init__()
        self.dcn_layers = nn.ModuleList(_SubLayer(n_steps, visual, audio, dropout) for _ in range(n_layers))

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, V) and (B, L, A) -> the same shapes."""
        for layer in self.dcn_layers:
            visual, audio = layer(visual, audio)
        return visual, audio


class _Recurrent(nn.Module):
    """A two-way LSTM with a learned initial state, read together with its input, to one unit feature."""

    def __init__(self, n_in: int, n_out: int, hidden: int, n_layers: int) -> None:
        super().__init__()
        self.init_hidden = nn.Parameter(torch.zeros(4 * n_layers, hidden))
        self.rnn = nn.LSTM(n_in, hidden, n_layers, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(n_in + 2 * hidden, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D') of unit length."""
        # a row per layer and direction, those of h before those of c; every sequence begins with them
        rows = self.init_hidden.unsqueeze(1).expand(-1, x.shape[0], -1)  # (4 layers, B, H)
        h0, c0 = rows.chunk(2)  # 2 x (2 layers, B, H)
        steps, _ = self.rnn(x, (h0.contiguous(), c0.contiguous()))  # (B, L, 2H)
        return unit_length(self.linear(torch.cat([x, steps], dim=-1)))  # (B, L, D')


class DenseJointCoAttention(nn.Module):
    """Valence and arousal of every step of a window, from its audio features and visual maps.

    Args:
        n_steps: Steps L of a window; the weights that mix steps fix it.
        audio: Audio feature size A.
        visual: Visual feature size V.
        n_slices: Slices P of a visual map.
        attention_width: Hidden width of the spatial attention.
        n_layers: Sub-layers of dense co-attention.
        rnn_hidden: Hidden size H of each direction of the LSTMs.
        rnn_layers: Layers of the LSTMs.
        fused: Fused feature size F.
        head_width: Hidden width of the two regressors.
        recurrent_inputs: Each modality passes an LSTM of its own before co-attention, as in the
            recurrent sibling (arXiv 2304.07958).
        dropout: Dropout of co-attention and regressors while training.
    """

    def __init__(
        self,
        n_steps: int = N_STEPS,
        audio: int = FEATURE,
        visual: int = FEATURE,
        n_slices: int = N_SLICES,
        attention_width: int = ATTENTION_WIDTH,
        n_layers: int = 1,
        rnn_hidden: int = RNN_HIDDEN,
        rnn_layers: int = RNN_LAYERS,
        fused: int = FEATURE,
        head_width: int = HEAD_WIDTH,
        recurrent_inputs: bool = False,
        dropout: float = 0.6,
    ) -> None:
        super().__init__()
        self.n_steps, self.n_audio, self.n_visual = n_steps, audio, n_slices * visual
        self.audio_extract: nn.Module = nn.Identity()
        self.video_extract: nn.Module = nn.Identity()
        if recurrent_inputs:
            self.audio_extract = _Recurrent(audio, audio, rnn_hidden, rnn_layers)
            self.video_extract = _Recurrent(visual, visual, rnn_hidden, rnn_layers)
        self.video_attn = _VideoAttention(audio, visual, n_slices, attention_width)
        self.coattn = _CoAttention(n_layers, n_steps, visual, audio, dropout)
        self.Joint = _Recurrent(visual + audio, fused, rnn_hidden, rnn_layers)
        self.vregressor = regressor(fused, head_width, dropout)
        self.aregressor = regressor(fused, head_width, dropout)

    @classmethod
    def like(cls, shapes: Shapes) -> DenseJointCoAttention:
        """The network with the sizes of a state_dict's `shapes`; what they do not tell is as published."""
        first = "coattn.dcn_layers.0.dense_coattn."
        return cls(
            n_steps=size(shapes, f"{first}key1_linear.weight", 0, 2, N_STEPS),
            audio=size(shapes, f"{first}value2_linear.weight", 0, 2, FEATURE),
            visual=size(shapes, f"{first}value1_linear.weight", 0, 2, FEATURE),
            n_slices=size(shapes, "video_attn.attn.affine_g.weight", 0, 2, N_SLICES),
            attention_width=size(shapes, "video_attn.attn.affine_v.weight", 0, 2, ATTENTION_WIDTH),
            n_layers=n_numbered(shapes, "coattn.dcn_layers.", 1),
            rnn_hidden=size(shapes, "Joint.rnn.weight_hh_l0", 1, 2, RNN_HIDDEN),
            rnn_layers=n_numbered(shapes, "Joint.rnn.weight_hh_l", RNN_LAYERS),
            fused=size(shapes, "Joint.linear.weight", 0, 2, FEATURE),
            head_width=size(shapes, "vregressor.0.weight", 0, 2, HEAD_WIDTH),
            recurrent_inputs=any(key.startswith(("audio_extract.", "video_extract.")) for key in shapes),
        )

    def forward(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate valence and arousal.

        Args:
            audio: (B, L, A).
            visual: (B, L, P V), the flattened map of each step, channel by channel.

        Returns:
            Valence (B, L) and arousal (B, L), each step's own; not bounded to [-1, 1] by the network.
        """
        audio = self.audio_extract(unit_length(audio))  # (B, L, A)
        visual = self.video_attn(audio, unit_length(visual))  # (B, L, V)
        visual = self.video_extract(visual)  # (B, L, V)
        visual, audio = self.coattn(visual, audio)  # (B, L, V) and (B, L, A)
        fused = self.Joint(torch.cat([visual, audio], dim=-1))  # (B, L, F)
        return self.vregressor(fused).squeeze(-1), self.aregressor(fused).squeeze(-1)
