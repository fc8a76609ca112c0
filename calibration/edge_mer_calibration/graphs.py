"""What several rewritings of an ONNX graph share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edge_mer.bundle.onnx_guard import MAX_IR_VERSION


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor -> its type, a number of `onnx.TensorProto`; constants are among them."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def constants_of(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Name -> constant."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def array_of(tensor: TensorProto) -> NDArray[np.generic]:
    """A constant's values."""
    return numpy_helper.to_array(tensor)


def takers_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Tensor -> the nodes that read it, in their order."""
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            takers.setdefault(name, []).append(node)
    return takers


def makers_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Tensor -> the node that makes it."""
    return {name: node for node in model.graph.node for name in node.output}


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """A whole number among a node's attributes."""
    return next((int(one.i) for one in node.attribute if one.name == name), default)


def output_axis(node: onnx.NodeProto, n_axes: int) -> int:
    """Of a product's weights, the axis of what comes out."""
    if node.op_type == "Conv":
        return 0
    return n_axes - 2 if node.op_type == "Gemm" and attribute(node, "transB", 0) else n_axes - 1


def lift_constants(model: onnx.ModelProto) -> None:
    """`Constant` nodes that hold a tensor become constants of the graph."""
    kept = []
    for node in model.graph.node:
        held = [one.t for one in node.attribute if one.name == "value"] if node.op_type == "Constant" else []
        if held:
            held[0].name = node.output[0]
            model.graph.initializer.append(held[0])
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


class Edited:
    """A graph whose constants are changed, and that gets new nodes.

    Args:
        model: Changed in place.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants: dict[str, TensorProto] = constants_of(model)
        self.takers, self.makers = takers_of(model), makers_of(model)
        self.outputs = {value.name for value in model.graph.output}

    def array(self, name: str) -> NDArray[np.float32]:
        """A constant's values."""
        return np.asarray(array_of(self.constants[name]), np.float32)

    def change(self, node: onnx.NodeProto, number: int, values: NDArray[np.float32]) -> None:
        """Give one input of a node, a constant, other values; other nodes that read it keep the old ones."""
        name = node.input[number]
        if sum(list(one.input).count(name) for one in self.takers.get(name, ())) > 1:
            node.input[number] = self.new(f"{name}/of/{node.name}", values)
        else:
            self.constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))

    def new(self, name: str, values: NDArray[np.float32]) -> str:
        """Add a constant; its name comes back."""
        self.constants[name] = self.model.graph.initializer.add()
        self.constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def insert(self, new: onnx.NodeProto, *, before: str = "", behind: str = "") -> None:
        """Add a node next to the one of a name."""
        nodes = list(self.model.graph.node)
        at = next(i for i, node in enumerate(nodes) if node.name == (before or behind))
        self.model.graph.node.insert(at + bool(behind), new)


def name_nodes(model: onnx.ModelProto) -> None:
    """Nodes without a name get one."""
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}#{number}"


def compact(model: onnx.ModelProto, *, keep_names: bool = False) -> None:
    """Strip what no one reads, and give inner tensors the shortest names: half of a small INT8 file.

    Args:
        model: Changed in place.
        keep_names: Nodes keep theirs, by which later steps find them.
    """
    model.ir_version = MAX_IR_VERSION
    model.producer_name, model.producer_version, model.doc_string = "edge-mer", "", ""
    del model.metadata_props[:]
    standard = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    graph = model.graph
    del graph.value_info[:]
    del graph.metadata_props[:]
    short = dict(_short_names(model))
    for tensor in graph.initializer:
        tensor.name, tensor.doc_string = short.get(tensor.name, tensor.name), ""
    for node in graph.node:
        node.name, node.doc_string = node.name if keep_names else "", ""
        del node.metadata_props[:]
        node.input[:] = [short.get(one, one) for one in node.input]
        node.output[:] = [short.get(one, one) for one in node.output]


def _short_names(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Name -> short name of every inner tensor, in the order in which they stand."""
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    names = [tensor.name for tensor in graph.initializer]
    names += [name for node in graph.node for name in (*node.input, *node.output)]
    inner = [name for name in dict.fromkeys(names) if name not in kept]
    return ((name, f"t{number}") for number, name in enumerate(inner))
