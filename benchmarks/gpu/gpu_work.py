"""Launches and copies in our own stream that can be repeated as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from edge_mer.cuda import Argument, Gpu, GpuMemory, Kernel, Size3


class Replay:
    """Stands between a writer and its kernel, and launches again what the writer launched.

    Attributes:
        again: The last launch, with the same arguments.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.again: Callable[[], None] = lambda: None

    def launch(self, grid: Size3, block: Size3, *arguments: Argument, shared_bytes: int = 0) -> None:
        """As `Kernel.launch`."""
        self.again = partial(self._kernel.launch, grid, block, *arguments, shared_bytes=shared_bytes)
        self.again()


def copy(gpu: Gpu, to: int, source: int, n_bytes: int) -> None:
    """Copy on the GPU, when the stream comes to it; pointers."""
    with gpu.current():
        _driver().memcpy_dtod_async(to, source, n_bytes, gpu.stream)


class Copies:
    """Copies from memory to memory of their own.

    Args:
        gpu: Where.
        n_bytes: Of each copy.
        n_sets: How many of them, one after the other.
    """

    def __init__(self, gpu: Gpu, n_bytes: int, n_sets: int) -> None:
        n_bytes = max(1, n_bytes)
        self._held: list[GpuMemory] = [gpu.scratch(n_bytes) for _ in range(2 * n_sets)]
        pairs = zip(self._held[::2], self._held[1::2], strict=True)
        self.works = [partial(copy, gpu, a.pointer, b.pointer, n_bytes) for a, b in pairs]

    def free(self) -> None:
        """Give it all back."""
        for one in self._held:
            one.free()


def l2_bytes(gpu: Gpu) -> int:
    """Size of the cache that all of the GPU shares."""
    driver = _driver()
    with gpu.current():
        return int(driver.Context.get_device().get_attribute(driver.device_attribute.L2_CACHE_SIZE))


def _driver() -> Any:
    import pycuda.driver

    return pycuda.driver
