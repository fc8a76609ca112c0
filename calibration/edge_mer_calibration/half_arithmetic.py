"""What real half arithmetic gives, where there is none.

ONNX Runtime's CPU computes FP16 graphs in FP32 inside, and hides overflow. Here every tensor that a graph
holds in half is rounded to half right after it is made, by a pair of casts that ONNX Runtime keeps (since
1.17; a test holds it to that): what is too large becomes infinite, and later NaN, where it would on a device.

Within one product sums are not rounded: tensor cores add in FP32. A mean or a norm passes through its sum in
half, and a layer norm through its steps, as they do in kernels that add in half.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from edge_mer_calibration.graphs import attribute, lift_constants, tensor_types
from edge_mer_calibration.half import FLOAT, HALF
from edge_mer_calibration.overflow import times_count

_MOVES = """
Reshape Transpose Squeeze Unsqueeze Slice Identity Expand Flatten Split Concat Gather GatherElements Where
Tile Relu Neg Abs Max Min MaxPool GlobalMaxPool ReduceMax ReduceMin
"""
_EXACT = frozenset(_MOVES.split())
"""Give numbers that they were given, but for the sign."""
_SUMS = ("ReduceMean", "GlobalAveragePool", "AveragePool", "ReduceL2")


def in_half_arithmetic(model: bytes) -> bytes:
    """A graph in FP32 that gives what an FP16 graph gives in half arithmetic.

    Args:
        model: A stage in FP16 with FP32 inputs and outputs, as `half_stage` gives it.
    """
    graph_model = onnx.load_model_from_string(model)
    lift_constants(graph_model)
    types = tensor_types(graph_model)
    halves = {name for name, kind in types.items() if kind == HALF}
    nodes = [part for node in graph_model.graph.node for part in _spelled_out(node, halves)]
    made = [part for node in nodes for part in _rounding(node, halves)]
    graph = graph_model.graph
    for name in ("node", "value_info"):
        graph.ClearField(name)
    graph.node.extend(made)
    for tensor in graph.initializer:
        _widen(tensor)
    return bytes(graph_model.SerializeToString(deterministic=True))


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == HALF:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _rounding(node: NodeProto, halves: set[str]) -> Iterator[NodeProto]:
    """A node in FP32, and behind it the rounding of what it gives."""
    new = NodeProto()
    new.CopyFrom(node)
    for one in new.attribute:
        if one.name == "to" and one.i == HALF:
            one.i = FLOAT
        elif one.HasField("t"):
            _widen(one.t)
    rounds = [name for name in node.output if name in halves and node.op_type not in _EXACT]
    new.output[:] = [f"{name}/exact" if name in rounds else name for name in node.output]
    yield new
    for name in rounds:
        exact = f"{name}/exact"
        if node.op_type in _SUMS:
            yield from _through_sum(node, exact, f"{name}/sum")
            exact = f"{name}/sum/kept"
        yield from _round(exact, name)


def _round(name: str, target: str) -> list[NodeProto]:
    return [
        helper.make_node("Cast", [name], [f"{target}/half"], to=HALF),
        helper.make_node("Cast", [f"{target}/half"], [target], to=FLOAT),
    ]


def _through_sum(node: NodeProto, name: str, target: str) -> list[NodeProto]:
    """`name` where the sum that it comes from is finite in half, else that infinite sum, as `target`/kept."""
    back = (
        [helper.make_node("Mul", [name, name], [f"{target}/wide"])]
        if node.op_type == "ReduceL2"
        else times_count(node, name, f"{target}/wide")
    )
    return [
        *back,
        *_round(f"{target}/wide", target),
        helper.make_node("IsInf", [target], [f"{target}/is_inf"]),
        helper.make_node("Where", [f"{target}/is_inf", target, name], [f"{target}/kept"]),
    ]


def _spelled_out(node: NodeProto, halves: set[str]) -> list[NodeProto]:
    """A layer norm in half as its steps, whose tensors are added to `halves`; other nodes as they are."""
    if node.op_type != "LayerNormalization" or node.output[0] not in halves:
        return [node]
    y, axis = node.output[0], attribute(node, "axis", -1)
    if axis != -1:
        raise ValueError(f"{node.name}: a layer norm in half over more than the last axis")
    epsilon = next((one.f for one in node.attribute if one.name == "epsilon"), 1e-5)
    axes, small = f"{y}/axes", f"{y}/epsilon"
    value = numpy_helper.from_array(np.array(epsilon, np.float16).astype(np.float32))
    names = ("mean", "apart", "square", "variance", "held", "root", "scale", "unit", "times")
    part = {name: f"{y}/{name}" for name in names}
    halves |= set(part.values())
    steps = [
        ("ReduceMean", [node.input[0], axes], "mean"),
        ("Sub", [node.input[0], part["mean"]], "apart"),
        ("Mul", [part["apart"]] * 2, "square"),
        ("ReduceMean", [part["square"], axes], "variance"),
        ("Add", [part["variance"], small], "held"),
        ("Sqrt", [part["held"]], "root"),
        ("Reciprocal", [part["root"]], "scale"),
        ("Mul", [part["apart"], part["scale"]], "unit"),
        ("Mul", [part["unit"], node.input[1]], "times"),
    ]
    last = (
        helper.make_node("Add", [part["times"], node.input[2]], [y])
        if len(node.input) > 2
        else helper.make_node("Identity", [part["times"]], [y])
    )
    return [
        helper.make_node("Constant", [], [axes], value=numpy_helper.from_array(np.array([-1]))),
        helper.make_node("Constant", [], [small], value=value),
        *(helper.make_node(operator, inputs, [part[name]]) for operator, inputs, name in steps),
        last,
    ]
