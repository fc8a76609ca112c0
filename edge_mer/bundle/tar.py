"""A bundle as one tar file: packed the same each time, and unpacked without trusting it.

`tarfile` writes, and parses single headers. It does not walk what comes from outside: it would read as many
bytes of long names and extended headers as these say that they have.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from edge_mer.bundle.read import (
    MANIFEST_NAME,
    MAX_FILE_BYTES,
    SIGNATURE_NAME,
    Bundle,
    is_plain_name,
)
from edge_mer.errors import BundleError, UsageError

_BLOCK_BYTES = 512
_PIECE_BYTES = 1 << 20
_MAX_PADDING_BYTES = 1 << 20
_DISK_BLOCK_BYTES = 4096
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.GNUTYPE_LONGNAME: "a long name",
    tarfile.GNUTYPE_LONGLINK: "a long name",
    tarfile.XHDTYPE: "an extended header",
    tarfile.XGLTYPE: "an extended header",
    tarfile.SOLARIS_XHDTYPE: "an extended header",
}
_HINT = "pack the folder with edge-mer bundle pack"


class Readable(Protocol):
    """What gives bytes one after the other: a file, or the body of a request."""

    def read(self, n_bytes: int, /) -> bytes | None:
        """Up to so many bytes; none at the end."""
        ...


@dataclass(frozen=True)
class Limits:
    """What may be unpacked.

    Attributes:
        n_entries: Files and folders.
        file_bytes: Of one file.
        total_bytes: Of all files together.
        spare_bytes: What must stay free on the disk.
    """

    n_entries: int = 4096
    file_bytes: int = MAX_FILE_BYTES
    total_bytes: int = 8 << 30
    spare_bytes: int = 64 << 20


def pack(bundle: Bundle, file: BinaryIO) -> None:
    """Write a bundle as a tar: the same bytes each time, with nothing of this machine or of today in it.

    The manifest comes first, then the signature if there is one, then the files that the manifest lists.

    Args:
        bundle: Each of its files is hashed on the way.
        file: Where it goes; written from here on, never sought.

    Raises:
        BundleError: A file is missing or was altered.
    """
    signature = bundle.read_signature()
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT, encoding="utf-8") as tar:
        _add(tar, MANIFEST_NAME, bundle.manifest.file_text())
        if signature is not None:
            _add(tar, SIGNATURE_NAME, signature)
        for name in sorted(bundle.manifest.files):
            _add(tar, name, bundle.read(name))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    try:
        tar.addfile(entry, io.BytesIO(data))
    except ValueError as error:
        raise BundleError(f"{name} cannot be packed", found=str(error)) from error


def pack_file(bundle: Bundle, path: Path, *, replace: bool = False) -> int:
    """`pack` into a file that appears under its name once it is whole; returns its size in bytes.

    Raises:
        UsageError: The place is taken, inside the bundle, or cannot be written to.
        BundleError: A file of the bundle is missing or was altered.
    """
    if path.exists() and not (replace and path.is_file()):
        raise UsageError(
            f"{path} exists already", hint="give another --out" + (" or --replace" * path.is_file())
        )
    if path.resolve().is_relative_to(bundle.path.resolve()):
        raise UsageError(f"cannot write {path}", found="it lies inside the bundle", hint="name another file")
    try:
        number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path}", found=error.strerror) from error
    try:
        with os.fdopen(number, "wb") as stream:
            pack(bundle, stream)
            stream.flush()
            os.fchmod(number, 0o644)
            os.fsync(number)
        Path(temporary).replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
    return path.stat().st_size


def unpack(file: Readable, folder: Path, limits: Limits = Limits()) -> None:
    """Unpack a tar that may come from anybody into a new folder, which appears once it is whole.

    Only plain files and folders under plain relative names, each once. The folder has mode 700 and its files
    600. What is in the files is not looked at: `open_bundle` and `Bundle.check_files` do that.

    Args:
        file: Read from here on, forward only, to its end.
        folder: Must not exist; its parent must.
        limits: What may be unpacked; never more than the disk has room for.

    Raises:
        BundleError: Anything else in the tar, more than the limits, a file cut short, no manifest, or a
            disk that fails.
        UsageError: The folder exists, or its parent does not.
    """
    if os.path.lexists(folder):
        raise UsageError(f"{folder} exists already", hint="name a new folder")
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UsageError(f"cannot write {folder}", found=error.strerror) from error
    try:
        _Unpacking(file, temporary, limits).run()
        temporary.rename(folder)
    except OSError as error:
        raise BundleError(
            f"the tar cannot be unpacked into {folder}", found=error.strerror or str(error)
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Unpacking:
    """One tar on its way into one folder."""

    def __init__(self, file: Readable, folder: Path, limits: Limits) -> None:
        self._file, self._folder, self._limits = file, folder, limits
        self._n_left = limits.n_entries
        self._bytes_left = min(limits.total_bytes, shutil.disk_usage(folder).free - limits.spare_bytes)
        self._names: set[str] = set()

    def run(self) -> None:
        """Entry by entry, to the end mark."""
        while (entry := self._header()) is not None:
            self._check(entry)
            if entry.type == tarfile.DIRTYPE:
                self._make_folder(PurePosixPath(entry.name))
            else:
                self._write_file(PurePosixPath(entry.name), entry.size)
        self._check_end()
        if MANIFEST_NAME not in self._names:
            raise BundleError(
                "the tar holds no bundle",
                expected=f"{MANIFEST_NAME}, in no folder",
                found=", ".join(sorted(self._names)[:3]) or "nothing",
                hint=_HINT,
            )

    def _read(self, n_bytes: int) -> bytes:
        """Exactly so many bytes."""
        data = bytearray()
        while len(data) < n_bytes:
            piece = self._file.read(n_bytes - len(data))
            if not piece:
                raise BundleError(
                    "the tar is cut short",
                    expected=f"{n_bytes - len(data)} bytes more, at the least",
                    hint="send it again",
                )
            data += piece
        return bytes(data)

    def _header(self) -> tarfile.TarInfo | None:
        """The next header, with a plain name; None at the end mark."""
        block = self._read(_BLOCK_BYTES)
        if not any(block):
            return None
        try:
            entry = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise BundleError(
                "this is no tar that edge-mer takes",
                expected="a plain tar, not compressed",
                found=str(error),
                hint=_HINT,
            ) from error
        entry.name = entry.name.removeprefix("./")
        return entry

    def _check(self, entry: tarfile.TarInfo) -> None:
        if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
            raise self._refused(
                entry, "plain files and folders only", _KINDS.get(entry.type, f"type {entry.type!r}")
            )
        is_root = entry.type == tarfile.DIRTYPE and entry.name in ("", ".")
        if not is_root and not is_plain_name(entry.name):
            raise self._refused(entry, "a plain relative path", repr(entry.name))
        if entry.name in self._names:
            raise self._refused(entry, "every name once", "it comes again")
        self._names.add(entry.name)
        if not 0 <= entry.size <= (0 if entry.type == tarfile.DIRTYPE else self._limits.file_bytes):
            raise self._refused(entry, f"at most {self._limits.file_bytes} bytes", f"{entry.size} bytes")

    def _spend(self, name: PurePosixPath, n_bytes: int) -> None:
        """Count a file or folder before it is made, with the blocks that it takes on the disk."""
        self._n_left -= 1
        self._bytes_left -= max(1, -(-n_bytes // _DISK_BLOCK_BYTES)) * _DISK_BLOCK_BYTES
        if self._n_left < 0 or self._bytes_left < 0:
            raise BundleError(
                f"the tar is too large, from {name} on",
                expected=f"at most {self._limits.n_entries} files and folders, "
                f"{self._limits.total_bytes} bytes in all, and room for them on the disk",
                hint="make room, or send a smaller bundle",
            )

    def _refused(self, entry: tarfile.TarInfo, expected: str, found: str) -> BundleError:
        return BundleError(
            f"the tar is refused at {entry.name!r}", expected=expected, found=found, hint=_HINT
        )

    def _make_folder(self, name: PurePosixPath) -> None:
        current = self._folder
        for part in name.parts:
            current /= part
            if not current.is_dir():
                self._spend(name, 0)
                current.mkdir(mode=0o700)

    def _write_file(self, name: PurePosixPath, size: int) -> None:
        self._make_folder(name.parent)
        self._spend(name, size)
        path = self._folder / name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
            for start in range(0, size, _PIECE_BYTES):
                stream.write(self._read(min(_PIECE_BYTES, size - start)))
            stream.flush()
            os.fsync(stream.fileno())
        self._read(-size % _BLOCK_BYTES)

    def _check_end(self) -> None:
        """Nothing but a bounded number of zeros behind the first block of the end mark."""
        rest = bytearray()
        while len(rest) <= _MAX_PADDING_BYTES and (piece := self._file.read(_PIECE_BYTES)):
            rest += piece
        if len(rest) < _BLOCK_BYTES or len(rest) > _MAX_PADDING_BYTES or any(rest):
            raise BundleError(
                "the tar does not end as it should",
                expected="an end mark, and zeros behind it",
                found="other bytes" if any(rest) else f"{len(rest)} bytes",
                hint="send it again",
            )
