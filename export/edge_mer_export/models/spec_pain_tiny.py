"""Pain from face and electrodermal activity, small: "pain-tiny".

Shape letters: B batch, M modality, L step, D feature, K level.
"""

from __future__ import annotations

from fractions import Fraction

from torch import Tensor, nn

from edge_mer.types.model import Encoder, FaceClip, Fusion, ModelSpec, PainOutput, Signal, TensorSpec
from edge_mer_export.models.eda_cnn import EdaCnn
from edge_mer_export.models.jmt import JointFeatures
from edge_mer_export.models.r2plus1d import R2Plus1D
from edge_mer_export.models.tsav import FRAME, KINETICS_MEAN, KINETICS_STD, feature_spec, visual_encoder
from edge_mer_export.models.zoo import Found, System, ZooModel

LEVELS = ("none", "mild", "moderate", "strong", "severe")
EDA_HZ = 512
MAX_SKEW_MS = 200.0
"""The largest measured at which the level of pain loses no more than 0.02 of its CCC (docs/results.md)."""


class PainFusionStage(JointFeatures):
    """Logits of the levels of pain for every step of a window.

    Args:
        d_model: Feature size D of both modalities.
        head_width: Hidden width of the head.
        n_levels: Levels K.
        dropout: Dropout in the head while training.
    """

    def __init__(self, d_model: int, head_width: int, n_levels: int, dropout: float = 0.0) -> None:
        super().__init__(d_model, d_model, present_input=True)
        self.head = nn.Sequential(
            nn.Linear(d_model, head_width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(head_width, n_levels)
        )

    def forward(self, visual: Tensor, eda: Tensor, present: Tensor) -> Tensor:
        """Estimate pain.

        Args:
            visual: (B, L, D).
            eda: (B, L, D).
            present: (B, M, L) of bool, visual first.

        Returns:
            Logits (B, L, K).
        """
        fused = self.fuse(eda, visual, present[:, 1], present[:, 0])  # (B, L, D)
        logits: Tensor = self.head(fused)  # (B, L, K)
        return logits


def pain_tiny(found: Found) -> ZooModel:
    """Five levels of pain, every half second; the EDA is heard for 2 s longer, since skin is slow."""
    step, n_steps, feature = 15 * FRAME, 8, 64
    clip = FaceClip(
        size_px=48,
        n_frames=4,
        frame_interval=4 * FRAME,
        last_frame_before_end=FRAME,
        frame_tolerance=2 * FRAME,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
    )
    span = Fraction(11, 2)
    n_samples = int(span * EDA_HZ)
    eda = Encoder(
        stage="eda",
        modality="eda",
        input=TensorSpec(name="piece", axes=("batch", "channel", "sample"), shape=("batch", 1, n_samples)),
        output=feature_spec(feature),
        period=step,
        span=span,
        offset=Fraction(2),
        preprocess=Signal(rate_hz=EDA_HZ, unit="uS"),
        min_coverage=1.0,
    )
    spec = ModelSpec(
        name="pain-tiny",
        title="Joint multimodal transformer with small backbones: levels of pain from face and EDA",
        source=(
            "After Joint Multimodal Transformer for Emotion Recognition in the Wild, arXiv 2403.10488; "
            "backbones, five levels, geometry and the `present` input are edge-mer's own"
        ),
        step=step,
        encoders=(visual_encoder(clip, step, feature), eda),
        fusion=_fusion(n_steps, feature),
        outputs=(PainOutput(scale="sim-pain-0-4", levels=LEVELS),),
        intended_use=(
            "Trials of the whole way from training to device, and research with weights that the user "
            "trains. Not a medical device, and not for decisions about people."
        ),
        licence="Apache-2.0",
        max_skew_ms=MAX_SKEW_MS,
    )
    stages = {
        "visual": R2Plus1D((16, 32, 48, feature), (1, 1, 1, 1), stem_width=16),
        "eda": EdaCnn(n_samples, 16, (16, 24, 32), feature),
        "fusion": PainFusionStage(feature, 64, len(LEVELS)),
    }
    return ZooModel(spec, stages, {"pain": "head.3"})


def _fusion(n_steps: int, feature: int) -> Fusion:
    inputs = [
        TensorSpec(name=name, axes=("batch", "steps", "feature"), shape=("batch", n_steps, feature))
        for name in ("visual", "eda")
    ]
    present = TensorSpec(
        name="present", axes=("batch", "modality", "steps"), shape=("batch", 2, n_steps), dtype="bool"
    )
    logits = TensorSpec(name="pain", axes=("batch", "steps", "level"), shape=("batch", n_steps, len(LEVELS)))
    return Fusion(
        n_steps=n_steps,
        inputs=(*inputs, present),
        outputs=(logits,),
        has_present_input=True,
        warm_up="mask",
    )


PAIN_TINY = System("pain-tiny", ("visual", "eda", "fusion"), pain_tiny)
