"""Joint multimodal transformer: fusion of a face and a voice feature per step.

Source: "Joint Multimodal Transformer for Emotion Recognition in the Wild", arXiv 2403.10488: the
proposed variant, with the joint branch and self-attention over the six cross-attentions, and the three
that it is compared with. Key names are those of the published code, so that a user's weights fit; there
`physiological` means audio.

Shape letters: B batch, L step, D feature, F fused feature, M modality, N query, K key, 6 cross-attentions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edge_mer_export.models.shapes import Shapes, n_numbered, size

MODALITIES = ("audio", "visual")
"""Order of the arguments and of `absent_tokens`; a biosignal takes the place of audio."""

DEAD_KEYS = ("mm_transformer.final_encoder.*",)
"""Keys of a reference checkpoint that reach no output: a built but never called encoder (79 %)."""

VANILLA_DEAD_KEYS = ("mm_transformer.gated_attention.*",)
"""Keys of a reference checkpoint without joint branch that reach no output: a never called gate."""


class Attention(nn.Module):
    """Attention of queries over a memory, with the state_dict of `torch.nn.MultiheadAttention`.

    softmax(Q K^T / sqrt(d)) V is written out, and the three projections are layers of their own: the
    exported graph then holds plain MatMul and Softmax with constant weights, which quantizers and
    every engine know. On disk the projections are stacked as `in_proj_weight` and `in_proj_bias`.

    Args:
        d_model: Feature size D.
        heads: Heads; must divide D.
    """

    def __init__(self, d_model: int, heads: int = 1) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"{heads} heads do not divide a feature of {d_model}")
        self.heads = heads
        self.scale = (d_model // heads) ** -0.5
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        for layer in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(layer.weight, gain=0.5**0.5)  # bound of the stacked (3D, D) matrix
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.zeros_(layer.bias)
        self.register_state_dict_post_hook(_stack_projections)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_split_projections)  # type: ignore[no-untyped-call]

    def _split_heads(self, x: Tensor) -> Tensor:
        if self.heads == 1:
            return x  # (..., N, D)
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(-3, -2)  # (..., heads, N, D/heads)

    def _join_heads(self, x: Tensor) -> Tensor:
        if self.heads == 1:
            return x  # (..., N, D)
        return x.transpose(-3, -2).flatten(-2)  # (..., N, D)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """Attend from `query` (..., N, D) over `memory` (..., K, D); returns (..., N, D)."""
        q = self._split_heads(self.q_proj(query)) * self.scale  # (..., N, d)
        k = self._split_heads(self.k_proj(memory))  # (..., K, d)
        v = self._split_heads(self.v_proj(memory))  # (..., K, d)
        weights = torch.softmax(q @ k.transpose(-2, -1), dim=-1)  # (..., N, K)
        out: Tensor = self.out_proj(self._join_heads(weights @ v))  # (..., N, D)
        return out

    def alone(self, x: Tensor) -> Tensor:
        """Attend from any query over `x` (..., D) as its only key, whose weight is 1; returns (..., D)."""
        out: Tensor = self.out_proj(self.v_proj(x))  # (..., D)
        return out


_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def _stack_projections(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: object) -> None:
    for kind in ("weight", "bias"):
        parts = [state.pop(f"{prefix}{name}.{kind}") for name in _PROJECTIONS]
        state[f"{prefix}in_proj_{kind}"] = torch.cat(parts)


def _split_projections(module: nn.Module, state: dict[str, Any], prefix: str, *_rest: object) -> None:
    for kind in ("weight", "bias"):
        stacked = state.pop(f"{prefix}in_proj_{kind}", None)
        if stacked is not None:
            for name, part in zip(_PROJECTIONS, stacked.chunk(3), strict=True):
                state[f"{prefix}{name}.{kind}"] = part


class _EncoderLayer(nn.Module):
    """Transformer encoder layer, normalised after each residual sum."""

    def __init__(self, d_model: int, d_ff: int, heads: int, alone: bool) -> None:
        super().__init__()
        self.alone = alone
        self.attention = Attention(d_model, heads)
        self.feed_forward = nn.Sequential(nn.Linear(d_model, d_ff), nn.ReLU(), nn.Linear(d_ff, d_model))
        self.layer_norm1 = nn.LayerNorm(d_model)
        self.layer_norm2 = nn.LayerNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(..., N, D) -> (..., N, D)."""
        attended = self.attention.alone(x) if self.alone else self.attention(x, x)  # (..., N, D)
        x = self.layer_norm1(x + attended)  # (..., N, D)
        y: Tensor = self.layer_norm2(x + self.feed_forward(x))  # (..., N, D)
        return y


