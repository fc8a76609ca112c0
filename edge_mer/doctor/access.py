"""Device nodes that are there and cannot be opened: who may, and how this user may too."""

from __future__ import annotations

import os

from edge_mer.doctor.system import System

RELOGIN = "   # then log out and in again"


def refused(system: System, paths: list[str], mode: int = os.R_OK | os.W_OK) -> list[str]:
    """Those of `paths` that this user may not open."""
    return [path for path in paths if not system.may(path, mode)]


def how_to_open(system: System, paths: list[str]) -> str:
    """The command that lets this user open device nodes."""
    groups: set[str] = set()
    for path in paths:
        group, may = system.group_of(path)
        if not may or group in ("", "root"):
            return _without_group(system, path)
        groups.add(group)
    missing = sorted(group for group in groups if system.user.name not in system.groups[group][1])
    if missing:
        return f"sudo usermod -aG {','.join(missing)} $USER{RELOGIN}"
    return f"newgrp {min(groups)}   # or log out and in again: you joined after this login"


def _without_group(system: System, path: str) -> str:
    if system.in_container:
        return f"docker run --group-add GROUP ...   # the number that stat -c %g {path} prints on the host"
    return f"sudo chmod a+rw {path}   # until the next boot; a udev rule makes it last"
