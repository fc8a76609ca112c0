"""Emotion from a voice: "voice-emodb", trained on real people who acted."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import nn

from edge_mer.types.model import EmotionOutput, Encoder, Fusion, LogMel, ModelSpec, TensorSpec
from edge_mer_export.models.tsav import feature_spec, feature_tensors
from edge_mer_export.models.voice_resnet import VoiceHead, VoiceResNet
from edge_mer_export.models.zoo import Found, System, ZooModel

LABELS = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
STEP, SPAN = Fraction(1, 2), Fraction(2)

SOUND = LogMel(
    rate_hz=16_000,
    n_fft=2048,
    win_samples=1024,
    hop_samples=256,
    n_mels=128,
    f_min_hz=50.0,
    f_max_hz=8_000.0,
    amin=1e-10,
    top_db=80.0,
    mean=-7.8,
    std=17.5,
    width=126,
)
"""Windows of 64 ms, long enough to tell the harmonics of a voice apart, every 16 ms.

Mean and std are those of the recordings that it learned from.
"""

WIDTHS = (8, 24, 64, 128)
"""Channels of the weights that come along."""

WIDE = (8, 24, 96, 288)
"""Channels of a wider one, of more than a million parameters."""


def voice_emodb(found: Found) -> ZooModel:
    """One of seven emotions, every half second."""
    return of_width(WIDTHS)


def of_width(widths: Sequence[int]) -> ZooModel:
    """The model with other channels than those that its weights have."""
    encoder = VoiceResNet(SOUND.n_mels, widths)
    spec = ModelSpec(
        name="voice-emodb",
        title="Emotion from a voice, learned from actors",
        source=(
            "edge-mer's own; trained on a copy of the Berlin Database of Emotional Speech (Burkhardt et al., "
            "A Database of German Emotional Speech, Interspeech 2005)"
        ),
        step=STEP,
        encoders=(_encoder(encoder.n_features),),
        fusion=_fusion(encoder.n_features),
        outputs=(EmotionOutput(labels=LABELS),),
        intended_use=(
            "Research and trials on German speech of one person near a microphone, in a quiet room. Learned "
            "from emotions that four actors played in a studio, not from felt ones. Not a medical device, "
            "not for diagnosis, and not for decisions about people."
        ),
        licence="Apache-2.0; training data under CC0-1.0",
    )
    stages: dict[str, nn.Module] = {
        "audio": encoder,
        "fusion": VoiceHead(encoder.n_features, len(LABELS)),
    }
    return ZooModel(spec, stages, {"emotion": "head"})


def _encoder(feature: int) -> Encoder:
    return Encoder(
        stage="audio",
        modality="audio",
        input=TensorSpec(
            name="log_mel",
            axes=("batch", "channel", "mel", "column"),
            shape=("batch", 1, SOUND.n_mels, SOUND.width),
        ),
        output=feature_spec(feature),
        period=STEP,
        span=SPAN,
        preprocess=SOUND,
        min_coverage=1.0,
    )


def _fusion(feature: int) -> Fusion:
    return Fusion(
        n_steps=1,
        inputs=feature_tensors({"audio": feature}, 1),
        outputs=(TensorSpec(name="emotion", axes=("batch", "class"), shape=("batch", len(LABELS))),),
        warm_up="withhold",
    )


VOICE_EMODB = System(
    "voice-emodb",
    ("audio", "fusion"),
    voice_emodb,
    learned_from="4 actors of a copy of EmoDB, see docs/voice-emodb.md",
)
