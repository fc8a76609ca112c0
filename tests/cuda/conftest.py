"""One GPU for all tests here: a real one, or the host's (`make cuda`)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

from edge_mer.cuda import Gpu, Kernel, open_gpu
from edge_mer.errors import MissingError
from edge_mer.preprocess.gpu import load_kernels

if importlib.util.find_spec("pycuda") is None:
    collect_ignore_glob = ["test_*.py"]  # `make cuda` is for these


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here need a GPU."""
    for item in items:
        if "tests/cuda/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def gpu() -> Iterator[Gpu]:
    try:
        opened = open_gpu()
    except MissingError as missing:
        if "HOST_CUDA_KERNELS" in os.environ:
            raise
        pytest.skip(f"needs a GPU, or the host's driver (make cuda): {missing.found}")
    with opened:
        yield opened


@pytest.fixture(scope="session")
def kernels(gpu: Gpu) -> dict[str, Kernel]:
    return load_kernels(gpu)
