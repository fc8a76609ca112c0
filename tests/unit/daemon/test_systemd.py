"""Units for systemd: judged by systemd itself, written whole, and never over what somebody edited."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edge_mer.config import DaemonConfig
from edge_mer.daemon import systemd
from edge_mer.daemon.systemd import (
    GATEWAY_UNIT,
    INFERENCE_UNIT,
    Installation,
    install,
    installation_here,
    next_commands,
    this_command,
    units,
)
from edge_mer.errors import UsageError
from tests.helpers.system_packages import needs

INSTALLATION = Installation(Path("/etc/edge-mer/edge-mer.toml"), Path("/bin/true"), groups=("video", "audio"))
MOST_EXPOSED = {INFERENCE_UNIT: 2.5, GATEWAY_UNIT: 2.0}
"""From 0 to 10, as systemd counts; version 252 says 2.3 and 1.8."""

CONFIG: dict[str, Any] = {"bundle": "bundle", "sources": ["camera:0"]}


def config(**more: Any) -> DaemonConfig:
    return DaemonConfig.model_validate({**CONFIG, **more}, context={"folder": Path("/etc/edge-mer")})


def settings(text: str) -> dict[str, list[str]]:
    """Key -> values, in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if re.match(r"[A-Z]", line):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def written(made: Mapping[str, str], folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [str(folder / name) for name in made]


def analyzed(*words: str) -> str:
    command = ["systemd-analyze", *words]
    wide = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=wide)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout + done.stderr


# -- as systemd judges ----------------------------------------------------------------------------


@needs("systemd-analyze")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"with_gateway": False},
        {"groups": (), "low_ports": True},
        {"devices": (Path("/dev/null"),), "writable": (Path("/srv/a b%c"), Path("/srv/d"))},
        {"user": "daemon", "group": "daemon"},
    ],
    ids=str,
)
def test_systemd_finds_nothing_wrong(tmp_path: Path, changes: dict[str, Any]) -> None:
    made = units(Installation(**{**vars(INSTALLATION), **changes}))
    assert analyzed("verify", "--man=no", *written(made, tmp_path)) == ""


@needs("systemd-analyze")
@pytest.mark.parametrize("name", ["a b", "50%", "$HOME", "ä", "#", ";"])
def test_systemd_finds_the_command_wherever_it_lies(tmp_path: Path, name: str) -> None:
    command = tmp_path / name / "edge-mer"
    command.parent.mkdir()
    command.touch(mode=0o755)
    made = units(Installation(tmp_path / name / "edge-mer.toml", command))
    assert analyzed("verify", "--man=no", *written(made, tmp_path / "units")) == ""
    command.unlink()
    with pytest.raises(AssertionError, match="not executable"):
        analyzed("verify", "--man=no", *written(made, tmp_path / "units"))


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "it's"])
def test_a_command_that_systemd_would_not_start_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="another folder"):
        units(Installation(INSTALLATION.config, tmp_path / name / "edge-mer"))


def test_a_configuration_may_lie_anywhere() -> None:
    made = units(Installation(Path('/a b/50%/$x/q"u\\o.toml'), INSTALLATION.executable))
    for text in made.values():
        assert settings(text)["ExecStart"][0].endswith(' --config "/a b/50%%/$$x/q\\"u\\\\o.toml"')


@needs("systemd-analyze")
def test_a_wrong_setting_would_be_noticed(tmp_path: Path) -> None:
    text = units(INSTALLATION)[INFERENCE_UNIT].replace("WatchdogSec=90", "WatchdogSec=often")
    told = analyzed("verify", "--man=no", *written({INFERENCE_UNIT: text}, tmp_path))
    assert "ignoring: often" in told


