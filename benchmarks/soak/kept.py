"""What was measured of long runs: kept in files, so that a page can be written of it again."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from edge_mer.engine.onnxruntime import available_threads
from tests.helpers.bundle import ensure_bundle

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "benchmarks" / "measured" / "soak"

Found = dict[str, Any]


def say(name: str, text: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {name}: {text}", flush=True)


def machine() -> str:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{available_threads()} threads of {names[0] if names else platform.machine()}"


def file_of(name: str) -> Path:
    """Where a measurement is kept."""
    return MEASURED / f"{name}.json"


def keep(name: str, found: Found) -> None:
    """Write a measurement."""
    MEASURED.mkdir(parents=True, exist_ok=True)
    file_of(name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def kept(name: str) -> Found:
    """Read it again."""
    found: Found = json.loads(file_of(name).read_text(encoding="utf-8"))
    return found


def bundle_path() -> Path:
    """The calibrated jmt-tiny."""
    return Path(os.environ.get("EDGE_MER_TEST_BUNDLE") or ensure_bundle())


def span(values: list[float]) -> str:
    """The least and the most."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
