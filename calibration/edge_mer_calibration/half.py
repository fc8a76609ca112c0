"""A stage in FP16: everything in half precision but what half cannot hold.

Strongly typed, so TensorRT from 10.3 to 11.4 runs it as it is written; inputs and outputs stay FP32.
FP32 in any case are

- softmax, normalizations, norms, exponentials and logarithms: their sums and squares leave the range of half
  first (TensorRT itself warns of layer norm in FP16), and whether an engine computes them in FP32 inside
  differs between its versions;
- what a constant guards that half cannot hold: an epsilon below 6.1e-5 becomes 0 where an engine flushes
  subnormals, and the division behind it NaN; a mask of -1e9 becomes -inf, and a row that is masked as a
  whole NaN. These stay FP32 up to the division or the softmax;
- products in 8 bits with scales that half rounds by more than 8 bits do.

The conversion of ONNX Runtime (and of onnxconverter-common) was not fit: between two neighbours that stay in
float it goes through half, which is where the overflow happens, and where two such nodes read one tensor it
casts that twice under one name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edge_mer_calibration.graphs import (
    array_of,
    compact,
    constants_of,
    lift_constants,
    name_nodes,
    takers_of,
    tensor_types,
)

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
MAX = 65504.0
"""The largest number that half holds."""
MARGIN = 4.0
"""How much further than calibration windows a device's own windows may go."""
LIMIT = MAX / MARGIN
TINY = 2.0**-14
"""The smallest number that half holds with all its digits, 6.1e-5."""
_LEAST_SCALE = 2.0**-17
"""Below it half rounds a scale by more than 1/256, as much as 8 bits round what they scale."""

_FLOAT_OPERATORS = """
Softmax LogSoftmax LayerNormalization InstanceNormalization GroupNormalization
ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp Exp Log
"""
FLOAT_OPERATORS = frozenset(_FLOAT_OPERATORS.split())
_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity", "Expand", "Flatten", "Split")
_FOLLOW = (*_MOVES, "Shape", "Size", "Cast", "QuantizeLinear")
"""Take what they are given in the type in which it comes: a Q behind a layer norm in FP32 needs no cast."""
_GUARDS = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Clip", "Pow", "Where")
_ON = (*_MOVES, "Add", "Sub", "Mul", "Max", "Min", "Clip", "Where", "Sqrt", "Neg", "Abs", "Concat")
_UP_TO = ("Div", "Reciprocal", "Softmax", "LogSoftmax", "Exp", "Log", "Pow")
_PRODUCTS = ("Conv", "MatMul", "Gemm")


def half_stage(model: bytes, float_nodes: Collection[str] = ()) -> bytes:
    """A stage in FP16, with FP32 inputs and outputs.

    Args:
        model: The stage in FP32, also one with Q/DQ pairs, which become FP16 on their float side.
        float_nodes: Names of nodes that stay in FP32, as `near_overflow` gives them.

    Raises:
        ValueError: The stage has no node of one of these names.
    """
    source = onnx.load_model_from_string(model)
    lift_constants(source)
    name_nodes(source)
    if unknown := set(float_nodes) - {node.name for node in source.graph.node}:
        raise ValueError(f"no node is named {sorted(unknown)[0]!r}")
    writer = _Writer(source, tensor_types(source), {*_always_float(source), *float_nodes})
    made = writer.written()
    compact(made)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString(deterministic=True))


def fragile_nodes(model: onnx.ModelProto) -> dict[str, float]:
    """Node -> a constant that half cannot hold: of its own, or of one before it that it depends on.

    From the constant on, up to the division or the softmax that it guards.
    """
    constants, takers = constants_of(model), takers_of(model)
    found: dict[str, float] = {}
    for node in model.graph.node:
        if node.op_type in _GUARDS and (value := _fragile_constant(node, constants)) is not None:
            _spread(node, value, takers, found)
    return found


def _fragile_constant(node: NodeProto, constants: dict[str, TensorProto]) -> float | None:
    """A single number among its inputs that is too small or too large for half; infinity is not."""
    for name in node.input:
        tensor = constants.get(name)
        if tensor is None or tensor.data_type != FLOAT or int(np.prod(tensor.dims)) != 1:
            continue
        value = float(numpy_helper.to_array(tensor).reshape(()))
        if 0 < abs(value) < TINY or LIMIT <= abs(value) < np.inf:
            return value
    return None


def _spread(
    node: NodeProto, value: float, takers: dict[str, list[NodeProto]], found: dict[str, float]
) -> None:
    queue = [node]
    while queue:
        one = queue.pop()
        if one.name in found:
            continue
        found[one.name] = value
        if one.op_type in _UP_TO:
            continue
        nexts = [taker for name in one.output for taker in takers.get(name, [])]
        queue += [taker for taker in nexts if taker.op_type in (*_ON, *_UP_TO)]


