"""What a process holds, as the kernel tells it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def rss_bytes(pid: int | str = "self") -> int:
    """Resident memory."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


def n_open_files(pid: int | str = "self") -> int:
    """File descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def n_threads(pid: int | str = "self") -> int:
    """Threads, those of libraries too."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def files_held(pid: int, folder: Path) -> set[str]:
    """Files below a folder that are open or mapped; names of those that are deleted end in " (deleted)"."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(str(descriptor.readlink()))
    for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
        found.update(line.split(maxsplit=5)[5:])
    return {name for name in found if name.startswith(f"{folder}/")}


def processes_about(text: str) -> set[int]:
    """Processes whose command line has a text in it."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if text.encode() in (process / "cmdline").read_bytes():
                found.add(int(process.name))
    return found
