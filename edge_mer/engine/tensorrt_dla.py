"""What of a stage a Jetson's deep learning accelerator (DLA) could run, and why not the rest.

The accelerator takes FP16 and INT8 only, and few kinds of layers. TensorRT knows it up to 10.7, on JetPack 6,
and again from 11.4.1 on, on the AGX Orin under JetPack 7.2.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edge_mer.engine.tensorrt_build import BuildOptions, Network, Refused
from edge_mer.engine.tensorrt_library import make_log, require_tensorrt
from edge_mer.types.model import TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class DlaReport:
    """What could run there.

    Attributes:
        n_cores: Accelerators that TensorRT sees here.
        able: Kind of layer -> how many could run there.
        unable: Kind of layer and why -> how many could not.
        verdict: In words, of the whole stage.
    """

    n_cores: int
    able: Mapping[str, int]
    unable: Mapping[str, int]
    verdict: str

    def as_json(self) -> dict[str, Any]:
        """For `build.json`."""
        return asdict(self)


def dla_report(stage: str, model: bytes, inputs: tuple[TensorSpec, ...], options: BuildOptions) -> DlaReport:
    """Ask TensorRT about every layer of a stage; nothing is built.

    Args:
        stage: Its name.
        model: The ONNX file's bytes.
        inputs: Declared inputs.
        options: As for a build.
    """
    version = require_tensorrt()
    try:
        network = Network(make_log(), stage, model, inputs, options)
    except Refused as refused:
        return DlaReport(0, {}, {}, f"the parser does not take the ONNX: {refused.errors[0]}")
    if network.n_dla_cores == 0:
        return DlaReport(0, {}, {}, f"TensorRT {version} sees no accelerator here")
    able: Counter[str] = Counter()
    unable: Counter[str] = Counter()
    for layer in network.layers():
        kind = layer.type.name.lower()
        if network.can_run_on_dla(layer):
            able[kind] += 1
        else:
            unable[f"{kind}: {_why(layer)}"] += 1
    return DlaReport(
        network.n_dla_cores, dict(able), dict(unable), _verdict(sum(able.values()), sum(unable.values()))
    )


def _why(layer: trt.ILayer) -> str:
    import tensorrt as trt

    types = (layer.get_output(i).dtype for i in range(layer.num_outputs))
    if any(one not in (trt.DataType.HALF, trt.DataType.INT8) for one in types):
        return "it is neither FP16 nor INT8"
    return "the accelerator has no such layer, or not with these parameters"


def _verdict(n_able: int, n_unable: int) -> str:
    if n_able == 0:
        return "nothing of it can run on the accelerator"
    if n_unable == 0:
        return "all of it can run on the accelerator"
    return f"{n_able} of {n_able + n_unable} layers can; each change between accelerator and GPU costs time"
