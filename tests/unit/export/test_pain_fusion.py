"""Fusions of face and EDA: parity with the published ones, sizes, export."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from torch import nn

from edge_mer_export.models.pain_fusion import (
    CONCAT_DEAD_KEYS,
    MULTI_DEAD_KEYS,
    MULTI_ONE_STEP_DEAD_KEYS,
    PAIR_DEAD_KEYS,
    ConcatPlusFc,
    MultiCrossAttention,
    MultimodalTransformer,
    MultimodalTransformerMulti,
    TwoCrossAttention,
)
from tests.helpers import parity
from tests.helpers.networks import check_export, check_rows, load_case, run, shapes_of, vary
from tests.helpers.parity import deviation_error

pytestmark = pytest.mark.workbench

CASES = {
    "biovid_multi_seq": (MultiCrossAttention, MULTI_DEAD_KEYS),
    "biovid_multi_seq_5class": (MultiCrossAttention, MULTI_DEAD_KEYS),
    "biovid_multi_nonseq": (MultimodalTransformerMulti, MULTI_ONE_STEP_DEAD_KEYS),
    "biovid_two_seq": (TwoCrossAttention, PAIR_DEAD_KEYS),
    "biovid_two_nonseq": (MultimodalTransformer, PAIR_DEAD_KEYS),
    "biovid_concat_seq": (ConcatPlusFc, CONCAT_DEAD_KEYS),
}
KINDS = (
    MultiCrossAttention,
    MultimodalTransformerMulti,
    TwoCrossAttention,
    MultimodalTransformer,
    ConcatPlusFc,
)
ONE_STEP = (MultimodalTransformerMulti, MultimodalTransformer)


def build(kind: type[nn.Module], n_layers: int = 1) -> nn.Module:
    """A small network for three classes."""
    sizes = {"d_model": 8, "d_ff": 14, "heads": 2, "n_layers": n_layers, "n_classes": 3}
    if kind is ConcatPlusFc:
        return vary(ConcatPlusFc(8, (11, 10, 9), 3))
    if kind is MultimodalTransformerMulti:
        return vary(kind(**sizes, width=11))
    return vary(kind(**sizes, widths=(11, 10, 9, 7) if kind is MultiCrossAttention else (11, 10, 9)))


def n_steps(kind: type[nn.Module]) -> int:
    return 1 if kind in ONE_STEP else 4


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_published_one_does(name: str) -> None:
    kind, dead = CASES[name]
    arrays, content = parity.arrays(name), parity.description(name)
    with torch.device("meta"):
        module = kind.like(parity.shapes(name))
    load_case(module.to_empty(device="cpu"), name, dead)
    live = sum(parameter.numel() for parameter in module.parameters())
    assert live == content["params"] - content["dead_params"]
    visual, eda, right = arrays["in_visual"], arrays["in_physio"], arrays["out_logits"]
    if kind is ConcatPlusFc:
        right = right[:, -1]
    assert deviation_error(run(module, visual, eda)[0], right) < content["tolerance"]
    assert deviation_error(run(module, eda, visual)[0], right) > 10 * content["tolerance"]
    if kind not in ONE_STEP:
        earlier = run(module, visual.roll(1, dims=1), eda.roll(1, dims=1))[0]
        assert deviation_error(earlier, right) > 10 * content["tolerance"]


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_come_from_shapes(kind: type[nn.Module]) -> None:
    shapes = shapes_of(build(kind, n_layers=2))
    other = kind.like(shapes) if kind is ConcatPlusFc else kind.like(shapes, num_heads=2)
    assert shapes_of(other) == shapes


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_that_cannot_be_read_are_as_published(kind: type[nn.Module]) -> None:
    with torch.device("meta"):
        published = shapes_of(kind())
        assert shapes_of(kind.like({key: (3,) for key in published})) == published
        assert shapes_of(kind.like({})) == published


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_their_batch(kind: type[nn.Module]) -> None:
    torch.manual_seed(1)
    check_rows(build(kind), torch.randn(3, n_steps(kind), 8), torch.randn(3, n_steps(kind), 8))


@pytest.mark.slow  # a whole checkpoint goes the same way in tests/e2e/test_published_checkpoints.py
# a published checkpoint of the largest goes through the command line in tests/e2e
@pytest.mark.parametrize(
    "kind",
    [pytest.param(one, marks=pytest.mark.slow) if one is MultiCrossAttention else one for one in KINDS],
)
def test_export_computes_the_same(kind: type[nn.Module]) -> None:
    features = {name: ("batch", n_steps(kind), 8) for name in ("visual", "eda")}
    operators = check_export(build(kind), features, {"pain": ("batch", 3)})
    if kind in ONE_STEP:
        assert "Softmax" not in operators, "one step takes all the weight"


@pytest.mark.parametrize("kind", [MultiCrossAttention, ConcatPlusFc])
def test_steps_are_free(kind: type[nn.Module]) -> None:
    features = {name: ("batch", "steps", 8) for name in ("visual", "eda")}
    check_export(build(kind), features, {"pain": ("batch", 3)})


def test_two_cross_attentions_read_the_fourth_step() -> None:
    module, visual, eda = build(TwoCrossAttention), torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    moved = [0, 1, 4, 3, 2]
    before, after = run(module, visual, eda)[0], run(module, visual[:, moved], eda[:, moved])[0]
    assert torch.allclose(before, after, atol=1e-6), "the order of the other steps is free"
    assert not torch.allclose(before, run(module, visual.flip(1), eda.flip(1))[0], atol=1e-3)


def test_one_step_is_what_the_attention_over_it_gives() -> None:
    """Full attention over one step, with the same weights."""
    alone = build(MultimodalTransformer)
    visual, eda = torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    with torch.inference_mode():
        full = alone.classify(super(MultimodalTransformer, alone).cross(visual, eda).squeeze(1))
    assert torch.allclose(run(alone, visual, eda)[0], full, atol=1e-6)


def test_features_are_brought_to_unit_length_on_request() -> None:
    shapes = shapes_of(build(ConcatPlusFc))
    module = ConcatPlusFc.like(shapes, normalise=True)
    visual, eda = torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    assert torch.allclose(run(module, 3 * visual, eda)[0], run(module, visual, 5 * eda)[0], atol=1e-5)
