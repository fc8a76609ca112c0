"""The calibrated jmt-tiny bundle that end-to-end tests run on, made once per state of the code."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def ensure_bundle() -> Path:
    """The bundle's folder; exported and calibrated here if the code changed since it was."""
    folder = ROOT / "build" / f"test-bundle-{_code_hash()}"
    bundle = folder / "bundle"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and one makes it
        if not bundle.is_dir():
            _make(folder, bundle)
    return bundle


def _make(folder: Path, bundle: Path) -> None:
    exported = str(folder / "exported")
    _run(["export", "jmt-tiny", "--out", exported, "--replace"])
    _run(["calibrate", exported, "--out", str(bundle), "--windows", "32"])


def _run(arguments: list[str]) -> None:
    """In a process of its own: what PyTorch leaves behind is no concern of a test.

    It has all cores: whoever tests beside this one waits for the bundle too.
    """
    cores = os.sched_getaffinity(os.getppid())
    command = [sys.executable, "-m", "edge_mer.cli.main", *arguments]
    subprocess.run(command, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores))


def _code_hash() -> str:
    digest = hashlib.sha256()
    for package in ("edge_mer", "export", "calibration"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
