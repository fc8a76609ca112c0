"""TensorRT and PyCUDA: each way in which they are known to fail, and what mends it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge_mer.doctor.finding import Finding
from edge_mer.doctor.probe import Import
from edge_mer.doctor.system import Interpreter, System
from edge_mer.doctor.tensorrt import missing_library
from tests.helpers.recorded_systems import (
    ABSENT,
    INSTALLED,
    VENV,
    agx_orin,
    found,
    imports,
    orin_jetpack_7,
    orin_nano_super,
    problems,
    thor,
    workstation,
    workstation_with_card,
)

CUDA = Import("ok", "12.6", "Orin")
MISSING = "{}: cannot open shared object file: No such file or directory"


def broken(error: str, where: str = "/usr/lib/python3.10/dist-packages/tensorrt/__init__.py") -> Import:
    return Import("broken", error=error, where=where)


def verdict(make: Callable[..., System], root: Path, tried: Import, **facts: object) -> Finding:
    """What is said of TensorRT where importing it went like that."""
    return problems(make(root, imports=imports(tensorrt=tried, cuda=CUDA), **facts))["TensorRT"]


@pytest.mark.parametrize(
    ("error", "library"),
    [
        (MISSING.format("libnvdla_compiler.so"), "libnvdla_compiler.so"),
        (MISSING.format("libnvinfer.so.10"), "libnvinfer.so.10"),
        ("/usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so: file too short", "libnvdla_compiler.so"),
        ("/lib/libnvinfer.so.10: undefined symbol: _ZN5", None),
        ("/lib/libc.so.6: version `GLIBC_2.38' not found (required by /lib/libnvinfer.so.10)", None),
        ("", None),
    ],
)
def test_the_missing_library_is_read_from_the_error(error: str, library: str | None) -> None:
    assert missing_library(error) == library


def test_jetpack_6_has_the_dla_compiler_in_a_package(tmp_path: Path) -> None:
    finding = verdict(agx_orin, tmp_path, broken(MISSING.format("libnvdla_compiler.so")))
    assert "libnvdla_compiler.so: cannot open" in finding.found
    assert finding.fix == "sudo apt-get update && sudo apt-get install nvidia-l4t-dla-compiler"


def test_jetpack_7_2_has_it_nowhere_and_its_own_tensorrt_does_without(tmp_path: Path) -> None:
    pip = {**INSTALLED, "tensorrt": "10.11.0.33", "tensorrt-cu12-libs": "10.11.0.33"}
    where = f"{VENV}/lib/python3.12/site-packages/tensorrt/__init__.py"
    finding = verdict(
        orin_jetpack_7,
        tmp_path,
        broken(MISSING.format("libnvdla_compiler.so"), where),
        version_of=pip.get,
    )
    assert "no package of JetPack 7.2 has that library" in str(finding.expected)
    assert str(finding.expected).startswith("10.16.x or 11.x")
    assert str(finding.fix).startswith("pip uninstall -y tensorrt tensorrt-cu12-libs; sudo apt-get update")
    assert "install nvidia-l4t-dla-compiler" not in str(finding.fix)


def test_in_a_container_on_jetpack_7_2_the_image_is_wrong(tmp_path: Path) -> None:
    system = orin_jetpack_7(
        tmp_path, imports=imports(tensorrt=broken(MISSING.format("libnvdla_compiler.so")), cuda=CUDA)
    )
    (tmp_path / ".dockerenv").touch()
    assert "image made for JetPack 7" in str(problems(system)["TensorRT"].fix)


def test_in_a_container_on_jetpack_6_the_host_has_it(tmp_path: Path) -> None:
    system = agx_orin(
        tmp_path, imports=imports(tensorrt=broken("/x/libnvdla_compiler.so: file too short"), cuda=CUDA)
    )
    (tmp_path / ".dockerenv").touch()
    assert str(problems(system)["TensorRT"].fix).startswith("docker run --runtime nvidia ...")


@pytest.mark.parametrize(
    ("make", "library", "package"),
    [
        (agx_orin, "libnvinfer.so.10", "libnvinfer10"),
        (agx_orin, "libnvinfer_plugin.so.10", "libnvinfer-plugin10"),
        (agx_orin, "libnvonnxparser.so.10", "libnvonnxparsers10"),
        (agx_orin, "libcudart.so.12", "cuda-cudart-12-6"),
        (agx_orin, "libcudnn.so.9", "libcudnn9-cuda-12"),
        (agx_orin, "libcublasLt.so.12", "libcublas-12-6"),
        (thor, "libcudla.so.1", "libcudla-13-0"),
        (orin_jetpack_7, "libcudart.so.13", "cuda-cudart-13-2"),
        (thor, "libunheard.so.1", "--reinstall nvidia-jetpack"),
    ],
)
def test_libraries_and_their_packages(
    tmp_path: Path, make: Callable[..., System], library: str, package: str
) -> None:
    finding = verdict(make, tmp_path, broken(MISSING.format(library)))
    assert str(finding.fix).endswith(f"apt-get install {package}")


def test_an_error_without_a_library_is_shown_as_it_is(tmp_path: Path) -> None:
    finding = verdict(orin_nano_super, tmp_path, broken("undefined symbol: _ZN8nvinfer1"))
    folder = "/usr/lib/python3.10/dist-packages/tensorrt"
    assert finding.found == f"import tensorrt fails: undefined symbol: _ZN8nvinfer1 (in {folder})"
    assert finding.fix == "sudo apt-get install --reinstall python3-libnvinfer"


@pytest.mark.parametrize("state", ["crashed", "hung"])
def test_an_import_that_does_not_come_back(tmp_path: Path, state: str) -> None:
    tried = Import(state, error="the process ended by SIGSEGV")  # type: ignore[arg-type]
    finding = verdict(orin_nano_super, tmp_path, tried)
    assert "SIGSEGV" in finding.found
    assert "-X faulthandler" in str(finding.fix)


def test_a_venv_that_does_not_see_jetpacks_tensorrt(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path, imports=imports(cuda=CUDA))
    config = tmp_path / VENV.lstrip("/") / "pyvenv.cfg"
    config.write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    finding = problems(system)["TensorRT"]
    assert "does not see the system's packages" in finding.found
    assert finding.fix == (
        f"sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/' {VENV}/pyvenv.cfg"
    )


def test_the_command_for_the_venv_does_what_it_says(tmp_path: Path) -> None:
    """It runs, on a folder whose name needs quoting, and doctor is content with what it leaves."""
    system = orin_nano_super(tmp_path, imports=imports(cuda=CUDA))
    home = "/home/ada/my edge"
    config = tmp_path / home.lstrip("/") / "pyvenv.cfg"
    config.parent.mkdir()
    config.write_text("home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.10.12\n")
    python = Interpreter((3, 10, 12), f"{home}/bin/python", home, "/usr")
    system = replace(system, interpreter=python)
    command = str(problems(system)["TensorRT"].fix).replace(home, str(config.parent))
    subprocess.run(command, shell=True, check=True)  # noqa: S602
    assert config.read_text() == "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.10.12\n"
    assert "does not see" not in problems(system)["TensorRT"].found


def test_a_python_for_which_there_is_none(tmp_path: Path) -> None:
    python = Interpreter((3, 12, 4), "/opt/conda/bin/python", "/opt/conda", "/opt/conda")
    finding = verdict(orin_nano_super, tmp_path, ABSENT, interpreter=python)
    assert finding.found == "it is there for Python 3.10; this is Python 3.12"
    assert str(finding.fix).startswith("/usr/bin/python3.10 -m venv --system-site-packages")


def test_a_python_that_looks_elsewhere(tmp_path: Path) -> None:
    python = Interpreter((3, 10, 9), "/opt/conda/bin/python", "/opt/conda", "/opt/conda")
    finding = verdict(orin_nano_super, tmp_path, ABSENT, interpreter=python)
    assert "where /opt/conda/bin/python does not look" in finding.found


def test_none_at_all_on_a_jetson(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path, imports=imports(cuda=CUDA))
    folder = tmp_path / "usr/lib/python3.10/dist-packages/tensorrt"
    (folder / "__init__.py").unlink()
    folder.rmdir()
    finding = problems(system)["TensorRT"]
    assert (finding.found, finding.expected) == ("not installed", "10.3.x")
    assert finding.fix == "sudo apt-get update && sudo apt-get install python3-libnvinfer"


def test_a_tensorrt_of_another_jetpack_is_noted(tmp_path: Path) -> None:
    other = Import("ok", "10.30.1", "/home/ada/edge/lib/python3.10/site-packages/tensorrt/__init__.py")
    pip = {**INSTALLED, "tensorrt": "10.30.1", "tensorrt-cu12": "10.30.1"}
    system = orin_nano_super(tmp_path, imports=imports(tensorrt=other, cuda=CUDA), version_of=pip.get)
    finding = found(system)["TensorRT"]
    assert (finding.status, finding.expected) == ("note", "10.3.x, that of this JetPack")
    assert finding.fix == "pip uninstall -y tensorrt tensorrt-cu12"


def test_one_that_apt_brought_from_elsewhere_is_not_for_pip(tmp_path: Path) -> None:
    other = Import("ok", "10.7.0", "/usr/lib/python3.10/dist-packages/tensorrt/__init__.py")
    apt = {**INSTALLED, "tensorrt": "10.7.0"}
    system = orin_nano_super(tmp_path, imports=imports(tensorrt=other, cuda=CUDA), version_of=apt.get)
    assert str(found(system)["TensorRT"].fix).startswith("apt-cache policy")


def test_on_workstations_pip_brings_it(tmp_path: Path) -> None:
    assert found(workstation(tmp_path / "a"))["TensorRT"].fix is None
    system = workstation_with_card(tmp_path / "b")
    assert found(system)["TensorRT"].fix == "pip install tensorrt"
    assert found(system)["PyCUDA"].fix == "pip install pycuda"


def test_pycuda_is_compiled_with_the_compiler_that_is_there(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path, imports=imports(cuda=CUDA))
    assert problems(system)["PyCUDA"].fix == "PATH=/usr/local/cuda/bin:$PATH pip install pycuda"


def test_pycuda_for_another_cuda_is_compiled_again(tmp_path: Path) -> None:
    tried = broken(MISSING.format("libcurand.so.11"))
    finding = problems(orin_nano_super(tmp_path, imports=imports(pycuda=tried, cuda=CUDA)))["PyCUDA"]
    assert "libcurand.so.11" in finding.found
    assert "--force-reinstall" in str(finding.fix)


def test_pycuda_without_a_driver(tmp_path: Path) -> None:
    tried = broken(MISSING.format("libcuda.so.1"))
    finding = problems(orin_nano_super(tmp_path, imports=imports(pycuda=tried, cuda=CUDA)))["PyCUDA"]
    assert finding.fix == "mend the driver, above"
