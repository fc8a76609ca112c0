"""Writes docs/soak.md: what sessions and the daemon hold over hours in which much goes wrong.

    make soak

Takes 30 minutes at real pace, with two processes more beside it that play simulated hours, and then 25
minutes with a daemon. What was measured is kept in benchmarks/measured/soak, and is measured anew when its
file is deleted. `python -m benchmarks.soak NAME` measures one alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from benchmarks.soak.kept import ROOT, Found, file_of, keep, kept
from benchmarks.soak.kills import kills
from benchmarks.soak.page import PAGE, page
from benchmarks.soak.sessions import a_day, bundle_hours, live
from benchmarks.soak.swaps import swaps

TOGETHER = ("simulated", "bundle", "live")
"""Measured at the same time; each of the others has the machine for itself."""

MEASURES: dict[str, Callable[[], Found]] = {
    "simulated": a_day,
    "bundle": bundle_hours,
    "live": live,
    "swaps": swaps,
    "kills": kills,
}


def main(names: list[str]) -> None:
    """Measure what is missing, each in a process of its own, or `names` in this one; then write the page."""
    for name in names:
        keep(name, MEASURES[name]())
    if names:
        return
    for group in (TOGETHER, *((name,) for name in MEASURES if name not in TOGETHER)):
        measure([name for name in group if not file_of(name).exists()])
    PAGE.write_text(page({name: kept(name) for name in MEASURES}), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def measure(names: list[str]) -> None:
    """Measure some at the same time, each in a process of its own."""
    started = {
        name: subprocess.Popen([*nice(name), sys.executable, "-m", "benchmarks.soak", name]) for name in names
    }
    failed = [name for name, process in started.items() if process.wait()]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def nice(name: str) -> list[str]:
    """What plays simulated time has all the time in the world."""
    return ["nice", "-n", "10"] if name in ("simulated", "bundle") else []


if __name__ == "__main__":
    main(sys.argv[1:])
