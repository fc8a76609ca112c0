"""Which of Linux's video devices give pictures, and what they call themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

CSI = "CSI, raw pictures"
"""What the name of a sensor on a Jetson's own camera port ends with, in brackets."""


def picture_nodes(nodes: Iterable[str], line: Callable[[str], str]) -> dict[str, str]:
    """Device node -> name, for nodes that give pictures; a camera has others, for its settings.

    Args:
        nodes: Paths such as "/dev/video0".
        line: Gives the line that a file of one line holds; "" where it cannot be read.
    """
    found = {}
    for path in nodes:
        folder = f"/sys/class/video4linux/{path.removeprefix('/dev/')}"
        if line(f"{folder}/index") in ("", "0"):
            found[path] = _name(line(f"{folder}/name"))
    return found


def _name(name: str) -> str:
    sensor = re.match(r"vi-output, (\S+)", name)
    return f"{sensor[1]} ({CSI})" if sensor else name or "no name"
