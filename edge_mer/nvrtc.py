"""Compiles CUDA C++ for one GPU with NVRTC, NVIDIA's compiler library, which needs no GPU and no nvcc."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_mer.errors import EdgeMerError, MissingError

_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
_TOOLKITS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib")
_WHEELS = ("cu13/lib", "cuda_nvrtc/lib")
"""Folders of the packages nvidia-cuda-nvrtc and nvidia-cuda-nvrtc-cu12 within `nvidia`."""


def compile_cubin(source: str, name: str, sm: str) -> bytes:
    """Compile a source for one kind of GPU.

    Args:
        source: CUDA C++ that includes nothing; kernels are `extern "C"`.
        name: What messages call it, e.g. "crop.cu".
        sm: The GPU's compute capability, e.g. "sm_87".

    Returns:
        A cubin: machine code, for this GPU and later ones of the same major capability.

    Raises:
        MissingError: There is no NVRTC here, or it does not know this GPU.
        EdgeMerError: The source is wrong; the message holds the compiler's own.
    """
    library = _library()
    known = _architectures(library)
    if sm not in known:
        raise MissingError(
            f"NVRTC {nvrtc_version()} cannot compile for this GPU, {sm}",
            expected=f"one of {', '.join(known)}",
            hint="install the CUDA version that the GPU's driver came with",
        )
    program = c_void_p()
    _check(
        library,
        library.nvrtcCreateProgram(byref(program), source.encode(), name.encode(), 0, None, None),
        f"reading {name}",
    )
    try:
        return _compiled(library, program, name, sm)
    finally:
        library.nvrtcDestroyProgram(byref(program))


def nvrtc_version() -> str:
    """Version of the compiler, e.g. "13.0"; raises MissingError where there is none."""
    library = _library()
    major, minor = c_int(), c_int()
    _check(library, library.nvrtcVersion(byref(major), byref(minor)), "asking NVRTC for its version")
    return f"{major.value}.{minor.value}"


def _compiled(library: Any, program: c_void_p, name: str, sm: str) -> bytes:
    options = [f"--gpu-architecture={sm}".encode(), b"--std=c++17"]
    status = library.nvrtcCompileProgram(program, len(options), (c_char_p * len(options))(*options))
    if status:
        log = _text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
        raise EdgeMerError(
            f"{name} does not compile for {sm}", found=log.decode(errors="replace").strip("\0\n ")
        )
    return _text(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)


def _text(ask_size: Any, ask: Any, program: c_void_p) -> bytes:
    size = c_size_t()
    ask_size(program, byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    ask(program, buffer)
    return buffer.raw


def _architectures(library: Any) -> list[str]:
    count = c_int()
    _check(library, library.nvrtcGetNumSupportedArchs(byref(count)), "asking NVRTC for its GPUs")
    found = (c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(found), "asking NVRTC for its GPUs")
    return [f"sm_{one}" for one in found]


def _check(library: Any, status: int, doing: str) -> None:
    if status:
        library.nvrtcGetErrorString.restype = c_char_p
        raise EdgeMerError(f"{doing} failed", found=library.nvrtcGetErrorString(status).decode())


@lru_cache(maxsize=1)
def _library() -> Any:
    """The system's own first: it fits its driver."""
    for path in (*(f"{folder}/libnvrtc.so" for folder in _TOOLKITS), *_NAMES):
        with suppress(OSError):
            return ctypes.CDLL(path)
    for folder in _wheels():
        # What it loads itself is looked for in the system's folders only, unless it is there already.
        for builtins in sorted(folder.glob("libnvrtc-builtins.so.*")):
            ctypes.CDLL(str(builtins))
        for library in sorted(folder.glob("libnvrtc.so.*")):
            return ctypes.CDLL(str(library))
    raise MissingError(
        "the kernels cannot be compiled: NVRTC, CUDA's compiler library, is not installed",
        expected="libnvrtc.so of CUDA 12 or 13",
        hint="on a Jetson it comes with JetPack; elsewhere pip install nvidia-cuda-nvrtc, "
        "in the version of CUDA that the driver knows",
    )


def _wheels() -> Iterator[Path]:
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        yield from (Path(root, folder) for folder in _WHEELS)
