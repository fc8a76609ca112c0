"""The joint multimodal transformer for pain as a deployable model: "jmt-pain".

Source: "Joint Multimodal Transformer for Emotion Recognition in the Wild", arXiv 2403.10488, the part on
BioVid: heat pain against none, from 20 frames of the face and 5.5 s of skin conductance.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from edge_mer.errors import DataError
from edge_mer.types.model import Encoder, FaceClip, Fusion, ModelSpec, PainOutput, Signal, TensorSpec
from edge_mer_export.models import eda_conv1d, pain_fusion, r3d, tsav
from edge_mer_export.models.eda_conv1d import EdaConv1d
from edge_mer_export.models.pain_fusion import (
    ConcatPlusFc,
    MultiCrossAttention,
    MultimodalTransformer,
    MultimodalTransformerMulti,
    TwoCrossAttention,
)
from edge_mer_export.models.r3d import R3D
from edge_mer_export.models.spec_jmt import LICENCE, SETTINGS, SOURCE
from edge_mer_export.models.zoo import (
    Found,
    LooseStage,
    Part,
    Route,
    Setting,
    System,
    ZooModel,
    heads_that_fit,
    one_of,
)

FRAME = Fraction(1, 25)
"""Between two frames of the data set's camera."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EDA_HZ = 512
N_FRAMES = 5
LAST_FRAME = 68
"""Of a clip, counted from 1: the pieces of the face are frames 52 to 56, 56 to 60, 60 to 64, 64 to 68."""

SCALES = {
    2: PainOutput(scale="biovid-bl-pa4", levels=("no pain", "pain")),
    5: PainOutput(scale="biovid-bl-pa1-4", levels=("no pain", "PA1", "PA2", "PA3", "PA4")),
}

FUSION = Part(
    "fusion",
    "fusion_model_fold*_.pth",
    "the fusion of face and EDA, in any of its variants; of the concatenation, the file of the backbones",
    kinds=("pain-fusion", "visphy"),
    routes=(
        *(Route(prefix, None) for prefix in ("vis_model.", "phy_model.", "W.", "V.")),
        Route("", "fusion"),
    ),
)
VISPHY = Part(
    "visphy",
    "visphy_model_fold*_.pth",
    "both backbones in one file",
    kinds=("visphy",),
    routes=(
        Route("vis_model.visual_model.", "visual"),
        Route("phy_model.", "eda"),
        *(Route(f"out_layer{i}.", None) for i in range(1, 5)),
        Route("W.", None),
        Route("V.", None),
        Route("layer_norm.", None),
    ),
)
VISUAL = Part(
    "visual",
    "",
    "R3D-18 on the face",
    kinds=("r3d", "visphy"),
    routes=tuple(Route(prefix, "visual") for prefix in ("vis_model.visual_model.", "visual_model.", "")),
)
EDA = Part(
    "eda",
    "",
    "the one-dimensional network on EDA",
    kinds=("eda-conv1d", "visphy"),
    routes=(Route("phy_model.", "eda"), Route("", "eda")),
)


@dataclass(frozen=True)
class _Head:
    """A fusion; its last linear layer, its dead keys and the steps that it looks at."""

    module: nn.Module
    last_layer: str
    dead: tuple[str, ...]
    n_steps: int
    n_classes: int
    d_model: int


