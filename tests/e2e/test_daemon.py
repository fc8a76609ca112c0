"""The daemon as a process: it serves, changes bundles without losing a hop, and survives what is done."""

from __future__ import annotations

import random
import signal
import socket
import time
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

import pytest

from edge_mer.bundle.keys import read_private_key, write_key_pair
from edge_mer.bundle.read import open_bundle
from edge_mer.bundle.sign import sign_bundle
from edge_mer.config import read_config
from edge_mer.link.client import LinkClient
from tests.helpers.daemon import (
    Supervisor,
    are_whole,
    ask_to_swap,
    running,
    until_over,
    variant,
    verb,
    write_config,
)
from tests.helpers.daemon_disk import DaemonDisk
from tests.helpers.process import n_open_files

pytestmark = [pytest.mark.live]

N_SWAPS, N_KILLS = 20, 10
RSS_MB = 24
"""A process that has changed its engines some times holds so much more at most."""


@pytest.fixture
def bundle(shared_bundle: Path) -> Path:
    return shared_bundle


def signed_by(key: Path, bundle: Path) -> None:
    sign_bundle(open_bundle(bundle), read_private_key(key), datetime.now(timezone.utc))


def test_it_serves_and_says_how_it_is_and_ends_soon(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    config = write_config(tmp_path, bundle, f'sinks = ["jsonl:{out}"]')
    checked = verb("daemon", "--check", "--config", config)
    assert (checked.returncode, "can be carried out" in checked.stdout) == (0, True), checked.stderr
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(tmp_path / "notify"))
    notified.settimeout(30)
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000000"}
    with notified, running(config, env=env) as (daemon, listener):
        listener.wait_for_more(10)
        said = b""
        while not (b"READY=1" in said and b"WATCHDOG=1" in said.rpartition(b"READY=1")[2]):
            said += notified.recv(4096) + b"\n"
        model = listener.hellos[0]["model"]
        assert (model["name"], model["bundle_id"]) == ("jmt-tiny", open_bundle(bundle).bundle_id)
        assert verb("daemon", "status", "--config", config).returncode == 0
        second = verb("daemon", "--config", config)
        assert (second.returncode, "another edge-mer daemon" in second.stderr) == (2, True)
        listener.wait_for(lambda: listener.healths[-1]["state"] == "serving")
        daemon.signal(signal.SIGHUP)
        listener.wait_for(lambda: daemon.has("was read again"))
        listener.wait_for_more(10)
        assert daemon.stop() < 2
        while b"STOPPING=1" not in said:
            said += notified.recv(4096) + b"\n"
    assert out.read_text().count("\n") > 5
    assert not (tmp_path / "run" / "link.sock").exists()


def test_a_broken_configuration_is_refused_and_the_old_one_goes_on(bundle: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, bundle)
    with running(config) as (daemon, listener):
        listener.wait_for_more(3)
        right = config.read_text()
        config.write_text(right + "\nlissten = 1")
        daemon.signal(signal.SIGHUP)
        listener.wait_for(lambda: daemon.has("The configuration stays as it was"))
        config.write_text(right.replace("sim-live", "sim-lvie"))
        daemon.signal(signal.SIGHUP)
        listener.wait_for(lambda: daemon.has("did you mean sim-live"))
        listener.wait_for_more(3)
        assert are_whole(listener.records, open_bundle(bundle).hop_s)
        assert daemon.stop() < 2


def test_twenty_changes_of_bundle_lose_no_hop(bundle: Path, tmp_path: Path) -> None:
    other = variant(bundle, tmp_path / "other")
    ids = [open_bundle(one).bundle_id for one in (other, bundle)]
    config = write_config(tmp_path, bundle)
    with running(config) as (daemon, listener):
        listener.wait_for_more(3)
        files = rss = 0
        link = config.parent / "run" / "link.sock"
        for number in range(N_SWAPS):
            newcomer = ids[number % 2]
            if number == 0:
                asked = ask_to_swap(link, other)
                assert isinstance(asked, dict), asked
            else:
                with LinkClient(link) as asking:
                    asking.ask("rollback", "tests")
            assert until_over(listener, newcomer) == "kept", listener.swap
            if number == 3:
                files, rss = n_open_files(daemon.pid), listener.healths[-1]["rss_bytes"]
        listener.wait_for_more(3)
        assert n_open_files(daemon.pid) <= files
        assert listener.healths[-1]["rss_bytes"] - rss < RSS_MB << 20
        assert are_whole(listener.records, open_bundle(bundle).hop_s)
        assert [record["window_index"] for record in listener.records] == [
            *range(listener.records[0]["window_index"], listener.records[-1]["window_index"] + 1)
        ]
        served = [record["bundle_id"] for record in listener.records]
        assert sum(a != b for a, b in pairwise(served)) == N_SWAPS
        assert {record["status"] for record in listener.records[20:]} == {"ok"}
        names = {path.name for path in (tmp_path / "state" / "bundles").iterdir()}
        assert names == {"current.json", ids[0].removeprefix("sha256:")[:32]}
        assert daemon.stop() < 2


