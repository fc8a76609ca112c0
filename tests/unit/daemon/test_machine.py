"""What a machine says of itself: heat, power, memory."""

from __future__ import annotations

from pathlib import Path

from edge_mer.daemon.health import power_w, temperatures_c
from edge_mer.daemon.swap import free_memory_bytes


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_zones_that_can_be_read_are_told(tmp_path: Path) -> None:
    write(tmp_path / "thermal_zone0", type="cpu-thermal\n", temp="51500\n")
    write(tmp_path / "thermal_zone1", type="broken\n", temp="\n")
    write(tmp_path / "thermal_zone2", type="nothing\n")
    write(tmp_path / "cooling_device0", type="fan\n", temp="1\n")
    assert temperatures_c(tmp_path) == {"cpu-thermal": 51.5}
    assert temperatures_c(tmp_path / "none") == {}


def test_a_boards_power_is_volts_times_amperes(tmp_path: Path) -> None:
    write(tmp_path / "hwmon0", name="acpitz\n")
    rails = {"in1_label": "VDD_CPU\n", "in1_input": "19000\n", "curr1_input": "100\n"}
    rails |= {"in2_label": "VDD_IN\n", "in2_input": "19000\n", "curr2_input": "500\n"}
    write(tmp_path / "hwmon1", name="ina3221\n", **rails)
    assert power_w(tmp_path) == 9.5
    assert power_w(tmp_path / "none") is None


def test_memory_is_the_least_of_machine_and_share(tmp_path: Path) -> None:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    write(proc, meminfo="MemTotal: 9 kB\nMemAvailable: 4096 kB\n")
    assert free_memory_bytes(proc, cgroup) == 4 << 20
    write(proc / "self", cgroup="0::/system.slice/edge-mer.service\n")
    unit = cgroup / "system.slice" / "edge-mer.service"
    write(unit, **{"memory.max": "max\n", "memory.current": "5\n"})
    assert free_memory_bytes(proc, cgroup) == 4 << 20
    (unit / "memory.max").write_text("2097152\n")
    (unit / "memory.current").write_text("1048576\n")
    assert free_memory_bytes(proc, cgroup) == 1 << 20
    assert free_memory_bytes(tmp_path / "none", cgroup) is None
