"""Topic: cameras, microphones and biosensors that are plugged in, and whether this user may open them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_mer.doctor.access import how_to_open, refused
from edge_mer.doctor.finding import Finding, Purpose, lack
from edge_mer.doctor.system import System
from edge_mer.types.video_nodes import picture_nodes


def sensors(system: System) -> Iterator[Finding]:
    """What is plugged in."""
    yield from _shown(system, Purpose.camera, "camera", "/dev/video0", cameras(system))
    yield from _shown(system, Purpose.microphone, "microphone", "/dev/snd", microphones(system))
    yield from _shown(system, Purpose.serial, "serial port", "/dev/ttyUSB0", serial_ports(system))


def cameras(system: System) -> dict[str, str]:
    """Device node -> name, for nodes that give pictures; a camera has others, for its settings."""
    return picture_nodes(system.paths("/dev/video[0-9]*"), system.line)


def microphones(system: System) -> dict[str, str]:
    """Device node -> name of each device that records."""
    cards = {
        int(number): name.strip()
        for number, name in re.findall(
            r"^ *(\d+) \[[^\]]*\]: [^\n]*? - ([^\n]+)$", system.text("/proc/asound/cards"), flags=re.MULTILINE
        )
    }
    found = {}
    for line in system.text("/proc/asound/pcm").splitlines():
        match = re.match(r"(\d+)-(\d+): ([^:]*).*\bcapture \d+", line)
        # A Jetson's audio bus shows twenty ADMAIF channels, whether anything is wired to them or not.
        if match and "ADMAIF" not in line:
            card, device = int(match[1]), int(match[2])
            found[f"/dev/snd/pcmC{card}D{device}c"] = cards.get(card) or match[3].strip()
    return found


def serial_ports(system: System) -> dict[str, str]:
    """Device node -> what its adapter calls itself."""
    names = {}
    for link in system.paths("/dev/serial/by-id/*"):
        try:
            names[system.at(link).resolve().name] = link.rpartition("/")[2]
        except OSError:
            continue
    ports = system.paths("/dev/ttyUSB*", "/dev/ttyACM*")
    return {path: names.get(path.removeprefix("/dev/"), "") for path in ports}


def _shown(
    system: System, purpose: Purpose, name: str, example: str, devices: dict[str, str]
) -> Iterator[Finding]:
    if not devices:
        fix = f"docker run --device {example} ...   # if the host has one" if system.in_container else None
        yield lack(purpose, name, "none", fix=fix)
    for path, label in devices.items():
        text = f"{path}: {label}" if label else path
        if system.exists(path) and refused(system, [path]):
            found = f"{text}; {system.user.name} may not open it"
            yield lack(purpose, name, found, fix=how_to_open(system, [path]))
        else:
            yield Finding(name, text)
