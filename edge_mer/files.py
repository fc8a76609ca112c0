"""Files that are whole or not there."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

_N_RANDOM = 8
"""Characters that `tempfile` adds."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write all of a file or nothing of it, also when the power fails; only this user may read it.

    Args:
        path: The file; one of that name is replaced. Its folder is there.
        data: All of it.

    Raises:
        OSError: It cannot be written; what was there before is still there.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_unfinished(path: Path) -> None:
    """Remove what `write_atomically` left of a file when its process was killed; nobody may be writing it.

    Raises:
        OSError: The folder cannot be read or written.
    """
    for one in path.parent.glob(f"{glob.escape(_prefix(path))}{'?' * _N_RANDOM}"):
        one.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    return f".{path.name}."


def write_folder(path: Path, files: Mapping[str, bytes], check: Callable[[Path], None] | None = None) -> None:
    """Write a folder beside where it is to lie, then move it into place in one step.

    Args:
        path: The folder; one of that name is replaced. Its parent is there.
        files: Path inside the folder -> content.
        check: Given the folder before it gets its name; what it raises stops the move.

    Raises:
        OSError: It cannot be written; what was there before is still there.
    """
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
    try:
        for name, data in files.items():
            _write(temporary / name, data)
        temporary.chmod(0o755)
        if check is not None:
            check(temporary)
        _move_into_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _move_into_place(temporary: Path, path: Path) -> None:
    if path.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
        try:
            path.replace(old / "folder")
            try:
                temporary.replace(path)
            except BaseException:
                (old / "folder").replace(path)
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Have the disk keep the names in a folder: a file that was renamed is found after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