class TransformerEncoder(nn.Module):
    """A stack of encoder layers without positional encoding.

    Args:
        d_model: Feature size D.
        d_ff: Hidden width of the feed-forward layers.
        heads: Attention heads.
        n_layers: Layers.
        alone: Each token attends to itself only. Published encoders that attend across the batch
            compute this for a batch of one.
    """

    def __init__(self, d_model: int, d_ff: int, heads: int, n_layers: int, alone: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_EncoderLayer(d_model, d_ff, heads, alone) for _ in range(n_layers)])

    def forward(self, x: Tensor) -> Tensor:
        """(..., N, D) -> (..., N, D)."""
        for layer in self.layers:
            x = layer(x)
        return x


def unit_length(x: Tensor) -> Tensor:
    """Each feature (..., D) divided by its L2 norm; zero stays zero."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (..., 1)
    return x / norm.clamp_min(1e-12)


class JointCrossAttentions(nn.Module):
    """Three encoders and six cross-attentions between two modalities and their joint representation.

    Args:
        d_model: Feature size D of both modalities.
        d_ff: Hidden width of the encoders' feed-forward layers.
        heads: Attention heads.
        n_layers: Layers of each encoder.
        alone: The encoders see each step alone (see `TransformerEncoder`).
    """

    def __init__(self, d_model: int, d_ff: int, heads: int, n_layers: int, alone: bool = False) -> None:
        super().__init__()
        self.visual_encoder = TransformerEncoder(d_model, d_ff, heads, n_layers, alone)
        self.physiological_encoder = TransformerEncoder(d_model, d_ff, heads, n_layers, alone)
        self.joint_representation_encoder = TransformerEncoder(d_model, d_ff, heads, n_layers, alone)
        self.cross_attention_v = Attention(d_model, heads)
        self.cross_attention_p = Attention(d_model, heads)
        self.cross_attention_pv = Attention(d_model, heads)
        self.out_layer_pv = nn.Linear(2 * d_model, d_model)

    def cross(self, visual: Tensor, physiological: Tensor) -> Tensor:
        """Features (B, L, D) -> six cross-attentions (B, 6, L, D), the last one physiological to joint."""
        joint = self.out_layer_pv(torch.cat([visual, physiological], dim=-1))  # (B, L, D), eq. 1
        v = self.visual_encoder(visual)  # (B, L, D)
        p = self.physiological_encoder(physiological)  # (B, L, D)
        j = self.joint_representation_encoder(joint)  # (B, L, D)
        # three sets of weights serve six cross-attentions: the query's owner picks the set
        crossed = [
            _attend_to_each(self.cross_attention_v, v, [p, j]),
            _attend_to_each(self.cross_attention_pv, j, [v, p]),
            _attend_to_each(self.cross_attention_p, p, [v, j]),
        ]  # 3 x (B, 2, L, D)
        return torch.cat(crossed, dim=1)  # (B, 6, L, D)


def _attend_to_each(attention: Attention, query: Tensor, memories: list[Tensor]) -> Tensor:
    """Query (B, L, D) over each of n memories (B, L, D) for itself -> (B, n, L, D)."""
    out: Tensor = attention(query.unsqueeze(1), torch.stack(memories, dim=1))  # (B, n, L, D)
    return out


_PUBLISHED_ORDER = (0, 4, 2, 1, 3, 5)
"""The order in which the published weights expect the cross-attentions of `JointCrossAttentions`."""


def side_by_side(crossed: Tensor) -> Tensor:
    """Six cross-attentions (B, 6, L, D) -> (B, L, 6D) in the published order."""
    return torch.cat([crossed[:, i] for i in _PUBLISHED_ORDER], dim=-1)


class PairCrossAttentions(nn.Module):
    """Two encoders, and each modality's attention to the other; without joint representation.

    The published encoders attend across the batch, so each step attends to itself only here.

    Args:
        d_model: Feature size D of both modalities.
        d_ff: Hidden width of the encoders' feed-forward layers.
        heads: Attention heads.
        n_layers: Layers of each encoder.
    """

    def __init__(self, d_model: int, d_ff: int, heads: int, n_layers: int) -> None:
        super().__init__()
        self.visual_encoder = TransformerEncoder(d_model, d_ff, heads, n_layers, alone=True)
        self.physiological_encoder = TransformerEncoder(d_model, d_ff, heads, n_layers, alone=True)
        self.cross_attention_v = Attention(d_model, heads)
        self.cross_attention_p = Attention(d_model, heads)

    def cross(self, visual: Tensor, physiological: Tensor) -> Tensor:
        """Features (B, L, D) -> both cross-attentions (B, L, 2D), the visual one first."""
        v = self.visual_encoder(visual)  # (B, L, D)
        p = self.physiological_encoder(physiological)  # (B, L, D)
        return torch.cat([self.cross_attention_v(v, p), self.cross_attention_p(p, v)], dim=-1)  # (B, L, 2D)


class _JointFusion(JointCrossAttentions):
    """Self-attention read-out of the six cross-attentions."""

    def __init__(self, d_model: int, d_ff: int, heads: int, n_layers: int) -> None:
        super().__init__(d_model, d_ff, heads, n_layers)
        self.final_visual_encoder = TransformerEncoder(d_model, d_ff, heads, n_layers)
        self.final_self_attention = Attention(d_model, heads)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Features (B, L, D) of unit length -> fused (B, L, D)."""
        # the order of tokens without positions is free, but for the last one: audio attending to joint
        tokens = self.cross(visual, audio).transpose(1, 2)  # (B, L, 6, D)
        tokens = self.final_visual_encoder(tokens)  # (B, L, 6, D)
        # only the last token is read out, so no other query is computed
        read_out = self.final_self_attention(tokens[:, :, -1:], tokens)  # (B, L, 1, D)
        fused: Tensor = read_out.squeeze(-2)  # (B, L, D)
        return fused


