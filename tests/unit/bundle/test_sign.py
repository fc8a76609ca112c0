"""Signatures of bundles: they prove who signed, and nothing that was changed passes for it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cryptography", reason="signatures need cryptography: pip install 'edge-mer[daemon]'")

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from edge_mer.bundle.keys import (
    TrustedKey,
    is_encrypted,
    key_id_of,
    read_passphrase,
    read_private_key,
    read_trusted_keys,
    write_key_pair,
)
from edge_mer.bundle.manifest import pretty
from edge_mer.bundle.read import SIGNATURE_NAME, open_bundle
from edge_mer.bundle.sign import Signature, read_signature, sign_bundle, verify_signature
from edge_mer.bundle.write import write_bundle
from edge_mer.errors import BundleError, UsageError
from tests.helpers.tiny_bundle import stage_path, tiny_files, tiny_manifest, write_tiny_bundle
from tests.helpers.tiny_model import tiny_model

UTC = datetime(2026, 1, 31, 12, 30, 1, 999, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a private key."""
    path = tmp_path_factory.mktemp("keys") / "lab.key"
    write_key_pair(path)
    return path


@pytest.fixture(scope="module")
def trusted(lab: Path) -> tuple[TrustedKey, ...]:
    return read_trusted_keys([lab.with_suffix(".pub")])


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def signed(bundle_folder: Path, lab: Path) -> Path:
    sign_bundle(open_bundle(bundle_folder), read_private_key(lab), UTC, "Lab 3")
    return bundle_folder


def refused(folder: Path, keys: tuple[TrustedKey, ...]) -> str:
    with pytest.raises(BundleError) as caught:
        verify_signature(open_bundle(folder), keys)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def content(folder: Path) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((folder / SIGNATURE_NAME).read_bytes())
    return raw


def put(folder: Path, raw: dict[str, Any]) -> None:
    (folder / SIGNATURE_NAME).write_bytes(pretty(raw))


# -- signing and verifying ------------------------------------------------------------------------


def test_a_signature_says_who_and_when(signed: Path, trusted: tuple[TrustedKey, ...]) -> None:
    signer = verify_signature(open_bundle(signed), trusted)
    assert (signer.key, signer.name, signer.signed_utc) == (trusted[0], "Lab 3", "2026-01-31T12:30:01Z")
    assert str(signer) == f"Lab 3, key {trusted[0].path} ({trusted[0].key_id}), 2026-01-31T12:30:01Z"


