"""The machine: processor, what it can multiply, and how busy it was."""

from __future__ import annotations

import importlib.metadata
import os
import platform
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


def _cpuinfo() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = (line.partition(":") for line in reversed(lines) if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}
