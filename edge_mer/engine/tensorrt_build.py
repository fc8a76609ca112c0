"""From ONNX to a TensorRT plan, the same way on 10.3 and on 11.4.

Networks are strongly typed: precision is what the ONNX says, and no flag asks for any. Flags are set by their
names, and those that a version lacks are left out. TF32 is off: it would round what is called FP32 to 10
bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsInt, cast

from edge_mer.clock import Clock
from edge_mer.engine.tensorrt_audit import Precision
from edge_mer.engine.tensorrt_library import major_version, make_log, require_tensorrt
from edge_mer.errors import BundleError, MissingError
from edge_mer.types.model import TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

Say = Callable[[str, int, int], None]
"""What is being done, how many of its parts are done, and of how many."""

Sizes = dict[str, int]
"""Free axis -> size."""

_N_ERRORS_SHOWN = 20
_FLAGS = ("EDITABLE_TIMING_CACHE", "MONITOR_MEMORY")
"""Set where they exist: a timing cache that can be read later on, and memory in the log."""


@dataclass(frozen=True)
class Profile:
    """Sizes of the free axes that an engine is built for.

    Attributes:
        smallest: Of each free axis.
        usual: What kernels are chosen for.
        largest: What buffers hold.
    """

    smallest: Sizes
    usual: Sizes
    largest: Sizes

    @classmethod
    def static(cls, sizes: Sizes) -> Profile:
        """One size only, which lets TensorRT optimise the most."""
        return cls(sizes, sizes, sizes)

    def as_json(self) -> dict[str, Sizes]:
        """For `build.json`."""
        return {"smallest": self.smallest, "usual": self.usual, "largest": self.largest}


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is built.

    Attributes:
        profiles: The first one is that of streaming.
        workspace_bytes: Most memory that a kernel may use beside its tensors.
        timing_cache: What earlier builds measured; empty: nothing.
        use_dla: Put on the deep learning accelerator what it can run, the rest on the GPU.
    """

    profiles: tuple[Profile, ...]
    workspace_bytes: int
    timing_cache: bytes = b""
    use_dla: bool = False


@dataclass(frozen=True)
class BuiltPlan:
    """A plan and what is known about it.

    Attributes:
        plan: The serialised engine.
        timing_cache: What was measured, that of earlier builds with it.
        asked: Convolution or matrix product -> precision in the ONNX.
        inspected: The engine inspector's JSON.
        flags: Names of the builder flags that were set.
        warnings: What TensorRT warned of.
        expanded: The parser took the ONNX only with its 8-bit weights as pairs of Q and DQ.
        seconds: How long it took.
    """

    plan: bytes
    timing_cache: bytes
    asked: dict[str, Precision]
    inspected: str
    flags: tuple[str, ...]
    warnings: tuple[str, ...]
    expanded: bool
    seconds: float


@dataclass
class Refused(Exception):  # noqa: N818 -- it is caught where the file is known
    """The parser does not take a file; `errors` names each node and why."""

    errors: list[str] = field(default_factory=list)


def build_plan(
    stage: str,
    model: bytes,
    inputs: tuple[TensorSpec, ...],
    options: BuildOptions,
    clock: Clock,
    say: Say | None = None,
    expanded: Callable[[bytes], bytes] | None = None,
) -> BuiltPlan:
    """Build one stage for the GPU that is here.

    Args:
        stage: Its name, for messages.
        model: The ONNX file's bytes.
        inputs: Declared inputs, whose free axes get the sizes of the profiles.
        options: Shapes, memory, timing cache.
        clock: What time is taken from.
        say: Told how far the build is.
        expanded: Gives the same ONNX with its 8-bit weights as pairs of Q and DQ, for parsers that take no
            constants in 8 bits; tried once the file as it is was refused.

    Raises:
        MissingError: TensorRT is not here, or there is not enough memory.
        BundleError: The parser does not take the ONNX; names every node and why.
        KeyboardInterrupt: Asked for while the build was going on.
    """
    require_tensorrt()
    began_ns = clock.now_ns()
    log = make_log()
    taken = model
    try:
        build = Network(log, stage, taken, inputs, options)
    except Refused as refused:
        taken = model if expanded is None else expanded(model)
        if taken == model:
            raise _parser_error(stage, refused.errors) from None
        try:
            build = Network(log, stage, taken, inputs, options)
        except Refused:
            raise _parser_error(stage, refused.errors) from None
    plan, timing_cache = build.run(say, clock)
    return BuiltPlan(
        plan=plan,
        timing_cache=timing_cache,
        asked=build.asked(),
        inspected=inspect(stage, plan),
        flags=build.flags,
        warnings=tuple(log.warnings),
        expanded=taken != model,
        seconds=(clock.now_ns() - began_ns) / 1e9,
    )


