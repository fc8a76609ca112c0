"""Lines in a file, which appears under its name once it is whole, or on standard output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

from edge_mer.errors import UsageError


class LineFile:
    """Written to PATH.part, and renamed at the end.

    Args:
        scheme: Of the sink that writes it, for messages.
        path: The path; "-" for standard output.
        example: A URI to show when this one is wrong.

    Raises:
        UsageError: No path.
    """

    def __init__(self, scheme: str, path: str, example: str) -> None:
        if not path:
            raise UsageError(f"sink {scheme}: names no file", expected=example)
        self._is_stdout = path == "-"
        try:
            self._path = Path(path).expanduser().resolve()
            self._part = self._path.with_name(self._path.name + ".part")
        except (ValueError, RuntimeError, OSError) as error:  # no name, an unknown user, a ring of links
            raise UsageError(
                f"sink {scheme}: {path!r} names no file", expected=example, found=str(error)
            ) from error
        self._file: TextIO | None = None

    @property
    def target(self) -> Path | None:
        """The file that comes to be; None for standard output."""
        return None if self._is_stdout else self._path

    def open(self) -> None:
        """Create the file.

        Raises:
            UsageError: The folder does not exist or cannot be written to, or something else than a
                plain file has that name.
        """
        if self._is_stdout:
            self._file = sys.stdout
            return
        try:
            for one in (self._path, self._part):
                if one.exists() and not one.is_file():
                    raise OSError(f"{one} exists and is no regular file")
            self._file = self._part.open("w", encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"cannot write {self._path}",
                found=getattr(error, "strerror", None) or str(error),
                hint="name a file in a folder that you may write to",
            ) from error

    def append(self, line: str) -> None:
        """Add one line and hand it to the operating system.

        Raises:
            UsageError: The disk is full, or the like.
        """
        if self._file is None:
            raise RuntimeError("the sink is not open")
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            where = "standard output" if self._is_stdout else str(self._path)
            raise UsageError(f"cannot go on writing {where}", found=error.strerror) from error

    def close(self) -> None:
        """Give the file its name."""
        if self._release():
            self._part.replace(self._path)

    def abandon(self) -> None:
        """Remove the unfinished file."""
        if self._release():
            self._part.unlink(missing_ok=True)

    def _release(self) -> bool:
        """Let go of the file; True when there is one to name or to remove."""
        held, self._file = self._file, None
        if held is None or self._is_stdout:
            return False
        held.close()
        return True
