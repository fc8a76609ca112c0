"""The daemon's configuration: what is right is read, what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_mer.config import DaemonConfig, read_config
from edge_mer.errors import UsageError

LEAST = 'bundle = "bundle"\nsources = ["sim:live=1"]\n'
HASH = "0" * 64


def config_of(tmp_path: Path, text: str) -> DaemonConfig:
    path = tmp_path / "edge-mer.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def test_the_least_is_a_bundle_and_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/srv/state:/srv/other")
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    config = config_of(tmp_path, LEAST)
    assert config.bundle == tmp_path / "bundle"
    assert config.http.listen == ("127.0.0.1:8080",)
    assert config.state_dir == Path("/srv/state")
    assert config.run_dir == Path("/run/edge-mer")


def test_paths_are_counted_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    config = config_of(tmp_path, LEAST + 'state_dir = "/var/x"\nface_detector = "yunet.onnx"\n')
    assert (config.state_dir, config.face_detector) == (Path("/var/x"), tmp_path / "yunet.onnx")


def test_so_are_those_in_uris_of_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written goes to the folder that the daemon runs in: its configuration's is read-only."""
    monkeypatch.chdir("/")
    sinks = '["mqtts://h/t?ca_file=my%20ca.pem&qos=1&password_file=/p", "log:out.jsonl?keep=2", "lsl:name=a"]'
    config = config_of(tmp_path, f'{LEAST}sinks = {sinks}\n[http]\nlisten = ["unix:http.sock"]\n')
    assert config.http.listen == (f"unix:{tmp_path}/http.sock",)
    assert config.network_sinks == (
        f"mqtts://h/t?ca_file={tmp_path}/my%20ca.pem&qos=1&password_file=/p",
        "lsl:name=a",
    )
    assert config.file_sinks == ("log:out.jsonl?keep=2",)


def test_so_are_those_in_the_engines_uri(tmp_path: Path) -> None:
    engine = "tritons://gpu-box/jmt?ca_file=ward.pem&deadline_ms=100"
    config = config_of(tmp_path, f'{LEAST}engine = "{engine}"\n')
    assert config.engine == f"tritons://gpu-box/jmt?ca_file={tmp_path}/ward.pem&deadline_ms=100"
    assert config_of(tmp_path, f'{LEAST}engine = "triton://gpu-box"\n').engine == "triton://gpu-box"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('bundle = "b"\n', "sources is missing"),
        (LEAST + 'souces = ["camera:0"]\n', "unknown key souces (did you mean sources?)"),
        (LEAST + '[http]\nlissten = ["127.0.0.1:1"]\n', "unknown key http.lissten (did you mean listen?)"),
        (
            LEAST + f'[[http.tokens]]\nname = "a"\nsha265 = "{HASH}"\n',
            "unknown key http.tokens[0].sha265 (did you mean sha256?)",
        ),
        (LEAST + '[http]\nlisten = ["0.0.0.0:80"]\n', "0.0.0.0:80 can be reached by others, so it needs"),
        (LEAST + '[http]\nlisten = ["localhost"]\n', "is no place to listen at: write 127.0.0.1:8080"),
        (LEAST + '[http]\nlisten = ["127.0.0.1:0"]\n', "is no place to listen at"),
        (LEAST + '[http]\nlisten = ["127.0.0.1:1", "127.0.0.1:1"]\n', "listen names one place twice"),
        ('bundle = "b"\nsources = "camera:0"\n', "sources: expected a list, in [ ]"),
        ('bundle = 3\nsources = ["camera:0"]\n', "bundle: expected a path, in quotes"),
        (LEAST + "precision = 8\n", "precision: expected a text, in quotes"),
        (LEAST + '[http]\ncertificate = "c.pem"\n', "certificate and key go together"),
        (LEAST + "hop = 0\n", "hop: Input should be greater than or equal to 1"),
        (LEAST + 'missing = { sound = "mask" }\n', "missing.sound"),
        (LEAST + "zzz = 1\n", "unknown key zzz (known are bundle, sources"),
        ("bundle = \n", "a file in TOML"),
        ("x" * 300_000, "larger than"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        config_of(tmp_path, text)
    assert told in str(refused.value)


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        config_of(tmp_path, "bundel = 1\nhop = 0\n")
    assert all(what in str(refused.value) for what in ("bundel", "bundle is missing", "sources", "hop"))


def test_others_may_come_with_a_certificate_and_a_token(tmp_path: Path) -> None:
    text = '[http]\nlisten = ["0.0.0.0:443"]\ncertificate = "c.pem"\nkey = "k.pem"\n'
    token = f'[[http.tokens]]\nname = "ward"\nsha256 = "{HASH}"\nmay = ["read", "swap"]\n'
    config = config_of(tmp_path, LEAST + text + token)
    assert config.http.tokens[0].may == ("read", "swap")


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read configuration"):
        read_config(tmp_path / "none.toml")
