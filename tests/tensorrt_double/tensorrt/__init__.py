"""A double of TensorRT's Python API, as far as edge-mer uses it, for machines where TensorRT cannot be.

It takes the ONNX that TensorRT would take, keeps it as a "plan", and runs it with ONNX Runtime on memory that
the CUDA driver of the host hands out. What it has is compared, name by name, with the vendor's own bindings;
what a version lacks is not here either. `TENSORRT_DOUBLE` chooses the version. Everything that can go wrong
can be asked for: see `faults`.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import shape_inference

__version__ = os.environ.get("TENSORRT_DOUBLE", "10.3.0")
MAJOR = int(__version__.split(".")[0])

_MAGIC = b"TRT double "


@dataclass
class Faults:
    """What is to go wrong.

    Attributes:
        refuse_int8_constants: The parser takes no int8 constants behind a DequantizeLinear.
        refuse_operators: Operators that the parser does not know.
        build_error: Why no engine can be built.
        ignore_precision: Operators that run in FP32 whatever was asked.
        no_context: There is no memory for an execution context.
        run_error: Why runs fail.
        n_dla_cores: Accelerators.
        dialect: "10" or "11" of the inspector; by default the version's.
    """

    refuse_int8_constants: bool = False
    refuse_operators: tuple[str, ...] = ()
    build_error: str = ""
    ignore_precision: tuple[str, ...] = ()
    no_context: bool = False
    run_error: str = ""
    n_dla_cores: int = 0
    dialect: str = field(default_factory=lambda: str(MAJOR))


def _faults() -> Faults:
    given = json.loads(os.environ.get("TENSORRT_DOUBLE_FAULTS", "{}"))
    return Faults(**{key: tuple(v) if isinstance(v, list) else v for key, v in given.items()})


faults = _faults()


class DataType(enum.IntEnum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64, INT4 = range(10)


class TensorIOMode(enum.IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class DeviceType(enum.IntEnum):
    GPU, DLA = range(2)


class MemoryPoolType(enum.IntEnum):
    WORKSPACE, DLA_MANAGED_SRAM, DLA_LOCAL_DRAM, DLA_GLOBAL_DRAM, TACTIC_DRAM, TACTIC_SHARED_MEMORY = range(6)


class ProfilingVerbosity(enum.IntEnum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class LayerInformationFormat(enum.IntEnum):
    ONELINE, JSON = range(2)


class LayerType(enum.IntEnum):
    CONVOLUTION, ACTIVATION, ELEMENTWISE, MATRIX_MULTIPLY, CONSTANT, QUANTIZE, DEQUANTIZE, SHUFFLE, CAST = (
        range(9)
    )


_FLAGS = ["GPU_FALLBACK", "REFIT", "TF32", "STRIP_PLAN", "ERROR_ON_TIMING_CACHE_MISS"]
_FLAGS += ["EDITABLE_TIMING_CACHE", "MONITOR_MEMORY"] if MAJOR > 10 else ["FP16", "INT8", "BF16"]
BuilderFlag = enum.IntEnum("BuilderFlag", _FLAGS, start=0)  # type: ignore[misc]

_NETWORK_FLAGS = {"STRONGLY_TYPED": 0} if MAJOR > 10 else {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", _NETWORK_FLAGS)  # type: ignore[misc]

_TYPES = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.FLOAT16: DataType.HALF,
    onnx.TensorProto.INT8: DataType.INT8,
    onnx.TensorProto.INT32: DataType.INT32,
    onnx.TensorProto.INT64: DataType.INT64,
    onnx.TensorProto.BOOL: DataType.BOOL,
}
_NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT8: np.int8,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.BOOL: np.bool_,
}
_KINDS = {
    "Conv": LayerType.CONVOLUTION,
    "MatMul": LayerType.MATRIX_MULTIPLY,
    "Gemm": LayerType.MATRIX_MULTIPLY,
    "QuantizeLinear": LayerType.QUANTIZE,
    "DequantizeLinear": LayerType.DEQUANTIZE,
    "Cast": LayerType.CAST,
    "Constant": LayerType.CONSTANT,
    "Relu": LayerType.ACTIVATION,
}


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING
    INFO, VERBOSE = Severity.INFO, Severity.VERBOSE

    def __init__(self) -> None: ...

    def log(self, severity: Severity, msg: str) -> None: ...


class IProgressMonitor:
    def __init__(self) -> None: ...

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        return True

    def phase_finish(self, phase_name: str) -> None: ...


class IHostMemory:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self._data)

    @property
    def nbytes(self) -> int:
        return len(self._data)


def _host_memory(data: bytes) -> Any:
    """Real host memory gives its bytes as a buffer; so does this, on every Python."""
    return data


class ITensor:
    def __init__(self, name: str, shape: Sequence[int], dtype: DataType) -> None:
        self.name, self.shape, self.dtype = name, tuple(shape), dtype


class ILayer:
    def __init__(
        self, name: str, kind: LayerType, inputs: list[ITensor | None], outputs: list[ITensor]
    ) -> None:
        self.name, self.type, self.metadata = name, kind, f"[ONNX Layer: {name}]"
        self._inputs, self._outputs = inputs, outputs

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> ITensor | None:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self._layers: list[ILayer] = []
        self._model: onnx.ModelProto | None = None

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    def _is_strongly_typed(self) -> bool:
        return MAJOR > 10 or bool(self.flags >> int(NetworkDefinitionCreationFlag.STRONGLY_TYPED) & 1)


class ParserError:
    def __init__(self, index: int, name: str, operator: str, text: str) -> None:
        self._facts = (index, name, operator, text)

    def node(self) -> int:
        return self._facts[0]

    def node_name(self) -> str:
        return self._facts[1]

    def node_operator(self) -> str:
        return self._facts[2]

    def desc(self) -> str:
        return self._facts[3]


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        try:
            proto = onnx.load_from_string(bytes(model))
        except Exception as error:
            self._errors.append(ParserError(-1, "", "", f"failed to deserialize the model: {error}"))
            return False
        self._errors += _parser_errors(proto)
        if self._errors:
            return False
        self._network._model = proto
        self._network._layers = _layers(proto)
        return True


def _parser_errors(model: onnx.ModelProto) -> list[ParserError]:
    int8_constants = {one.name for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8}
    weights = {one.name for one in model.graph.initializer if len(one.dims)}
    found = []
    for index, node in enumerate(model.graph.node):
        if node.op_type in faults.refuse_operators:
            text = f"no importer registered for op: {node.op_type}"
            found.append(ParserError(index, node.name, node.op_type, text))
        takes_constant = node.op_type == "DequantizeLinear" and node.input[0] in int8_constants & weights
        if faults.refuse_int8_constants and takes_constant:
            found.append(
                ParserError(index, node.name, node.op_type, "constants of type INT8 are not supported")
            )
    return found


def _layers(model: onnx.ModelProto) -> list[ILayer]:
    graph = shape_inference.infer_shapes(model).graph
    tensors: dict[str, ITensor] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = [d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim]
        kind = _TYPES.get(value.type.tensor_type.elem_type, DataType.UINT8)
        tensors[value.name] = ITensor(value.name, dims, kind)
    for constant in graph.initializer:
        kind = _TYPES.get(constant.data_type, DataType.UINT8)
        tensors[constant.name] = ITensor(constant.name, constant.dims, kind)
    unknown = lambda name: tensors.get(name) or ITensor(name, (), DataType.FLOAT)  # noqa: E731
    return [
        ILayer(
            node.name or node.output[0],
            _KINDS.get(node.op_type, LayerType.ELEMENTWISE),
            [unknown(name) if name else None for name in node.input],
            [unknown(name) for name in node.output],
        )
        for node in graph.node
    ]


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> Any:
        return _host_memory(self._data)


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class IBuilderConfig:
    def __init__(self) -> None:
        self._flags = {BuilderFlag.TF32}
        self._profiles: list[IOptimizationProfile] = []
        self._timing = ITimingCache(b"")
        self._limits: dict[MemoryPoolType, int] = {}
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.default_device_type = DeviceType.GPU
        self.progress_monitor: IProgressMonitor | None = None

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._limits[pool] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        fits = not cache._data or cache._data.startswith(_timing_header()) or ignore_mismatch
        if fits:
            self._timing = cache
        return fits

    def get_timing_cache(self) -> ITimingCache:
        return self._timing

    def can_run_on_DLA(self, layer: ILayer) -> bool:  # noqa: N802 -- the vendor's name
        return layer.type in (LayerType.CONVOLUTION, LayerType.ACTIVATION) and all(
            layer.get_output(i).dtype in (DataType.HALF, DataType.INT8) for i in range(layer.num_outputs)
        )


def _timing_header() -> bytes:
    return f"timings of {__version__}\n".encode()


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802 -- the vendor's name
        return faults.n_dla_cores

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
        if not network._is_strongly_typed() or network._model is None:
            return self._fail("the network is not strongly typed")
        if faults.build_error:
            return self._fail(faults.build_error)
        if config.progress_monitor is not None and not _tell(config.progress_monitor):
            return self._fail("cancelled")
        dequantized = {one.get_output(0).name for one in network._layers if one.type == LayerType.DEQUANTIZE}
        used = {one.name: _used(one, dequantized) for one in network._layers}
        fresh = "".join(f"{name}\n" for name in used).encode()
        known = config._timing._data or _timing_header()
        if fresh not in known:
            config._timing = ITimingCache(known + fresh)
        facts = {
            "version": __version__,
            "profiles": [one._shapes for one in config._profiles],
            "verbosity": config.profiling_verbosity.name,
            "used": used,
            "kinds": {one.name: one.type.name for one in network._layers},
        }
        text = json.dumps(facts).encode()
        model = network._model.SerializeToString()
        return _host_memory(_MAGIC + len(text).to_bytes(8, "little") + text + model)

    def _fail(self, text: str) -> None:
        self._logger.log(ILogger.ERROR, text)


def _tell(monitor: IProgressMonitor) -> bool:
    monitor.phase_start("Building engine", "", 3)
    goes_on = True
    for step in range(3):
        monitor.phase_start(f"Tactics {step}", "Building engine", 10)
        for tactic in range(10):
            goes_on = goes_on and monitor.step_complete(f"Tactics {step}", tactic)
        monitor.phase_finish(f"Tactics {step}")
        goes_on = goes_on and monitor.step_complete("Building engine", step)
    monitor.phase_finish("Building engine")
    return goes_on


def _used(layer: ILayer, dequantized: set[str]) -> str:
    """The type that a layer takes in: as asked, or FP32 where that is to go wrong."""
    given = [one for one in (layer.get_input(i) for i in range(layer.num_inputs)) if one is not None]
    if layer.type.name in faults.ignore_precision or not given:
        return "Float"
    if layer.type in (LayerType.CONVOLUTION, LayerType.MATRIX_MULTIPLY) and given[0].name in dequantized:
        return "Int8"  # the engine fuses the DequantizeLinear into the product
    names = {DataType.HALF: "Half", DataType.INT8: "Int8"}
    return names.get(given[0].dtype, "Float")


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        data = bytes(serialized_engine)
        if not data.startswith(_MAGIC):
            self._logger.log(ILogger.ERROR, "the serialized engine has no valid header")
            return None
        size = int.from_bytes(data[len(_MAGIC) : len(_MAGIC) + 8], "little")
        begin = len(_MAGIC) + 8
        facts = json.loads(data[begin : begin + size])
        if facts["version"] != __version__:
            text = f"the engine was built by version {facts['version']}, this is {__version__}"
            self._logger.log(ILogger.ERROR, text)
            return None
        return ICudaEngine(facts, data[begin + size :], self._logger)


@functools.lru_cache(maxsize=8)
def _opened(model: bytes) -> tuple[onnx.ModelProto, onnxruntime.InferenceSession]:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    return onnx.load_from_string(model), session


class ICudaEngine:
    def __init__(self, facts: dict[str, Any], model: bytes, logger: ILogger) -> None:
        self._facts, self._logger = facts, logger
        self._proto, self._session = _opened(model)
        names = [one.name for one in (*self._proto.graph.input, *self._proto.graph.output)]
        self._values = {one.name: one for one in (*self._proto.graph.input, *self._proto.graph.output)}
        self._inputs = [one.name for one in self._proto.graph.input]
        self._names = names

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._facts["profiles"])

    @property
    def device_memory_size_v2(self) -> int:
        return 1 << 20

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return _TYPES[self._values[name].type.tensor_type.elem_type]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._facts["profiles"][profile_index][name]]

    def create_execution_context(self) -> Any:
        if faults.no_context:
            self._logger.log(ILogger.ERROR, "CUDA error 2: out of memory")
            return None
        return IExecutionContext(self)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        facts = self._engine._facts
        if facts["verbosity"] != "DETAILED":
            return json.dumps({"Layers": list(facts["used"])})
        layers = [
            {
                "Name": f"{name} + {name}_activation",
                "LayerType": {"CONVOLUTION": "CaskConvolution", "MATRIX_MULTIPLY": "gemm"}.get(
                    facts["kinds"][name], facts["kinds"][name].title()
                ),
                "Inputs": [{"Name": "x", "Dimensions": [1], **_typed(used)}],
                "Outputs": [{"Name": "y", "Dimensions": [1], **_typed(used)}],
                "TacticName": "",
                "Metadata": f"[ONNX Layer: {name}]",
            }
            for name, used in facts["used"].items()
        ]
        io_tensors: dict[str, Any] = {"Bindings": self._engine._names}
        if faults.dialect == "11":
            io_tensors = {"I/O Tensors": [{"Name": name} for name in self._engine._names]}
        return json.dumps({"Layers": layers, **io_tensors})


def _typed(used: str) -> dict[str, str]:
    if faults.dialect == "11":
        return {"Format": "Row major linear format (kLINEAR)", "DataType": used}
    names = {"Float": "FP32", "Half": "FP16", "Int8": "Int8"}
    return {"Format/Datatype": f"Row major linear {names[used]} format"}


_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._profile = engine, 0
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._calls: list[Any] = []
        self._memory = ctypes.c_uint64()
        if self._driver.cuMemAlloc_v2(
            ctypes.byref(self._memory), ctypes.c_size_t(engine.device_memory_size_v2)
        ):
            raise MemoryError("the context's own memory")

    def __del__(self) -> None:
        self._driver.cuMemFree_v2(self._memory)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return name in self._engine._names

    def set_input_shape(self, name: str, shape: Any) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        fits = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if not fits:
            self._engine._logger.log(ILogger.ERROR, f"{name}: {tuple(shape)} is outside {low} to {high}")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        free: dict[str, int] = {}
        for given, shape in self._shapes.items():
            for dim, size in zip(self._engine._values[given].type.tensor_type.shape.dim, shape, strict=True):
                if dim.dim_param:
                    free[dim.dim_param] = size
        dims = self._engine._values[name].type.tensor_type.shape.dim
        return tuple(free.get(dim.dim_param, -1) if dim.dim_param else dim.dim_value for dim in dims)

    def execute_async_v3(self, stream_handle: int) -> bool:
        if faults.run_error:
            self._engine._logger.log(ILogger.ERROR, faults.run_error)
            return False
        run = functools.partial(
            _run,
            self._engine._session,
            {name: self._place(name, shape) for name, shape in self._shapes.items()},
            {
                name: self._place(name, self.get_tensor_shape(name))
                for name in self._engine._names
                if name not in self._shapes
            },
        )
        call = _HOST_FUNCTION(lambda _: run())
        self._calls.append(call)
        del self._calls[2:-1]  # the first two may be in a graph that launches them for ever
        return not self._driver.cuLaunchHostFunc(ctypes.c_void_p(stream_handle), call, None)

    def _place(self, name: str, shape: tuple[int, ...]) -> _Place:
        return self._addresses[name], shape, np.dtype(_NUMPY[self._engine.get_tensor_dtype(name)])


_Place = tuple[int, tuple[int, ...], np.dtype[Any]]
"""Address, shape and type of a tensor."""


def _run(
    session: onnxruntime.InferenceSession, inputs: dict[str, _Place], outputs: dict[str, _Place]
) -> None:
    found = session.run(list(outputs), {name: _at(place).copy() for name, place in inputs.items()})
    for place, value in zip(outputs.values(), found, strict=True):
        _at(place)[...] = value


def _at(place: _Place) -> Any:
    address, shape, kind = place
    n_bytes = int(np.prod(shape)) * kind.itemsize
    return np.frombuffer((ctypes.c_char * n_bytes).from_address(address), kind).reshape(shape)
