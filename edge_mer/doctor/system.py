"""The machine as doctor sees it: all is read through a `System`, so that tests can give recorded ones."""

from __future__ import annotations

import getpass
import glob
import grp
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from edge_mer.clock import MonotonicClock
from edge_mer.doctor.probe import Import, probe_all

MAX_BYTES = 64_000_000
"""More is never read of one file; Debian's list of packages has some megabytes."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

_DEFAULT_FOLDERS = (
    "/usr/local/cuda/lib64",
    "/usr/local/cuda-*/lib64",
    "/usr/local/cuda-*/targets/*/lib",
    "/usr/local/lib",
    "/lib/*-linux-gnu",
    "/usr/lib/*-linux-gnu",
    "/usr/lib/*-linux-gnu/nvidia",
    "/usr/lib/*-linux-gnu/tegra",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/wsl/lib",
)


@dataclass(frozen=True)
class Package:
    """A Debian package.

    Attributes:
        version: E.g. "6.2+b77".
        state: The last word of dpkg's status; "installed" is the one that is right.
    """

    version: str
    state: str


@dataclass(frozen=True)
class Interpreter:
    """The Python that edge-mer runs in."""

    version: tuple[int, int, int]
    executable: str
    prefix: str
    base_prefix: str
    path: tuple[str, ...] = ()

    @property
    def is_venv(self) -> bool:
        """Whether it is a virtual environment."""
        return self.prefix != self.base_prefix


@dataclass(frozen=True)
class User:
    """Who asks. `groups` are those of this process, which a login fixed."""

    name: str
    uid: int
    groups: frozenset[str]


@dataclass(frozen=True)
class System:
    """A machine: its files below `root`, and what cannot be read from files.

    Attributes:
        root: Where its file system begins; "/" is this machine.
        machine: E.g. "aarch64".
        interpreter: The Python that runs.
        user: Who runs it.
        cache: Folder of the engine cache.
        imports: What came of importing each module, in a process of its own.
        version_of: Version of an installed Python distribution; None if it is not installed.
        requirements: What edge-mer asks for, as its metadata says it; empty if it is not installed.
        clock_synchronised: Whether the wall clock follows a reference.
        environment: Environment variables.
        access: As `os.access`.
        free_bytes: Free bytes on the disk that holds a folder.
    """

    root: Path
    machine: str
    interpreter: Interpreter
    user: User
    cache: Path
    imports: Mapping[str, Import]
    version_of: Callable[[str], str | None]
    requirements: tuple[str, ...]
    clock_synchronised: bool
    environment: Mapping[str, str] = field(default_factory=dict)
    access: Callable[[Path, int], bool] = os.access
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free

    def at(self, path: str) -> Path:
        """Where an absolute path of that machine lies here."""
        return self.root / path.lstrip("/")

    def exists(self, path: str) -> bool:
        """Whether there is anything at `path`; False too where it cannot be seen."""
        try:
            return self.at(path).exists()
        except OSError:
            return False

    def text(self, path: str, limit: int = 65536) -> str:
        """The beginning of a regular file in printable characters; "" where it cannot be read."""
        try:
            if not stat.S_ISREG(self.at(path).stat().st_mode):
                return ""
            with self.at(path).open("rb") as file:
                return printable(file.read(min(limit, MAX_BYTES)).decode(errors="replace"))
        except (OSError, ValueError):
            return ""

    def line(self, path: str) -> str:
        """A file that holds one line, without the white space around it."""
        return " ".join(self.text(path, 4096).split())

    def paths(self, *patterns: str) -> list[str]:
        """Paths of that machine that fit shell patterns; sorted within each, numbers by their value."""
        found: list[str] = []
        for pattern in patterns:
            try:
                here = [f"/{path.relative_to(self.root)}" for path in self.root.glob(pattern.lstrip("/"))]
            except (OSError, ValueError):
                continue
            found += [path for path in sorted(here, key=_by_number) if path not in found]
        return found

    def size_bytes(self, path: str) -> int | None:
        """Size of a file; None where it cannot be told."""
        try:
            return self.at(path).stat().st_size
        except OSError:
            return None

    def may(self, path: str, mode: int = os.R_OK) -> bool:
        """Whether this user may open `path` so."""
        return self.access(self.at(path), mode)

    def group_of(self, path: str) -> tuple[str, bool]:
        """Group of a device node, and whether that group may read it."""
        try:
            status = self.at(path).stat()
        except OSError:
            return "", False
        names = [name for name, (number, _) in self.groups.items() if number == status.st_gid]
        return (names[0] if names else ""), bool(status.st_mode & stat.S_IRGRP)

    def libraries(self, name: str) -> list[str]:
        """Shared libraries of that name with any version, where the loader or CUDA looks for them."""
        return self.paths(*(f"{folder}/{name}*" for folder in self.library_folders))

    @cached_property
    def library_folders(self) -> tuple[str, ...]:
        """Where shared libraries lie, in the loader's order."""
        asked = [f for f in self.environment.get("LD_LIBRARY_PATH", "").split(":") if f.startswith("/")]
        configured = [
            line.strip()
            for path in self.paths("/etc/ld.so.conf.d/*.conf")
            for line in self.text(path).splitlines()
            if line.startswith("/")
        ]
        return tuple(dict.fromkeys([*(glob.escape(f) for f in asked), *configured, *_DEFAULT_FOLDERS]))

    @cached_property
    def groups(self) -> dict[str, tuple[int, frozenset[str]]]:
        """Every group: its number and its members, as `/etc/group` has them."""
        found = {}
        for line in self.text("/etc/group", 1_000_000).splitlines():
            parts = line.split(":")
            if len(parts) >= 4 and parts[2].isdecimal():
                found[parts[0]] = int(parts[2]), frozenset(filter(None, parts[3].split(",")))
        return found

    @cached_property
    def packages(self) -> dict[str, Package]:
        """Debian packages that dpkg knows."""
        found = {}
        for entry in self.text("/var/lib/dpkg/status", MAX_BYTES).split("\n\n"):
            name, status, version = (_field(entry, key) for key in ("Package", "Status", "Version"))
            if name and status:
                found[name] = Package(version, status.split()[-1])
        return found

    @property
    def in_container(self) -> bool:
        """Whether this is a container, whose devices and libraries come from a host."""
        return self.exists("/.dockerenv") or self.exists("/run/.containerenv")


