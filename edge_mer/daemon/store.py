"""Bundles that were swapped in, and which of them serves: survives a power cut at any moment."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.errors import BundleError, UsageError
from edge_mer.files import write_atomically

_RECORD = "current.json"
_INCOMING = "incoming-"
_log = logging.getLogger(__name__)


class BundleStore:
    """Keeps the bundle that serves and the one before it.

    The configured one serves until another is swapped in; once the configured bundle is another one, what was
    swapped in is forgotten.

    Args:
        state_dir: Where it keeps them.
        configured: The bundle that the configuration names.

    Raises:
        BundleError: The configured bundle is none.
        UsageError: The folder cannot be made.
    """

    def __init__(self, state_dir: Path, configured: Path) -> None:
        self._folder = state_dir / "bundles"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot make {self._folder}", found=error.strerror, hint="set state_dir"
            ) from error
        self._configured = configured
        self._configured_id = open_bundle(configured).bundle_id
        self._current, self._previous = self._read()

    @property
    def current(self) -> Path:
        """The folder of the bundle that serves."""
        return self._path(self._current)

    @property
    def previous(self) -> Path | None:
        """That of the one before it; None: there was none."""
        return None if self._previous is None else self._path(self._previous)

    def place_for(self, number: int) -> Path:
        """Where a bundle that comes in is unpacked; nothing is there."""
        path = self._folder / f"{_INCOMING}{number}"
        shutil.rmtree(path, ignore_errors=True)
        return path

    def place(self, incoming: Path) -> Path:
        """Give a bundle that came in its own folder, of its id; one that has its place keeps it."""
        if not incoming.name.startswith(_INCOMING):
            return incoming
        path = self._folder / open_bundle(incoming).bundle_id.removeprefix("sha256:")[:32]
        if path in (self.current, self.previous):
            shutil.rmtree(incoming)
            return path
        shutil.rmtree(path, ignore_errors=True)
        incoming.rename(path)
        return path

    def take(self, bundle: Path) -> None:
        """This one serves from now on, and what served is the previous one."""
        name = "" if bundle == self._configured else bundle.name
        if name != self._current:
            self._current, self._previous = name, self._current
        self._write()
        self.clean()

    def _path(self, name: str) -> Path:
        return self._folder / name if name else self._configured

    def _read(self) -> tuple[str, str | None]:
        """Names of the current and the previous bundle; "" is the configured one."""
        try:
            record: dict[str, Any] = json.loads((self._folder / _RECORD).read_text(encoding="utf-8"))
            if record["configured"] != self._configured_id:
                return "", None
            names = record["current"], record["previous"]
        except FileNotFoundError:
            return "", None
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning(
                "%s cannot be read (%s): the configured bundle serves", self._folder / _RECORD, error
            )
            return "", None
        good = [name for name in names if isinstance(name, str) and self._is_whole(name)]
        if not good or good[0] != names[0]:
            return (good[0], None) if good else ("", None)
        return good[0], good[1] if len(good) > 1 else None

    def _is_whole(self, name: str) -> bool:
        if not name:
            return True
        if not name.isalnum():
            return False
        try:
            self._opened(name).check_files()
        except BundleError as error:
            _log.warning("a bundle that was swapped in is broken: %s", error)
            return False
        return True

    def _opened(self, name: str) -> Bundle:
        return open_bundle(self._path(name))

    def _write(self) -> None:
        record = {"configured": self._configured_id, "current": self._current, "previous": self._previous}
        write_atomically(self._folder / _RECORD, json.dumps(record).encode())

    def clean(self) -> None:
        """Remove what neither serves nor served before."""
        kept = {self._current, self._previous, _RECORD}
        for path in self._folder.iterdir():
            if path.name in kept:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
