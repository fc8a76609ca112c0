"""Commands with a limit on their time, and errors that say what to do."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "jetson"
_BEGAN_S = time.monotonic()
_LAST_LINES = 15


class CheckError(Exception):
    """The check could not be made; the message says why, and what to do."""


def say(what: str) -> None:
    """A line of progress, with the time since the start."""
    print(f"[{elapsed_s():4.0f} s] {what}", flush=True)


def elapsed_s() -> float:
    """Seconds since the start."""
    return time.monotonic() - _BEGAN_S


def call(
    what: str,
    command: Sequence[str],
    *,
    limit_s: float,
    env: Mapping[str, str] | None = None,
    hint: str = "",
) -> str:
    """What a command prints.

    Args:
        what: What it does, for messages.
        command: Program and arguments.
        limit_s: It is ended after so long.
        env: Variables that it gets beside those of this process; PYTHONPATH is never passed on.
        hint: What to do when it fails.

    Raises:
        CheckError: It is not there, took too long or failed; with the last lines of what it said.
    """
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | dict(env or {})
    try:
        done = subprocess.run(
            command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except FileNotFoundError as error:
        raise CheckError(f"{what}: there is no {command[0]}\n{hint}") from error
    except subprocess.TimeoutExpired as error:
        raise CheckError(f"{what}: not done after {limit_s:.0f} s\n{hint}") from error
    if done.returncode:
        said = "\n".join(f"  {line}" for line in f"{done.stdout}{done.stderr}".splitlines()[-_LAST_LINES:])
        raise CheckError(f"{what}: exit code {done.returncode}\n{said}\n{hint}".rstrip())
    return done.stdout
