"""The one place that knows PyCUDA: one GPU, its memory, its kernels, and what goes wrong with them.

PyCUDA is imported when a GPU is opened, not before. All work of a `Gpu` goes into its one stream, in
order; what is not waited for is asynchronous. Any thread may use a `Gpu`, one at a time.
"""

from __future__ import annotations

import atexit
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edge_mer.errors import EdgeMerError, MissingError

if TYPE_CHECKING:
    import pycuda.driver as cuda
else:

    class _WhenAsked:
        """`pycuda.driver`, imported when the first thing of it is needed."""

        def __getattr__(self, name: str) -> Any:
            return getattr(_driver(), name)

    cuda = _WhenAsked()

Size3 = tuple[int, int, int]

_STATIC_SHARED_BYTES = 48 * 1024
"""A kernel that takes more shared memory at its launch must ask for it first."""


def open_gpu(ordinal: int = 0) -> Gpu:
    """Open a GPU.

    Args:
        ordinal: Which one, from 0, in the driver's order.

    Raises:
        MissingError: PyCUDA, the driver or the GPU is absent, or the driver refuses it.
    """
    _driver()  # says what is not installed
    try:
        cuda.init()
        n_devices = cuda.Device.count()
    except cuda.Error as error:
        raise _no_gpu(error) from error
    if not 0 <= ordinal < n_devices:
        raise MissingError(
            f"there is no GPU {ordinal}",
            expected=f"a number from 0 to {n_devices - 1}" if n_devices else "a GPU that CUDA can use",
            found=f"{n_devices} GPUs" if n_devices != 1 else "1 GPU",
            hint="look which ones nvidia-smi lists",
        )
    try:
        return Gpu(cuda.Device(ordinal), _primary_context(ordinal))
    except cuda.Error as error:
        raise _no_gpu(error) from error


def _driver() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of, the error below says
            import pycuda.driver
    except ModuleNotFoundError as error:
        raise MissingError(
            "the GPU cannot be used: a Python package is not installed",
            found=str(error),
            hint="pip install 'edge-mer[tensorrt]'",
        ) from error
    except ImportError as error:
        raise MissingError(
            "the GPU cannot be used: PyCUDA does not find the NVIDIA driver that it was built for",
            expected="libcuda.so.1 of an installed driver",
            found=str(error),
            hint="install the NVIDIA driver; on a Jetson, JetPack brings it",
        ) from error
    return pycuda.driver


def _no_gpu(error: Exception) -> MissingError:
    return MissingError(
        "the NVIDIA driver offers no GPU that can be used",
        found=_words(error),
        hint="see whether nvidia-smi lists the GPU, and whether a container was given it (--gpus all)",
    )


@lru_cache(maxsize=64)
def _primary_context(ordinal: int) -> cuda.Context:
    """Kept as long as the process lives: TensorRT works in the very same context, and keeps it too."""
    context = cuda.Device(ordinal).retain_primary_context()
    atexit.register(context.detach)  # PyCUDA's own destructor releases it by a call that is not for it
    return context


class _Freeable(Protocol):
    def free(self) -> None: ...


