"""What half would have to hold, and where it is too much."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_mer.types.model import TensorSpec
from edge_mer_calibration.half import LIMIT, half_stage
from edge_mer_calibration.half_arithmetic import in_half_arithmetic
from edge_mer_calibration.overflow import SUM, near_overflow, peaks_of
from edge_mer_export.onnx_stage import export_stage
from tests.helpers.graphs import Feed, graph, node, run

pytestmark = pytest.mark.workbench


def feeds_of(n: int, shape: tuple[int, ...], size: float = 1.0) -> list[Feed]:
    rng = np.random.default_rng(0)
    return [{"x": (rng.standard_normal(shape) * size).astype(np.float32)} for _ in range(n)]


def test_peaks_are_of_every_float_tensor_over_all_windows() -> None:
    nodes = [
        node("Shape", "x", "size"),
        node("Mul", "x three", "a"),
        node("Sub", "a one", "b"),
        node("Reshape", "b size", "y"),
    ]
    constants = {"three": np.array(-3, np.float32), "one": np.array(1, np.float32)}
    feeds = feeds_of(5, (4, 6))
    x = np.stack([feed["x"] for feed in feeds])
    found = peaks_of(graph(nodes, {"x": (4, 6)}, constants), feeds, 1)
    assert set(found) == {"x", "a", "b", "y"}
    assert found["x"] == np.abs(x).max()
    assert found["a"] == pytest.approx(np.abs(3 * x).max())
    assert found["b"] == found["y"] == pytest.approx(np.abs(-3 * x - 1).max())


def test_nan_counts_as_infinite() -> None:
    found = peaks_of(
        graph([node("Sqrt", "x", "y")], {"x": (4, 6)}, {}), [{"x": np.full((4, 6), -1, np.float32)}], 1
    )
    assert found["y"] == np.inf


@pytest.mark.parametrize(
    "operator", ["ReduceMean", "GlobalAveragePool", "AveragePool", "ReduceSum", "ReduceL2"]
)
def test_means_and_norms_tell_the_sum_on_their_way(operator: str) -> None:
    """Of absolute values, so that no order of adding passes through more."""
    reduces = operator.startswith("Reduce")
    attributes = {"kernel_shape": [5, 7]} if operator == "AveragePool" else {}
    one = node(operator, "x axes" if reduces else "x", "y", **attributes)
    constants = {"axes": np.array([2, 3])} if reduces else {}
    feeds = feeds_of(3, (2, 3, 5, 7))
    found = peaks_of(graph([one], {"x": (2, 3, 5, 7)}, constants, rank=4), feeds, 1)
    x = np.stack([feed["x"] for feed in feeds])
    expected = (x**2 if operator == "ReduceL2" else np.abs(x)).sum((-1, -2)).max()
    assert found["y" + SUM] == pytest.approx(float(expected), rel=1e-5)


class SqueezesAndExcites(nn.Module):
    """Large activations, a mean over many of them, and a variance by their squares."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 32, 3)
        self.gate, self.last = nn.Linear(32, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, 512) -> (B, 16)."""
        h = torch.relu(self.conv(x)) * 500  # (B, 32, 510), some hundreds
        mean = h.mean(-1)  # (B, 32), by way of a sum of ten thousands
        h = h * torch.sigmoid(self.gate(mean * 0.004)).unsqueeze(-1)
        deviation = ((h - h.mean(-1, keepdim=True)) ** 2).mean(-1).sqrt()  # (B, 32), by way of their squares
        out: Tensor = self.last(mean / (deviation + 1e-3))
        return out


SHAPE = (1, 4, 512)


@pytest.fixture(scope="module")
def stage() -> bytes:
    torch.manual_seed(0)
    inputs = (TensorSpec(name="x", axes=("batch", "channel", "sample"), shape=("batch", 4, 512)),)
    outputs = (TensorSpec(name="y", axes=("batch", "feature"), shape=("batch", 16)),)
    return export_stage("s", SqueezesAndExcites().eval(), inputs, outputs, 1)


def test_what_overflows_in_half_is_named_and_mended_in_float(stage: bytes) -> None:
    feeds = feeds_of(4, SHAPE)
    expected = np.concatenate([run(stage, feed) for feed in feeds])
    plain = half_stage(stage)
    # ONNX Runtime's CPU computes in FP32 inside and hides it
    assert np.isfinite(np.concatenate([run(plain, feed) for feed in feeds])).all()
    real = in_half_arithmetic(plain)
    assert not np.isfinite(np.concatenate([run(real, feed) for feed in feeds])).all()
    named = near_overflow(stage, peaks_of(stage, feeds, 1))
    means = [name for name in named if "ReduceMean" in name]
    assert len(means) == 3
    assert all(named[name] > LIMIT for name in means)
    assert not any("conv" in name or "gate" in name for name in named)
    mended = in_half_arithmetic(half_stage(stage, named))
    found = np.concatenate([run(mended, feed) for feed in feeds])
    assert np.abs(found - expected).max() < 0.02 * expected.std()


def test_small_numbers_name_nobody(stage: bytes) -> None:
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "y")]
    model = graph(nodes, {"x": (4, 8)}, {"w": np.eye(8, dtype=np.float32)})
    assert near_overflow(model, peaks_of(model, feeds_of(3, (4, 8)), 1)) == {}


def test_who_reads_what_is_too_large_is_named_too() -> None:
    nodes = [node("Mul", "x large", "a", "makes"), node("Tanh", "a", "y", "reads")]
    model = graph(nodes, {"x": (4, 8)}, {"large": np.array(1e4, np.float32)})
    found = near_overflow(model, peaks_of(model, feeds_of(3, (4, 8), 3.0), 1))
    assert set(found) == {"makes", "reads"}
    assert min(found.values()) > LIMIT


def test_an_epsilon_is_told_as_what_it_is() -> None:
    constants = {"small": np.array(1e-12, np.float32)}
    nodes = [node("Max", "x small", "a", "guard"), node("Div", "x a", "y", "division")]
    model = graph(nodes, {"x": (4, 8)}, constants)
    found = near_overflow(model, peaks_of(model, [{"x": np.full((4, 8), 2, np.float32)}], 1))
    assert found == pytest.approx({"guard": 1e-12, "division": 1e-12})
