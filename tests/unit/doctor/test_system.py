"""A machine's files, however strange they are."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edge_mer.doctor.finding import Finding, Purpose, lack, note
from edge_mer.doctor.registry import TOPICS, examine, purposes_of
from edge_mer.doctor.system import MAX_BYTES, System, this_system
from tests.helpers.recorded_systems import orin_nano_super, package, recorded, workstation

READ = [
    "/etc/nv_tegra_release",
    "/etc/os-release",
    "/etc/group",
    "/etc/nvpmodel.conf",
    "/var/lib/nvpmodel/status",
    "/var/lib/dpkg/status",
    "/proc/meminfo",
    "/proc/asound/cards",
    "/proc/asound/pcm",
    "/proc/driver/nvidia/version",
    "/proc/device-tree/model",
    "/proc/device-tree/compatible",
    "/proc/sys/kernel/osrelease",
    "/usr/local/cuda/version.json",
    "/etc/ld.so.conf.d/a.conf",
    "/sys/class/video4linux/video0/name",
    "/sys/bus/pci/devices/0/vendor",
    "/home/ada/edge/pyvenv.cfg",
]
"""What doctor reads by name."""


def spoil(place: Path, how: str) -> None:
    """Put something strange in the place of a file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if how == "folder":
        place.mkdir()
    elif how == "pipe":
        os.mkfifo(place)
    elif how == "loop":
        place.symlink_to(place.name)
    elif how == "nowhere":
        place.symlink_to("/nowhere/at/all")
    elif how == "socket":
        here = Path.cwd()
        os.chdir(place.parent)
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(place.name)
        finally:
            os.chdir(here)
    else:
        place.write_bytes({"bytes": bytes(range(256)) * 40, "zeros": bytes(9000), "empty": b""}[how])


@pytest.mark.parametrize("how", ["folder", "pipe", "loop", "nowhere", "socket", "bytes", "zeros", "empty"])
def test_strange_files_are_never_an_error(tmp_path: Path, how: str) -> None:
    """A pipe would block who opens it: that the test ends shows that none was."""
    for path in READ:
        spoil(tmp_path / path.lstrip("/"), how)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/video0").touch()
    system = recorded(tmp_path, {})
    findings = examine(system, purposes_of(system))
    assert {finding.topic for finding in findings} == set(TOPICS)
    assert all(finding.found.isprintable() for finding in findings)


def test_an_empty_machine_is_examined(tmp_path: Path) -> None:
    system = recorded(tmp_path, {})
    assert not [f for f in examine(system, purposes_of(system)) if f.status == "problem"]


def test_what_is_read_is_bounded(tmp_path: Path) -> None:
    system = recorded(tmp_path, {"/big": "x" * 100_000})
    assert len(system.text("/big")) == 65536
    assert len(system.text("/big", MAX_BYTES)) == 100_000


def test_numbers_are_sorted_by_value(tmp_path: Path) -> None:
    system = recorded(tmp_path, {f"/dev/video{n}": "" for n in (10, 9, 0)})
    assert system.paths("/dev/video*") == ["/dev/video0", "/dev/video9", "/dev/video10"]
    assert system.paths("/dev/video9", "/dev/v*", "") == ["/dev/video9", "/dev/video0", "/dev/video10"]


def test_packages_are_read_from_dpkgs_list(tmp_path: Path) -> None:
    text = (
        package("a", "1.0") + "Package: b\n\nStatus: install ok installed\n\n" + package("c", "2", "unpacked")
    )
    system = recorded(tmp_path, {"/var/lib/dpkg/status": text})
    assert {name: (one.version, one.state) for name, one in system.packages.items()} == {
        "a": ("1.0", "installed"),
        "c": ("2", "unpacked"),
    }


def test_nothing_of_the_examined_tree_is_run(tmp_path: Path) -> None:
    """The recorded Jetson's tensorrt would end this process if anything imported it."""
    system = orin_nano_super(tmp_path)
    assert examine(system, purposes_of(system))
    assert "tensorrt" not in sys.modules


def test_purposes(tmp_path: Path) -> None:
    jetson, other = orin_nano_super(tmp_path / "a"), workstation(tmp_path / "b")
    assert purposes_of(jetson) == {Purpose.cpu, Purpose.tensorrt}
    assert purposes_of(other) == {Purpose.cpu}
    assert purposes_of(jetson, [Purpose.camera]) == {Purpose.cpu, Purpose.camera}


def test_only_what_a_purpose_needs_is_a_problem() -> None:
    missing = lack(Purpose.camera, "camera", "none", fix="plug one in")
    assert missing.judged("Sensors", frozenset({Purpose.cpu})).status == "note"
    judged = missing.judged("Sensors", frozenset({Purpose.cpu, Purpose.camera}))
    assert judged.as_json() == {
        "topic": "Sensors",
        "name": "camera",
        "status": "problem",
        "found": "none",
        "expected": None,
        "fix": "plug one in",
        "needed_for": "camera",
    }
    assert note("a", "b").judged("T", frozenset(Purpose)).status == "note"
    assert Finding("a", "b").judged("T", frozenset(Purpose)).status == "ok"


def test_this_machine_is_examined(tmp_path: Path) -> None:
    system = this_system(tmp_path / "cache")
    assert system.interpreter.version == sys.version_info[:3]
    assert system.version_of("numpy") is not None
    assert system.version_of("no-such-distribution") is None
    by_name = {finding.name: finding for finding in examine(system, purposes_of(system))}
    assert by_name["Python"].status in ("ok", "note")
    assert by_name["memory"].found.endswith("GB")
    assert str(tmp_path / "cache") in by_name["engine cache"].found


def test_access_is_that_of_the_process(tmp_path: Path) -> None:
    """As another user, if root runs this; else as the owner of a node that is closed to all."""
    node = tmp_path / "node"
    node.touch()
    node.chmod(0o000)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom edge_mer.doctor.system import System\n"
        "if os.geteuid() == 0:\n    os.setgroups([])\n    os.setgid(65534)\n    os.setuid(65534)\n"
        "print(System.__dataclass_fields__['access'].default(Path(sys.argv[1]), os.R_OK))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(node)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert System.__dataclass_fields__["access"].default is os.access
