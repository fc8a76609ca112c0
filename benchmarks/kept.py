"""What was measured: kept in files, so that a page can be written of it again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

Found = dict[str, Any]


def say(name: str, text: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {name}: {text}", flush=True)


class Kept:
    """Measurements in one folder.

    Args:
        folder: Under `benchmarks/measured`.
    """

    def __init__(self, folder: str) -> None:
        self._folder = ROOT / "benchmarks" / "measured" / folder

    def file_of(self, name: str) -> Path:
        """Where a measurement is kept."""
        return self._folder / f"{name}.json"

    def keep(self, name: str, found: Found) -> None:
        """Write a measurement."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.file_of(name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    def kept(self, name: str) -> Found:
        """Read it again."""
        found: Found = json.loads(self.file_of(name).read_text(encoding="utf-8"))
        return found
