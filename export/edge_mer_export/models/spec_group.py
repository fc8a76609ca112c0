"""Emotion of a group from the whole scene and its sound: "group", and small, "group-tiny".

Both are edge-mer's own design after an abstract; see `edge_mer_export.models.group`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from edge_mer.types.model import EmotionOutput, Encoder, Fusion, ModelSpec, SceneClip, TensorSpec
from edge_mer_export.models.group import GroupFusion
from edge_mer_export.models.r2plus1d import R2Plus1D
from edge_mer_export.models.resnet_audio import ResNetAudio
from edge_mer_export.models.tsav import (
    KINETICS_MEAN,
    KINETICS_STD,
    audio_encoder,
    feature_spec,
    feature_tensors,
    log_mel,
)
from edge_mer_export.models.zoo import Found, System, ZooModel

LABELS = ("positive", "neutral", "negative")
"""In the order in which VGAF numbers them, from 0."""

STAGES = ("visual", "audio", "fusion")
STEP = Fraction(1)
N_COLUMNS = 101
"""Of a spectrogram of one step, in the joint multimodal transformer's audio front end."""

SOURCE = (
    "edge-mer's own design after the abstract of Multimodal End-to-End Group Emotion Recognition using "
    "Cross-Modal Attention, arXiv 2111.05890; no implementation or description of its layers is public"
)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a variant where no weights say otherwise.

    Attributes:
        visual: Channels of the scene network's layers; the last is its feature.
        audio: Channels of the sound network's layers; likewise.
        n_blocks: Residual blocks of each layer.
        stem_width: Channels inside the scene network's stem.
        d_model: Feature size inside the fusion, and hidden width of its feed-forward layers.
        clip: What the scene network sees of a step.
    """

    visual: tuple[int, int, int, int]
    audio: tuple[int, int, int, int]
    n_blocks: int
    stem_width: int
    d_model: int
    clip: SceneClip

    @property
    def blocks(self) -> tuple[int, ...]:
        """Residual blocks of the four layers."""
        return (self.n_blocks,) * 4


def _clip(n_frames: int, height_px: int, width_px: int) -> SceneClip:
    """Frames at equal distances over a step of 1 s, from its start on."""
    return SceneClip(
        height_px=height_px,
        width_px=width_px,
        n_frames=n_frames,
        frame_interval=STEP / n_frames,
        last_frame_before_end=STEP / n_frames,
        frame_tolerance=Fraction(1, 15),
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
    )


FULL = Sizes((64, 128, 256, 512), (64, 128, 256, 512), 2, 45, 512, _clip(8, 112, 196))
TINY = Sizes((8, 32, 72, 112), (16, 32, 64, 80), 1, 8, 96, _clip(2, 80, 140))


def _visual_encoder(clip: SceneClip, feature: int) -> Encoder:
    return Encoder(
        stage="visual",
        modality="visual",
        input=TensorSpec(
            name="clip",
            axes=("batch", "channel", "frame", "height", "width"),
            shape=("batch", 3, clip.n_frames, *clip.shape_px),
        ),
        output=feature_spec(feature),
        period=STEP,
        span=STEP,
        preprocess=clip,
    )


def _fusion(network: GroupFusion) -> Fusion:
    n_steps = network.n_steps
    return Fusion(
        n_steps=n_steps,
        inputs=feature_tensors({"visual": network.visual_size, "audio": network.audio_size}, n_steps),
        outputs=(TensorSpec(name="emotion", axes=("batch", "class"), shape=("batch", len(LABELS))),),
        warm_up="withhold",
    )


def _networks(found: Found, sizes: Sizes) -> tuple[R2Plus1D, ResNetAudio, GroupFusion]:
    """Scene, sound and fusion, each of the sizes of its weights where there are some.

    The scene's feature is the maximum over its last map, so that a face counts wherever it is in the picture.
    """
    shapes = {stage: found.of(stage) for stage in STAGES}
    visual = R2Plus1D(sizes.visual, sizes.blocks, sizes.stem_width)
    if shapes["visual"]:
        visual = R2Plus1D.like(shapes["visual"], "max")
    audio = ResNetAudio(sizes.audio, sizes.blocks)
    if shapes["audio"]:
        audio = ResNetAudio.like(shapes["audio"])
    if shapes["fusion"]:
        return visual, audio, GroupFusion.like(shapes["fusion"])
    return visual, audio, GroupFusion(visual.n_features, audio.n_features, sizes.d_model, sizes.d_model)


def _model(name: str, title: str, use: str, sizes: Sizes, found: Found) -> ZooModel:
    networks = visual, audio, fusion = _networks(found, sizes)
    encoders = (
        _visual_encoder(sizes.clip, visual.n_features),
        audio_encoder(log_mel(N_COLUMNS), STEP, audio.n_features),
    )
    spec = ModelSpec(
        name=name,
        title=title,
        source=SOURCE,
        step=STEP,
        encoders=encoders,
        fusion=_fusion(fusion),
        outputs=(EmotionOutput(labels=LABELS),),
        intended_use=f"{use} Not a medical device, and not for decisions about people.",
        licence="Apache-2.0; weights keep the terms of whoever trained or supplied them.",
    )
    return ZooModel(spec, dict[str, nn.Module](zip(STAGES, networks, strict=True)), {"emotion": "head"})


def group(found: Found) -> ZooModel:
    """R(2+1)D-18 on the scene, ResNet18 on its sound, five steps of a second."""
    return _model(
        "group",
        "Cross-modal attention: emotion of a group from scene and sound (edge-mer's own design)",
        "Research on emotion of groups from scene and sound, with weights that the user trains.",
        FULL,
        found,
    )


def group_tiny(found: Found) -> ZooModel:
    """About a million parameters, on small pictures, two in a second."""
    return _model(
        "group-tiny",
        "Cross-modal attention with small backbones: emotion of a group (edge-mer's own design)",
        "Trials of the whole way from training to device, and research with weights that the user trains.",
        TINY,
        found,
    )


GROUP = System("group", STAGES, group)
GROUP_TINY = System("group-tiny", STAGES, group_tiny)