class Gpu:
    """One open GPU; a context manager that closes it.

    Made by `open_gpu`.

    Attributes:
        name: What the driver calls it.
        capability: Its compute capability, e.g. (8, 7).
        sm: The same as compilers write it, e.g. "sm_87".
        is_integrated: It shares the processor's memory, as on a Jetson.
        driver_version: Newest CUDA that the driver knows, e.g. "13.0".
        total_bytes: Its memory.
        stream: The PyCUDA stream of all its work; `stream.handle` is the pointer that TensorRT takes.
    """

    def __init__(self, device: cuda.Device, context: cuda.Context) -> None:
        self._context = context
        self._live: dict[int, _Freeable] = {}
        self._is_open = True
        self.name = device.name()
        major, minor = device.compute_capability()
        self.capability = (int(major), int(minor))
        self.sm = f"sm_{major}{minor}"
        self.is_integrated = bool(device.get_attribute(cuda.device_attribute.INTEGRATED))
        version = cuda.get_driver_version()
        self.driver_version = f"{version // 1000}.{version % 1000 // 10}"
        self.total_bytes = device.total_memory()
        with self._doing("making a stream"):
            self.stream = cuda.Stream()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU's primary context this thread's current one, for code that expects one."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    @contextmanager
    def _doing(self, what: str, n_bytes: int = 0) -> Iterator[None]:
        """Current, and errors of PyCUDA say `what` failed; `n_bytes` are being asked for."""
        if not self._is_open:
            raise EdgeMerError(f"{what}: the GPU is closed")
        with self.current():
            try:
                yield
            except cuda.MemoryError as error:
                raise self._out_of_memory(what, n_bytes) from error
            except cuda.Error as error:
                raise EdgeMerError(f"{what} failed on {self.name}", found=_words(error)) from error

    def _out_of_memory(self, what: str, n_bytes: int) -> MissingError:
        free_bytes, _ = cuda.mem_get_info()
        return MissingError(
            f"{what}: {self.name} has too little memory",
            expected=f"{_mb(n_bytes)} free" if n_bytes else None,
            found=f"{_mb(free_bytes)} of {_mb(self.total_bytes)} free",
            hint="end other programs that use the GPU, or take a smaller model or fewer bits",
        )

    def free_bytes(self) -> int:
        """Memory that is free now."""
        with self._doing("asking for free memory"):
            free_bytes, _ = cuda.mem_get_info()
        return int(free_bytes)

    def tensor(self, shape: tuple[int, ...], dtype: DTypeLike) -> GpuTensor:
        """A tensor of zeros on both sides.

        Raises:
            MissingError: There is too little memory.
        """
        return GpuTensor(self, shape, np.dtype(dtype))

    def scratch(self, n_bytes: int) -> GpuMemory:
        """Memory of the GPU alone; what lies in it is not defined.

        Raises:
            MissingError: There is too little memory.
        """
        return GpuMemory(self, n_bytes)

    def load(self, cubin: bytes, names: tuple[str, ...]) -> dict[str, Kernel]:
        """The kernels called `names` of a compiled module.

        Raises:
            EdgeMerError: It was compiled for another GPU, or lacks a kernel.
        """
        with self._doing(f"loading the kernels {', '.join(names)}"):
            module = cuda.module_from_buffer(cubin)
            return {name: Kernel(self, name, module.get_function(name)) for name in names}

    def event(self) -> GpuEvent:
        """A mark that can be set in the stream, for timings."""
        return GpuEvent(self)

    def synchronize(self) -> None:
        """Return when all work given so far is done.

        Raises:
            EdgeMerError: Some of it failed.
        """
        with self._doing("running what the stream held"):
            self.stream.synchronize()

    def close(self) -> None:
        """Wait for the work, and free all that is still allocated; twice does no harm."""
        if not self._is_open:
            return
        with suppress(EdgeMerError):  # who gave the work has been told, or did not want to know
            self.synchronize()
        for one in reversed(list(self._live.values())):
            one.free()
        with self.current():
            del self.stream
        self._is_open = False

    def __enter__(self) -> Gpu:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class GpuMemory:
    """Memory of the GPU alone.

    Attributes:
        pointer: Its address on the GPU.
        n_bytes: Its size.
    """

    def __init__(self, gpu: Gpu, n_bytes: int) -> None:
        self._gpu = gpu
        self.n_bytes = n_bytes
        what = f"allocating {_mb(n_bytes)} on the GPU"
        with gpu._doing(what, n_bytes):
            self._allocation = cuda.mem_alloc(max(1, n_bytes))
        self.pointer = int(self._allocation)
        gpu._live[id(self)] = self

    def free(self) -> None:
        """Give it back; twice does no harm."""
        if self._gpu._live.pop(id(self), None) is not None:
            with self._gpu.current():
                self._allocation.free()


