"""OpenVINO on the CPU: on processors with fast kernels for 16 and 8 bits, several times faster."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edge_mer.engine.base import Array, Engine
from edge_mer.engine.threads import limited
from edge_mer.errors import BundleError, MissingError
from edge_mer.types.model import TensorSpec

Compute = Literal["f32", "bf16"]

_PRODUCTS = ("Convolution", "FullyConnected", "MatMul", "MHA", "RNNCell", "RNNSeq")
"""Layers of OpenVINO's that multiply."""


@dataclass(frozen=True)
class OvOptions:
    """How OpenVINO runs a stage.

    Attributes:
        threads: Threads within one operator.
        compute: What float layers compute in. OpenVINO would take bf16 by itself where a processor is fast in
            it; here it is always said.
    """

    threads: int = 1
    compute: Compute = "f32"


def is_installed() -> bool:
    """Whether OpenVINO is there at all; does not load it."""
    return importlib.util.find_spec("openvino") is not None


def version() -> str | None:
    """OpenVINO's version; None where it is not installed. Does not load it: sessions ask at their start."""
    try:
        return importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        return None


def computes_bf16() -> bool:
    """Whether this processor multiplies bf16 itself."""
    return is_installed() and "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OvEngine(Engine):
    """One stage in OpenVINO's CPU plugin.

    Args:
        stage: Name of the stage.
        model: The ONNX file's bytes; weights inside.
        inputs: Declared inputs.
        outputs: Declared outputs.
        sizes: Sizes of free axes of the input buffers.
        options: Threads and what float layers compute in.

    Raises:
        BundleError: OpenVINO does not take the file, or its inputs and outputs are not the declared ones.
        MissingError: OpenVINO is not installed.
    """

    name = "openvino-cpu"

    def __init__(
        self,
        stage: str,
        model: bytes,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        sizes: dict[str, int],
        options: OvOptions | None = None,
    ) -> None:
        super().__init__(stage, inputs, outputs, sizes)
        self._compiled: Any = _compile(stage, model, options or OvOptions())
        self._output_names = [spec.name for spec in outputs]
        self._check_names(
            [one.any_name for one in self._compiled.inputs], [one.any_name for one in self._compiled.outputs]
        )
        self._request: Any = self._compiled.create_infer_request()
        self._own = {
            name: _library().Tensor(array, shared_memory=True) for name, array in self.inputs.items()
        }

    def executed(self) -> dict[str, int]:
        """Precision -> how many layers that multiply run in it, as OpenVINO itself says."""
        layers = (node.get_rt_info() for node in self._compiled.get_runtime_model().get_ops())
        kinds = ((_text(one["layerType"]), _text(one["runtimePrecision"])) for one in layers)
        return dict(Counter(precision for kind, precision in kinds if kind in _PRODUCTS).most_common())

    def close(self) -> None:
        """Free what OpenVINO holds, of whomever it is still known."""
        self._compiled = self._request = None
        self._own = {}

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        if self._request is None:
            raise RuntimeError(f"stage {self.stage} was closed")
        given = self._own if feed is self.inputs else self._tensors(feed)
        for name, tensor in given.items():
            self._request.set_tensor(name, tensor)
        self._request.infer()
        found = (self._request.get_output_tensor(number).data for number in range(len(self._output_names)))
        return {name: np.array(data) for name, data in zip(self._output_names, found, strict=True)}

    def _tensors(self, feed: Mapping[str, Array]) -> dict[str, Any]:
        names = [spec.name for spec in self.input_specs]
        return {
            name: _library().Tensor(np.ascontiguousarray(feed[name]), shared_memory=True) for name in names
        }


def _compile(stage: str, model: bytes, options: OvOptions) -> Any:
    settings = {
        "INFERENCE_PRECISION_HINT": options.compute,
        "INFERENCE_NUM_THREADS": limited(options.threads),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # the cores are shared with capture, and with other processes
    }
    core = _core()
    try:
        return core.compile_model(core.read_model(model), "CPU", settings)
    except Exception as error:  # it raises RuntimeError for everything
        raise BundleError(
            f"stage {stage}: OpenVINO {version()} does not take this file", found=_last_line(error)
        ) from error


def _last_line(error: Exception) -> str:
    """Of a message that tells first where in OpenVINO's sources it happened."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingError(
            "OpenVINO is not installed", found=str(error), hint="pip install 'edge-mer[openvino]'"
        ) from error
    return openvino


@functools.cache
def _core() -> Any:
    """One for the process: each keeps a plugin of its own."""
    return _library().Core()
