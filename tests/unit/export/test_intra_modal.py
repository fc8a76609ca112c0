"""Fusion within a modality: parity with the published one, sizes, export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from torch import nn

from edge_mer_export.models.intra_modal import NARROW_DEAD_KEYS, FcLayer, IntraModalTransformer
from tests.helpers import parity
from tests.helpers.networks import check_export, check_rows, load_case, run, shapes_of
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

WIDE, NARROW = ("in_resnet", "in_wavlm"), ("in_r2d1", "in_i3d")


def build(kind: str) -> nn.Module:
    """A small network; all but "narrow" take a second feature of size 10."""
    torch.manual_seed(0)
    if kind == "fc":
        return FcLayer(16, 6).eval()
    return IntraModalTransformer(6, 9, 2, 2, None if kind == "narrow" else 10).eval()


def second_size(kind: str) -> int:
    return 6 if kind == "narrow" else 10


KINDS = ("wide", "narrow", "fc")


@pytest.mark.parametrize(
    ("name", "names", "dead"),
    [("intra_audio_768", WIDE, ()), ("intra_visual_512", NARROW, NARROW_DEAD_KEYS)],
)
def test_attention_computes_what_the_published_one_does(
    name: str, names: tuple[str, str], dead: tuple[str, ...]
) -> None:
    module = IntraModalTransformer.like(parity.shapes(name), has_wide=names == WIDE)
    check_parity(load_case(module, name, dead), name, names)


@pytest.mark.parametrize(("name", "names"), [("concat_audio_768", WIDE), ("concat_visual_512", NARROW)])
def test_fc_layer_computes_what_the_published_one_does(name: str, names: tuple[str, str]) -> None:
    check_parity(load_case(FcLayer.like(parity.shapes(name)), name, ()), name, names)


def check_parity(module: nn.Module, name: str, names: tuple[str, str]) -> None:
    arrays, tolerance = parity.arrays(name), parity.description(name)["tolerance"]
    features = [arrays[key] for key in names]
    assert deviation_error(run(module, *features)[0], arrays["out_fused"]) < tolerance
    one_step = run(module, *(feature[:, 3] for feature in features))[0]
    assert deviation_error(one_step, arrays["out_fused"][:, 3]) < tolerance
    other = run(module, features[0].roll(1, dims=1), features[1])[0]
    assert deviation_error(other, arrays["out_fused"]) > 10 * tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_come_from_shapes(kind: str) -> None:
    shapes = shapes_of(build(kind))
    other = (
        FcLayer.like(shapes)
        if kind == "fc"
        else IntraModalTransformer.like(shapes, 2, has_wide=kind == "wide")
    )
    assert shapes_of(other) == shapes


def test_sizes_that_cannot_be_read_are_as_published() -> None:
    for network in (FcLayer, IntraModalTransformer):
        published = shapes_of(network())
        assert shapes_of(network.like({key: (3,) for key in published})) == published
        assert shapes_of(network.like({})) == published


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [(), (4,)])
def test_rows_do_not_depend_on_their_batch(kind: str, steps: tuple[int, ...]) -> None:
    check_rows(build(kind), torch.randn(3, *steps, 6), torch.randn(3, *steps, second_size(kind)))


@pytest.mark.slow  # a whole checkpoint goes the same way in tests/e2e/test_published_checkpoints.py
@pytest.mark.parametrize(("kind", "steps"), [("wide", ()), *((kind, ("steps",)) for kind in KINDS)])
def test_export_computes_the_same(kind: str, steps: tuple[str, ...]) -> None:
    features = {"first": ("batch", *steps, 6), "second": ("batch", *steps, second_size(kind))}
    check_export(build(kind), features, {"feature": ("batch", *steps, 6)})


def test_either_feature_may_be_the_wide_one() -> None:
    assert run(build("wide"), torch.randn(2, 10), torch.randn(2, 6))[0].shape == (2, 6)


def test_one_feature_alone_goes_through_the_fc_layer() -> None:
    assert run(FcLayer(768, 512), torch.randn(2, 3, 768))[0].shape == (2, 3, 512)
