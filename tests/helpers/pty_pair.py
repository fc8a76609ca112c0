"""A serial cable without a serial port: what is written at one end is read at the other."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

_READY_S = 30.0


class PtyPair:
    """Two pseudo-terminals that socat joins.

    Args:
        folder: For the names of its ends.

    Attributes:
        port: The end that is given to whoever reads.
    """

    def __init__(self, folder: Path) -> None:
        self.port, self._far = folder / "sensor", folder / "far"
        self._socat: subprocess.Popen[bytes] | None = None
        self._fd: int | None = None
        self._lock = threading.Lock()  # what was closed is somebody else's the next moment

    def plug(self) -> None:
        """Return when both ends are there."""
        ends = [f"pty,raw,echo=0,link={end}" for end in (self.port, self._far)]
        self._socat = subprocess.Popen(["socat", *ends])
        until_s = time.monotonic() + _READY_S
        while not (self.port.exists() and self._far.exists()):
            if time.monotonic() > until_s or self._socat.poll() is not None:
                self.unplug()
                raise RuntimeError(f"socat made no terminals within {_READY_S} s")
            os.sched_yield()
        self._fd = os.open(self._far, os.O_WRONLY | os.O_NOCTTY)

    def write(self, data: bytes) -> None:
        """What the sensor sends."""
        with self._lock:
            assert self._fd is not None
            while data:
                data = data[os.write(self._fd, data) :]

    def unplug(self) -> None:
        """Take the cable out; harmless when it is out."""
        if self._socat is not None:
            self._socat.kill()
            self._socat.wait()
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
            self._fd = self._socat = None
        for end in (self.port, self._far):
            end.unlink(missing_ok=True)
