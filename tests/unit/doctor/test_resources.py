"""Power mode, memory, the engine cache and the clock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_mer.doctor.resources import power_mode, power_modes
from tests.helpers.recorded_systems import (
    MEMINFO,
    POWER_AGX,
    agx_orin,
    found,
    orin_nano_super,
    problems,
    recorded,
    workstation,
)


def test_the_fastest_mode_is_well(tmp_path: Path) -> None:
    finding = found(orin_nano_super(tmp_path))["power mode"]
    assert (finding.status, finding.found) == ("ok", "MAXN_SUPER")


def test_a_slower_mode_is_noted_with_the_number_of_the_fastest(tmp_path: Path) -> None:
    """On an Orin Nano Super the highest number is the slowest mode, and 0 is not the fastest."""
    system = orin_nano_super(tmp_path)
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0003\nfmode:quiet\n")
    finding = found(system)["power mode"]
    assert (finding.status, finding.found) == ("note", "7W; MAXN_SUPER is faster")
    assert str(finding.fix).startswith("sudo nvpmodel -m 2 ")


def test_before_a_mode_is_chosen_the_default_holds(tmp_path: Path) -> None:
    system = agx_orin(tmp_path)
    assert power_modes(system) == {0: "MAXN", 3: "MODE_50W"}
    assert power_mode(system) == 3
    assert found(system)["power mode"].found == "MODE_50W; MAXN is faster"


@pytest.mark.parametrize("status", ["", "pmode:", "\xff\xfe", "pmode:9999"])
def test_strange_power_files(tmp_path: Path, status: str) -> None:
    files: dict[str, str | bytes] = {
        "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3",
        "/var/lib/nvpmodel/status": status,
        "/etc/nvpmodel.conf": POWER_AGX if "9" in status else "< POWER_MODEL ID=x >",
    }
    finding = found(recorded(tmp_path, files))["power mode"]
    assert finding.found == ("mode 9999; MAXN is faster" if "9" in status else "not told here")


def test_workstations_have_no_power_mode(tmp_path: Path) -> None:
    assert "power mode" not in found(workstation(tmp_path))


def test_little_memory_is_noted(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path)
    (tmp_path / "proc/meminfo").write_text(MEMINFO.format(total=7_800_000, free=3_906_249))
    finding = found(system)["memory"]
    assert (finding.status, finding.expected) == ("note", "4.0 GB free to build engines")
    assert finding.found == "4.0 GB free of 8.0 GB, swap 4.0 GB"
    assert "multi-user.target" in str(finding.fix)
    (tmp_path / "proc/meminfo").write_text(MEMINFO.format(total=7_800_000, free=3_906_250))
    assert found(system)["memory"].status == "ok"


def test_memory_that_is_not_told(tmp_path: Path) -> None:
    assert found(recorded(tmp_path, {"/proc/meminfo": "\0\1MemAvailable: much"}))["memory"].found == (
        "not told here"
    )


def test_the_cache_asks_the_folder_that_is_there(tmp_path: Path) -> None:
    asked = []

    def free(folder: Path) -> int:
        asked.append(folder)
        return 1_900_000_000

    finding = found(workstation(tmp_path, free_bytes=free))["engine cache"]
    assert asked == [tmp_path / "home/ada"]
    assert (finding.status, finding.expected) == ("note", "2.0 GB")
    assert finding.found == "/home/ada/.cache/edge-mer: 1.9 GB free"
    enough = workstation(tmp_path, free_bytes=lambda folder: 2_000_000_000)
    assert found(enough)["engine cache"].status == "ok"


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    system = workstation(tmp_path, access=lambda path, mode: not mode & os.W_OK)
    finding = problems(system)["engine cache"]
    assert finding.found == "/home/ada/.cache/edge-mer cannot be written"
    assert str(finding.fix).startswith("export EDGE_MER_CACHE=")


def test_a_file_in_the_place_of_the_cache(tmp_path: Path) -> None:
    system = workstation(tmp_path)
    place = tmp_path / "home/ada/.cache"
    place.write_text("no folder")
    assert "cannot be written" in problems(system)["engine cache"].found


def test_a_disk_that_gives_no_answer(tmp_path: Path) -> None:
    def fail(folder: Path) -> int:
        raise OSError(5, "Input/output error")

    assert "Input/output error" in found(workstation(tmp_path, free_bytes=fail))["engine cache"].found


def test_the_clock(tmp_path: Path) -> None:
    assert found(workstation(tmp_path))["clock"].status == "ok"
    system = workstation(tmp_path, clock_synchronised=False)
    assert found(system)["clock"].fix == "sudo timedatectl set-ntp true"
    mark = tmp_path / "run/systemd/timesync/synchronized"
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert found(system)["clock"].status == "ok"
