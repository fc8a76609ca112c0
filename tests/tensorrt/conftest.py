"""TensorRT's double on the host's CUDA driver: the real engine code and PyCUDA, no GPU (`make cuda`)."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.helpers.tensorrt_bindings import is_there

DOUBLE = Path(__file__).resolve().parents[1] / "tensorrt_double"
VERSIONS = ("10.3.0", "11.4.0")
ON_THE_DRIVER = ("test_bundle.py", "test_model_repository.py", "test_signals.py")
"""They run engines; the others compare."""

Load = Callable[..., ModuleType]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the host's driver no engine can run; without the bindings nothing can be compared."""
    if not all(is_there(version) for version in VERSIONS):
        for item in items:
            if item.path.parent == Path(__file__).parent and item.path.name not in ON_THE_DRIVER:
                item.add_marker(pytest.mark.skip(reason="needs the vendor's bindings: make types"))
    if "HOST_CUDA_KERNELS" not in os.environ:
        for item in items:
            if item.path.parent == Path(__file__).parent and item.path.name in ON_THE_DRIVER:
                item.add_marker(pytest.mark.skip(reason="needs the host's CUDA driver: make cuda"))


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Puts a version of TensorRT in place, with what is to go wrong in it."""
    monkeypatch.syspath_prepend(str(DOUBLE))

    def load(version: str = VERSIONS[0], **faults: Any) -> ModuleType:
        monkeypatch.setenv("TENSORRT_DOUBLE", version)
        monkeypatch.setenv("TENSORRT_DOUBLE_FAULTS", json.dumps(faults))
        sys.modules.pop("tensorrt", None)
        return importlib.import_module("tensorrt")

    load()
    yield load
    sys.modules.pop("tensorrt", None)


@pytest.fixture
def live() -> Callable[[], dict[str, int]]:
    """What the host's driver holds: allocations, streams, events, modules, graphs."""
    driver = ctypes.CDLL("libcuda.so.1")
    names = ("device", "device_bytes", "host", "host_bytes", "streams", "events", "modules")

    def count() -> dict[str, int]:
        counters = (ctypes.c_int64 * 8)()
        driver.host_cuda_live(counters)
        driver.host_cuda_graphs.restype = ctypes.c_int64
        return {**dict(zip(names, counters, strict=False)), "graphs": driver.host_cuda_graphs()}

    return count
