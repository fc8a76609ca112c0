"""Topic: Python, the packages of the core, and what is optional."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edge_mer.doctor.finding import Finding, Purpose, lack, note
from edge_mer.doctor.jetpack import is_jetson, jetpack_of
from edge_mer.doctor.system import System
from edge_mer.doctor.tensorrt import sees_system_packages

OLDEST = (3, 10)

_OPENCV = "opencv-python-headless"
_MODULES = {_OPENCV: "cv2"}
"""Distribution -> module, where their names differ."""

_OTHER_OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")

_OPTIONAL = {"workbench": ("export", "calibrate"), "words": ("text",)}
"""What it is for -> the extras that bring it."""


@dataclass(frozen=True)
class Requirement:
    """One line of edge-mer's metadata, such as `numpy>=1.26` or `onnx>=1.18; extra == 'export'`."""

    name: str
    bounds: tuple[tuple[str, tuple[int, ...]], ...]
    extra: str | None

    def admits(self, version: str) -> bool:
        """Whether a version lies within all bounds."""
        numbers = _numbers(version)
        return all(numbers >= bound if sign == ">=" else numbers < bound for sign, bound in self.bounds)

    def __str__(self) -> str:
        return self.name + ",".join(sign + ".".join(map(str, bound)) for sign, bound in self.bounds)


def requirement(line: str) -> Requirement | None:
    """Read one line of metadata; None for one that holds for other Pythons only."""
    head, _, marker = line.partition(";")
    name = re.match(r"[A-Za-z0-9._-]+", head)
    extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
    if name is None or "python_version" in marker:
        return None
    bounds = tuple(
        (sign, tuple(map(int, number.split("."))))
        for sign, number in re.findall(r"(>=|<)\s*([0-9]+(?:\.[0-9]+)*)", head)
    )
    return Requirement(name[0].lower().replace("_", "-"), bounds, extra[1] if extra else None)


def _numbers(version: str) -> tuple[int, ...]:
    head = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(map(int, head[0].split("."))) if head else ()


def python(system: System) -> Iterator[Finding]:
    """The interpreter, the core's packages with their versions, and the optional ones."""
    yield _interpreter(system)
    wanted = [found for line in system.requirements if (found := requirement(line))]
    if not wanted:
        yield note("edge-mer", "not installed as a package; its needs are not known", fix="pip install .")
    yield from _core(system, [one for one in wanted if one.extra is None])
    yield from _opencv(system)
    for purpose, extras in _OPTIONAL.items():
        yield from _optional(system, purpose, [one for one in wanted if one.extra in extras], extras)


def _interpreter(system: System) -> Finding:
    here, jetpack = system.interpreter, jetpack_of(system)
    text = ".".join(map(str, here.version))
    if here.version[:2] < OLDEST:
        return lack(Purpose.cpu, "Python", text, "3.10 or newer")
    if here.is_venv:
        sees = "sees" if sees_system_packages(system) else "does not see"
        text += f" in the environment {here.prefix}, which {sees} the system's packages"
    if jetpack and here.version[:2] != jetpack.python:
        own = ".".join(map(str, jetpack.python))
        fix = f"/usr/bin/python{own} -m venv --system-site-packages NEW   # and pip install edge-mer in it"
        return note("Python", text, f"{own}, for which JetPack's TensorRT is made", fix)
    return Finding("Python", text)


def _core(system: System, wanted: list[Requirement]) -> Iterator[Finding]:
    right = []
    for one in wanted:
        version = system.version_of(one.name)
        tried = system.imports.get(_MODULES.get(one.name, one.name))
        if version is None:
            yield lack(Purpose.cpu, one.name, "not installed", str(one), f"pip install '{one}'")
        elif not one.admits(version):
            yield lack(Purpose.cpu, one.name, version, str(one), f"pip install '{one}'")
        elif tried and tried.state != "ok" and "not tried" not in tried.error:
            found = f"{version}, but importing it fails: {tried.error}"
            yield lack(Purpose.cpu, one.name, found, fix=_mend(one, tried.error))
        else:
            right.append(f"{one.name} {version}")
    if right:
        yield Finding("core packages", ", ".join(right))


def _mend(one: Requirement, error: str) -> str:
    if re.search(r"libGL|libgthread|libglib", error):
        return "sudo apt-get install libgl1 libglib2.0-0"
    return f"pip install --force-reinstall '{one}'"


def _opencv(system: System) -> Iterator[Finding]:
    others = [name for name in _OTHER_OPENCV if system.version_of(name)]
    if others and system.version_of(_OPENCV):
        again = f"pip install --force-reinstall '{_OPENCV}<5'"
        yield note(
            "OpenCV",
            f"{', '.join(others)} beside {_OPENCV}: each writes over the other's files",
            "one of them",
            f"pip uninstall -y {' '.join(others)} && {again}",
        )


def _optional(
    system: System, purpose: str, wanted: list[Requirement], extras: tuple[str, ...]
) -> Iterator[Finding]:
    if not wanted:
        return
    names = sorted({one.name for one in wanted})
    there = [f"{name} {version}" for name in names if (version := system.version_of(name))]
    absent = [name for name in names if not system.version_of(name)]
    fix = f"pip install 'edge-mer[{','.join(extras)}]'"
    if not absent:
        yield Finding(purpose, ", ".join(there))
    elif purpose == "workbench":
        text = f"not installed: {', '.join(absent)}"
        if is_jetson(system):
            yield lack(Purpose.workbench, purpose, f"{text}; its place is a workstation")
        else:
            yield lack(Purpose.workbench, purpose, text, fix=fix)
    else:
        yield note(purpose, f"not installed: {', '.join(absent)}", fix=fix)