class _JointFcFusion(JointCrossAttentions):
    """Linear read-out of the six cross-attentions."""

    def __init__(self, d_model: int, d_ff: int, heads: int, n_layers: int, fused: int) -> None:
        super().__init__(d_model, d_ff, heads, n_layers)
        self.out_layer1 = nn.Linear(6 * d_model, fused)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Features (B, L, D) of unit length -> fused (B, L, F)."""
        # the published module returns (L, B), here it is (B, L) as from every other variant
        out: Tensor = self.out_layer1(side_by_side(self.cross(visual, audio)))  # (B, L, F)
        return out


class _PairFusion(PairCrossAttentions):
    """Linear read-out of the two cross-attentions."""

    def __init__(self, d_model: int, d_ff: int, heads: int, n_layers: int) -> None:
        super().__init__(d_model, d_ff, heads, n_layers)
        self.final_layer = nn.Linear(2 * d_model, d_model)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Features (B, L, D) of unit length -> fused (B, L, D)."""
        out: Tensor = self.final_layer(self.cross(visual, audio))  # (B, L, D)
        return out


class _ConcatFusion(nn.Module):
    """One linear layer on both features."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * d_model, d_model)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Features (B, L, D) of unit length -> fused (B, L, D)."""
        out: Tensor = self.fc(torch.cat([visual, audio], dim=-1))  # (B, L, D)
        return out


class FusedFeatures(nn.Module):
    """One fused feature for every step of a window, from the features of two modalities.

    Args:
        fusion: Takes the visual and the audio feature (B, L, D), returns the fused one.
        d_model: Feature size D that it takes.
        visual_size: Size of the visual feature; one other than D is brought to D by a linear layer.
        present_input: A learned token of its modality can stand in for the normalised feature of an
            absent step, so that attention needs no mask. Not in the paper.
    """

    def __init__(
        self, fusion: nn.Module, d_model: int, visual_size: int | None = None, present_input: bool = False
    ) -> None:
        super().__init__()
        self.d_model, self.visual_size = d_model, visual_size or d_model
        self.mm_transformer = fusion
        self.linear: nn.Linear | None = None
        if visual_size not in (None, d_model):
            self.linear = nn.Linear(visual_size, d_model)
        self.absent_tokens: nn.Parameter | None = None
        if present_input:
            tokens = unit_length(torch.randn(len(MODALITIES), d_model))  # (M, D)
            self.absent_tokens = nn.Parameter(tokens)

    def fuse(
        self,
        audio: Tensor,
        visual: Tensor,
        audio_present: Tensor | None = None,
        visual_present: Tensor | None = None,
    ) -> Tensor:
        """Features (B, L, D) and what is present of them (B, L) of bool -> fused feature (B, L, F)."""
        audio = self._stand_in(unit_length(audio), audio_present, 0)  # (B, L, D)
        visual = unit_length(visual)  # (B, L, D), or of its own size
        if self.linear is not None:
            visual = self.linear(visual)  # (B, L, D)
        visual = self._stand_in(visual, visual_present, 1)  # (B, L, D)
        fused: Tensor = self.mm_transformer(visual, audio)  # (B, L, F)
        return fused

    def _stand_in(self, feature: Tensor, present: Tensor | None, modality: int) -> Tensor:
        """Put the modality's token where its step is absent; what the feature holds there is unseen."""
        if present is None:
            return feature
        if self.absent_tokens is None:
            raise ValueError("this model has no `present` input: build it with present_input=True")
        return torch.where(present.unsqueeze(-1), feature, self.absent_tokens[modality])  # (B, L, D)


