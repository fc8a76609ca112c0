"""What was built on this device, under a key that changes when anything that matters changes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from edge_mer.errors import UsageError

SCHEMA_VERSION = 1


def cache_folder() -> Path:
    """`$EDGE_MER_CACHE`, else `$XDG_CACHE_HOME/edge-mer`, else `~/.cache/edge-mer`."""
    if chosen := os.environ.get("EDGE_MER_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edge-mer"


def processor() -> dict[str, str]:
    """Name and a hash of the abilities of this processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    facts = dict(part.split(":", 1) for part in reversed(lines) if ":" in part)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    abilities = facts.get("flags") or facts.get("Features") or ""
    name = facts.get("model name") or facts.get("CPU part") or os.uname().machine
    return {"name": name, "abilities": hashlib.sha256(abilities.encode()).hexdigest()[:16]}


def cache_key(parts: dict[str, Any]) -> str:
    """A hash over everything that the built thing depends on."""
    text = json.dumps({"schema": SCHEMA_VERSION, **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load(key: str) -> dict[str, Any] | None:
    """The build record under `key`; None when there is none, or it is not whole."""
    try:
        record = json.loads((cache_folder() / "engines" / key / "build.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


def store(key: str, record: dict[str, Any]) -> Path:
    """Write a build record, all of it or nothing; only this user may read it.

    Raises:
        UsageError: The cache cannot be written to.
    """
    text = json.dumps({**record, "key": key}, indent=1, sort_keys=True)
    folder = cache_folder() / "engines" / key
    try:
        return _write(folder, text)
    except OSError as error:
        raise UsageError(
            f"cannot write to the cache {folder}",
            found=error.strerror,
            hint="name a folder that you may write to in EDGE_MER_CACHE",
        ) from error


def _write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".build.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        return Path(temporary).replace(folder / "build.json")
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