class GpuTensor:
    """A page-locked array of the host and as much memory of the GPU.

    On an integrated GPU both are the same memory: `upload` and `download` have nothing to do there. What
    is on the host may be read after a `download` and `synchronize`, and written when no work reads it.

    Attributes:
        host: The array; after `free` neither it nor a view of it may be used.
        pointer: Where the GPU finds it.
        shape: Sizes along the axes.
        dtype: NumPy's type.
        n_bytes: Size on each side.
    """

    def __init__(self, gpu: Gpu, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._gpu = gpu
        self.shape = tuple(shape)
        self.dtype = dtype
        self.n_bytes = math.prod(self.shape) * dtype.itemsize
        self._is_mapped = gpu.is_integrated
        with gpu._doing(f"making a tensor of {_mb(self.n_bytes)}, {dtype} {self.shape}", self.n_bytes):
            self._allocate(max(1, self.n_bytes))
        gpu._live[id(self)] = self

    def _allocate(self, n_bytes: int) -> None:
        flags = cuda.host_alloc_flags.DEVICEMAP if self._is_mapped else 0
        pinned = cuda.pagelocked_empty(n_bytes, np.uint8, mem_flags=flags)
        pinned.fill(0)
        self._pinned = pinned.base
        self.host: NDArray[Any] = pinned[: self.n_bytes].view(self.dtype).reshape(self.shape)
        if self._is_mapped:
            self.pointer = int(self._pinned.get_device_pointer())
            return
        try:
            self._allocation = cuda.mem_alloc(n_bytes)
        except cuda.Error:
            self.host = np.zeros(0, self.dtype)
            self._pinned.free()
            raise
        self.pointer = int(self._allocation)
        cuda.memset_d8_async(self.pointer, 0, n_bytes, self._gpu.stream)

    def upload(self) -> None:
        """Copy from the host to the GPU, when the stream comes to it."""
        if not self._is_mapped and self.n_bytes:
            with self._gpu._doing(f"copying {_mb(self.n_bytes)} to the GPU"):
                cuda.memcpy_htod_async(self.pointer, self.host, self._gpu.stream)

    def download(self) -> None:
        """Copy from the GPU to the host, when the stream comes to it."""
        if not self._is_mapped and self.n_bytes:
            with self._gpu._doing(f"copying {_mb(self.n_bytes)} from the GPU"):
                cuda.memcpy_dtoh_async(self.host, self.pointer, self._gpu.stream)

    def free(self) -> None:
        """Give both back; twice does no harm."""
        if self._gpu._live.pop(id(self), None) is not None:
            with self._gpu.current():
                self.host = np.zeros(0, self.dtype)
                self._pinned.free()
                if not self._is_mapped:
                    self._allocation.free()


Argument = int | float | np.number[Any] | GpuTensor | GpuMemory


class Kernel:
    """A kernel of a loaded module; made by `Gpu.load`."""

    def __init__(self, gpu: Gpu, name: str, function: cuda.Function) -> None:
        self.name = name
        self._gpu = gpu
        self._function = function
        self._kinds: list[np.dtype[Any]] = []
        self._shared_bytes = _STATIC_SHARED_BYTES
        gpu._live[id(self)] = self

    def launch(self, grid: Size3, block: Size3, *arguments: Argument, shared_bytes: int = 0) -> None:
        """Run it when the stream comes to it.

        Args:
            grid: Blocks along x, y, z.
            block: Threads of a block along x, y, z.
            arguments: Python's integers become int32 and its floats float32; a tensor or memory its
                pointer; NumPy's numbers stay what they are, `numpy.uintp` for a bare pointer.
            shared_bytes: Shared memory that its source leaves open.

        Raises:
            EdgeMerError: It cannot be launched so. What goes wrong while it runs, the next
                `synchronize` says.
        """
        values = [_as_number(argument) for argument in arguments]
        with self._gpu._doing(f"launching the kernel {self.name} as {grid} blocks of {block}"):
            self._prepare([value.dtype for value in values], shared_bytes)
            self._function.prepared_async_call(
                grid, block, self._gpu.stream, *(v.item() for v in values), shared_size=shared_bytes
            )

    def _prepare(self, kinds: list[np.dtype[Any]], shared_bytes: int) -> None:
        if kinds != self._kinds:
            self._function.prepare(kinds)
            self._kinds = kinds
        if shared_bytes > self._shared_bytes:
            attribute = cuda.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._function.set_attribute(attribute, shared_bytes)
            self._shared_bytes = shared_bytes

    def free(self) -> None:
        """Let go of the module, which is unloaded with its last kernel; twice does no harm."""
        if self._gpu._live.pop(id(self), None) is not None:
            with self._gpu.current():
                del self._function


def _as_number(argument: Argument) -> np.number[Any]:
    if isinstance(argument, (GpuTensor, GpuMemory)):
        return np.uintp(argument.pointer)
    if isinstance(argument, np.number):
        return argument
    return np.float32(argument) if isinstance(argument, float) else np.int32(argument)


class GpuEvent:
    """A mark in the stream; made by `Gpu.event`."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        with gpu._doing("making an event"):
            self._event = cuda.Event()
        gpu._live[id(self)] = self

    def record(self) -> None:
        """Set the mark behind the work given so far."""
        with self._gpu._doing("recording an event"):
            self._event.record(self._gpu.stream)

    def wait(self) -> None:
        """Return when the work before the mark is done; at once if it was never set."""
        with self._gpu._doing("waiting for an event"):
            self._event.synchronize()

    def elapsed_ms(self, since: GpuEvent) -> float:
        """Milliseconds on the GPU from another mark to this one; waits for this one."""
        with self._gpu._doing("timing with events"):
            self._event.synchronize()
            return float(self._event.time_since(since._event))

    def free(self) -> None:
        """Let go of it; twice does no harm."""
        if self._gpu._live.pop(id(self), None) is not None:
            with self._gpu.current():
                del self._event


def _words(error: Exception) -> str:
    return str(error).rstrip(" -")


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.3g} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.3g} GB"
