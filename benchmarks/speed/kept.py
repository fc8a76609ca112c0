"""Where things lie, and what was measured: kept in files, so that the page can be written of it again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "bench"
MEASURED = ROOT / "benchmarks" / "measured" / "speed"

Found = dict[str, Any]


def say(name: str, text: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {name}: {text}", flush=True)


def folder_of(name: str) -> Path:
    """Where a system's bundle and files lie; `EDGE_MER_BENCH_WORK` names another place."""
    return Path(os.environ.get("EDGE_MER_BENCH_WORK", WORK)) / name


def file_of(name: str) -> Path:
    """Where a system's measurement is kept."""
    return MEASURED / f"{name}.json"


def keep(name: str, found: Found) -> None:
    """Write a measurement."""
    MEASURED.mkdir(parents=True, exist_ok=True)
    file_of(name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def kept(name: str) -> Found:
    """Read it again."""
    found: Found = json.loads(file_of(name).read_text(encoding="utf-8"))
    return found