def test_what_must_not_serve_never_does(bundle: Path, tmp_path: Path) -> None:
    """Tampered, truncated, unsigned, wrongly signed, and one whose numbers are not finite."""
    write_key_pair(tmp_path / "lab.pem")
    write_key_pair(tmp_path / "other.pem")
    good = variant(bundle, tmp_path / "good")
    signed_by(tmp_path / "lab.pem", good)
    config = write_config(tmp_path, good)
    config.write_text(config.read_text() + '\n[bundles]\ntrusted_keys = ["lab.pub"]\n')
    refused: dict[str, Path] = {}
    refused["is not signed"] = variant(bundle, tmp_path / "unsigned")
    refused["not trusted"] = variant(bundle, tmp_path / "stranger")
    signed_by(tmp_path / "other.pem", refused["not trusted"])
    with running(config) as (daemon, listener):
        listener.wait_for_more(3)
        link = config.parent / "run" / "link.sock"
        for why, one in refused.items():
            asked = ask_to_swap(link, one)
            assert isinstance(asked, dict), asked
            assert until_over(listener, open_bundle(one).bundle_id) == "refused"
            assert why in listener.swap["why"]
        whole = (tmp_path / "unsigned.tar").read_bytes()
        broken = {"truncated": whole[: len(whole) // 2], "nothing": b"", "noise": b"x" * 4096}
        for name, data in broken.items():
            (tmp_path / f"{name}.tar").write_bytes(data)
            assert isinstance(ask_to_swap(link, tmp_path / f"{name}.tar"), dict)
            listener.wait_for(
                lambda: listener.swap["state"] == "refused" and listener.swap["bundle_id"] is None
            )
            del listener.healths[:]
            listener.wait_for(lambda: listener.healths)
        listener.wait_for_more(3)
        assert are_whole(listener.records, open_bundle(bundle).hop_s)
        assert {record["bundle_id"] for record in listener.records} == {open_bundle(good).bundle_id}
        assert {path.name for path in (tmp_path / "state" / "bundles").iterdir()} <= {"current.json"}
        daemon.stop()


def test_killed_at_any_moment_it_serves_again(bundle: Path, tmp_path: Path) -> None:
    """With a change of bundle, a recording and alarms under way, too; and its disk is always whole."""
    other = variant(bundle, tmp_path / "other")
    ids = {open_bundle(one).bundle_id for one in (other, bundle)}
    alarm = '[[alarms]]\nname = "low"\noutput = "affect.valence"\nbelow = 0.5\nlatched = false'
    more = f'sinks = ["log:{tmp_path}/log.jsonl"]\n[record]\nfile = "session.mcap"\n{alarm}'
    config = write_config(tmp_path, bundle, more)
    disk, chance = DaemonDisk(read_config(config)), random.Random(8)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / ".alarms.json.0123abcd").write_text("was not finished when somebody was killed")
    link = config.parent / "run" / "link.sock"
    with running(config, "--only", "inference") as (daemon, listener):
        supervisor = Supervisor(daemon, 0.1, lambda: disk.look(killed_ns))
        for _ in range(N_KILLS):
            listener.wait_for(lambda: listener.served_by == daemon.pid)
            listener.wait_for_more(2)
            ask_to_swap(link, other)
            time.sleep(chance.uniform(0, 2))
            killed_ns = time.time_ns()
            supervisor.kill()
        listener.wait_for(lambda: listener.served_by == daemon.pid)
        assert {record["bundle_id"] for record in listener.records} <= ids
        listener.wait_for_more(2)
        supervisor.release()
        daemon.stop()
    disk.look(None)
    assert set(supervisor.codes) == {-signal.SIGKILL}
    assert (disk.faults, disk.stray()) == ([], [])
    assert len(disk.lost_s) == N_KILLS
    assert disk.n_lines > N_KILLS


def test_sessions_of_the_same_second_have_recordings_of_their_own(bundle: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, bundle, '[record]\nfile = "session.mcap"')
    with running(config) as (daemon, listener):
        for number in range(1, 5):
            listener.wait_for(lambda number=number: len(begun(tmp_path)) == number)
            daemon.signal(signal.SIGHUP)
        listener.wait_for(lambda: len(begun(tmp_path)) == 5)
        listener.wait_for_more(1)
        daemon.stop()


def begun(folder: Path) -> list[Path]:
    return list(folder.glob("session-*.mcap"))


def test_a_sensor_that_is_not_there_yet_is_waited_for(bundle: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, bundle)
    sensor = "camera:/dev/nothing-there"
    config.write_text(config.read_text().replace("sim-live:fps=15", sensor))
    with running(config) as (daemon, listener):
        listener.wait_for(lambda: len(listener.healths) > 2)
        assert listener.healths[-1]["state"] == "starting"
        assert "nothing-there" in listener.healths[-1]["trouble"]
        assert daemon.stop() < 2
