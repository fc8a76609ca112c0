"""A program that sends a stream of the Lab Streaming Layer, until it is killed.

    python lsl_outlet.py '{"name": "Wrist", "type": "EDA", "rate_hz": 50, "channels": [["GSR", "uS", "EDA"]]}'

A numeric stream carries in each channel the true time in seconds of the host's monotonic clock, asked of the
kernel past whatever fakes the clock of this process. A stream of strings carries `texts`, one each 50 ms.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from types import ModuleType

_CLOCK_GETTIME = 228  # of x86-64
_MONOTONIC = 1
WRAP_S = 100.0
"""Times are sent modulo this, so that float32 holds them to some microseconds."""


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


_libc = ctypes.CDLL(None)


def true_s() -> float:
    """Seconds of the kernel's monotonic clock."""
    now = _Timespec()
    _libc.syscall(_CLOCK_GETTIME, _MONOTONIC, ctypes.byref(now))
    return float(now.tv_sec + now.tv_nsec / 1e9)


def _now_s(pylsl: ModuleType) -> tuple[float, float]:
    """The true time, and what LSL's clock shows then, with nothing between them."""
    while True:
        before_s = true_s()
        stamp_s = pylsl.local_clock()
        if true_s() - before_s < 2e-4:
            return before_s, stamp_s


def main() -> None:
    """Send."""
    import pylsl

    given = json.loads(sys.argv[1])
    texts = given.get("texts")
    channels = given.get("channels", [["", "", ""]])
    info = pylsl.StreamInfo(
        given["name"],
        given["type"],
        len(channels),
        given.get("rate_hz", 0),
        "string" if texts else "double64",
        f"{given['name']} of a test",
    )
    described = info.desc().append_child("channels")
    for channel in channels:
        one = described.append_child("channel")
        for key, value in zip(("label", "unit", "type"), channel, strict=True):
            one.append_child_value(key, value)
    outlet = pylsl.StreamOutlet(info)
    period_s = 1 / given["rate_hz"] if given.get("rate_hz") else 0.05
    print("sending", flush=True)  # noqa: T201
    start_s, number = time.monotonic(), 0
    while True:
        while time.monotonic() < start_s + number * period_s:
            time.sleep(period_s / 20)
        if texts is None:
            at_s, stamp_s = _now_s(pylsl)
            outlet.push_sample([at_s % WRAP_S] * len(channels), stamp_s)
        elif outlet.have_consumers() and number < len(texts):
            outlet.push_sample([texts[number]])
        else:
            continue
        number += 1


if __name__ == "__main__":
    main()
