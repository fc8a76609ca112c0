"""Half arithmetic as NumPy's float16 computes it, in an engine that has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edge_mer_calibration.half import HALF
from edge_mer_calibration.half_arithmetic import in_half_arithmetic
from tests.helpers.graphs import graph, node, run

pytestmark = pytest.mark.workbench

RNG = np.random.default_rng(0)
Constants = dict[str, NDArray[Any]]


def normal(*shape: int) -> NDArray[np.float16]:
    return RNG.standard_normal(shape).astype(np.float16)


CASES: dict[str, tuple[Any, Constants, tuple[int, ...]]] = {
    "Conv": (node("Conv", "h w b", "z"), {"w": normal(4, 3, 3), "b": normal(4)}, (2, 3, 9)),
    "Gemm": (node("Gemm", "h w b", "z", transB=1), {"w": normal(4, 6), "b": normal(4)}, (5, 6)),
    "MatMul": (node("MatMul", "h w", "z"), {"w": normal(6, 4)}, (5, 6)),
    "Mul": (node("Mul", "h h", "z"), {}, (5, 6)),
    "Add": (node("Add", "h h", "z"), {}, (5, 6)),
    "Div": (node("Div", "h w", "z"), {"w": normal(6)}, (5, 6)),
    "Pow": (node("Pow", "h w", "z"), {"w": np.array(2, np.float16)}, (5, 6)),
    "Sqrt": (node("Sqrt", "h", "z"), {}, (5, 6)),
    "Exp": (node("Exp", "h", "z"), {}, (5, 6)),
    "Sigmoid": (node("Sigmoid", "h", "z"), {}, (5, 6)),
    "Softmax": (node("Softmax", "h", "z"), {}, (5, 6)),
    "Transpose": (node("Transpose", "h", "z", perm=[1, 0]), {}, (5, 6)),
    "ReduceMean": (node("ReduceMean", "h axes", "z"), {"axes": np.array([1])}, (5, 6)),
    "ReduceSum": (node("ReduceSum", "h axes", "z"), {"axes": np.array([1])}, (5, 6)),
    "LayerNormalization": (
        node("LayerNormalization", "h w b", "z", epsilon=1e-5),
        {"w": normal(6), "b": normal(6)},
        (5, 6),
    ),
}
ADD_UP = {"Conv": 2, "Gemm": 2, "Softmax": 2, "ReduceMean": 2, "LayerNormalization": 4}
"""Operators whose steps NumPy rounds in another order, and by how many spacings they may differ."""
SIZES = (1.0, 30.0, 300.0, 6e4)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("operator", sorted(CASES))
def test_finite_and_infinite_values_are_those_of_binary16(operator: str) -> None:
    """NumPy's float16 rounds every step; sums within products it adds in FP32, as tensor cores do."""
    one, constants, shape = CASES[operator]
    rank = 3 if operator == "Conv" else 2
    nodes = [node("Cast", "x", "h", to=HALF), one, node("Cast", "z", "y", to=1)]
    model = graph(nodes, {"x": shape}, constants, rank=rank)
    reference, real = ReferenceEvaluator(model), in_half_arithmetic(model)
    n_infinite = 0
    for size in SIZES:
        x = (RNG.standard_normal(shape) * size).astype(np.float32)
        (expected,) = reference.run(None, {"x": x})
        found = run(real, {"x": x})
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_array_equal(np.isposinf(found), np.isposinf(expected))
        np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected))
        finite = np.isfinite(expected)
        sizes = np.abs(expected[finite])
        if operator in ADD_UP:  # what they add is larger than what comes out
            sizes = np.full_like(sizes, sizes.max(initial=0))
        spacing = np.spacing(sizes.astype(np.float16)).astype(np.float32)
        assert (np.abs(found[finite] - expected[finite]) <= ADD_UP.get(operator, 1) * spacing).all()
        n_infinite += int((~finite).sum())
    if operator not in ("Softmax", "Sigmoid", "Sqrt", "Transpose"):
        assert n_infinite, "the largest inputs must leave the range of half"


def test_the_engine_keeps_the_rounding() -> None:
    """A pair of casts is no rounding if the engine takes it out, as ONNX Runtime did before 1.17."""
    nodes = [node("Cast", "x", "h", to=HALF), node("Relu", "h", "z"), node("Cast", "z", "y", to=1)]
    x = np.array([[1.0001, 1e-9, 7e4, 2049.0]], np.float32)
    found = run(in_half_arithmetic(graph(nodes, {"x": (1, 4)}, {})), {"x": x})
    np.testing.assert_array_equal(found, [[1.0, 0.0, np.inf, 2048.0]])


def test_nothing_is_held_in_half_but_between_two_casts() -> None:
    one, constants, shape = CASES["LayerNormalization"]
    nodes = [node("Cast", "x", "h", to=HALF), one, node("Cast", "z", "y", to=1)]
    made = onnx.load_model_from_string(in_half_arithmetic(graph(nodes, {"x": shape}, constants)))
    inferred = onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True).graph
    halves = {v.name for v in inferred.value_info if v.type.tensor_type.elem_type == HALF}
    assert halves
    assert {one.op_type for one in made.graph.node if halves & {*one.input, *one.output}} == {"Cast"}
