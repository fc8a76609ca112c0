"""Topic: operating system, board, Jetson Linux and JetPack."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_mer.doctor.finding import Finding, Purpose, lack, note
from edge_mer.doctor.jetpack import GET_JETPACK, OLDEST, board_of, exact_name_of, is_jetson, l4t_of, name_of
from edge_mer.doctor.system import System

_NVIDIA = re.compile(r"(nvidia-|cuda-|libcud|libcublas|libnv|python3-libnv|tensorrt)")
_RIGHT_STATES = {"installed", "config-files", "not-installed"}


def machine(system: System) -> Iterator[Finding]:
    """What kind of machine it is, and whether its JetPack is whole."""
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', system.text("/etc/os-release"), flags=re.MULTILINE)
    kernel = system.line("/proc/sys/kernel/osrelease")
    yield Finding("system", ", ".join(filter(None, (name[1] if name else "", kernel, system.machine))))
    if system.in_container:
        yield Finding("container", "yes: devices and drivers are those that the host hands in")
    if not is_jetson(system):
        yield Finding("board", "not a Jetson")
        return
    yield Finding("board", board_of(system) or "a Jetson; its name is not told here")
    yield _release(system)
    yield _package(system)
    yield from _unfinished(system)


def _release(system: System) -> Finding:
    l4t = l4t_of(system)
    if l4t is None:
        fix = "docker run --runtime nvidia ..." if system.in_container else None
        return note("Jetson Linux", "/etc/nv_tegra_release is missing", fix=fix)
    text, name = "L4T " + ".".join(map(str, l4t)), name_of(l4t)
    if l4t < OLDEST:
        return lack(Purpose.tensorrt, "Jetson Linux", text, "L4T 36.4 (JetPack 6.1) or newer", GET_JETPACK)
    if name is None:
        return note(
            "Jetson Linux", f"{text}, which this edge-mer does not know", fix="pip install -U edge-mer"
        )
    return Finding("Jetson Linux", f"{text}, that of JetPack {name}")


def _package(system: System) -> Finding:
    package, l4t = system.packages.get("nvidia-jetpack"), l4t_of(system)
    if package is None or package.state != "installed":
        return Finding("JetPack", "the package nvidia-jetpack is not installed; its parts may be")
    name = exact_name_of(l4t) if l4t else None
    if name and package.version.partition("+")[0] != name:
        return note(
            "JetPack",
            f"nvidia-jetpack {package.version}",
            f"{name}, to which this L4T belongs",
            "sudo apt-get update && sudo apt-get install nvidia-jetpack",
        )
    return Finding("JetPack", f"nvidia-jetpack {package.version}")


def _unfinished(system: System) -> Iterator[Finding]:
    """An apt that was interrupted leaves packages that are there and do not work."""
    broken = sorted(
        f"{name} ({package.state})"
        for name, package in system.packages.items()
        if _NVIDIA.match(name) and package.state not in _RIGHT_STATES
    )
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        yield lack(
            Purpose.tensorrt,
            "NVIDIA's packages",
            f"not wholly installed: {', '.join(broken[:3])}{more}",
            fix="sudo dpkg --configure -a && sudo apt-get --fix-broken install",
        )
