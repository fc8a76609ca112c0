"""Predictions as JSON lines: in a file, which appears under its name once it is whole, or on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TextIO

from edge_mer.errors import UsageError
from edge_mer.types.predictions import Prediction


class JsonlSink:
    """`jsonl:PATH`: one line per prediction, written to PATH.part and renamed at the end.

    Args:
        rest: The path; "-" for standard output.
    """

    def __init__(self, rest: str) -> None:
        if not rest:
            raise UsageError("sink jsonl: names no file", expected="jsonl:out.jsonl")
        self._is_stdout = rest == "-"
        try:
            self._path = Path(rest).expanduser().resolve()
            self._part = self._path.with_name(self._path.name + ".part")
        except (ValueError, RuntimeError, OSError) as error:  # no name, an unknown user, a ring of links
            raise UsageError(
                f"sink jsonl: {rest!r} names no file", expected="jsonl:out.jsonl", found=str(error)
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
            for path in (self._path, self._part):
                if path.exists() and not path.is_file():
                    raise OSError(f"{path} exists and is no regular file")
            self._file = self._part.open("w", encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"cannot write {self._path}",
                found=getattr(error, "strerror", None) or str(error),
                hint="name a file in a folder that you may write to",
            ) from error

    def write(self, prediction: Prediction) -> None:
        """Append one line and hand it to the operating system."""
        if self._file is None:
            raise RuntimeError("the sink is not open")
        line = json.dumps(prediction.to_dict(), allow_nan=False)  # all of it before any of it is written
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
