"""Which JetPack a release of Jetson Linux (L4T) belongs to, and what that JetPack brings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_mer.doctor.system import System

L4T = tuple[int, int, int]

OLDEST: L4T = (36, 4, 0)
"""The first L4T whose TensorRT edge-mer builds for: that of JetPack 6.1."""

GET_JETPACK = "flash a newer JetPack: https://developer.nvidia.com/embedded/jetpack"


@dataclass(frozen=True)
class JetPack:
    """What belongs together on one line of L4T.

    Attributes:
        name: The JetPack of the line's releases that `patches` does not name.
        python: The system's Python, whose TensorRT bindings it brings.
        cuda: CUDA's major and minor version.
        tensorrt: How a version of TensorRT that belongs to it may begin.
        dla_package: Debian package of libnvdla_compiler.so, which its TensorRT needs; None where no
            TensorRT of it does, and no package holds it.
        patches: Third number of L4T -> JetPack.
    """

    name: str
    python: tuple[int, int]
    cuda: str
    tensorrt: tuple[str, ...]
    dla_package: str | None = None
    patches: Mapping[int, str] = field(default_factory=dict)


LINES: dict[tuple[int, int], JetPack] = {
    (36, 4): JetPack(
        "6.1 or 6.2",
        (3, 10),
        "12.6",
        ("10.3.",),
        "nvidia-l4t-dla-compiler",
        {0: "6.1", 3: "6.2", 4: "6.2.1", 7: "6.2.1"},
    ),
    (36, 5): JetPack(
        "6.2.2 or later", (3, 10), "12.6", ("10.3.",), "nvidia-l4t-dla-compiler", {0: "6.2.2", 2: "6.2.3"}
    ),
    (38, 2): JetPack("7.0", (3, 12), "13.0", ("10.13.",), patches={0: "7.0"}),
    (38, 4): JetPack("7.1", (3, 12), "13.0", ("10.13.",), patches={0: "7.1"}),
    (39, 2): JetPack("7.2", (3, 12), "13.2", ("10.16.", "11."), patches={0: "7.2", 1: "7.2.1", 2: "7.2.2"}),
}
"""By major and minor number of L4T."""


def l4t_of(system: System) -> L4T | None:
    """The release of Jetson Linux; None on other machines, and where a container hides it."""
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+)\.(\d+)", system.text("/etc/nv_tegra_release"))
    if match is None and (core := system.packages.get("nvidia-l4t-core")):
        match = re.match(r"(\d+)\.(\d+)\.(\d+)", core.version)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def board_of(system: System) -> str:
    """The board's name, e.g. "NVIDIA Jetson AGX Orin Developer Kit"; "" where it is not told."""
    return system.line("/proc/device-tree/model")


def is_jetson(system: System) -> bool:
    """Whether this is a Jetson; in a container too, which shares the host's kernel."""
    hints = system.line("/proc/device-tree/compatible"), system.line("/proc/sys/kernel/osrelease")
    return (
        l4t_of(system) is not None or "Jetson" in board_of(system) or any("tegra" in hint for hint in hints)
    )


def jetpack_of(system: System) -> JetPack | None:
    """What should be here; None where this L4T is not known."""
    l4t = l4t_of(system)
    return LINES.get(l4t[:2]) if l4t else None


def name_of(l4t: L4T) -> str | None:
    """JetPack of a release, as exactly as it is known; None where its line is not."""
    line = LINES.get(l4t[:2])
    return line.patches.get(l4t[2], line.name) if line else None


def exact_name_of(l4t: L4T) -> str | None:
    """JetPack of a release, e.g. "6.2.1", as its package says it; None where that is not known."""
    line = LINES.get(l4t[:2])
    return line.patches.get(l4t[2]) if line else None
