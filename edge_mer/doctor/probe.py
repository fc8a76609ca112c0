"""Tries out modules in processes of their own: a native library that crashes or hangs takes nothing down."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CORE = ("numpy", "scipy", "pydantic", "jinja2", "cv2", "av", "onnxruntime")
"""Modules of the core that doctor itself does without."""

GROUPS = (("tensorrt",), ("pycuda.driver",), ("cuda",), CORE)
"""What shares a process. "cuda" is no module: it asks the driver for its first GPU."""

LIMIT_S = 10.0

State = Literal["ok", "absent", "broken", "crashed", "hung"]


@dataclass(frozen=True)
class Import:
    """What came of importing a module.

    Attributes:
        state: "absent" if there is no such module, "broken" if it is there and raises.
        version: What it calls its version; of "cuda", the newest CUDA that the driver can serve.
        where: Its file; of "cuda", the GPU's name.
        error: Last line of what it raised, or the signal that ended it.
    """

    state: State
    version: str = ""
    where: str = ""
    error: str = ""


def probe_all() -> dict[str, Import]:
    """All that doctor asks for, side by side."""
    with ThreadPoolExecutor(len(GROUPS)) as pool:
        found = list(pool.map(probe, GROUPS))
    return {name: outcome for group in found for name, outcome in group.items()}


def probe(names: Sequence[str], limit_s: float = LIMIT_S) -> dict[str, Import]:
    """Import `names` one after the other in a fresh process of this Python.

    Args:
        names: Modules; "cuda" asks the driver.
        limit_s: The process is ended after this long.

    Returns:
        An outcome for each name; one that was never reached is "absent" with the reason in `error`.
    """
    command = [sys.executable, str(Path(__file__).with_name("probe_child.py")), *names]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(  # noqa: S603 (our own file, and names of modules)
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        written, end = process.communicate(timeout=limit_s)[0], _ending(process.returncode)
    except subprocess.TimeoutExpired:
        process.kill()
        written, end = _rest(process), Import("hung", error=f"no answer within {limit_s:g} s")
    return _outcomes(names, written.splitlines(), end)


def _rest(process: subprocess.Popen[bytes]) -> bytes:
    """What it had written. One that waits inside a driver cannot be ended: it is left behind."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=0.5)[0]
    return b""


def _ending(code: int) -> Import:
    if code >= 0:
        return Import("crashed", error=f"the process ended with {code}")
    with contextlib.suppress(ValueError):
        return Import("crashed", error=f"the process ended by {signal.Signals(-code).name}")
    return Import("crashed", error=f"the process ended by signal {-code}")


def _outcomes(names: Sequence[str], lines: Iterable[bytes], end: Import) -> dict[str, Import]:
    told: dict[str, dict[str, Any]] = {}
    for line in lines:
        with contextlib.suppress(ValueError):  # a line may be cut where the process ended
            told.update(json.loads(line))
    found: dict[str, Import] = {}
    for name in names:
        if name in told:
            found[name] = Import(**told[name])
        else:
            found[name], end = (
                end,
                Import("absent", error="not tried, since another module ended the process"),
            )
    return found
