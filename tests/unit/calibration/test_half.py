"""Stages in FP16: strongly typed, and FP32 where half is too small."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from edge_mer.types.model import TensorSpec
from edge_mer_calibration.half import fragile_nodes, half_stage, rounded
from edge_mer_calibration.methods import histograms_of
from edge_mer_calibration.quantize import SCHEMES, finish_stage, quantize_stage
from edge_mer_calibration.trt_rules import problems
from edge_mer_export.onnx_stage import export_stage
from tests.helpers.graphs import Feed, graph, node, run

pytestmark = pytest.mark.workbench

INPUT = (TensorSpec(name="x", axes=("batch", "steps", "feature"), shape=("batch", 6, 32)),)
OUTPUT = (TensorSpec(name="y", axes=("batch", "feature"), shape=("batch", 16)),)


class Net(nn.Module):
    """Something of everything that fusions have: a mask, attention, norms, a unit length, a recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix, self.last = nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 16)
        self.recurrent = nn.LSTM(32, 32, batch_first=True)
        self.conv = nn.Conv1d(32, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6, 32) -> (B, 16)."""
        h = self.norm(self.mix(x))  # (B, 6, 32)
        scores = (h @ h.transpose(1, 2)).masked_fill(x[:, None, :, 0] > 1.0, -1e9)  # (B, 6, 6)
        h = self.recurrent(torch.softmax(scores, -1) @ h)[0]
        h = nn.functional.normalize(self.conv(h.transpose(1, 2)).mean(-1), dim=-1)  # (B, 32)
        out: Tensor = self.last(h)
        return out


def feeds_of(n: int) -> list[Feed]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, 6, 32)).astype(np.float32)} for _ in range(n)]


@pytest.fixture(scope="module")
def stage() -> bytes:
    torch.manual_seed(0)
    return export_stage("s", Net().eval(), INPUT, OUTPUT, 6)


def kinds(data: bytes) -> dict[str, int]:
    """Tensor -> type, every type inferred from the graph alone."""
    model = onnx.shape_inference.infer_shapes(
        onnx.load_model_from_string(data), check_type=True, strict_mode=True
    )
    return {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}


def test_a_stage_in_half_is_close_to_fp32_and_half_as_large(stage: bytes) -> None:
    data = half_stage(stage)
    assert problems(data) == []
    expected = np.concatenate([run(stage, feed) for feed in feeds_of(8)])
    found = np.concatenate([run(data, feed) for feed in feeds_of(8)])
    assert 0 < np.abs(found - expected).max() < 0.01 * expected.std()
    assert len(data) < 0.6 * len(stage)
    edges = onnx.load_model_from_string(data).graph
    assert {value.type.tensor_type.elem_type for value in (*edges.input, *edges.output)} == {
        TensorProto.FLOAT
    }
    assert {TensorProto.FLOAT, TensorProto.FLOAT16} <= set(kinds(data).values())


def test_softmax_and_norms_are_computed_in_fp32_and_products_in_half(stage: bytes) -> None:
    data = half_stage(stage)
    found = kinds(data) | {"y": TensorProto.FLOAT}
    made = {one.op_type: found[one.output[0]] for one in onnx.load_model_from_string(data).graph.node}
    for operator in ("Softmax", "LayerNormalization", "ReduceL2", "Where", "Clip", "Div"):
        assert made[operator] == TensorProto.FLOAT, operator
    for operator in ("Conv", "Gemm", "MatMul"):
        assert made[operator] == TensorProto.FLOAT16, operator


def test_a_mask_and_an_epsilon_keep_their_values(stage: bytes) -> None:
    model = onnx.load_model_from_string(half_stage(stage))
    held = [onnx.numpy_helper.to_array(one) for one in model.graph.initializer]
    singles = {(one.dtype.name, float(one.reshape(()))) for one in held if one.size == 1}
    assert ("float32", -1e9) in singles
    assert ("float32", float(np.float32(1e-12))) in singles


def test_a_row_that_is_masked_as_a_whole_stays_finite(stage: bytes) -> None:
    feed = feeds_of(1)[0]
    feed["x"][:, :, 0] = 2.0
    found, expected = run(half_stage(stage), feed), run(stage, feed)
    assert np.abs(found - expected).max() < 0.02


def test_between_neighbours_in_float_nothing_goes_through_half() -> None:
    """x², 10⁶ here, is in FP32 as a whole, although a transpose lies between its ends."""
    nodes = [
        node("Mul", "x x", "a"),
        node("Transpose", "a", "b", perm=[1, 0]),
        node("Sqrt", "b", "c"),
        node("Add", "c x", "y"),
    ]
    model = graph(nodes, {"x": (2, 2)}, {})
    data = half_stage(model, ["a", "c"])
    made = onnx.load_model_from_string(data)
    operators = [one.op_type for one in made.graph.node]
    assert operators == ["Mul", "Transpose", "Sqrt", "Cast", "Cast", "Add", "Cast"]
    x = np.array([[1000.0, -3.0], [2.0, 500.0]], np.float32)
    np.testing.assert_allclose(run(data, {"x": x}), np.abs(x).T + x, rtol=1e-3)


def test_a_tensor_is_cast_once_for_all_who_read_it() -> None:
    nodes = [
        node("Relu", "x", "a"),
        node("Softmax", "a", "b", "one"),
        node("Softmax", "a", "c", "two", axis=0),
        node("Add", "b c", "y"),
    ]
    made = onnx.load_model_from_string(half_stage(graph(nodes, {"x": (3, 4)}, {})))
    read = [one.input[0] for one in made.graph.node if one.op_type == "Cast"]
    assert len(read) == len(set(read)) == 5  # the input, a, b, c, and the output


def test_a_constant_is_held_in_the_type_of_each_who_reads_it() -> None:
    nodes = [node("Mul", "x w", "a", "first"), node("Mul", "a w", "y", "second")]
    model = graph(nodes, {"x": (2, 3)}, {"w": np.array([1.1, 2.2, 3.3], np.float32)})
    for stay, expected in (([], {10}), (["first"], {1, 10}), (["first", "second"], {1})):
        made = onnx.load_model_from_string(half_stage(model, stay))
        assert {one.data_type for one in made.graph.initializer} == expected


def test_operators_that_know_no_half_stay_in_fp32() -> None:
    nodes = [
        node("Range", "zero three one", "a"),
        node("Mul", "x a", "b"),
        node("Resize", "b  scales".replace("  ", " none "), "y", mode="nearest"),
    ]
    nodes[2].input[1] = ""
    constants = {name: np.array(value, np.float32) for name, value in (("zero", 0), ("three", 3), ("one", 1))}
    constants["scales"] = np.array([1, 2], np.float32)
    data = half_stage(graph(nodes, {"x": (2, 3)}, constants))
    assert problems(data) == []
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run(data, {"x": x}), [[0, 0, 1, 1, 2, 2]] * 2)


def test_constants_stay_finite_and_infinities_infinite() -> None:
    values = np.array([1e9, -1e9, np.inf, -np.inf, 65519.0, 1.0], np.float32)
    np.testing.assert_array_equal(
        rounded(values), np.array([65504, -65504, np.inf, -np.inf, 65504, 1], np.float16)
    )


def test_what_a_small_epsilon_guards_is_found_up_to_the_division() -> None:
    nodes = [
        node("Add", "x small", "a", "guard"),
        node("Sqrt", "a", "b", "root"),
        node("Div", "x b", "c", "division"),
        node("Relu", "c", "y", "behind"),
    ]
    constants = {"small": np.array(1e-6, np.float32)}
    found = fragile_nodes(onnx.load_model_from_string(graph(nodes, {"x": (2, 3)}, constants)))
    assert set(found) == {"guard", "root", "division"}
    constants = {"small": np.array(1e-3, np.float32)}
    assert fragile_nodes(onnx.load_model_from_string(graph(nodes, {"x": (2, 3)}, constants))) == {}


def test_a_node_that_is_not_there_is_refused(stage: bytes) -> None:
    with pytest.raises(ValueError, match="'nowhere'"):
        half_stage(stage, ["nowhere"])


def quantized(stage: bytes) -> bytes:
    ranges = {name: (one.low, one.high) for name, one in histograms_of(stage, feeds_of(8)).items()}
    return quantize_stage(stage, ranges, SCHEMES["int8-trt"])


def test_pairs_become_half_on_their_float_side_without_casts_beside_them(stage: bytes) -> None:
    data = finish_stage(quantized(stage), SCHEMES["int8-trt"])
    assert problems(data) == []
    model = onnx.load_model_from_string(data)
    readers = {name: one.op_type for one in model.graph.node for name in one.input}
    pairs = [one for one in model.graph.node if one.op_type == "DequantizeLinear"]
    assert pairs
    assert "Cast" not in {readers[one.output[0]] for one in pairs}
    found = np.concatenate([run(data, feed) for feed in feeds_of(8)])
    expected = np.concatenate([run(quantized(stage), feed) for feed in feeds_of(8)])
    assert np.abs(found - expected).max() < 0.05 * expected.std()


def test_a_product_in_8_bits_stays_in_fp32_with_its_pairs(stage: bytes) -> None:
    name = next(one.name for one in onnx.load_model_from_string(stage).graph.node if one.op_type == "Conv")
    data = finish_stage(quantized(stage), SCHEMES["int8-trt"], [name])
    assert problems(data) == []
    model = onnx.load_model_from_string(data)
    types, made = kinds(data), {name: one for one in model.graph.node for name in one.output}
    (conv,) = (one for one in model.graph.node if one.op_type == "Conv")
    assert types[conv.output[0]] == TensorProto.FLOAT
    assert [made[one].op_type for one in conv.input[:2]] == ["DequantizeLinear"] * 2


def test_scales_that_half_cannot_hold_keep_their_product_in_fp32() -> None:
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((32, 32)) * 1e-6).astype(np.float32)
    nodes = [node("MatMul", "x w", "a"), node("Mul", "a large", "y")]
    model = graph(nodes, {"x": (4, 32)}, {"w": weights, "large": np.array(1e4, np.float32)})
    x = (rng.standard_normal((4, 32)) * 100).astype(np.float32)
    ranges = {name: (one.low, one.high) for name, one in histograms_of(model, [{"x": x}]).items()}
    small = quantize_stage(model, ranges, SCHEMES["int8-trt"])
    data = finish_stage(small, SCHEMES["int8-trt"])
    assert problems(data) == []
    expected = run(small, {"x": x})
    assert np.abs(run(data, {"x": x}) - expected).max() < 0.01 * expected.std()


def test_names_of_nodes_do_not_reach_the_shipped_file(stage: bytes) -> None:
    for kind in SCHEMES:
        data = finish_stage(quantized(stage), SCHEMES[kind])
        assert {one.name for one in onnx.load_model_from_string(data).graph.node} == {""}
