"""Topic: the GPU's driver, CUDA's runtime, and NVRTC, which compiles kernels."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from edge_mer.doctor.access import how_to_open, refused
from edge_mer.doctor.finding import Finding, Purpose, lack, note
from edge_mer.doctor.jetpack import is_jetson, jetpack_of
from edge_mer.doctor.probe import Import
from edge_mer.doctor.system import System

INSTALL_JETPACK = "sudo apt-get update && sudo apt-get install nvidia-jetpack"

_NODES = (
    "/dev/nvmap",
    "/dev/nvhost-ctrl-gpu",
    "/dev/nvgpu/igpu0/ctrl",
    "/dev/nvidiactl",
    "/dev/nvidia[0-9]*",
)
"""What CUDA opens. On a Jetson it opens the render nodes too; elsewhere those may be another GPU's."""


def cuda(system: System) -> Iterator[Finding]:
    """Driver, GPU, runtime and NVRTC; one line where there is no NVIDIA GPU at all."""
    libraries = system.libraries("libcuda.so")
    if not (is_jetson(system) or libraries or driver_version(system) or has_card(system)):
        yield lack(Purpose.tensorrt, "GPU", "no NVIDIA GPU: models run on the processor")
        return
    yield _driver(system, libraries)
    if libraries:
        yield from _gpu(system, system.imports["cuda"])
    yield _toolkit(system)
    yield _nvrtc(system)


def driver_version(system: System) -> str:
    """Version of the loaded kernel module; "" where none tells it."""
    text = system.text("/proc/driver/nvidia/version")
    match = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", text)
    return match[1] if match else ""


def has_card(system: System) -> bool:
    """Whether an NVIDIA GPU is plugged in, with or without a driver."""
    return any(
        system.line(path) == "0x10de" and system.line(f"{path[:-7]}/class").startswith("0x03")
        for path in system.paths("/sys/bus/pci/devices/*/vendor")
    )


def _driver(system: System, libraries: list[str]) -> Finding:
    loaded = driver_version(system)
    if not libraries:
        found = f"kernel module {loaded}, but no libcuda.so" if loaded else "no libcuda.so"
        return lack(Purpose.tensorrt, "driver", found, "NVIDIA's driver", _install_driver(system))
    if all(system.size_bytes(path) == 0 for path in libraries):
        found = f"{libraries[0]} is empty: the container was started without NVIDIA's runtime"
        return lack(Purpose.tensorrt, "driver", found, fix=_install_driver(system))
    if not loaded and not is_jetson(system) and system.imports["cuda"].state != "ok":
        found = f"{libraries[0]}, but no loaded kernel module"
        return lack(
            Purpose.tensorrt, "driver", found, fix="sudo modprobe nvidia   # or reboot, after an update"
        )
    return Finding("driver", loaded or libraries[0])


def _install_driver(system: System) -> str:
    if system.in_container:
        return f"docker run {'--runtime nvidia' if is_jetson(system) else '--gpus all'} ..."
    if is_jetson(system):
        return "sudo apt-get install --reinstall nvidia-l4t-cuda && sudo ldconfig"
    if "ubuntu" in system.text("/etc/os-release"):
        return "sudo ubuntu-drivers install   # then reboot"
    return "sudo apt-get install nvidia-driver   # then reboot"


def _closed_nodes(system: System) -> Iterator[Finding]:
    nodes = system.paths(*_NODES, *(["/dev/dri/renderD*"] if is_jetson(system) else []))
    if closed := refused(system, nodes, os.R_OK):
        more = f" and {len(closed) - 1} more" if len(closed) > 1 else ""
        found = f"{system.user.name} may not open {closed[0]}{more}"
        yield lack(Purpose.tensorrt, "GPU access", found, fix=how_to_open(system, closed))


def _gpu(system: System, tried: Import) -> Iterator[Finding]:
    if tried.state == "ok":
        yield Finding("GPU", f"{tried.where}; its driver serves CUDA up to {tried.version}")
        return
    fix = "sudo dmesg | grep -iE 'nvrm|nvgpu|nvidia' | tail   # says what the driver met"
    if tried.state == "absent":
        fix = "sudo ldconfig   # the library is there, and the loader does not find it"
    elif "cannot open shared object file" in tried.error:
        fix = _install_driver(system)
    elif re.search(r"cuInit gives (803|804)\b", tried.error):
        fix = "sudo reboot   # the driver was updated, and the old one is still loaded"
    closed = list(_closed_nodes(system))
    yield lack(
        Purpose.tensorrt,
        "GPU",
        tried.error,
        "a GPU that the driver opens",
        "mend GPU access, below" if closed else fix,
    )
    yield from closed


def toolkit_version(system: System) -> str:
    """CUDA's version, e.g. "12.6.68": what the toolkit says of itself, else what its runtime is called."""
    for path in system.paths("/usr/local/cuda/version.json", "/usr/local/cuda-*/version.json"):
        try:
            version = json.loads(system.text(path))["cuda"]["version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(version, str) and version:
            return version
    return _newest(system.libraries("libcudart.so"))


def _newest(libraries: list[str]) -> str:
    """The longest version that libraries carry in their names: libcudart.so.12.6.68 -> 12.6.68."""
    versions = [PurePosixPath(path).name.partition(".so.")[2] for path in libraries]
    return max(versions, key=len, default="")


def _toolkit(system: System) -> Finding:
    version, jetpack = toolkit_version(system), jetpack_of(system)
    if version:
        if jetpack and not f"{version}.".startswith(f"{jetpack.cuda}."):
            expected = f"{jetpack.cuda}, that of this JetPack"
            return note("CUDA toolkit", version, expected, "sudo update-alternatives --config cuda")
        return Finding("CUDA toolkit", version)
    if is_jetson(system):
        of_jetpack = jetpack.cuda if jetpack else None
        return lack(Purpose.tensorrt, "CUDA toolkit", "none", of_jetpack, INSTALL_JETPACK)
    return note("CUDA toolkit", "none; only PyCUDA needs it, when it is installed")


def _nvrtc(system: System) -> Finding:
    libraries = system.libraries("libnvrtc.so")
    libraries += system.paths(*(f"{folder}/nvidia/*/lib/libnvrtc.so*" for folder in system.interpreter.path))
    if libraries:
        return Finding("NVRTC", _newest(libraries) or libraries[0])
    jetpack, served = jetpack_of(system), system.imports["cuda"].version
    if is_jetson(system):
        fix = (
            f"sudo apt-get install cuda-nvrtc-{jetpack.cuda.replace('.', '-')}"
            if jetpack
            else INSTALL_JETPACK
        )
    elif served.startswith("12."):
        fix = "pip install nvidia-cuda-nvrtc-cu12"
    else:  # a newer one compiles to what an older driver refuses
        fix = f"pip install 'nvidia-cuda-nvrtc=={served}.*'" if served else "pip install nvidia-cuda-nvrtc"
    return lack(Purpose.tensorrt, "NVRTC", "no libnvrtc.so", "the library that compiles kernels", fix)
