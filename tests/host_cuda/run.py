"""Runs a command where libcuda.so.1 is the host driver: `run.py [--asan] python -m pytest tests/cuda`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "build" / "host-cuda"


def environment(*, asan: bool = False) -> dict[str, str]:
    """The variables under which PyCUDA finds the host driver, and the driver its kernels."""
    path = [str(OUT / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {
        **os.environ,
        "LD_LIBRARY_PATH": str(OUT / "lib"),
        "PYTHONPATH": os.pathsep.join(path),
        "HOST_CUDA_KERNELS": str(OUT / "lib" / ("libkernels-asan.so" if asan else "libkernels.so")),
    }
    if asan:
        # libstdc++ too: AddressSanitizer looks for its way to throw when the process begins. Python keeps
        # what it allocated until it ends; the driver's own counters tell leaks.
        preload = " ".join(runtime(name) for name in ("libasan.so", "libstdc++.so"))
        variables |= {"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0"}
    return variables


def runtime(name: str) -> str:
    """Where g++ has one of its runtime libraries."""
    command = ["g++", f"-print-file-name={name}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return str(Path(found).resolve())


if __name__ == "__main__":
    with_asan = sys.argv[1] == "--asan"
    command = sys.argv[2:] if with_asan else sys.argv[1:]
    os.execvpe(command[0], command, environment(asan=with_asan))  # noqa: S606
