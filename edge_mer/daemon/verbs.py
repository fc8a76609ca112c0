"""Verbs of the command line in processes of their own, which give way to inference and end with it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence

from edge_mer.errors import BundleError, EdgeMerError, MissingError, ParityError

_LAST_BYTES = 4000

_ERRORS: dict[int, type[EdgeMerError]] = {4: ParityError, 5: MissingError}


class Verbs:
    """Runs verbs, one at a time; `stop` ends the one that runs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        self._lock = threading.Lock()

    def run(self, arguments: Sequence[str], timeout_s: float) -> None:
        """Run a verb to its end.

        Raises:
            EdgeMerError: It refused, failed or took too long; says what it said last.
        """
        what = f"edge-mer {arguments[0]}"
        with self._lock:
            if self._is_stopped:
                raise MissingError(f"{what} was not begun: the daemon stops")
            self._process = process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "edge_mer.cli.child", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        try:
            _, said = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.communicate()
            raise BundleError(f"{what} took longer than {timeout_s:.0f} s") from error
        if self._is_stopped:
            raise MissingError(
                f"{what} was broken off",
                found="the daemon stops, or takes over another configuration",
                hint="ask again once it serves",
            )
        if process.returncode != 0:
            last = said[-_LAST_BYTES:].decode(errors="replace").strip().rpartition("edge-mer: ")[2]
            kind = _ERRORS.get(process.returncode, BundleError)
            raise kind(f"{what} refused it", found=last or f"exit code {process.returncode}")

    def stop(self) -> None:
        """End what runs, and run nothing more; any thread may."""
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()
