"""What tensors hold on calibration windows, and which part of it 8 bits shall hold."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import HistogramCollector
from torch import nn

from edge_mer.types.model import TensorSpec
from edge_mer_calibration.ranges import (
    METHODS,
    Feed,
    Histogram,
    Method,
    Ranges,
    clipped,
    least_divergence,
)
from edge_mer_export.onnx_stage import export_stage
from tests.helpers.graphs import graph, node

pytestmark = pytest.mark.workbench

INPUT = (TensorSpec(name="x", axes=("batch", "feature"), shape=("batch", 16)),)
OUTPUT = (TensorSpec(name="y", axes=("batch", "feature"), shape=("batch", 32)),)


@pytest.fixture(scope="module")
def stage() -> bytes:
    torch.manual_seed(0)
    return export_stage(
        "s", nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32)).eval(), INPUT, OUTPUT, 1
    )


def feeds_of(n: int, seed: int = 0) -> list[Feed]:
    rng = np.random.default_rng(seed)
    return [{"x": ((i + 1) * rng.standard_normal((1, 16))).astype(np.float32)} for i in range(n)]


def watched(stage: bytes, feeds: list[Feed]) -> dict[str, Histogram]:
    ranges = Ranges(stage, ("MatMul", "Gemm"), 1)
    for feed in feeds:
        ranges.add(feed)
    assert ranges.n_windows == len(feeds)
    return ranges.histograms()


def test_every_product_is_watched_on_both_sides(stage: bytes) -> None:
    found = watched(stage, feeds_of(3))
    for one in onnx.load_model_from_string(stage).graph.node:
        if one.op_type in ("MatMul", "Gemm"):
            assert {one.input[0], one.output[0]} <= found.keys()
    weights = {tensor.name for tensor in onnx.load_model_from_string(stage).graph.initializer}
    assert not weights & found.keys()


def test_a_histogram_counts_every_value_of_every_window(stage: bytes) -> None:
    """Later windows are larger here, so the histogram must grow with them."""
    feeds = feeds_of(5)
    values = np.concatenate([feed["x"].ravel() for feed in feeds])
    one = watched(stage, feeds)["x"]
    assert one.counts.sum() == values.size
    assert (one.low, one.high) == (values.min(), values.max())
    direct, _ = np.histogram(values, one.edges.astype(np.float64))
    assert np.abs(direct - one.counts).sum() <= 4  # on the edge of a bin
    peaks = np.max([np.abs(feed["x"]).max(axis=0) for feed in feeds], axis=0)
    np.testing.assert_array_equal(one.peaks, peaks)
    means = np.concatenate([feed["x"] for feed in feeds]).mean(axis=0)
    np.testing.assert_allclose(one.means, means, rtol=1e-5, atol=1e-6)


def test_channels_are_those_that_the_reader_takes_a_row_of_weights_for() -> None:
    """Axis 1 of what a convolution reads, the last axis of what a matrix product reads."""
    nodes = [node("Conv", "x w", "a"), node("MatMul", "a v", "y")]
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((5, 3, 4)).astype(np.float32),
        "v": rng.standard_normal((6, 2)).astype(np.float32),
    }
    model = graph(nodes, {"x": (2, 3, 9)}, constants, rank=3)
    x = rng.standard_normal((2, 3, 9)).astype(np.float32)
    ranges = Ranges(model, ("Conv", "MatMul"), 1)
    ranges.add({"x": x})
    found = ranges.histograms()
    np.testing.assert_array_equal(found["x"].peaks, np.abs(x).max((0, 2)))
    np.testing.assert_allclose(found["x"].means, x.mean((0, 2)), atol=1e-6)
    assert found["a"].peaks.shape == found["a"].means.shape == (6,)


def histogram(values: NDArray[np.float64]) -> Histogram:
    top = float(np.abs(values).max())
    counts, edges = np.histogram(values, 2048, (-top, top))
    peaks, means = np.array([top], np.float32), np.array([values.mean()], np.float32)
    return Histogram(counts, edges.astype(np.float32), float(values.min()), float(values.max()), peaks, means)


def rounded(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    scale = (max(0.0, high) - min(0.0, low)) / 255
    floor = min(0.0, low)
    found: NDArray[np.float64] = np.clip(np.rint((values - floor) / scale), 0, 255) * scale + floor
    return found


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_ranges_lie_within_the_values(method: Method, symmetric: bool) -> None:
    values = np.random.default_rng(1).standard_normal(20_000) + 1
    low, high = clipped(histogram(values), method, symmetric=symmetric)
    assert values.min() <= low < -0.5
    assert 2 < high <= values.max()
    if method == "min-max":
        assert (low, high) == (values.min(), values.max())


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_percentile_leaves_out_the_outermost(symmetric: bool) -> None:
    values = np.random.default_rng(2).uniform(-1, 1, 200_000)
    values[:5] = 50
    low, high = clipped(histogram(values), "percentile", symmetric=symmetric)
    assert 0.9 < high < 1.2
    assert -1.2 < low < -0.9


@pytest.mark.parametrize("method", ["entropy", "mse"])
def test_a_lone_outlier_takes_no_levels_from_the_rest(method: Method) -> None:
    values = np.random.default_rng(3).standard_normal(200_000)
    values[0] = 40
    low, high = clipped(histogram(values), method, symmetric=True)
    assert high < 25
    assert np.mean((rounded(values, low, high) - values)[1:] ** 2) < np.mean(
        (rounded(values, -40, 40) - values)[1:] ** 2
    )


def test_mse_errs_no_more_than_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    for values in (rng.laplace(size=50_000), rng.normal(size=50_000)):
        one = histogram(values)
        errors = {
            method: np.mean((rounded(values, *clipped(one, method, symmetric=False)) - values) ** 2)
            for method in METHODS
        }
        assert errors["mse"] <= min(errors.values()) * 1.05
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_that_is_always_the_same_is_left_alone(method: Method) -> None:
    for value in (0.0, 3.0):
        edges = np.linspace(-max(value, 1e-6), max(value, 1e-6), 2049).astype(np.float32)
        counts = np.zeros(2048, np.int64)
        counts[-1] = 7
        same = np.array([value], np.float32)
        one = Histogram(counts, edges, value, value, same, same)
        low, high = clipped(one, method, symmetric=False)
        assert np.isfinite([low, high]).all()
        assert high == pytest.approx(value, abs=1e-5)


def test_the_clip_by_entropy_is_onnx_runtimes() -> None:
    collector = HistogramCollector("entropy", False, 512, 128, 99.99, "same")
    rng = np.random.default_rng(5)
    for draw in (rng.standard_normal, rng.standard_cauchy, lambda n: rng.exponential(size=n) - 0.1):
        values = np.clip(draw(20_000), -30, 30)
        for n_bins in (301, 511, 512):
            reach = float(np.abs(values).max())
            counts, edges = np.histogram(values, np.linspace(-reach, reach, n_bins + 1))
            edges32 = edges.astype(np.float32)
            theirs = collector.get_entropy_threshold((counts, edges32, edges32[0], edges32[-1], reach), 128)
            assert least_divergence(counts, edges32) == pytest.approx([float(one) for one in theirs])
