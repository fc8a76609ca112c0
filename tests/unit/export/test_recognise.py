"""What a file of weights is of, by its keys."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the tests' recorded cases need PyTorch: pip install 'edge-mer[export]'")

from edge_mer_export.models.zoo import MODELS, system
from edge_mer_export.recognise import KINDS, recognise
from tests.helpers import parity

pytestmark = pytest.mark.workbench

RECORDED = {
    "jmt_self_atten": ("jmt-fusion", ()),
    "jmt_fc": ("jmt-fusion", ()),
    "jmt_vanilla": ("jmt-fusion", ()),
    "jmt_concat": ("jmt-fusion", ()),
    "jmt_self_atten_h4_l2": ("jmt-fusion", ()),
    "jmt_fc_h4": ("jmt-fusion", ()),
    "intra_audio_768": ("intra-modal", ()),
    "intra_visual_512": ("intra-modal", ()),
    "concat_audio_768": ("intra-modal", ()),
    "concat_visual_512": ("intra-modal", ()),
    "bb_r2plus1d18_clip8x112": ("r2plus1d", ("r2plus1d.",)),
    "bb_audio_resnet18_1ch": ("resnet-audio", ("resnet.",)),
    "i3d_tcn": ("i3d", ()),
    "i3d_tcn_224": ("i3d", ()),
    "biovid_multi_seq": ("pain-fusion", ()),
    "biovid_multi_seq_5class": ("pain-fusion", ()),
    "biovid_two_seq": ("pain-fusion", ()),
    "biovid_concat_seq": ("pain-fusion", ()),
    "biovid_multi_nonseq": ("pain-fusion", ()),
    "biovid_two_nonseq": ("pain-fusion", ()),
    "biovid_conv1d": ("eda-conv1d", ()),
    "r3d18_clip5": ("r3d", ("visual_model.",)),
    "jca_tbiom_origcam_L16": ("jca-dense", ()),
    "jca_origcam_numseq2": ("jca-dense", ()),
    "rja_lstm_origcam_L16": ("jca-dense", ()),
    "jca_tbiom_cam_L16": ("jca-cam", ()),
    "jca_tbiom_cam512_L16": ("jca-cam", ()),
    "jca_cvprw_cam_L8_visonly": ("jca-cam", ()),
    "jca_cvprw_cam_L8_head256": ("jca-cam", ()),
    "rjcma_L300": ("rjcma", ()),
    "rjcma_widths": ("rjcma", ()),
    "rjcma_ir50_40px": ("ir50", ("backbone.",)),
    "ir50": ("ir50", ("backbone.",)),
    "vggish": ("vggish", ("backbone.",)),
}
"""Recorded case -> its kind, and what published files may put before its keys."""

INSIDE = {
    "vis_model.visual_model.": ("r3d18_clip5", "visphy"),
    "phy_model.": ("biovid_conv1d", "visphy"),
    "video_model.r2plus1d.": ("bb_r2plus1d18_clip8x112", "tsav"),
    "audio_model.resnet.": ("bb_audio_resnet18_1ch", "tsav"),
}
"""Prefix of a file of several networks -> a case under it, and the kind that the file then is."""

BERT = ("embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query.weight")


def kind_of(keys: list[str]) -> str | None:
    found = recognise(keys)
    return None if found is None else found.name


def test_every_recorded_case_is_tested() -> None:
    assert set(parity.cases()) <= set(RECORDED)


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_case_is_recognised(name: str) -> None:
    kind, prefixes = RECORDED[name]
    keys = list(parity.shapes(name))
    for prefix in ("", *prefixes):
        assert kind_of([prefix + key for key in keys]) == kind, prefix


@pytest.mark.parametrize("name", ["bb_r2plus1d18_clip8x112", "bb_audio_resnet18_1ch"])
def test_a_case_without_its_own_prefix_is_recognised(name: str) -> None:
    kind, (prefix,) = RECORDED[name]
    assert kind_of([key.removeprefix(prefix) for key in parity.shapes(name)]) == kind


@pytest.mark.parametrize("prefix", INSIDE)
def test_a_network_in_a_file_of_several_is_recognised(prefix: str) -> None:
    name, kind = INSIDE[prefix]
    own = RECORDED[name][1]
    keys = [key.removeprefix(own[0]) if own else key for key in parity.shapes(name)]
    assert kind_of([prefix + key for key in keys]) == kind


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_bert_is_recognised(prefix: str) -> None:
    assert kind_of([prefix + key for key in BERT]) == "bert"


def test_a_model_with_its_backbones_is_not_taken_for_them() -> None:
    keys = [*parity.shapes("rjcma_L300")]
    keys += [f"spatial.visual.backbone.{key}" for key in parity.shapes("ir50")]
    assert kind_of(keys) == "rjcma"


@pytest.mark.parametrize("keys", [[], ["weight", "bias"], ["layer1.weight"], ["fusion.head.weight"]])
def test_what_is_of_nothing_known_is_not_recognised(keys: list[str]) -> None:
    assert kind_of(keys) is None


def test_every_kind_belongs_to_a_part_that_its_command_names() -> None:
    for kind in KINDS:
        words = kind.use.split()
        parts = {part.name: part for part in system(words[0]).parts}
        named = words[words.index("--checkpoint") + 1].removesuffix("=FILE")
        assert kind.name in parts[named].kinds, kind.use


def test_every_kind_of_a_part_is_known() -> None:
    known = {kind.name for kind in KINDS}
    for name in MODELS:
        assert {kind for part in system(name).parts for kind in part.kinds} <= known
