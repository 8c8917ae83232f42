"""A certificate authority for the servers of tests."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

_SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "twin server")])


@dataclass
class TwinCa:
    """A P-256 certificate authority for test servers."""

    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @cached_property
    def certificate(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "twin CA")])
        return (
            _builder(name, name, self.key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, folder: Path, *hosts: str) -> Path:
        """A PEM file with key and certificate for these hosts."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            # stock proxy.py, an attacks run's other side, copies the subject and fails on none
            _builder(_SUBJECT, self.certificate.subject, key)
            .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), True)  # noqa: FBT003
            .sign(self.key, hashes.SHA256())
        )
        path = folder / f"{hashlib.sha256(repr(hosts).encode()).hexdigest()[:12]}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    start = dt.datetime.now(tz=dt.UTC) - dt.timedelta(hours=1)  # noqa: TID251  a real clock
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=2))
    )
