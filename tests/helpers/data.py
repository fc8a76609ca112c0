"""Where real recordings are; they are no part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EDGE_MER_TEST_DATA", ROOT.parent / "shared" / "data"))


def real(*parts: str) -> Path:
    """A real recording; the test is skipped where it is absent."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {path}: set EDGE_MER_TEST_DATA to a folder that has {Path(*parts)}")
    return path
