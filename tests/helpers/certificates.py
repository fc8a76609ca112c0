"""An authority of a test's own, and a certificate that it gave."""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def write_certificates(folder: Path, host: str, address: str, *, days: float = 1) -> Path:
    """Write `cert.pem` and `key.pem` for a name and an address, good for so many days from now on.

    Returns:
        The authority's own certificate, whom a client has to trust.
    """
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    is_authority = x509.BasicConstraints(ca=True, path_length=0)
    own = _certificate("ward", authority, "ward", authority).add_extension(is_authority, critical=True)
    signs = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    own = own.add_extension(signs, critical=True)
    names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ipaddress.ip_address(address))])
    given = _certificate(host, key, "ward", authority, days).add_extension(names, critical=False)
    for name, builder in (("authority.pem", own), ("cert.pem", given)):
        signed = builder.sign(authority, hashes.SHA256())
        (folder / name).write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "authority.pem"


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuers_key: ec.EllipticCurvePrivateKey,
    days: float = 1,
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    since, until = sorted((now - timedelta(minutes=5), now + timedelta(days=days)))
    return (
        x509.CertificateBuilder(_name(issuer), _name(subject), key.public_key(), x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuers_key.public_key()), critical=False
        )
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
