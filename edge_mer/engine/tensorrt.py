"""A TensorRT plan at run time: one context per shape profile, buffers made once, one stream, a CUDA graph.

Each run uploads what the processor wrote, or nothing where a kernel wrote into the buffer itself or where
host and GPU share one memory; then runs, downloads and waits. Where shapes never change, the run is recorded
once as a CUDA graph and replayed; where that cannot be, it is launched as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edge_mer.cuda import Gpu, GpuTensor
from edge_mer.cuda_graph import Graph, capture
from edge_mer.engine.base import Array, Engine
from edge_mer.engine.tensorrt_library import make_log, require_tensorrt
from edge_mer.errors import BundleError, DataError, EdgeMerError, MissingError
from edge_mer.types.model import TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

Shape = tuple[int, ...]


class TensorRtEngine(Engine):
    """One stage on a GPU.

    Args:
        stage: Name of the stage.
        plan: The serialised engine; native code, so the caller must know that this host built it.
        inputs: Declared inputs.
        outputs: Declared outputs.
        sizes: Sizes of free axes of the buffers.
        gpu: Where it runs; several engines share one and its stream.

    Raises:
        MissingError: TensorRT is not here, does not take the plan, or there is not enough memory.
        BundleError: The plan's inputs and outputs are not the declared ones.
    """

    name = "tensorrt"

    def __init__(
        self,
        stage: str,
        plan: bytes,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        sizes: dict[str, int],
        gpu: Gpu,
    ) -> None:
        super().__init__(stage, inputs, outputs, sizes)
        self.exclusive = gpu
        self._gpu = gpu
        self._log: Any = None
        self._runtime: trt.Runtime | None = None
        self._engine: trt.ICudaEngine | None = None
        self._lanes: dict[int, _Lane] = {}
        self._on_device: set[str] = set()
        self._newer_on_device: set[str] = set()
        try:
            with gpu.current():
                self._open(plan)
                self._check_tensors()
                lane = self._lane(0)
        except BaseException:
            self.close()
            raise
        self.tensors: dict[str, GpuTensor] = lane.inputs
        self.inputs = {
            spec.name: _view(lane.inputs[spec.name].host, spec.concrete(**sizes)) for spec in inputs
        }

    def _open(self, plan: bytes) -> None:
        import tensorrt as trt

        version = require_tensorrt()
        self._log = make_log()
        self._runtime = trt.Runtime(self._log)
        found = self._runtime.deserialize_cuda_engine(plan)
        self._engine = cast("trt.ICudaEngine | None", found)  # nothing where it does not take the plan
        if self._engine is None:
            raise MissingError(
                f"stage {self.stage}: TensorRT {version} does not take the plan",
                found=self._log.last_error(),
                hint="run edge-mer build-engine",
            )

    def _check_tensors(self) -> None:
        """Names, directions and types are what the model declares."""
        import tensorrt as trt

        engine = self._opened
        modes = {trt.TensorIOMode.INPUT: "input", trt.TensorIOMode.OUTPUT: "output"}
        found = {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            mode = modes.get(engine.get_tensor_mode(name), "neither")
            found[name] = f"{mode} {_numpy_type(engine.get_tensor_dtype(name))}"
        expected = {spec.name: f"input {spec.dtype}" for spec in self.input_specs}
        expected |= {spec.name: f"output {spec.dtype}" for spec in self.output_specs}
        if found != expected:
            raise BundleError(
                f"stage {self.stage}: the plan is not what the manifest declares",
                expected=_listed(expected),
                found=_listed(found),
                hint="run edge-mer build-engine --force",
            )

    @property
    def _opened(self) -> trt.ICudaEngine:
        if self._engine is None:
            raise MissingError(f"stage {self.stage}: the engine is closed", hint="open it again")
        return self._engine

    def _lane(self, profile: int) -> _Lane:
        if profile not in self._lanes:
            lane = _Lane(self.stage, self._opened, self.input_specs, self.output_specs, self._gpu, self._log)
            self._lanes[profile] = lane  # closed with the others, however far it comes
            lane.open(profile)
        return self._lanes[profile]

    # -- running -------------------------------------------------------------------------------

    def mark_on_device(self, name: str) -> None:
        """A kernel wrote this input's device memory: the next `infer` takes it as it is there."""
        self._on_device.add(name)
        self._newer_on_device.add(name)

    def read_input(self, name: str) -> Array:
        """A copy of what an input held, from the device where a kernel wrote it."""
        if name in self._newer_on_device:
            self.tensors[name].download()
            self._gpu.synchronize()
            self._newer_on_device.discard(name)
        return super().read_input(name)

    def infer(self) -> dict[str, Array]:
        """Run on what lies in `inputs`, or where a kernel wrote, on the device."""
        on_device, self._on_device = frozenset(self._on_device), set()
        self.n_runs += 1
        with self._gpu.current():
            return self._lane(0).run(self.inputs, on_device)

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        with self._gpu.current():
            n_rows = _batch(self.input_specs, feed)
            for profile in range(self._opened.num_optimization_profiles):
                lane = self._lane(profile)
                if lane.takes(feed):
                    return lane.run(feed)
            if n_rows > 1 and self._lane(0).takes(_row(self.input_specs, feed, 0)):
                rows = [self._lane(0).run(_row(self.input_specs, feed, i)) for i in range(n_rows)]
                return {spec.name: np.concatenate([r[spec.name] for r in rows]) for spec in self.output_specs}
            raise self._lane(0).refusal(feed)

    def close(self) -> None:
        """Free contexts, buffers and the engine, in the order that TensorRT asks for."""
        with contextlib.suppress(EdgeMerError), self._gpu.current():  # the GPU may be gone already
            for lane in self._lanes.values():
                lane.close()
        self._lanes = {}
        self._engine = None
        self._runtime = None


