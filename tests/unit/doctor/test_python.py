"""Python, the core's packages, and the optional ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_mer.doctor.finding import Purpose
from edge_mer.doctor.probe import Import
from edge_mer.doctor.python import requirement
from edge_mer.doctor.system import Interpreter
from tests.helpers.recorded_systems import (
    INSTALLED,
    VENV,
    found,
    imports,
    orin_nano_super,
    problems,
    workstation,
)


@pytest.mark.parametrize(
    ("line", "version", "admitted"),
    [
        ("numpy>=1.26", "1.26.4", True),
        ("numpy>=1.26", "1.9", False),
        ("numpy>=1.26", "2.0.0rc1", True),
        ("opencv-python-headless<5,>=4.8", "4.14.0.94", True),
        ("opencv-python-headless<5,>=4.8", "5.0.0.93", False),
        ("opencv-python-headless<5,>=4.8", "4.7.9", False),
        ("av>=15", "unknown", False),
        ("rich", "0", True),
    ],
)
def test_bounds(line: str, version: str, admitted: bool) -> None:
    one = requirement(line)
    assert one is not None
    assert one.admits(version) is admitted


def test_names_and_extras() -> None:
    one = requirement('Some_Thing >= 1.2 ; extra == "export"')
    assert one is not None
    assert (one.name, one.extra, str(one)) == ("some-thing", "export", "some-thing>=1.2")
    assert requirement("tomli>=2; (python_version < '3.11') and extra == 'export'") is None
    assert requirement("") is None


def test_all_is_well(tmp_path: Path) -> None:
    findings = found(workstation(tmp_path))
    assert findings["core packages"].found == (
        "numpy 2.2.6, onnxruntime 1.23.2, opencv-python-headless 4.14.0.94"
    )
    assert "does not see the system's packages" in findings["Python"].found
    assert findings["workbench"].found == "not installed: onnx, torch"
    assert findings["workbench"].fix == "pip install 'edge-mer[export,calibrate]'"
    assert findings["words"].found == "not installed: tokenizers"


def test_a_package_that_is_missing_or_too_old(tmp_path: Path) -> None:
    old = {"numpy": "1.21.5", "opencv-python-headless": "4.14.0.94"}
    findings = problems(workstation(tmp_path, version_of=old.get))
    assert findings["numpy"].found == "1.21.5"
    assert findings["numpy"].expected == "numpy>=1.26"
    assert findings["numpy"].fix == "pip install 'numpy>=1.26'"
    assert findings["onnxruntime"].found == "not installed"


def test_a_package_that_is_there_and_cannot_be_imported(tmp_path: Path) -> None:
    cv2 = Import("broken", error="libGL.so.1: cannot open shared object file: No such file or directory")
    ort = Import("crashed", error="the process ended by SIGILL")
    findings = problems(workstation(tmp_path, imports=imports(cv2=cv2, onnxruntime=ort)))
    assert set(findings) == {"opencv-python-headless", "onnxruntime"}
    assert "libGL.so.1" in findings["opencv-python-headless"].found
    assert findings["opencv-python-headless"].fix == "sudo apt-get install libgl1 libglib2.0-0"
    assert "SIGILL" in findings["onnxruntime"].found
    assert str(findings["onnxruntime"].fix).startswith("pip install --force-reinstall")


def test_what_was_not_tried_is_not_accused(tmp_path: Path) -> None:
    crashed = Import("crashed", error="the process ended by SIGSEGV")
    skipped = Import("absent", error="not tried, since another module ended the process")
    system = workstation(tmp_path, imports=imports(numpy=crashed, cv2=skipped, onnxruntime=skipped))
    assert set(problems(system)) == {"numpy"}


def test_two_opencvs_write_over_each_other(tmp_path: Path) -> None:
    both = {**INSTALLED, "opencv-python": "4.11.0.86"}
    finding = found(workstation(tmp_path, version_of=both.get))["OpenCV"]
    assert finding.status == "note"
    assert str(finding.fix).startswith("pip uninstall -y opencv-python && ")
    assert "OpenCV" not in found(workstation(tmp_path, version_of=INSTALLED.get))


def test_a_python_that_is_not_jetpacks_is_noted(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path, interpreter=Interpreter((3, 12, 4), "/c/bin/python", "/c", "/c"))
    finding = found(system)["Python"]
    assert (finding.status, finding.expected) == ("note", "3.10, for which JetPack's TensorRT is made")


def test_a_python_that_is_too_old(tmp_path: Path) -> None:
    system = workstation(tmp_path, interpreter=Interpreter((3, 8, 10), VENV, VENV, VENV))
    assert problems(system)["Python"].expected == "3.10 or newer"


def test_without_metadata_nothing_is_known(tmp_path: Path) -> None:
    system = workstation(tmp_path, requirements=())
    assert problems(system) == {}
    assert found(system)["edge-mer"].fix == "pip install ."


def test_the_workbench_is_missed_only_by_who_wants_it(tmp_path: Path) -> None:
    assert set(problems(workstation(tmp_path), Purpose.workbench)) == {"workbench"}
    with_all = {**INSTALLED, "onnx": "1.20.0", "torch": "2.8.0"}
    assert problems(workstation(tmp_path, version_of=with_all.get), Purpose.workbench) == {}
    on_jetson = found(orin_nano_super(tmp_path / "nano"))["workbench"]
    assert on_jetson.found.endswith("its place is a workstation")
    assert on_jetson.fix is None
