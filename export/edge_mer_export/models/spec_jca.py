"""Joint cross-attention as a deployable model: "jca", in each of the forms that were published.

Source: "Audio-Visual Fusion for Emotion Recognition in the Valence-Arousal Space Using Joint
Cross-Attention", arXiv 2209.09068; its predecessor, arXiv 2203.14779; and its recurrent sibling,
arXiv 2304.07958.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from edge_mer.errors import UsageError
from edge_mer.types.model import AffectOutput, FaceClip, Fusion, ModelSpec
from edge_mer_export.models import jca as small_heads
from edge_mer_export.models import jca_dense, tsav
from edge_mer_export.models.jca import JointCrossAttention
from edge_mer_export.models.jca_dense import DenseJointCoAttention
from edge_mer_export.models.shapes import Shapes
from edge_mer_export.models.spec_jmt import AFFECT_USE, LICENCE, TARGETS, Target
from edge_mer_export.models.tsav import FRAME, KINETICS_MEAN, KINETICS_STD
from edge_mer_export.models.zoo import Found, Part, Route, Setting, System, ZooModel, one_of

FUSION = Part(
    "fusion",
    "cam_model.pt",
    "the fusion of face and voice, in any of its forms",
    kinds=("jca-dense", "jca-cam"),
    routes=(Route("", "fusion"),),
)
TARGET = Setting(
    "target",
    "what a fusion of one target estimates",
    "valence",
    one_of(*TARGETS),
    "valence or arousal",
)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class _Head:
    """A fusion, and what it looks at.

    Attributes:
        module: The fusion.
        sizes: Feature size by modality.
        last_layers: Output -> its last linear layer.
        dead: Patterns of its keys that reach no output.
        n_steps: Steps of its window, which its weights fix.
    """

    module: nn.Module
    sizes: dict[str, int]
    last_layers: dict[Target, str]
    dead: tuple[str, ...]
    n_steps: int


def jca(found: Found) -> ZooModel:
    """The published model: 8 or 16 steps of 32 frames; form and widths are those of the checkpoint.

    Without a checkpoint it is the form that the released training script builds.
    """
    head = _head(found.of("fusion"), found.settings["target"])
    of_visual = {key.partition(".")[0] for key in found.of("visual")}
    if of_visual >= {"r2d1", "i3d"}:
        raise UsageError("model jca sees the face with one network", hint="give visual= (or tsav=) or i3d=")
    # the first publication feeds I3D with frames of 224 pixels in [-1, 1]
    is_first = "i3d" in of_visual
    is_dense = isinstance(head.module, DenseJointCoAttention)
    visual = tsav.FaceBackbones.like(found.of("visual"), "flatten" if is_dense else "max", upsample=False)
    audio = tsav.voice_backbone(found)
    step = 32 * FRAME
    spec = ModelSpec(
        name="jca",
        title="Joint cross-attention: valence and arousal from face and voice",
        source=(
            "Audio-Visual Fusion for Emotion Recognition in the Valence-Arousal Space Using Joint "
            "Cross-Attention, arXiv 2209.09068"
        ),
        step=step,
        encoders=(
            tsav.audio_encoder(tsav.log_mel(107), step, audio.n_features),
            tsav.visual_encoder(_clip(is_first), step, visual.n_features),
        ),
        fusion=Fusion(
            n_steps=head.n_steps,
            inputs=tsav.feature_tensors(head.sizes, head.n_steps),
            outputs=tsav.affect_tensors(tuple(head.last_layers), head.n_steps),
            warm_up="withhold",
        ),
        outputs=tuple(AffectOutput(name=target) for target in head.last_layers),
        intended_use=AFFECT_USE,
        licence=LICENCE,
    )
    stages = {"audio": audio, "visual": visual, "fusion": head.module}
    dead = {"audio": tsav.AUDIO_DEAD, "visual": tsav.VISUAL_DEAD, "fusion": head.dead}
    return ZooModel(spec, stages, {str(name): layer for name, layer in head.last_layers.items()}, dead)


def _clip(is_first: bool) -> FaceClip:
    return tsav.face_clip(224, HALF, HALF) if is_first else tsav.face_clip(112, KINETICS_MEAN, KINETICS_STD)


def _head(shapes: Shapes, target: Target) -> _Head:
    if any(key.startswith(("affine_", "encoder1.", "regressor.")) for key in shapes):
        return _small_head(shapes, target)
    dense = DenseJointCoAttention.like(shapes)
    sizes = {"audio": dense.n_audio, "visual": dense.n_visual}
    layers: dict[Target, str] = {"valence": "vregressor.3", "arousal": "aregressor.3"}
    return _Head(dense, sizes, layers, jca_dense.DEAD_KEYS, dense.n_steps)


def _small_head(shapes: Shapes, target: Target) -> _Head:
    head = JointCrossAttention.like(shapes)
    layers: dict[Target, str] = {target: "regressor.2"}
    if head.two_targets:
        layers = {"valence": "vregressor.2", "arousal": "aregressor.2"}
    dead = small_heads.BOTH_HEAD_DEAD_KEYS if head.attends_audio else small_heads.VISUAL_HEAD_DEAD_KEYS
    return _Head(head, {"audio": head.feature, "visual": head.feature}, layers, dead, head.n_steps)


JCA = System(
    "jca",
    ("audio", "visual", "fusion"),
    jca,
    (FUSION, tsav.VISUAL, tsav.AUDIO, tsav.TSAV, tsav.VISUAL_I3D),
    (TARGET,),
    tsav.drop_mask_channel,
)
