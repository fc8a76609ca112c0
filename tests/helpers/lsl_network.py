"""Streams of the Lab Streaming Layer in processes of their own, seen by nobody outside this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

OUTLET = Path(__file__).with_name("lsl_outlet.py")


class LslNetwork:
    """Outlets, each a process.

    Args:
        folder: For liblsl's settings. This process must not have asked liblsl anything before.
    """

    def __init__(self, folder: Path) -> None:
        settings = folder / "lsl_api.cfg"
        # of tests that run beside these, nothing is seen
        session = f"[lab]\nSessionID = tests-{os.getpid()}\n"
        settings.write_text(f"[multicast]\nResolveScope = machine\n{session}", encoding="utf-8")
        os.environ.setdefault("LSLAPICFG", str(settings))
        self._outlets: list[subprocess.Popen[str]] = []

    def send(self, faked: str | None = None, **stream: Any) -> subprocess.Popen[str]:
        """Start an outlet, and return when it sends.

        Args:
            faked: What `faketime` makes of its clock, e.g. "+1000 x1.001".
            stream: What `lsl_outlet.py` takes.
        """
        command = [sys.executable, str(OUTLET), json.dumps(stream)]
        environment = {**os.environ, **(_faked(faked) if faked else {})}
        outlet = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._outlets.append(outlet)
        assert outlet.stdout is not None
        assert outlet.stdout.readline() == "sending\n"
        return outlet

    def stop(self) -> None:
        """End all outlets."""
        for outlet in self._outlets:
            outlet.kill()
            outlet.wait()
            if outlet.stdout is not None:
                outlet.stdout.close()
        self._outlets.clear()


def _faked(clock: str) -> dict[str, str]:
    """What shows a process another time; the command `faketime` would outlive being killed for it."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": clock}
