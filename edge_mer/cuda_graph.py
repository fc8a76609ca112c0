"""Records what is launched into a GPU's stream, and launches it again at once, as a CUDA graph.

PyCUDA knows no graphs, so the driver is asked itself. Where it cannot record, nothing is lost: the caller
launches as before.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress

from edge_mer.cuda import Gpu
from edge_mer.errors import EdgeMerError

_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile does not matter."""


class Graph:
    """Recorded work; made by `capture`."""

    def __init__(
        self, gpu: Gpu, library: ctypes.CDLL, graph: ctypes.c_void_p, runnable: ctypes.c_void_p
    ) -> None:
        self._gpu, self._library = gpu, library
        self._graph, self._runnable = graph, runnable

    def launch(self) -> None:
        """Run it when the stream comes to it.

        Raises:
            EdgeMerError: The driver refuses it.
        """
        with self._gpu.current():
            _demand(self._library.cuGraphLaunch(self._runnable, _stream(self._gpu)), "launching a CUDA graph")

    def free(self) -> None:
        """Let go of it; twice does no harm."""
        if self._runnable:
            with self._gpu.current():
                self._library.cuGraphExecDestroy(self._runnable)
                self._library.cuGraphDestroy(self._graph)
            self._runnable = ctypes.c_void_p()


def capture(gpu: Gpu, work: Callable[[], None]) -> Graph | None:
    """Record `work` without running it; None where that cannot be.

    Args:
        gpu: Whose stream is recorded.
        work: Only launches into that stream; no allocation, no waiting.
    """
    library = _driver_library()
    if library is None:
        return None
    graph, runnable = ctypes.c_void_p(), ctypes.c_void_p()
    with gpu.current():
        if library.cuStreamBeginCapture_v2(_stream(gpu), _THREAD_LOCAL):
            return None
        worked = False
        with suppress(EdgeMerError):  # what cannot be recorded is launched as it is, and says then what fails
            work()
            worked = True
        ended = library.cuStreamEndCapture(_stream(gpu), ctypes.byref(graph)) == 0 and bool(graph)
        if worked and ended:
            flags = ctypes.c_ulonglong(0)
            if library.cuGraphInstantiateWithFlags(ctypes.byref(runnable), graph, flags) == 0:
                return Graph(gpu, library, graph, runnable)
        if graph:
            library.cuGraphDestroy(graph)
    return None


def _driver_library() -> ctypes.CDLL | None:
    """The driver, if it has all that is needed."""
    names = (
        "cuStreamBeginCapture_v2",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphLaunch",
        "cuGraphExecDestroy",
        "cuGraphDestroy",
    )
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return library if all(hasattr(library, name) for name in names) else None


def _stream(gpu: Gpu) -> ctypes.c_void_p:
    return ctypes.c_void_p(int(gpu.stream.handle))


def _demand(code: int, what: str) -> None:
    if code:
        raise EdgeMerError(f"{what} failed", found=f"CUDA error {code}")
