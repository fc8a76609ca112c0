"""What was built on this device, under a key that changes when anything that matters changes.

A TensorRT plan is native code: what loads it trusts it. So a build record carries a code that only this host
can make (HMAC-SHA256 with a key that never leaves it), and holds the hash of every file that belongs to it. A
record without its code, or a file that is not what was written, is refused before any of it is used.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edge_mer.errors import BundleError, UsageError

SCHEMA_VERSION = 2
_RECORD = "build.json"
_HOST_KEY = "host.key"
_KEY_BYTES = 32
_MAX_RECORD_BYTES = 16 << 20
_AGAIN = "run edge-mer build-engine"


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
    return hashlib.sha256(_canonical({"schema": SCHEMA_VERSION, **parts})).hexdigest()


def load(key: str) -> dict[str, Any] | None:
    """The build record under `key`; None when there is none, or it is not what this host wrote."""
    record = _read_record(_entry(key))
    return record if record is not None and record.get("key") == key else None


def records() -> Iterator[dict[str, Any]]:
    """Every build record that this host wrote, the newest last."""
    try:
        entries = sorted(_entries().iterdir(), key=lambda one: (one / _RECORD).lstat().st_mtime_ns)
    except OSError:
        return
    for entry in entries:
        record = _read_record(entry)
        if record is not None and record.get("key") == entry.name:
            yield record


def store(key: str, record: dict[str, Any], files: Mapping[str, bytes] | None = None) -> Path:
    """Write a build record and its files, all of it or nothing; only this user may read them.

    Args:
        key: From `cache_key`.
        record: What is to be known about the build; "key", "files" and "code" are added.
        files: Name -> content of what belongs to it.

    Raises:
        UsageError: The cache cannot be written to.
    """
    folder = _entry(key)
    try:
        _private(folder)
        hashes = {name: _write_file(folder / name, data) for name, data in (files or {}).items()}
        whole = {**record, "key": key, "files": hashes}
        coded = {**whole, "code": _code(whole, _host_key(make=True))}
        text = json.dumps(coded, indent=1, sort_keys=True).encode()
        _write_file(folder / _RECORD, text)
    except OSError as error:
        raise UsageError(
            f"cannot write to the cache {folder}",
            found=error.strerror,
            hint="name a folder that you may write to in EDGE_MER_CACHE",
        ) from error
    return folder / _RECORD


def read_file(record: Mapping[str, Any], name: str) -> bytes:
    """A file of a build, once it was found to be what this host wrote.

    It is opened once: what is hashed is what is returned.

    Args:
        record: From `load`.
        name: Of the file.

    Raises:
        BundleError: It is missing, no plain file of this user, or was altered.
    """
    path = _entry(str(record["key"])) / name
    expected = record["files"].get(name)
    if expected is None:
        raise BundleError(f"{path} does not belong to this build", hint=f"{_AGAIN} --force")
    try:
        data = _read_plain(path, int(expected["n_bytes"]))
    except OSError as error:
        raise BundleError(
            f"cannot read {path}", found=error.strerror or str(error), hint=f"{_AGAIN} --force"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if not hmac.compare_digest(found, str(expected["sha256"])):
        raise BundleError(
            f"{path} was altered after it was built here, and is not loaded",
            expected=f"sha256 {str(expected['sha256'])[:16]}…, {expected['n_bytes']} bytes",
            found=f"sha256 {found[:16]}…, {len(data)} bytes",
            hint=f"find out who wrote to it, then {_AGAIN} --force",
        )
    return data


def _entries() -> Path:
    return cache_folder() / "engines"


def _entry(key: str) -> Path:
    return _entries() / key


def _canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _code(record: dict[str, Any], host_key: bytes) -> str:
    return hmac.new(host_key, _canonical(record), hashlib.sha256).hexdigest()


def _read_record(entry: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(_read_plain(entry / _RECORD, _MAX_RECORD_BYTES))
        host_key = _host_key(make=False)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(code := found.pop("code", None), str):
        return None
    return found if hmac.compare_digest(code.encode(), _code(found, host_key).encode()) else None


def _host_key(*, make: bool) -> bytes:
    """The key of this host; made at the first build.

    Raises:
        OSError: It cannot be read or made, or others could have read it.
    """
    path = cache_folder() / _HOST_KEY
    try:
        key = _read_plain(path, _KEY_BYTES, private=True)
    except FileNotFoundError:
        if not make:
            raise
        _private(path.parent)
        _write_file(path, secrets.token_bytes(_KEY_BYTES), replace=False)
        key = _read_plain(path, _KEY_BYTES, private=True)
    if len(key) != _KEY_BYTES:
        raise OSError(f"{path} is no key; delete it, and build again")
    return key


def _read_plain(path: Path, most_bytes: int, *, private: bool = False) -> bytes:
    """The bytes of a plain file of this user, one more than `most_bytes` if it is larger."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        facts = os.fstat(stream.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            raise OSError(f"{path} is no plain file of this user")
        if facts.st_mode & (0o077 if private else 0o022):
            raise OSError(f"others may {'read' if private else 'write to'} {path}")
        return stream.read(most_bytes + 1)


def _private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)


def _write_file(path: Path, data: bytes, *, replace: bool = True) -> dict[str, Any]:
    """Write all of it or nothing, readable by this user only; its hash and size."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            temporary.replace(path)
        else:
            _keep_first(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return {"sha256": hashlib.sha256(data).hexdigest(), "n_bytes": len(data)}


def _keep_first(temporary: Path, path: Path) -> None:
    """Of two processes that make a key at once, the first one's counts."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
