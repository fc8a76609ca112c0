"""Keys that bundles are signed with: Ed25519, as PEM files. A private key is read only if nobody else can."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_mer.errors import MissingError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_KEY_BYTES = 16 << 10
MAX_PASSPHRASE_BYTES = 1 << 10
PUBLIC_SUFFIX = ".pub"


@dataclass(frozen=True)
class TrustedKey:
    """A public key that somebody chose to trust.

    Attributes:
        path: The file it came from.
        key_id: What signatures call it.
        key: The key.
    """

    path: Path
    key_id: str
    key: Ed25519PublicKey

    def __str__(self) -> str:
        return f"{self.path} ({self.key_id})"


def require_cryptography() -> None:
    """Say what is missing before anything is begun.

    Raises:
        MissingError: The package `cryptography` is not installed.
    """
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingError(
            "signatures need the package cryptography",
            found=f"no module {error.name}",
            hint="pip install 'edge-mer[daemon]'",
        ) from error


def key_id_of(key: Ed25519PublicKey) -> str:
    """Half of the sha256 of the key's 32 bytes, as 32 hexadecimal digits."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]


def write_key_pair(path: Path, passphrase: bytes | None = None) -> TrustedKey:
    """Make a new key pair.

    Args:
        path: The private key's file; the public one lies beside it and ends in `.pub`.
        passphrase: What the private key is encrypted with; None leaves it plain.

    Returns:
        The public half.

    Raises:
        UsageError: One of the files is there already, or cannot be written.
        MissingError: The package `cryptography` is not installed.
    """
    require_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public_path = path.with_suffix(PUBLIC_SUFFIX)
    if path == public_path:
        raise UsageError(
            f"{path} is the name of a public key", expected="a name for the private one, e.g. lab.key"
        )
    private = Ed25519PrivateKey.generate()
    encryption = (
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase)
    )
    private_pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    public_pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write_new(public_path, public_pem, 0o644)
    try:
        _write_new(path, private_pem, 0o600)
    except BaseException:
        public_path.unlink()
        raise
    return TrustedKey(public_path, key_id_of(private.public_key()), private.public_key())


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists already", hint="give another name; a key is never replaced"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot write {path}", found=error.strerror) from error
    with os.fdopen(file, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(file)


def read_private_key(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """A private key that nobody but its owner can read.

    Raises:
        UsageError: No such file, others can read it, no Ed25519 key in it, or a wrong passphrase.
        MissingError: The package `cryptography` is not installed.
    """
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_secret(path, MAX_KEY_BYTES)
    try:
        key = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{path} cannot be read as a private key",
            expected="a PEM file that edge-mer bundle keygen wrote, and its passphrase if it has one",
            found=str(error),
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is not a key for signing bundles", expected="an Ed25519 key")
    return key


def is_encrypted(path: Path) -> bool:
    """Whether a private key asks for a passphrase.

    Raises:
        UsageError: No such file, or others can read it.
    """
    return b"BEGIN ENCRYPTED PRIVATE KEY" in read_secret(path, MAX_KEY_BYTES)


def read_passphrase(path: Path) -> bytes:
    """The first and only line of a file that nobody but its owner can read.

    Raises:
        UsageError: No such file, others can read it, or it is not one line.
    """
    data = read_secret(path, MAX_PASSPHRASE_BYTES).removesuffix(b"\n")
    if not data or b"\n" in data:
        raise UsageError(f"{path} holds no passphrase", expected="one line")
    return data


def read_secret(path: Path, max_bytes: int) -> bytes:
    """A file that only its owner can read.

    Raises:
        UsageError: No such file, not a plain one, too long, or others can read it.
    """
    data, mode = _read_bounded(path, max_bytes)
    if mode & 0o077:
        raise UsageError(
            f"others can read {path}",
            expected="mode 600",
            found=f"mode {mode:o}",
            hint=f"chmod 600 {path}; if others had it meanwhile, make a new key",
        )
    return data


def read_trusted_keys(paths: Sequence[Path]) -> tuple[TrustedKey, ...]:
    """The public keys in these files, each of which must hold exactly one.

    Raises:
        UsageError: A file that is missing, that everybody may write to, or that holds no public Ed25519
            key, or several; the same key twice.
        MissingError: The package `cryptography` is not installed.
    """
    require_cryptography()
    keys: dict[str, TrustedKey] = {}
    for path in paths:
        key = _read_public_key(path)
        if key.key_id in keys:
            raise UsageError(
                f"{path} holds the same key as {keys[key.key_id].path}",
                hint="name each trusted key once",
            )
        keys[key.key_id] = key
    return tuple(keys.values())


def _read_public_key(path: Path) -> TrustedKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data, mode = _read_bounded(path, MAX_KEY_BYTES)
    expected = "one public Ed25519 key as PEM, as edge-mer bundle keygen writes it"
    if mode & 0o002:
        raise UsageError(f"everybody can change {path}", found=f"mode {mode:o}", hint=f"chmod 644 {path}")
    if b"PRIVATE KEY" in data:
        raise UsageError(
            f"{path} is a private key",
            expected=expected,
            hint=f"name the {PUBLIC_SUFFIX} file, and keep private keys off the device",
        )
    if (n_keys := data.count(b"-----BEGIN")) != 1:
        raise UsageError(
            f"cannot trust {path}",
            expected=expected,
            found=f"{n_keys} of them",
            hint="one key per file, so that none is overlooked",
        )
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"cannot trust {path}", expected=expected, found=str(error)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"cannot trust {path}", expected=expected, found="a key of another kind")
    return TrustedKey(path, key_id_of(key), key)


def _read_bounded(path: Path, max_bytes: int) -> tuple[bytes, int]:
    """Content and permissions of a plain file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"cannot read {path}", found=error.strerror) from error
    try:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode) or state.st_size > max_bytes:
            raise UsageError(
                f"cannot read {path}",
                expected=f"a plain file of at most {max_bytes} bytes",
                found=f"{stat.filemode(state.st_mode)}, {state.st_size} bytes",
            )
        with os.fdopen(file, "rb", closefd=False) as stream:
            return stream.read(max_bytes), stat.S_IMODE(state.st_mode)
    finally:
        os.close(file)
