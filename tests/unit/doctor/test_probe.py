"""Modules that crash, hang or are broken, really imported in a process of their own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edge_mer.doctor.probe import CORE, probe, probe_all

MODULES = {
    "well": "__version__ = '1.2'\nprint('noise')\n",
    "named": "VERSION_TEXT = '3.4'\n",
    "segfault": "import ctypes\nctypes.string_at(0)\n",
    "leaves": "import os\nos._exit(7)\n",
    "hangs": "import threading\nthreading.Event().wait()\n",
    "lacks": "import module_that_nobody_has\n",
    "raises": "raise ImportError('first line\\n\\nlibnvinfer.so.10: cannot open shared object file')\n",
    "silent": "raise KeyError\n",
    "exits": "import sys\nsys.exit('enough')\n",
    "long": "raise ValueError('x' * 9999)\n",
}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the modules above, which this Python finds."""
    folder = tmp_path / "modules"
    folder.mkdir()
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_one_that_is_well(modules: Path) -> None:
    found = probe(["well", "named", "json"])
    assert (found["well"].state, found["well"].version) == ("ok", "1.2")
    assert found["well"].where == str(modules / "well.py")
    assert found["named"].version == "3.4"
    assert found["json"].state == "ok"


def test_one_that_is_absent_and_one_that_lacks_another(modules: Path) -> None:
    found = probe(["module_that_nobody_has", "absent.part", "lacks"])
    assert [one.state for one in found.values()] == ["absent", "absent", "broken"]
    assert "module_that_nobody_has" in found["lacks"].error
    assert found["lacks"].where == str(modules / "lacks.py")


def test_the_last_line_of_an_error_is_told(modules: Path) -> None:
    found = probe(["raises", "silent", "exits", "long", "well"])
    assert found["raises"].error == "libnvinfer.so.10: cannot open shared object file"
    assert (found["silent"].state, found["silent"].error) == ("broken", "KeyError")
    assert found["exits"].error == "enough"
    assert len(found["long"].error) == 500
    assert found["well"].state == "ok"


@pytest.mark.parametrize(("name", "word"), [("segfault", "SIGSEGV"), ("leaves", "ended with 7")])
def test_one_that_takes_its_process_down(modules: Path, name: str, word: str) -> None:
    found = probe(["well", name, "named"])
    assert found["well"].state == "ok"
    assert found[name].state == "crashed"
    assert word in found[name].error
    assert (found["named"].state, found["named"].error[:9]) == ("absent", "not tried")


def test_one_that_hangs_is_ended(modules: Path) -> None:
    found = probe(["well", "hangs"], limit_s=3.0)
    assert found["well"].state == "ok"
    assert (found["hangs"].state, found["hangs"].error) == ("hung", "no answer within 3 s")


def test_the_folder_that_one_stands_in_offers_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "tensorrt.py").write_text(f"open({str(mark)!r}, 'w')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert probe(["tensorrt"])["tensorrt"].where != str(tmp_path / "tensorrt.py")
    assert not mark.exists()


def test_doctors_own_files_are_not_taken_for_modules() -> None:
    """There is an edge_mer/doctor/tensorrt.py beside the file that runs."""
    where = probe(["tensorrt", "sensors"])
    assert "doctor" not in where["tensorrt"].where
    assert where["sensors"].state == "absent"


def test_a_broken_library_is_really_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    found = probe(["cuda"])["cuda"]
    assert found.state == "broken"
    assert "libcuda.so.1: file too short" in found.error


DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return RESULT; }
int cuDeviceGetCount(int *n) { *n = COUNT; return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Orin", length); return 0; }
int cuGetErrorString(int code, const char **text) { *text = code == 100 ? "no device" : 0; return 0; }
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs the system package gcc")
@pytest.mark.parametrize(
    ("result", "count", "state", "told"),
    [
        (0, 1, "ok", "Orin 12.6 "),
        (0, 0, "broken", "  the driver has no GPU"),
        (100, 0, "broken", "  cuInit gives 100: no device"),
        (999, 0, "broken", "  cuInit gives 999"),
    ],
)
def test_a_driver_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: int, count: int, state: str, told: str
) -> None:
    source = tmp_path / "driver.c"
    source.write_text(DRIVER, encoding="utf-8")
    options = [f"-DRESULT={result}", f"-DCOUNT={count}", "-shared", "-fPIC"]
    subprocess.run(["gcc", *options, "-o", tmp_path / "libcuda.so.1", source], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    found = probe(["cuda"])["cuda"]
    assert (found.state, f"{found.where} {found.version} {found.error}") == (state, told)


def test_all_are_tried_here() -> None:
    found = probe_all()
    assert set(found) == {"tensorrt", "pycuda.driver", "cuda", *CORE}
    assert all(found[name].state == "ok" for name in CORE)
    assert Path(found["numpy"].where).is_file()
