"""From a float stage to an INT8 stage: explicit Q/DQ, weights stored as int8.

Two schemes, since no one graph is fast and right everywhere:

- `int8-cpu`: unsigned asymmetric activations, int8 weights per channel, everything else FP32;
- `int8-trt`: symmetric int8 with zero point 0 throughout, everything else FP16.

Quantized are convolutions and matrix products with weights, unless they are narrow. Products of two
activations (attention scores and their use) stay in float.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from edge_mer_calibration.graphs import attribute, compact, output_axis, takers_of
from edge_mer_calibration.half import half_stage

OPERATORS = ("Conv", "MatMul", "Gemm")
_LEAST_WIDTH = 16
_LEAST_STORED = 1024
_MOVES = ("Where", "Concat", "Unsqueeze", "Squeeze", "Transpose", "Reshape", "Slice", "Expand", "Identity")
_LIMITS = ("Clip", "Max", "Expand", "Unsqueeze", "Identity")


@dataclass(frozen=True)
class Scheme:
    """How numbers become 8 bits.

    Attributes:
        name: The kind of candidates that it makes.
        activation: Type of the activations.
        symmetric: Zero point 0 for activations too.
        narrow_weights: Weights within 7 bits. On x86 processors with AVX2 but without VNNI two
            products of a full 8-bit weight and an unsigned activation are added in 16 bits, which
            saturates: outputs were wrong by 0.2 of their deviation, silently.
        quantize_bias: Biases as int32, which ONNX Runtime's INT8 kernels want and TensorRT does not.
        half: Everything that stays in float becomes FP16; inputs and outputs stay FP32.
    """

    name: str
    activation: QuantType
    symmetric: bool
    narrow_weights: bool
    quantize_bias: bool
    half: bool


INT8_CPU = Scheme(
    "int8-cpu", QuantType.QUInt8, symmetric=False, narrow_weights=True, quantize_bias=True, half=False
)
INT8_TRT = Scheme(
    "int8-trt", QuantType.QInt8, symmetric=True, narrow_weights=False, quantize_bias=False, half=True
)
SCHEMES = {scheme.name: scheme for scheme in (INT8_CPU, INT8_TRT)}


def quantize_stage(
    model: bytes,
    ranges: Mapping[str, tuple[float, float]],
    scheme: Scheme,
    nodes: Sequence[str] | None = None,
) -> bytes:
    """The stage in 8 bits, what stays in float still in FP32: the form in which it is judged.

    Args:
        model: The FP32 stage.
        ranges: Lowest and highest value that each tensor shall hold.
        scheme: How.
        nodes: Which nodes; None takes all of `quantizable`.
    """
    graph = onnx.load_model_from_string(model)
    chosen = quantizable(graph) if nodes is None else list(nodes)
    if not chosen:  # the library would take an empty list for all of them
        return model
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    with tempfile.TemporaryDirectory(prefix="edge-mer-") as folder, _quiet():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model)
        quantizer = QDQQuantizer(
            load_model_with_shape_infer(source),
            True,  # per channel
            scheme.narrow_weights,
            QuantType.QInt8,
            scheme.activation,
            TensorsData(CalibrationMethod.MinMax, data),
            chosen,
            [],
            list(OPERATORS),
            _options(scheme),
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(target), False)
        quantized = onnx.load(target)
    if not scheme.half:
        store_in_8_bits(quantized, [n for n, reason in placement(graph).items() if reason == UNIT_LENGTH])
        store_tables_in_8_bits(quantized)
    compact(quantized, keep_names=True)
    onnx.checker.check_model(quantized)
    return bytes(quantized.SerializeToString(deterministic=True))


def store_in_8_bits(model: onnx.ModelProto, nodes: Collection[str]) -> None:
    """Weights of matrix products that compute in float, as int8 with a scale per column; in place.

    Only the weights are rounded, which these products stand; their activations are not.

    Args:
        model: A stage.
        nodes: Names of the products.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[str, str] = {}
    for node in graph.node:
        name = node.input[1] if node.name in nodes else ""
        if name not in tensors or tensors[name].data_type != onnx.TensorProto.FLOAT:
            continue
        if (weights := onnx.numpy_helper.to_array(tensors[name])).ndim != 2 or weights.size < _LEAST_STORED:
            continue
        if name not in made:
            made[name] = _dequantized(graph, name, weights, output_axis(node, weights.ndim))
        node.input[1] = made[name]
    read = {name for node in graph.node for name in node.input}
    for name in made.keys() - read:
        graph.initializer.remove(tensors[name])


def store_tables_in_8_bits(model: onnx.ModelProto) -> None:
    """Float tables whose rows are only looked up, as words' are, as int8 with a scale per column; in place.

    The rows are made float after the look-up: of a table that is made float as a whole, an engine would keep
    the float one.

    Args:
        model: A stage.
    """
    graph = model.graph
    takers = takers_of(model)
    for tensor in list(graph.initializer):
        readers = takers.get(tensor.name, [])
        if not readers or not all(_looks_up_rows(node, tensor) for node in readers):
            continue
        parts = _in_8_bits(graph, tensor.name, onnx.numpy_helper.to_array(tensor), axis=1)
        for node in readers:
            rows = node.output[0]
            node.input[0], node.output[0] = parts[0], f"{rows}_stored"
            index = list(graph.node).index(node) + 1
            graph.node.insert(index, _dequantize([f"{rows}_stored", *parts[1:]], rows, axis=-1))
        graph.initializer.remove(tensor)