class JointFeatures(FusedFeatures):
    """The proposed fusion without a head.

    Args:
        d_model: Feature size D of both modalities, and of the fused feature.
        d_ff: Hidden width of the encoders' feed-forward layers.
        heads: Attention heads.
        n_layers: Layers of each encoder.
        present_input: See `FusedFeatures`.
    """

    def __init__(
        self, d_model: int, d_ff: int, heads: int = 1, n_layers: int = 1, present_input: bool = False
    ) -> None:
        super().__init__(_JointFusion(d_model, d_ff, heads, n_layers), d_model, None, present_input)


def regressor(d_model: int, width: int, dropout: float) -> nn.Sequential:
    """One number from a feature of `d_model` numbers, through a hidden layer."""
    return nn.Sequential(nn.Linear(d_model, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1))


class AffectFusion(FusedFeatures):
    """Valence and arousal of every step of a window, from its audio and visual features.

    Args:
        fusion: Takes the visual and the audio feature (B, L, D), returns the fused one (B, L, F).
        d_model: Feature size D that it takes.
        fused: Feature size F that it returns.
        head_width: Hidden width of the two regressors.
        dropout: Dropout in the regressors while training.
        visual_size: Size of the visual feature; None means D.
        present_input: The model takes `present` (see `FusedFeatures`).
    """

    def __init__(
        self,
        fusion: nn.Module,
        d_model: int,
        fused: int,
        head_width: int,
        dropout: float,
        visual_size: int | None,
        present_input: bool = False,
    ) -> None:
        super().__init__(fusion, d_model, visual_size, present_input)
        self.vregressor = regressor(fused, head_width, dropout)
        self.aregressor = regressor(fused, head_width, dropout)

    def forward(self, audio: Tensor, visual: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Estimate valence and arousal.

        Args:
            audio: (B, L, D).
            visual: (B, L, D); L may be any number.
            present: (B, M, L) of bool in the order of `MODALITIES`; None means everything is there.

        Returns:
            Valence (B, L) and arousal (B, L), each step's own; not bounded to [-1, 1] by the network.

        Raises:
            ValueError: `present` is given to a model that was not built to take it.
        """
        audio_present, visual_present = (None, None) if present is None else (present[:, 0], present[:, 1])
        return self.regress(self.fuse(audio, visual, audio_present, visual_present))

    def regress(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """Fused feature (B, L, F) -> valence (B, L) and arousal (B, L)."""
        return self.vregressor(fused).squeeze(-1), self.aregressor(fused).squeeze(-1)


class JointMultimodalTransformer(AffectFusion):
    """The proposed variant: six cross-attentions, read out by self-attention.

    Args:
        d_model: Feature size D of both modalities.
        d_ff: Hidden width of the encoders' feed-forward layers.
        heads: Attention heads.
        n_layers: Layers of each encoder.
        head_width: Hidden width of the two regressors.
        dropout: Dropout in the regressors while training.
        present_input: The model takes `present` (see `FusedFeatures`).
        visual_size: Size of the visual feature; None means D.
    """

    def __init__(
        self,
        d_model: int = 512,
        d_ff: int = 512,
        heads: int = 1,
        n_layers: int = 1,
        head_width: int = 128,
        dropout: float = 0.0,
        present_input: bool = False,
        visual_size: int | None = None,
    ) -> None:
        fusion = _JointFusion(d_model, d_ff, heads, n_layers)
        super().__init__(fusion, d_model, d_model, head_width, dropout, visual_size, present_input)

    @classmethod
    def like(cls, shapes: Shapes, num_heads: int = 1) -> JointMultimodalTransformer:
        """The network that a state_dict of these shapes belongs to, with so many attention heads."""
        d_model = size(shapes, "mm_transformer.out_layer_pv.weight", 0, 2, 512)
        return cls(
            d_model,
            _d_ff(shapes),
            num_heads,
            _n_layers(shapes),
            _head_width(shapes),
            visual_size=_visual_size(shapes),
        )


class JointFcTransformer(AffectFusion):
    """The proposed cross-attentions, read out by one linear layer.

    Args:
        d_model: Feature size D of both modalities.
        d_ff: Hidden width of the encoders' feed-forward layers.
        heads: Attention heads.
        n_layers: Layers of each encoder.
        head_width: Hidden width of the two regressors.
        dropout: Dropout in the regressors while training.
        fused: Size F of the fused feature.
        visual_size: Size of the visual feature; None means D.
    """

    def __init__(
        self,
        d_model: int = 512,
        d_ff: int = 512,
        heads: int = 1,
        n_layers: int = 1,
        head_width: int = 128,
        dropout: float = 0.0,
        fused: int = 1024,
        visual_size: int | None = None,
    ) -> None:
        fusion = _JointFcFusion(d_model, d_ff, heads, n_layers, fused)
        super().__init__(fusion, d_model, fused, head_width, dropout, visual_size)

    @classmethod
    def like(cls, shapes: Shapes, num_heads: int = 1) -> JointFcTransformer:
        """The network that a state_dict of these shapes belongs to, with so many attention heads."""
        d_model = size(shapes, "mm_transformer.out_layer_pv.weight", 0, 2, 512)
        return cls(
            d_model,
            _d_ff(shapes),
            num_heads,
            _n_layers(shapes),
            _head_width(shapes),
            fused=size(shapes, "mm_transformer.out_layer1.weight", 0, 2, 1024),
            visual_size=_visual_size(shapes),
        )


class VanillaTransformer(AffectFusion):
    """Two cross-attentions without joint representation, the paper's vanilla multimodal transformer.

    Args:
        d_model: Feature size D of both modalities.
        d_ff: Hidden width of the encoders' feed-forward layers.
        heads: Attention heads.
        n_layers: Layers of each encoder.
        head_width: Hidden width of the two regressors.
        dropout: Dropout in the regressors while training.
        visual_size: Size of the visual feature; None means D.
    """

    def __init__(
        self,
        d_model: int = 512,
        d_ff: int = 512,
        heads: int = 1,
        n_layers: int = 1,
        head_width: int = 128,
        dropout: float = 0.0,
        visual_size: int | None = None,
    ) -> None:
        fusion = _PairFusion(d_model, d_ff, heads, n_layers)
        super().__init__(fusion, d_model, d_model, head_width, dropout, visual_size)

    @classmethod
    def like(cls, shapes: Shapes, num_heads: int = 1) -> VanillaTransformer:
        """The network that a state_dict of these shapes belongs to, with so many attention heads."""
        d_model = size(shapes, "mm_transformer.final_layer.weight", 0, 2, 512)
        return cls(
            d_model,
            _d_ff(shapes),
            num_heads,
            _n_layers(shapes),
            _head_width(shapes),
            visual_size=_visual_size(shapes),
        )


class FeatureConcat(AffectFusion):
    """Both features side by side through one linear layer.

    Args:
        d_model: Feature size D of both modalities.
        head_width: Hidden width of the two regressors.
        dropout: Dropout in the regressors while training.
        visual_size: Size of the visual feature; None means D.
    """

    def __init__(
        self,
        d_model: int = 512,
        head_width: int = 128,
        dropout: float = 0.0,
        visual_size: int | None = None,
    ) -> None:
        super().__init__(_ConcatFusion(d_model), d_model, d_model, head_width, dropout, visual_size)

    @classmethod
    def like(cls, shapes: Shapes) -> FeatureConcat:
        """The network that a state_dict of these shapes belongs to."""
        d_model = size(shapes, "mm_transformer.fc.weight", 0, 2, 512)
        return cls(d_model, _head_width(shapes), visual_size=_visual_size(shapes))


def jmt_fusion_like(shapes: Shapes, num_heads: int = 1) -> AffectFusion:
    """The variant of the fusion that a state_dict belongs to, by its keys; else the proposed one.

    Args:
        shapes: Shape by key.
        num_heads: Attention heads, which the shapes do not tell.
    """
    if "mm_transformer.fc.weight" in shapes:
        return FeatureConcat.like(shapes)
    if "mm_transformer.final_layer.weight" in shapes:
        return VanillaTransformer.like(shapes, num_heads)
    if "mm_transformer.out_layer1.weight" in shapes:
        return JointFcTransformer.like(shapes, num_heads)
    return JointMultimodalTransformer.like(shapes, num_heads)


def _d_ff(shapes: Shapes) -> int:
    return size(shapes, "mm_transformer.visual_encoder.layers.0.feed_forward.0.weight", 0, 2, 512)


def _n_layers(shapes: Shapes) -> int:
    return n_numbered(shapes, "mm_transformer.visual_encoder.layers.", 1)


def _head_width(shapes: Shapes) -> int:
    return size(shapes, "vregressor.0.weight", 0, 2, 128)


def _visual_size(shapes: Shapes) -> int | None:
    return size(shapes, "linear.weight", 1, 2, 0) or None
