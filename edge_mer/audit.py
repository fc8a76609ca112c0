"""An audit log: who did what, in lines that are only added, each of which vouches for the one before.

A file of JSON lines. Every record holds the SHA-256 of the record before it, so that `check_audit` finds one
that was changed, taken out or put in. Whoever may write the file can reckon all later hashes anew, and can
cut off its end: who must rule that out keeps the newest hash elsewhere, too.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_mer.clock import Clock, MonotonicClock
from edge_mer.errors import DataError, UsageError
from edge_mer.files import sync_folder

AUDIT_NAME = "audit.jsonl"
"""The daemon's log, in its state's folder."""

FIRST = "0" * 64
"""Stands for the line before the first one."""

TORN = "log.torn"
"""Event of the record that speaks of an unfinished line before it."""

MAX_LINE_BYTES = 64 << 10
"""A record is never longer; of details that would be, size and hash are kept."""

_MAX_TORN_BYTES = 4 * MAX_LINE_BYTES
"""What is no record at the end of a file is what power cuts left; more than this is something else."""

_KEYS = {"n", "utc", "monotonic_ns", "event", "who", "details", "previous"}
_KEPT = re.compile(r"\.(\d{6})$")


@dataclass(frozen=True)
class _Line:
    """A line of a log.

    Attributes:
        raw: Its bytes, with the end of the line where it has one.
        record: What it says; None: it is no record.
    """

    raw: bytes
    record: dict[str, Any] | None

    @property
    def sha256(self) -> str:
        return _sha256(self.raw.removesuffix(b"\n"))


class AuditLog:
    """Adds records to a log; each is on the disk when `append` returns.

    When a file is full it gets a number, `audit.jsonl.000001`, and a new one goes on from its last hash. A
    line that a power cut left unfinished stays, and a record says so.

    Args:
        path: The file, made with its first record; its folder is there.
        clock: Where the time comes from.
        max_bytes: A file grows no larger.
        max_files: Full files that are kept, 1 or more; the oldest beyond are deleted.

    Raises:
        UsageError: The file cannot be written, or somebody else writes it.
        DataError: The file is something else.
    """

    def __init__(
        self, path: Path, clock: Clock | None = None, *, max_bytes: int = 8 << 20, max_files: int = 64
    ) -> None:
        self._path = path
        self._clock: Clock = clock or MonotonicClock()
        self._max_bytes, self._max_files = max_bytes, max_files
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._n, self._previous, self._n_bytes = 0, FIRST, 0
        with self._lock:
            self._open()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def newest(self) -> str:
        """SHA-256 of the newest record: kept elsewhere, it vouches for all of the log."""
        return self._previous

    def append(self, event: str, who: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        """Add a record; any thread may.

        Args:
            event: What happened, e.g. "alarm.acknowledged".
            who: Who did it; None where nobody did.
            details: Ready for JSON.

        Raises:
            UsageError: It cannot be written. The next call tries again.
        """
        with self._lock:
            if self._descriptor is None:
                self._open()
            self._append(event, who, dict(details or {}))

    def close(self) -> None:
        """Let go of the file. Harmless twice; a later `append` opens it again."""
        with self._lock:
            self._release()

    def _open(self) -> None:
        """Take the file, and go on behind its last record."""
        try:
            self._descriptor = _open_file(self._path)
            self._n_bytes = os.fstat(self._descriptor).st_size
            last, torn = _end_of(self._path)
            if last is None and (older := kept_files(self._path)):
                last, _ = _end_of(older[-1])
            if len(torn) > _MAX_TORN_BYTES or (last is None and b"\n" in torn):
                raise DataError(f"{self._path} is no audit log", hint="name another file, or move it away")
            if last is not None and last.record is not None:
                self._n, self._previous = last.record["n"] + 1, last.sha256
            self._mend(last, torn)
        except OSError as error:
            self._release()
            raise _cannot(self._path, error) from error
        except BaseException:
            self._release()
            raise

    def _mend(self, last: _Line | None, torn: bytes) -> None:
        """An unfinished line gets its end; if it is no record, the next record says so."""
        newest = torn or (last.raw if last is not None and self._n_bytes else b"\n")
        if not newest.endswith(b"\n"):
            self._write(b"\n")
        if torn:
            whole = torn.rstrip(b"\n")
            self._append(TORN, None, {"n_bytes": len(whole), "sha256": _sha256(whole)})

    def _append(self, event: str, who: str | None, details: dict[str, Any]) -> None:
        line = self._line(event, who, details)
        try:
            if self._n_bytes and self._n_bytes + len(line) + 1 > self._max_bytes:
                self._rotate()
            self._write(line + b"\n")
        except OSError as error:
            self._release()
            raise _cannot(self._path, error) from error
        self._n, self._previous = self._n + 1, _sha256(line)

    def _line(self, event: str, who: str | None, details: dict[str, Any]) -> bytes:
        record = {
            "n": self._n,
            "utc": self._clock.utc().isoformat(),
            "monotonic_ns": self._clock.now_ns(),
            "event": event,
            "who": who,
            "details": details,
            "previous": self._previous,
        }
        line = _encoded(record)
        if len(line) >= MAX_LINE_BYTES:
            raw = _encoded(details)
            left_out = {"left_out_bytes": len(raw), "sha256": _sha256(raw)}
            record |= {"details": left_out, "event": event[:200], "who": who and who[:200]}
            line = _encoded(record)
        return line

    def _write(self, data: bytes) -> None:
        """All of it, and onto the disk."""
        assert self._descriptor is not None  # noqa: S101
        while data:
            n_written = os.write(self._descriptor, data)
            self._n_bytes += n_written
            data = data[n_written:]
        os.fsync(self._descriptor)

    def _rotate(self) -> None:
        older = kept_files(self._path)
        number = int(older[-1].name[-6:]) + 1 if older else 1
        self._path.rename(self._path.with_name(f"{self._path.name}.{number:06d}"))
        self._release()
        self._descriptor, self._n_bytes = _open_file(self._path), 0
        for path in kept_files(self._path)[: -self._max_files]:
            path.unlink()

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


@dataclass(frozen=True)
class AuditBreak:
    """A place where a log is not what was written.

    Attributes:
        path: The file.
        line: From 1.
        what: What is wrong there.
    """

    path: Path
    line: int
    what: str


@dataclass(frozen=True)
class AuditCheck:
    """What a log came to.

    Attributes:
        n_records: Records in all files that are there.
        first: Number of the first of them; more than 0 where older files were deleted.
        newest: SHA-256 of the newest record.
        n_torn: Places where a power cut left a line unfinished, and a record says so or none came since.
        breaks: Where it was changed; empty when all of it is as it was written.
    """

    n_records: int
    first: int
    newest: str
    n_torn: int
    breaks: tuple[AuditBreak, ...]


def read_audit(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a log, oldest first, with those of full files; what is no record is passed over.

    Raises:
        UsageError: It cannot be read.
    """
    for file in (*kept_files(path), path):
        try:
            yield from (line.record for line in _lines(file) if line.record is not None)
        except OSError as error:
            raise UsageError(f"cannot read {file}", found=error.strerror) from error


