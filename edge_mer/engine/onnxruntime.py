"""ONNX Runtime on the CPU: the engine that is always there."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

from edge_mer.engine.base import Array, Engine
from edge_mer.engine.threads import limited
from edge_mer.errors import BundleError, MissingError
from edge_mer.types.model import TensorSpec

GraphLevel = Literal["basic", "extended", "all"]

_LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

_PRODUCTS = ("Conv", "Gemm", "MatMul", "Attention", "LSTM", "GRU")
"""What multiplies has one of these in its name, however it was fused or quantized."""

_NUMBERS = {"float": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "i8", "uint8": "u8"}


@dataclass(frozen=True)
class OrtOptions:
    """How ONNX Runtime runs a stage.

    Attributes:
        threads: Threads within one operator.
        graph: How far the graph is rewritten at load time.
        fuse_qdq: Run Q/DQ pairs as INT8 kernels; False computes them as they are written, in
            float, which is what those kernels are held against.
    """

    threads: int = 1
    graph: GraphLevel = "all"
    fuse_qdq: bool = True


class OrtEngine(Engine):
    """One stage in ONNX Runtime's CPU provider.

    Args:
        stage: Name of the stage.
        model: The ONNX file's bytes; weights inside.
        inputs: Declared inputs.
        outputs: Declared outputs.
        sizes: Sizes of free axes of the input buffers.
        options: Threads and graph level.

    Raises:
        BundleError: The file is no ONNX that this ONNX Runtime reads, or its inputs and outputs
            are not the declared ones.
        MissingError: This ONNX Runtime lacks something that the file needs.
    """

    name = "onnxruntime-cpu"

    def __init__(
        self,
        stage: str,
        model: bytes,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        sizes: dict[str, int],
        options: OrtOptions | None = None,
    ) -> None:
        super().__init__(stage, inputs, outputs, sizes)
        self.exclusive = None
        session = _open_session(stage, model, options or OrtOptions())
        self._session: ort.InferenceSession | None = session
        self._output_names = [spec.name for spec in outputs]
        self._check_names([i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()])

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        if self._session is None:
            raise RuntimeError(f"stage {self.stage} was closed")
        outputs = self._session.run(self._output_names, dict(feed))
        return dict(zip(self._output_names, outputs, strict=True))

    def close(self) -> None:
        """Free the session, of whomever it is still known."""
        self._session = None


def executed(stage: str, model: bytes, feed: Mapping[str, Array], options: OrtOptions) -> dict[str, int]:
    """Precision -> how many nodes that multiply run in it, by ONNX Runtime's own profile of one run.

    Args:
        stage: Name of the stage.
        model: The ONNX file's bytes.
        feed: What it is run on.
        options: Threads and graph level.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = _open_session(stage, model, options, profile=Path(folder) / "run")
        session.run(None, dict(feed))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = {one["name"]: one["args"] for one in events if one["name"].endswith("_kernel_time")}
    products = [args for args in nodes.values() if any(part in args["op_name"] for part in _PRODUCTS)]
    return dict(Counter(_precision(args) for args in products).most_common())


def _precision(args: Mapping[str, Any]) -> str:
    """What a node's inputs come in; one whose weights are 8 bits wide multiplies in 8 bits."""
    kinds: list[str] = [_NUMBERS.get(kind, kind) for one in args["input_type_shape"] for kind in one]
    return next((kind for kind in kinds if kind in ("u8", "i8")), kinds[0])


def _open_session(
    stage: str, model: bytes, options: OrtOptions, profile: Path | None = None
) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    if profile is not None:
        settings.enable_profiling, settings.profile_file_prefix = True, str(profile)
    settings.intra_op_num_threads = limited(options.threads)
    settings.inter_op_num_threads = 1
    settings.graph_optimization_level = _LEVELS[options.graph]
    # Idle threads that spin steal the processor from the other stages.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not options.fuse_qdq:
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    settings.log_severity_level = 4
    try:
        return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own types, all unrelated
        text = str(error).split("\n", maxsplit=1)[0]
        if "NOT_IMPLEMENTED" in text or "Unsupported model IR version" in text:
            raise MissingError(
                f"stage {stage}: ONNX Runtime {ort.__version__} cannot run this file",
                found=text,
                hint="install a newer onnxruntime",
            ) from error
        raise BundleError(f"stage {stage}: not a usable ONNX file", found=text) from error
