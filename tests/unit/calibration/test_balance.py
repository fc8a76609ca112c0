"""Outlier channels are moved into weights, without any change of what a stage computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edge_mer.types.model import TensorSpec
from edge_mer_calibration.balance import LEAST_SPREAD, balanced
from edge_mer_calibration.methods import histograms_of
from edge_mer_calibration.quantize import SCHEMES, quantizable, quantize_stage
from edge_mer_export.onnx_stage import export_stage
from tests.helpers.graphs import Feed, Floats, graph, node, run

pytestmark = pytest.mark.workbench

WIDTH, L = 32, 8
INPUT = (TensorSpec(name="x", axes=("batch", "steps", "feature"), shape=("batch", L, WIDTH)),)
OUTPUT = (TensorSpec(name="y", axes=("batch", "steps", "feature"), shape=("batch", L, 16)),)


class Attends(nn.Module):
    """Attention behind a layer norm, which gives a few channels large scales, and a feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("q", "k", "v")})
        self.first, self.second = nn.Linear(WIDTH, 64), nn.Linear(64, 16)
        with torch.no_grad():
            self.norm.weight[:2] = 60.0
            for layer in self.attention.values():
                layer.weight[:, :2] /= 60.0
            self.first.weight[:3] *= 40.0
            self.second.weight[:, :3] /= 40.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, 16)."""
        h = self.norm(x)
        q, k, v = (self.attention[name](h) for name in ("q", "k", "v"))
        mixed = torch.softmax(q @ k.transpose(1, 2) / WIDTH**0.5, dim=-1) @ v  # (B, L, D)
        out: Tensor = self.second(torch.relu(self.first(mixed + x)))
        return out


def feeds_of(n: int, seed: int) -> list[Feed]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, L, WIDTH)).astype(np.float32)} for _ in range(n)]


@pytest.fixture(scope="module")
def stage() -> bytes:
    torch.manual_seed(0)
    return export_stage("s", Attends().eval(), INPUT, OUTPUT, L)


def outputs(model: bytes, feeds: list[Feed]) -> Floats:
    return np.concatenate([run(model, feed) for feed in feeds])


def made_even(model: bytes, feeds: list[Feed], strength: float = 0.5) -> bytes:
    peaks = {name: one.peaks for name, one in histograms_of(model, feeds).items()}
    return balanced(model, peaks, quantizable(onnx.load_model_from_string(model)), strength)


def by_min_max(model: bytes, feeds: list[Feed], kind: str) -> bytes:
    ranges = {name: (one.low, one.high) for name, one in histograms_of(model, feeds).items()}
    return quantize_stage(model, ranges, SCHEMES[kind])


def error(found: Floats, expected: Floats) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


@pytest.mark.parametrize("strength", [0.5, 0.8])
def test_the_stage_computes_what_it_did(stage: bytes, strength: float) -> None:
    even = made_even(stage, feeds_of(8, 0), strength)
    assert even != stage
    feeds = feeds_of(8, 1)
    expected = outputs(stage, feeds)
    assert np.abs(outputs(even, feeds) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", sorted(SCHEMES))
def test_8_bits_lose_little_where_they_lost_much(stage: bytes, kind: str) -> None:
    seen, new = feeds_of(16, 0), feeds_of(16, 1)
    expected = outputs(stage, new)
    plain = error(outputs(by_min_max(stage, seen, kind), new), expected)
    even = error(outputs(by_min_max(made_even(stage, seen), seen, kind), new), expected)
    assert plain > 0.08
    assert even < plain / 3


def test_a_layer_norm_or_a_product_before_it_takes_the_division(stage: bytes) -> None:
    """No node is added, and every name stays."""
    before, after = (onnx.load_model_from_string(one) for one in (stage, made_even(stage, feeds_of(8, 0))))
    assert [one.name for one in after.graph.node] == [one.name for one in before.graph.node]
    peaks = {
        name: one.peaks for name, one in histograms_of(after.SerializeToString(), feeds_of(8, 0)).items()
    }
    chosen = set(quantizable(after))
    read = {one.input[0] for one in after.graph.node if one.name in chosen}
    assert max(float(peaks[name].max() / np.median(peaks[name])) for name in read) < 2 * LEAST_SPREAD


EVEN = np.random.default_rng(7).uniform(-1, 1, (4, 16)).astype(np.float32)
W = np.random.default_rng(5).standard_normal((16, 16)).astype(np.float32)


def check_same(model: bytes, x: Floats, n_new: int) -> onnx.ModelProto:
    """It stays what it was, with this many more nodes; what came out comes back."""
    even = made_even(model, [{"x": x}])
    expected = run(model, {"x": x})
    assert np.abs(run(even, {"x": x}) - expected).max() < 1e-5 * np.abs(expected).max()
    made = onnx.load_model_from_string(even)
    assert len(made.graph.node) == len(onnx.load_model_from_string(model).graph.node) + n_new
    return made


def uneven(rows: int = 4) -> Floats:
    x = np.random.default_rng(6).standard_normal((rows, 16)).astype(np.float32)
    x[:, 3] *= 100
    return x


def test_products_of_one_tensor_share_one_multiplication() -> None:
    nodes = [node("MatMul", "x w", "q"), node("MatMul", "x v", "k"), node("Mul", "q k", "y")]
    made = check_same(graph(nodes, {"x": (4, 16)}, {"w": W, "v": W[::-1].copy()}), uneven(), 1)
    assert made.graph.node[1].input[0] == made.graph.node[2].input[0] == made.graph.node[0].output[0]


def test_who_else_reads_the_tensor_gets_the_old_one() -> None:
    """A residual connection beside a product keeps its numbers."""
    nodes = [node("Add", "x b", "a"), node("MatMul", "a w", "c"), node("Add", "a c", "y")]
    check_same(graph(nodes, {"x": (4, 16)}, {"w": W, "b": W[0]}), uneven(), 1)


@pytest.mark.parametrize(
    "makers",
    [
        [node("Gemm", "x v b", "a", transB=1)],
        [node("MatMul", "x v", "a0"), node("Add", "b a0", "a")],
        [node("MatMul", "x v", "a0"), node("Relu", "a0", "a")],
        [node("Mul", "x b", "a")],
        [node("LayerNormalization", "x b", "a")],
    ],
    ids=lambda makers: "-".join(one.op_type for one in makers),
)
def test_what_makes_a_tensor_takes_the_division(makers: list[onnx.NodeProto]) -> None:
    """Here column 5 of what it makes is large."""
    v, b = np.eye(16, dtype=np.float32) + 0.1 * W, W[0] / 10
    v[5], v[:, 5], b[5] = 80 * v[5], 80 * v[:, 5], 90.0
    nodes = [*makers, node("Gemm", "a w", "y")]
    check_same(graph(nodes, {"x": (4, 16)}, {"w": W, "v": v, "b": b}), EVEN, 0)


def test_a_constant_that_others_read_stays_theirs() -> None:
    """One matrix twice: before the uneven tensor, and behind it."""
    v = W.copy()
    v[:, 5] *= 80
    nodes = [node("MatMul", "x v", "a"), node("MatMul", "a v", "b"), node("MatMul", "x v", "c")]
    nodes.append(node("Add", "b c", "y"))
    check_same(graph(nodes, {"x": (4, 16)}, {"v": v}), uneven() / 100 + 1, 0)


def test_even_inputs_are_left_alone() -> None:
    model = graph([node("MatMul", "x w", "y")], {"x": (4, 16)}, {"w": W})
    check_same(model, EVEN, 0)


def test_a_channel_that_was_never_seen_is_not_blown_up() -> None:
    x = uneven()
    x[:, 7] = 0
    made = check_same(graph([node("MatMul", "x w", "y")], {"x": (4, 16)}, {"w": W}), x, 1)
    factors = next(one for one in made.graph.initializer if one.name.endswith("/factors"))
    assert onnx.numpy_helper.to_array(factors).max() < 100