def check_audit(path: Path) -> AuditCheck:
    """Hold every record against the hash in the one behind it.

    Args:
        path: The newest file; full ones beside it are checked with it.

    Raises:
        UsageError: It cannot be read.
    """
    check = _Check()
    for file in (*kept_files(path), path):
        try:
            for number, line in enumerate(_lines(file), 1):
                check.take(file, number, line)
        except OSError as error:
            raise UsageError(f"cannot read {file}", found=error.strerror) from error
    return check.done()


class _Check:
    """Follows the hashes from line to line."""

    def __init__(self) -> None:
        self._previous: str | None = None
        self._n = self._first = self._n_records = self._n_torn = 0
        self._loose: list[tuple[Path, int, bytes]] = []
        self._breaks: list[AuditBreak] = []

    def take(self, path: Path, number: int, line: _Line) -> None:
        record = line.record
        if record is None:
            self._loose.append((path, number, line.raw))
            return
        self._settle(record)
        if wrong := self._wrong_with(record):
            self._breaks.append(AuditBreak(path, number, wrong))
        if self._previous is None:
            self._first = record["n"]
        self._n, self._previous = record["n"] + 1, line.sha256
        self._n_records += 1

    def _wrong_with(self, record: dict[str, Any]) -> str | None:
        if self._previous is None:  # older files may have been deleted
            is_first = record["n"] != 0 or record["previous"] == FIRST
            return None if is_first else "the first record follows another one"
        if record["previous"] != self._previous:
            return "what is before it is not what was there"
        return None if record["n"] == self._n else f"record {record['n']} where {self._n} follows"

    def _settle(self, record: dict[str, Any]) -> None:
        """What is no record is right if the next one speaks of it."""
        if not self._loose:
            return
        path, number, _ = self._loose[0]
        torn = b"".join(raw for *_, raw in self._loose).rstrip(b"\n")
        self._loose = []
        if record["event"] == TORN and record["details"].get("sha256") == _sha256(torn):
            self._n_torn += 1
        else:
            self._breaks.append(AuditBreak(path, number, "this is no record"))

    def done(self) -> AuditCheck:
        self._n_torn += bool(self._loose)
        return AuditCheck(
            self._n_records, self._first, self._previous or FIRST, self._n_torn, tuple(self._breaks)
        )


def kept_files(path: Path) -> list[Path]:
    """Full files of a log, oldest first."""
    found = [one for one in path.parent.glob(f"{path.name}.*") if _KEPT.search(one.name)]
    return sorted(one for one in found if one.name[:-7] == path.name)


def _open_file(path: Path) -> int:
    """Only to append to, readable by this user only, and by one process at a time."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o600)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            raise UsageError(f"{path} is no file of this user", hint="name another one")
        os.fchmod(descriptor, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not facts.st_size:
            sync_folder(path.parent)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UsageError(f"another process writes {path}", hint="end it first") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lines(path: Path) -> Iterator[_Line]:
    """Line by line; one that is far too long comes in pieces, none of which is a record."""
    with path.open("rb") as stream:
        while raw := stream.readline(2 * MAX_LINE_BYTES):
            yield _Line(raw, _record(raw))


def _end_of(path: Path) -> tuple[_Line | None, bytes]:
    """The last record of a file, and what is behind it; as much of that as may be."""
    last, torn = None, b""
    for line in _lines(path):
        last, torn = (last, torn + line.raw) if line.record is None else (line, b"")
        if len(torn) > _MAX_TORN_BYTES:
            break
    return last, torn


def _record(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    is_record = (
        isinstance(found, dict)
        and set(found) == _KEYS
        and type(found["n"]) is int
        and isinstance(found["details"], dict)
    )
    return found if is_record else None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _encoded(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _cannot(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write {path}", found=error.strerror, hint="name a file in a folder that you may write to"
    )
