"""The joint multimodal transformer as deployable models: "jmt" in the paper's size, and "jmt-tiny".

Shape letters: B batch, M modality, L step, D feature.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from torch import Tensor

from edge_mer.types.model import AffectOutput, Encoder, FaceClip, Fusion, LogMel, ModelSpec, TensorSpec
from edge_mer_export.models import jmt as fusion_net
from edge_mer_export.models import r2plus1d, resnet_audio
from edge_mer_export.models.jmt import JointMultimodalTransformer
from edge_mer_export.models.r2plus1d import R2Plus1D
from edge_mer_export.models.resnet_audio import ResNetAudio
from edge_mer_export.models.zoo import Found, Part, Route, System, ZooModel

FRAME = Fraction(1, 30)
"""Between two frames of the nominal 30 fps camera that the grids are made of."""

KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)

SOURCE = "Joint Multimodal Transformer for Emotion Recognition in the Wild, arXiv 2403.10488"
LICENCE = (
    "The architecture comes without weights; weights keep the terms of whoever trained or supplied them."
)

PARTS = (
    Part(
        "fusion",
        "fusion_w.pt",
        "the fusion of face and voice",
        kinds=("jmt-fusion",),
        routes=(Route("", "fusion"),),
    ),
    Part(
        "visual",
        "vision_r2d1.pt",
        "R(2+1)D-18 on the face",
        kinds=("r2plus1d",),
        routes=(Route("r2plus1d.", "visual", "r2plus1d."), Route("", "visual", "r2plus1d.")),
    ),
    Part(
        "audio",
        "audio_resnet18.pt",
        "ResNet18 on the voice",
        kinds=("resnet-audio",),
        routes=(Route("resnet.", "audio", "resnet."), Route("", "audio", "resnet.")),
    ),
)

STAGES = ("visual", "audio", "fusion")

LAST_LAYERS = {"valence": "vregressor.3", "arousal": "aregressor.3"}


class JmtFusionStage(JointMultimodalTransformer):
    """The fusion with its tensors in the order of the declared encoders: visual, then audio."""

    def forward(  # type: ignore[override]  # the declared order is not the paper's
        self, visual: Tensor, audio: Tensor, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Estimate valence and arousal.

        Args:
            visual: (B, L, D).
            audio: (B, L, D).
            present: (B, M, L) of bool, visual first; None means everything is there.

        Returns:
            Valence (B, L) and arousal (B, L).
        """
        visual_present, audio_present = (None, None) if present is None else (present[:, 0], present[:, 1])
        return self.regress(self.fuse(audio, visual, audio_present, visual_present))


def visual_encoder(clip: FaceClip, step: Fraction, feature: int) -> Encoder:
    """An encoder of one clip per step to a feature of the given size."""
    return Encoder(
        stage="visual",
        modality="visual",
        input=TensorSpec(
            name="clip",
            axes=("batch", "channel", "frame", "height", "width"),
            shape=("batch", 3, clip.n_frames, clip.size_px, clip.size_px),
        ),
        output=feature_spec(feature),
        period=step,
        span=step,
        preprocess=clip,
    )


def _audio(log_mel: LogMel, step: Fraction, feature: int) -> Encoder:
    return Encoder(
        stage="audio",
        modality="audio",
        input=TensorSpec(
            name="log_mel",
            axes=("batch", "channel", "mel", "column"),
            shape=("batch", 1, log_mel.n_mels, log_mel.width),
        ),
        output=feature_spec(feature),
        period=step,
        span=step,
        preprocess=log_mel,
    )


def feature_spec(size: int) -> TensorSpec:
    """What an encoder gives: one feature of `size` numbers."""
    return TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", size))


