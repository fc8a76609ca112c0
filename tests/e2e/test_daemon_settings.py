"""What is wrong with the daemon's configuration: said in advance, at its start, and while it runs."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx", reason="needs pip install httpx")

import httpx

from edge_mer.audit import AUDIT_NAME, AuditLog
from edge_mer.bundle.keys import write_key_pair
from edge_mer.bundle.read import open_bundle
from edge_mer.cli.main import main
from edge_mer.config import read_config
from edge_mer.gateway.auth import make_token
from tests.helpers.certificates import write_certificates
from tests.helpers.daemon import are_whole, running, verb, write_config
from tests.helpers.gateway import until
from tests.helpers.senders import free_port

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOKEN, SHA256 = make_token()
TLS = f'certificate = "cert.pem"\nkey = "key.pem"\n[[http.tokens]]\nname = "x"\nsha256 = "{SHA256}"\n'


@pytest.fixture
def config(shared_bundle: Path, tmp_path: Path) -> Path:
    write_certificates(tmp_path, "robot.local", "127.0.0.1")
    return write_config(tmp_path, shared_bundle, listen=f'"127.0.0.1:{free_port()}"')


def add(text: str) -> Callable[[Path], None]:
    """Something more at the end, where [http] is."""
    return lambda config: config.write_text(config.read_text() + text, encoding="utf-8")


def sinks(*uris: str) -> Callable[[Path], None]:
    return lambda config: config.write_text(f"sinks = {list(uris)}\n{config.read_text()}", encoding="utf-8")


def put(key: str, value: str) -> Callable[[Path], None]:
    def write(config: Path) -> None:
        lines = [line for line in config.read_text().splitlines() if not line.startswith(f"{key} =")]
        config.write_text("\n".join([f"{key} = {value}", *lines]), encoding="utf-8")

    return write


def listens(place: str) -> Callable[[Path], None]:
    def write(config: Path) -> None:
        text = re.sub(r"listen = .*", f'listen = ["{place}"]', config.read_text())
        config.write_text(text, encoding="utf-8")

    return write


def trusts_another(config: Path) -> None:
    write_key_pair(config.parent / "lab.key")
    add('[bundles]\ntrusted_keys = ["lab.pub"]\n')(config)


def is_altered(config: Path) -> None:
    copy = config.parent / "altered"
    shutil.copytree(read_config(config).bundle, copy)
    stage = next(copy.glob("stages/*.onnx"))
    stage.write_bytes(stage.read_bytes() + b"x")
    put("bundle", '"altered"')(config)


def has_expired(config: Path) -> None:
    write_certificates(config.parent, "robot.local", "127.0.0.1", days=-1)
    add(TLS)(config)


def has_another_key(config: Path) -> None:
    (config.parent / "other").mkdir()
    write_certificates(config.parent / "other", "robot.local", "127.0.0.1")
    add(TLS.replace('"key.pem"', '"other/key.pem"'))(config)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (add('[bundles]\ntrusted_keys = ["none.pub"]\n'), "cannot read"),
        (trusts_another, "is not signed"),
        (is_altered, "was altered or replaced"),
        (add(TLS.replace("cert.pem", "none.pem")), "cannot use the certificate"),
        (has_another_key, "key values mismatch"),
        (has_expired, "clients will not believe the certificate"),
        (listens("unix:run"), "something that is no socket has that name"),
        (listens("unix:nowhere/http.sock"), "nowhere is no folder"),
        (sinks("mqtts://localhost/t?cafile=ca.pem"), "did you mean ca_file?"),
        (sinks("mqtts://localhost/t?ca_file=ca.pem"), "cannot use ca_file="),
        (sinks("mqtts://localhost/t?username=a&password_file=pw"), "cannot read password_file="),
        (sinks("fhir+https://localhost/r5?token_file=token"), "cannot read token_file="),
        (sinks("mqtt://localhost/t", "mqtt://localhost/t"), "is there 2 times"),
        (sinks("log:/nowhere/out.jsonl"), "a folder /nowhere that may be written to"),
        (sinks("log:/"), "no plain file"),
        (put("state_dir", '"cert.pem"'), "cannot write state_dir"),
        (put("run_dir", '"nowhere"'), "cannot write run_dir"),
        (add('[record]\nfile = "nowhere/s.mcap"\n'), "nowhere that may be written to"),
    ],
)
def test_a_check_finds_what_a_start_would_refuse(
    config: Path, spoil: Callable[[Path], None], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["daemon", "--check", "--config", str(config)]) == 0, capsys.readouterr().err
    spoil(config)
    assert main(["daemon", "--check", "--config", str(config)]) in (2, 3)
    said = capsys.readouterr().err
    assert told in said
    assert "internal error" not in said


def test_a_check_says_all_that_is_wrong(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(TLS.replace("cert.pem", "none.pem"))(config)
    sinks("mqtts://localhost/t?cafile=ca.pem", "log:/nowhere/out.jsonl")(config)
    assert main(["daemon", "--check", "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in ("none.pem", "did you mean ca_file?", "/nowhere/out.jsonl"))
    assert said.count("edge-mer: ") == 3


@pytest.mark.live
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (add(TLS.replace("cert.pem", "none.pem")), "cannot use the certificate"),
        (put("state_dir", '"cert.pem/x"'), "set state_dir"),
    ],
)
def test_what_cannot_be_carried_out_is_not_begun(
    config: Path, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(config)
    began = verb("daemon", "--config", config)
    assert (began.returncode, told in began.stderr) == (2, True), began.stderr


@pytest.mark.live
def test_a_broken_configuration_changes_nothing(config: Path, shared_bundle: Path) -> None:
    """No hop is lost, and neither process begins again: not at once, and not a moment later."""
    right = config.read_text(encoding="utf-8")
    url = re.findall(r"127[0-9.:]+", right)[0]
    spoils: dict[Callable[[Path], None], str] = {
        add(TLS.replace("cert.pem", "none.pem")): "none.pem",
        sinks("mqtts://localhost/t?cafile=ca.pem"): "did you mean ca_file?",
        sinks("log:/nowhere/out.jsonl"): "/nowhere/out.jsonl",
        add('[bundles]\ntrusted_keys = ["none.pub"]\n'): "none.pub",
        put("state_dir", '"another"'): "cannot change in a running daemon",
        listens("localhost:8080"): "is no place to listen at",
    }
    with (
        running(config) as (daemon, listener),
        httpx.Client(base_url=f"http://{url}", trust_env=False) as client,
    ):
        until(lambda: is_ready(client))
        for spoil, told in spoils.items():
            config.write_text(right, encoding="utf-8")
            spoil(config)
            daemon.signal(signal.SIGHUP)
            listener.wait_for(lambda told=told: daemon.has(told))  # type: ignore[misc]
        listener.wait_for_more(3)
        assert is_ready(client)
        assert are_whole(listener.records, open_bundle(shared_bundle).hop_s)
        assert daemon.stop() < 2
    assert not daemon.has("the gateway ended")
    assert daemon.log.read_text().count("stays as it was") == len(spoils)


@pytest.mark.live
def test_what_shows_only_when_it_begins_is_taken_back(config: Path) -> None:
    """Nothing can be written to /proc, although root is told that it could."""
    right = config.read_text(encoding="utf-8")
    with running(config) as (daemon, listener):
        listener.wait_for_more(3)
        add('[record]\nfile = "/proc/s.mcap"\n')(config)
        daemon.signal(signal.SIGHUP)
        listener.wait_for(lambda: daemon.has("stays as it was: cannot"))
        listener.wait_for_more(3)
        config.write_text(right, encoding="utf-8")
        daemon.signal(signal.SIGHUP)
        listener.wait_for(lambda: daemon.has("The configuration was read again."))
        listener.wait_for_more(3)
        assert daemon.stop() < 2


@pytest.mark.live
def test_another_place_to_listen_at_is_taken_over(config: Path) -> None:
    """Also by a daemon that had nobody to speak to."""
    right, port = config.read_text(encoding="utf-8"), free_port()
    config.write_text(re.sub(r"listen = .*", "listen = []", right), encoding="utf-8")
    with (
        running(config) as (daemon, listener),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        listener.wait_for_more(2)
        listens(f"127.0.0.1:{port}")(config)
        daemon.signal(signal.SIGHUP)
        until(lambda: is_ready(client))
        assert answer(client, "/v1/alarms") == 200
        assert daemon.has(f"the gateway listens at 127.0.0.1:{port}")
        assert daemon.has("The first prediction is there: ")
        add(f'[[http.tokens]]\nname = "x"\nsha256 = "{SHA256}"\n')(config)
        daemon.signal(signal.SIGHUP)
        until(lambda: answer(client, "/v1/alarms") == 401)
        config.write_text(re.sub(r"listen = .*", "listen = []", config.read_text()), encoding="utf-8")
        daemon.signal(signal.SIGHUP)
        until(lambda: not is_ready(client))
        listener.wait_for_more(2)
        assert daemon.stop() < 2
    assert not daemon.has("Traceback")


def answer(client: httpx.Client, path: str) -> int:
    """The status; 0: nobody answers just now."""
    try:
        return client.get(path).status_code
    except httpx.TransportError:
        return 0


def is_ready(client: httpx.Client) -> bool:
    return answer(client, "/readyz") == 200


def test_a_name_of_a_token_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["daemon", "token", 'ward "3"\\']) == 0
    printed = capsys.readouterr().out
    read = tomllib.loads(printed[printed.index("[[") :])
    assert read["http"]["tokens"][0]["name"] == 'ward "3"\\'


@pytest.mark.live
def test_what_a_network_does_not_take_is_said_by_the_daemon(config: Path) -> None:
    port = free_port()
    sinks(f"mqtt://127.0.0.1:{port}/ward3/bed5")(config)
    with running(config) as (daemon, listener):
        listener.wait_for(lambda: listener.healths and lost(listener.healths[-1]) > 2)
        told = json.loads(verb("daemon", "status", "--config", config).stdout)["network_sinks"]
        assert told[0]["target"] == f"mqtt://127.0.0.1:{port}/ward3/bed5"
        assert "refused" in told[0]["trouble"]
        until(lambda: daemon.has(f"sink mqtt://127.0.0.1:{port}/ward3/bed5 gets nothing"))
        assert daemon.stop() < 2


def lost(health: dict[str, Any]) -> int:
    return sum(sink["n_dropped"] for sink in health["network_sinks"])


def test_the_audit_log_is_shown_and_checked(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["daemon", "audit", "--config", str(config), "--last", "2"]
    assert main(command) == 2  # there is none yet
    assert "audit.jsonl" in capsys.readouterr().err
    path = read_config(config).state_dir / AUDIT_NAME
    path.parent.mkdir()
    with AuditLog(path) as log:
        for n in range(3):
            log.append("alarm.acknowledged", "ward-3\x1b[2J", {"id": f"high-pain-{n}"})
        newest = log.newest
    assert main(command) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in shown[:2]] == ['"high-pain-1"}', '"high-pain-2"}']
    assert "\x1b" not in shown[0]
    assert shown[2] == f"3 records, each as it was written; newest {newest}"
    path.write_text(path.read_text().replace("high-pain-1", "high-pain-9"), encoding="utf-8")
    assert main(command) == 3
    assert "audit.jsonl, line 3: what is before it is not what was there" in capsys.readouterr().err


@pytest.mark.live
def test_a_file_that_takes_no_more_ends_nothing_but_itself(config: Path) -> None:
    """Although it is the only one: a limit on the size of files does what a full disk does."""
    out = config.parent / "out.jsonl"
    out.write_text("\n" * (1 << 18), encoding="utf-8")
    sinks(f"log:{out}")(config)
    with running(config) as (daemon, listener):
        listener.wait_for_more(3)
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))
        listener.wait_for(lambda: listener.healths[-1]["sinks"][0]["trouble"])
        listener.wait_for_more(5)
        (told,) = listener.healths[-1]["sinks"]
        assert str(out) in told["trouble"]
        assert daemon.stop() < 2
