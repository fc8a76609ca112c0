"""Machines as doctor reads them: what owners of JetPack 6 and 7 report of theirs, and workstations."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from edge_mer.doctor.finding import Finding, Purpose
from edge_mer.doctor.probe import CORE, Import
from edge_mer.doctor.registry import examine, purposes_of
from edge_mer.doctor.system import Interpreter, System, User

Files = dict[str, str | bytes]

ABSENT = Import("absent", error="No module named")
VENV = "/home/ada/edge"
REQUIREMENTS = (
    "numpy>=1.26",
    "onnxruntime>=1.20",
    "opencv-python-headless<5,>=4.8",
    "onnx>=1.18; extra == 'calibrate'",
    "onnx>=1.18; extra == 'export'",
    "tomli>=2; (python_version < '3.11') and extra == 'export'",
    "torch>=2.6; extra == 'export'",
    "tokenizers>=0.20; extra == 'text'",
)
INSTALLED = {"numpy": "2.2.6", "onnxruntime": "1.23.2", "opencv-python-headless": "4.14.0.94"}

MEMINFO = "MemTotal:  {total} kB\nMemFree:  100 kB\nMemAvailable:  {free} kB\nSwapTotal:  3900000 kB\n"
POWER_NANO = """\
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
GPU MAX_FREQ -1
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=1 >
"""
POWER_AGX = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=3 NAME=MODE_50W >\n< PM_CONFIG DEFAULT=3 >\n"
DRIVER = (
    "NVRM version: NVIDIA UNIX {}  Release Build  (buildbrain@mobile)  Tue Jan  7 17:35:12 PST 2025\n"
    "GCC version:  gcc version 13.3.0 (Ubuntu)\n"
)


def tegra_release(major: int, minor: str) -> str:
    """The file that Jetson Linux keeps about itself."""
    return (
        f"# R{major} (release), REVISION: {minor}, GCID: 42132812, BOARD: generic, EABI: aarch64, "
        "DATE: Thu Sep 18 22:54:44 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
    )


def package(name: str, version: str, state: str = "installed") -> str:
    """An entry of dpkg's list."""
    return (
        f"Package: {name}\nStatus: install ok {state}\nPriority: optional\nArchitecture: arm64\n"
        f"Version: {version}\nDescription: one line\n Version: not this one\n\n"
    )


def jetson_files(release: str, board: str, kernel: str, ubuntu: str, cuda: str, python: str) -> Files:
    """What every Jetson has, whose JetPack is whole."""
    return {
        "/etc/nv_tegra_release": release,
        "/etc/os-release": f'PRETTY_NAME="Ubuntu {ubuntu} LTS"\nID=ubuntu\n',
        "/proc/sys/kernel/osrelease": f"{kernel}\n",
        "/proc/device-tree/model": f"{board}\0",
        "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0",
        "/proc/driver/nvidia/version": DRIVER.format("Open Kernel Module for aarch64  540.4.0"),
        "/proc/meminfo": MEMINFO.format(total=7_800_000, free=5_600_000),
        "/etc/ld.so.conf.d/nvidia-tegra.conf": "/usr/lib/aarch64-linux-gnu/nvidia\n# more\n",
        "/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1": "elf",
        "/usr/local/cuda/version.json": f'{{"cuda": {{"name": "CUDA SDK", "version": "{cuda}"}}}}',
        "/usr/local/cuda/bin/nvcc": "elf",
        "/usr/local/cuda/lib64/libcudart.so.12": "elf",
        f"/usr/local/cuda/lib64/libnvrtc.so.{cuda}": "elf",
        f"/usr/lib/python{python}/dist-packages/tensorrt/__init__.py": "raise SystemExit('never run')\n",
        f"{VENV}/pyvenv.cfg": "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3\n",
    }


def recorded(root: Path, files: Files, **facts: object) -> System:
    """A machine below `root`, whose user has no groups and whose modules are absent unless told otherwise."""
    for path, content in files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    (root / "home/ada").mkdir(parents=True, exist_ok=True)
    absent = {name: ABSENT for name in ("tensorrt", "pycuda.driver", "cuda")}
    system = System(
        root=root,
        machine="x86_64",
        interpreter=Interpreter((3, 11, 7), f"{VENV}/bin/python", VENV, "/usr"),
        user=User("ada", 1000, frozenset({"ada"})),
        cache=Path("/home/ada/.cache/edge-mer"),
        imports=absent | {name: Import("ok", "1.0", f"/site/{name}") for name in CORE},
        version_of=INSTALLED.get,
        requirements=REQUIREMENTS,
        clock_synchronised=True,
        access=access_of(frozenset()),
        free_bytes=lambda folder: 50_000_000_000,
    )
    return replace(system, **facts)  # type: ignore[arg-type]


def access_of(groups: frozenset[str] = frozenset()) -> Callable[[Path, int], bool]:
    """`os.access` of a user who owns nothing below /dev: by the node's bits; any group is the node's."""

    def access(path: Path, mode: int) -> bool:
        if not path.exists():
            return False
        if path.is_dir():
            return True
        bits = path.stat().st_mode
        given = bits & 7 | (bits >> 3 & 7 if groups else 0)
        return mode & given == mode

    return access


