"""Rules of TensorRT: what `int8-trt` keeps, and that each broken one is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_mer.bundle.read import open_bundle
from edge_mer_calibration.trt_rules import problems

pytestmark = pytest.mark.workbench


def a_graph() -> onnx.ModelProto:
    """From x (1, 4) -> Q -> DQ -> Gemm with 8-bit weights (3, 4) -> y (1, 3)."""
    constants = [
        numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
        numpy_helper.from_array(np.ones((3, 4), np.int8), "weight"),
        numpy_helper.from_array(np.full(3, 0.2, np.float32), "scales"),
        numpy_helper.from_array(np.zeros(3, np.int8), "zeros"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["w"], axis=0),
        helper.make_node("Gemm", ["dq", "w"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def replaced(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def rewired(number: int, place: int, name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[number].input[place] = name

    return change


def opset_21(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


def ir_13(model: onnx.ModelProto) -> None:
    model.ir_version = 13


def outside(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type = "Attention"


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].domain = "com.microsoft"


def unsigned(model: onnx.ModelProto) -> None:
    replaced(model, "zero", np.array(0, np.uint8))


def shifted(model: onnx.ModelProto) -> None:
    replaced(model, "zero", np.array(3, np.int8))


def no_zero_point(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[2]


def nothing_of_a_scale(model: onnx.ModelProto) -> None:
    replaced(model, "scale", np.array(0.0, np.float32))


def one_scale_per_column(model: onnx.ModelProto) -> None:
    replaced(model, "scale", np.full(4, 0.1, np.float32))


def one_scale_for_all_weights(model: onnx.ModelProto) -> None:
    replaced(model, "scales", np.array(0.2, np.float32))
    replaced(model, "zeros", np.array(0, np.int8))


def along_the_inputs(model: onnx.ModelProto) -> None:
    model.graph.node[2].attribute[0].i = 1
    replaced(model, "scales", np.full(4, 0.2, np.float32))
    replaced(model, "zeros", np.zeros(4, np.int8))


def read_in_8_bits(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["q"], ["also"]))


def half_and_whole(model: onnx.ModelProto) -> None:
    replaced(model, "scales", np.full(3, 0.2, np.float16))


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("version", opset_21),
        ("version", ir_13),
        ("version", outside),
        ("operator", unknown_operator),
        ("operator", foreign_operator),
        ("type", unsigned),
        ("type", no_zero_point),
        ("zero", shifted),
        ("scale", nothing_of_a_scale),
        ("scale", one_scale_per_column),
        ("weight", one_scale_for_all_weights),
        ("weight", along_the_inputs),
        ("pair", read_in_8_bits),
        ("pair", rewired(1, 0, "x")),
        ("both", rewired(3, 0, "x")),
        ("typed", half_and_whole),
    ],
)
def test_each_broken_rule_is_named(rule: str, change: Callable[[onnx.ModelProto], None]) -> None:
    model = a_graph()
    change(model)
    found = problems(model.SerializeToString())
    assert rule in {problem.rule for problem in found}
    assert all(str(problem).startswith(f"{problem.rule}: {problem.where}: ") for problem in found)


def test_a_graph_that_keeps_them_has_no_problem() -> None:
    assert problems(a_graph().SerializeToString()) == []


def test_what_is_made_for_tensorrt_keeps_them_and_what_is_made_for_processors_does_not(
    shared_bundle: Path,
) -> None:
    bundle = open_bundle(shared_bundle)
    for stage in bundle.manifest.model.stages:
        assert problems(bundle.read_stage("fp32", stage)) == []
        assert problems(bundle.read_stage("int8-trt", stage)) == []
        assert {"type"} <= {one.rule for one in problems(bundle.read_stage("int8-cpu", stage))}
