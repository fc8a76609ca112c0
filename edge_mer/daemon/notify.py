"""Tells systemd how a service is: datagrams to the socket that it names, and nothing where it names none."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

from edge_mer.clock import NS_PER_S, Clock, MonotonicClock

_NS_PER_US = 1_000
_PATIENCE_S = 1.0
_MAX_STATUS = 300
_BEATS = 3
"""Signs of life within the time that systemd allows between two."""


class Notifier:
    """The service's side of sd_notify(3).

    Args:
        clock: Where the time comes from.
        environment: Of this process: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID.
    """

    def __init__(self, clock: Clock | None = None, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._clock = MonotonicClock() if clock is None else clock
        name = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name if name.startswith("/") else ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._address else None
        if self._socket is not None:
            self._socket.settimeout(_PATIENCE_S)
        self._beat_ns = _watchdog_ns(environment) // _BEATS
        self._last_ns: int | None = None

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self) -> None:
        """It serves; or, after `reloading`, it does so again."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line that `systemctl status` shows."""
        self._send("STATUS=" + " ".join(text.split())[:_MAX_STATUS])

    def alive(self) -> None:
        """Nothing is stuck. May be called as often as one likes; without a watchdog it does nothing."""
        now_ns = self._clock.now_ns()
        if self._beat_ns and (self._last_ns is None or now_ns - self._last_ns >= self._beat_ns):
            self._last_ns = now_ns
            self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={self._clock.now_ns() // _NS_PER_US}")

    def extend(self, seconds: float) -> None:
        """Starting or stopping may take so much longer, from now on."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * NS_PER_S) // _NS_PER_US}")

    def stopping(self) -> None:
        """It ends."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # a service goes on, whether or not somebody listens
                self._socket.sendto(state.encode(errors="replace"), self._address)


def _watchdog_ns(environment: Mapping[str, str]) -> int:
    """The longest time without a sign of life; 0 where nobody watches this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) * _NS_PER_US if text.isascii() and text.isdigit() else 0
