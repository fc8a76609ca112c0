"""Which wheels pip takes for another machine and another Python.

pip reads the tags of wheels for the target, but the conditions of requirements (`; python_version < "3.11"`)
for the Python that it runs on. So what it chose is walked through once more with the target's conditions, and
what the target needs beside it is asked for as well.
"""

from __future__ import annotations

import email
import json
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.jetson.tools import ROOT, WORK, CheckError, call

_MAX_ROUNDS = 10
_OLDEST_GLIBC = 17
_PIP_LIMIT_S = 900
_LACKING = "No matching distribution found"
_NETWORK = "It needs a package index: see `pip config list` if yours is not PyPI."


class NoWheelError(CheckError):
    """Something has no wheel for a target."""


@dataclass(frozen=True)
class Target:
    """A machine to install on.

    Attributes:
        python: Its version, e.g. "3.10".
        glibc: Minor version of its glibc 2.
        machine: As the kernel calls it.
    """

    python: str
    glibc: int
    machine: str = "aarch64"

    def options(self) -> list[str]:
        """What tells pip."""
        tags = [f"manylinux_2_{minor}" for minor in range(_OLDEST_GLIBC, self.glibc + 1)]
        platforms = [
            word for tag in ("manylinux2014", *tags) for word in ("--platform", f"{tag}_{self.machine}")
        ]
        return ["--only-binary=:all:", *platforms, "--python-version", self.python, "--implementation", "cp"]

    def environment(self) -> dict[str, str]:
        """What conditions of requirements speak of."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


@dataclass(frozen=True)
class Wheel:
    """A wheel that was chosen."""

    name: str
    version: str
    file: str


def build_wheel() -> Path:
    """This project's wheel, built anew."""
    folder = WORK / "wheel"
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    for old in folder.glob("*.whl"):
        old.unlink()
    call("building the wheel", command, limit_s=300, hint="make installs hatchling with the extra [dev].")
    (wheel,) = folder.glob("*.whl")
    return wheel


def core_of(wheel: Path) -> list[str]:
    """What a wheel requires without any extra."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        required = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    return [text for text in required if "extra ==" not in text]


def pip(what: str, *arguments: str) -> str:
    """A pip of our own: older ones cannot say what they would install."""
    folder = WORK / "pip"
    if not (folder / "pip").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "pip>=24"]
        call("installing pip", command, limit_s=_PIP_LIMIT_S, hint=_NETWORK)
    quiet = {"PYTHONPATH": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    command = [sys.executable, "-m", "pip", *arguments]
    return call(what, command, limit_s=_PIP_LIMIT_S, env=quiet, hint=_NETWORK)


def resolve(requirements: Iterable[str], target: Target) -> list[Wheel]:
    """Wheels for `requirements` and all that they require there, sorted by name.

    Raises:
        NoWheelError: Something has no wheel for the target.
        CheckError: pip could not be asked.
    """
    asked = list(requirements)
    for _ in range(_MAX_ROUNDS):
        chosen = _ask(asked, target)
        needed, lacking = walk(chosen, target.environment())
        if not lacking:
            return [_wheel(chosen[name]) for name in sorted(needed)]
        asked += lacking
    raise NoWheelError(
        f"no set of wheels fits {target}: after {_MAX_ROUNDS} rounds {lacking} is still lacking"
    )


Chosen = dict[str, dict[str, Any]]
"""Name -> pip's report on what it chose."""


def _ask(asked: Sequence[str], target: Target) -> Chosen:
    what = f"wheels for {target.machine}, Python {target.python}"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
        try:
            pip(what, "install", *options, *target.options(), *asked)
        except CheckError as error:
            if _LACKING not in str(error):
                raise
            raise NoWheelError(str(error)) from error
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {canonicalize_name(item["metadata"]["name"]): item for item in items}


def walk(chosen: Chosen, environment: dict[str, str]) -> tuple[set[str], list[str]]:
    """Names that are needed in `environment`, from those that were asked for on; and requirements not met.

    Of what was asked for in a later round, all was needed.
    """
    left = [
        (name, tuple(item.get("requested_extras", ()))) for name, item in chosen.items() if item["requested"]
    ]
    seen, lacking = set(left), []
    while left:
        name, extras = left.pop()
        for text in chosen[name]["metadata"].get("requires_dist", []):
            requirement = Requirement(text)
            if not _applies(requirement, environment, extras):
                continue
            found = chosen.get(canonicalize_name(requirement.name))
            if found is None or not requirement.specifier.contains(
                found["metadata"]["version"], prereleases=True
            ):
                lacking.append(f"{requirement.name}{_extras(requirement)}{requirement.specifier}")
                continue
            step = (canonicalize_name(requirement.name), tuple(sorted(requirement.extras)))
            if step not in seen:
                seen.add(step)
                left.append(step)
    return {name for name, _ in seen}, sorted(set(lacking))


def _applies(requirement: Requirement, environment: dict[str, str], extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras))


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def _wheel(item: dict[str, Any]) -> Wheel:
    file = item["download_info"]["url"].rpartition("/")[2]
    return Wheel(canonicalize_name(item["metadata"]["name"]), item["metadata"]["version"], file)


def relative(path: Path) -> str:
    """A path as the project's files name it."""
    return str(path.relative_to(ROOT))
