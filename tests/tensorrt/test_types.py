"""The types of every call to TensorRT and PyCUDA are checked: what is lacking is seen before it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import pycuda_bindings
from tests.helpers.tensorrt_bindings import typings

WITH_A_FLAG = """
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt as trt


def ask_for_8_bits(config: trt.IBuilderConfig) -> None:
    import tensorrt as trt

    config.set_flag(trt.BuilderFlag.INT8)
"""


WITH_A_STREAM = """
from __future__ import annotations

import pycuda.driver as cuda


def clear(n_bytes: int, stream: cuda.Stream) -> cuda.DeviceAllocation:
    memory = cuda.mem_alloc(n_bytes)
    cuda.memset_d8_async(memory, 0, n_bytes, stream)
    stream.synchronize()
    stream.synchronise()
    return cuda.mem_alloc("1024")
"""


def checked(module: Path, text: str, typings: Path) -> subprocess.CompletedProcess[str]:
    """What mypy finds in a module of that text."""
    module.write_text(text, encoding="utf-8")
    config = Path(__file__).resolve().parents[2] / "pyproject.toml"
    cache = str(module.parent / "cache")
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", cache, str(module)],
        env={**os.environ, "MYPYPATH": str(typings)},
        cwd=module.parent,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("version", "is_known"), [("10.3.0", True), ("11.4.0", False)])
def test_a_flag_that_only_older_versions_know_is_found(version: str, is_known: bool, tmp_path: Path) -> None:
    found = checked(tmp_path / "asking.py", WITH_A_FLAG, typings(version))
    assert (found.returncode == 0) == is_known, found.stdout + found.stderr
    assert is_known or '"type[BuilderFlag]" has no attribute "INT8"' in found.stdout


@pytest.mark.skipif(
    not (pycuda_bindings.OUT / "pycuda" / "driver.pyi").exists(), reason="needs PyCUDA's stubs: make types"
)
def test_wrong_calls_of_pycuda_are_found(tmp_path: Path) -> None:
    found = checked(tmp_path / "clearing.py", WITH_A_STREAM, pycuda_bindings.OUT).stdout
    assert '"Stream" has no attribute "synchronise"' in found
    assert 'Argument 1 to "mem_alloc" has incompatible type "str"; expected "int"' in found
    assert "Found 2 errors" in found
