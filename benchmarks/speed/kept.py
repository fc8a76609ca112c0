"""Where what is measured on lies, and what was measured."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.kept import ROOT as ROOT
from benchmarks.kept import Found as Found
from benchmarks.kept import Kept
from benchmarks.kept import say as say

WORK = ROOT / "build" / "bench"

SESSIONS = Kept("")
"""What `benchmarks.sessions` measured, as "sessions"."""

_MEASURED = Kept("speed")
file_of, keep, kept = _MEASURED.file_of, _MEASURED.keep, _MEASURED.kept


def folder_of(name: str) -> Path:
    """Where a system's bundle and files lie; `EDGE_MER_BENCH_WORK` names another place."""
    return Path(os.environ.get("EDGE_MER_BENCH_WORK", WORK)) / name
