"""Driver, GPU, toolkit and NVRTC."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_mer.doctor.cuda import driver_version, toolkit_version
from edge_mer.doctor.finding import Purpose
from edge_mer.doctor.probe import Import
from edge_mer.doctor.system import Interpreter, User
from tests.helpers.recorded_systems import (
    DRIVER,
    access_of,
    found,
    imports,
    orin_nano_super,
    own_group,
    problems,
    recorded,
    workstation,
    workstation_with_card,
)


def test_a_machine_without_gpu_says_so_once_and_is_well(tmp_path: Path) -> None:
    system = workstation(tmp_path)
    assert problems(system) == {}
    findings = found(system)
    assert findings["GPU"].found == "no NVIDIA GPU: models run on the processor"
    assert findings["GPU"].status == "note"
    assert {"driver", "CUDA toolkit", "NVRTC"}.isdisjoint(findings)


def test_for_tensorrt_it_is_not_well(tmp_path: Path) -> None:
    assert set(problems(workstation(tmp_path), Purpose.tensorrt)) == {"GPU", "TensorRT", "PyCUDA"}


def test_a_workstation_with_a_driver(tmp_path: Path) -> None:
    findings = found(workstation_with_card(tmp_path))
    assert findings["driver"].found == "580.95.05"
    assert findings["GPU"].found == "NVIDIA RTX A2000; its driver serves CUDA up to 13.0"
    assert findings["NVRTC"].fix == "pip install 'nvidia-cuda-nvrtc==13.0.*'"
    assert findings["CUDA toolkit"].status == "note"
    assert problems(workstation_with_card(tmp_path)) == {}


def test_a_card_without_a_driver(tmp_path: Path) -> None:
    finding = found(workstation_with_card(tmp_path, driver=False))["driver"]
    assert (finding.found, finding.fix) == ("no libcuda.so", "sudo ubuntu-drivers install   # then reboot")


def test_a_library_without_a_kernel_module(tmp_path: Path) -> None:
    system = workstation_with_card(tmp_path, imports=imports(cuda=Import("broken", error="cuInit gives 999")))
    (tmp_path / "proc/driver/nvidia/version").unlink()
    assert "no loaded kernel module" in found(system)["driver"].found
    opened = replace(system, imports=imports(cuda=Import("ok", "13.0", "A2000")))  # as under WSL
    assert found(opened)["driver"].status == "ok"


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("Open Kernel Module for aarch64  540.4.0", "540.4.0"),
        ("x86_64 Kernel Module  570.86.15", "570.86.15"),
        ("Open Kernel Module for x86_64  580.95.05", "580.95.05"),
        ("nothing known", ""),
    ],
)
def test_versions_of_drivers(tmp_path: Path, line: str, version: str) -> None:
    system = recorded(tmp_path, {"/proc/driver/nvidia/version": DRIVER.format(line)})
    assert driver_version(system) == version


def test_an_old_driver_asks_for_a_reboot(tmp_path: Path) -> None:
    tried = Import("broken", error="cuInit gives 803: system has unsupported display driver")
    system = workstation_with_card(tmp_path, imports=imports(cuda=tried))
    assert str(found(system)["GPU"].fix).startswith("sudo reboot")


def test_a_library_that_the_loader_does_not_find(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path, imports=imports(cuda=Import("absent", error="libcuda.so.1: cannot")))
    assert str(problems(system)["GPU"].fix).startswith("sudo ldconfig")


def test_a_driver_that_hangs(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path, imports=imports(cuda=Import("hung", error="no answer within 10 s")))
    finding = problems(system)["GPU"]
    assert finding.found == "no answer within 10 s"
    assert "dmesg" in str(finding.fix)


def test_a_container_without_nvidias_runtime_has_empty_libraries(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path)
    (tmp_path / "usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1").write_bytes(b"")
    (tmp_path / ".dockerenv").touch()
    finding = problems(system)["driver"]
    assert "is empty" in finding.found
    assert finding.fix == "docker run --runtime nvidia ..."


def test_a_user_who_may_not_open_the_gpu(tmp_path: Path) -> None:
    """As root:video 0440 stands on a Jetson: the remedy is the node's group."""
    tried = Import("broken", error="cuInit gives 999: unknown error")
    system = orin_nano_super(tmp_path, imports=imports(cuda=tried))
    node = tmp_path / "dev/nvmap"
    node.parent.mkdir()
    node.touch()
    node.chmod(0o440)
    (tmp_path / "etc/group").write_text(own_group("video", "grace"))
    findings = problems(system)
    assert findings["GPU"].fix == "mend GPU access, below"
    assert findings["GPU access"].found == "ada may not open /dev/nvmap"
    assert findings["GPU access"].fix == "sudo usermod -aG video $USER   # then log out and in again"
    (tmp_path / "dev/nvidia0").touch(0o440)
    assert problems(system)["GPU access"].found == "ada may not open /dev/nvmap and 1 more"
    member = User("ada", 1000, frozenset({"ada", "video"}))
    allowed = replace(system, user=member, access=access_of(member.groups))
    assert "GPU access" not in problems(allowed)


def test_a_jetson_without_cuda(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path)
    for path in ("version.json", "lib64/libcudart.so.12", "lib64/libnvrtc.so.12.6.68"):
        (tmp_path / "usr/local/cuda" / path).unlink()
    findings = problems(system)
    assert findings["CUDA toolkit"].expected == "12.6"
    assert str(findings["CUDA toolkit"].fix).endswith("apt-get install nvidia-jetpack")
    assert findings["NVRTC"].fix == "sudo apt-get install cuda-nvrtc-12-6"


def test_cuda_of_another_jetpack_is_noted(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path)
    (tmp_path / "usr/local/cuda/version.json").write_text('{"cuda": {"version": "12.60.1"}}')
    finding = found(system)["CUDA toolkit"]
    assert (finding.status, finding.expected) == ("note", "12.6, that of this JetPack")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cuda": 5}', '{"cuda": {"version": 5}}', "[" * 60000])
def test_a_strange_version_file_leaves_the_runtimes_name(tmp_path: Path, text: str) -> None:
    files: dict[str, str | bytes] = {
        "/usr/local/cuda/version.json": text,
        "/usr/local/cuda/lib64/libcudart.so": "elf",
        "/usr/local/cuda/lib64/libcudart.so.12": "elf",
        "/usr/local/cuda/lib64/libcudart.so.12.6.68": "elf",
    }
    assert toolkit_version(recorded(tmp_path, files)) == "12.6.68"


def test_nvrtc_that_pip_brought_counts(tmp_path: Path) -> None:
    site = "/home/ada/edge/lib/python3.11/site-packages"
    python = Interpreter((3, 11, 7), "/home/ada/edge/bin/python", "/home/ada/edge", "/usr", (site,))
    system = workstation_with_card(tmp_path, interpreter=python)
    place = tmp_path / site.lstrip("/") / "nvidia/cuda_nvrtc/lib"
    place.mkdir(parents=True)
    (place / "libnvrtc.so.13").touch()
    assert found(system)["NVRTC"].found == "13"


def test_libraries_are_looked_for_where_the_user_says(tmp_path: Path) -> None:
    system = workstation_with_card(tmp_path, environment={"LD_LIBRARY_PATH": "relative:/opt/[x]/lib"})
    place = tmp_path / "opt/[x]/lib"
    place.mkdir(parents=True)
    (place / "libnvrtc.so.12.8.93").touch()
    assert found(system)["NVRTC"].found == "12.8.93"
