"""The tests of the kernels on this GPU: as they are, and under compute-sanitizer."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.table import Goal, Row, duration, not_run

ROOT = Path(__file__).resolve().parents[2]
PART = "tests"
NONE = Goal(0, " failures", is_most=True)
FOUND = 86
"""Exit code by which compute-sanitizer says that it found something."""

PYTEST = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider")
ALL = ("tests/cuda",)
SHARED_MEMORY = ("tests/cuda/test_gpu_audio.py", "-k", "jmt or textbook or vggish or again or silence")
"""What uses shared memory and barriers, each way of it once."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code; None: it was not done in time, and ended.
        said: What it printed.
        took_s: How long it ran.
    """

    code: int | None
    said: str
    took_s: float


def plain_tests(limit_s: float) -> Row:
    """All of them, as they are."""
    ended = run([*PYTEST, *ALL], limit_s)
    return judged("tests/cuda on this GPU", ended, limit_s, summary="")


def sanitizer_tests(tool: str, tests: Sequence[str], limit_s: float) -> Row:
    """Some under a tool of compute-sanitizer; calls that tests let fail on purpose do not count."""
    measured = f"{' '.join(tests[:1])} under compute-sanitizer, {tool}"
    program = find_sanitizer()
    if program is None:
        return not_run(PART, measured, "compute-sanitizer is not there")
    command = [
        program,
        "--tool",
        tool,
        "--error-exitcode",
        str(FOUND),
        "--report-api-errors",
        "no",
        *PYTEST,
        *tests,
    ]
    ended = run(command, limit_s)
    if "Device not supported" in ended.said:
        return not_run(PART, measured, "compute-sanitizer does not support this device here")
    return judged(measured, ended, limit_s, summary=r"^=+ (\w+ SUMMARY: .*)$")


def find_sanitizer() -> str | None:
    """Where compute-sanitizer is."""
    folders = [os.environ.get(name, "") for name in ("CUDA_ROOT", "CUDA_HOME")]
    places = [f"{folder}/bin" for folder in (*folders, "/usr/local/cuda") if folder]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *places]))


def run(command: Sequence[str], limit_s: float) -> Ended:
    """Run it from the project's folder; plugins of pytest that happen to be there stay out."""
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    began_s = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what it started, too
            said, _ = process.communicate()
            return Ended(None, said, limit_s)
    return Ended(process.returncode, said, time.monotonic() - began_s)


def judged(measured: str, ended: Ended, limit_s: float, summary: str) -> Row:
    """A row of how it ended.

    Args:
        measured: What was run.
        ended: How.
        limit_s: What it was given.
        summary: Pattern of a line that must be there, of which the first group is told; "" = none.
    """
    if ended.code is None:
        return not_run(PART, measured, f"not done within {limit_s:.0f} s")
    counts = re.findall(
        r"^.*\b\d+ (?:passed|failed|error|skipped).* in [\d.]+s.*$", ended.said, flags=re.MULTILINE
    )
    told = re.findall(summary, ended.said, flags=re.MULTILINE) if summary else []
    found = "; ".join([*(one.strip("= ") for one in counts[-1:]), *told[-1:], duration(1000 * ended.took_s)])
    is_well = ended.code == 0 and bool(counts) and " passed" in counts[-1] and (bool(told) or not summary)
    data = {"exit_code": ended.code} if is_well else {"exit_code": ended.code, "said": ended.said[-6000:]}
    return Row(PART, measured, found, 0.0 if is_well else 1.0, NONE, data=data)
