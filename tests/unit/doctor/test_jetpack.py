"""Which JetPack a machine has, by the files that machines of each have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_mer.doctor.jetpack import LINES, is_jetson, jetpack_of, l4t_of, name_of
from edge_mer.doctor.system import System
from tests.helpers.recorded_systems import (
    agx_orin,
    found,
    notes,
    orin_jetpack_7,
    orin_nano_super,
    package,
    problems,
    recorded,
    tegra_release,
    thor,
    workstation,
)


@pytest.mark.parametrize(
    ("make", "l4t", "name", "cuda", "python"),
    [
        (orin_nano_super, (36, 4, 3), "6.2", "12.6", (3, 10)),
        (agx_orin, (36, 4, 7), "6.2.1", "12.6", (3, 10)),
        (thor, (38, 4, 0), "7.1", "13.0", (3, 12)),
        (orin_jetpack_7, (39, 2, 0), "7.2", "13.2", (3, 12)),
    ],
)
def test_a_whole_jetpack_has_no_problem(
    tmp_path: Path,
    make: Callable[[Path], System],
    l4t: tuple[int, int, int],
    name: str,
    cuda: str,
    python: tuple[int, int],
) -> None:
    system = make(tmp_path)
    assert l4t_of(system) == l4t
    assert name_of(l4t) == name
    jetpack = jetpack_of(system)
    assert jetpack is not None
    assert (jetpack.cuda, jetpack.python) == (cuda, python)
    assert problems(system) == {}
    assert found(system)["Jetson Linux"].found.endswith(f"that of JetPack {name}")


def test_thor_with_jetpack_7_0(tmp_path: Path) -> None:
    system = thor(tmp_path, "2.2", "7.0+b128")
    assert "JetPack 7.0" in found(system)["Jetson Linux"].found
    assert problems(system) == {}


def test_the_board_is_named_without_what_follows_its_name(tmp_path: Path) -> None:
    board = found(orin_nano_super(tmp_path))["board"].found
    assert board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"


def test_a_workstation_is_no_jetson(tmp_path: Path) -> None:
    system = workstation(tmp_path)
    assert not is_jetson(system)
    assert found(system)["board"].found == "not a Jetson"
    assert {"Jetson Linux", "JetPack"}.isdisjoint(found(system))


def test_without_its_file_the_package_tells_the_release(tmp_path: Path) -> None:
    system = recorded(tmp_path, {"/var/lib/dpkg/status": package("nvidia-l4t-core", "36.5.2-20260716114719")})
    assert l4t_of(system) == (36, 5, 2)
    assert name_of((36, 5, 2)) == "6.2.3"


def test_a_container_on_a_jetson_is_known_by_its_kernel(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"/proc/sys/kernel/osrelease": "5.15.148-tegra", "/.dockerenv": ""}
    system = recorded(tmp_path, files)
    assert is_jetson(system)
    assert found(system)["Jetson Linux"].fix == "docker run --runtime nvidia ..."
    assert problems(system)["driver"].fix == "docker run --runtime nvidia ..."


def test_a_release_that_is_too_old(tmp_path: Path) -> None:
    system = recorded(tmp_path, {"/etc/nv_tegra_release": tegra_release(35, "4.1")})
    finding = problems(system)["Jetson Linux"]
    assert finding.expected == "L4T 36.4 (JetPack 6.1) or newer"
    assert "https://developer.nvidia.com/embedded/jetpack" in str(finding.fix)


def test_a_release_that_is_not_known_yet_is_noted_and_nothing_held_against_it(tmp_path: Path) -> None:
    system = orin_jetpack_7(tmp_path)
    (tmp_path / "etc/nv_tegra_release").write_text(tegra_release(40, "1.0"))
    assert "which this edge-mer does not know" in found(system)["Jetson Linux"].found
    assert problems(system) == {}
    assert notes(system) >= {"Jetson Linux"}


def test_a_package_of_another_jetpack_is_noted(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path)
    (tmp_path / "var/lib/dpkg/status").write_text(package("nvidia-jetpack", "6.1+b123"))
    finding = found(system)["JetPack"]
    assert (finding.status, finding.found) == ("note", "nvidia-jetpack 6.1+b123")
    assert finding.expected == "6.2, to which this L4T belongs"


def test_an_interrupted_installation_is_a_problem(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path)
    entries = [package(f"cuda-part-{n}", "12.6", "half-configured") for n in range(5)]
    entries += [package("vim", "9", "half-installed"), package("libnvinfer10", "10.3", "unpacked")]
    (tmp_path / "var/lib/dpkg/status").write_text("".join(entries))
    finding = problems(system)["NVIDIA's packages"]
    assert finding.found == (
        "not wholly installed: cuda-part-0 (half-configured), cuda-part-1 (half-configured), "
        "cuda-part-2 (half-configured) and 3 more"
    )
    assert str(finding.fix).startswith("sudo dpkg --configure -a")
    system = orin_nano_super(tmp_path)
    (tmp_path / "var/lib/dpkg/status").write_text("".join(entries[:3]))
    assert problems(system)["NVIDIA's packages"].found.endswith("cuda-part-2 (half-configured)")


def test_a_removed_package_is_not_unfinished(tmp_path: Path) -> None:
    system = orin_nano_super(tmp_path)
    (tmp_path / "var/lib/dpkg/status").write_text(package("cuda-old", "11", "config-files"))
    assert "NVIDIA's packages" not in found(system)


@pytest.mark.parametrize(
    "text", ["", "# R36\n", "\0\0\0", "# R (release), REVISION: x", "R36 (release)" * 9999]
)
def test_a_strange_release_file_is_no_release(tmp_path: Path, text: str) -> None:
    assert l4t_of(recorded(tmp_path, {"/etc/nv_tegra_release": text})) is None


def test_the_table_tells_lines_apart() -> None:
    names = [name for line in LINES.values() for name in line.patches.values()]
    assert "6.2" in names
    assert len({line.name for line in LINES.values()}) == len(LINES)
    for key, line in LINES.items():
        assert line.python == ((3, 10) if key[0] == 36 else (3, 12))
        assert (line.dla_package is None) == (key[0] > 36)
