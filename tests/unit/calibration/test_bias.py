"""Rounding weights shifts a product's outputs by a constant that its bias takes back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edge_mer.types.model import TensorSpec
from edge_mer_calibration.bias import CORRECTED, bias_corrected, rounded_weights, with_corrected
from edge_mer_calibration.graphs import output_axis
from edge_mer_calibration.methods import histograms_of
from edge_mer_calibration.quantize import SCHEMES, quantizable, quantize_stage
from edge_mer_calibration.ranges import Histogram
from edge_mer_export.onnx_stage import export_stage
from tests.helpers.graphs import Feed, Floats, graph, node, run

pytestmark = pytest.mark.workbench

INPUT = (TensorSpec(name="x", axes=("batch", "channel", "sample"), shape=("batch", 4, 64)),)
OUTPUT = (TensorSpec(name="y", axes=("batch", "steps", "feature"), shape=("batch", 60, 32)),)


class Net(nn.Module):
    """Products with and without bias, in groups and transposed, on inputs whose mean is far from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 32, 3, bias=False)
        self.second = nn.Conv1d(32, 32, 3, groups=4)
        self.third, self.fourth = nn.Linear(32, 32, bias=False), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, 64) -> (B, 60, 32)."""
        h = torch.relu(self.second(torch.relu(self.first(x)))).transpose(1, 2)  # (B, 60, 32)
        out: Tensor = self.fourth(torch.sigmoid(self.third(h)))
        return out


def feeds_of(n: int, seed: int) -> list[Feed]:
    rng = np.random.default_rng(seed)
    return [{"x": (3 + rng.standard_normal((1, 4, 64))).astype(np.float32)} for _ in range(n)]


@pytest.fixture(scope="module")
def stage() -> bytes:
    torch.manual_seed(0)
    return export_stage("s", Net().eval(), INPUT, OUTPUT, 1)


@pytest.fixture(scope="module")
def histograms(stage: bytes) -> dict[str, Histogram]:
    return histograms_of(stage, feeds_of(32, 0))


def corrected(stage: bytes, histograms: dict[str, Histogram], kind: str) -> bytes:
    means = {name: one.means for name, one in histograms.items()}
    return bias_corrected(stage, SCHEMES[kind], means, quantizable(onnx.load_model_from_string(stage)))


def with_rounded_weights(model: bytes, kind: str) -> bytes:
    """Weights as in 8 bits, all else in FP32: what there is for a bias to correct."""
    made = onnx.load_model_from_string(model)
    chosen = set(quantizable(made))
    held = {one.name: one for one in made.graph.initializer}
    for one in made.graph.node:
        if one.name in chosen:
            weights = onnx.numpy_helper.to_array(held[one.input[1]])
            rounded = rounded_weights(weights, output_axis(one, weights.ndim), SCHEMES[kind])
            held[one.input[1]].CopyFrom(onnx.numpy_helper.from_array(rounded, one.input[1]))
    return bytes(made.SerializeToString())


def mean_error(model: bytes, expected: Floats) -> float:
    """Root mean square over channels of the mean error, in deviations of the output."""
    found = np.concatenate([run(model, feed) for feed in feeds_of(32, 1)])
    shifts = (found - expected).mean((0, 1))
    return float(np.sqrt((shifts**2).mean()) / expected.std((0, 1)).mean())


@pytest.mark.parametrize("kind", sorted(SCHEMES))
def test_the_mean_error_goes(stage: bytes, histograms: dict[str, Histogram], kind: str) -> None:
    expected = np.concatenate([run(stage, feed) for feed in feeds_of(32, 1)])
    plain = mean_error(with_rounded_weights(stage, kind), expected)
    better = mean_error(with_rounded_weights(corrected(stage, histograms, kind), kind), expected)
    assert plain > 0.01
    assert better < plain / 5


@pytest.mark.parametrize("kind", sorted(SCHEMES))
def test_the_weights_are_those_that_are_shipped(
    stage: bytes, histograms: dict[str, Histogram], kind: str
) -> None:
    """Read back from the quantized graph, behind each DequantizeLinear."""
    ranges = {name: (one.low, one.high) for name, one in histograms.items()}
    made = onnx.load_model_from_string(quantize_stage(stage, ranges, SCHEMES[kind]))
    held = {one.name: onnx.numpy_helper.to_array(one) for one in made.graph.initializer}
    makers = {name: one for one in made.graph.node for name in one.output}
    source = onnx.load_model_from_string(stage)
    floats = {one.name: onnx.numpy_helper.to_array(one) for one in source.graph.initializer}
    products = {one.name: one for one in made.graph.node}
    for one in source.graph.node:
        if one.name not in quantizable(source):
            continue
        values, scales, _ = (held[name] for name in makers[products[one.name].input[1]].input)
        axis = output_axis(one, values.ndim)
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        shipped = values.astype(np.float32) * scales.reshape(shape)
        expected = rounded_weights(floats[one.input[1]], axis, SCHEMES[kind])
        np.testing.assert_allclose(shipped, expected, rtol=1e-6)
        assert not np.allclose(shipped, floats[one.input[1]], atol=1e-7)


def test_known_ranges_serve_for_the_corrected_stage_too(
    stage: bytes, histograms: dict[str, Histogram]
) -> None:
    """Also where a correction is a node of its own: a product without a bias, as the third here."""
    better = corrected(stage, histograms, "int8-cpu")
    ranges = {name: (one.low, one.high) for name, one in histograms.items()}
    expected = np.concatenate([run(stage, feed) for feed in feeds_of(32, 1)])
    plain = mean_error(quantize_stage(stage, ranges, SCHEMES["int8-cpu"]), expected)
    data = quantize_stage(better, with_corrected(better, ranges), SCHEMES["int8-cpu"])
    assert mean_error(data, expected) < plain / 2


def test_a_product_that_another_reads_at_once_gets_a_node_of_its_own() -> None:
    rng = np.random.default_rng(0)
    v, w = rng.standard_normal((2, 32, 32)).astype(np.float32)
    model = graph([node("MatMul", "x v", "a"), node("MatMul", "a w", "y")], {"x": (4, 32)}, {"v": v, "w": w})
    feed = {"x": (2 + rng.standard_normal((4, 32))).astype(np.float32)}
    histograms = histograms_of(model, [feed])
    better = corrected(model, histograms, "int8-trt")
    ranges = with_corrected(better, {name: (one.low, one.high) for name, one in histograms.items()})
    assert ranges["a" + CORRECTED] == ranges["a"]
    found = run(quantize_stage(better, ranges, SCHEMES["int8-trt"]), feed)
    expected = run(model, feed)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_what_stays_in_float_keeps_its_bias(stage: bytes, histograms: dict[str, Histogram]) -> None:
    means = {name: one.means for name, one in histograms.items()}
    assert run(bias_corrected(stage, SCHEMES["int8-trt"], means, []), feeds_of(1, 0)[0]) == pytest.approx(
        run(stage, feeds_of(1, 0)[0])
    )
