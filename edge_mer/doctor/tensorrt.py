"""Topic: TensorRT and PyCUDA, and why they cannot be imported."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import PurePosixPath

from edge_mer.doctor.cuda import has_card
from edge_mer.doctor.finding import Finding, Purpose, lack, note
from edge_mer.doctor.jetpack import JetPack, is_jetson, jetpack_of
from edge_mer.doctor.probe import Import
from edge_mer.doctor.system import System

INSTALL = "sudo apt-get update && sudo apt-get install python3-libnvinfer"
REINSTALL = "sudo apt-get install --reinstall python3-libnvinfer"
NEW_VENV = "-m venv --system-site-packages NEW   # and pip install edge-mer in it"

_PIP_PACKAGES = [
    f"tensorrt{cuda}{part}" for cuda in ("", "-cu12", "-cu13") for part in ("", "-bindings", "-libs")
]
_PACKAGES = (
    (r"libnvinfer\.so\.(\d+)", "libnvinfer{0}"),
    (r"libnvinfer_plugin\.so\.(\d+)", "libnvinfer-plugin{0}"),
    (r"libnvonnxparser\.so\.(\d+)", "libnvonnxparsers{0}"),
    (r"libcudart\.so", "cuda-cudart-{cuda}"),
    (r"libnvrtc\.so", "cuda-nvrtc-{cuda}"),
    (r"libcublas(?:Lt)?\.so", "libcublas-{cuda}"),
    (r"libcurand\.so", "libcurand-{cuda}"),
    (r"libcudla\.so", "libcudla-{cuda}"),
    (r"libcudnn\.so\.(\d+)", "libcudnn{0}-cuda-{cuda_major}"),
)
"""Shared library -> the Debian package that holds it on a Jetson."""

_MISSING = re.compile(r"([\w+.-]+\.so[\w.]*): (?:cannot open shared object file|file too short)")
_OF_THE_DRIVER = ("libcuda.so", "libnvcuda", "libnvdla", "libnvidia", "libnvrm", "libnvos")


def tensorrt(system: System) -> Iterator[Finding]:
    """TensorRT's Python package and PyCUDA; what stands in their way."""
    yield _tensorrt(system, system.imports["tensorrt"])
    yield _pycuda(system, system.imports["pycuda.driver"])


def missing_library(error: str) -> str | None:
    """The shared library that an ImportError says is missing, or is there and empty."""
    match = _MISSING.search(error)
    return match[1] if match else None


def sees_system_packages(system: System) -> bool:
    """Whether a virtual environment was made with --system-site-packages."""
    text = system.text(f"{system.interpreter.prefix}/pyvenv.cfg").lower()
    return bool(re.search(r"^include-system-site-packages\s*=\s*true\s*$", text, flags=re.MULTILINE))


def _tensorrt(system: System, tried: Import) -> Finding:
    jetpack = jetpack_of(system)
    if tried.state == "absent":
        return _unseen(system, _versions(jetpack))
    if tried.state != "ok":
        return _broken(system, jetpack, tried)
    if jetpack and not tried.version.startswith(jetpack.tensorrt):
        expected = f"{_versions(jetpack)}, that of this JetPack"
        fix = _uninstall(system) or "apt-cache policy python3-libnvinfer   # says where it came from"
        return note("TensorRT", f"{tried.version} in {_folder(tried)}", expected, fix)
    return Finding("TensorRT", tried.version)


def _versions(jetpack: JetPack | None) -> str | None:
    return " or ".join(f"{version}x" for version in jetpack.tensorrt) if jetpack else None


def _folder(tried: Import) -> str:
    return str(PurePosixPath(tried.where).parent)


def _uninstall(system: System) -> str | None:
    """The command that takes away a TensorRT that pip brought; None if pip brought none."""
    names = [name for name in _PIP_PACKAGES if system.version_of(name)]
    # apt's package says that it is a distribution called tensorrt, too
    return f"pip uninstall -y {' '.join(names)}" if set(names) - {"tensorrt"} else None


def _unseen(system: System, expected: str | None) -> Finding:
    """There is no module: is it not on the machine, or does this Python not look where it is?"""
    if not is_jetson(system):
        fix = "pip install tensorrt" if has_card(system) else None
        return lack(Purpose.tensorrt, "TensorRT", "not installed", fix=fix)
    folders = system.paths("/usr/lib/python3*/dist-packages/tensorrt")
    if not folders:
        return lack(Purpose.tensorrt, "TensorRT", "not installed", expected, INSTALL)
    found, fix = _why_unseen(system, folders[-1])
    return lack(Purpose.tensorrt, "TensorRT", found, fix=fix)


