"""Predictions as JSON lines that are only ever added: what a daemon writes for months."""

from __future__ import annotations

import json
import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import NoReturn

from edge_mer.errors import UsageError
from edge_mer.types import uri_keys
from edge_mer.types.predictions import Prediction

EXAMPLE = "log:predictions.jsonl?max_mb=64&keep=16"
_KEYS = {"max_mb": uri_keys.whole(1, 4096), "keep": uri_keys.whole(1, 1000)}


class LogSink:
    """`log:PATH?max_mb=64&keep=16`: one line per prediction, added to what is there.

    A full file gets a number, PATH.1 being the newest, and the oldest beyond `keep` goes. Lines are handed
    to the operating system one by one: a process that is killed leaves all of them, and a line that a power
    cut left unfinished gets its end when the file is opened again.

    Args:
        rest: The URI after its colon.

    Raises:
        UsageError: No path, an unknown key, or a value that is not allowed.
    """

    def __init__(self, rest: str) -> None:
        path, values = uri_keys.read("log", rest, _KEYS, EXAMPLE)
        if not path:
            raise UsageError("sink log: names no file", expected=EXAMPLE)
        self._path = Path(path).expanduser().resolve()
        self._max_bytes, self._keep = values.get("max_mb", 64) << 20, values.get("keep", 16)
        self._file: _Rotating | None = None

    @property
    def target(self) -> Path:
        """The file that is written now."""
        return self._path

    def open(self) -> None:
        """Go on behind the last line.

        Raises:
            UsageError: The file cannot be written.
        """
        try:
            _end_last_line(self._path)
            self._file = _Rotating(
                self._path, maxBytes=self._max_bytes, backupCount=self._keep, encoding="utf-8"
            )
        except (OSError, ValueError) as error:
            raise self._cannot(error) from error

    def write(self, prediction: Prediction) -> None:
        """Add a line.

        Raises:
            UsageError: The disk is full, or the like.
        """
        if self._file is None:
            raise RuntimeError("the sink is not open")
        line = json.dumps(prediction.to_dict(), allow_nan=False)
        try:
            self._file.emit(logging.makeLogRecord({"msg": line}))
        except OSError as error:
            raise self._cannot(error) from error

    def close(self) -> None:
        """Let go of the file.

        Raises:
            UsageError: The disk is too full for a line that waits.
        """
        held, self._file = self._file, None
        if held is None:
            return
        try:
            held.close()
        except OSError as error:
            raise self._cannot(error) from error

    abandon = close

    def _cannot(self, error: Exception) -> UsageError:
        return UsageError(
            f"cannot write {self._path}",
            found=getattr(error, "strerror", None) or str(error),
            hint="name a file in a folder that you may write to, on a disk with room",
        )


class _Rotating(RotatingFileHandler):
    """Lines as they are; what goes wrong is raised."""

    def handleError(self, record: logging.LogRecord) -> NoReturn:  # noqa: N802
        raise


def _end_last_line(path: Path) -> None:
    """Give an unfinished last line its end."""
    if not path.exists():
        return
    if not path.is_file():
        raise OSError(f"{path} exists and is no regular file")
    with path.open("rb+") as file:
        if file.seek(0, 2) and file.seek(-1, 2) >= 0 and file.read(1) != b"\n":
            file.write(b"\n")
