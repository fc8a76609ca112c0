"""Signs a bundle, and says who signed one: Ed25519 over its identity, which stands for every byte of it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError, field_validator

from edge_mer.bundle.keys import TrustedKey, key_id_of, require_cryptography
from edge_mer.bundle.manifest import pretty
from edge_mer.bundle.read import SIGNATURE_NAME, Bundle
from edge_mer.errors import BundleError, UsageError
from edge_mer.types.model import Declared

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_DOMAIN = b"edge-mer bundle signature\n"
_UTC = "%Y-%m-%dT%H:%M:%SZ"
_MAX_NAME = 100


class Statement(Declared):
    """What a signer says; every field is signed.

    Attributes:
        format_version: Of this file.
        algorithm: Of the signature.
        key_id: Of the public key that fits.
        bundle_id: Of the bundle that was signed.
        signer: A name that the signer chose; proves nothing by itself.
        signed_utc: When, by the signer's clock.
    """

    format_version: Literal[1] = 1
    algorithm: Literal["ed25519"] = "ed25519"
    key_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    bundle_id: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    signer: str | None = Field(default=None, min_length=1, max_length=_MAX_NAME)
    signed_utc: str

    @field_validator("signer")
    @classmethod
    def _is_printable(cls, value: str | None) -> str | None:
        if value is not None and (not value.isprintable() or value != value.strip()):
            raise ValueError("a name of printable characters, without spaces around it")
        return value

    @field_validator("signed_utc")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        if datetime.strptime(value, _UTC).strftime(_UTC) != value:
            raise ValueError("a time such as 2026-01-31T12:00:00Z")
        return value

    def message(self) -> bytes:
        """The bytes that are signed; their first line keeps them from meaning anything elsewhere."""
        fields = self.model_dump(mode="json", exclude_none=True, include=set(Statement.model_fields))
        return _DOMAIN + json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


class Signature(Statement):
    """`signature.json`: a statement, and the signature over it as hexadecimal digits."""

    signature: str = Field(pattern=r"^[0-9a-f]{128}$")

    def file_text(self) -> bytes:
        """What `signature.json` holds."""
        return pretty(self.model_dump(mode="json", exclude_none=True))


@dataclass(frozen=True)
class Signer:
    """Who signed a bundle, once that is proven.

    Attributes:
        key: The trusted key that fits.
        name: The name that the signer chose; None if none was given.
        signed_utc: When, by the signer's clock: "2026-01-31T12:00:00Z".
    """

    key: TrustedKey
    name: str | None
    signed_utc: str

    def __str__(self) -> str:
        name = "" if self.name is None else f"{self.name}, "
        return f"{name}key {self.key}, {self.signed_utc}"


def sign_bundle(
    bundle: Bundle, key: Ed25519PrivateKey, utc: datetime, name: str | None = None, *, replace: bool = False
) -> Signature:
    """Hash every file, then write `signature.json` in one step.

    Args:
        bundle: What is signed.
        key: The signer's private key.
        utc: The time that the signature bears.
        name: Who signs, in up to 100 printable characters.
        replace: Whether a signature that is there may be replaced.

    Raises:
        BundleError: A file of the bundle was altered or is not listed: it is not worth a signature.
        UsageError: It is signed already, the name cannot be used, or the folder cannot be written to.
    """
    bundle.check_files()
    if not replace and bundle.read_signature() is not None:
        raise UsageError(f"bundle {bundle.path} is signed already", hint="add --replace to sign it anew")
    try:
        statement = Statement(
            key_id=key_id_of(key.public_key()),
            bundle_id=bundle.bundle_id,
            signer=name,
            signed_utc=utc.strftime(_UTC),
        )
    except ValidationError as error:
        raise UsageError(
            "this name cannot stand in a signature",
            expected=f"1 to {_MAX_NAME} printable characters, without spaces around them",
            found=repr(name),
        ) from error
    signature = Signature(**statement.model_dump(), signature=key.sign(statement.message()).hex())
    _write(bundle.path / SIGNATURE_NAME, signature.file_text())
    return signature


def _write(path: Path, data: bytes) -> None:
    try:
        file, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path}", found=error.strerror) from error
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(file, 0o644)
            os.fsync(file)
        Path(temporary).replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()


def read_signature(bundle: Bundle) -> Signature | None:
    """What `signature.json` says, believed by nobody yet; None where the bundle is unsigned.

    Raises:
        BundleError: It is no such file as `sign_bundle` writes.
    """
    data = bundle.read_signature()
    if data is None:
        return None
    try:
        signature = Signature.model_validate(json.loads(data))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3]]
        raise _broken(bundle, "; ".join(problems)) from error
    except (ValueError, RecursionError) as error:
        raise _broken(bundle, str(error)) from error
    if data != signature.file_text():
        raise _broken(bundle, "it is not as edge-mer writes it")
    return signature


def _broken(bundle: Bundle, found: str) -> BundleError:
    return BundleError(
        f"bundle {bundle.path}: {SIGNATURE_NAME} is broken",
        expected="what edge-mer bundle sign wrote",
        found=found,
        hint="copy the bundle again from where it was signed",
    )


def verify_signature(bundle: Bundle, trusted: Sequence[TrustedKey]) -> Signer:
    """Who signed a bundle.

    It speaks for the manifest as `bundle` holds it, and thereby for every file that is read through it.

    Args:
        bundle: An opened bundle.
        trusted: The only keys that count (`keys.read_trusted_keys`).

    Raises:
        BundleError: Unsigned, signed with a key that is not trusted, a wrong signature, or one of another
            bundle.
        MissingError: The package `cryptography` is not installed.
    """
    require_cryptography()
    from cryptography.exceptions import InvalidSignature

    names = ", ".join(map(str, trusted)) or "none is trusted here"
    signature = read_signature(bundle)
    if signature is None:
        raise _refused(bundle, "is not signed", f"a signature by one of these keys: {names}", "none")
    key = next((one for one in trusted if one.key_id == signature.key_id), None)
    if key is None:
        raise _refused(bundle, "is signed with a key that is not trusted", names, f"key {signature.key_id}")
    try:
        key.key.verify(bytes.fromhex(signature.signature), signature.message())
    except InvalidSignature as error:
        raise _refused(
            bundle, "has a wrong signature", f"one by {key}", "one that does not fit that key"
        ) from error
    if signature.bundle_id != bundle.bundle_id:
        raise _refused(
            bundle,
            "was altered after it was signed, or has the signature of another",
            f"{signature.bundle_id[:23]}…, which {key} signed",
            f"{bundle.bundle_id[:23]}…",
        )
    return Signer(key, signature.signer, signature.signed_utc)


def _refused(bundle: Bundle, what: str, expected: str, found: str) -> BundleError:
    return BundleError(
        f"bundle {bundle.path} {what}",
        expected=expected,
        found=found,
        hint="have it signed with edge-mer bundle sign by somebody whose key is trusted here",
    )
