"""Kernels become machine code without a GPU."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edge_mer.errors import EdgeMerError, MissingError
from edge_mer.nvrtc import compile_cubin, nvrtc_version
from edge_mer.preprocess import gpu
from edge_mer.preprocess.gpu import KERNELS, kernel_source
from tests.helpers.host_cuda import FAULTY

TARGETS = ("sm_87", "sm_90", "sm_110")  # Orin, H100 and H200, Thor


@pytest.fixture(autouse=True)
def compiler() -> str:
    try:
        return nvrtc_version()
    except MissingError as missing:
        if "HOST_CUDA_KERNELS" in os.environ:
            raise
        pytest.skip(f"needs NVRTC (make cuda): {missing.expected}")


def test_it_has_a_version(compiler: str) -> None:
    assert 12 <= int(compiler.split(".")[0]) <= 20


def compiled(source: str, name: str, sm: str) -> bytes:
    """Of a GPU that this NVRTC knows: CUDA 12 does not know Thor by this name."""
    try:
        return compile_cubin(source, name, sm)
    except MissingError as missing:
        if "HOST_CUDA_KERNELS" in os.environ:
            raise
        pytest.skip(f"needs an NVRTC that knows {sm}: {missing}")


@pytest.mark.parametrize("sm", TARGETS)
def test_a_source_becomes_machine_code(sm: str) -> None:
    cubin = compiled(FAULTY.read_text(encoding="utf-8"), FAULTY.name, sm)
    assert cubin.startswith(b"\x7fELF")
    assert b".text.reversed\0" in cubin


@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("source", KERNELS)
def test_every_kernel_becomes_machine_code_of_every_target(source: str, sm: str) -> None:
    cubin = compiled(kernel_source(source), source, sm)
    for name in KERNELS[source]:
        assert f".text.{name}\0".encode() in cubin


def test_no_kernel_is_left_out() -> None:
    """What lies in the folder is what is compiled for devices, and what g++ compiles here."""
    folder = Path(gpu.__file__).parent / "kernels"
    assert {path.name for path in folder.glob("*.cu")} == {"common.cu", *KERNELS}
    found = {
        name
        for path in folder.glob("*.cu")
        for name in re.findall(
            r"(?:__global__ void|CROP_KERNEL)[ (](crop_\w+|\w+)\b", path.read_text(encoding="utf-8")
        )
    }
    assert found - {"name"} == {name for names in KERNELS.values() for name in names}
    host = (Path(FAULTY).parent / "kernels.cpp").read_text(encoding="utf-8")
    assert found - {"name"} <= set(re.findall(r"HOST_KERNEL\((\w+)\)", host))


def test_a_gpu_that_it_does_not_know_is_told() -> None:
    with pytest.raises(MissingError, match=r"cannot compile for this GPU, sm_20.*sm_87"):
        compile_cubin("", "empty.cu", "sm_20")


def test_the_compilers_own_words_are_shown() -> None:
    with pytest.raises(EdgeMerError, match=r'broken.cu does not compile for sm_87.*"nonsense" is undefined'):
        compile_cubin("__global__ void k(float* x) {\n  x[0] = nonsense;\n}", "broken.cu", "sm_87")