@needs("systemd-analyze")
@pytest.mark.parametrize("name", [INFERENCE_UNIT, GATEWAY_UNIT])
def test_systemd_counts_little_that_a_unit_leaves_open(tmp_path: Path, name: str) -> None:
    (path,) = written({name: units(INSTALLATION)[name]}, tmp_path)
    told = analyzed("security", "--offline=true", "--no-pager", path)
    level = re.search(r"exposure level for [\w.-]+: ([\d.]+)", told)
    assert level
    assert float(level[1]) <= MOST_EXPOSED[name], told


@needs("systemd-analyze")
def test_the_calls_that_ask_for_the_clock_s_state_are_named_as_systemd_names_them() -> None:
    """Where they were closed, no record could say that its time is right."""
    clock = set(analyzed("syscall-filter", "@clock").split())
    assert {"adjtimex", "clock_adjtime"} <= clock
    assert not {"adjtimex", "clock_adjtime"} & set(analyzed("syscall-filter", "@system-service").split())


# -- what they say --------------------------------------------------------------------------------


def test_neither_process_is_kept_from_asking_whether_the_clock_is_synchronised() -> None:
    made = {name: settings(text) for name, text in units(INSTALLATION).items()}
    assert all(found.get("ProtectClock", ["no"]) == ["no"] for found in made.values())
    assert "@clock" not in " ".join(made[INFERENCE_UNIT]["SystemCallFilter"])
    assert {"adjtimex", "clock_adjtime"} <= set(made[GATEWAY_UNIT]["SystemCallFilter"][-1].split())


def test_a_process_that_is_stuck_says_where() -> None:
    """The watchdog ends it with SIGABRT, on which Python shows where each thread is."""
    for text in units(INSTALLATION).values():
        assert "PYTHONFAULTHANDLER=1" in text
    stuck = "import os, threading; os.kill(os.getpid(), 6); threading.Event().wait()"
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run([sys.executable, "-c", stuck], capture_output=True, check=False, env=environment)
    assert b"most recent call first" in done.stderr


def test_each_restarts_without_the_other() -> None:
    for name, text in units(INSTALLATION).items():
        found = settings(text)
        assert found["Restart"] == ["always"]
        assert found["StartLimitIntervalSec"] == ["0"]
        assert not {"Requires", "BindsTo", "PartOf", "Requisite"} & found.keys()
        (other,) = {INFERENCE_UNIT, GATEWAY_UNIT} - {name}
        assert other in found["Wants"][0].split()
        assert other not in found["After"][0]


