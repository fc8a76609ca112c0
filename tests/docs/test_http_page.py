"""The page about HTTP says what the gateway does: tables, limits, and commands that are typed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from edge_mer.config import HttpConfig
from edge_mer.gateway.auth import SESSION_S, make_token
from edge_mer.gateway.feed import MAX_WAITING
from edge_mer.gateway.limits import KIB, Limits
from tests.helpers import make_http_reference
from tests.helpers.certificates import write_certificates
from tests.helpers.gateway import running, until
from tests.helpers.inference import ALARM

TEXT = make_http_reference.PAGE.read_text(encoding="utf-8")
TOKEN, SHA256 = make_token()
TOKENS = f'[[http.tokens]]\nname = "t"\nsha256 = "{SHA256}"\nmay = ["read", "acknowledge", "swap"]'


def test_its_tables_are_those_of_the_code() -> None:
    assert make_http_reference.page() == TEXT


def test_its_numbers_are_those_of_the_code() -> None:
    limits = Limits()
    table = TEXT.partition("## Limits")[2].partition("## Metrics")[0]
    assert f"| {limits.n_connections} together, {limits.n_connections_per_peer} of one address" in table
    assert f"| {limits.requests_per_s:g} per second, {limits.n_requests_at_once} at once" in table
    assert f"| {limits.head_bytes // KIB} KiB, within {limits.head_s:g} s |" in table
    assert f"| {limits.json_bytes // KIB} KiB |" in table
    assert f"| within {limits.body_s:g} s |" in table
    assert f"| {MAX_WAITING} events; {limits.stuck_s:g} s without taking anything |" in table
    assert f"a session of {SESSION_S // 3600} hours" in TEXT
    assert HttpConfig().listen == ("127.0.0.1:8080",)


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def typed(command: str, folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    for old, new in {"TOKEN": TOKEN, **changes}.items():
        command = command.replace({"TOKEN": "$TOKEN"}.get(old, old), new)
    return subprocess.run(
        ["bash", "-c", command.replace("curl ", "curl --noproxy '*' --fail-with-body ", 1)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.live
def test_its_commands_run(tmp_path: Path) -> None:
    plain = [command for command in commands() if "http://127.0.0.1:8080" in command]
    assert len(plain) == 8
    (tmp_path / "bundle.tar").write_bytes(b"manifest.json")
    with running(tmp_path, http=TOKENS, limits={}) as (gateway, inference), inference.predicting():
        with gateway.client(headers={"authorization": f"Bearer {TOKEN}"}) as client:
            until(lambda: client.get("/v1/predictions/latest").json().get("status") == "ok")
        for command in plain:
            if "Bearer" not in command:  # these are for a gateway without tokens
                command = command.replace("curl ", 'curl -H "Authorization: Bearer $TOKEN" ', 1)
            done = typed(
                command, tmp_path, **{"http://127.0.0.1:8080": gateway.url, "8d67e62f-1": ALARM["id"]}
            )
            assert done.returncode == (28 if "--max-time" in command else 0), (command, done)
            if "--max-time" in command:
                assert '{"kind":"prediction","record":' in done.stdout
            elif "metrics" not in command:
                json.loads(done.stdout)
    assert [ask.what for ask, _ in inference.asks] == ["acknowledge", "swap"]


@pytest.mark.live
def test_its_command_for_others_on_the_network_runs(tmp_path: Path) -> None:
    (command,) = [command for command in commands() if "https://" in command]
    write_certificates(tmp_path, "robot.local", "127.0.0.1").rename(tmp_path / "ca.pem")
    http = f'certificate = "cert.pem"\nkey = "key.pem"\nhosts = ["robot.local"]\n{TOKENS}'
    with running(tmp_path, http=http, limits={}, host="0.0.0.0") as (gateway, _):  # noqa: S104
        there = f"--resolve robot.local:{gateway.port}:127.0.0.1 --cacert"
        changes = {"--cacert": there, "8443": str(gateway.port)}
        until(lambda: typed(command, tmp_path, **changes).returncode == 0)
        assert json.loads(typed(command, tmp_path, **changes).stdout)["name"] == "jmt-tiny"
