"""What TensorRT asks of a graph with 8-bit numbers, checked where there is no TensorRT.

From 10.3 to 11.4 a network can be strongly typed, and from 11 on it must be: precision is what the ONNX says,
in explicit pairs of QuantizeLinear and DequantizeLinear (Q and DQ). The rules, by their names in a problem:

- `version`: opset 20 and IR version 10 at most, standard operators only, weights inside.
- `operator`: operators that the ONNX parser of 10.3 knows.
- `type`: 8 bits are int8, never uint8.
- `zero`: zero points are 0.
- `scale`: scales are constants above 0, of one number for activations.
- `weight`: weights are int8 constants behind a DQ, one scale per output channel.
- `pair`: a Q gives to DQ alone, and a DQ takes from a Q or from a constant.
- `both`: a product whose weights are 8 bits has 8-bit activations too, or it would run in float.
- `typed`: the types of all tensors follow, and operators that want one type get one.

Sources: the documentation of explicit quantization of TensorRT 10 and its migration guide to 11.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edge_mer.bundle.onnx_guard import MAX_IR_VERSION
from edge_mer_calibration.graphs import output_axis

OPSET = 20
PRODUCTS = ("Conv", "MatMul", "Gemm")
_OPERATORS = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu
Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div
Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GRU Hardmax HardSigmoid HardSwish Identity
InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
LpNormalization LpPool LRN LSTM MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not
OneHot Or Pad Pow PRelu QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RNN
Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Where Xor
"""
OPERATORS = frozenset(_OPERATORS.split())


@dataclass(frozen=True)
class Problem:
    """One rule that a graph breaks.

    Attributes:
        rule: Its name.
        where: The node or tensor.
        what: What is wrong there.
    """

    rule: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.what}"


@dataclass
class _Graph:
    """A graph with its constants and who makes and takes what."""

    model: onnx.ModelProto
    constants: dict[str, TensorProto] = field(default_factory=dict)
    made_by: dict[str, onnx.NodeProto] = field(default_factory=dict)
    taken_by: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for node in self.model.graph.node:
            for name in node.output:
                self.made_by[name] = node
            for name in node.input:
                self.taken_by.setdefault(name, []).append(node)

    def array(self, name: str) -> NDArray[np.generic] | None:
        """A constant's values; None if it is none, or they are in another file."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(tensor)

    def of(self, *kinds: str) -> Iterator[onnx.NodeProto]:
        """Nodes of some operators."""
        return (node for node in self.model.graph.node if node.op_type in kinds)

    def makes(self, name: str) -> str:
        """The operator that makes a tensor; "" for a constant or an input."""
        return self.made_by[name].op_type if name in self.made_by else ""


def problems(data: bytes) -> list[Problem]:
    """Every rule that an ONNX file breaks.

    Args:
        data: The file.
    """
    graph = _Graph(onnx.load_model_from_string(data))
    checks = (_version, _operators, _pairs, _weights, _typed)
    return [problem for check in checks for problem in check(graph)]


def unknown_operators(data: bytes) -> list[str]:
    """Operators of a graph that the ONNX parser of 10.3 does not know."""
    graph = onnx.load_from_string(data).graph
    return sorted({node.op_type for node in graph.node if node.domain or node.op_type not in OPERATORS})


def _name(node: onnx.NodeProto) -> str:
    return f"{node.op_type} of {', '.join(node.output)}"


def _version(graph: _Graph) -> Iterator[Problem]:
    model = graph.model
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET}:
        yield Problem("version", "the file", f"opsets {opsets}, not {OPSET} of the standard alone")
    if model.ir_version > MAX_IR_VERSION:
        yield Problem("version", "the file", f"IR version {model.ir_version}, above {MAX_IR_VERSION}")
    for name, tensor in graph.constants.items():
        if tensor.data_location == TensorProto.EXTERNAL:
            yield Problem("version", name, "its values are in another file")


def _operators(graph: _Graph) -> Iterator[Problem]:
    for node in graph.model.graph.node:
        if node.domain or node.op_type not in OPERATORS:
            operator = f"{node.domain}.{node.op_type}".strip(".")
            yield Problem(
                "operator", _name(node), f"{operator} is not among those that the parser of 10.3 knows"
            )


def _pairs(graph: _Graph) -> Iterator[Problem]:
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        yield from _numbers(graph, node)
        if node.op_type == "QuantizeLinear":
            takers = {taker.op_type for taker in graph.taken_by.get(node.output[0], [])}
            if takers != {"DequantizeLinear"}:
                yield Problem(
                    "pair", _name(node), f"gives to {', '.join(sorted(takers)) or 'nobody'}, not to DQ alone"
                )
        elif node.input[0] not in graph.constants and graph.makes(node.input[0]) != "QuantizeLinear":
            yield Problem(
                "pair", _name(node), f"takes from {graph.makes(node.input[0]) or 'an input'}, not from Q"
            )


def _numbers(graph: _Graph, node: onnx.NodeProto) -> Iterator[Problem]:
    """Zero point and scale of a Q or DQ."""
    scale = graph.array(node.input[1])
    if scale is None or not np.all(np.isfinite(scale) & np.greater(scale, 0)):
        yield Problem("scale", _name(node), "its scale is no constant above 0")
    elif scale.size != 1 and node.input[0] not in graph.constants:
        yield Problem("scale", _name(node), f"an activation with {scale.size} scales, not one")
    if len(node.input) < 3 or not node.input[2]:
        if node.op_type == "QuantizeLinear":
            yield Problem("type", _name(node), "without a zero point it is uint8")
        return
    zero = graph.array(node.input[2])
    if zero is None or zero.dtype != np.int8:
        yield Problem(
            "type", _name(node), f"8 bits are {'no constant' if zero is None else zero.dtype}, not int8"
        )
    elif zero.any():
        yield Problem("zero", _name(node), "its zero point is not 0")


def _weights(graph: _Graph) -> Iterator[Problem]:
    for node in graph.of(*PRODUCTS):
        data, weight = (graph.made_by.get(name) for name in node.input[:2])
        if weight is None or weight.op_type != "DequantizeLinear":
            continue
        values = graph.array(weight.input[0])
        if values is None:
            continue  # the product of two activations
        yield from _per_channel(graph, node, weight, values)
        if data is None or data.op_type != "DequantizeLinear":
            found = "an input" if data is None else data.op_type
            yield Problem("both", _name(node), f"8-bit weights, but its activations come from {found}")


def _per_channel(
    graph: _Graph, node: onnx.NodeProto, weight: onnx.NodeProto, values: NDArray[np.generic]
) -> Iterator[Problem]:
    if values.dtype != np.int8:
        yield Problem("weight", _name(node), f"weights are {values.dtype}, not int8")
    scale = graph.array(weight.input[1])
    axis = next((one.i for one in weight.attribute if one.name == "axis"), 1) % max(1, values.ndim)
    expected = output_axis(node, values.ndim)
    if scale is not None and (scale.size != values.shape[expected] or (scale.size > 1 and axis != expected)):
        found = f"{scale.size} scales along axis {axis}"
        yield Problem("weight", _name(node), f"{found}, not {values.shape[expected]} along {expected}")


def _typed(graph: _Graph) -> Iterator[Problem]:
    try:
        onnx.shape_inference.infer_shapes(graph.model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        yield Problem("typed", "the graph", str(error).strip().splitlines()[-1])
