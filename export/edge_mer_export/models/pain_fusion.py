"""Pain from a face and an electrodermal feature per step: the proposed fusion and those it is compared with.

Source: "Joint Multimodal Transformer for Emotion Recognition in the Wild", arXiv 2403.10488, on BioVid.
Key names are those of the published code, so that a user's weights fit; there `physiological` means EDA.

The published encoders attend across the batch. Here each step attends to itself only, which is what they
compute for a batch of one. Cross-attentions and the final encoder attend over the steps in both.

Shape letters: B batch, S step, D feature, K class, 6 cross-attentions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edge_mer_export.models.jmt import (
    JointCrossAttentions,
    PairCrossAttentions,
    TransformerEncoder,
    side_by_side,
    unit_length,
)
from edge_mer_export.models.shapes import Shapes, n_numbered, size

if TYPE_CHECKING:
    from typing import Self  # Python 3.11's

MULTI_DEAD_KEYS = ("cross_attention_all.*", "out_layer_ca.*", "out_layerAll[12].*")
"""Keys of a reference `Multi_cross_attention` that reach no output: layers of other read-outs (44 %)."""

MULTI_ONE_STEP_DEAD_KEYS = ("out_layer[1-5].*", "out_layer_ca.*")
"""Keys of a reference `MultimodalTransformer_multi` that reach no output: layers of other read-outs."""

PAIR_DEAD_KEYS = ("gated_attention.*", "fc.*", "layer_norm.*")
"""Keys of a reference `Two_cross_attention` or `MultimodalTransformer` that reach no output."""

CONCAT_DEAD_KEYS = ("layer_norm.*",)
"""Keys of a reference concatenation that reach no output: a never called norm."""

_PAIR_WIDTHS = (512, 256, 64)


class MultiCrossAttention(JointCrossAttentions):
    """The proposed fusion: six cross-attentions, an encoder over the steps, and five linear layers.

    Args:
        d_model: Feature size D of both modalities.
        d_ff: Hidden width of the encoders' feed-forward layers.
        heads: Attention heads.
        n_layers: Layers of each encoder.
        widths: Widths of the head's hidden layers.
        n_classes: Classes K.
    """

    def __init__(
        self,
        d_model: int = 512,
        d_ff: int = 512,
        heads: int = 1,
        n_layers: int = 1,
        widths: Sequence[int] = (1024, 512, 256, 64),
        n_classes: int = 2,
    ) -> None:
        super().__init__(d_model, d_ff, heads, n_layers, alone=True)
        self.d_model, self.n_classes = d_model, n_classes
        self.final_encoder = TransformerEncoder(6 * d_model, d_ff, heads, n_layers)
        self.out_layer1 = nn.Linear(6 * d_model, widths[0])
        self.out_layer2 = nn.Linear(widths[0], widths[1])
        self.out_layer3 = nn.Linear(widths[1], widths[2])
        self.out_layer4 = nn.Linear(widths[2], widths[3])
        self.out_layer5 = nn.Linear(widths[3], n_classes)

    @classmethod
    def like(cls, shapes: Shapes, num_heads: int = 1) -> MultiCrossAttention:
        """The network that a state_dict of these shapes belongs to, with so many attention heads."""
        return cls(
            _d_model(shapes),
            _d_ff(shapes),
            num_heads,
            _n_layers(shapes),
            _widths(shapes, (1024, 512, 256, 64)),
            size(shapes, "out_layer5.weight", 0, 2, 2),
        )

    def forward(self, visual: Tensor, eda: Tensor) -> Tensor:
        """Estimate pain.

        Args:
            visual: (B, S, D).
            eda: (B, S, D); S may be any number.

        Returns:
            Logits (B, K) of the last step.
        """
        crossed = side_by_side(self.cross(visual, eda))  # (B, S, 6D)
        last = self.final_encoder(crossed)[:, -1]  # (B, 6D)
        hidden = [self.out_layer1, self.out_layer2, self.out_layer3, self.out_layer4]
        return _classify(last, hidden, self.out_layer5)  # (B, K)


class MultimodalTransformerMulti(JointCrossAttentions):
    """The proposed fusion for a clip of one step: six cross-attentions and two linear layers.

    An attention over one step gives that step all its weight, whatever the query is.

    Args:
        d_model: Feature size D of both modalities.
        d_ff: Hidden width of the encoders' feed-forward layers.
        heads: Attention heads.
        n_layers: Layers of each encoder.
        width: Width of the head's hidden layer.
        n_classes: Classes K.
    """

    def __init__(
        self,
        d_model: int = 512,
        d_ff: int = 512,
        heads: int = 1,
        n_layers: int = 1,
        width: int = 1024,
        n_classes: int = 2,
    ) -> None:
        super().__init__(d_model, d_ff, heads, n_layers, alone=True)
        self.d_model, self.n_classes = d_model, n_classes
        self.out_layerAll1 = nn.Linear(6 * d_model, width)
        self.out_layerAll2 = nn.Linear(width, n_classes)

    @classmethod
    def like(cls, shapes: Shapes, num_heads: int = 1) -> MultimodalTransformerMulti:
        """The network that a state_dict of these shapes belongs to, with so many attention heads."""
        return cls(
            _d_model(shapes),
            _d_ff(shapes),
            num_heads,
            _n_layers(shapes),
            size(shapes, "out_layerAll1.weight", 0, 2, 1024),
            size(shapes, "out_layerAll2.weight", 0, 2, 2),
        )

    def cross(self, visual: Tensor, physiological: Tensor) -> Tensor:
        """Features (B, 1, D) -> six cross-attentions (B, 6, 1, D), the last one physiological to joint."""
        # the published norm over the axis of one step is an absolute value
        joint = self.out_layer_pv(torch.cat([visual, physiological], dim=-1).abs())  # (B, 1, D)
        v = self.visual_encoder(visual)  # (B, 1, D)
        p = self.physiological_encoder(physiological)  # (B, 1, D)
        j = self.joint_representation_encoder(joint)  # (B, 1, D)
        crossed = [
            *(self.cross_attention_v.alone(memory) for memory in (p, j)),
            *(self.cross_attention_pv.alone(memory) for memory in (v, p)),
            *(self.cross_attention_p.alone(memory) for memory in (v, j)),
        ]  # 6 x (B, 1, D)
        return torch.stack(crossed, dim=1)  # (B, 6, 1, D)

    def forward(self, visual: Tensor, eda: Tensor) -> Tensor:
        """Estimate pain.

        Args:
            visual: (B, 1, D).
            eda: (B, 1, D).

        Returns:
            Logits (B, K).
        """
        crossed = side_by_side(self.cross(visual, eda)).squeeze(1)  # (B, 6D)
        # there is no activation between these two
        logits: Tensor = self.out_layerAll2(self.out_layerAll1(crossed))  # (B, K)
        return logits


class _PairFusion(PairCrossAttentions):
    """Two cross-attentions and four linear layers.

    Args:
        d_model: Feature size D of both modalities.
        d_ff: Hidden width of the encoders' feed-forward layers.
        heads: Attention heads.
        n_layers: Layers of each encoder.
        widths: Widths of the head's hidden layers.
        n_classes: Classes K.
    """

    def __init__(
        self,
        d_model: int = 512,
        d_ff: int = 512,
        heads: int = 1,
        n_layers: int = 1,
        widths: Sequence[int] = _PAIR_WIDTHS,
        n_classes: int = 2,
    ) -> None:
        super().__init__(d_model, d_ff, heads, n_layers)
        self.d_model, self.n_classes = d_model, n_classes
        self.out_layer1 = nn.Linear(2 * d_model, widths[0])
        self.out_layer2 = nn.Linear(widths[0], widths[1])
        self.out_layer3 = nn.Linear(widths[1], widths[2])
        self.out_layer4 = nn.Linear(widths[2], n_classes)

    @classmethod
    def like(cls, shapes: Shapes, num_heads: int = 1) -> Self:
        """The network that a state_dict of these shapes belongs to, with so many attention heads."""
        return cls(
            _d_model(shapes),
            _d_ff(shapes),
            num_heads,
            _n_layers(shapes),
            _widths(shapes, _PAIR_WIDTHS),
            size(shapes, "out_layer4.weight", 0, 2, 2),
        )

    def classify(self, crossed: Tensor) -> Tensor:
        """Both cross-attentions of a step (B, 2D) -> logits (B, K)."""
        return _classify(crossed, [self.out_layer1, self.out_layer2, self.out_layer3], self.out_layer4)


class TwoCrossAttention(_PairFusion):
    """The vanilla fusion: each modality attends to the other."""

    def forward(self, visual: Tensor, eda: Tensor) -> Tensor:
        """Estimate pain.

        Args:
            visual: (B, S, D); S is 4 in the published runs, and at least that.
            eda: (B, S, D).

        Returns:
            Logits (B, K).
        """
        # the published code reads the fourth step, not the last one
        return self.classify(self.cross(visual, eda)[:, 3])  # (B, K)


class MultimodalTransformer(_PairFusion):
    """The vanilla fusion for a clip of one step, to which an attention gives all its weight."""

    def cross(self, visual: Tensor, physiological: Tensor) -> Tensor:
        """Features (B, 1, D) -> both cross-attentions (B, 1, 2D), the visual one first."""
        v = self.visual_encoder(visual)  # (B, 1, D)
        p = self.physiological_encoder(physiological)  # (B, 1, D)
        return torch.cat([self.cross_attention_v.alone(p), self.cross_attention_p.alone(v)], dim=-1)

    def forward(self, visual: Tensor, eda: Tensor) -> Tensor:
        """Estimate pain.

        Args:
            visual: (B, 1, D).
            eda: (B, 1, D).

        Returns:
            Logits (B, K).
        """
        return self.classify(self.cross(visual, eda).squeeze(1))  # (B, K)


class ConcatPlusFc(nn.Module):
    """Both features side by side through four linear layers.

    Args:
        d_model: Feature size D of both modalities.
        widths: Widths of the hidden layers.
        n_classes: Classes K.
        normalise: Bring both features to unit length first, as where they come from networks that were
            trained together with these layers.
    """

    def __init__(
        self,
        d_model: int = 512,
        widths: Sequence[int] = _PAIR_WIDTHS,
        n_classes: int = 2,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.d_model, self.n_classes = d_model, n_classes
        self.out_layer1 = nn.Linear(2 * d_model, widths[0])
        self.out_layer2 = nn.Linear(widths[0], widths[1])
        self.out_layer3 = nn.Linear(widths[1], widths[2])
        self.out_layer4 = nn.Linear(widths[2], n_classes)

    @classmethod
    def like(cls, shapes: Shapes, normalise: bool = False) -> ConcatPlusFc:
        """The network that a state_dict of these shapes belongs to.

        Args:
            shapes: Shape by key.
            normalise: Bring both features to unit length first.
        """
        return cls(
            size(shapes, "out_layer1.weight", 1, 2, 1024) // 2,
            _widths(shapes, _PAIR_WIDTHS),
            size(shapes, "out_layer4.weight", 0, 2, 2),
            normalise,
        )

    def forward(self, visual: Tensor, eda: Tensor) -> Tensor:
        """Estimate pain.

        Args:
            visual: (B, S, D).
            eda: (B, S, D); S may be any number.

        Returns:
            Logits (B, K) of the last step.
        """
        # the published code returns every step's logits; the last ones are read as in the proposed fusion
        visual, eda = visual[:, -1], eda[:, -1]  # (B, D)
        if self.normalise:
            visual, eda = unit_length(visual), unit_length(eda)  # (B, D)
        hidden = [self.out_layer1, self.out_layer2, self.out_layer3]
        return _classify(torch.cat([visual, eda], dim=-1), hidden, self.out_layer4)  # (B, K)


def _classify(x: Tensor, hidden: Sequence[nn.Linear], last: nn.Linear) -> Tensor:
    """(B, F) through the hidden layers, each with a ReLU, and the last one -> logits (B, K)."""
    for layer in hidden:
        x = torch.relu(layer(x))
    logits: Tensor = last(x)  # (B, K)
    return logits


def _d_model(shapes: Shapes) -> int:
    return size(shapes, "cross_attention_v.out_proj.weight", 0, 2, 512)


def _d_ff(shapes: Shapes) -> int:
    return size(shapes, "visual_encoder.layers.0.feed_forward.0.weight", 0, 2, 512)


def _n_layers(shapes: Shapes) -> int:
    return n_numbered(shapes, "visual_encoder.layers.", 1)


def _widths(shapes: Shapes, defaults: Sequence[int]) -> list[int]:
    """Widths of the head's hidden layers."""
    return [size(shapes, f"out_layer{i}.weight", 0, 2, width) for i, width in enumerate(defaults, start=1)]
