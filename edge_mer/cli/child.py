"""The command line as the daemon calls it: with a low priority, and for as long as the daemon lives."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

from edge_mer.cli.main import main

_PR_SET_PDEATHSIG = 1
_NICENESS = 10


def main_of_child() -> int:
    """Run a verb."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.nice(_NICENESS)
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main_of_child())
