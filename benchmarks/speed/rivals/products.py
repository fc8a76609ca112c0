"""What ONNX Runtime and OpenVINO really compute products in."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnxruntime as ort

from benchmarks.speed.rivals.base import Executed

INT8 = frozenset(
    (
        *("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"),
        *("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention"),
    )
)
FLOAT = frozenset(
    (
        *("Conv", "FusedConv", "NhwcFusedConv", "MatMul", "Gemm"),
        *("FusedMatMul", "FusedGemm", "Attention", "MultiHeadAttention", "LSTM"),
    )
)
"""Operators of ONNX Runtime that multiply, after it has rewritten a graph."""

OPENVINO_PRODUCTS = ("Convolution", "FullyConnected", "MatMul", "MHA", "RNNCell", "RNNSeq")


def products_of(model: bytes | Path) -> Executed:
    """An ONNX file as ONNX Runtime's CPU rewrites it: operators in 8 bits and in float."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        settings = ort.SessionOptions()
        rewritten = Path(folder) / "rewritten.onnx"
        settings.optimized_model_filepath = str(rewritten)
        settings.log_severity_level = 4
        given = model if isinstance(model, bytes) else str(model)
        ort.InferenceSession(given, settings, providers=["CPUExecutionProvider"])
        graph = onnx.load(rewritten, load_external_data=False).graph
    kinds = Counter(node.op_type for node in graph.node)
    found = {
        "i8": sum(n for kind, n in kinds.items() if kind in INT8),
        "f32": sum(n for kind, n in kinds.items() if kind in FLOAT),
    }
    return {what: n for what, n in found.items() if n}


def openvino_products(compiled: Any, what: str = "runtimePrecision") -> Executed:
    """A compiled model's layers that multiply, by what they run in, or by the kernel ("primitiveType")."""
    layers = (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
    return dict(
        Counter(
            _text(one[what]) for one in layers if _text(one["layerType"]) in OPENVINO_PRODUCTS
        ).most_common()
    )


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)
