"""The joint multimodal transformer as deployable models: "jmt" in its published variants, and "jmt-tiny".

Shape letters: B batch, M modality, L step, D feature.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from edge_mer.types.model import AffectOutput, Fusion, ModelSpec, TensorSpec
from edge_mer_export.models import jmt as fusion_net
from edge_mer_export.models import tsav
from edge_mer_export.models.jmt import JointMultimodalTransformer, jmt_fusion_like
from edge_mer_export.models.r2plus1d import R2Plus1D
from edge_mer_export.models.resnet_audio import ResNetAudio
from edge_mer_export.models.tsav import FRAME, KINETICS_MEAN, KINETICS_STD
from edge_mer_export.models.zoo import (
    Found,
    Part,
    Route,
    Setting,
    System,
    ZooModel,
    heads_that_fit,
    one_of,
    whole,
)

SOURCE = "Joint Multimodal Transformer for Emotion Recognition in the Wild, arXiv 2403.10488"
LICENCE = (
    "The architecture comes without weights; weights keep the terms of whoever trained or supplied them."
)
AFFECT_USE = (
    "Research on dimensional affect from face and voice, with the user's own weights. "
    "Not a medical device, and not for decisions about people."
)
LAST_LAYERS = {"valence": "vregressor.3", "arousal": "aregressor.3"}
N_STEPS = 16
TINY_MAX_SKEW_MS = 50.0
"""The largest measured at which no output of `jmt-tiny` loses more than 0.02 of its CCC (docs/results.md)."""

Target = Literal["valence", "arousal"]
TARGETS: tuple[Target, ...] = ("valence", "arousal")

FUSION = Part(
    "fusion",
    "fusion_w.pt",
    "the fusion of face and voice, in any of its variants",
    kinds=("jmt-fusion",),
    routes=(Route("", "fusion"),),
)
SETTINGS = (
    Setting("num_heads", "attention heads of all fusions", "1", whole(1, 64), "a whole number from 1 to 64"),
    Setting(
        "visual_reduce",
        "how R(2+1)D's last map becomes a feature",
        "max",
        one_of("max", "mean"),
        "max or mean",
    ),
)


class JmtFusionStage(JointMultimodalTransformer):
    """The fusion with its tensors in the order that jmt-tiny declares: visual, then audio."""

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


def jmt(found: Found) -> ZooModel:
    """The published model: 16 steps of 32 frames; variant and widths are those of the checkpoint."""
    heads = found.settings["num_heads"]
    of_visual = found.of("visual")
    has_fc = "r2d1.vision_r2d1_fc.weight" in of_visual
    reduce = None if has_fc else found.settings["visual_reduce"]
    with heads_that_fit("num_heads", heads):
        visual = tsav.FaceBackbones.like(of_visual, reduce, heads)
        fusion = jmt_fusion_like(found.of("fusion"), heads)
        loose = tsav.loose_fusions(found, heads)
    audio = tsav.voice_backbone(found)
    step = 32 * FRAME
    clip = tsav.face_clip(112, KINETICS_MEAN, KINETICS_STD)
    if found.only is None:
        tsav.check_map("jmt", visual, clip)
    sizes = {"audio": fusion.d_model, "visual": fusion.visual_size}
    spec = ModelSpec(
        name="jmt",
        title="Joint multimodal transformer: valence and arousal from face and voice",
        source=SOURCE,
        step=step,
        encoders=(
            tsav.audio_encoder(tsav.log_mel(107), step, audio.n_features),
            tsav.visual_encoder(clip, step, visual.n_features),
        ),
        fusion=Fusion(
            n_steps=N_STEPS,
            inputs=tsav.feature_tensors(sizes, "steps"),
            outputs=tsav.affect_tensors(TARGETS, "steps"),
            warm_up="shorten",
        ),
        outputs=(AffectOutput(name="valence"), AffectOutput(name="arousal")),
        intended_use=AFFECT_USE,
        licence=LICENCE,
    )
    stages = {"audio": audio, "visual": visual, "fusion": fusion}
    dead = {
        "audio": tsav.AUDIO_DEAD,
        "visual": tsav.VISUAL_DEAD,
        "fusion": (*fusion_net.DEAD_KEYS, *fusion_net.VANILLA_DEAD_KEYS),
    }
    return ZooModel(spec, stages, LAST_LAYERS, dead, loose)


def jmt_tiny(found: Found) -> ZooModel:
    """A model of about a million parameters for small processors, with a `present` input."""
    step, n_steps, feature = 8 * FRAME, 8, 80
    clip = tsav.face_clip(48, KINETICS_MEAN, KINETICS_STD).model_copy(
        update={"n_frames": 4, "frame_interval": 2 * FRAME, "frame_tolerance": FRAME}
    )
    present = TensorSpec(
        name="present", axes=("batch", "modality", "steps"), shape=("batch", 2, n_steps), dtype="bool"
    )
    spec = ModelSpec(
        name="jmt-tiny",
        title="Joint multimodal transformer with small backbones: valence and arousal from face and voice",
        source=f"{SOURCE}; small backbones and the `present` input are edge-mer's own",
        step=step,
        encoders=(
            tsav.visual_encoder(clip, step, feature),
            tsav.audio_encoder(tsav.log_mel(27), step, feature),
        ),
        fusion=Fusion(
            n_steps=n_steps,
            inputs=(*tsav.feature_tensors({"visual": feature, "audio": feature}, n_steps), present),
            outputs=tsav.affect_tensors(TARGETS, n_steps),
            has_present_input=True,
            warm_up="mask",
        ),
        outputs=(AffectOutput(name="valence"), AffectOutput(name="arousal")),
        intended_use=(
            "Trials of the whole way from training to device, and research with weights that the user "
            "trains. Not a medical device, and not for decisions about people."
        ),
        licence=LICENCE,
        max_skew_ms=TINY_MAX_SKEW_MS,
    )
    blocks = (1, 1, 1, 1)
    stages = {
        "visual": R2Plus1D((16, 40, 72, feature), blocks, stem_width=16),
        "audio": ResNetAudio((16, 32, 64, feature), blocks),
        "fusion": JmtFusionStage(feature, feature, head_width=64, present_input=True),
    }
    return ZooModel(spec, stages, LAST_LAYERS)


JMT = System(
    "jmt",
    ("audio", "visual", "fusion"),
    jmt,
    (
        FUSION,
        tsav.VISUAL,
        tsav.AUDIO,
        tsav.TSAV,
        tsav.VISUAL_FC,
        tsav.VISUAL_I3D,
        tsav.VISUAL_FUSION,
        tsav.AUDIO_FUSION,
    ),
    SETTINGS,
    tsav.drop_mask_channel,
)
JMT_TINY = System("jmt-tiny", ("visual", "audio", "fusion"), jmt_tiny)