def own_group(name: str, *members: str) -> str:
    """An /etc/group in which the group of all files that a test makes is called `name`."""
    return f"root:x:54321:\nbad line\n{name}:x:{os.getgid()}:{','.join(members)}\nada:x:1000:\n"


def orin_nano_super(root: Path, **facts: object) -> System:
    """JetPack 6.2 on an Orin Nano Super: everything is there."""
    files = jetson_files(
        tegra_release(36, "4.3"),
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "5.15.148-tegra",
        "22.04.5",
        "12.6.68",
        "3.10",
    )
    files["/etc/nvpmodel.conf"] = POWER_NANO
    files["/var/lib/nvpmodel/status"] = "pmode:0002\n"
    files["/var/lib/dpkg/status"] = package("nvidia-jetpack", "6.2+b77") + package(
        "nvidia-l4t-core", "36.4.3-20250107174145"
    )
    return recorded(root, files, **(jetson_facts((3, 10, 12), "10.3.0", "12.6") | facts))


def agx_orin(root: Path, **facts: object) -> System:
    """JetPack 6.2.1 on an AGX Orin, flashed without the package nvidia-jetpack."""
    files = jetson_files(
        tegra_release(36, "4.7"),
        "NVIDIA Jetson AGX Orin Developer Kit",
        "5.15.148-tegra",
        "22.04.5",
        "12.6.68",
        "3.10",
    )
    files["/etc/nvpmodel.conf"] = POWER_AGX
    return recorded(root, files, **(jetson_facts((3, 10, 12), "10.3.0", "12.6") | facts))


def thor(root: Path, release: str = "4.0", jetpack: str = "7.1+b30", **facts: object) -> System:
    """JetPack 7.0 or 7.1 on a Thor."""
    files = jetson_files(
        tegra_release(38, release),
        "NVIDIA Jetson AGX Thor Developer Kit",
        "6.8.12-tegra",
        "24.04.3",
        "13.0.48",
        "3.12",
    )
    files["/var/lib/dpkg/status"] = package("nvidia-jetpack", jetpack)
    return recorded(root, files, **(jetson_facts((3, 12, 3), "10.13.3.9", "13.0") | facts))


def orin_jetpack_7(root: Path, **facts: object) -> System:
    """JetPack 7.2 on an Orin."""
    files = jetson_files(
        tegra_release(39, "2.0"),
        "NVIDIA Jetson AGX Orin Developer Kit",
        "6.8.12-1021-tegra",
        "24.04.4",
        "13.2.78",
        "3.12",
    )
    return recorded(root, files, **(jetson_facts((3, 12, 3), "10.16.2.10", "13.2") | facts))


def jetson_facts(python: tuple[int, int, int], tensorrt: str, cuda: str) -> dict[str, object]:
    """What cannot be read from a Jetson's files."""
    folder = f"/usr/lib/python{python[0]}.{python[1]}/dist-packages/tensorrt"
    return {
        "machine": "aarch64",
        "interpreter": Interpreter(python, f"{VENV}/bin/python", VENV, "/usr"),
        "imports": imports(
            tensorrt=Import("ok", tensorrt, f"{folder}/__init__.py"),
            pycuda=Import("ok", "2025.1.2", f"{VENV}/pycuda/__init__.py"),
            cuda=Import("ok", cuda, "Orin"),
        ),
    }


def imports(
    tensorrt: Import = ABSENT, pycuda: Import = ABSENT, cuda: Import = ABSENT, **core: Import
) -> Mapping[str, Import]:
    """Outcomes of all imports; the core's are well unless told otherwise."""
    well = {name: Import("ok", "1.0", f"/site/{name}") for name in CORE}
    return {**well, **core, "tensorrt": tensorrt, "pycuda.driver": pycuda, "cuda": cuda}


def workstation(root: Path, **facts: object) -> System:
    """An x86-64 machine without a GPU."""
    files: Files = {
        "/etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
        "/proc/sys/kernel/osrelease": "6.1.0-13-amd64\n",
        "/proc/meminfo": MEMINFO.format(total=32_000_000, free=20_000_000),
        f"{VENV}/pyvenv.cfg": "home = /usr/bin\ninclude-system-site-packages = false\n",
    }
    return recorded(root, files, **facts)


def workstation_with_card(root: Path, driver: bool = True, **facts: object) -> System:
    """An x86-64 machine with an NVIDIA GPU on Ubuntu."""
    files: Files = {
        "/etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\n',
        "/sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n",
        "/sys/bus/pci/devices/0000:00:02.0/class": "0x030000\n",
        "/sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
        "/sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
    }
    if driver:
        files["/proc/driver/nvidia/version"] = DRIVER.format("x86_64 Kernel Module  580.95.05")
        files["/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05"] = "elf"
        facts = {"imports": imports(cuda=Import("ok", "13.0", "NVIDIA RTX A2000"))} | facts
    return recorded(root, files, **facts)


def found(system: System, *purposes: Purpose) -> dict[str, Finding]:
    """What doctor finds, by name; a name that comes several times keeps its last."""
    return {finding.name: finding for finding in examine(system, purposes_of(system, purposes))}


def problems(system: System, *purposes: Purpose) -> dict[str, Finding]:
    """Only the problems."""
    return {name: one for name, one in found(system, *purposes).items() if one.status == "problem"}


def notes(system: System) -> set[str]:
    """Names of what is only noted."""
    return {name for name, one in found(system).items() if one.status == "note"}
