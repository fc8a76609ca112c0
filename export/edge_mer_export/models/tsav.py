"""The front end that JMT and JCA share: a face clip and a spectrogram per step, each to a feature.

R(2+1)D-18 and ResNet18 as in TSAV (Kuhnke et al. 2020, "Two-Stream Aural-Visual Affect Analysis in the
Wild", arXiv 2002.03399); JMT and the first JCA also know I3D with a temporal network for the face, and
JMT the fusion of both face features.

Shape letters: B batch, C channel, T frame, H height, W width, D feature.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from edge_mer.errors import DataError
from edge_mer.types.model import Encoder, FaceClip, LogMel, TensorSpec
from edge_mer_export.models import i3d, intra_modal, r2plus1d, resnet_audio
from edge_mer_export.models.i3d import I3D
from edge_mer_export.models.intra_modal import FcLayer, IntraModalTransformer
from edge_mer_export.models.r2plus1d import R2Plus1D, Reduction
from edge_mer_export.models.resnet_audio import ResNetAudio
from edge_mer_export.models.shapes import Shapes, under
from edge_mer_export.models.zoo import Found, LooseStage, Part, Route, States, mismatch

FRAME = Fraction(1, 30)
"""Between two frames of the nominal 30 fps camera that the grids are made of."""

KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)

VISUAL = Part(
    "visual",
    "vision_r2d1.pt",
    "R(2+1)D-18 on the face",
    kinds=("r2plus1d",),
    routes=(Route("r2plus1d.", "visual", "r2d1.r2plus1d."), Route("", "visual", "r2d1.r2plus1d.")),
)
VISUAL_FC = Part(
    "visual-fc",
    "vision_r2d1_fc.pt",
    "the linear layer on R(2+1)D's flattened map, where there is one",
    routes=tuple(Route(prefix, "visual", "r2d1.vision_r2d1_fc.") for prefix in ("vision_r2d1_fc.", "")),
)
VISUAL_I3D = Part(
    "i3d",
    "vision_i3d.pt",
    "I3D and its temporal network on the face",
    kinds=("i3d",),
    routes=(Route("", "visual", "i3d."),),
)
VISUAL_FUSION = Part(
    "visual-fusion",
    "transformer_visio_modality_fusion.pt",
    "the fusion of both features of the face",
    kinds=("intra-modal",),
    routes=(Route("", "visual", "fuse."),),
)
AUDIO = Part(
    "audio",
    "audio_resnet18.pt",
    "ResNet18 on the voice",
    kinds=("resnet-audio",),
    routes=(Route("resnet.", "audio", "resnet."), Route("", "audio", "resnet.")),
)
AUDIO_FUSION = Part(
    "audio-fusion",
    "transformer_audio_modality_fusion.pt",
    "the fusion of both features of the voice, with --only audio-fusion",
    kinds=("intra-modal",),
    routes=(Route("", "audio", "fuse."),),
)
TSAV = Part(
    "tsav",
    "TSAV_Sub4_544k.pth.tar",
    "both backbones in one file, in place of visual and audio",
    kinds=("tsav",),
    routes=(
        Route("video_model.r2plus1d.", "visual", "r2d1.r2plus1d."),
        Route("audio_model.resnet.", "audio", "resnet."),
        Route("fc.", None),
    ),
)

VISUAL_DEAD = (
    *(f"r2d1.{key}" for key in r2plus1d.DEAD_KEYS),
    *(f"i3d.{key}" for key in i3d.DEAD_KEYS),
    *(f"fuse.{key}" for key in intra_modal.NARROW_DEAD_KEYS),
)
AUDIO_DEAD = resnet_audio.DEAD_KEYS


class FaceBackbones(nn.Module):
    """One or two backbones on the same clip; two features become one.

    Args:
        r2d1: R(2+1)D-18.
        i3d: I3D with a temporal network.
        fuse: Takes the feature of `r2d1`, then that of `i3d`; needed if there are both.
    """

    def __init__(self, r2d1: R2Plus1D | None, i3d: I3D | None = None, fuse: nn.Module | None = None) -> None:
        super().__init__()
        self.r2d1, self.i3d, self.fuse = r2d1, i3d, fuse
        last: Any = fuse or i3d or r2d1
        self.n_features: int = last.n_features

    @classmethod
    def like(
        cls, shapes: Shapes, reduce: Reduction | None = None, num_heads: int = 1, upsample: bool = True
    ) -> FaceBackbones:
        """The backbones that a state_dict of these shapes belongs to; R(2+1)D if it is empty.

        Args:
            shapes: Shape by key.
            reduce: How the last map of R(2+1)D becomes a feature.
            num_heads: Heads of the fusion.
            upsample: I3D enlarges its clip to 224 pixels.
        """
        of_i3d, of_r2d1, of_fuse = (under(shapes, f"{name}.") for name in ("i3d", "r2d1", "fuse"))
        face_i3d = I3D.like(of_i3d, upsample) if of_i3d else None
        r2d1 = None if of_i3d and not of_r2d1 else R2Plus1D.like(of_r2d1, reduce)
        fuse = intra_modal_like(of_fuse, num_heads, has_wide=False) if r2d1 and face_i3d else None
        if r2d1 is not None and face_i3d is not None and fuse is not None and of_fuse:
            _check_fused(r2d1.n_features, face_i3d.n_features, fuse)
        return cls(r2d1, face_i3d, fuse)

    def forward(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W), normalised as the model declares -> feature (B, D)."""
        features = [net(clip) for net in (self.r2d1, self.i3d) if net is not None]  # (B, D) each
        feature: Tensor = features[0] if self.fuse is None else self.fuse(*features)  # (B, D)
        return feature


