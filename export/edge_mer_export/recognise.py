"""Tells by its keys what a file of weights is of, so that a wrong file is named and not only refused."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Kind:
    """What a file of weights may be.

    Attributes:
        name: In `Part.kinds`.
        what: In words, after "it looks like".
        keys: Patterns; each must be matched by some key.
        use: How it is imported, after "edge-mer export ".
    """

    name: str
    what: str
    keys: tuple[str, ...]
    use: str


_DENSE = "coattn.dcn_layers.0.dense_coattn"

KINDS = (
    Kind(
        "rjcma",
        "RJCMA's model of one target",
        (f"{_DENSE}.key3_linear.weight",),
        "rjcma --checkpoint valence=FILE",
    ),
    Kind(
        "jca-dense", "the fusion of JCA", ("video_attn.attn.affine_h.weight",), "jca --checkpoint fusion=FILE"
    ),
    Kind(
        "jca-cam", "a small fusion of JCA", ("affine_v.weight", "W_ha.weight"), "jca --checkpoint fusion=FILE"
    ),
    Kind("jmt-fusion", "the fusion of JMT", ("mm_transformer.*",), "jmt --checkpoint fusion=FILE"),
    Kind(
        "visphy",
        "the face and EDA backbones of JMT for pain",
        ("vis_model.*",),
        "jmt-pain --checkpoint visphy=FILE",
    ),
    Kind("visphy", "the EDA backbone of JMT for pain", ("phy_model.*",), "jmt-pain --checkpoint visphy=FILE"),
    Kind("tsav", "the two TSAV backbones", ("video_model.r2plus1d.*",), "jmt --checkpoint tsav=FILE"),
    Kind("tsav", "a TSAV backbone", ("audio_model.resnet.*",), "jmt --checkpoint tsav=FILE"),
    Kind("i3d", "I3D with a temporal network", ("*i3d_WSDDA.*",), "jmt --checkpoint i3d=FILE"),
    Kind(
        "pain-fusion",
        "the fusion of JMT for pain",
        ("physiological_encoder.*",),
        "jmt-pain --checkpoint fusion=FILE",
    ),
    Kind(
        "pain-fusion",
        "the concatenation of JMT for pain",
        ("out_layer1.weight", "out_layer4.weight"),
        "jmt-pain --checkpoint fusion=FILE",
    ),
    Kind(
        "intra-modal",
        "JMT's fusion of two features of one modality",
        ("final_visual_encoder.*", "final_self_attention.*"),
        "jmt --only audio-fusion --checkpoint audio-fusion=FILE",
    ),
    Kind(
        "intra-modal",
        "JMT's concatenation of two features of one modality",
        ("*fc_layer.weight",),
        "jmt --only audio-fusion --checkpoint audio-fusion=FILE",
    ),
    Kind(
        "bert",
        "a BERT encoder",
        ("*encoder.layer.0.attention.self.query.weight",),
        "rjcma --checkpoint text=FILE",
    ),
    Kind("ir50", "the IR-50 face network", ("*input_layer.0.weight",), "rjcma --checkpoint visual=FILE"),
    Kind("vggish", "VGGish", ("*features.0.weight", "*embeddings.0.weight"), "rjcma --checkpoint audio=FILE"),
    Kind(
        "r2plus1d",
        "an R(2+1)D-18 video network",
        ("*stem.0.weight", "*stem.3.weight"),
        "jmt --checkpoint visual=FILE",
    ),
    Kind("r3d", "an R3D-18 video network", ("*stem.0.weight",), "jmt-pain --checkpoint visual=FILE"),
    Kind(
        "resnet-audio",
        "a ResNet18 of spectrograms",
        ("*layer1.0.conv1.weight",),
        "jmt --checkpoint audio=FILE",
    ),
    Kind(
        "eda-conv1d",
        "the EDA network of JMT for pain",
        ("conv1.weight", "fc1.weight"),
        "jmt-pain --checkpoint eda=FILE",
    ),
)


def recognise(keys: Collection[str]) -> Kind | None:
    """What a file with these keys is of; None if it is nothing known."""
    for kind in KINDS:
        if all(any(fnmatchcase(key, pattern) for key in keys) for pattern in kind.keys):
            return kind
    return None
