"""Waiting for other processes and machines, which have no injected clock."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

DEADLINE_S = 30.0


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(is_it: Callable[[], bool], what: str) -> None:
    """Look until something has come about."""
    until_s = time.monotonic() + DEADLINE_S
    while not is_it():
        assert time.monotonic() < until_s, f"not in {DEADLINE_S:g} s: {what}"
        time.sleep(0.01)