def printable(text: str) -> str:
    """Without control characters, which a device's name could use to write over the terminal."""
    return _CONTROL.sub(" ", text)


def _by_number(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", path)]


def _field(entry: str, key: str) -> str:
    match = re.search(rf"^{key}: (.*)$", entry, flags=re.MULTILINE)
    return match[1].strip() if match else ""


def this_system(cache: Path) -> System:
    """This machine. Tries out modules in processes of their own, all at a time."""
    return System(
        root=Path("/"),
        machine=os.uname().machine,
        interpreter=Interpreter(
            version=sys.version_info[:3],
            executable=sys.executable,
            prefix=sys.prefix,
            base_prefix=sys.base_prefix,
            path=tuple(filter(None, sys.path)),
        ),
        user=_this_user(),
        cache=cache,
        imports=probe_all(),
        version_of=_installed_version,
        requirements=_requirements(),
        clock_synchronised=MonotonicClock().is_utc_synchronised(),
        environment=dict(os.environ),
    )


def _this_user() -> User:
    names = set()
    for number in (*os.getgroups(), os.getegid()):
        try:
            names.add(grp.getgrgid(number).gr_name)
        except KeyError:
            names.add(str(number))
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run a user that it has no name for
        name = str(os.geteuid())
    return User(name, os.geteuid(), frozenset(names))


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except (PackageNotFoundError, KeyError, OSError):  # or one whose metadata cannot be read
        return None


def _requirements() -> tuple[str, ...]:
    try:
        return tuple(requires("edge-mer") or ())
    except PackageNotFoundError:
        return ()
