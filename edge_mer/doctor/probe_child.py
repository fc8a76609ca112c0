"""Runs as a process of its own: imports modules and writes one line of JSON about each.

Nothing but the standard library is imported here, and nothing of edge-mer.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO


def main(names: list[str]) -> None:
    """Try each name; what libraries print goes nowhere."""
    here = Path(__file__).parent
    # neither this folder nor the one that the user stands in may offer a module
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry) != here]
    out = _own_output()
    for name in names:
        out.write(json.dumps({name: _cuda() if name == "cuda" else _imported(name)}) + "\n")
        out.flush()
    os._exit(0)  # some libraries crash while they are unloaded, which harms nobody


def _own_output() -> TextIO:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return out


def _imported(name: str) -> dict[str, str]:
    top = name.partition(".")[0]
    try:
        import_module(name)
        module = sys.modules[top]
    except ModuleNotFoundError as error:
        state = "absent" if error.name == top else "broken"
        return {"state": state, "error": _last_line(error), "where": _file(top)}
    except BaseException as error:
        return {"state": "broken", "error": _last_line(error), "where": _file(top)}
    version = getattr(module, "__version__", None) or getattr(module, "VERSION_TEXT", "")
    return {"state": "ok", "version": str(version), "where": _file(top)}


def _file(top: str) -> str:
    """Where a module would come from, even if importing it failed."""
    try:
        found = find_spec(top)
    except (ImportError, ValueError):
        return ""
    return str((found and found.origin) or "")


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:500]


def _cuda() -> dict[str, str]:
    """Ask the driver for its first GPU, as any CUDA program would."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        state = "absent" if str(error).startswith("libcuda.so.1: cannot open") else "broken"
        return {"state": state, "error": _last_line(error)}
    code = driver.cuInit(0)
    if code != 0:
        return {"state": "broken", "error": f"cuInit gives {code}{_meaning(driver, code)}"}
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDeviceGetCount(ctypes.byref(count))
    driver.cuDriverGetVersion(ctypes.byref(version))
    if count.value == 0:
        return {"state": "broken", "error": "the driver has no GPU"}
    major, minor = version.value // 1000, version.value % 1000 // 10
    return {"state": "ok", "version": f"{major}.{minor}", "where": _gpu_name(driver)}


def _meaning(driver: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(text))
    return f": {text.value.decode(errors='replace')}" if text.value else ""


def _gpu_name(driver: ctypes.CDLL) -> str:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, len(name), device)
    return name.value.decode(errors="replace")


if __name__ == "__main__":
    main(sys.argv[1:])
