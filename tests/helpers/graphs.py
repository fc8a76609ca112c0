"""Small ONNX graphs, and ways to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions
from edge_mer.types.model import TensorSpec

Floats = NDArray[np.float32]
Feed = dict[str, NDArray[Any]]


def node(operator: str, inputs: str, outputs: str, name: str = "", **attributes: object) -> NodeProto:
    """A node; names of tensors stand in one string. Without a name it is called like its output."""
    return helper.make_node(operator, inputs.split(), outputs.split(), name or outputs, **attributes)


def graph(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int]],
    constants: Mapping[str, NDArray[Any]],
    output: str = "y",
    rank: int = 2,
) -> bytes:
    """A graph in FP32 of opset 20 with one output.

    Args:
        nodes: In their order.
        inputs: Input -> shape.
        constants: Name -> values.
        output: Name of the output.
        rank: How many axes it has.
    """
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [f"axis{i}" for i in range(rank)])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def run(model: bytes, feed: Mapping[str, NDArray[Any]], *, fuse_qdq: bool = False) -> Floats:
    """The only output of a graph, from the engine that stages run in."""
    (value,) = onnx.load_model_from_string(model).graph.output
    inputs = tuple(
        TensorSpec(name=name, axes=tuple(f"a{i}" for i in range(one.ndim)), shape=one.shape)
        for name, one in feed.items()
    )
    rank = len(value.type.tensor_type.shape.dim)
    outputs = (TensorSpec(name=value.name, axes=tuple(f"b{i}" for i in range(rank)), shape=(1,) * rank),)
    engine = OrtEngine("s", model, inputs, outputs, {}, OrtOptions(fuse_qdq=fuse_qdq))
    return np.asarray(engine.run(dict(feed))[value.name], np.float32)
