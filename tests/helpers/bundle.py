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
    """The bundle's folder: the demo's, or one that is made here if the code changed since it was."""
    demo = ROOT / "demo" / "bundle"
    if _is_newer_than_code(demo / "manifest.json"):
        return demo
    folder = ROOT / "build" / f"test-bundle-{_code_hash()}"
    bundle = folder / "bundle"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and one makes it
        if not bundle.is_dir():
            _make(folder, bundle)
    return bundle


def _is_newer_than_code(made: Path) -> bool:
    if not made.is_file():
        return False
    return all(path.stat().st_mtime < made.stat().st_mtime for path in _code())


def _make(folder: Path, bundle: Path) -> None:
    exported = str(folder / "exported")
    _run(["export", "jmt-tiny", "--out", exported, "--replace"])
    _run(["calibrate", exported, "--out", str(bundle)])


def _run(arguments: list[str]) -> None:
    """In a process of its own: what PyTorch leaves behind is no concern of a test.

    It has all cores: whoever tests beside this one waits for the bundle too.
    """
    cores = os.sched_getaffinity(os.getppid())
    command = [sys.executable, "-m", "edge_mer.cli.main", *arguments]
    subprocess.run(command, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores))


def _code() -> list[Path]:
    packages = [ROOT / name for name in ("edge_mer", "export", "calibration")]
    return [path for package in packages for path in sorted(package.rglob("*.py"))]


def _code_hash() -> str:
    digest = hashlib.sha256()
    for path in _code():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
