"""What was measured of scaling, and where what it is measured on lies."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.kept import ROOT as ROOT
from benchmarks.kept import Found as Found
from benchmarks.kept import Kept
from benchmarks.kept import say as say
from benchmarks.soak.kept import bundle_path as bundle_path
from benchmarks.speed.kept import folder_of

WORK = ROOT / "build" / "scaling"
TINY = "jmt-tiny"
SYSTEMS = (TINY, "jmt", "jca", "rjcma", "jmt-pain", "group")

_MEASURED = Kept("scaling")
file_of, keep, kept = _MEASURED.file_of, _MEASURED.keep, _MEASURED.kept


def bundle_of(name: str) -> Path | None:
    """A system's bundle; those that are not tiny are there once `make bench-all` has run."""
    path = bundle_path() if name == TINY else folder_of(name) / "bundle"
    return path if (path / "manifest.json").is_file() else None


def face_detector() -> Path | None:
    """YuNet's ONNX file among the tests' data, where it is there."""
    data = os.environ.get("EDGE_MER_TEST_DATA")
    path = Path(data) / "face_detector" / "yunet_n_640_640.onnx" if data else None
    return path if path is not None and path.is_file() else None


def here() -> Found:
    """The processor, as the kernel names it, and the day."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else "a processor without a name",
        "n_processors": len(os.sched_getaffinity(0)),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
