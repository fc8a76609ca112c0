"""The published EDA network: parity, sizes, export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from edge_mer_export.models.eda_conv1d import DEAD_KEYS, EdaConv1d
from tests.helpers import parity
from tests.helpers.networks import check_export, check_rows, load_case, run, shapes_of
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

CASE = "biovid_conv1d"


def build(with_logits: bool) -> EdaConv1d:
    torch.manual_seed(0)
    return EdaConv1d(96, (3, 4), (7, 3), 6, 5, with_logits).eval()


@pytest.mark.parametrize(("with_logits", "dead"), [(True, ()), (False, DEAD_KEYS)])
def test_it_computes_what_the_published_one_does(with_logits: bool, dead: tuple[str, ...]) -> None:
    arrays, tolerance = parity.arrays(CASE), parity.description(CASE)["tolerance"]
    module = load_case(EdaConv1d.like(parity.shapes(CASE), with_logits), CASE, dead)
    outputs = run(module, arrays["in_gsr"])
    assert len(outputs) == 1 + with_logits
    for found, key in zip(outputs, ("out_feat512", "out_logits"), strict=False):
        assert deviation_error(found, arrays[key]) < tolerance


@pytest.mark.parametrize("with_logits", [True, False])
def test_sizes_come_from_shapes(with_logits: bool) -> None:
    shapes = shapes_of(build(with_logits))
    assert shapes_of(EdaConv1d.like(shapes, with_logits)) == shapes


def test_sizes_that_cannot_be_read_are_as_published() -> None:
    published = shapes_of(EdaConv1d())
    assert published["fc1.weight"] == (512, 22336)
    assert shapes_of(EdaConv1d.like({key: (3,) for key in published})) == published
    assert shapes_of(EdaConv1d.like({})) == published


def test_as_many_samples_fit_as_published() -> None:
    widths = {n: EdaConv1d(n, (1, 2), feature=3).fc1.in_features for n in (2810, 2811, 2816, 2818, 2819)}
    assert widths == {2810: 2 * 348, 2811: 2 * 349, 2816: 2 * 349, 2818: 2 * 349, 2819: 2 * 350}


@pytest.mark.parametrize("with_logits", [True, False])
def test_rows_do_not_depend_on_their_batch(with_logits: bool) -> None:
    torch.manual_seed(1)
    check_rows(build(with_logits), torch.randn(3, 1, 96))


@pytest.mark.parametrize("with_logits", [True, False])
def test_export_computes_the_same(with_logits: bool) -> None:
    outputs = {"feature": ("batch", 6), "logits": ("batch", 5)}
    if not with_logits:
        del outputs["logits"]
    check_export(build(with_logits), {"piece": ("batch", 1, 96)}, outputs)