def test_openssl_finds_the_signature_right_as_the_page_shows(signed: Path, lab: Path, tmp_path: Path) -> None:
    """As anyone can check without this program."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the system package openssl")
    page = (Path(__file__).parents[3] / "docs" / "how-to-sign.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    shutil.copy(lab.with_suffix(".pub"), tmp_path)

    def check() -> int:
        run = [sys.executable, "-c", code]
        return subprocess.run(run, cwd=tmp_path, capture_output=True, check=False).returncode

    assert check() == 0
    put(signed, {**content(signed), "signer": "Lab 4"})
    assert check() == 1


def test_the_right_key_is_found_among_several(signed: Path, lab: Path, tmp_path: Path) -> None:
    write_key_pair(tmp_path / "other.key")
    paths = [tmp_path / "other.pub", lab.with_suffix(".pub")]
    for order in (paths, paths[::-1]):
        assert verify_signature(open_bundle(signed), read_trusted_keys(order)).key.path == paths[1]


def test_a_signed_bundle_is_a_bundle_and_keeps_its_identity(bundle_folder: Path, lab: Path) -> None:
    before = open_bundle(bundle_folder).bundle_id
    sign_bundle(open_bundle(bundle_folder), read_private_key(lab), UTC)
    assert open_bundle(bundle_folder).bundle_id == before
    assert open_bundle(bundle_folder).check_files() == len(tiny_files())
    assert (bundle_folder / SIGNATURE_NAME).stat().st_mode & 0o777 == 0o644


def test_an_unsigned_bundle_is_refused_with_the_keys_that_count(
    bundle_folder: Path, trusted: tuple[TrustedKey, ...]
) -> None:
    message = refused(bundle_folder, trusted)
    assert "is not signed" in message
    assert trusted[0].key_id in message
    assert "bundle sign" in message


def test_a_key_that_is_not_trusted_is_named(
    signed: Path, trusted: tuple[TrustedKey, ...], tmp_path: Path
) -> None:
    stranger = write_key_pair(tmp_path / "stranger.key")
    message = refused(signed, (stranger,))
    assert "not trusted" in message
    assert f"Expected: {stranger}" in message
    assert f"Found: key {trusted[0].key_id}" in message
    assert "none is trusted here" in refused(signed, ())


def test_a_forger_who_uses_the_id_of_a_trusted_key_is_refused(
    signed: Path, trusted: tuple[TrustedKey, ...]
) -> None:
    raw = content(signed)
    statement = Signature(**raw)
    put(signed, {**raw, "signature": ed25519.Ed25519PrivateKey.generate().sign(statement.message()).hex()})
    assert "wrong signature" in refused(signed, trusted)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("signer", "Lab 4"),
        ("signer", None),
        ("signed_utc", "2026-01-31T12:30:02Z"),
        ("bundle_id", "sha256:" + "0" * 64),
        ("signature", "0" * 128),
    ],
)
def test_every_field_is_signed(
    signed: Path, trusted: tuple[TrustedKey, ...], field: str, value: str | None
) -> None:
    raw = {**content(signed), field: value}
    put(signed, {key: one for key, one in raw.items() if one is not None})
    assert "wrong signature" in refused(signed, trusted)


def test_the_signature_of_another_bundle_is_refused(
    signed: Path, trusted: tuple[TrustedKey, ...], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "x").mkdir(parents=True)
    write_other_bundle(other / "x")
    shutil.copy(signed / SIGNATURE_NAME, other / "x")
    assert "signature of another" in refused(other / "x", trusted)


def write_other_bundle(folder: Path) -> None:
    model = tiny_model().model_copy(update={"title": "Another model"})
    write_bundle(folder, tiny_files(), lambda files: tiny_manifest(files, model), replace=True)


def test_a_manifest_that_a_forger_altered_is_refused(signed: Path, trusted: tuple[TrustedKey, ...]) -> None:
    """With an identity that agrees, it is a whole bundle; only the signature gives it away."""
    kept = (signed / SIGNATURE_NAME).read_bytes()
    write_other_bundle(signed)
    (signed / SIGNATURE_NAME).write_bytes(kept)
    open_bundle(signed).check_files()
    assert "altered after it was signed" in refused(signed, trusted)


def test_a_file_that_was_altered_is_refused_when_it_is_read(
    signed: Path, trusted: tuple[TrustedKey, ...]
) -> None:
    path = signed / stage_path("visual")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    bundle = open_bundle(signed)
    verify_signature(bundle, trusted)
    with pytest.raises(BundleError, match="was altered"):
        bundle.check_files()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: b"[]",
        lambda data: b"null",
        lambda data: b"{",
        lambda data: b"\xff",
        lambda data: b"[" * 4000,
        lambda data: data[:-1],
        lambda data: data + b" ",
        lambda data: data.replace(b'"format_version": 1', b'"format_version": 2'),
        lambda data: data.replace(b'"format_version": 1', b'"format_version": true'),
        lambda data: data.replace(b'"format_version": 1', b'"format_version": 1.0'),
        lambda data: data.replace(b'"ed25519"', b'"none"'),
        lambda data: data.replace(b'"algorithm"', b'"algorithm": "ed25519",\n "algorithm"'),
        lambda data: data.replace(b'"algorithm"', b'"more": 1,\n "algorithm"'),
        lambda data: data.replace(b"Lab 3", b"Lab\\u001b[2J"),
        lambda data: data.replace(b"Lab 3", b" "),
        lambda data: data.replace(b"Lab 3", b"x" * 101),
        lambda data: data.replace(b"2026-01-31", b"2026-02-31"),
        lambda data: data.replace(b"2026-01-31", b"2026-1-31"),
    ],
)
def test_a_signature_file_that_nobody_could_have_written_is_refused(
    signed: Path, trusted: tuple[TrustedKey, ...], spoil: Callable[[bytes], bytes]
) -> None:
    path = signed / SIGNATURE_NAME
    assert spoil(path.read_bytes()) != path.read_bytes()
    path.write_bytes(spoil(path.read_bytes()))
    assert f"{SIGNATURE_NAME} is broken" in refused(signed, trusted)


def test_a_signature_file_that_is_too_long_or_no_file_is_refused(
    signed: Path, trusted: tuple[TrustedKey, ...], tmp_path: Path
) -> None:
    path = signed / SIGNATURE_NAME
    kept = path.read_bytes()
    path.write_bytes(kept + b" " * (1 << 20))
    assert "at most 4096 bytes" in refused(signed, trusted)
    (tmp_path / "elsewhere").write_bytes(kept)
    for make in (lambda: path.symlink_to(tmp_path / "elsewhere"), path.mkdir, lambda: os.mkfifo(path)):
        path.unlink()
        make()
        assert SIGNATURE_NAME in refused(signed, trusted)
        if path.is_dir():
            path.rmdir()
            path.touch()


@settings(max_examples=200, deadline=2_000)
@given(data=st.data())
def test_no_other_bytes_pass(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, lab: Path, trusted: tuple[TrustedKey, ...]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    if not folder.exists():
        write_tiny_bundle(folder)
        sign_bundle(open_bundle(folder), read_private_key(lab), UTC, "Lab 3")
        shutil.copy(folder / SIGNATURE_NAME, folder.with_suffix(".kept"))
    whole = folder.with_suffix(".kept").read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    piece = data.draw(st.binary(max_size=5))
    length = data.draw(st.integers(0, 5))
    changed = whole[:place] + piece + whole[place + length :]
    (folder / SIGNATURE_NAME).write_bytes(changed)
    if changed == whole:
        verify_signature(open_bundle(folder), trusted)
    else:
        refused(folder, trusted)


# -- when to sign ---------------------------------------------------------------------------------


def test_a_bundle_that_is_not_whole_is_not_signed(bundle_folder: Path, lab: Path) -> None:
    bundle = open_bundle(bundle_folder)
    (bundle_folder / "stranger.txt").write_text("x", encoding="utf-8")
    with pytest.raises(BundleError, match="does not list"):
        sign_bundle(bundle, read_private_key(lab), UTC)
    (bundle_folder / "stranger.txt").unlink()
    (bundle_folder / stage_path("audio")).write_bytes(b"x")
    with pytest.raises(BundleError, match="was altered"):
        sign_bundle(bundle, read_private_key(lab), UTC)
    assert not (bundle_folder / SIGNATURE_NAME).exists()


def test_a_signature_is_not_replaced_unasked(
    signed: Path, lab: Path, trusted: tuple[TrustedKey, ...]
) -> None:
    bundle = open_bundle(signed)
    with pytest.raises(UsageError, match="--replace"):
        sign_bundle(bundle, read_private_key(lab), UTC)
    sign_bundle(bundle, read_private_key(lab), UTC, "Lab 5", replace=True)
    assert verify_signature(bundle, trusted).name == "Lab 5"
    bundle.check_files()


def test_an_error_while_signing_leaves_what_was_there(
    signed: Path, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in signed.rglob("*") if path.is_file()}

    def fail(descriptor: int) -> None:
        raise OSError("no more")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no more"):
        sign_bundle(open_bundle(signed), read_private_key(lab), UTC, replace=True)
    assert {path: path.read_bytes() for path in signed.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "a\nb", "\x1b[2J", " Lab"])
def test_a_name_that_could_not_be_shown_is_not_signed(bundle_folder: Path, lab: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot stand in a signature"):
        sign_bundle(open_bundle(bundle_folder), read_private_key(lab), UTC, name)
    assert not (bundle_folder / SIGNATURE_NAME).exists()


def test_what_is_written_anew_is_unsigned(signed: Path, trusted: tuple[TrustedKey, ...]) -> None:
    """As `calibrate --replace` and `evaluate --out --replace` do it."""
    write_tiny_bundle(signed, replace=True)
    assert read_signature(open_bundle(signed)) is None
    assert "is not signed" in refused(signed, trusted)


# -- keys -----------------------------------------------------------------------------------------


def test_a_private_key_is_for_its_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        key = write_key_pair(tmp_path / "k.key")
    finally:
        os.umask(old)
    assert (tmp_path / "k.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "k.pub").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "k.key").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert key_id_of(read_private_key(tmp_path / "k.key").public_key()) == key.key_id
    assert read_trusted_keys([tmp_path / "k.pub"])[0].key_id == key.key_id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    write_key_pair(tmp_path / "k.key")
    (tmp_path / "k.key").chmod(mode)
    with pytest.raises(UsageError, match=f"others can read .*mode {mode:o}"):
        read_private_key(tmp_path / "k.key")


def test_a_passphrase_is_asked_for_and_checked(tmp_path: Path) -> None:
    write_key_pair(tmp_path / "k.key", b"open sesame")
    write_key_pair(tmp_path / "plain.key")
    assert is_encrypted(tmp_path / "k.key")
    assert not is_encrypted(tmp_path / "plain.key")
    read_private_key(tmp_path / "k.key", b"open sesame")
    for path, passphrase in (("k.key", b"wrong"), ("k.key", None), ("plain.key", b"too much")):
        with pytest.raises(UsageError, match="passphrase"):
            read_private_key(tmp_path / path, passphrase)


def test_a_passphrase_file_is_one_line_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_bytes(b"open sesame \n")
    assert read_passphrase(path) == b"open sesame "
    for wrong in (b"", b"\n", b"a\nb", b"x" * 2000):
        path.write_bytes(wrong)
        with pytest.raises(UsageError, match="passphrase"):
            read_passphrase(path)
    path.write_bytes(b"x")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="others can read"):
        read_passphrase(path)


def test_no_key_is_ever_replaced(tmp_path: Path) -> None:
    write_key_pair(tmp_path / "k.key")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("k.key", "k.pem"):
        with pytest.raises(UsageError, match="exists already"):
            write_key_pair(tmp_path / name)
    (tmp_path / "k.pub").rename(tmp_path / "kept")
    with pytest.raises(UsageError, match=r"k\.key exists already"):
        write_key_pair(tmp_path / "k.key")
    assert not (tmp_path / "k.pub").exists(), "half a pair"
    (tmp_path / "kept").rename(tmp_path / "k.pub")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(UsageError, match="name of a public key"):
        write_key_pair(tmp_path / "new.pub")
    with pytest.raises(UsageError, match="cannot write"):
        write_key_pair(tmp_path / "no" / "new.key")


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def test_no_trusted_key_is_skipped(tmp_path: Path, lab: Path) -> None:
    """Whatever cannot be used is refused, whichever place it has in the list."""
    good = lab.with_suffix(".pub")
    pem = good.read_bytes()
    large = rsa.generate_private_key(65537, 2048)
    wrong = {
        "empty": (b"", "0 of them"),
        "two": (pem + public_pem(ed25519.Ed25519PrivateKey.generate().public_key()), "2 of them"),
        "private": (lab.read_bytes(), "is a private key"),
        "rsa": (public_pem(large.public_key()), "another kind"),
        "cut": (pem[:60], "cannot trust"),
        "text": (b"ssh-ed25519 AAAA", "0 of them"),
        "long": (pem + b" " * 20_000, "at most 16384"),
        "same": (pem, "the same key"),
    }
    for name, (data, message) in wrong.items():
        path = tmp_path / name
        path.write_bytes(data)
        for order in ([good, path], [path, good]):
            with pytest.raises(UsageError, match=message):
                read_trusted_keys(order)
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError, match="cannot read"):
            read_trusted_keys([good, path])


def test_a_trusted_key_that_everybody_can_change_is_refused(tmp_path: Path, lab: Path) -> None:
    path = Path(shutil.copy(lab.with_suffix(".pub"), tmp_path))
    path.chmod(0o666)
    with pytest.raises(UsageError, match="everybody can change"):
        read_trusted_keys([path])


def test_a_key_of_another_kind_signs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rsa.key"
    path.touch(mode=0o600)
    key = rsa.generate_private_key(65537, 2048)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(UsageError, match="Ed25519"):
        read_private_key(path)


@settings(max_examples=200, deadline=2_000)
@given(data=st.binary(max_size=300), place=st.integers(0, 100))
def test_random_key_files_never_raise_anything_else(
    data: bytes, place: int, tmp_path_factory: pytest.TempPathFactory, lab: Path
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.key"
    path.touch(mode=0o600)
    for source in (lab, lab.with_suffix(".pub")):
        whole = source.read_bytes()
        path.write_bytes(whole[:place] + data + whole[place + len(data) :])
        with contextlib.suppress(UsageError):
            read_private_key(path)
        with contextlib.suppress(UsageError):
            read_trusted_keys([path])


def test_without_cryptography_the_package_is_named(bundle_folder: Path) -> None:
    code = f"""
import sys
sys.modules["cryptography"] = None
from pathlib import Path
from edge_mer.bundle.read import open_bundle
from edge_mer.bundle.sign import verify_signature
try:
    verify_signature(open_bundle(Path({str(bundle_folder)!r})), ())
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingError")
    assert "pip install 'edge-mer[daemon]'" in done.stdout
