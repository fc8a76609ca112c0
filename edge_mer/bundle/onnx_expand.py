"""An ONNX with weights in 8 bits as one whose weights are float, behind pairs that make 8 bits of them.

Bundles hold weights as int8 constants with a DequantizeLinear (DQ), a quarter of the size. A parser that
takes no such constants gets what they stand for, a QuantizeLinear (Q) and the DQ; quantized anew with the
same scale they are the very same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.wire import fields, numbers, whole_fields, written_bytes, written_number

# Field numbers of onnx.proto
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 3
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_NUMPY: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 3: np.dtype("i1"), 10: np.dtype("<f2")}
_TYPE_NUMBERS = {kind: number for number, kind in _NUMPY.items()}

Array = NDArray[np.generic]


@dataclass
class _Node:
    """What is looked at in a node."""

    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    attributes: list[bytes] = field(default_factory=list)
    axis: int = 1


def with_pairs(model: bytes) -> bytes:
    """The same model with every int8 constant behind a DequantizeLinear as float, Q and DQ.

    Args:
        model: The ONNX file; weights inside as raw bytes, one scale per tensor or per channel.

    Returns:
        Another ONNX file; the same one where there is nothing to do.

    Raises:
        ValueError: It is no ONNX, or a constant is not as large as it says.
    """
    parts: list[bytes] = []
    for number, value, raw in whole_fields(memoryview(model)):
        if number == _MODEL_GRAPH and isinstance(value, memoryview):
            parts.append(written_bytes(number, _expanded(value)))
        else:
            parts.append(bytes(raw))
    return b"".join(parts)


def _expanded(graph: memoryview) -> bytes:
    constants = _constants(graph)
    nodes = [_node(value) for number, value in fields(graph) if number == _GRAPH_NODE]
    expandable = {one.inputs[0] for one in nodes if _takes_int8_constant(one, constants)}
    kept_by = {name for one in nodes if not _takes_int8_constant(one, constants) for name in one.inputs}
    parts: list[bytes] = []
    for number, value, raw in whole_fields(graph):
        if number == _GRAPH_INITIALIZER and _tensor_name(value) in expandable - kept_by:
            continue
        if number == _GRAPH_NODE and isinstance(value, memoryview):
            node = _node(value)
            if _takes_int8_constant(node, constants):
                parts.append(_pair(node, value, constants))
                continue
        parts.append(bytes(raw))
    return b"".join(parts)


def _takes_int8_constant(node: _Node, constants: Mapping[str, Array]) -> bool:
    if node.operator != "DequantizeLinear" or node.inputs[0] not in constants:
        return False
    weights = constants[node.inputs[0]]
    return weights.dtype == np.int8 and weights.ndim > 0 and node.inputs[1] in constants


def _pair(node: _Node, raw: memoryview, constants: Mapping[str, Array]) -> bytes:
    """Fields of the graph: float weights, their Q, and the DQ that was there, now behind it."""
    weights_name, scale_name, *zero = node.inputs
    weights, scale = constants[weights_name], constants[scale_name]
    made = [_initializer(f"{weights_name}.float", _dequantized(weights, scale, node.axis))]
    if not zero:  # without one a Q makes unsigned numbers
        zero = [f"{weights_name}.zero"]
        made.append(_initializer(zero[0], np.zeros(scale.shape, np.int8)))
    quantized = f"{weights_name}.quantized"
    quantize = [
        *(_text(_NODE_INPUT, name) for name in (f"{weights_name}.float", scale_name, *zero)),
        _text(_NODE_OUTPUT, quantized),
        _text(_NODE_NAME, quantized),
        _text(_NODE_OPERATOR, "QuantizeLinear"),
        *(written_bytes(_NODE_ATTRIBUTE, one) for one in node.attributes),
    ]
    return b"".join([*made, written_bytes(_GRAPH_NODE, quantize), _with_first_input(raw, quantized)])


def _dequantized(weights: Array, scale: Array, axis: int) -> Array:
    shape = [1] * weights.ndim
    if scale.ndim:
        shape[axis] = scale.size
    return (weights.astype(np.float32) * scale.astype(np.float32).reshape(shape)).astype(scale.dtype)


def _with_first_input(node: memoryview, name: str) -> bytes:
    parts, is_first = [], True
    for number, _, raw in whole_fields(node):
        is_it = number == _NODE_INPUT and is_first
        parts.append(_text(_NODE_INPUT, name) if is_it else bytes(raw))
        is_first = is_first and not is_it
    return written_bytes(_GRAPH_NODE, parts)


# -- reading and writing -----------------------------------------------------------------------


def _node(value: int | memoryview) -> _Node:
    node = _Node()
    for number, content in fields(_message(value)):
        if number == _NODE_INPUT:
            node.inputs.append(_decoded(content))
        elif number == _NODE_OPERATOR:
            node.operator = _decoded(content)
        elif number == _NODE_ATTRIBUTE:
            node.attributes.append(bytes(_message(content)))
            found = dict(fields(_message(content)))
            if _decoded(found.get(_ATTRIBUTE_NAME, b"")) == "axis":
                axis = found.get(_ATTRIBUTE_INT, 0)
                node.axis = _signed(axis) if isinstance(axis, int) else 1
    return node


def _constants(graph: memoryview) -> dict[str, Array]:
    """Initializers of the types that weights and scales have."""
    found: dict[str, Array] = {}
    for number, value in fields(graph):
        if number != _GRAPH_INITIALIZER:
            continue
        shape: list[int] = []
        name, kind, raw = "", 0, memoryview(b"")
        for part, content in fields(_message(value)):
            if part == _TENSOR_DIMS:
                shape += numbers(content)
            elif part == _TENSOR_TYPE and isinstance(content, int):
                kind = content
            elif part == _TENSOR_NAME:
                name = _decoded(content)
            elif part == _TENSOR_RAW:
                raw = _message(content)
        if kind in _NUMPY and len(raw):
            array: Array = np.frombuffer(raw, _NUMPY[kind])
            found[name] = array.reshape(shape)
    return found


def _tensor_name(value: object) -> str:
    if not isinstance(value, memoryview):
        return ""
    return _decoded(dict(fields(value)).get(_TENSOR_NAME, b""))


def _initializer(name: str, array: Array) -> bytes:
    parts = [written_number(_TENSOR_DIMS, size) for size in array.shape]
    parts.append(written_number(_TENSOR_TYPE, _TYPE_NUMBERS[array.dtype.newbyteorder("<")]))
    parts += [_text(_TENSOR_NAME, name), written_bytes(_TENSOR_RAW, array.tobytes())]
    return written_bytes(_GRAPH_INITIALIZER, parts)


def _text(number: int, text: str) -> bytes:
    return written_bytes(number, text.encode())


def _decoded(value: int | memoryview | bytes) -> str:
    return bytes(value).decode() if not isinstance(value, int) else ""


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message was expected")
    return value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
