"""Topic: power mode, memory, room for engines, and the clock."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from edge_mer.doctor.finding import Finding, Purpose, lack, note
from edge_mer.doctor.jetpack import is_jetson
from edge_mer.doctor.system import System

MEMORY_TO_BUILD_BYTES = 4_000_000_000
ROOM_FOR_ENGINES_BYTES = 2_000_000_000


def resources(system: System) -> Iterator[Finding]:
    """What the machine can give right now."""
    yield from _power(system)
    yield from _memory(system)
    yield _cache(system)
    yield _clock(system)


def power_modes(system: System) -> dict[int, str]:
    """Number -> name of each power mode that this board offers."""
    text = system.text("/etc/nvpmodel.conf", 1_000_000)
    found = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", text, flags=re.MULTILINE)
    return {int(number): name for number, name in found}


def power_mode(system: System) -> int | None:
    """The mode that was chosen, else the one that the board starts with."""
    chosen = re.search(r"pmode:(\d+)", system.text("/var/lib/nvpmodel/status"))
    start = re.search(r"<\s*PM_CONFIG\s+DEFAULT=(\d+)\s*>", system.text("/etc/nvpmodel.conf", 1_000_000))
    match = chosen or start
    return int(match[1]) if match else None


def _power(system: System) -> Iterator[Finding]:
    modes, now = power_modes(system), power_mode(system)
    if now is None or not modes:
        if is_jetson(system):
            yield Finding("power mode", "not told here")
        return
    name = modes.get(now, f"mode {now}")
    best = next((n for wanted in ("MAXN_SUPER", "MAXN") for n in modes if modes[n] == wanted), None)
    if best is None or best == now:
        yield Finding("power mode", name)
        return
    yield note(
        "power mode",
        f"{name}; {modes[best]} is faster",
        fix=f"sudo nvpmodel -m {best}   # then build-engine again: times change with the mode",
    )


def _memory(system: System) -> Iterator[Finding]:
    facts = dict(re.findall(r"^(\w+):\s+(\d+) kB", system.text("/proc/meminfo"), flags=re.MULTILINE))
    bytes_of = {name: int(value) * 1024 for name, value in facts.items()}
    if "MemAvailable" not in bytes_of or "MemTotal" not in bytes_of:
        yield Finding("memory", "not told here")
        return
    free = bytes_of["MemAvailable"]
    text = f"{_gb(free)} free of {_gb(bytes_of['MemTotal'])}, swap {_gb(bytes_of.get('SwapTotal', 0))}"
    if free >= MEMORY_TO_BUILD_BYTES:
        yield Finding("memory", text)
        return
    stop = "sudo systemctl isolate multi-user.target   # stops the desktop; graphical.target brings it back"
    expected = f"{_gb(MEMORY_TO_BUILD_BYTES)} free to build engines"
    yield note("memory", text, expected, stop if is_jetson(system) else "end other programs")


def _cache(system: System) -> Finding:
    folder = str(system.cache)
    there = next(str(f) for f in (system.cache, *system.cache.parents, Path("/")) if system.exists(str(f)))
    choose = "export EDGE_MER_CACHE=FOLDER   # one that you may write to"
    if not system.at(there).is_dir() or not system.may(there, os.W_OK | os.X_OK):
        return lack(Purpose.cpu, "engine cache", f"{folder} cannot be written", fix=choose)
    try:
        free = system.free_bytes(system.at(there))
    except OSError as error:
        return note("engine cache", f"{folder}: {error.strerror}", fix=choose)
    text = f"{folder}: {_gb(free)} free"
    if free < ROOM_FOR_ENGINES_BYTES:
        expected = f"{_gb(ROOM_FOR_ENGINES_BYTES)}"
        return note("engine cache", text, expected, "export EDGE_MER_CACHE=FOLDER   # on a larger disk")
    return Finding("engine cache", text)


def _clock(system: System) -> Finding:
    if system.clock_synchronised or system.exists("/run/systemd/timesync/synchronized"):
        return Finding("clock", "synchronised")
    found = "not synchronised: records say so, and other machines' streams cannot be told in UTC"
    return note("clock", found, fix="sudo timedatectl set-ntp true")


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
