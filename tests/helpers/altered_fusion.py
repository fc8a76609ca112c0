"""Bundles that are whole, and whose fusion is not as it should be."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edge_mer.bundle.read import Bundle
from edge_mer.engine.threads import available_threads

FUSION = "stages/fusion.fp32.onnx"
SIDE = 1500
"""Of square matrices; the product of two is 7 billion operations."""

NodesOf = Callable[[str, str], list[onnx.NodeProto]]


def altered(bundle: Bundle, nodes_of: NodesOf) -> bytes:
    """The fusion with something between its first output and whoever reads it."""
    model = onnx.load_from_string(bundle.read(FUSION))
    graph = model.graph
    output = graph.output[0].name
    inner = f"{output}_inner"
    for node in graph.node:
        node.output[:] = [inner if name == output else name for name in node.output]
        node.input[:] = [inner if name == output else name for name in node.input]
    graph.node.extend(nodes_of(inner, output))
    return bytes(model.SerializeToString())


def not_finite(inner: str, output: str) -> list[onnx.NodeProto]:
    """What makes an output NaN."""
    nan = numpy_helper.from_array(np.array(np.nan, np.float32))
    return [
        helper.make_node("Constant", [], ["edge_nan"], value=nan),
        helper.make_node("Mul", [inner, "edge_nan"], [output]),
    ]


def as_slow_as(seconds: float) -> NodesOf:
    """What takes so long on this machine, by products of matrices that nobody needs, and alters no number."""
    n_products = max(1, round(seconds / _product_s()))

    def slow(inner: str, output: str) -> list[onnx.NodeProto]:
        names = ["edge_product_0", "edge_matrix"]
        nodes = [
            *_matrix(),
            helper.make_node("ReduceMean", [inner], ["edge_mean"], keepdims=0),
            helper.make_node("Mul", ["edge_matrix", "edge_mean"], ["edge_product_0"]),
        ]
        for number in range(n_products):
            nodes.append(helper.make_node("MatMul", names, [f"edge_product_{number + 1}"]))
            names = [f"edge_product_{number + 1}", "edge_matrix"]
        return [
            *nodes,
            helper.make_node("ReduceMean", names[:1], ["edge_work"], keepdims=0),
            helper.make_node("Mul", ["edge_work", "edge_zero"], ["edge_nothing"]),
            helper.make_node("Add", [inner, "edge_nothing"], [output]),
        ]

    return slow


def _matrix() -> list[onnx.NodeProto]:
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1e-3])
    shape = numpy_helper.from_array(np.array([SIDE, SIDE], np.int64))
    return [
        helper.make_node("Constant", [], ["edge_shape"], value=shape),
        helper.make_node(
            "Constant", [], ["edge_zero"], value=numpy_helper.from_array(np.array(0, np.float32))
        ),
        helper.make_node("ConstantOfShape", ["edge_shape"], ["edge_matrix"], value=value),
    ]


def _product_s() -> float:
    """What one product takes here, with as many threads as the daemon has."""
    product = helper.make_node("MatMul", ["edge_matrix", "edge_matrix"], ["product"])
    output = helper.make_tensor_value_info("mean", TensorProto.FLOAT, [])
    graph = helper.make_graph(
        [*_matrix(), product, helper.make_node("ReduceMean", ["product"], ["mean"], keepdims=0)],
        "product",
        [],
        [output],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = []
    for _ in range(4):
        began_s = time.perf_counter()
        session.run(None, {})
        found.append(time.perf_counter() - began_s)
    return min(found)
