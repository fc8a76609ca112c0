"""Looks into an ONNX file without loading it: version, opset, and weights kept elsewhere.

An ONNX file may name other files for its weights, which a runtime would then open. Such a file is
refused. Only the protobuf wire format is read here.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_mer.bundle.wire import fields
from edge_mer.errors import BundleError

MAX_IR_VERSION = 10
OPSETS = range(18, 21)
_MAX_DEPTH = 32

# Field numbers of onnx.proto: message -> {field: message inside}
_NESTED = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_MODEL_IR_VERSION, _MODEL_OPSET_IMPORT = 1, 8


@dataclass(frozen=True)
class OnnxFacts:
    """What an ONNX file says of itself; `opset` of the standard domain."""

    ir_version: int
    opset: int


def inspect_onnx(data: bytes, name: str) -> OnnxFacts:
    """Check that a file is a self-contained ONNX of a version that every target reads.

    Args:
        data: The file.
        name: Its name, for messages.

    Raises:
        BundleError: No ONNX, weights in other files, or a version out of bounds.
    """
    try:
        _refuse_external(memoryview(data), "Model", name, 0)
        facts = _facts(memoryview(data))
    except (ValueError, IndexError) as error:
        raise BundleError(f"{name} is not a readable ONNX file", found=str(error)) from error
    if not 3 <= facts.ir_version <= MAX_IR_VERSION or facts.opset not in OPSETS:
        raise BundleError(
            f"{name} has a version that not every target reads",
            expected=f"IR version at most {MAX_IR_VERSION}, opset {OPSETS.start} to {OPSETS.stop - 1}",
            found=f"IR version {facts.ir_version}, opset {facts.opset}",
            hint="export the bundle again",
        )
    return facts


def _facts(data: memoryview) -> OnnxFacts:
    ir_version, opset = 0, 0
    for field, value in fields(data):
        if field == _MODEL_IR_VERSION and isinstance(value, int):
            ir_version = value
        if field == _MODEL_OPSET_IMPORT and isinstance(value, memoryview):
            entry = dict(fields(value))
            domain, version = entry.get(1, b""), entry.get(2, 0)
            if domain in (b"", b"ai.onnx") and isinstance(version, int):
                opset = version
    return OnnxFacts(ir_version, opset)


def _refuse_external(data: memoryview, message: str, name: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    for field, value in fields(data):
        if message == "Tensor" and (
            field == _TENSOR_EXTERNAL_DATA or (field == _TENSOR_DATA_LOCATION and value)
        ):
            raise BundleError(
                f"{name} keeps weights in other files",
                expected="all weights inside the ONNX file",
                hint="export the bundle again",
            )
        inside = _NESTED[message].get(field)
        if inside is not None and isinstance(value, memoryview):
            _refuse_external(value, inside, name, depth + 1)