def _parser_error(stage: str, errors: list[str]) -> BundleError:
    shown = errors[:_N_ERRORS_SHOWN]
    more = len(errors) - len(shown)
    return BundleError(
        f"stage {stage}: TensorRT {require_tensorrt()} does not take this ONNX",
        found="; ".join(shown) + (f"; and {more} more" if more else ""),
        hint="take another candidate of the bundle, or a newer TensorRT",
    )


class Network:
    """One network with its configuration; made of TensorRT's objects, which must outlive each other.

    Args:
        log: Keeps what TensorRT says.
        stage: Its name, for messages.
        model: The ONNX file's bytes.
        inputs: Declared inputs.
        options: Shapes, memory, timing cache.

    Raises:
        Refused: The parser does not take the ONNX.
    """

    def __init__(
        self, log: Any, stage: str, model: bytes, inputs: tuple[TensorSpec, ...], options: BuildOptions
    ) -> None:
        import tensorrt as trt

        self._log, self._stage = log, stage
        self._builder = trt.Builder(log)
        self._network = self._builder.create_network(_network_flags())
        self._parser = trt.OnnxParser(self._network, log)
        if not self._parser.parse(model):
            raise Refused(_parser_errors(self._parser))
        self._config = self._builder.create_builder_config()
        self.flags = self._configure(options)
        for profile in options.profiles:
            self._config.add_optimization_profile(self._profile(profile, inputs))

    def _configure(self, options: BuildOptions) -> tuple[str, ...]:
        import tensorrt as trt

        config = self._config
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.clear_flag(trt.BuilderFlag.TF32)
        known = trt.BuilderFlag.__members__
        names = [name for name in _FLAGS if name in known]
        if options.use_dla:
            config.default_device_type = trt.DeviceType.DLA
            names.append("GPU_FALLBACK")
        for name in names:
            config.set_flag(known[name])
        cache = config.create_timing_cache(options.timing_cache)
        is_of_here: bool = config.set_timing_cache(cache, False)
        if not is_of_here:  # measured by another version or on another GPU
            config.set_timing_cache(config.create_timing_cache(b""), False)
        return tuple(names)

    def _profile(self, profile: Profile, inputs: tuple[TensorSpec, ...]) -> trt.IOptimizationProfile:
        made = self._builder.create_optimization_profile()
        for spec in inputs:
            shapes = (spec.concrete(**one) for one in (profile.smallest, profile.usual, profile.largest))
            made.set_shape(spec.name, *cast("Any", shapes))
        return made

    def run(self, say: Say | None, clock: Clock) -> tuple[bytes, bytes]:
        """The plan and the timing cache."""
        monitor = None if say is None else _make_monitor(self._stage, say)
        if monitor is not None:
            self._config.progress_monitor = monitor
        found = self._builder.build_serialized_network(self._network, self._config)
        made = cast("trt.IHostMemory | None", found)  # nothing where the build failed
        if monitor is not None and monitor.was_cancelled:
            raise KeyboardInterrupt
        if made is None:
            raise _build_error(self._stage, self._log.last_error())
        cache = self._config.get_timing_cache()
        return _bytes(made), b"" if cache is None else _bytes(cache.serialize())

    def asked(self) -> dict[str, Precision]:
        """What the ONNX asks of each convolution and matrix product."""
        import tensorrt as trt

        types: dict[Any, Precision] = {
            trt.DataType.FLOAT: "fp32",
            trt.DataType.HALF: "fp16",
            trt.DataType.INT8: "int8",
        }
        layers = self.layers()
        made_by = {layer.get_output(i).name: layer.type for layer in layers for i in range(layer.num_outputs)}
        asked: dict[str, Precision] = {}
        for layer in layers:
            if layer.type not in (trt.LayerType.CONVOLUTION, trt.LayerType.MATRIX_MULTIPLY):
                continue
            given = [layer.get_input(i) for i in range(layer.num_inputs)]
            is_int8 = any(made_by.get(one.name) == trt.LayerType.DEQUANTIZE for one in given if one)
            found = "int8" if is_int8 else types.get(layer.get_output(0).dtype)
            if found is not None:
                asked[layer.name] = found
        return asked

    def layers(self) -> list[trt.ILayer]:
        """All layers, in the order of the network."""
        return [self._network.get_layer(i) for i in range(self._network.num_layers)]

    @property
    def n_dla_cores(self) -> int:
        """Deep learning accelerators that TensorRT sees."""
        return int(self._builder.num_DLA_cores)

    def can_run_on_dla(self, layer: trt.ILayer) -> bool:
        """Whether an accelerator could run a layer of this network."""
        return bool(self._config.can_run_on_DLA(layer))