def test_a_reload_goes_to_inference_which_tells_the_gateway_and_ends_neither() -> None:
    for text in units(INSTALLATION).values():
        assert settings(text)["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
        assert "PropagatesReloadTo" not in settings(text)


def test_the_gateway_has_no_device_and_inference_only_its_kinds() -> None:
    made = {name: settings(text) for name, text in units(INSTALLATION).items()}
    assert made[GATEWAY_UNIT]["PrivateDevices"] == ["yes"]
    assert "DeviceAllow" not in made[GATEWAY_UNIT]
    assert made[INFERENCE_UNIT]["DevicePolicy"] == ["closed"]
    allowed = made[INFERENCE_UNIT]["DeviceAllow"]
    assert {f"char-{kind} rw" for kind in ("video4linux", "alsa", "ttyUSB", "ttyACM", "nv*")} <= set(allowed)


def test_a_jetson_s_camera_service_can_be_reached() -> None:
    """Its socket is in /tmp, and made again when it restarts."""
    found = settings(units(INSTALLATION)[INFERENCE_UNIT])
    assert found["PrivateTmp"] == ["no"]
    assert "TMPDIR=%C/edge-mer" in found["Environment"]


def test_the_gateway_looks_for_the_link_where_the_other_unit_has_it() -> None:
    """Systemd would tell it its own folder in RUNTIME_DIRECTORY."""
    found = settings(units(INSTALLATION)[GATEWAY_UNIT])
    assert found["UnsetEnvironment"] == ["RUNTIME_DIRECTORY"]
    assert found["SupplementaryGroups"] == [INSTALLATION.group]
    assert settings(units(INSTALLATION)[INFERENCE_UNIT])["RuntimeDirectoryMode"] == ["0750"]


@pytest.mark.parametrize(
    ("path", "value"),
    [("/opt/x", "yes"), ("/home/ada/x", "read-only"), ("/root/x", "read-only"), ("/homes/x", "yes")],
)
@pytest.mark.parametrize("role", ["config", "executable"])
def test_homes_are_hidden_unless_something_is_there(role: str, path: str, value: str) -> None:
    made = units(Installation(**{**vars(INSTALLATION), role: Path(path)}))
    assert [settings(text)["ProtectHome"] for text in made.values()] == [[value], [value]]


@pytest.mark.parametrize("user", ["", "a b", "root\nExecStart=/bin/sh", "%i", "x" * 40])
def test_a_name_that_would_change_the_unit_is_refused(user: str) -> None:
    with pytest.raises(UsageError, match="no name"):
        units(Installation(INSTALLATION.config, INSTALLATION.executable, user=user))


def test_a_path_that_would_change_the_unit_is_refused() -> None:
    for role in ("config", "executable"):
        with pytest.raises(UsageError, match="cannot stand"):
            units(Installation(**{**vars(INSTALLATION), role: Path("/x\nExecStart=/bin/sh")}))
    with pytest.raises(UsageError, match="cannot stand"):
        units(Installation(**{**vars(INSTALLATION), "writable": (Path("/x\ny"),)}))


# -- this machine, and a configuration ------------------------------------------------------------


def here(found: DaemonConfig, dev: Path = Path("/dev"), user: str = "daemon") -> Installation:
    return installation_here(Path("/etc/edge-mer/edge-mer.toml"), found, Path("/bin/true"), user, dev)


def test_only_groups_that_exist_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systemd starts no service with a group that it does not know."""
    monkeypatch.setattr(systemd, "DEVICE_GROUPS", ("root", "no-such-group"))
    assert here(config()).groups == ("root",)


def test_the_group_of_a_user_that_exists_may_use_the_link() -> None:
    assert here(config(), user="root").group == "root"
    assert here(config(), user="no-such-user").group == "no-such-user"


def test_a_jetson_s_devices_are_found(tmp_path: Path) -> None:
    for name in ("nvmap", "nvhost-ctrl-gpu", "nvidia0", "nvgpu/igpu0/ctrl", "sda", "kvm", "dri/renderD128"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to("/dev/null")
    (tmp_path / "nvhost-text").touch()
    names = {path.relative_to(tmp_path).as_posix() for path in here(config(), dev=tmp_path).devices}
    assert names == {"nvmap", "nvhost-ctrl-gpu", "nvidia0", "nvgpu/igpu0/ctrl", "dri/renderD128"}


def test_folders_that_the_configuration_writes_to_are_opened() -> None:
    found = here(
        config(
            sinks=["jsonl:/srv/out/a.jsonl", "jsonl:b.jsonl", "jsonl:-", "mqtt://broker/x"],
            record={"file": "session.mcap"},
            state_dir="/srv/state",
        )
    )
    assert found.writable == (Path("/etc/edge-mer"), Path("/srv/out"), Path("/srv/state"))
    assert here(config()).writable == ()
    assert settings(units(found)[INFERENCE_UNIT])["ReadWritePaths"] == [
        f'"{path}"' for path in found.writable
    ]


def test_without_anybody_to_speak_to_there_is_no_gateway() -> None:
    alone = here(config(http={"listen": []}, sinks=["jsonl:out.jsonl"]))
    made = units(alone)
    assert made.keys() == {INFERENCE_UNIT}
    assert GATEWAY_UNIT not in made[INFERENCE_UNIT]
    assert here(config(http={"listen": []}, sinks=["mqtt://broker/x"])).with_gateway


def test_a_port_below_1024_needs_a_right_of_its_own() -> None:
    for place, right in (
        ("127.0.0.1:80", "CAP_NET_BIND_SERVICE"),
        ("127.0.0.1:8080", ""),
        ("unix:/srv/x", ""),
    ):
        found = settings(units(here(config(http={"listen": [place]})))[GATEWAY_UNIT])
        assert found["AmbientCapabilities"] == found["CapabilityBoundingSet"] == [right]


def test_the_gateway_cannot_listen_in_the_other_unit_s_folder() -> None:
    with pytest.raises(UsageError, match="unix:/run/edge-mer-gateway"):
        here(config(run_dir="/run/edge-mer", http={"listen": ["unix:/run/edge-mer/http.sock"]}))


def test_the_command_is_that_of_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(UsageError, match="pip install"):
        this_command()
    (tmp_path / "edge-mer").touch(mode=0o755)
    assert this_command() == tmp_path / "edge-mer"


# -- installing -----------------------------------------------------------------------------------


def test_units_are_written_for_everybody_to_read(tmp_path: Path) -> None:
    made = units(INSTALLATION)
    assert install(made, tmp_path) == [tmp_path / INFERENCE_UNIT, tmp_path / GATEWAY_UNIT]
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == made
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_units_that_nobody_edited_are_replaced(tmp_path: Path) -> None:
    install(units(INSTALLATION), tmp_path)
    other = units(Installation(Path("/srv/other.toml"), Path("/bin/true")))
    install(other, tmp_path)
    assert (tmp_path / INFERENCE_UNIT).read_text(encoding="utf-8") == other[INFERENCE_UNIT]


@pytest.mark.parametrize("edited", [INFERENCE_UNIT, GATEWAY_UNIT])
@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"[Service]\nExecStart=/bin/mine\n",
        lambda data: b"",
        lambda data: b"\xff",
        lambda data: data + b"#\n",
        lambda data: data.replace(b"MAINPID", b"OTHERPID"),
    ],
    ids=["foreign", "empty", "no_text", "longer", "changed"],
)
def test_what_somebody_edited_stays_as_it_is(
    tmp_path: Path, edited: str, change: Callable[[bytes], bytes]
) -> None:
    made = units(INSTALLATION)
    install(made, tmp_path)
    path = tmp_path / edited
    path.write_bytes(change(path.read_bytes()))
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    with pytest.raises(UsageError, match=f"{edited} was edited.*systemctl edit.*--force"):
        install(units(Installation(Path("/srv/other.toml"), Path("/bin/true"))), tmp_path)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before
    install(made, tmp_path, force=True)
    assert path.read_text(encoding="utf-8") == made[edited]


def test_a_unit_that_is_masked_is_not_unmasked(tmp_path: Path) -> None:
    (tmp_path / INFERENCE_UNIT).symlink_to("/dev/null")
    with pytest.raises(UsageError, match="was edited"):
        install(units(INSTALLATION), tmp_path)
    assert (tmp_path / INFERENCE_UNIT).is_symlink()


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write to .*sudo"):
        install(units(INSTALLATION), tmp_path / "missing")


def test_a_disk_that_fails_leaves_the_units_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = units(INSTALLATION)
    install(made, tmp_path)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UsageError, match="No space left"):
        install(units(Installation(Path("/srv/other.toml"), Path("/bin/true"))), tmp_path)
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == made


def test_what_comes_next_is_told_and_not_done() -> None:
    names = [INFERENCE_UNIT, GATEWAY_UNIT]
    told = next_commands(INSTALLATION, names)
    assert told[0].startswith("useradd --system")
    assert told[0].endswith(" edge-mer")
    assert told[1:3] == ["systemctl daemon-reload", f"systemctl enable --now {INFERENCE_UNIT} {GATEWAY_UNIT}"]
    someone = Installation(INSTALLATION.config, INSTALLATION.executable, user="root")
    assert next_commands(someone, names)[0] == "systemctl daemon-reload"
