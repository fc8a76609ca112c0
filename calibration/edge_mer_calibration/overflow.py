"""What half precision would have to hold: a stage's largest numbers, and nodes where they are too large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, helper

from edge_mer_calibration.graphs import constants_of, lift_constants, name_nodes, tensor_types
from edge_mer_calibration.half import FLOAT, LIMIT, fragile_nodes
from edge_mer_calibration.ranges import Feed

SUM = "/sum"
"""Behind the name of a mean or norm: the sum that it passes through, in `peaks_of`."""
_MEANS = ("ReduceMean", "GlobalAveragePool", "AveragePool", "ReduceSum")
_NORMS = ("ReduceL2",)


def peaks_of(model: bytes, feeds: Sequence[Feed], threads: int) -> dict[str, float]:
    """The largest absolute value of every float tensor of a stage over windows.

    Each window is run once, and two numbers come out per tensor, so large tensors cost no memory.

    Args:
        model: The stage in FP32.
        feeds: Input -> values, window by window.
        threads: How many a run may take.

    Returns:
        Tensor -> its peak; of nodes that add up, also output + `SUM` -> the largest sum on the way, whatever
        the order in which an engine adds: of the absolute values, or of the squares. NaN counts as infinity.
    """
    graph_model = onnx.load_model_from_string(model)
    lift_constants(graph_model)
    probes = _add_probes(graph_model)
    session = _session(graph_model, threads)
    outputs = [one for pair in probes.values() for one in pair]
    peaks = dict.fromkeys(probes, 0.0)
    for feed in feeds:
        found = dict(zip(outputs, session.run(outputs, feed), strict=True))
        for name, pair in probes.items():
            sizes = [abs(float(found[one])) for one in pair]
            peaks[name] = max(peaks[name], np.inf if np.isnan(sizes).any() else max(sizes))
    return peaks


def _add_probes(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Give a graph outputs with the extremes of every float tensor, and of sums; returns their names."""
    types, graph = tensor_types(model), model.graph
    probes: dict[str, tuple[str, str]] = {}
    nodes: list[NodeProto] = []

    def probe(name: str) -> None:
        probes[name] = (f"{name}/high", f"{name}/low")
        for operator, output in zip(("ReduceMax", "ReduceMin"), probes[name], strict=True):
            nodes.append(helper.make_node(operator, [name], [output], keepdims=0))

    for value in graph.input:
        if types[value.name] == FLOAT:
            probe(value.name)
    for node in graph.node:  # right behind a node, so that what it gives need not be kept
        nodes.append(node)
        for name in node.output:
            if types.get(name) == FLOAT:
                probe(name)
        if sums := _sums(node):
            nodes += sums
            probe(node.output[0] + SUM)
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.output.extend(onnx.ValueInfoProto(name=one) for pair in probes.values() for one in pair)
    return probes


def _sums(node: NodeProto) -> list[NodeProto]:
    """Nodes that give the sums that a node passes through, output + `SUM`; none if it adds nothing up."""
    output = str(node.output[0]) + SUM
    if node.op_type in _NORMS:
        return [helper.make_node("Mul", [node.output[0]] * 2, [output])]
    if node.op_type not in _MEANS:
        return []
    sizes = helper.make_node("Abs", [node.input[0]], [f"{output}/abs"])
    same = NodeProto()
    same.CopyFrom(node)
    same.name, same.input[0], same.output[0] = "", sizes.output[0], f"{output}/same"
    return [sizes, same, *times_count(node, same.output[0], output)]


def times_count(node: NodeProto, name: str, target: str) -> list[NodeProto]:
    """Nodes that turn a mean back into a sum: `name`, of the shape of the mean, times what one mean is of."""
    if node.op_type == "ReduceSum":
        return [helper.make_node("Identity", [name], [target])]
    if node.op_type == "AveragePool":
        kernel = next(one.ints for one in node.attribute if one.name == "kernel_shape")
        value = helper.make_tensor("", FLOAT, [], [float(np.prod(kernel))])
        count = [helper.make_node("Constant", [], [f"{target}/count"], value=value)]
    else:
        parts = [f"{target}/{part}" for part in ("all", "left", "float_all", "float_left")]
        count = [
            helper.make_node("Size", [node.input[0]], [parts[0]]),
            helper.make_node("Size", [name], [parts[1]]),
            helper.make_node("Cast", [parts[0]], [parts[2]], to=FLOAT),
            helper.make_node("Cast", [parts[1]], [parts[3]], to=FLOAT),
            helper.make_node("Div", parts[2:], [f"{target}/count"]),
        ]
    return [*count, helper.make_node("Mul", [name, f"{target}/count"], [target])]


def _session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # in the order of the graph: by default probes come last, and every tensor waits for them
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def near_overflow(model: bytes, peaks: Mapping[str, float]) -> dict[str, float]:
    """The nodes of a stage that half precision is too small for.

    Args:
        model: The stage in FP32.
        peaks: Of its tensors, from `peaks_of`.

    Returns:
        Node -> the largest magnitude that half would have to hold there: in what it reads, in what it gives,
        or in a sum on the way. From `LIMIT`, a quarter of the range of half, on, since a device sees what no
        calibration window showed. Where a constant is to blame, an epsilon or a mask, it is that constant.
    """
    graph_model = onnx.load_model_from_string(model)
    lift_constants(graph_model)
    name_nodes(graph_model)
    constants = constants_of(graph_model)
    found = {name: abs(value) for name, value in fragile_nodes(graph_model).items()}
    for node in graph_model.graph.node:
        names = [name for name in (*node.input, *node.output) if name not in constants]
        names += [name + SUM for name in node.output]
        largest = max(peaks.get(name, 0.0) for name in names)
        if largest >= LIMIT:
            found[node.name] = largest
    return found