def intra_modal_like(shapes: Shapes, num_heads: int, *, has_wide: bool) -> IntraModalTransformer | FcLayer:
    """The fusion of two features of one modality that a state_dict of these shapes belongs to."""
    if "fc_layer.weight" in shapes:
        return FcLayer.like(shapes)
    return IntraModalTransformer.like(shapes, num_heads, has_wide)


def _check_fused(n_r2d1: int, n_i3d: int, fuse: IntraModalTransformer | FcLayer) -> None:
    if isinstance(fuse, FcLayer):
        both = n_r2d1 + n_i3d
        if fuse.fc_layer.in_features != both:
            raise mismatch("jmt", "visual-fusion", fuse.fc_layer.in_features, "visual and i3d together", both)
        return
    for part, n in (("visual", n_r2d1), ("i3d", n_i3d)):
        if n != fuse.n_features:
            raise mismatch("jmt", "visual-fusion", fuse.n_features, part, n)


def check_map(model: str, face: FaceBackbones, clip: FaceClip) -> None:
    """Refuse a linear layer on the flattened map of another clip.

    Raises:
        DataError: Names both sizes.
    """
    if face.r2d1 is None or face.r2d1.vision_r2d1_fc is None:
        return
    # the stem and three layers halve the sides, those three the time
    side, time = math.ceil(clip.size_px / 16), math.ceil(clip.n_frames / 8)
    n_positions = side * side * time
    n_channels = face.r2d1.r2plus1d.state_dict()["layer4.0.conv1.1.weight"].numel()
    takes = face.r2d1.vision_r2d1_fc.in_features
    if takes // n_channels != n_positions:
        raise mismatch(model, "visual-fc", takes, "the map of visual", n_channels * n_positions)


def voice_backbone(found: Found) -> ResNetAudio:
    """ResNet18 with the sizes of the checkpoint.

    Raises:
        DataError: The checkpoint fuses it with features of a speech model, which no stage computes.
    """
    shapes = found.of("audio")
    if found.only is None and under(shapes, "fuse."):
        raise DataError(
            "the fusion of two features of the voice needs those of wavLM, which no stage computes",
            hint="export its stages one by one: --only audio-fusion, --only fusion, --only visual",
        )
    return ResNetAudio.like(shapes)


