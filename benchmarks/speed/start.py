"""A rival in a process of its own: how long until it is ready, and what memory it takes.

    python -m benchmarks.speed.start NAME RIVAL

prints one line of JSON. A joined graph loads nothing of edge-mer, and edge-mer nothing of PyTorch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.speed.kept import Found, folder_of
from benchmarks.speed.rivals.whole import WHOLE, WINDOW, open_whole


def main(name: str, key: str) -> None:
    """Load, predict once, and tell."""
    folder = folder_of(name)
    predict = _open_whole(folder, key) if key.startswith("whole") else _open(folder, key)
    start_s = _age_s()
    predict()
    peak = next(line for line in _status() if line.startswith("VmHWM"))
    found: Found = {
        "start_s": round(start_s, 2),
        "first_s": round(_age_s() - start_s, 2),
        "peak_mb": round(int(peak.split()[1]) * 1024 / 1e6),
    }
    print(json.dumps(found))


def _open_whole(folder: Path, key: str) -> Callable[[], object]:
    import numpy as np

    with np.load(folder / WINDOW) as held:
        feed = {name: held[name] for name in held.files}
    outputs = json.loads((folder / WHOLE).read_text(encoding="utf-8"))["outputs"]
    whole = open_whole(key, folder)
    return lambda: whole.run(feed, outputs)


def _open(folder: Path, key: str) -> Callable[[], object]:
    from benchmarks.speed.made import load
    from benchmarks.speed.rivals.registry import open_rival

    spec, steps = load(folder)
    rival = open_rival(key, folder, spec, steps.of_one())
    return lambda: rival.predict(0)


def _age_s() -> float:
    """How long this process is there, by the machine's ticks of 10 ms."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    began_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began_s


def _status() -> list[str]:
    return Path("/proc/self/status").read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    main(*sys.argv[1:])
