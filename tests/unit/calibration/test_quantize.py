"""INT8 stages: what must be true of each scheme."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from edge_mer.bundle.onnx_guard import inspect_onnx
from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions
from edge_mer.types.model import TensorSpec
from edge_mer_calibration.methods import histograms_of
from edge_mer_calibration.quantize import SCHEMES, finish_stage, quantizable, quantize_stage
from edge_mer_export.onnx_stage import export_stage

pytestmark = pytest.mark.workbench

INPUT = (TensorSpec(name="x", axes=("batch", "channel", "column"), shape=("batch", 3, 64)),)
OUTPUT = (TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", 64)),)
Feed = dict[str, NDArray[Any]]


def by_min_max(stage: bytes, feeds: list[Feed], scheme: str) -> bytes:
    histograms = histograms_of(stage, feeds)
    ranges = {name: (one.low, one.high) for name, one in histograms.items()}
    return quantize_stage(stage, ranges, SCHEMES[scheme])


class Attends(nn.Module):
    """A convolution, a product of two activations, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 128, 5)
        self.linear = nn.Linear(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 64) -> (B, 64)."""
        h = torch.relu(self.conv(x)).transpose(1, 2)  # (B, 60, 128)
        weights = torch.softmax(h @ h.transpose(1, 2) / 128**0.5, -1)  # (B, 60, 60)
        out: Tensor = self.linear((weights @ h).mean(1))  # (B, 64)
        return out


@pytest.fixture(scope="module")
def stage() -> bytes:
    torch.manual_seed(0)
    return export_stage("attends", Attends().eval(), INPUT, OUTPUT, 4)


@pytest.fixture(scope="module")
def feeds() -> list[Feed]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, 3, 64)).astype(np.float32)} for _ in range(16)]


@pytest.fixture(scope="module", params=sorted(SCHEMES))
def quantized(request: pytest.FixtureRequest, stage: bytes, feeds: list[Feed]) -> tuple[str, onnx.ModelProto]:
    data = finish_stage(by_min_max(stage, feeds, request.param), SCHEMES[request.param])
    inspect_onnx(data, "attends.onnx")
    return request.param, onnx.load_model_from_string(data)


def nodes(model: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == operator]


def constants(model: onnx.ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def test_weights_are_stored_as_int8(quantized: tuple[str, onnx.ModelProto]) -> None:
    """One byte per weight, per channel, zero point 0, behind a DequantizeLinear alone."""
    _, model = quantized
    held = constants(model)
    weights = [
        n for n in nodes(model, "DequantizeLinear") if n.input[0] in held and len(held[n.input[0]].dims) > 1
    ]
    assert len(weights) == 2
    for node in weights:
        assert held[node.input[0]].data_type == TensorProto.INT8
        assert held[node.input[1]].dims[0] > 1
        assert not numpy_helper.to_array(held[node.input[2]]).any()
    big = [t for t in model.graph.initializer if t.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    assert max((np.prod(t.dims) for t in big), default=0) <= 128


def test_activations_are_as_the_scheme_says(quantized: tuple[str, onnx.ModelProto]) -> None:
    name, model = quantized
    held = constants(model)
    points = [held[node.input[2]] for node in nodes(model, "QuantizeLinear")]
    assert points
    wanted = TensorProto.UINT8 if name == "int8-cpu" else TensorProto.INT8
    assert {point.data_type for point in points} == {wanted}
    if name == "int8-trt":
        assert not any(numpy_helper.to_array(point).any() for point in points)


def test_products_of_two_activations_stay_in_float(quantized: tuple[str, onnx.ModelProto]) -> None:
    _, model = quantized
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    products = [[made_by.get(i) for i in node.input[:2]] for node in nodes(model, "MatMul")]
    floats = [pair for pair in products if "DequantizeLinear" not in pair]
    assert len(floats) == 2


def test_the_rest_is_half_for_tensorrt_only(quantized: tuple[str, onnx.ModelProto]) -> None:
    """Inputs and outputs stay FP32, and a Q or DQ at one; other scales are FP16 where the rest is."""
    name, model = quantized
    held, ends = constants(model), {value.name for value in (*model.graph.input, *model.graph.output)}
    pairs = nodes(model, "QuantizeLinear") + nodes(model, "DequantizeLinear")
    inner = [node for node in pairs if not ends & {node.input[0], node.output[0]}]
    assert inner
    scales = {held[node.input[1]].data_type for node in inner}
    assert scales == {TensorProto.FLOAT16 if name == "int8-trt" else TensorProto.FLOAT}
    edges = [*model.graph.input, *model.graph.output]
    assert {value.type.tensor_type.elem_type for value in edges} == {TensorProto.FLOAT}


def test_only_the_standard_domain_is_used(quantized: tuple[str, onnx.ModelProto]) -> None:
    _, model = quantized
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_numbers_stay_close(name: str, stage: bytes, feeds: list[Feed]) -> None:
    """On data it was calibrated on, 8 bits cost a few percent; a wrong scale would cost everything."""
    data = by_min_max(stage, feeds, name)
    options = OrtOptions(fuse_qdq=name == "int8-cpu")
    whole = OrtEngine("attends", stage, INPUT, OUTPUT, {"batch": 1}, options)
    small = OrtEngine("attends", data, INPUT, OUTPUT, {"batch": 1}, options)
    expected = np.concatenate([whole.run(feed)["feature"] for feed in feeds])
    found = np.concatenate([small.run(feed)["feature"] for feed in feeds])
    error = np.sqrt(np.mean((found - expected) ** 2)) / expected.std()
    assert 1e-6 < error < 0.05


def test_a_broken_window_ends_the_calibration(stage: bytes) -> None:
    """A feed of the wrong shape must not shorten the set silently."""
    good = {"x": np.zeros((1, 3, 64), np.float32)}
    bad = {"x": np.zeros((1, 3, 5), np.float32)}
    with pytest.raises(Exception, match="x"):
        by_min_max(stage, [good, bad, good], "int8-cpu")


def test_only_the_named_nodes_are_quantized(stage: bytes, feeds: list[Feed]) -> None:
    ranges = {name: (one.low, one.high) for name, one in histograms_of(stage, feeds).items()}
    graph = onnx.load_model_from_string(stage)
    conv = next(node.name for node in graph.graph.node if node.op_type == "Conv")
    assert set(quantizable(graph)) > {conv}
    some = onnx.load_model_from_string(quantize_stage(stage, ranges, SCHEMES["int8-cpu"], [conv]))
    small = {tuple(t.dims) for t in some.graph.initializer if t.data_type == TensorProto.INT8 and t.dims}
    assert (128, 3, 5) in small
    assert not {(64, 128), (128, 64)} & small
    assert quantize_stage(stage, ranges, SCHEMES["int8-cpu"], []) == stage


class Normed(nn.Module):
    """A wide product that reads features of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 64) -> (B, 64)."""
        out: Tensor = self.second(nn.functional.normalize(self.first(x[:, 0]), dim=-1))  # (B, 64)
        return out


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_weights_of_products_of_unit_length_are_stored_in_8_bits_for_processors(
    name: str, feeds: list[Feed]
) -> None:
    torch.manual_seed(0)
    network = Normed().eval()
    stage = export_stage("normed", network, INPUT, OUTPUT, 4)
    made = onnx.load_model_from_string(finish_stage(by_min_max(stage, feeds, name), SCHEMES[name]))
    kinds = sorted((tuple(t.dims), t.data_type) for t in made.graph.initializer if len(t.dims) == 2)
    rest = TensorProto.FLOAT16 if SCHEMES[name].half else TensorProto.INT8
    assert kinds == sorted([((64, 64), TensorProto.INT8), ((64, 64), rest)])
    if SCHEMES[name].half:
        return
    # what it multiplies is in float all the same: nothing but activations of the first product is quantized
    assert len(nodes(made, "QuantizeLinear")) == 1 + ("Gemm" in {n.op_type for n in made.graph.node})
    exact = OrtEngine("normed", stage, INPUT, OUTPUT, {"batch": 1}, OrtOptions())
    found = OrtEngine("normed", made.SerializeToString(), INPUT, OUTPUT, {"batch": 1}, OrtOptions())
    a, b = (np.concatenate([one.run(feed)["feature"] for feed in feeds]) for one in (exact, found))
    assert np.abs(a - b).max() < 0.1 * a.std()


class Reads(nn.Module):
    """Two tables whose rows are looked up, one of them small, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(200, 32), nn.Embedding(2, 32)
        self.linear = nn.Linear(32, 64)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, 64)."""
        out: Tensor = self.linear(torch.relu(self.words(ids) + self.kinds(ids % 2)))  # (B, T, 64)
        return out


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_tables_of_words_are_stored_in_8_bits_for_processors(name: str) -> None:
    torch.manual_seed(0)
    ids = (TensorSpec(name="ids", axes=("batch", "token"), shape=("batch", "token"), dtype="int64"),)
    vectors = (TensorSpec(name="vectors", axes=("batch", "token", "feature"), shape=("batch", "token", 64)),)
    network = Reads().eval()
    network.words.weight.data[7] = 0  # a row of nothing, as padding has
    stage = export_stage("reads", network, ids, vectors, 4)
    rng = np.random.default_rng(0)
    feeds: list[Feed] = [{"ids": rng.integers(0, 200, (1, 12))} for _ in range(16)]
    made = onnx.load_model_from_string(finish_stage(by_min_max(stage, feeds, name), SCHEMES[name]))
    table = next(tensor for tensor in made.graph.initializer if tuple(tensor.dims) == (200, 32))
    if SCHEMES[name].half:
        assert table.data_type == TensorProto.FLOAT16
        return
    assert table.data_type == TensorProto.INT8
    small = next(tensor for tensor in made.graph.initializer if tuple(tensor.dims) == (2, 32))
    assert small.data_type == TensorProto.FLOAT
    # rows become float after they were looked up: a table that is float as a whole would be kept so in memory
    gathers = [node for node in nodes(made, "Gather") if node.input[0] == table.name]
    readers = {node.op_type for node in made.graph.node if gathers[0].output[0] in node.input}
    assert readers == {"DequantizeLinear"}
    axes = {"batch": 1, "token": 12}
    exact = OrtEngine("reads", stage, ids, vectors, axes, OrtOptions())
    found = OrtEngine("reads", made.SerializeToString(), ids, vectors, axes, OrtOptions())
    a, b = (np.concatenate([one.run(feed)["vectors"] for feed in feeds]) for one in (exact, found))
    assert np.abs(a - b).max() < 0.1 * a.std()