def _always_float(model: onnx.ModelProto) -> Iterator[str]:
    yield from fragile_nodes(model)
    scales = {
        node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    constants = constants_of(model)
    for node in model.graph.node:
        if node.op_type in FLOAT_OPERATORS or not _takes_half(node):
            yield node.name
        else:
            names = [scales[name] for name in node.input if node.op_type in _PRODUCTS and name in scales]
            names += [node.input[1]] if node.op_type == "QuantizeLinear" else []
            if not all(_holds_scale(array_of(constants[name])) for name in names):
                yield node.name


def _holds_scale(scale: NDArray[np.generic]) -> bool:
    numbers = scale.astype(np.float64)
    return bool(np.all((numbers >= _LEAST_SCALE) & (numbers <= MAX)))


def _takes_half(node: NodeProto) -> bool:
    """Whether the standard knows the operator in half."""
    schema = onnx.defs.get_schema(node.op_type, 20, node.domain)
    kinds = [one for one in (*schema.inputs, *schema.outputs) if "tensor(float)" in one.types]
    return any("tensor(float16)" in one.types for one in kinds)


def _fixed(node: NodeProto) -> frozenset[int]:
    """Inputs that the standard wants in FP32 whatever the others are, as the scales of `Resize`."""
    schema = onnx.defs.get_schema(node.op_type, 20, node.domain)
    return frozenset(
        number
        for number, one in enumerate(schema.inputs)
        if "tensor(float)" in one.types and "tensor(float16)" not in one.types
    )


@dataclass
class _Writer:
    """The same graph with each float tensor in FP32, in half or in both, each made once.

    Attributes:
        source: In FP32, in topological order.
        types: Of its tensors.
        stay: Names of nodes that stay in FP32.
    """

    source: onnx.ModelProto
    types: dict[str, int]
    stay: set[str]
    _nodes: list[NodeProto] = field(default_factory=list)
    _made: dict[tuple[str, int], str] = field(default_factory=dict)
    _comes_as: dict[str, int] = field(default_factory=dict)
    _pairs: dict[str, NodeProto] = field(default_factory=dict)
    _used: dict[str, TensorProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._constants = constants_of(self.source)
        for value in self.source.graph.input:
            self._output(value.name, FLOAT)

    def written(self) -> onnx.ModelProto:
        """The graph in its new types, constants that no one reads left out."""
        for node in self.source.graph.node:
            self._write(node)
        for value in self.source.graph.output:
            self._tensor(value.name, FLOAT)
        made = onnx.ModelProto()
        made.CopyFrom(self.source)
        for field_name in ("node", "initializer", "value_info"):
            made.graph.ClearField(field_name)
        made.graph.node.extend(self._nodes)
        made.graph.initializer.extend(self._used.values())
        return made

    def _write(self, node: NodeProto) -> None:
        if node.op_type == "DequantizeLinear" and self.types.get(node.output[0]) == FLOAT:
            self._pairs[node.output[0]] = node  # written in the type in which it is asked for
            return
        kind, fixed = self._kind(node), _fixed(node)
        new = NodeProto()
        new.CopyFrom(node)
        new.input[:] = [
            self._tensor(name, FLOAT if number in fixed else kind) for number, name in enumerate(node.input)
        ]
        new.output[:] = [self._output(name, kind) for name in node.output]
        if kind == HALF:
            _attributes_to_half(new)
        self._nodes.append(new)

    def _kind(self, node: NodeProto) -> int:
        if node.name in self.stay:
            return FLOAT
        return self._comes_as.get(node.input[0], HALF) if node.op_type in _FOLLOW else HALF

    def _output(self, name: str, kind: int) -> str:
        if self.types.get(name) != FLOAT:
            return name
        self._comes_as[name] = kind
        self._made[name, kind] = _named(name, kind)
        return self._made[name, kind]

    def _tensor(self, name: str, kind: int) -> str:
        """A tensor in a type; a float tensor is cast where it is in the other one."""
        if self.types.get(name) != FLOAT:
            if name in self._constants:
                self._used[name] = self._constants[name]
            return name
        if (name, kind) not in self._made:
            self._made[name, kind] = self._anew(name, kind)
        return self._made[name, kind]

    def _anew(self, name: str, kind: int) -> str:
        target = _named(name, kind)
        if name in self._constants:
            self._used[target] = _constant(self._constants[name], target, kind)
        elif name in self._pairs:
            pair = NodeProto()
            pair.CopyFrom(self._pairs[name])
            pair.input[:] = [self._tensor(one, kind) for one in pair.input]
            pair.output[:] = [target]
            self._nodes.append(pair)
        else:
            other = self._made[name, self._comes_as[name]]
            self._nodes.append(helper.make_node("Cast", [other], [target], to=kind))
        return target


def _named(name: str, kind: int) -> str:
    return name if kind == FLOAT else f"{name}/half"


def _constant(tensor: TensorProto, name: str, kind: int) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    return numpy_helper.from_array(rounded(values) if kind == HALF else values, name)


def rounded(values: NDArray[np.generic]) -> NDArray[np.float16]:
    """Constants in half: finite ones stay finite."""
    numbers = values.astype(np.float32)
    return np.where(np.isinf(numbers), numbers, np.clip(numbers, -MAX, MAX)).astype(np.float16)


def _attributes_to_half(node: NodeProto) -> None:
    """The type that `Cast` gives, and tensors within a node."""
    for one in node.attribute:
        if one.name == "to" and one.i == FLOAT:
            one.i = HALF
        elif one.HasField("t") and one.t.data_type == FLOAT:
            one.t.CopyFrom(_constant(one.t, one.t.name, HALF))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(
            helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float16)))
        )
