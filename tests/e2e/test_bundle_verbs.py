"""`edge-mer bundle` as a user meets it: from a key to a signed bundle in one file, and back."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="signatures need cryptography: pip install 'edge-mer[daemon]'")

from edge_mer.bundle.read import SIGNATURE_NAME
from edge_mer.cli.main import main
from tests.helpers.tiny_bundle import stage_path, write_tiny_bundle

PATIENCE_S = 30


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bundle, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    write_tiny_bundle(tmp_path / "bundle")
    return tmp_path


def edge_mer(*words: str) -> int:
    return main(["bundle", *words])


def test_from_a_key_to_a_device(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edge_mer("keygen", "lab.key") == 0
    assert edge_mer("sign", "bundle", "--key", "lab.key", "--signer", "Lab 3") == 0
    assert edge_mer("inspect", "bundle") == 0
    assert edge_mer("pack", "bundle", "--out", "bundle.tar") == 0
    assert edge_mer("unpack", "bundle.tar", "--out", "there") == 0
    capsys.readouterr()
    assert edge_mer("check-signature", "there", "--trusted", "lab.pub") == 0
    assert "signed by Lab 3, key lab.pub" in capsys.readouterr().out


def test_inspect_says_whether_there_is_a_signature_and_not_that_it_is_right(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edge_mer("inspect", "bundle")
    assert "Signature: none" in capsys.readouterr().out
    edge_mer("keygen", "lab.key")
    edge_mer("sign", "bundle", "--key", "lab.key")
    capsys.readouterr()
    edge_mer("inspect", "bundle")
    assert "Signature: says key" in capsys.readouterr().out


def test_what_is_not_trusted_ends_with_three(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edge_mer("keygen", "lab.key")
    edge_mer("keygen", "other.key")
    assert edge_mer("check-signature", "bundle", "--trusted", "lab.pub") == 3
    assert "is not signed" in capsys.readouterr().err
    edge_mer("sign", "bundle", "--key", "other.key")
    assert edge_mer("check-signature", "bundle", "--trusted", "lab.pub") == 3
    assert "not trusted" in capsys.readouterr().err
    assert edge_mer("check-signature", "bundle", "--trusted", "lab.pub", "--trusted", "other.pub") == 0
    (here / "bundle" / stage_path("audio")).write_bytes(b"x")
    assert edge_mer("check-signature", "bundle", "--trusted", "other.pub") == 3
    assert "was altered" in capsys.readouterr().err


def test_usage_errors_end_with_two(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edge_mer("keygen", "lab.key")
    for words in (
        ("keygen", "lab.key"),
        ("sign", "bundle", "--key", "missing.key"),
        ("sign", "bundle", "--key", "lab.pub"),
        ("check-signature", "bundle", "--trusted", "missing.pub"),
        ("check-signature", "bundle"),
        ("pack", "bundle", "--out", "lab.key"),
        ("unpack", "missing.tar", "--out", "there"),
        ("frobnicate",),
    ):
        assert edge_mer(*words) == 2, words
    assert not (here / "bundle" / SIGNATURE_NAME).exists()
    assert "internal error" not in capsys.readouterr().err


def test_a_bundle_that_is_not_whole_is_not_left_unpacked(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bundle" / stage_path("audio")).write_bytes(b"x")
    subprocess.run(["tar", "-C", "bundle", "-cf", "bundle.tar", "."], check=True)
    assert edge_mer("unpack", "bundle.tar", "--out", "there") == 3
    assert "was altered" in capsys.readouterr().err
    assert not (here / "there").exists()


def test_a_passphrase_comes_from_a_file_or_a_terminal(here: Path) -> None:
    (here / "passphrase").touch(mode=0o600)
    (here / "passphrase").write_text("open sesame\n", encoding="utf-8")
    assert edge_mer("keygen", "lab.key", "--passphrase-file", "passphrase") == 0
    assert b"ENCRYPTED" in (here / "lab.key").read_bytes()
    assert edge_mer("sign", "bundle", "--key", "lab.key", "--passphrase-file", "passphrase") == 0
    assert typed("sign", "bundle", "--key", "lab.key", "--replace", keys=b"open sesame\n") == (
        0,
        "is signed",
    )
    assert typed("sign", "bundle", "--key", "lab.key", "--replace", keys=b"wrong\n")[0] == 2
    assert typed("sign", "bundle", "--key", "lab.key", "--replace", keys=b"\x03")[0] == 130


def typed(*words: str, keys: bytes) -> tuple[int, str]:
    """Exit code, and whether it was signed, of a command with a terminal on which somebody types."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edge_mer.cli.main", "bundle", *words]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=_own_terminal
    )
    os.close(theirs)
    try:
        shown = _shown(ours, until=b"lab.key: ")  # what is typed before the space is thrown away
        os.write(ours, keys)
        shown += _shown(ours)
        code = process.wait(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"open sesame" not in shown
    return code, "is signed" if b"is signed" in shown else ""


def _shown(terminal: int, until: bytes | None = None) -> bytes:
    """What a terminal shows, up to something or to its end."""
    shown = b""
    while until is None or until not in shown:
        assert select.select([terminal], [], [], PATIENCE_S)[0], shown
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    return shown


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_without_a_terminal_nobody_is_asked(here: Path) -> None:
    (here / "passphrase").touch(mode=0o600)
    (here / "passphrase").write_text("open sesame", encoding="utf-8")
    edge_mer("keygen", "lab.key", "--passphrase-file", "passphrase")
    command = [sys.executable, "-m", "edge_mer.cli.main", "bundle"]
    for words in (["sign", "bundle", "--key", "lab.key"], ["keygen", "new.key", "--passphrase"]):
        done = subprocess.run(
            [*command, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "--passphrase-file" in done.stderr
    assert not (here / "new.pub").exists()
