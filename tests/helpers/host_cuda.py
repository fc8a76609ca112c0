"""The host's CUDA driver: whether it is in use, and what tests ask it."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_mer.cuda import Gpu, Kernel
from edge_mer.nvrtc import compile_cubin

FAULTY = Path(__file__).resolve().parents[1] / "host_cuda" / "faulty.cu"

_KERNELS = os.environ.get("HOST_CUDA_KERNELS", "")

needs_host = pytest.mark.skipif(not _KERNELS, reason="needs the host's driver: make cuda")
needs_asan = pytest.mark.skipif("asan" not in _KERNELS, reason="needs AddressSanitizer: make cuda")
needs_no_asan = pytest.mark.skipif("asan" in _KERNELS, reason="AddressSanitizer would end this process")


@dataclass(frozen=True)
class Live:
    """What is allocated now."""

    device_allocations: int
    device_bytes: int
    host_allocations: int
    host_bytes: int
    streams: int
    events: int
    modules: int


def live() -> Live:
    """The host driver's counters."""
    counters = (ctypes.c_int64 * 8)()
    ctypes.CDLL("libcuda.so.1").host_cuda_live(counters)
    return Live(*counters[:7])


def faulty(gpu: Gpu, name: str) -> Kernel:
    """One of the kernels of faulty.cu."""
    return gpu.load(compile_cubin(FAULTY.read_text(encoding="utf-8"), FAULTY.name, gpu.sm), (name,))[name]