def _fusion(
    n_steps: int,
    feature: int,
    *,
    steps: int | str,
    present: bool,
    warm_up: Literal["mask", "shorten", "withhold"],
) -> Fusion:
    axes = ("batch", "steps", "feature")
    inputs = [
        TensorSpec(name=name, axes=axes, shape=("batch", steps, feature)) for name in ("visual", "audio")
    ]
    if present:
        axes = ("batch", "modality", "steps")
        inputs.append(TensorSpec(name="present", axes=axes, shape=("batch", 2, steps), dtype="bool"))
    outputs = (
        TensorSpec(name=name, axes=("batch", "steps"), shape=("batch", steps))
        for name in ("valence", "arousal")
    )
    return Fusion(
        n_steps=n_steps,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        has_present_input=present,
        warm_up=warm_up,
    )


def _log_mel(width: int) -> LogMel:
    """The published audio front end: 20 ms windows every 10 ms at 44.1 kHz."""
    return LogMel(
        rate_hz=44_100,
        n_fft=1024,
        win_samples=882,
        hop_samples=441,
        n_mels=64,
        f_min_hz=0.0,
        f_max_hz=22_050.0,
        amin=1e-10,
        top_db=80.0,
        mean=-14.8,
        std=19.895,
        width=width,
    )


def jmt(found: Found) -> ZooModel:
    """The paper's model: R(2+1)D-18 and ResNet18, 16 steps of 32 frames."""
    step, feature = 32 * FRAME, 512
    clip = FaceClip(
        size_px=112,
        n_frames=8,
        frame_interval=4 * FRAME,
        last_frame_before_end=FRAME,
        frame_tolerance=2 * FRAME,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
    )
    spec = ModelSpec(
        name="jmt",
        title="Joint multimodal transformer: valence and arousal from face and voice",
        source=SOURCE,
        step=step,
        encoders=(visual_encoder(clip, step, feature), _audio(_log_mel(107), step, feature)),
        fusion=_fusion(16, feature, steps="steps", present=False, warm_up="shorten"),
        outputs=(AffectOutput(name="valence"), AffectOutput(name="arousal")),
        intended_use=(
            "Research on dimensional affect from face and voice, with the user's own weights. "
            "Not a medical device, and not for decisions about people."
        ),
        licence=LICENCE,
    )
    stages = {"visual": R2Plus1D(), "audio": ResNetAudio(), "fusion": JmtFusionStage()}
    dead = {
        "visual": r2plus1d.DEAD_KEYS,
        "audio": resnet_audio.DEAD_KEYS,
        "fusion": fusion_net.DEAD_KEYS,
    }
    return ZooModel(spec, stages, LAST_LAYERS, dead)


def jmt_tiny(found: Found) -> ZooModel:
    """A model of about a million parameters for small processors, with a `present` input."""
    step, n_steps, feature = 8 * FRAME, 8, 80
    clip = FaceClip(
        size_px=48,
        n_frames=4,
        frame_interval=2 * FRAME,
        last_frame_before_end=FRAME,
        frame_tolerance=FRAME,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
    )
    spec = ModelSpec(
        name="jmt-tiny",
        title="Joint multimodal transformer with small backbones: valence and arousal from face and voice",
        source=f"{SOURCE}; small backbones and the `present` input are edge-mer's own",
        step=step,
        encoders=(visual_encoder(clip, step, feature), _audio(_log_mel(27), step, feature)),
        fusion=_fusion(n_steps, feature, steps=n_steps, present=True, warm_up="mask"),
        outputs=(AffectOutput(name="valence"), AffectOutput(name="arousal")),
        intended_use=(
            "Trials of the whole way from training to device, and research with weights that the user "
            "trains. Not a medical device, and not for decisions about people."
        ),
        licence=LICENCE,
    )
    blocks = (1, 1, 1, 1)
    stages = {
        "visual": R2Plus1D((16, 40, 72, feature), blocks, stem_width=16),
        "audio": ResNetAudio((16, 32, 64, feature), blocks),
        "fusion": JmtFusionStage(feature, feature, head_width=64, present_input=True),
    }
    return ZooModel(spec, stages, LAST_LAYERS)


JMT = System("jmt", STAGES, jmt, PARTS)
JMT_TINY = System("jmt-tiny", STAGES, jmt_tiny)
