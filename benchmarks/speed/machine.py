"""The machine: processor, what it can multiply, and how busy it was."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path

from benchmarks.speed.kept import Found

ABILITIES = {
    "AMX": ("amx_int8", "amx_tile"),
    "bf16": ("avx512_bf16",),
    "VNNI": ("avx512_vnni",),
    "AVX512": ("avx512f", "avx512bw", "avx512vl"),
    "AVX-VNNI": ("avx_vnni",),
    "AVX2": ("avx2", "fma"),
}
"""What products of a few bits are made of, and the flags in /proc/cpuinfo by which one knows."""

LIBRARIES = ("torch", "onnxruntime", "openvino")


def machine() -> Found:
    """Processor, abilities, threads, memory, versions, and the load before anything ran."""
    facts = _cpuinfo()
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return {
        "processor": facts.get("model name") or platform.machine(),
        "has": [name for name, needed in ABILITIES.items() if flags.issuperset(needed)],
        "lacks": [name for name, needed in ABILITIES.items() if not flags.issuperset(needed)],
        "threads": len(os.sched_getaffinity(0)),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "load_before": round(os.getloadavg()[0], 2),
    }


class Others:
    """How much of the processor others used since this was made.

    Their threads make PyTorch's wait for each other, and slow it down far more than they slow down the rest.
    """

    def __init__(self) -> None:
        self._began_s, self._busy_s, self._own_s = time.monotonic(), busy_seconds(), _own_s()

    def share(self) -> float:
        """Of all processors' time, 0 to 1; children of this process that have ended are not others."""
        took_s = time.monotonic() - self._began_s
        others_s = busy_seconds() - self._busy_s - (_own_s() - self._own_s)
        return round(max(0.0, others_s / took_s / (os.cpu_count() or 1)), 3)


def busy_seconds() -> float:
    """Time in which a processor worked, or was taken away by the machine's host."""
    text = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    user, nice, system, _idle, _wait, irq, soft_irq, steal = (int(one) for one in text.split()[1:9])
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _cpuinfo() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = (line.partition(":") for line in reversed(lines) if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}