def _why_unseen(system: System, folder: str) -> tuple[str, str]:
    here = system.interpreter
    own, version = f"{here.version[0]}.{here.version[1]}", folder.split("/")[3].removeprefix("python")
    if version not in ("3", own):
        return (
            f"it is there for Python {version}; this is Python {own}",
            f"/usr/bin/python{version} {NEW_VENV}",
        )
    if here.is_venv and not sees_system_packages(system):
        key, config = "include-system-site-packages", shlex.quote(f"{here.prefix}/pyvenv.cfg")
        return (
            f"it is in {folder}, and this virtual environment does not see the system's packages",
            f"sed -i 's/^{key}.*/{key} = true/' {config}",
        )
    return f"it is in {folder}, where {here.executable} does not look", f"/usr/bin/python3 {NEW_VENV}"


def _broken(system: System, jetpack: JetPack | None, tried: Import) -> Finding:
    library, found = missing_library(tried.error), f"import tensorrt fails: {tried.error}"
    if tried.where:
        found += f" (in {_folder(tried)})"
    if library is None:
        return lack(Purpose.tensorrt, "TensorRT", found, _versions(jetpack), _try_again(system, tried))
    if library.startswith("libnvdla_compiler.so") and jetpack and not jetpack.dla_package:
        why = f"this one is JetPack 6's, and no package of JetPack {jetpack.name} has that library"
        expected = f"{_versions(jetpack)}; {why}"
        fix = "; ".join(filter(None, (_uninstall(system), INSTALL)))
        if system.in_container:
            fix = "take an arm64 image made for JetPack 7, not an -igpu one of JetPack 6"
        return lack(Purpose.tensorrt, "TensorRT", found, expected, fix)
    return lack(Purpose.tensorrt, "TensorRT", found, fix=how_to_get(system, library))


def _try_again(system: System, tried: Import) -> str:
    if tried.state in ("crashed", "hung"):
        python = shlex.quote(system.interpreter.executable)
        return f"{python} -X faulthandler -c 'import tensorrt'   # says where it happens"
    if _uninstall(system) or not is_jetson(system):
        return "pip install --force-reinstall tensorrt"
    return REINSTALL


def how_to_get(system: System, library: str) -> str:
    """The command that brings a shared library."""
    jetpack, on_jetson = jetpack_of(system), is_jetson(system)
    if library.startswith(_OF_THE_DRIVER) and system.in_container:
        return f"docker run {'--runtime nvidia' if on_jetson else '--gpus all'} ...   # the host has it"
    if library.startswith("libcuda.so"):
        return "mend the driver, above"
    if not on_jetson:
        return "pip install --force-reinstall tensorrt"
    if library.startswith("libnvdla_compiler.so"):
        return "sudo apt-get update && sudo apt-get install nvidia-l4t-dla-compiler"
    for pattern, package in _PACKAGES:
        if jetpack and (match := re.match(pattern, library)):
            cuda = jetpack.cuda.replace(".", "-")
            name = package.format(*match.groups(), cuda=cuda, cuda_major=cuda.partition("-")[0])
            return f"sudo apt-get update && sudo apt-get install {name}"
    return "sudo apt-get update && sudo apt-get install --reinstall nvidia-jetpack"


def _pycuda(system: System, tried: Import) -> Finding:
    if tried.state == "ok":
        return Finding("PyCUDA", tried.version)
    if tried.state == "absent":
        fix = _install_pycuda(system) if is_jetson(system) or has_card(system) else None
        return lack(Purpose.tensorrt, "PyCUDA", "not installed", fix=fix)
    library = missing_library(tried.error)
    no_driver = library is not None and library.startswith("libcuda.so")
    fix = how_to_get(system, library) if library and no_driver else _install_pycuda(system, again=True)
    return lack(Purpose.tensorrt, "PyCUDA", f"import pycuda.driver fails: {tried.error}", fix=fix)


def _install_pycuda(system: System, *, again: bool = False) -> str:
    """It is compiled while it is installed, for which pip must find nvcc."""
    command = f"pip install {'--force-reinstall --no-cache-dir ' if again else ''}pycuda"
    compilers = system.paths("/usr/local/cuda/bin/nvcc", "/usr/local/cuda-*/bin/nvcc")
    return f"PATH={PurePosixPath(compilers[0]).parent}:$PATH {command}" if compilers else command