def _looks_up_rows(node: onnx.NodeProto, table: onnx.TensorProto) -> bool:
    if table.data_type != onnx.TensorProto.FLOAT or len(table.dims) != 2:
        return False
    return (
        node.op_type == "Gather"
        and node.input[0] == table.name
        and attribute(node, "axis", 0) == 0
        and int(np.prod(table.dims)) >= _LEAST_STORED
    )


def _dequantized(graph: onnx.GraphProto, name: str, weights: NDArray[np.float32], axis: int) -> str:
    """Adds int8 weights with what turns them into float; the name of the float ones."""
    parts = _in_8_bits(graph, name, weights, axis)
    graph.node.insert(0, _dequantize(parts, f"{name}_float", axis))
    return f"{name}_float"


def _in_8_bits(graph: onnx.GraphProto, name: str, values: NDArray[np.float32], axis: int) -> list[str]:
    """Adds int8 values of a matrix, their scales and zero points along an axis; the names of the three."""
    scale = np.abs(values).max(axis=1 - axis) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    rounded = np.rint(values / np.expand_dims(scale, 1 - axis)).astype(np.int8)
    parts = {"stored": rounded, "scale": scale, "zero": np.zeros(scale.shape, np.int8)}
    for part, array in parts.items():
        graph.initializer.append(onnx.numpy_helper.from_array(array, f"{name}_{part}"))
    return [f"{name}_{part}" for part in parts]


def _dequantize(parts: Sequence[str], made: str, axis: int) -> onnx.NodeProto:
    return onnx.helper.make_node("DequantizeLinear", parts, [made], f"{made}_dequantize", axis=axis)


def finish_stage(model: bytes, scheme: Scheme, float_nodes: Collection[str] = ()) -> bytes:
    """The quantized stage as it is shipped: with the rest in FP16 where the scheme wants that.

    Args:
        model: As `quantize_stage` gave it.
        scheme: The same.
        float_nodes: Names of nodes that stay in FP32, products among them with all their Q and DQ.
    """
    if scheme.half:
        return half_stage(model, float_nodes)
    graph = onnx.load_model_from_string(model)
    compact(graph)
    return bytes(graph.SerializeToString(deterministic=True))


def _options(scheme: Scheme) -> dict[str, Any]:
    return {
        "ActivationSymmetric": scheme.symmetric,
        "WeightSymmetric": True,
        "QuantizeBias": scheme.quantize_bias,
        "AddQDQPairToWeight": False,  # a pair around float weights saves nothing on disk
    }


NARROW = "fewer than 16 rows or columns"
UNIT_LENGTH = "reads features of unit length"
NO_WEIGHTS = "multiplies two activations"


def placement(model: onnx.ModelProto) -> dict[str, str | None]:
    """Node -> why it stays in float, of convolutions and matrix products; None where it can be in 8 bits.

    Left in float are narrow products, with fewer than 16 rows or columns: they cost nothing, engines have
    no fast kernel for them, and the last ones give the model's outputs, which would end where the
    calibration windows' outputs ended. So are products that read features of unit length: a few large
    numbers take the range, and the many small ones, which carry the rest, are rounded away (concordance
    with FP32 of `jmt-tiny`: 0.977 with them in 8 bits, 0.9996 without). For processors their weights are
    stored in 8 bits all the same.
    """
    graph = model.graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    return {node.name: _reason(node, weights, producers) for node in graph.node if node.op_type in OPERATORS}


def quantizable(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that multiply activations by weights and stand 8 bits."""
    return [name for name, reason in placement(model).items() if reason is None]


def _reason(
    node: onnx.NodeProto, weights: Mapping[str, tuple[int, ...]], producers: dict[str, onnx.NodeProto]
) -> str | None:
    if node.input[1] not in weights:
        return NO_WEIGHTS
    if node.op_type != "Conv" and min(weights[node.input[1]]) < _LEAST_WIDTH:
        return NARROW
    return UNIT_LENGTH if _has_unit_length(node.input[0], producers) else None


def _has_unit_length(name: str, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a tensor was divided by its norm, and then only moved."""
    node = producers.get(name)
    if node is None:
        return False
    if node.op_type == "Div":
        return _is_norm(node.input[1], producers)
    return node.op_type in _MOVES and any(_has_unit_length(one, producers) for one in node.input)


def _is_norm(name: str, producers: dict[str, onnx.NodeProto]) -> bool:
    node = producers.get(name)
    if node is None:
        return False
    if node.op_type == "ReduceL2":
        return True
    return node.op_type in _LIMITS and any(_is_norm(one, producers) for one in node.input)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Remarks that ask for a preprocessing which the exporter already did."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