@dataclass(frozen=True)
class _Limits:
    """Smallest and largest shape of an input."""

    low: Shape
    high: Shape

    def hold(self, shape: Shape) -> bool:
        fits = (low <= one <= high for low, one, high in zip(self.low, shape, self.high, strict=True))
        return len(shape) == len(self.low) and all(fits)


class _Lane:
    """One shape profile of an engine: its context and its buffers."""

    def __init__(
        self,
        stage: str,
        engine: trt.ICudaEngine,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        gpu: Gpu,
        log: Any,
    ) -> None:
        self._stage, self._engine, self._gpu, self._log = stage, engine, gpu, log
        self._input_specs, self._output_specs = inputs, outputs
        self.inputs: dict[str, GpuTensor] = {}
        self._outputs: dict[str, GpuTensor] = {}
        self._shapes: dict[str, Shape] = {}
        self._spares: dict[str, GpuTensor] = {}
        self._bound: dict[str, int] = {}
        self._graph: Graph | None = None
        self._n_own_runs = 0
        self._context: trt.IExecutionContext | None = None
        self._limits: dict[str, _Limits] = {}
        self._is_static = False

    def open(self, profile: int) -> None:
        """Make the context and all buffers."""
        found = cast("trt.IExecutionContext | None", self._engine.create_execution_context())
        if found is None:
            needed, free = self._engine.device_memory_size_v2 >> 20, self._gpu.free_bytes() >> 20
            raise self._error(
                "no execution context", f"{needed} MiB needed, {free} MiB free; {self._log.last_error()}"
            )
        self._context = found
        if profile:
            stream = self._gpu.stream.handle
            self._demand(found.set_optimization_profile_async(profile, stream), "the shape profile")
            self._gpu.synchronize()
        self._limits = {spec.name: _limits(self._engine, spec.name, profile) for spec in self._input_specs}
        self._is_static = all(one.low == one.high for one in self._limits.values())
        self._allocate()

    def _allocate(self) -> None:
        """Buffers of the largest shapes."""
        for spec in self._input_specs:
            largest = self._limits[spec.name].high
            self.inputs[spec.name] = self._gpu.tensor(largest, spec.dtype)
            self._bind(spec.name, self.inputs[spec.name])
            self._set_shape(spec.name, largest)
        for spec in self._output_specs:
            shape = self._output_shape(spec.name)
            self._outputs[spec.name] = self._gpu.tensor(shape, spec.dtype)
            self._bind(spec.name, self._outputs[spec.name])

    @property
    def _live(self) -> trt.IExecutionContext:
        if self._context is None:
            raise MissingError(f"stage {self._stage}: the engine is closed", hint="open it again")
        return self._context

    def takes(self, feed: Mapping[str, Array]) -> bool:
        """Whether all inputs lie within this profile."""
        return all(limits.hold(feed[name].shape) for name, limits in self._limits.items())

    def refusal(self, feed: Mapping[str, Array]) -> DataError:
        """Why it does not take them."""
        name, limits = next((n, one) for n, one in self._limits.items() if not one.hold(feed[n].shape))
        low, high = (" x ".join(map(str, shape)) for shape in (limits.low, limits.high))
        return DataError(
            f"stage {self._stage}: input {name} does not fit the engine",
            expected=low if low == high else f"{low} to {high}",
            found=" x ".join(map(str, feed[name].shape)),
            hint="run edge-mer build-engine for these shapes",
        )

    def run(self, feed: Mapping[str, Array], on_device: frozenset[str] = frozenset()) -> dict[str, Array]:
        """Outputs as fresh arrays; what lies in `inputs` stays as it is."""
        if not self.takes(feed):
            raise self.refusal(feed)
        is_own = True
        for name, own in self.inputs.items():
            array = feed[name]
            self._set_shape(name, array.shape)
            if name in on_device or _is_start_of(own.host, array):
                tensor = own
            else:
                tensor, is_own = self._spare(name), False
                _view(tensor.host, array.shape)[...] = array
            self._bind(name, tensor)
            if name not in on_device:
                tensor.upload()
        self._execute(may_record=is_own)
        for tensor in self._outputs.values():
            tensor.download()
        self._gpu.synchronize()
        return {
            name: _view(tensor.host, self._output_shape(name)).copy()
            for name, tensor in self._outputs.items()
        }

    def _spare(self, name: str) -> GpuTensor:
        """For arrays from elsewhere: the buffers in `inputs` hold what others keep there, such as rings."""
        if name not in self._spares:
            own = self.inputs[name]
            self._spares[name] = self._gpu.tensor(own.shape, own.dtype)
        return self._spares[name]

    def _bind(self, name: str, tensor: GpuTensor) -> None:
        if self._bound.get(name) != tensor.pointer:
            self._demand(self._live.set_tensor_address(name, tensor.pointer), name)
            self._bound[name] = tensor.pointer

    def _execute(self, *, may_record: bool) -> None:
        """Launch; with its own buffers, from the second run on, replay what was recorded in it."""
        if not (self._is_static and may_record):
            self._launch()
            return
        self._n_own_runs += 1
        if self._n_own_runs == 2:  # the first one sets things up that must not be recorded
            self._graph = capture(self._gpu, self._launch)
        if self._graph is None:
            self._launch()
        else:
            self._graph.launch()

    def _launch(self) -> None:
        if not self._live.execute_async_v3(self._gpu.stream.handle):
            raise self._error("the run failed", self._log.last_error())

    def _set_shape(self, name: str, shape: Shape) -> None:
        if self._shapes.get(name) != shape:
            self._demand(self._live.set_input_shape(name, shape), f"{name} of shape {shape}")
            self._shapes[name] = shape

    def _output_shape(self, name: str) -> Shape:
        shape = tuple(int(size) for size in cast("Any", self._live.get_tensor_shape(name)))
        if any(size < 0 for size in shape):
            raise self._error(f"the shape of output {name} is not known", str(shape))
        return shape

    def _demand(self, worked: bool, what: str) -> None:
        if not worked:
            raise self._error(f"TensorRT does not take {what}", self._log.last_error())

    def _error(self, what: str, found: str) -> MissingError:
        shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in self._shapes.items())
        return MissingError(
            f"stage {self._stage}: {what}" + (f" ({shapes})" if shapes else ""),
            found=found,
            hint="run edge-mer doctor, then edge-mer build-engine --force",
        )

    def close(self) -> None:
        free: list[Callable[[], None]] = [] if self._graph is None else [self._graph.free]
        free += [
            tensor.free for tensor in (*self.inputs.values(), *self._spares.values(), *self._outputs.values())
        ]
        self._graph = None
        self._context = None
        for one in free:
            one()