def loose_fusions(found: Found, num_heads: int) -> dict[str, LooseStage]:
    """Fusions of two features of one modality, of which the step's features are inputs."""
    of_visual, of_audio = under(found.of("visual"), "fuse."), under(found.of("audio"), "fuse.")
    # heads need not divide the published size of what is not there
    face = intra_modal_like(of_visual, num_heads if of_visual else 1, has_wide=False)
    voice = intra_modal_like(of_audio, num_heads if of_audio else 1, has_wide=True)
    return {
        "visual-fusion": _loose(face, "visual", ("visual_r2d1", "visual_i3d"), intra_modal.NARROW_DEAD_KEYS),
        "audio-fusion": _loose(voice, "audio", ("audio_resnet18", "audio_wavlm"), ()),
    }


def _loose(
    module: IntraModalTransformer | FcLayer, of: str, names: tuple[str, ...], dead: tuple[str, ...]
) -> LooseStage:
    sizes = _input_sizes(module)
    names = names[-len(sizes) :]
    axes = ("batch", "steps", "feature")
    inputs = tuple(
        TensorSpec(name=name, axes=axes, shape=("batch", "steps", size))
        for name, size in zip(names, sizes, strict=True)
    )
    output = TensorSpec(name=of, axes=axes, shape=("batch", "steps", module.n_features))
    return LooseStage(module, inputs, (output,), of, "fuse.", tuple(f"fuse.{key}" for key in dead))


def _input_sizes(module: IntraModalTransformer | FcLayer) -> tuple[int, ...]:
    """Feature sizes that come in; those of a linear layer as the published backbones have them."""
    if isinstance(module, IntraModalTransformer):
        return module.n_features, module.wide or module.n_features
    rest = module.fc_layer.in_features - module.n_features
    return (module.n_features, rest) if rest >= module.n_features else (module.fc_layer.in_features,)


def drop_mask_channel(states: States) -> States:
    """TSAV's face network was trained with a mask as fourth channel and is used without it."""
    visual = states.get("visual", {})
    masked = {key: value for key, value in visual.items() if _has_mask(value)}
    visual.update(r2plus1d.without_mask_channel(masked))
    return states


def _has_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 5 and value.shape[1] == r2plus1d.RGB + 1


def face_clip(size_px: int, mean: tuple[float, float, float], std: tuple[float, float, float]) -> FaceClip:
    """Every fourth of 32 frames, the last one included."""
    return FaceClip(
        size_px=size_px,
        n_frames=8,
        frame_interval=4 * FRAME,
        last_frame_before_end=FRAME,
        frame_tolerance=2 * FRAME,
        mean=mean,
        std=std,
    )


def log_mel(width: int) -> LogMel:
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


def audio_encoder(mel: LogMel, step: Fraction, feature: int) -> Encoder:
    """An encoder of one spectrogram per step to a feature of the given size."""
    return Encoder(
        stage="audio",
        modality="audio",
        input=TensorSpec(
            name="log_mel",
            axes=("batch", "channel", "mel", "column"),
            shape=("batch", 1, mel.n_mels, mel.width),
        ),
        output=feature_spec(feature),
        period=step,
        span=step,
        preprocess=mel,
    )


def feature_spec(size: int) -> TensorSpec:
    """What an encoder gives: one feature of `size` numbers."""
    return TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", size))


def affect_tensors(targets: tuple[str, ...], steps: int | str) -> tuple[TensorSpec, ...]:
    """One number per step and target."""
    return tuple(TensorSpec(name=name, axes=("batch", "steps"), shape=("batch", steps)) for name in targets)


def feature_tensors(sizes: dict[str, int], steps: int | str) -> tuple[TensorSpec, ...]:
    """One feature per step and modality, in their order."""
    axes = ("batch", "steps", "feature")
    return tuple(TensorSpec(name=name, axes=axes, shape=("batch", steps, n)) for name, n in sizes.items())