def jmt_pain(found: Found) -> ZooModel:
    """The published model; variant, widths and number of classes are those of the checkpoint.

    Frames and EDA lie to each other as in the data set's clips: the face ends 2.78 s before the EDA does.
    """
    with heads_that_fit("num_heads", found.settings["num_heads"]):
        head = _head(found)
    if head.n_classes < 2:
        raise DataError(
            "model jmt-pain tells levels of pain apart",
            expected="a last layer of two outputs or more",
            found=f"{head.n_classes} in {head.last_layer} of the fusion",
        )
    visual, eda = R3D.like(found.of("visual")), EdaConv1d.like(found.of("eda"))
    # neighbouring pieces share a frame
    step = (N_FRAMES - 1) * FRAME
    span = Fraction(eda.n_samples, EDA_HZ)
    clip = FaceClip(
        size_px=112,
        n_frames=N_FRAMES,
        frame_interval=FRAME,
        last_frame_before_end=FRAME,
        frame_tolerance=FRAME / 2,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    n_levels = head.n_classes
    spec = ModelSpec(
        name="jmt-pain",
        title="Joint multimodal transformer for pain: heat pain against none, from face and EDA",
        source=f"{SOURCE}, the part on BioVid",
        step=step,
        encoders=(
            tsav.visual_encoder(clip, step, visual.n_features).model_copy(update={"span": N_FRAMES * FRAME}),
            Encoder(
                stage="eda",
                modality="eda",
                input=TensorSpec(
                    name="eda", axes=("batch", "channel", "sample"), shape=("batch", 1, eda.n_samples)
                ),
                output=tsav.feature_spec(eda.n_features),
                period=step * head.n_steps,
                span=span,
                offset=span - LAST_FRAME * FRAME,
                repeat=head.n_steps,
                preprocess=Signal(rate_hz=EDA_HZ, unit="uS"),
                min_coverage=1.0,
            ),
        ),
        fusion=Fusion(
            n_steps=head.n_steps,
            inputs=tsav.feature_tensors({"visual": head.d_model, "eda": head.d_model}, head.n_steps),
            outputs=(TensorSpec(name="logits", axes=("batch", "class"), shape=("batch", n_levels)),),
            warm_up="withhold",
            hop=head.n_steps,
        ),
        outputs=(SCALES.get(n_levels) or _levels(n_levels),),
        intended_use=(
            "Research on heat pain from face and EDA, with the user's own weights. The published accuracy "
            "is that of a laboratory with the same people in training and test. Not a medical device, and "
            "not for decisions about people."
        ),
        licence=LICENCE,
    )
    stages = {"visual": visual, "eda": eda, "fusion": head.module}
    dead = {"visual": r3d.DEAD_KEYS, "eda": eda_conv1d.DEAD_KEYS, "fusion": head.dead}
    return ZooModel(spec, stages, {"pain": head.last_layer}, dead, _with_logits(found))


def _levels(n_levels: int) -> PainOutput:
    return PainOutput(scale="levels", levels=tuple(f"level {i}" for i in range(n_levels)))


def _head(found: Found) -> _Head:
    shapes, heads = found.of("fusion"), found.settings["num_heads"]
    if not shapes or any(key.startswith("final_encoder.") for key in shapes):
        multi = MultiCrossAttention.like(shapes, heads)
        return _Head(multi, "out_layer5", pain_fusion.MULTI_DEAD_KEYS, 4, multi.n_classes, multi.d_model)
    if "out_layerAll1.weight" in shapes:
        one = MultimodalTransformerMulti.like(shapes, heads)
        one_dead = pain_fusion.MULTI_ONE_STEP_DEAD_KEYS
        return _Head(one, "out_layerAll2", one_dead, 1, one.n_classes, one.d_model)
    n_steps = 1 if found.settings["sequence"] == "no" else 4
    if not any(key.startswith("cross_attention_") for key in shapes):
        concat = ConcatPlusFc.like(shapes, found.settings["normalise"] == "yes")
        dead = pain_fusion.CONCAT_DEAD_KEYS
        return _Head(concat, "out_layer4", dead, n_steps, concat.n_classes, concat.d_model)
    pair = (TwoCrossAttention if n_steps == 4 else MultimodalTransformer).like(shapes, heads)
    return _Head(pair, "out_layer4", pain_fusion.PAIR_DEAD_KEYS, n_steps, pair.n_classes, pair.d_model)


def _with_logits(found: Found) -> dict[str, LooseStage]:
    """EDA alone with the classifier that its network was trained with, where the checkpoint has it."""
    shapes = found.of("eda")
    if "fc2.weight" not in shapes:
        return {}
    alone = EdaConv1d.like(shapes, with_logits=True)
    axes = ("batch", "channel", "sample")
    samples = TensorSpec(name="eda", axes=axes, shape=("batch", 1, alone.n_samples))
    logits = TensorSpec(name="logits", axes=("batch", "class"), shape=("batch", alone.n_classes))
    return {"eda": LooseStage(alone, (samples,), (tsav.feature_spec(alone.n_features), logits), "eda")}


YES_NO = one_of("yes", "no")

JMT_PAIN = System(
    "jmt-pain",
    ("visual", "eda", "fusion"),
    jmt_pain,
    (FUSION, VISPHY, VISUAL, EDA),
    (
        SETTINGS[0],
        Setting("sequence", "the fusion looks at four pieces of the face", "yes", YES_NO, "yes or no"),
        Setting("normalise", "the concatenation normalises both features", "no", YES_NO, "yes or no"),
    ),
)