def _limits(engine: trt.ICudaEngine, name: str, profile: int) -> _Limits:
    shapes = engine.get_tensor_profile_shape(name, profile)
    low, _, high = (tuple(int(size) for size in cast("Any", shape)) for shape in shapes)
    return _Limits(low, high)


def _view(buffer: Array, shape: Shape) -> Array:
    """The first elements of a buffer in another shape: what an engine reads there is dense."""
    return buffer.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def _is_start_of(buffer: Array, array: Array) -> bool:
    """Whether an array is the very memory that an engine reads for its shape."""
    begins = array.__array_interface__["data"][0] == buffer.__array_interface__["data"][0]
    return bool(begins and array.flags.c_contiguous and array.dtype == buffer.dtype)


def _batch(specs: tuple[TensorSpec, ...], feed: Mapping[str, Array]) -> int:
    return max((feed[s.name].shape[0] for s in specs if s.shape and s.shape[0] == "batch"), default=1)


def _row(specs: tuple[TensorSpec, ...], feed: Mapping[str, Array], row: int) -> dict[str, Array]:
    return {
        s.name: feed[s.name][row : row + 1] if s.shape and s.shape[0] == "batch" else feed[s.name]
        for s in specs
    }


def _numpy_type(found: trt.DataType) -> str:
    import tensorrt as trt

    names = {
        trt.DataType.FLOAT: "float32",
        trt.DataType.HALF: "float16",
        trt.DataType.INT64: "int64",
        trt.DataType.INT32: "int32",
        trt.DataType.INT8: "int8",
        trt.DataType.BOOL: "bool",
    }
    return names.get(found, found.name)


def _listed(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in sorted(found.items()))
