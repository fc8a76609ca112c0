"""Checkpoints of the published systems with their keys and layout, but tiny widths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge_mer_export.models.bert import Bert
from edge_mer_export.models.eda_conv1d import EdaConv1d
from edge_mer_export.models.i3d import I3D
from edge_mer_export.models.intra_modal import FcLayer, IntraModalTransformer
from edge_mer_export.models.ir50 import IR50
from edge_mer_export.models.jca import JointCrossAttention
from edge_mer_export.models.jca_dense import DenseJointCoAttention
from edge_mer_export.models.jmt import JointMultimodalTransformer
from edge_mer_export.models.pain_fusion import ConcatPlusFc, MultiCrossAttention, TwoCrossAttention
from edge_mer_export.models.r2plus1d import R2Plus1D
from edge_mer_export.models.r3d import R3D
from edge_mer_export.models.resnet_audio import ResNetAudio
from edge_mer_export.models.rjcma import RJCMA
from edge_mer_export.models.vggish import VGGish

State = dict[str, Tensor]
D = 8
"""Feature size of all of them, unless said otherwise."""

STEPS = 4
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "so", "##fe", "new")
ONE_BLOCK = (1, 1, 1, 1)


def face(feature: int = D, with_fc: bool = False) -> R2Plus1D:
    return R2Plus1D((3, 3, 3, feature), ONE_BLOCK, 3, "flatten_fc" if with_fc else "max", 49, D)


def voice(feature: int = D) -> ResNetAudio:
    return ResNetAudio((3, 3, 3, feature), ONE_BLOCK)


def face_i3d(feature: int = D) -> I3D:
    return I3D((2, 2, 2), [(1, 1, 1, 1, 1, 1)] * 9, (3, feature), 2)


def both_faces(feature: int = D) -> IntraModalTransformer:
    return IntraModalTransformer(feature, 6, wide=None)


def faces_side_by_side() -> FcLayer:
    return FcLayer(2 * D, D)


def both_voices() -> IntraModalTransformer:
    return IntraModalTransformer(D, 6, wide=12)


def jmt(feature: int = D) -> JointMultimodalTransformer:
    return JointMultimodalTransformer(feature, 6, head_width=5)


def jca_dense() -> DenseJointCoAttention:
    return DenseJointCoAttention(STEPS, D, D, 49, 5, 1, 3, 1, 6, 5)


def jca_small(two_targets: bool = True) -> JointCrossAttention:
    return JointCrossAttention(STEPS, D, None, 3, 5, two_targets)


def rjcma(n_steps: int = 6) -> RJCMA:
    return RJCMA((D, 6, D), ((4,), (3,), (4,)), 3, n_steps, 1, 5)


def ir50(feature: int = D) -> IR50:
    return IR50((2, 3, 4, 5), ONE_BLOCK, feature)


def vggish() -> VGGish:
    return VGGish((2, 2, 2, 2, 2, 2), (4, 4), 6)


def bert(n_words: int = len(WORDS), feature: int = D) -> Bert:
    return Bert(feature, 6, 2, 1, n_words, 9)


def pain(n_classes: int = 2) -> MultiCrossAttention:
    return MultiCrossAttention(D, 6, widths=(6, 5, 4, 3), n_classes=n_classes)


def pain_pair() -> TwoCrossAttention:
    return TwoCrossAttention(D, 6, widths=(6, 5, 4))


def pain_concat() -> ConcatPlusFc:
    return ConcatPlusFc(D, (6, 5, 4))


def r3d(feature: int = D) -> R3D:
    return R3D((3, 3, 3, feature), ONE_BLOCK)


def eda() -> EdaConv1d:
    return EdaConv1d(86, (2, 3), (5, 5), D)


def randomized(module: nn.Module, seed: int = 0) -> State:
    """Weights of a module that no fresh one has, variances above zero."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: value if not value.is_floating_point() else 0.5 + torch.rand(value.shape, generator=generator)
        for key, value in module.state_dict().items()
    }


def under(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


def inside(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """What stands under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def one_target(seed: int = 0, backbone_seed: int = 0, n_steps: int = 6, backbones: bool = True) -> State:
    """RJCMA's file of one target."""
    state = randomized(rjcma(n_steps), seed)
    if backbones:
        state |= under("spatial.visual.backbone.", randomized(ir50(), backbone_seed))
        state |= under("spatial.audio.backbone.", randomized(vggish(), backbone_seed))
        state["spatial.visual.logits.weight"] = torch.zeros(7, D)
    return state


def tsav() -> State:
    """Both TSAV backbones; the face's first convolution sees a mask as fourth channel."""
    visual = randomized(face())
    stem = visual["r2plus1d.stem.0.weight"]
    visual["r2plus1d.stem.0.weight"] = torch.cat([stem, torch.ones_like(stem[:, :1])], dim=1)
    heads = {"fc.1.weight": torch.zeros(5, 2 * D), "fc.1.bias": torch.zeros(5)}
    return under("video_model.", visual) | under("audio_model.", randomized(voice())) | heads


def visphy() -> State:
    """Both backbones of pain, as they are kept beside a fusion."""
    state = under("vis_model.visual_model.", randomized(r3d()))
    classifier = {"fc2.weight": torch.zeros(2, D), "fc2.bias": torch.zeros(2)}
    state |= under("phy_model.", randomized(eda()) | classifier)
    return state


def save(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path
