"""What was measured of long runs: kept in files, so that a page can be written of it again."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from benchmarks.kept import ROOT as ROOT
from benchmarks.kept import Found as Found
from benchmarks.kept import Kept
from benchmarks.kept import say as say
from edge_mer.engine.threads import available_threads
from tests.helpers.bundle import ensure_bundle

_MEASURED = Kept("soak")
file_of, keep, kept = _MEASURED.file_of, _MEASURED.keep, _MEASURED.kept


def machine() -> str:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{available_threads()} threads of {names[0] if names else platform.machine()}"


def bundle_path() -> Path:
    """The calibrated jmt-tiny."""
    return Path(os.environ.get("EDGE_MER_TEST_BUNDLE") or ensure_bundle())


def span(values: list[float]) -> str:
    """The least and the most."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
