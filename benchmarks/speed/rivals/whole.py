"""One ONNX of the whole model in ONNX Runtime and in OpenVINO, with the libraries' own defaults.

Knows nothing of edge-mer: what starts here in a process of its own loads only what a user would.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

FP32, STATIC, DYNAMIC = "whole.fp32.onnx", "whole.static.onnx", "whole.dynamic.onnx"
WINDOW, WHOLE = "window.npz", "whole.json"
"""One window's inputs; names of outputs, and why a rival is not there."""


class Whole(Protocol):
    """A loaded graph."""

    def run(self, feed: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """Its outputs, in the order that is asked for."""

    def executed(self) -> dict[str, int]:
        """What its products run in -> how many layers."""


class InOnnxRuntime:
    """A file in ONNX Runtime's CPU provider.

    Args:
        file: The ONNX file.
    """

    def __init__(self, file: Path) -> None:
        import onnxruntime

        self._file = file
        self._session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(self, feed: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """As the library does it."""
        found: list[Any] = self._session.run(list(outputs), dict(feed))
        return found

    def executed(self) -> dict[str, int]:
        """By the graph as it was rewritten at loading."""
        from benchmarks.speed.rivals.products import products_of

        return products_of(self._file)


class InOpenVino:
    """A file in OpenVINO's CPU plugin.

    Args:
        file: The ONNX file.
        compute: "f32" or "bf16"; never left to the library, which takes bf16 where a processor is fast in it.
    """

    def __init__(self, file: Path, compute: str) -> None:
        import openvino

        self._compiled = openvino.Core().compile_model(
            str(file), "CPU", {"INFERENCE_PRECISION_HINT": compute, "PERFORMANCE_HINT": "LATENCY"}
        )
        self._request = self._compiled.create_infer_request()

    def run(self, feed: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        """As the library does it, without copying inputs."""
        self._request.infer(dict(feed), share_inputs=True)
        return [np.array(self._request.get_tensor(name).data) for name in outputs]

    def executed(self) -> dict[str, int]:
        """As OpenVINO says."""
        from benchmarks.speed.rivals.products import openvino_products

        return openvino_products(self._compiled)


def open_whole(key: str, folder: Path) -> Whole:
    """Load a joined graph; needs nothing but its library."""
    if key == "whole-ort":
        return InOnnxRuntime(folder / FP32)
    if key == "whole-ort-static":
        return InOnnxRuntime(folder / STATIC)
    if key == "whole-ort-dynamic":
        return InOnnxRuntime(folder / DYNAMIC)
    if key == "whole-ov-static":
        return InOpenVino(folder / STATIC, "f32")
    return InOpenVino(folder / FP32, "bf16" if key == "whole-ov-bf16" else "f32")


def last_line(error: BaseException) -> str:
    """Type and last line of an error, short."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:160]


def refused_in(folder: Path) -> dict[str, str]:
    """Rival -> why it cannot be made of this system."""
    found: dict[str, str] = json.loads((folder / WHOLE).read_text(encoding="utf-8"))["refused"]
    return found
