"""The cameras that are attached, without opening one."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from edge_mer.sources.base import Attached
from edge_mer.types.video_nodes import CSI, picture_nodes

GST_LAUNCH = "gst-launch-1.0"
"""The program that runs GStreamer's pipelines."""

_ARGUS = "usr/lib/*-linux-gnu/gstreamer-1.0/libgstnvarguscamerasrc.so"


def linux_cameras(root: Path = Path("/")) -> dict[str, str]:
    """Device node -> name, of every camera that Linux shows.

    Args:
        root: Where the file system begins.
    """
    nodes = sorted((path.name for path in (root / "dev").glob("video[0-9]*")), key=_number)
    return picture_nodes((f"/dev/{name}" for name in nodes), lambda path: _line(root / path.lstrip("/")))


def cameras(root: Path = Path("/")) -> list[Attached]:
    """Those that `camera:` opens."""
    found = []
    for path, name in linux_cameras(root).items():
        if CSI not in name:
            may = os.access(root / path.lstrip("/"), os.R_OK | os.W_OK)
            note = "" if may else "this user may not open it: sudo usermod -aG video $USER, then log in again"
            found.append(Attached(f"camera:{path.removeprefix('/dev/video')}", name, note))
    return found


def csi_sensors(root: Path = Path("/")) -> list[Attached]:
    """Those that `csi:` opens: sensors on a Jetson's camera ports, in the order in which Linux shows them."""
    names = [name for name in linux_cameras(root).values() if CSI in name]
    if not names:
        return []
    lacking = []
    if shutil.which(GST_LAUNCH) is None:
        lacking.append("gstreamer1.0-tools")
    if not any(root.glob(_ARGUS)):
        lacking += ["nvidia-l4t-gstreamer", "nvidia-l4t-camera"]
    note = f"needs more packages: sudo apt-get install {' '.join(lacking)}" if lacking else ""
    return [Attached(f"csi:{number}", name, note) for number, name in enumerate(names)]


def _number(name: str) -> int:
    digits = re.sub("[^0-9]", "", name)
    return int(digits)


def _line(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
