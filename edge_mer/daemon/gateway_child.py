"""Keeps the gateway going as a process of its own, where nobody else does."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.config import DaemonConfig

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
WELL_AFTER_S = 30.0
"""Whoever ran for so long is begun again at once."""

_STOP_S = 1.5
_GATEWAY = (sys.executable, "-m", "edge_mer.cli.main", "daemon", "--only", "gateway")
_DAEMON_PID = "EDGE_MER_DAEMON_PID"  # by which it knows when it is nobody's child any more
_log = logging.getLogger(__name__)


class GatewayChild:
    """A gateway process that is begun again whenever it ends.

    Args:
        config: The configuration's file.
        clock: Where the time comes from.
    """

    def __init__(self, config: Path, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._process: subprocess.Popen[bytes] | None = None
        self._stop_asked, self._is_wanted = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="edge-mer gateway", daemon=True)

    def start(self) -> None:
        """Begin to keep it going, once it is wanted."""
        self._thread.start()

    def want(self, config: DaemonConfig) -> None:
        """Have it run if a configuration has something for it to do; it reads that itself."""
        if config.http.listen or config.network_sinks:
            self._is_wanted.set()
            return
        self._is_wanted.clear()
        with self._lock:
            if self._process is not None:
                self._process.terminate()

    def stop(self) -> None:
        """End it."""
        self._stop_asked.set()
        self._is_wanted.set()
        with self._lock:
            if self._process is not None:
                self._process.terminate()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def _work(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            self._is_wanted.wait()
            if self._stop_asked.is_set():
                return
            began_ns = self._clock.now_ns()
            code = self._run_once()
            if self._stop_asked.is_set() or not self._is_wanted.is_set():
                continue
            ran_s = (self._clock.now_ns() - began_ns) / NS_PER_S
            pause_s = FIRST_PAUSE_S if ran_s > WELL_AFTER_S else min(2 * pause_s, LONGEST_PAUSE_S)
            ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            _log.warning("the gateway ended (%s): it begins again in %.1f s", ended, pause_s)
            self._stop_asked.wait(pause_s)

    def _run_once(self) -> int:
        with self._lock:
            if self._stop_asked.is_set():
                return 0
            self._process = process = subprocess.Popen(  # noqa: S603
                [*_GATEWAY, "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                env={**os.environ, _DAEMON_PID: str(os.getpid())},
            )
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()
        return 0