def _network_flags() -> int:
    """Strongly typed: to be asked for in TensorRT 10, and the only kind in 11."""
    import tensorrt as trt

    if major_version() > 10:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _parser_errors(parser: trt.OnnxParser) -> list[str]:
    found = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        where = (
            f"{error.node_name()} ({error.node_operator()})" if error.node_name() else f"node {error.node()}"
        )
        found.append(f"{where}: {error.desc()}")
    return found or ["the parser gave no reason"]


def _build_error(stage: str, reason: str) -> MissingError:
    is_memory = any(word in reason.lower() for word in ("memory", "cuda error 2", "outofmemory"))
    return MissingError(
        f"stage {stage}: TensorRT {require_tensorrt()} could not build an engine",
        found=reason,
        hint="free memory, or give --workspace-mb a smaller number"
        if is_memory
        else "run edge-mer doctor; another candidate of the bundle may build",
    )


def inspect(stage: str, plan: bytes) -> str:
    """The engine inspector's JSON of all layers."""
    import tensorrt as trt

    log = make_log()
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        raise _build_error(stage, log.last_error())
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _bytes(memory: trt.IHostMemory) -> bytes:
    return bytes(memoryview(cast("Any", memory)))


def _make_monitor(stage: str, say: Say) -> Any:
    """Tells how far a build is, and stops it when Ctrl-C was pressed.

    TensorRT nests phases; the outermost one whose parts are many enough tells the most.
    """
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):
        """Counts the steps of the phase that began first."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.was_cancelled = False
            self._steps: dict[str, tuple[int, int]] = {}

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: SupportsInt) -> None:
            self._steps[phase_name] = (0, int(num_steps))
            self._tell()

        def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
            done, of = self._steps.get(phase_name, (0, 0))
            self._steps[phase_name] = (max(done, int(step) + 1), of)
            try:
                self._tell()
            except KeyboardInterrupt:  # it must not go through TensorRT's own frames
                self.was_cancelled = True
            return not self.was_cancelled

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def _tell(self) -> None:
            """Of nested phases the outermost with its share, and within it that of the next."""
            parts = [max(of, 1) for _, of in self._steps.values()]
            total, done = 1, 0
            for (n_done, of), size in zip(self._steps.values(), parts, strict=True):
                if total * size > _MOST_PARTS:
                    break
                total, done = total * size, done * size + min(n_done, of)
            say(f"building {stage}", done, total)

    return Monitor()


_MOST_PARTS = 10_000
